"""The verbs as functions: a model is planned and packed once for a question, elsewhere, and found again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import Tiny, write_gguf

import pintpot
from pintpot.cli import cli
from pintpot.errors import BadInput, DoesNotFit, UsageError
from pintpot.machine.here import this_machine
from pintpot.machine.remember import remember
from pintpot.meter.memory import peak_bytes
from pintpot.packer.manifest import read_manifest
from pintpot.packer.place import place_of
from pintpot.packer.shelf import kept_packs
from pintpot.runtime.request import Sampling


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=71)
    return write_gguf(tmp_path_factory.mktemp("api") / "model.gguf", tiny, "q8_0")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = this_machine()
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    remember(known)
    return tmp_path / "home"


def test_a_model_is_packed_once_for_a_question(home: Path, source: Path) -> None:
    told: list[tuple[float, str]] = []
    with pintpot.run(source, memory="300MB", context=128, progress=lambda *said: told.append(said)) as session:
        first = "".join(session.complete("Once", sampling=Sampling(0.0), max_tokens=5, ignore_end=True))
    assert any(what == "packing" for _, what in told)
    (kept,) = kept_packs()
    made = (kept.folder / "manifest.json").stat().st_mtime_ns
    told.clear()
    with pintpot.run(source, memory=300_000_000, context=128, progress=lambda *said: told.append(said)) as session:
        assert session.folder == kept.folder
        again = "".join(session.complete("Once", sampling=Sampling(0.0), max_tokens=5, ignore_end=True))
    assert again == first
    assert (kept.folder / "manifest.json").stat().st_mtime_ns == made
    assert not any(what == "packing" for _, what in told)
    with pintpot.run(source, memory="310MB", context=128) as session:
        assert session.folder != kept.folder
    assert len(kept_packs()) == 2


def test_a_pack_has_its_plan(home: Path, source: Path, tmp_path: Path) -> None:
    folder = pintpot.pack(source, folder=tmp_path / "pack", memory="300MB", context=128)
    assert read_manifest(folder)[0].plan.budget.memory_bytes == 300_000_000
    with pytest.raises(UsageError, match="belong to a model"):
        pintpot.run(folder, memory="200MB")
    with pintpot.run(folder, threads=1) as session:
        assert session.plan.threads == 1


def test_a_kept_pack_is_run_by_its_name(home: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pintpot.pack(source, memory="300MB", context=128)
    with pintpot.run(folder.name) as session:
        assert session.folder == folder
    proved: list[Path] = []
    monkeypatch.setattr("pintpot.proof.prove.prove", lambda pack, **how: proved.append(pack))
    pintpot.prove(folder.name)
    pintpot.prove("elsewhere")
    assert proved == [folder, Path("elsewhere")]
    with pytest.raises(BadInput, match="no such file"):
        pintpot.run(f"{folder.name}x")


def test_plans_of_equal_steps_for_other_work_are_kept_apart(home: Path, source: Path) -> None:
    made = pintpot.plan(source, memory="300MB", context=128)
    budget, work = made.budget, made.budget.workload
    wider = [replace(work, **other) for other in ({"context": 256}, {"batch": 4}, {"prompt": 40}, {"output": 40})]
    others = [
        *(replace(made, budget=replace(budget, workload=one)) for one in wider),
        replace(made, budget=replace(budget, memory_bytes=310_000_000)),
        replace(made, budget=replace(budget, degradation=0.2)),
        replace(made, threads=made.threads + 1),
    ]
    model = pintpot.describe(source)
    assert len({place_of(model, one) for one in (made, *others)}) == 1 + len(others)
    assert place_of(model, replace(made, rejected=())) == place_of(model, made)


def test_what_was_free_is_no_part_of_a_plans_place(home: Path, source: Path) -> None:
    made, model = pintpot.plan(source, context=128), pintpot.describe(source)
    later = replace(made, budget=replace(made.budget, memory_bytes=made.budget.memory_bytes + 4096))
    assert place_of(model, later) == place_of(model, made)


def test_a_pack_for_another_machine_says_so(home: Path, source: Path, tmp_path: Path) -> None:
    arguments = ["pack", str(source), "--memory", "300MB", "--context", "128", "-o", str(tmp_path / "pack")]
    other = CliRunner().invoke(cli, [*arguments, "--machine", "raspberry_pi_5"])
    assert other.exit_code == 0, other.stderr
    assert "planned for Raspberry Pi 5" in other.stderr
    assert "not for this machine" in other.stderr
    assert "not for this machine" not in CliRunner().invoke(cli, arguments).stderr


def test_what_goes_wrong_elsewhere_comes_here(home: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="smallest possible budget") as refused:
        pintpot.run(source, memory="10MB", context=128)
    assert f"({refused.value.smallest_bytes} bytes" in str(refused.value)
    with pytest.raises(UsageError, match="context"):
        pintpot.run(source, memory="300MB", context=100_000)
    with pytest.raises(BadInput, match="no such file"):
        pintpot.run(tmp_path / "nowhere.gguf")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine").write_text("")
    with pytest.raises(UsageError, match="no pack"):
        pintpot.pack(source, folder=tmp_path / "pack", memory="300MB", context=128)
    assert kept_packs() == ()


def test_what_planning_elsewhere_has_to_say_is_said_here(
    home: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (record,) = (home / "machines").glob("*.json")
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "processes": [["another program", 5_000_000]]}))
    with caplog.at_level(logging.INFO, "pintpot"):
        pintpot.run(source, memory="300MB", context=128).close()
    assert len([said for said in caplog.messages if "not the one that this machine was measured with" in said]) == 1
    assert next(iter(json.loads(record.read_text())["processes"]))[0] == "another program"


def test_a_machine_that_nobody_measured_is_probed_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    before = peak_bytes()
    machine = this_machine()
    assert machine.origin == "quick"
    assert peak_bytes() - before < 50_000_000
    assert this_machine() == machine
