"""The client of a vmhost: a service (``clonejob vmhost``) that has the machines' processes instead of the worker.

A worker's container ends with all its processes, so a machine that is to outlive it must be another container's. The two
share the target's folder, and meet at a Unix socket in it: one JSON object per connection, one answer. What is asked for is
a machine by its name and specification, never a command: the vmhost makes the command line itself, from its own settings.

A reply that is lost leaves nothing that cannot be found: the note of the instance is written before the vmhost is asked,
whoever comes next asks it what runs under the instance's uid, and a start for a job that was cleaned up meanwhile is
refused by the job's tombstone (``targets/qemu_vmhost_server.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from targets import errors
from targets.base import InstanceSpec, Owner, ResourceKind, ResourceRef
from targets.errors import TargetError, TransientError
from targets.qemu_folders import Meta
from targets.qemu_machine import VmLabel

SOCKET = "vmhost.sock"
PROTOCOL: Literal[1] = (
    1  # what a vmhost of an older version must still understand, for it is not restarted with the workers
)
MAX_MESSAGE_BYTES = 2**20
_ASK_SHARE, _START_SHARE, _STOP_SHARE = 0.15, 0.4, 0.5  # of call_timeout_s; a stop may have to wait for a start
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][-a-z0-9]{0,127}$")]
_Uid = Annotated[str, Field(pattern=r"^[-0-9a-z]{1,64}$")]


class Message(BaseModel):
    """What every request has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: Literal[1] = PROTOCOL


class Ping(Message):
    """How it is."""

    do: Literal["ping"] = "ping"


class Running(Message):
    """The labels of all machines that have a process."""

    do: Literal["running"] = "running"


class Runs(Message):
    """Whether the instance has a process."""

    do: Literal["runs"] = "runs"
    name: _Name
    uid: _Uid


class Stop(Message):
    """End the instance's processes."""

    do: Literal["stop"] = "stop"
    name: _Name
    uid: _Uid


class _Instance(Message):
    name: _Name
    job_id: Annotated[str, Field(pattern=r"^[a-z0-9][-_a-z0-9]{0,62}$")]
    epoch: Annotated[int, Field(ge=0)]
    disks: Annotated[list[_Name], Field(min_length=1, max_length=128)]
    hostname: Annotated[str, Field(max_length=253)]
    machine_type: Annotated[str, Field(max_length=128)] = ""
    labels: dict[str, str] = {}
    metadata: dict[str, str] = {}
    details: dict[str, Any] = {}

    def spec(self) -> InstanceSpec:
        """What is to be started."""
        return InstanceSpec(
            ResourceRef(ResourceKind.INSTANCE, self.name), Owner(self.job_id, self.epoch), tuple(self.disks),
            self.hostname, self.machine_type, self.labels, self.metadata, details=self.details,
        )  # fmt: skip


class Check(_Instance):
    """Whether such a machine can be made."""

    do: Literal["check"] = "check"


class Start(_Instance):
    """Start the instance that was claimed under ``uid``."""

    do: Literal["start"] = "start"
    uid: _Uid


Request = Annotated[Ping | Running | Runs | Stop | Check | Start, Field(discriminator="do")]


class VmHost:
    """See ``MachineHost``: the host behind the socket in the target's folder."""

    def __init__(self, root: Path, *, call_timeout_s: float) -> None:
        self._root = root
        self._call_timeout_s = call_timeout_s

    def check(self, spec: InstanceSpec) -> None:
        """See ``MachineHost.check``."""
        self._ask(Check(**_fields(spec)), _ASK_SHARE)

    def start(self, spec: InstanceSpec, meta: Meta, disks: Sequence[Path]) -> None:
        """See ``MachineHost.start``."""
        self._ask(Start(**_fields(spec), uid=meta.uid), _START_SHARE)

    def runs(self, ref: ResourceRef, uid: str) -> bool:
        """See ``MachineHost.runs``."""
        return bool(self._ask(Runs(name=ref.name, uid=uid), _ASK_SHARE)["runs"])

    def running(self) -> Sequence[VmLabel]:
        """See ``MachineHost.running``."""
        return [VmLabel(**each) for each in self._ask(Running(), _ASK_SHARE)["machines"]]

    def stop(self, ref: ResourceRef, uid: str) -> None:
        """See ``MachineHost.stop``."""
        self._ask(Stop(name=ref.name, uid=uid), _STOP_SHARE)

    def ping(self) -> dict[str, Any]:
        """``version`` of its code, ``machines`` that run. Raises: TransientError if none answers."""
        return self._ask(Ping(), _ASK_SHARE)

    def _ask(self, request: Message, share: float) -> dict[str, Any]:
        """Its answer. Raises: what it says; TransientError if it says nothing, and then it may have done it."""
        timeout_s = self._call_timeout_s * share
        try:
            answer = _exchange(self._root, request.model_dump_json().encode(), timeout_s)
        except (FileNotFoundError, ConnectionRefusedError):
            raise TransientError(
                f"No vmhost answers in {self._root}; start `clonejob vmhost` with the same settings and data folder, "
                "or set the target's option vmhost to false."
            ) from None
        except TimeoutError:
            raise TransientError(f"The vmhost in {self._root} did not answer within {timeout_s:g} s.") from None
        except (OSError, ValueError) as error:
            raise TransientError(f"The vmhost in {self._root} ended in the middle of a call ({error}).") from None
        if "error" in answer:
            raise _as_error(answer)
        return answer


def _fields(spec: InstanceSpec) -> dict[str, Any]:
    body = {name: value for name, value in asdict(spec).items() if name not in ("ref", "owner", "boot_image")}
    body["disks"] = list(spec.disks)
    return {**body, "name": spec.ref.name, "job_id": spec.owner.job_id, "epoch": spec.owner.epoch}


def _exchange(root: Path, request: bytes, timeout_s: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, socket_path(root) as path:
        peer.settimeout(timeout_s)
        peer.connect(path)
        peer.sendall(request)
        peer.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(receive(peer))
        return answer


def receive(peer: socket.socket) -> bytes:
    """All that the other side sends. Raises: ValueError if that is nothing, or too much; OSError."""
    got = bytearray()
    while part := peer.recv(65536):
        got += part
        if len(got) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has more than {MAX_MESSAGE_BYTES} bytes")
    if not got:
        raise ValueError("it said nothing")
    return bytes(got)


@contextlib.contextmanager
def socket_path(root: Path) -> Iterator[str]:
    """A path of the socket that is short enough: a socket's path may have 107 bytes, a folder's may have more."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _as_error(answer: dict[str, Any]) -> TargetError:
    """The error of ``targets.errors`` that it names."""
    kind = getattr(errors, str(answer["error"]), TransientError)
    return kind(answer.get("message", "")) if issubclass(kind, TargetError) else TransientError(str(answer))
