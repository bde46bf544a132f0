"""Room, filesystems and traffic, and where things are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pintpot.errors import DiskTooSmall, UnsupportedPlatform
from pintpot.meter import disk
from pintpot.meter.home import home


def test_asking_for_more_than_there_is_gives_both_numbers(tmp_path: Path) -> None:
    disk.ask_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskTooSmall, match=r"needs 1000000 TB and its disk has .* free") as caught:
        disk.ask_room(tmp_path, 10**18)
    assert caught.value.exit_code == 3


def test_the_innermost_mount_holds_a_path(tmp_path: Path) -> None:
    inner = tmp_path / "my disk"
    inner.mkdir()
    (tmp_path / "self").mkdir()
    escaped = str(inner).replace(" ", r"\040")
    lines = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / {escaped} rw - xfs /dev/b rw\n3 1 8:3 / /other rw - nfs c rw\n"
    (tmp_path / "self/mountinfo").write_text(lines)
    found = disk.filesystem(inner / "file", tmp_path)
    assert (found.kind, found.source, found.mount) == ("xfs", "/dev/b", inner)
    assert disk.filesystem(tmp_path, tmp_path).kind == "ext4"
    assert found.size_bytes > 0


def test_no_mount_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedPlatform, match="Linux"):
        disk.filesystem(tmp_path, tmp_path)


def test_a_block_device_is_found_by_its_number(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    assert disk.block_device(tmp_path, tmp_path) is None
    (tmp_path / "nvme7n1").mkdir()
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(tmp_path / "nvme7n1")
    assert disk.block_device(tmp_path / "x", tmp_path) == "nvme7n1"


def test_the_direct_read_trial_leaves_nothing(tmp_path: Path) -> None:
    assert disk.takes_direct_reads(tmp_path) in (True, False)
    assert list(tmp_path.iterdir()) == []


def test_a_filesystem_that_refuses_direct_reads_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert disk.takes_direct_reads(tmp_path) is False


def test_traffic_is_read_from_the_io_table(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5/io").write_text("rchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\n")
    assert disk.traffic(5, tmp_path) == disk.Traffic(4096, 8192)
    with pytest.raises(UnsupportedPlatform, match="does not count"):
        disk.traffic(6, tmp_path)


def test_home_follows_the_environment() -> None:
    assert home({"PINTPOT_HOME": "/x/y", "XDG_DATA_HOME": "/z"}) == Path("/x/y")
    assert home({"XDG_DATA_HOME": "/z"}) == Path("/z/pintpot")
    assert home({"XDG_DATA_HOME": "relative"}) == Path("~/.local/share/pintpot").expanduser()
    assert home({}) == Path("~/.local/share/pintpot").expanduser()
