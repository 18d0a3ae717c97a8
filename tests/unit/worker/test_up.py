from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from worker import up
from worker.service_file import DataDirInUse, ServiceFile, lock_data_dir, read_service
from worker.settings import load_settings
from worker.up import UpError, child_specs, with_ports

ROOT = Path(__file__).parents[3]


@pytest.fixture
def handlers():
    """``up.run`` installs signal handlers; give the runner its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def clonejob_up(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "up", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=20, check=False,
    )  # fmt: skip


def test_a_data_folder_in_use_is_refused_and_named(tmp_path):
    with lock_data_dir(tmp_path):
        result = clonejob_up("--data-dir", tmp_path, "--rest-port", 0, "--grpc-port", 0)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: data folder {tmp_path} is in use by another clonejob (pid {os.getpid()}); "
        "stop it or choose another --data-dir.\n"
    )
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("front", ["rest", "grpc"])
def test_a_port_in_use_is_refused_and_leaves_nothing(tmp_path, handlers, front):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load_settings(
            data_dir=tmp_path / "data", **({"rest_port": 0, "grpc_port": 0} | {f"{front}_port": port})
        )
        with pytest.raises(UpError, match=rf"^port {port} on 127.0.0.1 is in use; choose another with --{front}-port"):
            up.run(settings)
    assert list(tmp_path.iterdir()) == []


def test_port_0_is_any_free_port():
    settings = with_ports(load_settings(rest_port=0, grpc_port=0))
    assert settings.rest_port != settings.grpc_port
    assert 0 not in (settings.rest_port, settings.grpc_port)


def test_the_same_port_twice_is_refused():
    port = with_ports(load_settings(rest_port=0, grpc_port=0)).rest_port
    with pytest.raises(UpError, match="--grpc-port"):
        with_ports(load_settings(rest_port=port, grpc_port=port))


def test_a_data_folder_that_is_a_file_is_refused(tmp_path, handlers):
    file = tmp_path / "data"
    file.write_text("")
    with pytest.raises(UpError, match="choose another --data-dir"):
        up.run(load_settings(data_dir=file))


def test_a_lock_is_free_again_after_its_holder_was_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from worker.service_file import lock_data_dir\n"
        "with lock_data_dir(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    holder.stdout.readline()
    with pytest.raises(DataDirInUse, match=f"pid {holder.pid}"), lock_data_dir(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lock_data_dir(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_service_file_is_private_and_stale_ones_do_not_count(tmp_path):
    file = ServiceFile(load_settings(data_dir=tmp_path, broker_url="redis://:pw@127.0.0.1:1/0"))
    file.write({"api": 1})
    assert stat.S_IMODE((tmp_path / "service.json").stat().st_mode) == 0o600
    service = read_service(tmp_path)
    assert (service["pid"], service["children"], service["ready"]) == (os.getpid(), {"api": 1}, False)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "service.json").write_text(json.dumps(service | {"pid": ended.pid}))
    assert read_service(tmp_path) is None
    file.remove()
    assert read_service(tmp_path) is None


def test_the_children_and_their_queues(tmp_path):
    settings = load_settings(data_dir=tmp_path, workers=3, broker_url="redis://:pw@127.0.0.1:1/0")
    steps, control, api = child_specs(settings)
    assert steps.argv[-8:] == ["-n", "steps@%h", "-Q", "disks,adapt,instances", "-c", "3", "--pool", "prefork"]
    assert control.argv[-8:] == ["-n", "control@%h", "-Q", "control,cleanup", "-c", "4", "--pool", "threads"]
    assert api.argv[-2:] == ["worker.cli", "api"]
    for spec in (steps, control, api):
        assert "pw" not in " ".join(spec.argv)
        assert spec.env["CLONEJOB_BROKER_URL"] == settings.broker_url


def test_a_start_that_fails_says_why_and_leaves_no_process(tmp_path, handlers, monkeypatch):
    def broken(settings):
        argv = [sys.executable, "-c", "raise SystemExit('bad wheel')"]
        return [up.ChildSpec(up.API, argv, settings.data_dir / "logs" / "api.log")]

    monkeypatch.setattr(up, "child_specs", broken)
    monkeypatch.setattr(up, "_upgrade_database", lambda _: None)
    monkeypatch.setattr(up, "_workers_answer", lambda _: True)
    monkeypatch.setattr("worker.supervisor.BACKOFF_FIRST_S", 0.01)
    settings = load_settings(data_dir=tmp_path / "data", rest_port=0, grpc_port=0)
    others = set(
        psutil.Process().children()
    )  # multiprocessing's resource tracker, if a test used it: it stays as long as this process
    with pytest.raises(up.ChildFailed, match="(?s)api ended 5 times .*bad wheel"):
        up.run(settings)
    assert set(psutil.Process().children()) <= others
    assert not (settings.data_dir / "service.json").exists()
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
