"""What a machine is, read without measuring: its CPU, the cores this process may use, its memory and disk, its mark.

Every function takes the folder of `/proc`, so that tests can show another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pintpot.errors import UnsupportedPlatform
from pintpot.meter.cgroup import PROC, groups, read_int, read_text
from pintpot.meter.disk import filesystem
from pintpot.meter.memory import available

_NOTABLE = (
    "sse2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni",
    "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_PAGE_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Cpu:
    """`cores` are those this process may keep busy: by affinity, and by its control groups' share of CPU time."""

    model: str
    features: tuple[str, ...]
    cores: int
    affinity: tuple[int, ...]
    quota: float | None


def cpu(proc: Path = PROC, affinity: frozenset[int] | None = None) -> Cpu:
    """The CPU as this process sees it; `affinity` is asked of the system where it is not given."""
    allowed = tuple(sorted(os.sched_getaffinity(0) if affinity is None else affinity))
    share = quota(proc)
    cores = len(allowed) if share is None else min(len(allowed), max(1, int(share)))
    fields = _cpuinfo(proc)
    flags = set(fields.get("flags", fields.get("features", "")).split())
    return Cpu(_model(fields), tuple(name for name in _NOTABLE if name in flags), cores, allowed, share)


def quota(proc: Path = PROC) -> float | None:
    """Cores' worth of time that control groups grant this process, the least of all levels; None where unlimited."""
    found = groups("cpu", proc)
    if found is None:
        return None
    shares = [share for level in found.levels if (share := _share(level, found.version)) is not None]
    return min(shares, default=None)


def fingerprint(path: Path, proc: Path = PROC, affinity: frozenset[int] | None = None) -> str:
    """The mark of this hardware: CPU model, cores allowed, memory, the disk that holds `path`, and the kernels.

    The memory is the machine's, not a control group's: the same box under a cap keeps its measured rates. Rates of one
    set of kernels say nothing about another. Raises UnsupportedPlatform where PINTPOT_ISA names some that cannot run.
    """
    here, disk = cpu(proc, affinity), filesystem(path, proc)
    size = round(machine_memory(proc) / _PAGE_BYTES)
    parts = [here.model, here.cores, size, disk.kind, disk.source, disk.size_bytes, kernels_path()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def kernels_path() -> str:
    """The instruction set whose kernels run, "" where the compiled part is missing. Raises as `fingerprint` does."""
    if find_spec("pintpot._native") is None:
        return ""
    from pintpot._native import kernels

    try:
        return str(kernels.chosen())
    except RuntimeError as error:
        raise UnsupportedPlatform(str(error)) from error


def machine_memory(proc: Path = PROC) -> int:
    """Bytes of RAM of the whole machine."""
    words = read_text(proc / "meminfo").split()
    return int(words[1]) * 1024 if len(words) > 1 and words[0] == "MemTotal:" else available(proc).limit_bytes


def has_nvidia(devices: Path = Path("/dev")) -> bool:
    """Whether an NVIDIA card is visible, found without importing anything."""
    return any(devices.glob("nvidia[0-9]*")) or (devices / "nvhost-gpu").exists()


def _share(level: Path, version: int) -> float | None:
    if version == 1:
        granted, period = read_int(level / "cpu.cfs_quota_us"), read_int(level / "cpu.cfs_period_us")
        return granted / period if granted and period else None
    words = read_text(level / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() and int(words[1]) else None


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's lines and those of the whole board, keys in lower case."""
    fields: dict[str, str] = {}
    for line in read_text(proc / "cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    return fields


def _model(fields: dict[str, str]) -> str:
    if "cpu implementer" in fields:
        core = f"arm {fields['cpu implementer']}/{fields.get('cpu part', '?')}"
        return f"{fields['model']} ({core})" if "model" in fields else core
    name = fields.get("model name", platform.machine() or "unknown CPU")
    family = [fields[key] for key in ("cpu family", "model", "stepping") if key in fields]
    return f"{name} ({'/'.join(family)})" if family else name
