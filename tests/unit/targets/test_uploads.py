"""Parts of uploads: kept over restarts, locked, swept, never in memory."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random

import pytest

from targets.chunk_sums import CHUNK_BYTES, ChunkSums, digest_of
from targets.snapshot_store import FileSnapshotStore
from targets.uploads import PartialUploads, UploadBusy

BLOCK = 64 * 1024
OWNER = "projects/p/…/replicationCycles/cycle-1"


@pytest.fixture
def store(tmp_path):
    return FileSnapshotStore(tmp_path / "store")


@pytest.fixture
def uploads(store):
    return PartialUploads(store)


def put(uploads, data, *, disk=0, total=None):
    with uploads.open(OWNER, disk, "raw", total) as upload:
        upload.write(data)
        upload.checkpoint()
        return upload.received_bytes


def files(store):
    return sorted(path.name for path in store.root.rglob("*") if path.is_file())


@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "another process each time"])
@pytest.mark.parametrize("chunk", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_chunks_make_the_whole(store, uploads, chunk, fresh):
    content = bytearray(random.Random(1).randbytes(5 * BLOCK + 3 if chunk > 1 else 40))
    content[BLOCK : 4 * BLOCK] = bytes(len(content[BLOCK : 4 * BLOCK]))
    for start in range(0, len(content), chunk):
        uploads = PartialUploads(store) if fresh else uploads
        assert put(uploads, bytes(content[start : start + chunk])) == min(start + chunk, len(content))
    with uploads.open(OWNER, 0, "raw", None) as upload:
        assert upload.sha256() == hashlib.sha256(content).hexdigest()
        key = upload.publish()
        assert upload.publish() == key  # as after a crash
        upload.discard()
    assert store.path(key).read_bytes() == content
    assert files(store) == ["disk0.raw"]
    assert not (store.root / ".uploads").exists()


@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "another process each time"])
def test_the_chunks_of_the_disk_are_known_however_it_arrived(store, uploads, fresh):
    content = random.Random(2).randbytes(CHUNK_BYTES + 3)
    for part in (content[:BLOCK], content[BLOCK:]):
        uploads = PartialUploads(store) if fresh else uploads
        put(uploads, part)
    with (PartialUploads(store) if fresh else uploads).open(OWNER, 0, "raw", None) as upload:
        key = upload.publish()
        assert upload.publish() == key
        digest = upload.sha256()
        upload.discard()
    with contextlib.closing(ChunkSums.open(store.path(key), sha256=digest)) as sums:
        expected = [content[:CHUNK_BYTES], content[CHUNK_BYTES:]]
        assert [sums.digest(n) for n in range(sums.count)] == [digest_of(sums.algorithm, each) for each in expected]
    store.remove(key)
    assert files(store) == []


def test_a_crash_between_publishing_and_recording_leaves_nothing_twice(store, uploads):
    put(uploads, b"x" * BLOCK)
    with uploads.open(OWNER, 0, "raw", None) as upload:
        key = upload.publish()
    again = PartialUploads(store)  # another process: the part can be opened although it was made read-only
    with again.open(OWNER, 0, "raw", None) as upload:
        assert (upload.received_bytes, upload.publish()) == (BLOCK, key)
        upload.restart("raw", None)
        assert not store.path(key).exists()
        upload.write(b"y")
        upload.checkpoint()
        assert (upload.sha256(), upload.publish() == key) == (hashlib.sha256(b"y").hexdigest(), False)


def test_a_second_writer_is_refused(store, uploads):
    with uploads.open(OWNER, 0, "raw", None):
        with pytest.raises(UploadBusy), PartialUploads(store).open(OWNER, 0, "raw", None):
            pass
        with uploads.open(OWNER, 1, "raw", None):
            pass
    with PartialUploads(store).open(OWNER, 0, "raw", None):
        pass


def die(root):
    uploads = PartialUploads(FileSnapshotStore(root))
    with uploads.open(OWNER, 0, "raw", 100) as upload:
        upload.write(b"a" * 10)
        upload.checkpoint()
        os._exit(9)


def test_a_killed_process_leaves_its_offset_and_no_lock(store, uploads):
    process = multiprocessing.get_context("fork").Process(target=die, args=(store.root,))
    process.start()
    process.join()
    received = uploads.received(OWNER, 0)
    assert (received.received_bytes, received.total_bytes, received.format) == (10, 100, "raw")
    assert put(uploads, b"b") == 11


def test_cut_forgets_the_last_chunk(uploads):
    put(uploads, b"good")
    with uploads.open(OWNER, 0, "raw", None) as upload:
        upload.write(b"bad")
        upload.cut(4)
        upload.write(b"!")
        upload.checkpoint()
        assert upload.sha256() == hashlib.sha256(b"good!").hexdigest()


def test_the_digest_of_another_process_is_not_trusted(store, uploads):
    put(uploads, b"aaaa")
    other = PartialUploads(store)
    other.discard(OWNER, published=True)
    put(other, b"bbbb")
    with uploads.open(OWNER, 0, "raw", None) as upload:
        assert upload.sha256() == hashlib.sha256(b"bbbb").hexdigest()


def test_sweep_takes_only_what_is_old_and_idle(store, uploads):
    put(uploads, b"old", disk=0)
    put(uploads, b"new", disk=1)
    put(uploads, b"busy", disk=2)
    (folder,) = (store.root / ".uploads").iterdir()
    for name in ("disk0.part", "disk2.part"):
        os.utime(folder / name, (0, 0))
    with PartialUploads(store).open(OWNER, 2, "raw", None):
        assert uploads.sweep(60) == 1
    assert [uploads.received(OWNER, disk) is None for disk in (0, 1, 2)] == [True, False, False]
    uploads.discard(OWNER, published=True)
    assert files(store) == [] and uploads.last_time(OWNER) is None


def test_discarded_under_a_writer(store, uploads):
    with uploads.open(OWNER, 0, "raw", None) as upload:
        upload.write(b"x")
        uploads.discard(OWNER, published=True)
        upload.checkpoint()
    assert uploads.received(OWNER, 0) is None
    assert put(uploads, b"new") == 3
