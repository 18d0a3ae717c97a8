"""Checksums of chunks: what they vouch for, and what a copy makes of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from targets import chunk_copy, chunk_sums, disk_copy
from targets.chunk_copy import copy_chunks, verify_chunks
from targets.chunk_sums import CHUNK_BYTES, ChunkHasher, ChunkSums, ManifestError, digest_of, manifest_path
from targets.copy_parts import CopyError, State, data_ranges

MIB = 2**20
SIZE = 3 * CHUNK_BYTES + MIB + 512  # data, a hole, zeros that were written, data to an end that is no page's


@dataclass
class Disk:
    """A snapshot with its manifest."""

    path: Path
    sha256: str

    def change(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def sums(self):
        return contextlib.closing(ChunkSums.open(self.path, sha256=self.sha256))


@pytest.fixture(params=["sha256", "blake2b-256"])
def disk(tmp_path, request):
    path, rng = tmp_path / "disk0.raw", random.Random(1)
    with path.open("wb") as file:
        file.write(rng.randbytes(CHUNK_BYTES - MIB))
        file.seek(2 * CHUNK_BYTES)
        file.write(bytes(CHUNK_BYTES))
        file.write(rng.randbytes(MIB + 512))
    hasher = ChunkHasher(algorithm=request.param)
    hasher.update(path.read_bytes())
    chunk_sums.write_manifest(path, hasher)
    return Disk(path, hasher.hexdigest())


def copied(disk, folder, verified_bytes=0):
    with disk.sums() as sums:
        state = State(folder, SIZE)
        copy_chunks(disk.path, folder / "out.raw", sums, state, verified_bytes)
        state.advanced(SIZE, at_once=True)
    return (folder / "out.raw"), json.loads((folder / "copy.json").read_text())


@pytest.mark.parametrize("algorithm", ["sha256", "blake2b-256"])
@pytest.mark.parametrize("piece", [1_000_003, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_the_digests_do_not_hang_on_how_the_bytes_arrive(tmp_path, algorithm, piece):
    content = random.Random(3).randbytes(2 * CHUNK_BYTES) + b"end"
    path, hasher = tmp_path / "disk0.raw", ChunkHasher(algorithm=algorithm)
    path.write_bytes(content)
    for start in range(0, len(content), piece):
        hasher.update(content[start : start + piece])
    digest = hashlib.sha256(content).hexdigest()
    assert hasher.hexdigest() == digest
    chunk_sums.write_manifest(path, hasher)
    with contextlib.closing(ChunkSums.open(path, sha256=digest)) as sums:
        chunks = [content[:CHUNK_BYTES], content[CHUNK_BYTES : 2 * CHUNK_BYTES], b"end"]
        assert [sums.digest(n) for n in range(sums.count)] == [digest_of(algorithm, chunk) for chunk in chunks]
        assert [sums.length(n) for n in range(sums.count)] == [CHUNK_BYTES, CHUNK_BYTES, 3]


def test_a_snapshot_of_one_chunk_has_no_manifest(tmp_path):
    path, hasher = tmp_path / "disk0.raw", ChunkHasher()
    path.write_bytes(b"x")
    hasher.update(b"x")
    chunk_sums.write_manifest(path, hasher)
    assert [each.name for each in tmp_path.iterdir()] == ["disk0.raw"]
    assert ChunkSums.open(path, sha256=hasher.hexdigest()) is None


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: b"", lambda content: content.replace(b"chunk_bytes", b"chunk_bytez"),
    lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
], ids=["cut", "empty", "header", "digest"])  # fmt: skip
def test_a_damaged_manifest_is_not_believed(disk, damage):
    path = manifest_path(disk.path)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(damage(content))
    with pytest.raises(ManifestError, match="damaged"):
        ChunkSums.open(disk.path, sha256=disk.sha256)


def test_a_manifest_vouches_for_its_own_snapshot_alone(disk):
    with pytest.raises(ManifestError, match="another snapshot"):
        ChunkSums.open(disk.path, sha256="0" * 64)
    os.truncate(disk.path, SIZE - 1)
    with pytest.raises(ManifestError, match="another snapshot"):
        ChunkSums.open(disk.path, sha256=disk.sha256)


def test_a_copy_is_the_same_and_takes_no_room_for_zeros(disk, tmp_path):
    out, state = copied(disk, tmp_path)
    assert out.read_bytes() == disk.path.read_bytes()
    assert out.stat().st_blocks * 512 <= CHUNK_BYTES - MIB + MIB + 64 * 1024
    assert (state["bytes"], state["error"]) == (SIZE, "")


@pytest.mark.parametrize(("offset", "data"), [
    (5, b"?"), (CHUNK_BYTES + 5, b"?"), (2 * CHUNK_BYTES + 5, b"?"), (SIZE - 1, b"?"), (0, bytes(CHUNK_BYTES - MIB)),
], ids=["data", "hole", "zeros", "last byte", "lost data"])  # fmt: skip
def test_what_is_not_as_it_was_uploaded_is_found_and_never_written(disk, tmp_path, offset, data):
    before = disk.path.read_bytes()
    disk.change(offset, data)
    with disk.sums() as sums, pytest.raises(CopyError, match="not what was uploaded: its bytes"):
        verify_chunks(disk.path, sums, State(tmp_path, SIZE))
    with pytest.raises(CopyError, match="not what was uploaded"):
        copied(disk, tmp_path)
    out = (tmp_path / "out.raw").read_bytes()
    start = offset // CHUNK_BYTES * CHUNK_BYTES
    end = min(start + CHUNK_BYTES, SIZE)
    assert out[start:end] == bytes(end - start)
    assert all(got in (0, right) for got, right in zip(out[::997], before[::997], strict=True))


def test_lost_data_that_became_a_hole_is_found(disk, tmp_path):
    kept = disk.path.read_bytes()[CHUNK_BYTES:]
    disk.path.unlink()
    with disk.path.open("wb") as file:
        file.seek(CHUNK_BYTES)
        file.write(kept)
    with disk.sums() as sums, pytest.raises(CopyError, match=f"bytes 0 to {CHUNK_BYTES - 1} "):
        verify_chunks(disk.path, sums, State(tmp_path, SIZE))


def test_a_copy_goes_on_where_it_was_verified(disk, tmp_path):
    first = 2 * CHUNK_BYTES
    (tmp_path / "out.raw").write_bytes(b"mine".ljust(first, b"-") + b"torn")  # what was verified is left alone
    disk.change(5, b"?")  # and not read again
    out, state = copied(disk, tmp_path, verified_bytes=first + 5)
    assert out.read_bytes()[:first] == b"mine".ljust(first, b"-")
    assert state["bytes"] == SIZE
    assert out.read_bytes()[3 * CHUNK_BYTES :] == disk.path.read_bytes()[3 * CHUNK_BYTES :]


def test_what_is_durable_is_said_only_once_it_is_synced(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_copy, "CHECKPOINT_BYTES", CHUNK_BYTES)
    synced, state = threading.Event(), State(tmp_path, SIZE)
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.wait())
    with chunk_copy._Checkpoints(-1, state) as checkpoints:
        for offset in (CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1):
            checkpoints.reached(offset)
            assert state.values["verified_bytes"] == 0
        synced.set()
        checkpoints._syncing[1].result()
        checkpoints.reached(CHUNK_BYTES + 2)
    assert json.loads((tmp_path / "copy.json").read_text())["verified_bytes"] == CHUNK_BYTES


@pytest.mark.parametrize("harm", [False, True], ids=["sound", "changed"])
def test_a_manifest_that_cannot_be_used_leaves_the_whole_checksum(disk, tmp_path, harm):
    path = manifest_path(disk.path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    if harm:
        disk.change(SIZE - 1, b"?")
    order = {"label": "", "verify": str(disk.path), "sha256": disk.sha256, "convert": "", "target": "disk.raw",
             "durable_bytes": 0, "verified_bytes": 0, "total_bytes": SIZE, "qemu_img": "", "options": [], "lock_fd": 0}  # fmt: skip
    command = [sys.executable, "-I", "-S", disk_copy.__file__, json.dumps(order)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "manifest of disk0.raw is not used" in done.stderr
    assert done.returncode == harm
    if harm:
        assert f"instead of {disk.sha256}" in json.loads((tmp_path / "copy.json").read_text())["error"]
    else:
        assert (tmp_path / "disk.raw").read_bytes() == disk.path.read_bytes()


def test_data_ranges_leave_out_holes_alone(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(MIB + 100)
        file.seek(65536 + 10)
        file.write(b"x")
        file.seek(MIB)
        file.write(b"y" * 100)
    fd = os.open(path, os.O_RDONLY)
    try:
        found = list(data_ranges(fd, 0, MIB + 100))
        assert all(any(first <= at < end for first, end in found) for at in (65546, MIB, MIB + 99))
        assert sum(end - first for first, end in found) < 256 * 1024
        assert list(data_ranges(fd, 0, 65536)) == [] or found[0][0] < 65536
    finally:
        os.close(fd)
