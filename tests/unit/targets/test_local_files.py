"""What the targets that keep files share."""

import contextlib
import resource

import pytest

from targets.local_files import read_json, write_json


@contextlib.contextmanager
def files_not_larger_than(size_bytes):
    """As on a disk that has room for a part only: the kernel writes what fits and says how much that was."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_was_written_in_part_replaces_nothing(tmp_path):
    path = tmp_path / "meta.json"
    write_json(path, {"state": "old"}, durable=False)
    with files_not_larger_than(1000), pytest.raises(OSError, match="too large"):
        write_json(path, {"state": "new" * 1000}, durable=False)
    assert read_json(path) == {"state": "old"}
