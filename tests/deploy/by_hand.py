"""A compose project without containers: the same processes with the same environment, from the same file.

What a container would give them is put in place of it: a service's name and its ports become ports of 127.0.0.1, and what
is mounted becomes a path of this machine. Of images that are not built here the entry point is stood in for, which makes
PostgreSQL's cluster. Nothing else is known of any service here.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from deploy.compose_file import ROOT, after, mounts, stages
from guarantee.chaos.postgres import binaries

from worker.broker import free_port

BIN = Path(sys.executable).parent
WAIT_S = 150.0
# The ports that each service listens on: what the compose file's own texts name, and nothing is made up here.
_ADDRESS = re.compile(r"\b({names}):(\d{{2,5}})\b")
_TEMPLATE = re.compile(r"^(\s*)server-template (\S+) \d+ (\w+):(\d+) (.*?) resolvers \S+ init-addr none$", re.MULTILINE)


class Failed(AssertionError):
    """A process or a health check did not do what it should; with the end of its log."""


class ByHand:
    """The services of one project, in a folder that every user may enter."""

    def __init__(self, project: Mapping[str, Any], folder: Path, *, ports: Mapping[str, Sequence[int]]) -> None:
        """``ports``: on which ports each service listens in its container."""
        self.services: Mapping[str, Mapping[str, Any]] = project["services"]
        self.folder = folder
        self._project = project
        self._stages = stages(folder)
        self._address = re.compile(_ADDRESS.pattern.format(names="|".join(self.services)))
        self._replicas = {name: each.get("deploy", {}).get("replicas", 1) for name, each in self.services.items()}
        self._ports = {
            (name, number, port): free_port()
            for name, listened in ports.items()
            for number in range(self._replicas[name])
            for port in listened
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run([ROOT / "deploy" / "make-secrets.sh", folder / "secrets"], check=True, capture_output=True)
        (folder / "secrets").chmod(0o755)  # below it the folder is the test's; PostgreSQL's user must get through

    # What is asked

    def port(self, service: str, port: int, replica: int = 0) -> int:
        """Where that port of the service is on this machine."""
        return self._ports[service, replica, port]

    def published(self) -> set[tuple[str, int]]:
        """Which ports of which services the project shows to the outside."""
        return {
            (name, int(each.split(":")[-1]))
            for name, service in self.services.items()
            for each in service.get("ports", ())
        }

    def secret(self, name: str) -> str:
        """What the file of a secret holds."""
        return (self.folder / "secrets" / name).read_text()

    def path(self, service: str, place: str) -> Path:
        """Where a place of its container is on this machine."""
        return Path(self._places(service, 0)[place])

    def log(self, process: str) -> Path:
        """What it said."""
        return self.folder / f"{process}.log"

    # Life

    def up(self, names: Sequence[str] = (), *, unseen: Sequence[str] = ()) -> None:
        """Start the services, each after what it waits for, as ``docker compose up --wait`` does; those that are
        ``unseen`` are not waited for."""
        names = list(names or self.services)
        done: set[str] = set()
        with ThreadPoolExecutor(len(names)) as pool:
            while left := [name for name in names if name not in done]:
                ready = [name for name in left if {*after(self.services[name])} & {*names} <= done]
                assert ready, f"{left} wait for each other"
                for name in ready:
                    self._start(name)
                list(pool.map(self.wait, [name for name in ready if name not in unseen]))
                done |= {*ready}

    def wait(self, name: str) -> None:
        """Until it is well: its health check passes, or it ended well if it has none."""
        check = self.services[name].get("healthcheck")
        pause_s = float(check["start_interval"].removesuffix("s")) if check else 0.1
        for number in range(self._replicas[name]):
            process = self.processes[f"{name}-{number}"]
            deadline = time.monotonic() + WAIT_S
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended = process.wait(pause_s)
                    if check or ended != 0:
                        raise Failed(f"{name} ended with status {ended}:\n{self._tail(name, number)}")
                    return
                if check and (said := self.health(name, number)).returncode == 0:
                    break
                if time.monotonic() > deadline:
                    raise Failed(
                        f"{name} is not well in time:\n{said.stderr if check else ''}{self._tail(name, number)}"
                    )

    def health(self, name: str, number: int = 0) -> subprocess.CompletedProcess[str]:
        """Run its health check once."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return subprocess.run(
            [self._local(word, name, number) for word in command], env=self._environment(name, number),
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``docker compose run --rm NAME ARGUMENTS``."""
        command = [*self._entrypoint(name), *arguments]
        return subprocess.run(
            command, env=self._environment(name, 0), cwd=self.folder, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    def stop(self, *names: str) -> list[int]:
        """Each one's own stop signal, and what each ended with."""
        found = [
            (name, each) for name in names for key, each in self.processes.items() if key.rpartition("-")[0] == name
        ]
        for name, process in found:
            process.send_signal(getattr(signal, self.services[name].get("stop_signal", "SIGTERM")))
        return [process.wait(120) for _, process in found]

    def start_again(self, *names: str) -> None:
        """Start those replicas that have ended, and wait until they are well."""
        for name in names:
            for number in range(self._replicas[name]):
                if self.processes[f"{name}-{number}"].poll() is not None:
                    self._start_one(name, number)
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(self.wait, names))

    def close(self) -> None:
        """End every process with all that it started, also what has left its group: machines, and Erlang's own daemon."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait(30)
        mark = os.fsencode(f"{self.folder}/")
        for each in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                about = b"".join(Path(f"/proc/{each.pid}/{part}").read_bytes() for part in ("cmdline", "environ"))
                if mark in about and each.pid != os.getpid():
                    each.kill()

    # How

    def _start(self, name: str) -> None:
        for number in range(self._replicas[name]):
            self._start_one(name, number)

    def _start_one(self, name: str, number: int) -> None:
        self._mount(name, number)
        environment = self._environment(name, number)
        command = [*self._entrypoint(name), *(self._local(str(w), name, number) for w in self._command(name))]
        if command[0] == "postgres":
            command = _cluster(command, environment, self._ports[name, number, 5432])
        with self.log(f"{name}-{number}").open("ab") as log:
            self.processes[f"{name}-{number}"] = subprocess.Popen(
                command, env=environment, cwd="/" if command[0] == "setpriv" else self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _command(self, name: str) -> list[str]:
        command = self.services[name].get("command", [])
        return shlex.split(command) if isinstance(command, str) else command

    def _stage(self, name: str) -> list[tuple[str, str]]:
        return self._stages[self.services[name]["build"]["target"]] if "build" in self.services[name] else []

    def _entrypoint(self, name: str) -> list[str]:
        found = [value for instruction, value in self._stage(name) if instruction == "ENTRYPOINT"]
        return json.loads(found[-1]) if found else []

    def _environment(self, name: str, number: int) -> dict[str, str]:
        given: dict[str, str] = {}
        for instruction, value in self._stage(name):
            if instruction == "ENV":
                given |= dict(pair.split("=", 1) for pair in shlex.split(value))
        given |= {key: str(value) for key, value in self.services[name].get("environment", {}).items()}
        given.pop("PATH", None)
        local = {key: self._local(value, name, number) for key, value in given.items()}
        home = str(self.folder / "home" / name)
        Path(home).mkdir(parents=True, exist_ok=True)
        paths = [str(BIN), "/usr/lib/rabbitmq/bin", os.environ["PATH"], "/usr/sbin", "/sbin", str(binaries())]
        return {"PATH": os.pathsep.join(paths), "HOME": home, "TMPDIR": self._places(name, number)["/tmp"], **local}  # noqa: S108

    def _places(self, name: str, number: int) -> dict[str, str]:
        """Each mounted place, and /tmp, to its path here."""
        own = {
            "volume": self.folder / "volumes",
            "secret": self.folder,
            "tmpfs": self.folder / "tmp" / f"{name}-{number}",
            "config": self.folder / "configs" / f"{name}-{number}",
        }
        places = {"/tmp": str(own["tmpfs"] / "tmp")}  # noqa: S108
        for kind, source, place in mounts(self._project, self.services[name]):
            places[place] = str(own[kind] / (source if kind in ("volume", "secret") else place.lstrip("/")))
        return places

    def _mount(self, name: str, number: int) -> None:
        """Make what is mounted; a configuration is a copy with addresses and places as they are here."""
        places = self._places(name, number)
        Path(places["/tmp"]).mkdir(parents=True, exist_ok=True)  # noqa: S108
        for kind, source, place in mounts(self._project, self.services[name]):
            here = Path(places[place])
            if kind in ("volume", "tmpfs"):
                here.mkdir(parents=True, exist_ok=True)
            elif kind == "config":
                here.parent.mkdir(parents=True, exist_ok=True)
                text = _TEMPLATE.sub(self._servers, (ROOT / source).read_text())
                here.write_text(self._local(text, name, number))

    def _servers(self, found: re.Match[str]) -> str:
        """One line per replica in place of the look-up by Docker's resolver."""
        indent, label, service, port, options = found.groups()
        lines = []
        for number in range(self._replicas[service]):
            checked = re.sub(r"port (\d+)", lambda m, n=number: f"port {self._ports[service, n, int(m[1])]}", options)
            lines.append(
                f"{indent}server {label}{number + 1} 127.0.0.1:{self._ports[service, number, int(port)]} {checked}"
            )
        return "\n".join(lines)

    def _local(self, text: str, name: str, number: int) -> str:
        """The text with addresses, the service's own ports and mounted places as they are here, in one pass."""
        places = self._places(name, number)
        ports = {str(port): str(here) for (who, n, port), here in self._ports.items() if (who, n) == (name, number)}
        words = {**places, **ports, "0.0.0.0": "127.0.0.1"}  # noqa: S104
        known = "|".join(re.escape(each) for each in sorted(words, key=len, reverse=True))
        any_port = rf"(?<=bind ):({'|'.join(ports) or '(?!)'})\b"
        pattern = re.compile(rf"{self._address.pattern}|{any_port}|(?<![\w/.-])({known})(?![\w.-])")

        def one(found: re.Match[str]) -> str:
            service, port, bound, word = found.groups()
            if service:
                return f"127.0.0.1:{self._ports[service, 0, int(port)]}"
            return f"127.0.0.1:{ports[bound]}" if bound else words[word]

        return pattern.sub(one, text)

    def _tail(self, name: str, number: int) -> str:
        return "\n".join(self.log(f"{name}-{number}").read_text(errors="replace").splitlines()[-30:])


class Cli:
    """``clonejob`` of a user, with a token made in the project."""

    def __init__(self, hand: ByHand, url: str) -> None:
        made = hand.run("migrate", "token", "create", "tests", "--role", "admin")
        assert made.returncode == 0, made.stderr
        self.token = made.stdout.strip()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLONEJOB_")}
        self._environment = kept | {"CLONEJOB_SERVER": url, "CLONEJOB_TOKEN": self.token}

    def __call__(self, *arguments: str) -> str:
        """What it said."""
        done = subprocess.run(
            [BIN / "clonejob", *arguments, "--json"], env=self._environment, capture_output=True, text=True, timeout=150,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def state(self, job: str) -> str:
        """The state of a job."""
        return json.loads(self("show", job))["cloneJob"]["state"]


def _cluster(command: list[str], environment: Mapping[str, str], port: int) -> list[str]:
    """What the entry point of PostgreSQL's image does: make the cluster, its user and its database, then the server."""
    folder, bin_folder = Path(environment["PGDATA"]), binaries()
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if os.geteuid() == 0 else []
    if os.geteuid() == 0:
        for each in (folder.parent, environment["TMPDIR"]):
            shutil.chown(each, user, user)
    name, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    password = f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}"
    make = [f"{bin_folder}/initdb", "-D", str(folder), "-U", name, password, "-E", "UTF8", "--locale=C", "--no-sync"]
    _checked([*as_user, *make, *shlex.split(environment.get("POSTGRES_INITDB_ARGS", ""))])
    single = [*as_user, f"{bin_folder}/postgres", "--single", "-j", "-D", str(folder), "postgres"]
    _checked(single, text=f'CREATE DATABASE "{database}";\n\n')
    own = ["-D", str(folder), "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
    return [*as_user, f"{bin_folder}/{command[0]}", *command[1:], *own, "-p", str(port)]


def _checked(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode != 0:
        raise Failed(f"{command} failed: {done.stdout}{done.stderr}")


def until(what: str, holds: Callable[[], object], timeout_s: float = 60.0) -> Any:
    """Wait until it gives something true; gives that."""
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain until {what}"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def running(hand: ByHand, names: Sequence[str] = (), *, unseen: Sequence[str] = ()) -> Iterator[ByHand]:
    """The services for the length of a block."""
    try:
        hand.up(names, unseen=unseen)
        yield hand
    finally:
        hand.close()
