"""Making a disk independent of its snapshot: offline by a copy that takes its place, in a running machine by QEMU itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Any, cast

from qemu.qmp import ExecuteError, QMPClient, QMPError

from targets.errors import RefusedError, TransientError
from targets.local_files import fsync_folder
from targets.qemu_machine import QMP_SOCKET
from targets.qemu_tools import CLEAN_ENVIRONMENT, cache_modes, find_tool, last_line, limited, sync_file
from targets.snapshot_holder import Progress
from targets.snapshot_links import base_of

_FLAT = "flat.tmp"
_PERCENT = re.compile(rb"\((\d+)\.\d+/100%\)")
_BACKING_OFFSET = struct.Struct(">8xQ")  # of a qcow2 header
_TOOL_MEMORY_BYTES = 2 * 2**30
_LOOK_S = 0.05
_JOB = "flatten"


def has_backing(disk: Path) -> bool:
    """Whether the disk, which we made, is a qcow2 that names another file."""
    if disk.suffix != ".qcow2":
        return False
    with disk.open("rb") as file:
        return bool(_BACKING_OFFSET.unpack(file.read(_BACKING_OFFSET.size))[0])


def is_unlinked_overlay(disk: Path) -> bool:
    """Whether older code made it: it names its snapshot by the path in the store."""
    return disk.exists() and has_backing(disk) and base_of(disk.parent) is None


def flatten_offline(disk: Path, qemu_img: str, progress: Progress) -> None:
    """Copy what the disk shows and put the copy in its place, in one step."""
    flat = disk.with_name(_FLAT)
    flat.unlink(missing_ok=True)
    command = [find_tool(qemu_img), "convert", "-p", "-f", "qcow2", "-O", "qcow2", *cache_modes(disk.parent),
               disk.name, flat.name]  # fmt: skip
    try:
        _run(command, disk.parent, progress)
        owner = disk.stat()
        os.chown(flat, owner.st_uid, owner.st_gid)
        sync_file(flat)
        flat.rename(disk)
        fsync_folder(disk.parent)
    finally:
        flat.unlink(missing_ok=True)


def flatten_running(disk: Path, machine: Path, progress: Progress) -> None:
    """Have the running machine in that folder copy what it lacks; the guest goes on meanwhile. If we are ended, QEMU goes
    on, and the next call waits for it."""
    try:
        asyncio.run(_stream(disk, machine, progress))
    except ExecuteError as error:  # QEMU's own words
        raise TransientError(f"The running machine did not copy its disk: {error}; try again.") from error
    except (QMPError, EOFError, OSError, TimeoutError) as error:
        raise TransientError(
            "The machine ended, or QEMU does not answer any more, while its disk was being copied; the disk is as it was, and "
            "holds its snapshot still; try again."
        ) from error


async def _stream(disk: Path, machine: Path, progress: Progress) -> None:
    client = QMPClient("clonejob")
    fd = os.open(machine, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await client.connect(f"/proc/self/fd/{fd}/{QMP_SOCKET}")
        try:
            job = f"{_JOB}-{disk.parent.name}"
            device = await _device(client, disk)
            if await _job(client, job) is None and await asyncio.to_thread(has_backing, disk):
                await client.execute("block-stream", {"device": device, "job-id": job})
            while (state := await _job(client, job)) is not None:
                if state.get("io-status", "ok") not in ("ok", "") or state.get("error"):
                    raise RefusedError(f"QEMU could not copy the disk: {state.get('error') or state['io-status']}.")
                progress(100 * state["offset"] // (state["len"] or 1))
                await asyncio.sleep(_LOOK_S)
            # Its tables are in QEMU's memory still: the snapshot is let go only when they are in the file.
            await client.execute("human-monitor-command", {"command-line": f"qemu-io {device} flush"})
        finally:
            with contextlib.suppress(QMPError, EOFError, OSError):
                await client.disconnect()
    finally:
        os.close(fd)
    if await asyncio.to_thread(has_backing, disk):
        raise RefusedError("QEMU ended the copy before it was whole; there may be too little space.")


async def _job(client: QMPClient, job: str) -> dict[str, Any] | None:
    return next((each for each in await _asked(client, "query-block-jobs") if each["device"] == job), None)


async def _device(client: QMPClient, disk: Path) -> str:
    """QEMU's name of the disk, by the end of the path that it was given: what is before it may have been moved since."""
    for each in await _asked(client, "query-block"):
        if Path(each.get("inserted", {}).get("file", "")).parts[-2:] == disk.parts[-2:]:
            return str(each["device"])
    raise TransientError("The running machine does not have this disk; try again.")


async def _asked(client: QMPClient, command: str) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], await client.execute(command))


def _run(command: list[str], folder: Path, progress: Progress) -> None:
    whole = limited(command, core=0, nofile=256, **{"as": _TOOL_MEMORY_BYTES})
    with subprocess.Popen(
        whole, cwd=folder, env=CLEAN_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while said := process.stdout.read1(4096):  # type: ignore[attr-defined]
                if found := _PERCENT.findall(said):
                    progress(int(found[-1]))
            reason = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RefusedError(f"qemu-img failed: {last_line(reason, command[0])}")
