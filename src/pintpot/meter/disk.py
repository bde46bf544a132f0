"""Disks: room, filesystem and device of a path, whether it takes direct reads, and what was really read."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pintpot.errors import DiskTooSmall, UnsupportedPlatform, need
from pintpot.meter.cgroup import PROC, read_table, read_text, unescape
from pintpot.units import format_bytes

_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What holds a path: kind ("ext4", "overlay"), source ("/dev/vda"), mount point, and size."""

    kind: str
    source: str
    mount: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes this process had fetched from and sent to disks (what the page cache answered is not among them)."""

    read_bytes: int
    write_bytes: int


def free_bytes(path: Path) -> int:
    """Bytes that a user may still write where `path` is or will be."""
    found = os.statvfs(existing(path))
    return found.f_bavail * found.f_frsize


def ask_room(path: Path, num_bytes: int) -> None:
    """Raises DiskTooSmall, with both numbers, when `num_bytes` do not fit where `path` is or will be."""
    free = free_bytes(path)
    if num_bytes > free:
        raise DiskTooSmall(
            f"{path} needs {format_bytes(num_bytes)} and its disk has {format_bytes(free)} free; "
            f"free {format_bytes(num_bytes - free)} or choose another place"
        )


def filesystem(path: Path, proc: Path = PROC) -> Filesystem:
    """The mounted filesystem that holds `path`. Raises UnsupportedPlatform without a mount table."""
    real = existing(path).resolve()
    best: tuple[Path, str, str] | None = None
    for line in read_text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 2:
            continue
        mount = Path(unescape(left[4]))
        if real.is_relative_to(mount) and (best is None or len(mount.parts) >= len(best[0].parts)):
            best = mount, right[0], unescape(right[1])
    if best is None:
        raise UnsupportedPlatform(f"{proc}/self/mountinfo does not name the disk of {path}; Linux is needed")
    found = os.statvfs(real)
    return Filesystem(best[1], best[2], best[0], found.f_blocks * found.f_frsize)


def block_device(path: Path, devices: Path = Path("/sys/dev/block")) -> str | None:
    """The kernel's name of the block device that holds `path` ("nvme0n1p2"); None for network and layered ones."""
    number = existing(path).stat().st_dev
    link = devices / f"{os.major(number)}:{os.minor(number)}"
    return link.resolve().name if link.exists() else None


def takes_direct_reads(folder: Path) -> bool:
    """Whether the filesystem of `folder` lets files be read past the page cache, by trying on a small file there."""
    with tempfile.NamedTemporaryFile(dir=existing(folder), prefix=".pintpot-") as file:
        file.write(bytes(_ALIGNMENT))
        file.flush()
        try:
            descriptor = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            return False
        os.close(descriptor)
    return True


def traffic(pid: int | None = None, proc: Path = PROC) -> Traffic:
    """Disk traffic of process `pid`, or of this one. Raises UnsupportedPlatform where the kernel does not count."""
    path = proc / ("self" if pid is None else str(pid)) / "io"
    table = {name.rstrip(":"): value for name, value in read_table(path).items()}
    need(
        "read_bytes" in table,
        f"{path} does not count disk reads; Linux with task accounting is needed",
        UnsupportedPlatform,
    )
    return Traffic(table["read_bytes"], table.get("write_bytes", 0))


def existing(path: Path) -> Path:
    """`path` itself, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))
