"""The vmhost's side: starts and ends machines for whoever may open the socket, and keeps nothing in its process.

Its machines are sessions of their own and nobody's children, so the process may be restarted at any time; they end with
its container or with the host. What runs is read from the process list each time.

Starts and stops of one instance go one after the other, and a start looks for the job's tombstone in its turn: clean-up
buries the job before it asks for the stop, so a start whose worker died is either ended by that stop or never made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import socketserver
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from targets.base import LABEL_JOB_ID, InstanceSpec, ResourceKind, ResourceRef
from targets.errors import RefusedError, TargetError, TransientError
from targets.local_files import Tombstones, storage_errors_translated
from targets.qemu_folders import MAKING, READY, Meta, ResourceFolders, disk_file
from targets.qemu_host import ThisHost
from targets.qemu_machines import MachineOptions
from targets.qemu_vm import is_answering
from targets.qemu_vmhost import SOCKET, Check, Ping, Request, Running, Runs, Start, Stop, receive, socket_path

log = logging.getLogger(__name__)

_LOCK = "vmhost.lock"
_READ_TIMEOUT_S = 10.0
_LOOK_S = 0.1  # how long it may go on after it was told to stop
_REQUEST: TypeAdapter[Any] = TypeAdapter(Request)


class VmHostInUse(Exception):
    """Another vmhost has the target's folder."""


@contextlib.contextmanager
def sole_vmhost(root: Path) -> Iterator[None]:
    """Be the only vmhost of a target: two in two containers could not see each other's machines.

    Raises: VmHostInUse. The kernel lets go of it when the process ends.
    """
    root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise VmHostInUse(f"another vmhost has {root}; stop it first, its machines end with its container") from None
    try:
        yield
    finally:
        os.close(fd)


class Host:
    """The machines of one target, and what may be asked of them."""

    def __init__(self, root: Path, options: MachineOptions, *, call_timeout_s: float) -> None:
        self.root = root.resolve()
        self._call_timeout_s = call_timeout_s
        self._folders = ResourceFolders(self.root, lock_timeout_s=call_timeout_s)
        self._here = ThisHost(self.root, self._folders, options, call_timeout_s=call_timeout_s)
        self._tombstones = Tombstones(self.root / "tombstones", durable=True)
        self._turns: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
        self._turns_lock = threading.Lock()

    def answer(self, request: bytes) -> dict[str, Any]:
        """What is said to a request, whatever it is."""
        try:
            with storage_errors_translated():
                return self._do(_REQUEST.validate_json(request))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            return {"error": "RefusedError", "message": f"The vmhost does not understand the request: {problems}."}
        except TargetError as error:
            return {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            log.exception("a request failed")
            return {"error": "TransientError", "message": f"The vmhost failed: {type(error).__name__}: {error}"}

    def _do(self, request: Ping | Running | Runs | Stop | Check | Start) -> dict[str, Any]:
        match request:
            case Ping():
                return {"version": metadata.version("clonejob"), "machines": len(self._here.running())}
            case Running():
                return {"machines": [asdict(label) for label in self._here.running()]}
            case Runs():
                return {"runs": self._here.runs(_ref(request.name), request.uid)}
            case Check():
                self._here.check(request.spec())
            case Start():
                with self._turn(request.uid):
                    self._start(request.spec(), request.uid)
            case Stop():
                with self._turn(request.uid):
                    self._here.stop(_ref(request.name), request.uid)
                log.info("ended %s (%s)", request.name, request.uid)
        return {}

    def _start(self, spec: InstanceSpec, uid: str) -> None:
        meta, job_id = self._folders.meta(spec.ref), spec.owner.job_id
        if meta is None or (meta.uid, meta.labels.get(LABEL_JOB_ID)) != (uid, job_id) or not _may_start(meta):
            raise RefusedError(f"{spec.ref} is not claimed by job {job_id} under this uid; it is not started.")
        if meta.facts.get("disks", "").split() != list(spec.disks):
            raise RefusedError(f"{spec.ref} was claimed with other disks; it is not started.")
        disks = [self._disk(name, job_id) for name in spec.disks]
        self._tombstones.refuse_buried(job_id)
        if self._here.runs(spec.ref, uid):  # somebody asked before, and the answer was lost
            if not is_answering(self._folders.path(spec.ref)):
                raise TransientError(f"{spec.ref} runs and its monitor does not answer; try again.")
            return
        self._here.start(spec, meta, disks)
        log.info("started %s (%s) for job %s", spec.ref.name, uid, job_id)

    def _disk(self, name: str, job_id: str) -> Path:
        ref = ResourceRef(ResourceKind.DISK, name)
        meta, disk = self._folders.meta(ref), disk_file(self._folders.path(ref))
        if meta is None or meta.labels.get(LABEL_JOB_ID) != job_id or not disk.is_file():
            raise RefusedError(f"{ref} is not a disk of job {job_id}.")
        return disk

    @contextlib.contextmanager
    def _turn(self, uid: str) -> Iterator[None]:
        with self._turns_lock:
            turn = self._turns.setdefault(uid, threading.Lock())
        if not turn.acquire(timeout=self._call_timeout_s):
            raise TransientError("The vmhost is still busy with this machine; try again.")
        try:
            yield
        finally:
            turn.release()


def _may_start(meta: Meta) -> bool:
    return meta.started_at is not None and meta.state in (MAKING, READY)


def _ref(name: str) -> ResourceRef:
    return ResourceRef(ResourceKind.INSTANCE, name)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(_READ_TIMEOUT_S)
        # A worker that was killed meanwhile reads no answer; what it asked for is found by the next one.
        with contextlib.suppress(OSError):
            try:
                asked = receive(self.request)
            except ValueError as error:
                answer = {"error": "RefusedError", "message": f"The vmhost cannot read the request: {error}."}
            else:
                answer = self.server.host.answer(asked)
            self.request.sendall(json.dumps(answer).encode())


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    block_on_close = True  # a start that is under way is finished
    request_queue_size = 128

    def __init__(self, host: Host) -> None:
        self.host = host
        (host.root / SOCKET).unlink(missing_ok=True)
        with socket_path(host.root) as path:
            before = os.umask(0o177)  # the socket is made with mode 0600, not given it afterwards
            try:
                super().__init__(path, _Handler)
            finally:
                os.umask(before)


@contextlib.contextmanager
def serving(hosts: Sequence[Host]) -> Iterator[None]:
    """Serve in threads for the length of a block; what is under way is finished at its end. The caller is the sole
    vmhost of each folder, and has no other threads yet: the umask is set for a moment."""
    servers = [_Server(host) for host in hosts]
    threads = [threading.Thread(target=server.serve_forever, args=(_LOOK_S,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
        for thread, server in zip(threads, servers, strict=True):
            thread.join()
            (server.host.root / SOCKET).unlink(missing_ok=True)
            server.server_close()
