"""Memory as the kernel counts it: a process's peak, and what this process may still take.

Every function takes the folder of `/proc`, so that tests can show another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pintpot.errors import UnsupportedPlatform, need
from pintpot.meter.cgroup import PROC, Groups, groups, read_int, read_table, read_text

_NO_LIMIT = 1 << 60
"""Version 1 writes "unlimited" as the largest multiple of a page."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A process's memory in bytes: resident now, its peak, and the three kinds the resident part is made of."""

    resident_bytes: int
    peak_bytes: int
    anonymous_bytes: int
    file_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Available:
    """What this process may take in all (`limit_bytes`), what is left of it (`num_bytes`), and who says so."""

    num_bytes: int
    limit_bytes: int
    holder: str


def usage(pid: int | None = None, proc: Path = PROC) -> Usage:
    """Memory of process `pid`, or of this one. Raises UnsupportedPlatform where the kernel does not tell."""
    path = proc / ("self" if pid is None else str(pid)) / "status"
    fields = _kilobytes(read_text(path))
    need(
        "VmRSS" in fields, f"{path} does not say how much memory is used; Linux's /proc is needed", UnsupportedPlatform
    )
    resident = fields["VmRSS"]
    return Usage(
        resident,
        fields.get("VmHWM", resident),
        fields.get("RssAnon", 0),
        fields.get("RssFile", 0),
        fields.get("RssShmem", 0),
    )


def peak_bytes(pid: int | None = None, proc: Path = PROC) -> int:
    """The most that was ever resident (VmHWM): the number that a budget bounds."""
    return usage(pid, proc).peak_bytes


def resident_bytes(pid: int | None = None, proc: Path = PROC) -> int:
    """What is resident now (VmRSS)."""
    return usage(pid, proc).resident_bytes


def reset_peak(proc: Path = PROC) -> str | None:
    """Start a new peak at what is resident now. Returns None when the kernel did so, else its refusal in words."""
    before = usage(proc=proc)
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError as error:
        return f"the kernel does not let the peak be reset: {error.strerror}"
    after = usage(proc=proc)
    slack = before.peak_bytes - before.resident_bytes
    if slack > 1 << 20 and after.peak_bytes >= before.peak_bytes:
        return "the kernel took the wish to reset the peak and kept the old one"
    return None


def available(proc: Path = PROC) -> Available:
    """The least of the machine's free memory and of every enclosing control group's.

    A group's room is its limit less what is charged to it, cache that the kernel would give back not counted.
    """
    meminfo = _kilobytes(read_text(proc / "meminfo"))
    need("MemTotal" in meminfo, f"{proc}/meminfo does not tell the memory; Linux is needed", UnsupportedPlatform)
    free = meminfo.get("MemAvailable", meminfo.get("MemFree", 0))
    found = [Available(free, meminfo["MemTotal"], "the machine")]
    memory = groups("memory", proc)
    if memory is not None:
        found += [room for level in memory.levels if (room := _room(memory, level)) is not None]
    least = min(found, key=lambda room: room.num_bytes)
    return Available(least.num_bytes, min(room.limit_bytes for room in found), least.holder)


def attainable_bytes(proc: Path = PROC) -> int:
    """What this process may hold in all: what it may still take, and what it holds already."""
    return available(proc).num_bytes + resident_bytes(proc=proc)


def _room(memory: Groups, level: Path) -> Available | None:
    stat = read_table(level / "memory.stat")
    if memory.version == 1:
        prefix, used = "total_", read_int(level / "memory.usage_in_bytes")
        limits = [read_int(level / "memory.limit_in_bytes"), stat.get("hierarchical_memory_limit")]
    else:
        prefix, used = "", read_int(level / "memory.current")
        limits = [read_int(level / "memory.max"), read_int(level / "memory.high")]
    limit = min((value for value in limits if value is not None), default=_NO_LIMIT)
    if limit >= _NO_LIMIT:
        return None
    cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    dirty = stat.get(f"{prefix}dirty", stat.get("file_dirty", 0))
    writeback = stat.get(f"{prefix}writeback", stat.get("file_writeback", 0))
    reclaimable = max(0, cache - dirty - writeback) + stat.get("slab_reclaimable", 0)
    charged = max(0, (used or 0) - reclaimable)
    return Available(max(0, limit - charged), limit, f"control group {level}")


def _kilobytes(text: str) -> dict[str, int]:
    """Lines of "Name:  123 kB" as bytes."""
    rows = (line.split() for line in text.splitlines() if line.endswith("kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[1].isdigit()}
