"""Gentler rounding in plans: taken where it helps, priced, counted, refused with a reason, learned from proofs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from described import described
from test_mixtures import MB, MODEL, TABLE, WORKLOAD, machine

from pintpot.budget import Budget
from pintpot.contract.form import WeightForm, source_form
from pintpot.contract.step import GENTLER, Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable, UsageError
from pintpot.formats import KERNEL_FORMATS, has_grid
from pintpot.model.spec import Model
from pintpot.planner.assess import Bench, assess
from pintpot.planner.calibrating import calibrating_s, least_bytes
from pintpot.planner.cost import ZERO
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import Expectations, gentler, rounding_key, shipped_priors, steps_key
from pintpot.planner.explain import explain
from pintpot.planner.gentle import gentlest, ways_of
from pintpot.planner.make import make_plan
from pintpot.planner.memory import recall, remember
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.planner.search import Search
from pintpot.planner.sensitivity import share
from pintpot.planner.space import build_space
from pintpot.proof.remember import over_table
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.mbq import Mbq
from pintpot.techniques.quantize.mixed import Mixed
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest
from pintpot.units import format_bytes

ROOMY = 400 * MB


def planned(memory: int = ROOMY, proved: dict[str, tuple[float, float]] | None = None, **budget: Any) -> Plan:
    asked = Budget(memory, WORKLOAD, **budget)
    return make_plan(MODEL, machine(), asked, sensitivities=TABLE, proved=proved)


def question(memory: int = ROOMY, **budget: Any) -> Question:
    return Question(MODEL, machine(), Budget(memory, WORKLOAD, **budget), shipped_priors(), sensitivities=TABLE)


def weight(name: str, kept: str) -> WeightForm:
    return WeightForm(name, (64, 64), "f32", kept, 64, True)


# --- What is left ---------------------------------------------------------------------------------------------------


def test_shares_are_shares_and_only_where_a_step_rounds() -> None:
    for step in (Gptq(), ImportanceRounding()):
        for kept in KERNEL_FORMATS:
            low, high = step.remains(weight("layers.0.q", kept))
            assert 0 < low <= high <= 1
            if not has_grid(kept):
                assert (low, high) == (1.0, 1.0)
    assert Gptq().remains(weight("embed", "sym4"))[1] == 1.0, "of a table of words nothing is met"
    assert share((Gptq("blocks"),), weight("head", "sym4")) == (1.0, 1.0)


def test_ways_that_leave_more_of_everything_are_left_out() -> None:
    assert ways_of([(Gptq(), ImportanceRounding(), None)]) == ((), (Gptq(),))
    assert ways_of([]) == ((),)
    blocks, head = Gptq("blocks"), Gptq("vocabulary")
    assert ways_of([(blocks,), (head,)]) == ((), (blocks, head))


def test_what_is_kept_as_it_is_has_nothing_to_round() -> None:
    known = question().expects
    ways = ways_of([(Gptq(),)])
    assert gentlest(known, [AsStored()], ways) == ()
    assert gentlest(known, [RoundToNearest("all", 4)], ways) == (Gptq(),)


# --- The plan -------------------------------------------------------------------------------------------------------


def test_a_plan_takes_it_by_itself_and_is_the_better_for_it() -> None:
    plan, plain = planned(), planned(uncalibrated=True)
    assert Gptq() in plan.steps
    assert not gentler(plain.steps)
    assert plan.cost.total_s.mid < 0.95 * plain.cost.total_s.mid
    assert plan.degradation.high <= plan.budget.degradation
    best, worse = planned(prefer="quality", degradation=10.0), planned(uncalibrated=True, prefer="quality")
    assert best.degradation.high <= worse.degradation.high
    assert Plan.from_json(json.loads(plan.dumps())).dumps() == plan.dumps()
    assert planned().dumps() == plan.dumps()


def test_what_weighs_pictures_comes_with_rounding_that_looks_and_only_for_who_asks() -> None:
    sees = replace(MODEL, kind="vlm")

    def steps(model: Model, **budget: Any) -> list[Step]:
        made = make_plan(model, machine(), Budget(ROOMY, WORKLOAD, **budget), sensitivities=TABLE)
        return list(made.steps)

    plain = steps(sees)
    assert steps(sees, balanced=True) == [Mbq(), *plain]
    assert steps(sees, balanced=True, uncalibrated=True) == steps(sees, uncalibrated=True)
    assert steps(MODEL, balanced=True) == steps(MODEL)
    with pytest.raises(UsageError, match="sees no pictures, so there is nothing that --balanced"):
        make_budget(MODEL, machine(), ROOMY, balanced=True)


def test_its_degradation_is_what_each_weight_has_left_of_the_tables_sum() -> None:
    plan = planned()
    assert any(isinstance(step, Mixed) for step in plan.steps)
    low = high = 0.0
    for one in plan.form.weights:
        found = TABLE.of(one, one.format) if one.is_matrix else None
        if found:
            left = Gptq().remains(one)
            low, high = low + found[0] * left[0], high + found[1] * left[1]
    others = [shipped_priors().of(s.key) for s in plan.steps if s.facet not in GENTLER and not isinstance(s, Mixed)]
    assert plan.degradation.low == pytest.approx(low + sum(span[0] for span in others))
    assert plan.degradation.high == pytest.approx(high + sum(span[1] for span in others))
    assert high > 0.9 * (plan.budget.degradation - sum(span[1] for span in others)), "what is left is spent"


def test_without_a_table_priors_are_softened_too() -> None:
    model = described(layers=3, matrix="bf16", vocabulary="bf16")
    budget = Budget(ROOMY, WORKLOAD, degradation=0.3)
    plan = make_plan(model, machine(), budget)
    plain = make_plan(model, machine(), replace(budget, uncalibrated=True))
    assert Gptq() in plan.steps
    assert plan.form.weight_bytes < plain.form.weight_bytes
    assert plan.degradation.high <= 0.3


def test_of_a_file_of_4_bits_nothing_is_rounded_and_nothing_calibrated() -> None:
    model = described(layers=3, matrix="q4_0", vocabulary="q8_0")
    plan = make_plan(model, machine(), Budget(ROOMY, WORKLOAD, degradation=0.002))
    assert not gentler(plan.steps)
    assert plan.cost.calibrate_s == ZERO
    reasons = {item.what: item.reason for item in plan.rejected}
    assert "is rounded" in reasons[str(Gptq())]


# --- What it takes --------------------------------------------------------------------------------------------------


def test_a_budget_in_which_packing_could_not_calibrate_is_told_so_when_planning() -> None:
    least = least_bytes(source_form(MODEL), (Gptq(),), 2, 512)
    plan = planned(60 * MB)
    assert not gentler(plan.steps)
    reasons = [item.reason for item in plan.rejected if item.step == Gptq()]
    assert reasons == [f"calibrating needs {least / MB:.0f} MB of memory, the budget is 60.0 MB"]
    with pytest.raises(DoesNotFit, match="calibrating needs"):
        assess(question(60 * MB), (*planned().steps,))
    assert least_bytes(source_form(MODEL), (ImportanceRounding(),), 2) < least, "no moments, less memory"


def test_whoever_says_no_is_not_offered_it() -> None:
    plan = planned(uncalibrated=True)
    for step in (Gptq(), ImportanceRounding()):
        assert [item.reason for item in plan.rejected if item.step == step] == [
            "looking at texts before packing was ruled out by --no-calibrate"
        ]
    with pytest.raises(NotApplicable, match="--no-calibrate"):
        assess(question(uncalibrated=True), planned().steps)


def test_packing_is_priced_with_what_calibrating_takes() -> None:
    plan, plain = planned(), planned(uncalibrated=True)
    assert 0 < plan.cost.calibrate_s.low < plan.cost.calibrate_s.high < plan.cost.pack_s.high
    assert plain.cost.calibrate_s == ZERO
    assert "to look at 32,768 tokens of text before rounding" in explain(plan).packing
    assert "tokens of text" not in explain(plain).packing
    rates = Rates(machine(), 2, 0)

    def seconds(*steps: Step, tokens: int = 32768) -> float:
        return calibrating_s(plan.form, steps, rates, tokens).mid

    assert seconds() == 0
    assert seconds(ImportanceRounding()) < seconds(Gptq(sweeps=0)) < seconds(Gptq()) < seconds(Gptq(correction=0.5))
    assert seconds(Gptq(), tokens=65536) > 1.5 * seconds(Gptq(), tokens=16384)
    assert calibrating_s(plan.form, (Gptq(),), Rates(machine(), 1, 0)).mid > seconds(Gptq())


# --- What proofs teach ----------------------------------------------------------------------------------------------


def test_what_a_proof_found_of_one_mixture_is_known_of_the_next(tmp_path: Path) -> None:
    plan = planned()
    key = rounding_key(plan.steps)
    assert key == str(Gptq())
    remember("key", "here", plan, proved=(0.5, 0.6), folder=tmp_path)
    remember("key", "here", plan, proved=(0.45, 0.55), folder=tmp_path)
    known = recall("key", "here", folder=tmp_path)
    assert known.proved == {key: (0.45, 0.6)}
    better = planned(proved=dict(known.proved))
    assert better.form.weight_bytes < plan.form.weight_bytes
    assert better.degradation.high <= better.budget.degradation
    (formats,) = (step for step in plan.steps if isinstance(step, Mixed))
    plain = question().expects
    taught = Expectations(plain.priors, TABLE, plain.source, known.proved)
    low, high = plain.of(formats, (Gptq(),))
    middle = (low + high) / 2
    assert taught.of(formats, (Gptq(),)) == pytest.approx((0.45 * middle / 1.15, 0.6 * middle * 1.15))
    assert taught.of(formats) == plain.of(formats), "of rounding to nearest nothing was proved"


def test_a_proof_is_held_against_what_the_table_says() -> None:
    plan = planned()
    assert over_table(plan, None, Degradation(0.02, 0.03, True)) is None, "there is no table"
    span = TABLE.sum(plan.form.weights, gentler(plan.steps))
    assert span is not None
    middle = (span[0] + span[1]) / 2
    others = [shipped_priors().of(s.key) for s in plan.steps if s.facet not in GENTLER and not isinstance(s, Mixed)]
    low, high = (sum(one[end] for one in others) for end in (0, 1))
    ratios = over_table(plan, TABLE, Degradation(0.3 * middle + high, 0.5 * middle + low, True))
    assert ratios == pytest.approx((0.3, 0.5))
    assert over_table(plan, TABLE, Degradation(0.0, 0.0, True)) is None


def test_a_record_without_proofs_of_sums_is_read(tmp_path: Path) -> None:
    plan = planned()
    remember("key", "here", plan, holders={"tokenizer": 9}, folder=tmp_path)
    assert recall("key", "here", folder=tmp_path).proved == {}


def test_what_was_measured_of_nearest_rounding_is_not_told_of_gptq() -> None:
    steps = (RoundToNearest("all", 4), Gptq())
    assert steps_key(steps) != steps_key(steps[:1])
    assert str(Gptq()) in steps_key(steps)


def test_a_way_that_was_measured_is_weighed_as_measured() -> None:
    space = build_space(question())
    chosen = tuple(
        RoundToNearest("all", 4) if dimension.facet == Facet.FORMAT else option
        for dimension, option in zip(space.dimensions, space.mildest(), strict=True)
    )
    steps = [step for step in chosen if step is not None]
    known = {steps_key(steps): Degradation(1e-6, 2e-6, True)}
    for measured, gentle in (({}, (Gptq(),)), (known, ())):
        search = Search(Bench(replace(question(), measured=measured)), space, ROOMY)
        assert gentler(search.gently(chosen)) == gentle


@pytest.mark.parametrize("limits", [{}, {"degradation": 0.05}, {"degradation": 0.2, "prefer": "memory"}])
def test_the_smallest_budget_holds_its_plan_whether_it_leaves_room_to_calibrate_or_not(limits: dict[str, Any]) -> None:
    smallest = planned(**limits).smallest_bytes
    assert planned(smallest, **limits).cost.memory_high <= smallest


def test_a_plan_of_the_least_memory_says_nothing_that_nobody_asked() -> None:
    plan = planned(degradation=0.2, prefer="memory")
    assert plan.budget == Budget(ROOMY, WORKLOAD, degradation=0.2, prefer="memory")
    least = format_bytes(least_bytes(source_form(MODEL), (Gptq(),), 2, 512))
    reasons = [item.reason for item in plan.rejected if item.step == Gptq()]
    assert reasons == [f"calibrating needs {least} of memory, the budget is {format_bytes(plan.smallest_bytes)}"]


def test_below_what_calibrating_takes_the_smallest_budget_may_be_one_that_has_room_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_disk = replace(machine(), rates=tuple(r for r in machine().rates if r.what not in ("disk", "lookup")))

    def smallest(memory: int = ROOMY, **budget: Any) -> Plan:
        return make_plan(MODEL, no_disk, Budget(memory, WORKLOAD, **budget), sensitivities=TABLE)

    plain = smallest(uncalibrated=True).smallest_bytes
    monkeypatch.setattr("pintpot.planner.calibrating.least_bytes", lambda *_: 1)
    room = (plain + smallest().smallest_bytes) // 2
    assert room < plain, "rounding gently fits where rounding to nearest does not"
    monkeypatch.setattr("pintpot.planner.calibrating.least_bytes", lambda *_: room)
    with pytest.raises(DoesNotFit, match=rf"smallest possible budget is .* \({room} bytes"):
        smallest(room - 1)
    plan = smallest(room)
    assert Gptq() in plan.steps
    assert plan.smallest_bytes == room
