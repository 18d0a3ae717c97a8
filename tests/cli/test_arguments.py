"""What the command line says before it talks to anybody, and when nobody answers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from worker.broker import free_port
from worker.cli import context
from worker.cli.context import Cli, short_name

ROOT = Path(__file__).parents[2]
VM = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"


def one_line(text):
    assert text.startswith("error: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def test_help_is_quick_and_names_every_command():
    def used():  # CPU seconds: a busy machine makes nothing slow
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    times = []
    for _ in range(3):
        started = used()
        shown = subprocess.run(
            [sys.executable, "-m", "worker.cli", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
        )
        times.append(used() - started)
    for command in ("up", "vm", "submit", "list", "show", "watch", "cancel", "doctor", "worker", "api", "db"):
        assert f"\n  {command} " in shown.stdout
    assert min(times) < 0.3


def test_help_loads_nothing_heavy():
    code = (
        "import sys, worker.cli; heavy = {'httpx', 'rich', 'celery', 'sqlalchemy', 'pydantic', 'redis', 'grpc'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["frob"], "No such command 'frob'; see `clonejob --help`"),
        (["submit"], "Missing argument 'VM'; see `clonejob submit --help`"),
        (["submit", "Web_1"], "VM 'Web_1' is not a legal id: use a lower-case letter"),
        (["submit", "web-1", "--id", "9lives"], "job '9lives' is not a legal id"),
        (["submit", "web-1", "--request-id", "seven"], "--request-id 'seven' is not a UUID"),
        (["submit", "projects/p/web-1"], "is not a full name: write projects/P/locations/L"),
        (["show", "web-1"], "'web-1' names no job: write VM/JOB, for example web-1/clone-1"),
        (["cancel", "../../etc/passwd"], "is not a legal id"),
        (["watch"], "Missing argument 'JOB...'"),
        (["vm", "import", "web-1"], "name the disks: --disk FILE, or --reference 0=NAME --size 0=BYTES"),
        (["vm", "import", "web-1", "--disk", "none.img"], "none.img: there is no such file"),
        (
            ["vm", "import", "web-1", "--disk", "/nope/n.img"],
            "error: /nope/n.img: there is no such file; check the path",
        ),
        (["vm", "import", "web-1", "--disk", "/dev"], "error: /dev: is not a regular file; name a disk image file"),
        (["vm", "import", "web-1", "--format", "raw", "--disk", "/dev"], "error: /dev: is not a regular file"),
        (["up", "--rest-port", "70000"], "Invalid value for '--rest-port'"),
        (["up", "--project", "A/B"], "CLONEJOB_PROJECT"),
        (["list", "--server", "localhost:8080"], "CLONEJOB_SERVER: must start with http://"),
        (["worker"], "no broker: set CLONEJOB_BROKER_URL"),
        (["api"], "no broker: set CLONEJOB_BROKER_URL"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(clonejob, arguments, part):
    result = clonejob(*arguments)
    assert result.code == 2
    assert part in one_line(result.err)
    assert result.out == ""


def test_an_unknown_queue_is_refused(clonejob, monkeypatch):
    monkeypatch.setenv("CLONEJOB_BROKER_URL", "redis://127.0.0.1:1/0")
    result = clonejob("worker", "--queues", "disks,disk")
    assert (result.code, "unknown queue disk; there are control, disks" in one_line(result.err)) == (2, True)


def test_a_service_that_does_not_answer_is_exit_code_3(clonejob):
    result = clonejob("list", "--server", f"http://127.0.0.1:{free_port()}")
    assert result.code == 3
    assert "cannot be reached" in one_line(result.err)
    assert "start it with `clonejob up`" in result.err


def test_a_server_that_is_something_else(clonejob, stub):
    stub.on("GET", f"/v1/{VM}/cloneJobs", b"<html>")
    result = clonejob("list", "web-1", "--server", stub.url)
    assert (result.code, "is it a clonejob service?" in one_line(result.err)) == (1, True)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", 2),
        ("UNAVAILABLE", 3),
        ("NOT_FOUND", 4),
        ("ALREADY_EXISTS", 5),
        ("ABORTED", 5),
        ("FAILED_PRECONDITION", 5),
        ("INTERNAL", 1),
    ],
)
def test_errors_of_the_service_have_their_exit_code(clonejob, stub, status, code):
    stub.on("POST", f"/v1/{VM}/cloneJobs", (400, {"error": {"code": 400, "status": status, "message": "no; do this"}}))
    result = clonejob("submit", "web-1", "--server", stub.url)
    assert (result.code, result.err) == (code, "error: no; do this\n")


def test_the_address_of_a_running_service_is_found_in_the_data_folder(clonejob, stub, tmp_path):
    stub.on("GET", "/v1/projects/lab/locations/global/sources/-/migratingVms", {"migratingVms": []})
    folder = tmp_path / "data"
    folder.mkdir()
    service = {"pid": os.getpid(), "rest_url": stub.url, "project": "lab"}
    (folder / "service.json").write_text(json.dumps(service))
    assert clonejob("vm", "list").code == 0
    assert clonejob("--json", "vm", "list", "--data-dir", folder).out == "[]\n"


def test_global_options_stand_before_or_after_the_command(clonejob, stub):
    path = "/v1/projects/lab/locations/here/sources/-/migratingVms/-/cloneJobs"
    stub.on("GET", path, {})
    where = ["--server", stub.url, "--project", "lab", "--location", "here", "--json"]
    assert clonejob(*where, "list").out == clonejob("list", *where).out == "[]\n"
    assert stub.called() == [("GET", path)] * 2


def test_short_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cli = Cli()
    assert cli.vm_name("web-1") == VM
    assert cli.vm_name("lab/web-1") == VM.replace("default", "lab")
    assert cli.job_name("web-1/clone-1") == cli.job_name(f"{VM}/cloneJobs/clone-1") == f"{VM}/cloneJobs/clone-1"
    assert short_name(cli.job_name("web-1/clone-1")) == "web-1/clone-1"
    assert short_name(cli.job_name("lab/web-1/clone-1")) == "lab/web-1/clone-1"
    assert short_name(VM) == "web-1"


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_bug_is_one_line_and_its_traceback_is_there_for_the_asking(clonejob, monkeypatch, level):
    monkeypatch.setenv("CLONEJOB_LOG_LEVEL", level)
    monkeypatch.setattr(Cli, "job_name", lambda *_: 1 / 0)
    result = clonejob("show", "web-1/c1")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(
        "error: unexpected ZeroDivisionError: division by zero; this is a bug"
    )
    assert ("Traceback" in result.err) == (level == "DEBUG")


def write_service(folder, **more):
    folder.mkdir(exist_ok=True)
    file = folder / "service.json"
    file.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), "project": "clonejob", **more}))
    file.with_suffix(".new").replace(file)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_named_data_folder_without_a_service_is_never_another_service(clonejob, monkeypatch, tmp_path, how):
    folder = tmp_path / "x"
    if how == "environment":
        monkeypatch.setenv("CLONEJOB_DATA_DIR", str(folder))
    result = clonejob("list", *(["--data-dir", folder] if how == "option" else []))
    assert (result.code, result.err) == (
        3,
        f"error: no clonejob service runs in {folder}; start one with: clonejob up --data-dir {folder}, "
        "or name a server with --server\n",
    )


def test_a_named_server_wins_over_a_named_data_folder(clonejob, stub, monkeypatch, tmp_path):
    stub.on("GET", f"/v1/{VM}/cloneJobs", {})
    assert clonejob("list", "web-1", "--data-dir", tmp_path, "--server", stub.url).code == 0
    monkeypatch.setenv("CLONEJOB_SERVER", stub.url)
    assert clonejob("list", "web-1", "--data-dir", tmp_path).code == 0


def test_without_a_data_folder_the_default_server_is_meant(clonejob):
    assert Cli().settings.server == "http://127.0.0.1:8080"
    result = clonejob("list")
    assert "no clonejob service runs" not in result.err


def test_a_service_that_starts_is_waited_for(clonejob, stub, tmp_path):
    stub.on("GET", f"/v1/{VM}/cloneJobs", {})
    write_service(tmp_path / "x", rest_url=stub.url, ready=False)
    ready = threading.Timer(0.4, write_service, [tmp_path / "x"], {"rest_url": stub.url, "ready": True})
    ready.start()
    result = clonejob("list", "web-1", "--data-dir", tmp_path / "x")
    ready.join()
    assert (result.code, result.err) == (0, f"waiting for the service in {tmp_path / 'x'} to start …\n")


def test_a_service_that_never_starts(clonejob, monkeypatch, tmp_path):
    monkeypatch.setattr(context, "START_TIMEOUT_S", 0.2)
    write_service(tmp_path / "data", rest_url="http://127.0.0.1:1", ready=False)
    result = clonejob("list")
    assert result.code == 3
    assert "is not ready after 0 s; look into" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["--json", "show", "web-1"], 2, "USAGE"),
        (["frob", "--json"], 2, "USAGE"),
        (["submit", "--json", "--frob"], 2, "USAGE"),
        (["list", "--json", "--data-dir", "none"], 3, "UNREACHABLE"),
        (["instance", "list", "--json"], 4, "NOT_FOUND"),
    ],
)
def test_with_json_an_error_is_one_object(clonejob, arguments, code, name):
    result = clonejob(*arguments)
    assert (result.code, result.out) == (code, "")
    error = json.loads(result.err)["error"]
    assert error["code"] == name
    assert error["message"]
    assert not error["message"].startswith("error:")


def test_version(clonejob):
    assert clonejob("--version").out == f"clonejob {metadata.version('clonejob')}\n"


@pytest.mark.parametrize(("command", "times"), [("watch", 1), ("watch", 3), ("submit", 2)])
def test_ctrl_c_ends_the_looking_and_says_how_to_go_on(stub, tmp_path, command, times):
    job = {"name": f"{VM}/cloneJobs/c1", "state": "ACTIVE"}
    stub.on("POST", f"/v1/{VM}/cloneJobs", {"name": "o", "metadata": {"target": job["name"]}})
    stub.on("GET", f"/clonejob/v1/{VM}/cloneJobs/c1/progress", {"steps": []})
    stub.on("GET", f"/v1/{VM}/cloneJobs/c1", job)
    arguments = ["watch", "web-1/c1"] if command == "watch" else ["submit", "web-1", "--id", "c1", "--wait"]
    running = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *arguments, "--server", stub.url],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    stream = running.stdout if command == "watch" else running.stderr
    assert stream.readline() == "web-1/c1 ACTIVE\n"
    for _ in range(times):
        running.send_signal(signal.SIGINT)
        time.sleep(0.002)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Traceback" not in err
    if times == 1:
        assert err == (
            "error: interrupted; the job goes on: clonejob watch web-1/c1, or end it with clonejob cancel web-1/c1\n"
        )
