from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import guest


def test_the_bytes_are_the_source_assembled(tmp_path):
    if not shutil.which("nasm"):
        pytest.skip("nasm not installed")
    source = Path(guest.__file__).with_name("guest.asm")
    subprocess.run(["nasm", "-f", "bin", "-o", str(tmp_path / "out"), str(source)], check=True)
    assert (tmp_path / "out").read_bytes() == guest.boot_sector()


def test_the_boot_sector_fits(tmp_path):
    sector = guest.boot_sector()
    assert len(sector) == 512
    assert sector[446:510] == bytes(64)
    assert sector[510:] == b"\x55\xaa"


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True))
def test_the_host_name_is_all_that_changes(hostname):
    before = guest.config_sector(data="cycle=3", boot_delay_s=2)
    after = guest.with_hostname(before, hostname)
    assert len(after) == 512
    assert guest.hostname_of(before) == ""
    assert guest.hostname_of(after) == hostname
    assert after[:8] == before[:8]
    assert after[72:] == before[72:]
    assert guest.with_hostname(guest.with_hostname(after, "x" * 63), hostname) == after


@pytest.mark.parametrize("hostname", ["", "a b", "a" * 64, "-a", "a-", "ä", "a\n", "a\0b"])
def test_host_names_that_are_not_legal(hostname):
    with pytest.raises(ValueError, match="not legal"):
        guest.with_hostname(guest.config_sector(), hostname)


@pytest.mark.parametrize("sector", [b"", bytes(512), b"VMCF1\0", b"VMCF2\0".ljust(512, b"\0")])
def test_other_sectors_are_not_touched(sector):
    assert not guest.is_config_sector(sector)
    with pytest.raises(ValueError, match="not a config sector"):
        guest.with_hostname(sector, "a")


@pytest.mark.parametrize(
    "options", [{"data": "a\n"}, {"data": "a" * 128}, {"data": "ä"}, {"boot_delay_s": -1}, {"boot_delay_s": 4000}]
)
def test_config_values_out_of_bounds(options):
    with pytest.raises(ValueError, match="must be"):
        guest.config_sector(**options)


def test_build_disk_is_small(tmp_path):
    path = guest.build_disk(tmp_path / "g.raw", hostname="a")
    assert path.stat().st_size == 8 * 2**20
    assert path.stat().st_blocks * 512 <= 64 * 1024
    with pytest.raises(ValueError, match="multiple of 512"):
        guest.build_disk(path, size_bytes=1000)
    with pytest.raises(ValueError, match="vmdk"):
        guest.build_disk(path, format="vmdk")


def test_descriptions():
    def mbr(*types):
        table = b"".join(bytes(4) + bytes([kind]) + bytes(11) for kind in types).ljust(64, b"\0")
        return bytes(446) + table + b"\x55\xaa"

    assert guest.describe_boot_sector(bytes(512)) == "no boot sector"
    assert guest.describe_boot_sector(mbr()) == "a boot sector without partitions"
    assert guest.describe_boot_sector(mbr(0xEE)) == "a GPT partition table"
    assert guest.describe_boot_sector(mbr(0x83, 0x82)) == "an MBR with 2 partition(s) of type 0x83, 0x82"
