"""Records of machines: what probes and runs add up to, and two processes on one home."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pintpot.errors import BadInput
from pintpot.machine.null import null_machine
from pintpot.machine.remember import forget, knows_program, load, record_process, record_run, remember
from pintpot.machine.spec import Machine, Rate


def probe(read: float = 20e9, origin: str = "measured", spread: float = 0.1) -> Machine:
    return replace(null_machine(ram_bw=read, spread=spread), fingerprint="abc", origin=origin)  # type: ignore[arg-type]


def test_what_was_never_probed_is_not_known(tmp_path: Path) -> None:
    assert load("abc", tmp_path) is None
    with pytest.raises(BadInput, match="probe first"):
        record_run("abc", [Rate("read", 1, 1, 1)], tmp_path)


def test_one_probe_comes_back_as_it_was(tmp_path: Path) -> None:
    machine = probe()
    assert remember(machine, tmp_path) == machine
    assert load("abc", tmp_path) == machine


def test_several_probes_add_up_to_their_whole_spread(tmp_path: Path) -> None:
    for read in (20e9, 30e9, 60e9):
        remember(probe(read), tmp_path)
    machine = load("abc", tmp_path)
    assert machine is not None
    found = machine.rate("read", threads=2, size=100_000_000)
    assert found is not None
    assert (found.low, found.mid, found.high) == pytest.approx((18e9, 30e9, 66e9))
    assert len(machine.rates) == len(probe().rates)


def test_a_run_widens_a_rate_and_adds_new_ones(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    machine = record_run(
        "abc", [Rate("read", 5e9, 6e9, 7e9, 2, 100_000_000), Rate("matvec/sym4", 1, 2, 3, 2, 77)], tmp_path
    )
    found = machine.rate("read", threads=2, size=100_000_000)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((5e9, 22e9))
    assert Rate("matvec/sym4", 1, 2, 3, 2, 77) in machine.rates


def test_a_quick_probe_does_not_make_a_measured_machine_quick(tmp_path: Path) -> None:
    assert remember(probe(origin="quick"), tmp_path).origin == "quick"
    assert remember(probe(), tmp_path).origin == "measured"
    assert remember(probe(origin="quick"), tmp_path).origin == "measured"


def test_each_program_has_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade changes what an empty process weighs; two installations on one home do not disturb each other."""

    def run_as(program: str) -> None:
        monkeypatch.setattr("pintpot.machine.remember.program_mark", lambda: program)

    run_as("old")
    remember(replace(probe(), process_bytes=50_000_000), tmp_path)
    assert knows_program("abc", tmp_path)
    run_as("new")
    assert not knows_program("abc", tmp_path)
    assert record_process("abc", 60_000_000, tmp_path).process_bytes == 60_000_000
    assert load("abc", tmp_path) == replace(probe(), process_bytes=60_000_000)
    run_as("old")
    assert knows_program("abc", tmp_path)
    assert load("abc", tmp_path) == replace(probe(), process_bytes=50_000_000)
    for number in range(4):
        run_as(f"other {number}")
        record_process("abc", 70_000_000, tmp_path)
    run_as("old")
    assert not knows_program("abc", tmp_path)
    with pytest.raises(BadInput, match="probe first"):
        record_process("def", 1, tmp_path)


def test_a_record_of_an_earlier_version_is_read_and_weighed_anew(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    path = tmp_path / "machines/abc.json"
    data = json.loads(path.read_text())
    del data["processes"]
    path.write_text(json.dumps(data))
    assert load("abc", tmp_path) == probe()
    assert not knows_program("abc", tmp_path)


@pytest.mark.parametrize("spoiled", [3, [1], [["mark"]], [["mark", "x"]], [["mark", -5]]])
def test_spoiled_sizes_are_refused(tmp_path: Path, spoiled: object) -> None:
    remember(probe(), tmp_path)
    path = tmp_path / "machines/abc.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processes": spoiled}))
    with pytest.raises(BadInput, match="machine record"):
        load("abc", tmp_path)


def test_old_records_fall_out(tmp_path: Path) -> None:
    remember(probe(1e9), tmp_path)
    for _ in range(24):
        record_run("abc", [Rate("read", 9e9, 9e9, 9e9, 2, 100_000_000)], tmp_path)
    machine = load("abc", tmp_path)
    found = machine and machine.rate("read", threads=2, size=100_000_000)
    assert found is not None
    assert found.low == 9e9


def test_the_same_file_gives_the_same_digest(tmp_path: Path) -> None:
    first = remember(probe(), tmp_path)
    again = load("abc", tmp_path)
    assert again is not None
    assert again.digest == first.digest


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 9, "machine": {}, "history": []}'])
def test_a_spoiled_record_is_named(tmp_path: Path, text: str) -> None:
    remember(probe(), tmp_path)
    (tmp_path / "machines/abc.json").write_text(text)
    with pytest.raises(BadInput, match=r"abc\.json.*probe again"):
        load("abc", tmp_path)


def test_a_record_with_missing_keys_is_refused(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    path = tmp_path / "machines/abc.json"
    data = json.loads(path.read_text())
    del data["machine"]["devices"]
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput, match="devices"):
        load("abc", tmp_path)


def test_a_fingerprint_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no fingerprint"):
        load("../../etc/passwd", tmp_path)


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "machines").write_text("a file in the way")
    with pytest.raises(BadInput, match="PINTPOT_HOME"):
        remember(probe(), tmp_path)


def test_forgetting(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    assert forget("abc", tmp_path) is True
    assert load("abc", tmp_path) is None
    assert forget("abc", tmp_path) is False


WRITER = """
import sys
from pathlib import Path
from pintpot.machine.remember import record_run
from pintpot.machine.spec import Rate
for turn in range(10):
    record_run("abc", [Rate(sys.argv[2], 1, 1, 1, 1, turn)], Path(sys.argv[1]))
"""


def test_two_processes_on_one_home_lose_nothing(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, what]) for what in ("matvec/one", "matvec/two")]
    assert [writer.wait(timeout=30) for writer in writers] == [0, 0]
    machine = load("abc", tmp_path)
    assert machine is not None
    for what in ("matvec/one", "matvec/two"):
        assert {rate.size for rate in machine.rates if rate.what == what} == set(range(10))
    assert [path.name for path in (tmp_path / "machines").iterdir() if path.name.startswith(".")] == []


def test_one_rare_probe_among_many_is_not_promised(tmp_path: Path) -> None:
    for read in [20e9] * 7 + [1e9]:
        remember(probe(read), tmp_path)
    machine = load("abc", tmp_path)
    assert machine is not None
    found = machine.rate("read", threads=2, size=100_000_000)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((18e9, 22e9))


def test_what_an_earlier_release_measured_is_measured_anew(tmp_path: Path) -> None:
    remember(probe(), tmp_path)
    path = tmp_path / "machines/abc.json"
    path.write_text(path.read_text().replace('"version": 4', '"version": 1'))
    assert load("abc", tmp_path) is None
    remember(probe(), tmp_path)
    assert load("abc", tmp_path) is not None


def test_a_record_that_cannot_be_read_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be read \(Not a directory\).*PINTPOT_HOME") as told:
        load("abc", tmp_path / "file")
    assert "remove" not in str(told.value)
