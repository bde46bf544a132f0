"""The kernels for every CPU, compiled for 64-bit Arm and run under an emulator: the same bits as on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tree import ROOT

import pintpot

NATIVE = ROOT / "native"
SUMS = ROOT / "tests" / "kernel_sums.cpp"
CROSS = "aarch64-linux-gnu-g++"
# Below -O2 GCC fuses no multiplications and additions, and there would be nothing to see.
COMMON = ("-std=gnu++17", "-O2", "-fPIC", f"-I{NATIVE}", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def emulated() -> str:
    """The emulator, where it and the compiler are here."""
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None or shutil.which(CROSS) is None:
        pytest.skip(f"64-bit Arm needs a compiler and an emulator: apt-get install g++-{CROSS[:-4]} qemu-user")
    return qemu


def listed(name: str) -> list[str]:
    """What CMakeLists.txt sets a variable to."""
    text = re.sub(r"#.*", "", (NATIVE / "CMakeLists.txt").read_text())
    found = re.search(rf"set\({name}\s([^)]*)\)", text)
    assert found is not None, name
    return found[1].split()


def compiled(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr}"


def sums(command: Sequence[str | Path]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


@pytest.mark.usefixtures("emulated")
def test_the_engine_compiles_for_arm() -> None:
    """All of it that does not face Python, whose headers for Arm are not here."""
    sources = [path for path in sorted(NATIVE.glob("engine/*.cpp")) if not path.name.startswith("bind_")]
    assert len(sources) > 12
    sources.append(NATIVE / "kernels/dispatch.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as several:
        list(several.map(lambda path: compiled((CROSS, *COMMON, "-fsyntax-only", path)), sources))


def test_kernels_give_the_same_bits_on_arm(emulated: str, tmp_path: Path) -> None:
    sources = [NATIVE / name for name in listed("KERNEL_SOURCES")]
    objects = [tmp_path / f"{path.stem}.o" for path in sources]
    flags = (*COMMON, *listed("KERNEL_FLAGS"))
    with ThreadPoolExecutor(os.cpu_count()) as several:
        list(several.map(lambda path, to: compiled((CROSS, *flags, "-c", path, "-o", to)), sources, objects))
    compiled((CROSS, *COMMON, "-DLINKED", "-static", SUMS, *objects, "-o", tmp_path / "arm"))
    compiled(("c++", *COMMON, SUMS, "-ldl", "-o", tmp_path / "here"))
    portable = Path(pintpot.__file__).parent / "libpintpot_portable.so"
    expected = sums((tmp_path / "here", portable))
    assert len(expected) > 300
    assert not [line for line in expected if line.endswith("is no number")]
    assert sums((emulated, tmp_path / "arm")) == expected
