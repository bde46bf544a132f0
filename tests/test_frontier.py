"""Frontiers: plans at budgets of many sizes, each measured once, kept where a start was interrupted, and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packing import MACHINE
from test_mixtures import drawn_table
from tiny import Tiny, write_hf

import pintpot
from pintpot.budget import Budget, Workload
from pintpot.cli import cli
from pintpot.errors import DoesNotFit, Interrupted
from pintpot.meter.agreement import Agreement, Interval
from pintpot.model.read import describe
from pintpot.packer.manifest import read_manifest
from pintpot.planner.memory import Recalled
from pintpot.proof import frontier as room
from pintpot.proof.frontier import Frontier, Point, plans_along
from pintpot.proof.frontier_report import write_frontier_report
from pintpot.techniques.quantize.mixed import Mixed

TINY = Tiny(hidden=128, intermediate=256, layers=2, heads=4, kv_heads=2, vocab=768, seed=64)
HOW: dict[str, Any] = {"context": 64, "budgets": 2, "runs": 1, "tokens": 256}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("frontier") / "model", TINY)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def interrupted(model: Path, kept: Path) -> list[str]:
    """What the first start packed before somebody stopped it."""
    packed: list[str] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(room, "pack_apart", _counting(packed, stop_at=2))
        pintpot.frontier(model, keep=kept, **HOW)
    return packed


@pytest.fixture(scope="module")
def found(model: Path, kept: Path, interrupted: list[str]) -> Frontier:
    return pintpot.frontier(model, keep=kept, **HOW)


def _counting(packed: list[str], stop_at: int = 0) -> Callable[..., Path]:
    pack_apart = room.pack_apart

    def counted(*args: Any) -> Path:
        packed.append(str(args[2]))
        if len(packed) == stop_at:
            raise Interrupted("enough")
        return pack_apart(*args)

    return counted


def test_plans_grow_with_their_budgets(model: Path) -> None:
    described = describe(str(model))
    budget = Budget(4_000_000_000, Workload(context=64, prompt=16, output=16))
    plans = plans_along(described, MACHINE, budget, 6, Recalled(), lambda share, what: None)
    sizes = [size for budgets in plans for size in budgets]
    assert sizes == sorted(sizes)
    assert len(sizes) == 6
    ratios = [after / before for before, after in pairwise(sizes)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)
    assert len({plan.steps for plan in plans.values()}) == len(plans) > 2, "equal plans are one"
    for budgets, plan in plans.items():
        assert plan.cost.memory_high <= min(budgets)
        assert plan.form.disk_bytes == 0
        assert plan.degradation.high <= plan.budget.degradation
    qualities = [plan.degradation.high for plan in plans.values()]
    assert qualities == sorted(qualities, reverse=True)
    assert qualities[-1] <= 0.002, "in the end nothing is left to gain"


def test_with_a_table_weights_have_formats_of_their_own_along_it(model: Path) -> None:
    described = describe(str(model))
    budget = Budget(4_000_000_000, Workload(context=64, prompt=16, output=16))
    table = drawn_table(described)
    plans = plans_along(described, MACHINE, budget, 6, Recalled(), lambda share, what: None, table)
    assert any(isinstance(step, Mixed) for plan in plans.values() for step in plan.steps)
    for plan in plans.values():
        formats = [table.of(weight, weight.format) for weight in plan.form.weights if weight.is_matrix]
        assert plan.degradation.summed == all(span is not None for span in formats)


def test_a_machine_that_is_too_small_has_no_frontier(model: Path) -> None:
    budget = Budget(10_000_000, Workload(context=64))
    with pytest.raises(DoesNotFit, match="smallest possible budget"):
        plans_along(describe(str(model)), MACHINE, budget, 3, Recalled(), lambda share, what: None)


def test_every_point_is_measured(found: Frontier) -> None:
    assert [len(point.budgets) for point in found.points] == [1] * len(found.points)
    assert len(found.points) == 2
    assert [point.weight_bytes for point in found.points] == sorted(point.weight_bytes for point in found.points)
    small, large = found.points
    assert small.answers.kl.mean > 100 * large.answers.kl.mean
    assert small.answers_of_weights.kl.mean == pytest.approx(small.answers.kl.mean, rel=0.2)
    assert small.bits < 4 < large.bits
    for point in found.points:
        assert point.decode > 0
        assert point.prefill > 0
        assert point.memory_bytes > point.weight_bytes


def test_an_interrupted_start_goes_on(
    model: Path, kept: Path, interrupted: list[str], found: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(interrupted) == 2
    packs = sorted(path for path in kept.iterdir() if path.is_dir())
    assert len(packs) == 2
    for pack in packs:
        plan = read_manifest(pack)[0].plan
        assert pack.name.startswith(f"{plan.form.weight_bytes}-")
    packed: list[str] = []
    monkeypatch.setattr(room, "pack_apart", _counting(packed))
    told: list[tuple[float, str]] = []
    again = pintpot.frontier(model, progress=lambda share, what: told.append((share, what)), **HOW)
    assert packed == []
    assert again.points == found.points
    next(found.folder.glob("point-*.json")).unlink()
    once = pintpot.frontier(model, progress=lambda share, what: told.append((share, what)), **HOW)
    assert len(packed) == 1
    assert not Path(packed[0]).parent.exists(), "a pack that nobody wants to keep is gone"
    assert [point.steps for point in once.points] == [point.steps for point in found.points]
    shares = [share for share, what in told if "plan 1 of 1" in what]
    assert shares == sorted(shares)
    assert len(shares) > 5


def test_a_point_serves_frontiers_of_any_number_of_budgets(
    model: Path, found: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []
    monkeypatch.setattr(room, "pack_apart", _counting(packed))
    one = pintpot.frontier(model, **{**HOW, "budgets": 1})
    assert packed == []
    assert [point.steps for point in one.points] == [found.points[0].steps]
    assert one.points[0].answers == found.points[0].answers
    assert one.report_path != found.report_path, "each has its page"


def test_a_frontier_is_json_and_a_page(found: Frontier, tmp_path: Path) -> None:
    data = json.loads(json.dumps(found.to_json()))
    assert data["pintpot_frontier"] == 1
    assert Point.from_json(data["points"][0]) == found.points[0]
    assert found.report_path is not None
    page = found.report_path.read_text()
    assert page.count('<svg class="plot chart"') == 2
    assert "Quality against bytes" in page
    assert "Quality against speed" in page
    perfect = Agreement(10, 2, Interval(0.0, 0.0, 0.0), 0.0, 0.0, 1.0, 2.0, 2.0)
    exact = replace(found, points=(replace(found.points[0], answers=perfect, answers_of_weights=perfect),))
    assert "0 nats" in write_frontier_report(exact, tmp_path / "exact.html").read_text()


def test_the_command_shows_every_point(model: Path, found: Frontier) -> None:
    options = ("--frontier", "--context", "64", "--budgets", "2", "--runs", "1", "--tokens", "256")
    done = CliRunner().invoke(cli, ["prove", str(model), *options, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["points"]) == 2
    shown = CliRunner().invoke(cli, ["prove", str(model), *options])
    assert shown.exit_code == 0, shown.output
    assert "what quality costs" in shown.stdout
    assert "RoundToNearest" in shown.stderr


def test_a_pack_stands_for_its_model(kept: Path, found: Frontier) -> None:
    """Its workload is the pack's, so the same question finds the same points."""
    pack = next(path for path in kept.iterdir() if path.is_dir())
    how = {key: value for key, value in HOW.items() if key != "context"}
    assert pintpot.frontier(pack, **how).folder == found.folder


@pytest.mark.parametrize("options", ["--budgets 3", "--keep x", "--frontier --steps", "--frontier --profile"])
def test_options_that_do_not_go_together_are_refused(options: str) -> None:
    done = CliRunner().invoke(cli, ["prove", "m", *options.split()])
    assert done.exit_code == 2
    assert "--frontier" in done.output
