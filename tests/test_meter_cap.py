"""Memory caps: on fake trees, and for real where control groups can be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pintpot.errors import UnsupportedPlatform, UsageError
from pintpot.meter.cap import Cap, why_no_cap
from pintpot.meter.cgroup import groups


def fill(num_bytes: int) -> list[str]:
    return [sys.executable, "-c", f"block = bytearray(b'x' * {num_bytes}); print(len(block))"]


@pytest.fixture
def real() -> None:
    reason = why_no_cap()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("real")
def test_a_program_inside_its_cap_lives() -> None:
    with Cap(80_000_000) as cap:
        done = cap.run(fill(30_000_000), timeout_s=30)
    assert (done.returncode, done.stdout) == (0, "30000000\n")
    assert not cap.report.killed
    assert cap.report.peak_bytes is None or 30_000_000 < cap.report.peak_bytes <= 80_000_000


@pytest.mark.usefixtures("real")
def test_a_program_above_its_cap_is_killed_and_the_report_says_so() -> None:
    with Cap(40_000_000) as cap:
        done = cap.run(fill(90_000_000), timeout_s=30)
    assert done.returncode != 0
    assert cap.report.killed


@pytest.mark.usefixtures("real")
def test_nothing_is_left_behind_when_the_block_fails() -> None:
    found = groups("memory")
    assert found is not None
    with pytest.raises(RuntimeError, match="on purpose"), Cap(80_000_000) as cap:
        process = cap.popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
        raise RuntimeError("on purpose")
    assert process.wait(timeout=10) == -9
    left = [
        folder for level in found.levels for folder in level.glob(f"pintpot-cap-{Path('/proc/self').resolve().name}-*")
    ]
    assert left == []


@pytest.mark.usefixtures("real")
def test_a_slow_program_is_ended() -> None:
    with Cap(80_000_000) as cap, pytest.raises(subprocess.TimeoutExpired):
        cap.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


def test_a_system_without_groups_says_so(tmp_path: Path) -> None:
    assert "no memory control groups" in str(why_no_cap(tmp_path))
    with pytest.raises(UnsupportedPlatform, match="no memory control groups"), Cap(1 << 30, tmp_path):
        pass


def test_version_2_without_delegation_says_so(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    mount.mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "self/mountinfo").write_text(f"1 1 0:1 / {mount} rw - cgroup2 cgroup2 rw\n")
    (mount / "cgroup.controllers").write_text("memory\n")
    (mount / "cgroup.subtree_control").mkdir()
    assert "hands memory to children" in str(why_no_cap(tmp_path))


def test_a_cap_too_small_for_any_process_is_refused() -> None:
    with pytest.raises(UsageError, match="1 MiB"):
        Cap(1000)


def test_a_cap_starts_programs_only_inside_its_block() -> None:
    with pytest.raises(UsageError, match="with block"):
        Cap(1 << 30).popen(["true"])
