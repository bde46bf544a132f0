"""Limits of memory and processor time, read from trees of control groups as kernels and containers lay them out.

`{}` in a mount table stands for the folder of the tree. Bytes are in millions, so that a table stays readable.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pintpot.machine.features import quota
from pintpot.meter.cgroup import groups, read_int, read_table
from pintpot.meter.memory import Available, available

MB = 1_000_000
TOTAL, FREE = 16_000 * MB, 9_000 * MB
V2 = "1 1 0:1 / {} rw - cgroup2 cgroup2 rw\n"
Tree = dict[str, str]


def tree(tmp: Path, cgroup: str, mounts: str, files: Tree, at: str = "cgroup") -> Path:
    """A `/proc` whose process is in `cgroup`, and the files of its control groups, paths from the mount point."""
    mount, proc = tmp / at, tmp / "proc"
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {TOTAL // 1024} kB\nMemAvailable: {FREE // 1024} kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "self/mountinfo").write_text(mounts.replace("{}", str(mount).replace(" ", r"\040")))
    return proc


def v2(group: str, most: int | str, used: int | None = 0, high: str = "max") -> Tree:
    """A group's files; `used` None: it is one without memory.current."""
    found = {f"{group}/memory.max": f"{most * MB if isinstance(most, int) else most}\n", f"{group}/memory.high": high}
    if used is not None:
        found[f"{group}/memory.current"] = f"{used * MB}\n"
    return found


def v1(group: str, most: int | None, used: int | None = 0, above: int | None = None) -> Tree:
    """`most` None: the largest multiple of a page, which means none; `above`: what the kernel says of groups above."""
    limit = 9_223_372_036_854_771_712 if most is None else most * MB
    found = {f"{group}/memory.limit_in_bytes": f"{limit}\n"}
    if used is not None:
        found[f"{group}/memory.usage_in_bytes"] = f"{used * MB}\n"
    if above is not None:
        found[f"{group}/memory.stat"] = f"hierarchical_memory_limit {above * MB}\n"
    return found


HANDS_OUT = {"cgroup.controllers": "cpuset cpu io memory pids\n"}

VERSION_2 = {
    "no limit anywhere": ("/a/b", v2("a", "max", 700) | v2("a/b", "max", 500), None),
    "its own": ("/a/b", v2("a", "max", 700) | v2("a/b", 800, 500), (300, 800, "a/b")),
    "its parent's": ("/a/b", v2("a", 900, 700) | v2("a/b", "max", 500), (200, 900, "a")),
    "a far parent's, between groups without files": (
        "/a/b/c/d",
        v2("a", 900, 700) | v2("a/b/c/d", "max"),
        (200, 900, "a"),
    ),
    "less room in the wider group": ("/a/b", v2("a", 900, 850) | v2("a/b", 800, 500), (50, 800, "a")),
    "a lower limit, and more room": ("/a/b", v2("a", 900, 850) | v2("a/b", 400, 100), (50, 400, "a")),
    "memory is not handed down": ("/a/b", v2("a", 900, 700) | {"a/b/cgroup.controllers": "cpu\n"}, (200, 900, "a")),
    "nobody says what is used": ("/a", v2("a", 900, None), (900, 900, "a")),
    "more is used than allowed": ("/a", v2("a", 900, 950), (0, 900, "a")),
    "nothing is allowed": ("/a", v2("a", 0, 0), (0, 0, "a")),
    "throttled before it is full": ("/a", v2("a", "max", 100, str(300 * MB)), (200, 300, "a")),
    "more than the machine has left": ("/a", v2("a", 12_000, 0), (9_000, 12_000, None)),
    "more than the machine has": ("/a", v2("a", 64_000, 0), None),
    "files that say nothing": ("/a", {"a/memory.max": "", "a/memory.high": "\n", "a/memory.current": "x"}, None),
    "the root of a container": ("/", v2(".", 900, 700), (200, 900, "")),
    "a group outside of what is mounted": ("/../../x", v2(".", 900, 700), (200, 900, "")),
    "a group that is not there": ("/gone/away", v2(".", 900, 700), (200, 900, "")),
}

VERSION_1 = {
    "no limit anywhere": ("/a/b", v1(".", None) | v1("a", None, 700) | v1("a/b", None, 500), None),
    "its own": ("/a/b", v1(".", None) | v1("a", None, 700) | v1("a/b", 800, 500), (300, 800, "a/b")),
    "its parent's": ("/a/b", v1("a", 900, 700) | v1("a/b", None, 500, above=900), (200, 900, "a")),
    "a far parent's": ("/a/b/c", v1("a", 900, 700) | v1("a/b", None, 10) | v1("a/b/c", None, 5), (200, 900, "a")),
    "one above what is mounted": ("/", v1(".", None, 500, above=600), (100, 600, "")),
    "nobody says what is used": ("/a", v1("a", 900, None), (900, 900, "a")),
    "no file at all": ("/a", {"a/tasks": ""}, None),
}


def expected(mount: Path, room: tuple[int, int, str | None] | None) -> Available:
    """Of (room left, limit, whose): None where the machine itself is the limit."""
    if room is None:
        return Available(FREE // 1024 * 1024, TOTAL // 1024 * 1024, "the machine")
    left, limit, whose = room
    holder = "the machine" if whose is None else f"control group {mount / whose}"
    return Available(left * MB if whose is not None else FREE // 1024 * 1024, limit * MB, holder)


@pytest.mark.parametrize("case", VERSION_2)
def test_memory_of_version_2(tmp_path: Path, case: str) -> None:
    group, files, room = VERSION_2[case]
    proc = tree(tmp_path, f"0::{group}\n", V2, HANDS_OUT | files)
    assert available(proc) == expected(tmp_path / "cgroup", room)


@pytest.mark.parametrize("case", VERSION_1)
def test_memory_of_version_1(tmp_path: Path, case: str) -> None:
    group, files, room = VERSION_1[case]
    proc = tree(tmp_path, f"4:memory:{group}\n", "1 1 0:1 / {} rw - cgroup cgroup rw,memory\n", files)
    assert available(proc) == expected(tmp_path / "cgroup", room)


def test_cache_that_the_kernel_would_give_back_is_room(tmp_path: Path) -> None:
    """What is dirty or under way to the disk must be written first."""
    stat = "anon 400000000\ninactive_file 200000000\nactive_file 100000000\nfile_dirty 30000000\n"
    stat += "file_writeback 20000000\nslab_reclaimable 10000000\nslab_unreclaimable 40000000\n"
    proc = tree(tmp_path, "0::/a\n", V2, HANDS_OUT | v2("a", 900, 800) | {"a/memory.stat": stat})
    assert available(proc).num_bytes == (900 - 800 + 300 - 50 + 10) * MB


def test_a_container_on_version_1_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """Its groups are named from the machine's root, and only its own part is mounted."""
    mounts = "1 1 0:1 /docker/f00 {} ro - cgroup cgroup rw,memory\n"
    files = v1(".", 900, 100) | v1("job", 500, 100)
    proc = tree(tmp_path, "4:memory:/docker/f00/job\n", mounts, files)
    assert available(proc) == Available(400 * MB, 500 * MB, f"control group {tmp_path / 'cgroup/job'}")


def test_a_container_on_version_2_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    mounts = "1 1 0:1 /system.slice/f00.scope {} ro - cgroup2 cgroup2 rw\n"
    proc = tree(tmp_path, "0::/system.slice/f00.scope\n", mounts, HANDS_OUT | v2(".", 900, 100))
    assert available(proc) == Available(800 * MB, 900 * MB, f"control group {tmp_path / 'cgroup'}")


def test_groups_above_the_mount_point_are_not_ours(tmp_path: Path) -> None:
    """Folders beside and above the mount are no control groups, whatever lies in them."""
    files = v2("../", 1, 0) | v2("other", 1, 0) | v2("a", 900, 700) | HANDS_OUT
    (tmp_path / "cgroup").mkdir()
    proc = tree(tmp_path, "0::/a\n", V2, files)
    assert available(proc).limit_bytes == 900 * MB


def test_a_mount_point_with_a_blank(tmp_path: Path) -> None:
    proc = tree(tmp_path, "0::/a\n", V2, HANDS_OUT | v2("a", 900, 700), at="control groups")
    assert available(proc).num_bytes == 200 * MB


@pytest.mark.parametrize("controllers", ["", "cpu io\n"])
def test_version_2_without_the_memory_controller_is_none(tmp_path: Path, controllers: str) -> None:
    proc = tree(tmp_path, "0::/a\n", V2, v2("a", 900, 700) | {"cgroup.controllers": controllers})
    assert groups("memory", proc) is None
    assert available(proc).holder == "the machine"


def test_version_1_that_is_not_mounted_leaves_version_2(tmp_path: Path) -> None:
    proc = tree(tmp_path, "4:memory:/x\n0::/a\n", V2, HANDS_OUT | v2("a", 900, 700))
    assert available(proc).num_bytes == 200 * MB


def test_controllers_that_share_a_hierarchy(tmp_path: Path) -> None:
    mounts = "1 1 0:1 / {} rw - cgroup cgroup rw,cpu,cpuacct,memory\n"
    files = v1("a", 900, 700) | {"a/cpu.cfs_quota_us": "150000\n", "a/cpu.cfs_period_us": "100000\n"}
    proc = tree(tmp_path, "3:cpu,cpuacct,memory:/a\n1:name=systemd:/user.slice\n", mounts, files)
    assert available(proc).num_bytes == 200 * MB
    assert quota(proc) == 1.5


TIME_2: dict[str, tuple[Tree, float | None]] = {
    "no limit": ({"a/cpu.max": "max 100000\n", "a/b/cpu.max": "max 100000\n"}, None),
    "its own": ({"a/cpu.max": "max 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
    "its parent's": ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3.0),
    "the lower of two": ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "800000 200000\n"}, 3.0),
    "its parent's, and no file of its own": ({"a/cpu.max": "300000 100000\n", "a/b/cpu.stat": ""}, 3.0),
    "no period": ({"a/b/cpu.max": "300000\n"}, None),
    "a period of nothing": ({"a/b/cpu.max": "300000 0\n"}, None),
    "no files": ({"a/b/cpu.stat": ""}, None),
}


@pytest.mark.parametrize("case", TIME_2)
def test_time_of_version_2(tmp_path: Path, case: str) -> None:
    files, share = TIME_2[case]
    assert quota(tree(tmp_path, "0::/a/b\n", V2, HANDS_OUT | files)) == share


TIME_1: dict[str, tuple[tuple[str | None, str | None], tuple[str | None, str | None], float | None]] = {
    "no limit": (("-1", "100000"), ("-1", "100000"), None),
    "its own": (("-1", "100000"), ("50000", "100000"), 0.5),
    "its parent's": (("300000", "100000"), ("-1", "100000"), 3.0),
    "the lower of two": (("300000", "100000"), ("800000", "200000"), 3.0),
    "no period": ((None, None), ("300000", None), None),
    "a period of nothing": ((None, None), ("300000", "0"), None),
    "no files": ((None, None), (None, None), None),
}


@pytest.mark.parametrize("case", TIME_1)
def test_time_of_version_1(tmp_path: Path, case: str) -> None:
    outer, inner, share = TIME_1[case]
    files = {"a/b/tasks": ""}
    for group, (granted, period) in (("a", outer), ("a/b", inner)):
        files |= {f"{group}/cpu.cfs_quota_us": f"{granted}\n"} if granted is not None else {}
        files |= {f"{group}/cpu.cfs_period_us": f"{period}\n"} if period is not None else {}
    assert quota(tree(tmp_path, "3:cpu:/a/b\n", "1 1 0:1 / {} rw - cgroup cgroup rw,cpu\n", files)) == share


def test_small_files_that_say_nothing_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_int(path) is None
    assert read_table(path) == {}
    for text, number in (("", None), ("max\n", None), ("-1\n", None), ("12\n", 12), ("0", 0), ("x 3\n", None)):
        path.write_text(text)
        assert read_int(path) == number, text
    path.write_text("low 3\nhigh\nmax -4\n\nsome total 5\nlast 6")
    assert read_table(path) == {"low": 3, "last": 6}
    (tmp_path / "folder").mkdir()
    assert read_int(tmp_path / "folder") is None
