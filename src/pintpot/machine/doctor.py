"""What is here and what is not, in words that need no background, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pintpot.errors import BadInput, UnsupportedPlatform
from pintpot.machine.features import cpu, fingerprint, has_nvidia
from pintpot.meter.cap import why_no_cap
from pintpot.meter.cgroup import read_text
from pintpot.meter.disk import existing, filesystem, free_bytes, takes_direct_reads
from pintpot.meter.home import home
from pintpot.meter.memory import available
from pintpot.units import format_bytes

_PYTHON = (3, 11)
_LITTLE_MEMORY = 500_000_000
_LITTLE_DISK = 2_000_000_000
_EXTRAS = {
    "torch": "graphics cards, and other kinds of models",
    "transformers": "checking against the models' own implementations",
    "gguf": "checking GGUF files against their own library",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `ok` is True, False (it stands in the way) or None (good to know, nothing is broken)."""

    name: str
    ok: bool | None
    what: str
    advice: str = ""


def doctor() -> tuple[Finding, ...]:
    """Everything worth knowing about this machine and installation, most basic first."""
    looks: tuple[Callable[[], Finding], ...] = (
        platform_finding, python_finding, native_finding, compiler_finding, cores_finding, memory_finding,
        home_finding, disk_finding, direct_finding, cap_finding, huge_pages_finding, probe_finding, gpu_finding,
    )  # fmt: skip
    found = [looks[0]()]
    if found[0].ok:
        found += [look() for look in looks[1:]]
    return (*found, *extras_findings())


def platform_finding(system: str | None = None) -> Finding:
    name = platform.system() if system is None else system
    where = f"{name} {platform.release()} on {platform.machine()}"
    if name == "Linux":
        return Finding("platform", True, where)
    advice = "Pintpot reads the kernel's own figures and runs on Linux only; inside WSL2 or a virtual machine it works"
    return Finding("platform", False, where, advice)


def python_finding() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = sys.version_info[:2] >= _PYTHON
    return Finding("python", ok, f"Python {version}", "" if ok else "install Python 3.11 or newer")


def native_finding() -> Finding:
    """Whether the compiled part is there, and which of its instruction sets this processor runs."""
    if find_spec("pintpot._native") is None:
        advice = "install again with a C++ compiler present (pip install .); without it models can be planned, not run"
        return Finding("compiled part", False, "not there", advice)
    try:
        from pintpot import _native
    except ImportError as error:
        return Finding("compiled part", False, f"does not load: {error}", "install again on this machine")
    paths: list[str] = _native.available_isas()
    chosen = os.environ.get("PINTPOT_ISA")
    forced = f", {chosen} forced by PINTPOT_ISA" if chosen else ""
    what = f"runs with {', '.join(paths)} (the first is used{forced})"
    slow = paths == ["portable"]
    return Finding("compiled part", None if slow else True, what, "only the slowest path fits this CPU" if slow else "")


def compiler_finding() -> Finding:
    found = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and shutil.which(name)]
    if found:
        return Finding("compiler", True, f"{found[0]} ({shutil.which(found[0])})")
    return Finding("compiler", None, "none found", "needed only to install from source: apt install g++")


def cores_finding() -> Finding:
    here = cpu()
    what = f"{here.model}, {here.cores} cores for this process; {', '.join(here.features) or 'no special instructions'}"
    if here.quota is not None and here.quota < len(here.affinity):
        return Finding("processor", None, what, f"a container limits this process to {here.quota:g} cores' time")
    return Finding("processor", True, what)


def memory_finding() -> Finding:
    room = available()
    what = f"{format_bytes(room.num_bytes)} free of {format_bytes(room.limit_bytes)}, limited by {room.holder}"
    ok = room.num_bytes >= _LITTLE_MEMORY
    return Finding("memory", True if ok else None, what, "" if ok else "close programs, or choose a small model")


def home_finding() -> Finding:
    """Whether folders can be made where packs are kept, by making one: what permissions say is not all."""
    place = home()
    try:
        with tempfile.TemporaryDirectory(dir=existing(place), prefix=".pintpot-"):
            return Finding("home", True, f"packs and measurements are kept in {place}")
    except OSError as error:
        why = f"{place} cannot be written ({error.strerror})"
        return Finding("home", False, why, "set PINTPOT_HOME to a folder of your own")


def disk_finding() -> Finding:
    place = home()
    free, disk = free_bytes(place), filesystem(place)
    ok = free >= _LITTLE_DISK
    what = f"{format_bytes(free)} free on {disk.source} ({disk.kind})"
    advice = "" if ok else "a pack is about as large as its model; free some room or set PINTPOT_HOME"
    return Finding("disk", True if ok else None, what, advice)


def direct_finding() -> Finding:
    place = home()
    try:
        ok = takes_direct_reads(place)
    except OSError as error:
        return Finding("direct reads", None, f"could not be tried in {place}: {error.strerror}", "")
    if ok:
        return Finding("direct reads", True, "weights can be read from disk without filling the page cache")
    advice = "models larger than the memory still run, more slowly; keep packs on a local disk (ext4, xfs)"
    return Finding("direct reads", None, f"{filesystem(place).kind} does not take them", advice)


def cap_finding() -> Finding:
    why = why_no_cap()
    if why is None:
        return Finding("memory cap", True, "budgets can be enforced by the kernel while proving")
    return Finding("memory cap", None, why, "budgets are kept and measured all the same; as root they can be enforced")


def huge_pages_finding(setting: Path = Path("/sys/kernel/mm/transparent_hugepage/enabled")) -> Finding:
    text = read_text(setting)
    chosen = text.partition("[")[2].partition("]")[0] or "not known"
    ok = chosen in ("always", "madvise")
    advice = "" if ok else f"echo madvise > {setting} (as root) may speed up large models by a few percent"
    return Finding("huge pages", True if ok else None, chosen, advice)


def probe_finding() -> Finding:
    from pintpot.machine.remember import load

    try:
        known = load(fingerprint(home()))
    except (BadInput, UnsupportedPlatform) as error:
        return Finding("measurements", None, str(error), "run: pintpot probe")
    if known is None:
        return Finding("measurements", None, "this machine was not measured yet", "run: pintpot probe (20 seconds)")
    return Finding("measurements", True, f"this machine was measured ({known.origin})")


def gpu_finding() -> Finding:
    if not has_nvidia():
        return Finding(
            "graphics card", None, "no NVIDIA card is visible", "none is needed: models run on the processor"
        )
    ready = find_spec("torch") is not None
    advice = "" if ready else "install torch to have it measured"
    return Finding("graphics card", True if ready else None, "an NVIDIA card is visible", advice)


def extras_findings() -> tuple[Finding, ...]:
    """Optional packages, looked for and never imported."""
    return tuple(
        Finding(name, True if found else None, "installed" if found else "not installed", "" if found else f"for {use}")
        for name, use in _EXTRAS.items()
        for found in (find_spec(name) is not None,)
    )
