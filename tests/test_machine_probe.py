"""Probing this machine for real, quickly; rates are checked for sense, not for speed."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from pintpot.errors import UnsupportedPlatform
from pintpot.machine import probe as room
from pintpot.machine.cuda import cuda_device, cuda_loops
from pintpot.machine.features import cpu, fingerprint
from pintpot.machine.here import this_machine
from pintpot.machine.loops import bench, cpu_loops, disk_file, disk_loops, packing_loops, thread_counts
from pintpot.machine.null import null_machine
from pintpot.machine.probe import probe
from pintpot.machine.process import process_bytes, program_mark
from pintpot.machine.remember import remember
from pintpot.machine.spec import DISK_BLOCKS, Machine

needs_native = pytest.mark.skipif(find_spec("pintpot._native") is None, reason="the compiled part is not built")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    seen: list[float] = []
    found = probe(tmp_path_factory.mktemp("disk"), quick=True, progress=lambda share, what: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    return found


@needs_native
def test_a_quick_probe_prices_what_plans_ask_for(machine: Machine) -> None:
    assert machine.origin == "quick"
    assert machine.cpu.threads == cpu().cores
    wanted = ["read", "copy", "barrier", "call", "int8_peak", "float_peak", "attend/f16", "attend_many/sym8c"]
    wanted += [f"{kind}/{name}" for kind in ("matvec", "matmul", "expand") for name in ("sym8", "sym4", "q4_k", "f16")]
    for what in wanted:
        rate = machine.rate(what, threads=machine.cpu.threads)
        assert rate is not None, what
        assert 0 < rate.low <= rate.mid <= rate.high, what


@needs_native
def test_rates_make_sense_together(machine: Machine, tmp_path: Path) -> None:
    def sensible(one: Machine) -> bool:
        ram, cached = one.rate("matvec/sym4"), one.rate("matvec/sym4", size=1 << 20)
        copy, read = one.rate("copy"), one.rate("read")
        assert ram
        assert cached
        assert copy
        assert read
        return ram.mid < 2 * cached.high and copy.low > 1e8 and read.high < 1e13

    # Beside other work one quick probe may find the caches slower than the RAM, but not every one.
    assert sensible(machine) or any(sensible(probe(tmp_path, quick=True)) for _ in range(4))


@needs_native
def test_the_record_is_whole(machine: Machine) -> None:
    assert 10_000_000 < machine.process_bytes < 500_000_000
    assert machine.disk_free_bytes > 0
    assert machine.cpu.features[0].startswith("path:")
    assert Machine.from_json(machine.to_json()) == machine


@needs_native
def test_a_probe_leaves_no_file(tmp_path: Path) -> None:
    with disk_file(tmp_path, 8 << 20) as (path, size):
        assert path.parent == tmp_path
        assert path.stat().st_size == size == 8 << 20
        units, seconds = next(iter(disk_loops(path, size, True))).run(1)
        assert units > 0
        assert seconds > 0
    assert list(tmp_path.iterdir()) == []


@needs_native
def test_a_file_that_is_there_is_read_and_left_alone(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(2 * max(DISK_BLOCKS) + 5))
    with disk_file(model, 1 << 20) as (path, size):
        assert (path, size) == (model, 2 * max(DISK_BLOCKS))
    assert [found.name for found in tmp_path.iterdir()] == ["model.gguf"]
    assert fingerprint(model) == fingerprint(tmp_path)


@needs_native
def test_a_full_disk_costs_only_the_disk_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.machine.loops.free_bytes", lambda path: 1000)
    notes: list[str] = []
    assert room._disk_rates(tmp_path, True, 0.1, None, notes) == ()
    assert "no room" in notes[0]


@needs_native
def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LEAST_ARENA", 1 << 62)
    with pytest.raises(UnsupportedPlatform, match="too little memory"):
        room._cpu_rates(cpu(), True, 0.1, None, [])


@needs_native
def test_every_loop_does_work_and_reports_it() -> None:
    stand = bench((1, 2), 8 << 20, True)
    loops = (*cpu_loops(stand), *packing_loops(stand.formats))
    assert len({(loop.what, loop.threads, loop.size) for loop in loops}) == len(loops)
    for loop in loops:
        units, seconds = loop.run(1)
        assert units > 0, loop.what
        assert 0 < seconds < 5, loop.what


def test_thread_counts_double_and_end_with_all() -> None:
    assert thread_counts(1, False) == (1,)
    assert thread_counts(2, False) == (1, 2)
    assert thread_counts(6, False) == (1, 2, 4, 6)
    assert thread_counts(6, True) == (6,)


def test_process_size_counts_what_is_imported() -> None:
    bare, with_numpy = process_bytes(()), process_bytes(("numpy", "there_is_no_such_package"))
    assert 3_000_000 < bare < with_numpy


def test_the_memory_of_compiling_modules_is_not_that_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "freshly_installed.py").write_text(
        "".join(f"def f{i}(a, b): return a + b * {i}\n" for i in range(20_000))
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    first, second = process_bytes(("freshly_installed",)), process_bytes(("freshly_installed",))
    assert abs(first - second) < 3_000_000, "the first one compiled the module"


def test_the_mark_of_a_program_changes_with_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "installed_here.py"
    module.write_text("pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("installed_here", "there_is_no_such_package")
    first = program_mark(names)
    assert program_mark(names) == first
    assert program_mark(("numpy",)) != first
    os.utime(module, ns=(1, 1))
    second = program_mark(names)
    module.write_text("pass  # longer\n")
    os.utime(module, ns=(1, 1))
    assert len({first, second, program_mark(names)}) == 3
    module.write_text("pass\n")
    os.utime(module, ns=(1, 1))
    assert program_mark(names) == second
    monkeypatch.setattr("pintpot.machine.process.__version__", "0.0.0")
    assert program_mark(names) != second


def test_the_mark_of_a_program_follows_versions_where_files_keep_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some installers give every file one time, and two releases may begin with the same file."""
    package, about = tmp_path / "installed_there", tmp_path / "installed_there-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text("pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = program_mark(("installed_there",))
    (tmp_path / "another-1.0.dist-info").mkdir()
    assert program_mark(("installed_there",)) == first
    about.rename(tmp_path / "installed_there-1.1.dist-info")
    assert program_mark(("installed_there",)) != first


def test_an_upgraded_program_is_weighed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path))
    stale = replace(null_machine(process_bytes=5_000_000), fingerprint=fingerprint(tmp_path), origin="measured")
    remember(stale)
    told: list[str] = []
    assert this_machine(progress=lambda done, what: told.append(what)) == stale
    monkeypatch.setattr("pintpot.machine.remember.program_mark", lambda: "upgraded")
    with caplog.at_level(logging.INFO, "pintpot"):
        found = this_machine(progress=lambda done, what: told.append(what))
    assert 10_000_000 < found.process_bytes < 500_000_000
    assert replace(found, process_bytes=5_000_000) == stale
    assert told == ["weighing an empty process"]
    assert "it took 5.00 MB" in caplog.text
    caplog.clear()
    assert this_machine() == found
    assert caplog.text == ""


def test_without_a_card_torch_is_not_imported(tmp_path: Path) -> None:
    start = time.perf_counter()
    assert cuda_device(tmp_path) is None
    assert time.perf_counter() - start < 0.5


@pytest.mark.cuda
def test_a_card_is_measured() -> None:
    card = cuda_device()
    assert card is not None
    assert card.kind == "cuda"
    assert card.memory_bytes > 0
    names, notes = set(), list[str]()
    for loop in cuda_loops(notes):
        units, seconds = loop.run(1)
        assert units > 0, loop.what
        assert seconds > 0, loop.what
        names.add(loop.what)
    assert {"cuda/read", "cuda/h2d_pinned", "cuda/h2d_pageable", "cuda/matmul/f16", "cuda/matmul/int8"} <= names, notes
