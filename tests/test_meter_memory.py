"""The kernel's memory figures, read from trees that show other machines, and from this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pintpot.errors import UnsupportedPlatform
from pintpot.meter import memory

GB = 1_000_000_000


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(tmp: Path, cgroup: str, mounts: str, free_kb: int = 8_000_000) -> Path:
    proc = tmp / "proc"
    write(proc / "meminfo", f"MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: {free_kb} kB\n")
    write(proc / "self/cgroup", cgroup)
    write(proc / "self/mountinfo", mounts)
    return proc


def group_v1(folder: Path, limit: int, used: int, cache: int = 0, dirty: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {cache}\ntotal_dirty {dirty}\n")


def test_usage_reads_the_status_file(tmp_path: Path) -> None:
    status = "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t 120 kB\nRssFile:\t 70 kB\nRssShmem:\t 10 kB\n"
    write(tmp_path / "77/status", status)
    found = memory.usage(77, tmp_path)
    assert found == memory.Usage(200 * 1024, 300 * 1024, 120 * 1024, 70 * 1024, 10 * 1024)
    assert memory.peak_bytes(77, tmp_path) == 300 * 1024
    assert memory.resident_bytes(77, tmp_path) == 200 * 1024


def test_a_system_without_proc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedPlatform, match="Linux"):
        memory.usage(proc=tmp_path)
    with pytest.raises(UnsupportedPlatform, match="Linux"):
        memory.available(tmp_path)


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    found = memory.available(machine(tmp_path, "", ""))
    assert found == memory.Available(8_000_000 * 1024, 16_000_000 * 1024, "the machine")


def test_every_enclosing_group_of_version_1_counts(tmp_path: Path) -> None:
    mount = tmp_path / "sys/memory"
    proc = machine(tmp_path, "4:memory:/a/b\n0::/\n", f"35 31 0:32 / {mount} rw - cgroup cgroup rw,memory\n")
    group_v1(mount, 1 << 63, 5 * GB)
    group_v1(mount / "a", 3 * GB, 2 * GB, cache=700_000_000, dirty=200_000_000)
    group_v1(mount / "a/b", 4 * GB, 1 * GB)
    found = memory.available(proc)
    assert found.num_bytes == 3 * GB - (2 * GB - 500_000_000)
    assert found.limit_bytes == 3 * GB
    assert found.holder.endswith("/a")


def test_a_limit_above_what_is_mounted_is_seen(tmp_path: Path) -> None:
    mount = tmp_path / "sys/memory"
    proc = machine(tmp_path, "4:memory:/docker/x\n", f"35 31 0:32 /docker/x {mount} rw - cgroup cgroup rw,memory\n")
    group_v1(mount, 1 << 62, 1 * GB)
    write(mount / "memory.stat", f"hierarchical_memory_limit {2 * GB}\n")
    assert memory.available(proc) == memory.Available(1 * GB, 2 * GB, f"control group {mount}")


def test_version_2_takes_the_lower_of_max_and_high(tmp_path: Path) -> None:
    mount = tmp_path / "sys/unified"
    proc = machine(tmp_path, "0::/user/app\n", f"35 31 0:32 / {mount} rw - cgroup2 cgroup2 rw\n")
    write(mount / "cgroup.controllers", "cpu memory\n")
    for name, maximum, high, used in (("user", "max", "6000000000", 5 * GB), ("user/app", "2000000000", "max", GB)):
        write(mount / name / "memory.max", f"{maximum}\n")
        write(mount / name / "memory.high", f"{high}\n")
        write(mount / name / "memory.current", f"{used}\n")
        write(mount / name / "memory.stat", "active_file 300000000\nslab_reclaimable 100000000\n")
    found = memory.available(proc)
    assert found.num_bytes == 2 * GB - (GB - 400_000_000)
    assert found.holder.endswith("user") or found.holder.endswith("app")
    write(mount / "user/memory.high", "5100000000\n")
    assert memory.available(proc).num_bytes == 5_100_000_000 - (5 * GB - 400_000_000)


def test_a_hybrid_system_uses_version_1_where_the_controller_is(tmp_path: Path) -> None:
    one, two = tmp_path / "sys/memory", tmp_path / "sys/unified"
    mounts = f"1 1 0:1 / {two} rw - cgroup2 cgroup2 rw\n2 1 0:2 / {one} rw - cgroup cgroup rw,memory\n"
    proc = machine(tmp_path, "4:memory:/\n0::/\n", mounts)
    group_v1(one, 2 * GB, 0)
    write(two / "cgroup.controllers", "\n")
    assert memory.available(proc).limit_bytes == 2 * GB


def test_the_peak_of_this_process_follows_an_allocation_and_a_reset() -> None:
    block = bytearray(b"x" * 40_000_000)
    high = memory.peak_bytes()
    assert high >= len(block)
    assert memory.resident_bytes() <= high
    del block
    refusal = memory.reset_peak()
    if refusal is not None:
        pytest.skip(refusal)
    assert memory.peak_bytes() < high - 20_000_000


def test_a_refused_reset_says_why(tmp_path: Path) -> None:
    write(tmp_path / "self/status", "VmHWM: 9000 kB\nVmRSS: 200 kB\n")
    assert "kept the old one" in str(memory.reset_peak(tmp_path))
    (tmp_path / "self/clear_refs").unlink()
    (tmp_path / "self/clear_refs").mkdir()
    assert "does not let" in str(memory.reset_peak(tmp_path))


def test_this_machine_has_memory_left() -> None:
    found = memory.available()
    assert 0 < found.num_bytes <= found.limit_bytes


def test_what_a_process_holds_already_is_attainable(tmp_path: Path) -> None:
    proc = machine(tmp_path, "", "")
    write(proc / "self/status", "VmRSS: 3000 kB\nRssAnon: 1000 kB\n")
    assert memory.attainable_bytes(proc) == memory.available(proc).num_bytes + 3000 * 1024
