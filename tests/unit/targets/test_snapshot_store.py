from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import resource
import signal
import stat

import pytest

from targets.chunk_sums import CHUNK_BYTES, ChunkHasher, ChunkSums
from targets.snapshot_store import FileSnapshotStore, SnapshotStoreError

BLOCK = 64 * 1024


@pytest.fixture
def store(tmp_path):
    return FileSnapshotStore(tmp_path / "store")


def files(store) -> list[str]:
    return [path.name for path in store.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 7])
@pytest.mark.parametrize("chunk", [1000, BLOCK, 3 * BLOCK + 1])
def test_bytes_come_back(store, size, chunk):
    content = bytearray(random.Random(size).randbytes(size))
    content[BLOCK : 3 * BLOCK] = bytes(len(content[BLOCK : 3 * BLOCK]))
    with store.writer("cycle-1/disk0.qcow2") as writer:
        for start in range(0, size, chunk):
            writer.write(bytes(content[start : start + chunk]))
        assert writer.sha256 == hashlib.sha256(content).hexdigest()
    path = store.path("cycle-1/disk0.qcow2")
    assert path.read_bytes() == content
    assert writer.size_bytes == store.check("cycle-1/disk0.qcow2") == size
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert files(store) == ["disk0.qcow2"]


def test_zeros_take_no_space(store):
    with store.writer("c/zeros.raw") as writer:
        for _ in range(64):
            writer.write(bytes(2**20))
    status = store.path("c/zeros.raw").stat()
    assert status.st_size == 64 * 2**20
    assert status.st_blocks * 512 < 2**20


def test_the_checksums_of_the_chunks_come_and_go_with_the_snapshot(store):
    with store.writer("c/disk0.raw") as writer:
        writer.write(bytes(CHUNK_BYTES) + b"x")
    assert sorted(files(store)) == [".disk0.raw.chunks", "disk0.raw"]
    sums = ChunkSums.open(store.path("c/disk0.raw"), sha256=writer.sha256)
    with contextlib.closing(sums):
        assert sums.digest(0) == sums.zeros_digest and sums.length(1) == 1
    store.remove("c/disk0.raw")
    assert list(store.root.iterdir()) == []


def test_a_snapshot_whose_manifest_does_not_fit_is_not_kept(store, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ChunkHasher, "manifest", full)
    with pytest.raises(SnapshotStoreError, match="is full"), store.writer("c/disk0.raw") as writer:
        writer.write(bytes(CHUNK_BYTES) + b"x")
    assert list(store.root.iterdir()) == []


def test_an_upload_that_fails_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.writer("c/disk0.raw") as writer:
        writer.write(b"x" * BLOCK)
        assert not store.path("c/disk0.raw").exists()
        raise RuntimeError("the client went away")
    assert list(store.root.iterdir()) == []


def test_a_full_disk_leaves_nothing(store):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, old[1]))
        with pytest.raises(SnapshotStoreError, match="c/disk0.raw was not stored and nothing of it is left"):
            with store.writer("c/disk0.raw") as writer:
                for _ in range(3):
                    writer.write(b"x" * BLOCK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(store.root.iterdir()) == []


def test_no_space_left(store, monkeypatch):
    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SnapshotStoreError, match="is full.*free some space"), store.writer("c/disk0.raw") as writer:
        writer.write(b"x" * BLOCK)
    assert files(store) == []


def test_a_snapshot_is_never_replaced(store):
    with store.writer("c/d") as writer:
        writer.write(b"one")
    with pytest.raises(SnapshotStoreError, match="exists already"), store.writer("c/d"):
        pass
    with pytest.raises(SnapshotStoreError, match="exists already"), store.writer("c/e") as first:
        first.write(b"first")
        with store.writer("c/e") as second:
            second.write(b"second")
    assert store.path("c/d").read_bytes() == b"one"
    assert store.path("c/e").read_bytes() == b"second"
    assert sorted(files(store)) == ["d", "e"]


def test_remove(store):
    with store.writer("a/b/c") as writer:
        writer.write(b"x")
    store.remove("a/b/c")
    store.remove("a/b/c")
    assert list(store.root.iterdir()) == []
    with pytest.raises(SnapshotStoreError, match="cannot be read"):
        store.check("a/b/c")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".a", "a/.b.part", "a\0b", "a b"]
)
def test_keys_that_are_not_legal(store, key):
    for use in (store.path, store.remove, store.check):
        with pytest.raises(SnapshotStoreError, match="not legal"):
            use(key)
    with pytest.raises(SnapshotStoreError), store.writer(key):
        pass


def test_links_are_not_followed(store, tmp_path):
    store.root.mkdir()
    (store.root / "link").symlink_to("/etc/passwd")
    with pytest.raises(SnapshotStoreError, match="cannot be read"):
        store.check("link")
    (store.root / "folder").mkdir()
    with pytest.raises(SnapshotStoreError, match="not a regular file"):
        store.check("folder")


def test_sweep_spares_running_uploads(store):
    with store.writer("c/d") as writer:
        writer.write(b"x" * BLOCK)
        left = store.root / "c" / ".old.123.part"
        left.write_bytes(b"half")
        assert store.sweep() == 1
        assert not left.exists()
    assert files(store) == ["d"]
