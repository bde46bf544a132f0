"""Memory caps on version 2 control groups, against a tree that does what the kernel documents.

The rules are those of https://docs.kernel.org/admin-guide/cgroup-v2.html: a new group comes with its files, a group
with living processes is busy, one without goes with all its files. Programs are real; limits are only written down.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pintpot.errors import UnsupportedPlatform
from pintpot.meter.cap import Cap, why_no_cap

PREFIX = "pintpot-cap-"
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@dataclass
class Kernel:
    """A tree of groups under `mount`, and `/proc` as a process in its group /user/app sees it."""

    mount: Path
    proc: Path
    born_with: dict[str, str] = field(
        default_factory=lambda: (
            {"memory.max": "max\n", "memory.swap.max": "max\n", "memory.peak": "0\n"}
            | {"memory.events": "low 0\noom 0\noom_kill 0\n", "cgroup.procs": ""}
        )
    )
    refuses: str = ""
    removed: dict[str, dict[str, str]] = field(default_factory=dict)
    """What the files of removed groups said at their end."""

    def make(self, folder: Path) -> None:
        for name, text in self.born_with.items():
            (folder / name).write_text(text)
        if self.refuses:
            (folder / self.refuses).unlink()
            (folder / self.refuses).mkdir()

    def remove(self, folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, "no such group")
        if any(alive(int(pid)) for pid in (folder / "cgroup.procs").read_text().split()):
            raise OSError(errno.EBUSY, "busy")
        self.removed[folder.name] = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
        shutil.rmtree(folder)

    def groups(self) -> list[str]:
        return [path.name for path in self.mount.rglob(f"{PREFIX}*")]


def alive(pid: int) -> bool:
    """A zombie has left its group."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    mount, proc = tmp_path / "cgroup", tmp_path / "proc"
    (mount / "user/app").mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/user/app\n")
    (proc / "self/mountinfo").write_text(f"1 1 0:1 / {mount} rw - cgroup2 cgroup2 rw\n")
    for folder in (mount, mount / "user", mount / "user/app"):
        (folder / "cgroup.controllers").write_text("cpu memory\n")
        (folder / "cgroup.subtree_control").write_text("\n")
    (mount / "cgroup.subtree_control").write_text("cpu memory\n")
    (mount / "user/cgroup.subtree_control").write_text("memory\n")
    made = Kernel(mount, proc)
    mkdir, rmdir = Path.mkdir, Path.rmdir

    def make(folder: Path, *how: Any, **more: Any) -> None:
        mkdir(folder, *how, **more)
        if folder.name.startswith(PREFIX):
            made.make(folder)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", lambda folder: made.remove(folder) if PREFIX in folder.name else rmdir(folder))
    return made


def test_a_group_is_made_where_memory_is_handed_to_children(kernel: Kernel) -> None:
    """Not in our own group, which holds processes, but in the nearest that hands memory on."""
    with Cap(80_000_000, kernel.proc) as cap:
        (folder,) = kernel.mount.rglob(f"{PREFIX}*")
        assert folder.parent == kernel.mount / "user"
        assert (folder / "memory.max").read_text() == "80000000"
        assert (folder / "memory.swap.max").read_text() == "0"
        done = cap.run([sys.executable, "-c", "import os; print(os.getpid())"], timeout_s=30)
        assert done.stdout == (folder / "cgroup.procs").read_text()
    assert kernel.groups() == []


def test_it_asks_the_outermost_group_where_none_hands_memory_on(kernel: Kernel) -> None:
    for folder in (kernel.mount, kernel.mount / "user"):
        (folder / "cgroup.subtree_control").write_text("cpu\n")
    with Cap(80_000_000, kernel.proc):
        assert (kernel.mount / "cgroup.subtree_control").read_text() == "+memory"
        assert [path.parent for path in kernel.mount.rglob(f"{PREFIX}*")] == [kernel.mount]


def test_the_report_is_what_the_kernel_kept(kernel: Kernel) -> None:
    script = 'cd "$0"; echo 79000000 > memory.peak; printf "low 0\\noom 3\\noom_kill 1\\n" > memory.events'
    with Cap(80_000_000, kernel.proc) as cap:
        (folder,) = kernel.mount.rglob(f"{PREFIX}*")
        cap.run(["sh", "-c", script, str(folder)])
        assert (cap.report.limit_bytes, cap.report.peak_bytes, cap.report.killed) == (80_000_000, 79_000_000, True)
    assert cap.report.killed


def test_kernels_without_a_peak_or_swap_are_taken(kernel: Kernel) -> None:
    """Before Linux 5.19 there was no memory.peak; without swap accounting there is no memory.swap.max."""
    del kernel.born_with["memory.peak"], kernel.born_with["memory.swap.max"]
    with Cap(80_000_000, kernel.proc) as cap:
        cap.run(["true"])
    assert cap.report.peak_bytes is None
    assert not cap.report.killed
    (files,) = kernel.removed.values()
    assert set(files) == {"memory.max", "memory.events", "cgroup.procs"}


@pytest.mark.parametrize("file", ["memory.max", "memory.swap.max"])
def test_a_limit_that_is_refused_leaves_nothing_behind(kernel: Kernel, file: str) -> None:
    kernel.refuses = file
    assert "takes no limit" in str(why_no_cap(kernel.proc))
    with pytest.raises(UnsupportedPlatform, match="takes no limit"), Cap(80_000_000, kernel.proc):
        pass
    assert kernel.groups() == []


def test_what_still_runs_at_the_end_is_killed(kernel: Kernel) -> None:
    with Cap(80_000_000, kernel.proc) as cap:
        process = cap.popen(["sh", "-c", 'sleep 60 & echo $! >> "$0/cgroup.procs"; echo; wait', _group(kernel)],
                            stdout=subprocess.PIPE)  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        pids = [int(pid) for pid in (Path(_group(kernel)) / "cgroup.procs").read_text().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
    process.stdout.close()
    assert process.wait(timeout=10) == -9
    assert not any(map(alive, pids))
    assert kernel.groups() == []


def test_groups_that_the_dead_left_are_swept(kernel: Kernel) -> None:
    """Only empty ones, and only those of processes that are gone."""
    user = kernel.mount / "user"
    (kernel.proc / "1234569").mkdir()
    for name in ("1234567-0", "1234568-0", "1234569-0"):
        (user / f"{PREFIX}{name}").mkdir()
    (user / f"{PREFIX}1234568-0/cgroup.procs").write_text(f"{os.getpid()}\n")
    assert why_no_cap(kernel.proc) is None
    assert sorted(kernel.groups()) == [f"{PREFIX}1234568-0", f"{PREFIX}1234569-0"]


def test_a_group_that_a_dead_process_with_our_number_left_is_passed_by(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pintpot.meter.cap._COUNT", itertools.count(5))
    left = kernel.mount / "user" / f"{PREFIX}{os.getpid()}-5"
    (kernel.proc / str(os.getpid())).mkdir()
    left.mkdir()
    with Cap(80_000_000, kernel.proc):
        assert sorted(kernel.groups()) == [left.name, f"{PREFIX}{os.getpid()}-6"]
    assert kernel.groups() == [left.name]


def _group(kernel: Kernel) -> str:
    return str(next(kernel.mount.rglob(f"{PREFIX}*")))
