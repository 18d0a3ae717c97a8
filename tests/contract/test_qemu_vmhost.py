"""A vmhost: what it refuses, and what becomes of a start when either side dies in the middle of it."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from targets.base import Owner, ResourceKind, ResourceRef, Status
from targets.errors import RefusedError, TombstonedError, TransientError, UnsupportedError
from targets.qemu_seed import seed_files
from targets.qemu_vmhost import MAX_MESSAGE_BYTES, SOCKET, Start, VmHost, _fields, socket_path
from targets.qemu_vmhost_server import VmHostInUse, sole_vmhost

VM = ResourceRef(ResourceKind.INSTANCE, "c-vm")


def ask(root: Path, text: bytes) -> dict:
    """What a vmhost answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as peer, socket_path(root) as path:
        peer.settimeout(10)
        peer.connect(path)
        peer.sendall(text)
        peer.shutdown(socket.SHUT_WR)
        return json.loads(peer.makefile("rb").read())


def claimed(hosted, spec):
    """The instance's note as a worker writes it right before it asks for the start."""
    meta = hosted.target._folders.claim(spec.ref, spec.owner.labels(), {"disks": " ".join(spec.disks)})
    return hosted.target._folders.save(spec.ref, replace(meta, started_at=time.time()))


def start_request(spec, uid: str, **other: object) -> bytes:
    body = {"v": 1, "do": "start", "name": spec.ref.name, "uid": uid, "job_id": spec.owner.job_id, "epoch": 1,
            "disks": list(spec.disks), "hostname": "web-1"}  # fmt: skip
    return json.dumps(body | other).encode()


def test_only_the_services_user_may_open_the_socket(hosted):
    mode = (hosted.root / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_there_is_one_vmhost_per_target(hosted):
    with pytest.raises(VmHostInUse, match="another vmhost"), sole_vmhost(hosted.root):
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b'{"v": 1, "do": "run", "command": ["/bin/true"]}', b'{"v": 2, "do": "ping"}',
        b'{"v": 1, "do": "stop", "name": "../x", "uid": "1"}', b'{"v": 1, "do": "stop", "name": "x", "uid": "../1"}',
        b'{"v": 1, "do": "runs", "name": "x", "uid": "1", "binary": "/bin/true"}', b" " * (MAX_MESSAGE_BYTES + 1),
    ],
)  # fmt: skip
def test_what_it_does_not_understand_is_refused(hosted, text):
    answer = ask(hosted.root, text)
    assert answer["error"] == "RefusedError" and "The vmhost" in answer["message"]
    assert ask(hosted.root, b'{"v": 1, "do": "ping"}')["machines"] == 0


def test_only_what_was_claimed_is_started_and_only_from_the_jobs_own_disks(hosted):
    hosted.target.create(hosted.disk())
    hosted.target.create(hosted.disk("c-other", job_id="job-2"))
    spec = hosted.instance()
    assert "not claimed" in ask(hosted.root, start_request(spec, "0" * 32))["message"]
    uid = claimed(hosted, spec).uid
    assert "not claimed" in ask(hosted.root, start_request(spec, "0" * 32))["message"]
    assert "not claimed" in ask(hosted.root, start_request(spec, uid, job_id="job-2"))["message"]
    assert "other disks" in ask(hosted.root, start_request(spec, uid, disks=["c-other"]))["message"]
    theirs = hosted.instance("c-vm2", disks=("c-other",))
    answer = ask(hosted.root, start_request(theirs, claimed(hosted, theirs).uid))
    assert answer == {"error": "RefusedError", "message": "disk c-other is not a disk of job job-1."}
    assert hosted.processes() == []


def test_errors_keep_their_kind_over_the_socket(hosted):
    with pytest.raises(UnsupportedError, match="Machine type 'z9' is not supported"):
        hosted.target.check([hosted.instance(machine_type="z9")])
    hosted.target.create(hosted.disk())
    with pytest.raises(RefusedError, match="QEMU refused to start"):
        hosted.target.create(hosted.instance(machine_type="custom-1-100000000"))
    assert hosted.target.find(VM) is None


def test_without_a_vmhost_calls_are_tried_again_and_nothing_is_taken_for_gone(hosted):
    hosted.target.create(hosted.disk())
    made = hosted.target.create(hosted.instance())
    hosted.end_vmhost()
    what_to_do = "start `clonejob vmhost`"
    for call in (
        lambda: hosted.target.find(VM),
        lambda: hosted.target.inventory(),
        lambda: hosted.target.delete(VM, job_id="job-1", uid=made.uid),
        lambda: hosted.target.create(hosted.instance()),
        lambda: hosted.target.check([hosted.instance()]),
    ):
        with pytest.raises(TransientError, match=what_to_do):
            call()
    assert len(hosted.processes()) == 1
    hosted.serve()
    assert hosted.target.find(VM) == made


def test_a_machine_is_made_once_though_the_vmhost_was_absent_at_first(hosted):
    hosted.target.create(hosted.disk())
    hosted.end_vmhost()
    with pytest.raises(TransientError):
        hosted.target.create(hosted.instance())
    hosted.serve()
    assert hosted.connect().create(hosted.instance()).status is Status.READY
    assert len(hosted.processes()) == 1


def test_an_answer_that_was_lost_leaves_one_machine(hosted):
    """The vmhost has started it, the worker was killed before it heard so."""
    hosted.target.create(hosted.disk())
    spec = hosted.instance()
    uid = claimed(hosted, spec).uid
    assert ask(hosted.root, start_request(spec, uid)) == {}
    assert ask(hosted.root, start_request(spec, uid)) == {}  # asked again: the same machine
    assert hosted.connect().create(spec).uid == uid
    assert [each.label.uid for each in hosted.processes()] == [uid]


def test_a_start_that_comes_after_the_cleanup_makes_nothing(hosted):
    hosted.target.create(hosted.disk())
    spec = hosted.instance()
    uid = claimed(hosted, spec).uid
    hosted.target.bury("job-1")
    assert ask(hosted.root, start_request(spec, uid))["error"] == TombstonedError.__name__
    assert hosted.processes() == []


def slow_qemu(folder: Path) -> str:
    """A QEMU that waits for a file before it starts."""
    program = folder / "slow-qemu"
    program.write_text(
        f'#!/bin/sh\ntouch {folder}/begun\nwhile [ ! -e {folder}/go ]; do sleep 0.02; done\nexec qemu-system-x86_64 "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_clean_up_waits_for_a_start_that_is_under_way_and_ends_it(hosted, tmp_path):
    """The worker that asked was killed: nobody holds its lock any more, and its machine is not there yet."""
    hosted.target.create(hosted.disk())
    hosted.end_vmhost()
    hosted.serve(slow_qemu(tmp_path))
    spec = hosted.instance()
    uid = claimed(hosted, spec).uid
    answers: list[dict] = []
    asking = threading.Thread(target=lambda: answers.append(ask(hosted.root, start_request(spec, uid))))
    asking.start()
    wait_for(tmp_path / "begun")
    hosted.target.bury("job-1")
    deleting = threading.Thread(target=lambda: hosted.delete_until_gone(VM))
    deleting.start()
    (tmp_path / "go").touch()
    asking.join(30)
    deleting.join(30)
    assert answers == [{}]  # it was started, and then it was ended
    assert hosted.processes() == []
    assert hosted.target.find(VM) is None


SERVER = """
import sys
from pathlib import Path
from targets.qemu_machines import MachineOptions
from targets.qemu_vmhost_server import Host, serving
with serving([Host(Path(sys.argv[1]), MachineOptions(binary=sys.argv[2], vmhost=True), call_timeout_s=20)]):
    print("serving", flush=True)
    sys.stdin.read()
"""


def test_a_vmhost_that_is_killed_in_the_middle_of_a_start_leaves_one_machine(hosted, tmp_path):
    hosted.target.create(hosted.disk())
    hosted.end_vmhost()
    command = [sys.executable, "-c", SERVER, str(hosted.root), slow_qemu(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as server:
        assert server.stdout.readline() == b"serving\n"
        errors: list[Exception] = []

        def create() -> None:
            try:
                hosted.target.create(hosted.instance())
            except TransientError as error:
                errors.append(error)

        creating = threading.Thread(target=create)
        creating.start()
        wait_for(tmp_path / "begun")
        server.kill()
        creating.join(30)
    assert "vmhost" in str(errors)
    (tmp_path / "go").touch()
    hosted.serve()
    assert hosted.connect().create(hosted.instance()).status is Status.READY
    assert len(hosted.processes()) == 1
    assert VmHost(hosted.root, call_timeout_s=20).ping()["machines"] == 1


def test_a_request_carries_the_whole_specification(hosted):
    """What the vmhost makes is what a worker would have made: labels and metadata reach the guest's seed."""
    spec = replace(
        hosted.instance(), metadata={"role": "web"}, details={"bootOption": "COMPUTE_ENGINE_BOOT_OPTION_BIOS"}
    )
    there = Start.model_validate_json(Start(**_fields(spec), uid="1").model_dump_json()).spec()
    assert there == spec and seed_files(there) == seed_files(spec)
    assert there.owner == Owner("job-1", 1)
