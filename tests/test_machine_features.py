"""The CPU, the cores allowed and the fingerprint, read from trees that show other machines, and from this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pintpot.machine.features import cpu, fingerprint, has_nvidia, quota

X86 = """processor\t: 0
model name\t: AMD EPYC 9B14
cpu family\t: 25
model\t\t: 17
stepping\t: 1
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni rdpid

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def machine(tmp: Path, cpuinfo: str = X86, memory_kb: int = 16_000_000) -> Path:
    (tmp / "self").mkdir(parents=True, exist_ok=True)
    (tmp / "cpuinfo").write_text(cpuinfo)
    (tmp / "meminfo").write_text(f"MemTotal: {memory_kb} kB\nMemAvailable: 5 kB\n")
    (tmp / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/a rw\n")
    (tmp / "self/cgroup").write_text("")
    return tmp


def v2(tmp: Path, limits: dict[str, str], group: str) -> None:
    mount = tmp / "cgroup"
    for name, text in limits.items():
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "cpu.max").write_text(f"{text}\n")
    (mount / "cgroup.controllers").write_text("cpu memory\n")
    (tmp / "self/cgroup").write_text(f"0::/{group}\n")
    (tmp / "self/mountinfo").write_text(f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:1 / {mount} rw - cgroup2 c rw\n")


def test_an_x86_processor(tmp_path: Path) -> None:
    found = cpu(machine(tmp_path), frozenset({0, 1, 5}))
    assert found.model == "AMD EPYC 9B14 (25/17/1)"
    assert found.features == ("sse2", "avx", "avx2", "fma", "avx512f", "avx512_vnni")
    assert (found.cores, found.affinity, found.quota) == (3, (0, 1, 5), None)


def test_an_arm_processor(tmp_path: Path) -> None:
    found = cpu(machine(tmp_path, ARM), frozenset(range(4)))
    assert found.model == "Raspberry Pi 5 Model B Rev 1.0 (arm 0x41/0xd0b)"
    assert found.features == ("asimd", "asimddp")


def test_a_container_of_one_core_is_noticed(tmp_path: Path) -> None:
    v2(machine(tmp_path), {"pod": "100000 100000", "pod/box": "max 100000"}, "pod/box")
    found = cpu(tmp_path, frozenset(range(8)))
    assert (found.cores, found.quota) == (1, 1.0)


@pytest.mark.parametrize(("limit", "cores"), [("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)])
def test_a_share_of_time_is_rounded_down_to_cores(tmp_path: Path, limit: str, cores: int) -> None:
    v2(machine(tmp_path), {"box": limit}, "box")
    assert cpu(tmp_path, frozenset(range(4))).cores == cores


def test_version_1_quotas(tmp_path: Path) -> None:
    mount = machine(tmp_path) / "cpu"
    (mount / "box").mkdir(parents=True)
    (tmp_path / "self/cgroup").write_text("3:cpu,cpuacct:/box\n")
    (tmp_path / "self/mountinfo").write_text(f"2 1 0:1 / {mount} rw - cgroup cgroup rw,cpu,cpuacct\n")
    (mount / "box/cpu.cfs_period_us").write_text("100000\n")
    (mount / "box/cpu.cfs_quota_us").write_text("-1\n")
    assert quota(tmp_path) is None
    (mount / "box/cpu.cfs_quota_us").write_text("300000\n")
    assert quota(tmp_path) == 3.0
    (mount / "box/cpu.cfs_quota_us").write_text("100000\n")
    assert cpu(tmp_path, frozenset(range(8))).cores == 1
    (mount / "cpu.cfs_period_us").write_text("100000\n")
    (mount / "cpu.cfs_quota_us").write_text("60000\n")
    found = cpu(tmp_path, frozenset(range(8)))
    assert (found.cores, found.quota) == (1, 0.6)


def test_one_core_has_a_mark_of_its_own(tmp_path: Path) -> None:
    """What was measured with all cores says nothing about a container of one."""
    v2(machine(tmp_path), {"box": "max 100000"}, "box")
    whole = fingerprint(tmp_path, tmp_path, frozenset({0, 1}))
    v2(tmp_path, {"box": "100000 100000"}, "box")
    assert fingerprint(tmp_path, tmp_path, frozenset({0, 1})) != whole
    assert fingerprint(tmp_path, tmp_path, frozenset({0})) == fingerprint(tmp_path, tmp_path, frozenset({0, 1}))


def test_the_fingerprint_is_stable_and_tells_hardware_apart(tmp_path: Path) -> None:
    cores = frozenset({0, 1})
    proc = machine(tmp_path / "a")
    mark = fingerprint(tmp_path, proc, cores)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 99 kB\n")
    assert fingerprint(tmp_path, proc, cores) == mark
    assert fingerprint(tmp_path, proc, frozenset({0})) != mark
    assert fingerprint(tmp_path, machine(tmp_path / "b", memory_kb=8_000_000), cores) != mark
    assert fingerprint(tmp_path, machine(tmp_path / "c", ARM), cores) != mark


def test_other_kernels_are_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, cores = machine(tmp_path), frozenset({0, 1})
    monkeypatch.setattr("pintpot.machine.features.kernels_path", lambda: "avx2")
    mark = fingerprint(tmp_path, proc, cores)
    monkeypatch.setattr("pintpot.machine.features.kernels_path", lambda: "amx")
    assert fingerprint(tmp_path, proc, cores) != mark


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [("portable", "portable\n"), ("mmx", "UnsupportedPlatform: no instruction set is called 'mmx'")],
)
def test_kernels_by_name(asked: str, wanted: str) -> None:
    pytest.importorskip("pintpot._native")
    code = "from pintpot.machine.features import kernels_path\nprint(kernels_path())"
    environment = {**os.environ, "PINTPOT_ISA": asked}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert wanted in done.stdout + done.stderr


def test_this_machine() -> None:
    found = cpu()
    assert 1 <= found.cores <= len(found.affinity)
    assert found.model
    assert fingerprint(Path.cwd()) == fingerprint(Path.cwd())


def test_a_card_is_found_by_its_device_file(tmp_path: Path) -> None:
    assert not has_nvidia(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_nvidia(tmp_path)
