"""The search against enumeration, the reasons against assessment, advice against planning again, and plans as text."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from described import described

from pintpot.budget import Budget, Workload
from pintpot.contract.step import Facet
from pintpot.errors import BadInput, DoesNotFit, NotApplicable, UsageError
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.planner.allocate import TooLarge, place
from pintpot.planner.assess import Bench, shortfall
from pintpot.planner.degradation import Priors, shipped_priors, steps_key
from pintpot.planner.dominance import outpaced
from pintpot.planner.make import alternative, make_plan, reassess
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.question import Question
from pintpot.planner.search import EXHAUSTIVE, Search, exhaustive, greedy, joint, rank
from pintpot.planner.space import Space, build_space, dimension_of
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

MB = 1_000_000
PROCESS = 10 * MB
WORKLOAD = Workload(512, prompt=128, output=32)
KINDS = ("blocks", "vocabulary")


def machine(**rates: Any) -> Machine:
    return null_machine(process_bytes=PROCESS, **rates)


def small_space(question: Question, rng: random.Random, most: int) -> Space:
    """The question's space with some options of each dimension, and some dimensions with one."""
    space = build_space(question)
    dimensions = []
    for dimension in space.dimensions:
        offers = [option for option in dimension.options if option is not None]
        tables = [option for option in offers if isinstance(option, (NormalFloat, MicroScaling))]
        others = [option for option in offers if option not in tables]
        kept = rng.sample(others, min(len(others), rng.randint(1, most)))
        # A later technique is drawn apart, so that the other draws stay what they were.
        apart = random.Random(question.budget.memory_bytes)
        kept += apart.sample(tables, min(len(tables), apart.randint(0, most - 1)))
        ordered = [option for option in offers if option in kept]
        dimensions.append(dimension_of(question, dimension.facet, dimension.target, ordered))
    return replace(space, dimensions=tuple(dimensions))


def drawn_case(seed: int) -> tuple[Question, random.Random]:
    rng = random.Random(seed)
    model = described(
        layers=rng.choice([2, 6]),
        vocab=rng.choice([500, 4000]),
        tied=rng.random() < 0.5,
        matrix=rng.choice(["bf16", "q4_0", "q8_0"]),
        family=rng.choice(["llama", "qwen2", "qwen3"]),
    )
    rates = {"ram_bw": rng.choice([5e9, 20e9, 100e9]), "disk_bw": rng.choice([0.2e9, 2e9, 8e9])}
    workload = Workload(rng.choice([256, 1024]), batch=rng.choice([1, 1, 4]), prompt=100, output=50)
    budget = Budget(
        rng.randint(165, 230) * MB // 10,
        workload,
        degradation=rng.choice([0.05, 0.1, 0.2]),
        prefer=rng.choice(["speed", "speed", "quality"]),
        per_token_s=rng.choice([None, None, 0.005]),
        first_token_s=rng.choice([None, None, 0.5]),
    )
    # A later row of the table is drawn apart, so that the other draws stay what they were.
    tables = [f"{target}/{name}" for target in KINDS for name in ("nf4", "nf4_32", "mxfp4", "nvfp4")]
    later = {key: random.Random(f"{key}{seed}") for key in tables} | {"activation/int8-int8x2": random.Random(seed)}
    later |= {key: random.Random(f"{key}{seed}") for key in shipped_priors().spans if "bfloat16" in key}
    drawn = {key: (0.0, later.get(key, rng).uniform(0.0, 0.06)) for key in shipped_priors().spans}
    return Question(model, machine(spread=rng.choice([0, 0.2]), **rates), budget, Priors(drawn)), rng


@pytest.mark.parametrize("seed", range(16))
def test_search_equals_enumeration(seed: int) -> None:
    question, rng = drawn_case(seed)
    space = small_space(question, rng, most=3)
    found, wanted = (
        strategy(Search(Bench(question), space, question.budget.memory_bytes)) for strategy in (joint, exhaustive)
    )
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        prefer = question.budget.prefer
        assert rank(found[1], prefer) == rank(wanted[1], prefer)


def test_some_of_the_enumerated_cases_have_plans_and_some_stream() -> None:
    found = []
    for seed in range(16):
        question, rng = drawn_case(seed)
        space = small_space(question, rng, most=3)
        found.append(joint(Search(Bench(question), space, question.budget.memory_bytes)))
    plans = [item[1] for item in found if item is not None]
    assert len(plans) >= 6
    assert any(plan.form.disk_bytes for plan in plans)
    assert any(not plan.form.disk_bytes for plan in plans)


def test_no_plan_is_better_than_its_bound_and_streaming_ones_are_near() -> None:
    shares = []
    for seed in range(16):
        question, rng = drawn_case(seed)
        space = small_space(question, rng, most=2)
        search = Search(Bench(question), space, question.budget.memory_bytes)
        for _, made in search.drafts():
            try:
                placing = place(search.bench, made, space.places, search.memory_bytes)
            except TooLarge:
                continue
            cost = placing.price(search.bench).cost
            for bound, name in ((placing.stage_s(0), "prefill"), (placing.stage_s(-1), "decode")):
                seconds = cost.stage(name).seconds
                assert bound.mid <= seconds.mid
                assert bound.high <= seconds.high
            if placing.place is not None:
                shares.append(placing.stage_s(-1).mid / cost.stage("decode").seconds.mid)
    assert len(shares) > 20
    assert sum(share > 0.97 for share in shares) > 0.8 * len(shares)


def test_a_whole_space_is_searched_without_a_loss() -> None:
    question = Question(described(layers=2, matrix="q4_0"), machine(), Budget(20 * MB, WORKLOAD), shipped_priors())
    bench, space = Bench(question), build_space(question)
    assert 60 < space.size <= EXHAUSTIVE
    found, wanted = (strategy(Search(bench, space, 20 * MB)) for strategy in (joint, exhaustive))
    assert (found is None) == (wanted is None)
    assert found is None or wanted is None or rank(found[1], "speed") == rank(wanted[1], "speed")


def test_changing_two_at_a_time_finds_what_enumeration_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    question, _ = drawn_case(1)
    question = replace(question, budget=Budget(30 * MB, WORKLOAD), priors=shipped_priors())
    bench, space = Bench(question), build_space(question)
    wanted = joint(Search(bench, space, 30 * MB))
    monkeypatch.setattr("pintpot.planner.search.EXHAUSTIVE", 1)
    found = joint(Search(bench, space, 30 * MB))
    assert found is not None
    assert wanted is not None
    assert rank(found[1], "speed") == rank(wanted[1], "speed")


def test_greedy_loses_to_the_joint_search() -> None:
    # Degradation is a purse: greedy spends it on a vocabulary of 4 bits, and can no longer afford products in integers.
    spans = {"blocks/sym8": 0.01, "vocabulary/sym8": 0.02, "vocabulary/sym4": 0.045, "activation/int8": 0.03}
    priors = Priors({key: (0.0, high) for key, high in spans.items()})
    budget = Budget(60 * MB, Workload(1024, batch=2, prompt=128, output=128), degradation=0.08)
    model = described(layers=2, vocab=8000)
    best, first = (make_plan(model, machine(), budget, priors=priors, strategy=way) for way in (joint, greedy))
    assert best.cost.total_s.mid < 0.95 * first.cost.total_s.mid
    assert max(plan.degradation.high for plan in (best, first)) <= 0.08
    assert {"vocabulary/sym8", "activation/int8"} <= {step.key for step in best.steps}
    assert "vocabulary/sym4" in {step.key for step in first.steps}


def planned(memory: int = 30 * MB, model: Model | None = None, **budget: Any) -> Plan:
    """A plan in so much memory; less than a megabyte is meant above the smallest possible."""
    made = model or described(layers=3, matrix="q4_0", vocabulary="q8_0")
    if memory < MB:
        memory += make_plan(made, machine(), Budget(60 * MB, WORKLOAD, **budget)).smallest_bytes
    return make_plan(made, machine(), Budget(memory, WORKLOAD, **budget))


TIGHT = 300_000


@pytest.mark.parametrize("memory", [TIGHT, 40 * MB])
@pytest.mark.parametrize("prefer", ["speed", "quality", "memory"])
def test_rejected_plans_give_the_figures_that_were_printed(memory: int, prefer: Any) -> None:
    model = described(layers=3, matrix="q4_0", vocabulary="q8_0")
    plan = planned(memory, model, prefer=prefer)
    asked = Question(model, machine(), plan.budget, shipped_priors())
    priced = [item for item in plan.rejected if item.total_s is not None]
    assert len(priced) >= 5
    for item in random.Random(memory).sample(priced, 5):
        again = reassess(asked, plan, item)
        assert again.cost.total_s.mid == item.total_s
        assert again.cost.memory_high == item.memory_bytes
        assert again.degradation.high == item.degradation
        limit = plan.smallest_bytes if prefer == "memory" else plan.budget.memory_bytes
        short = shortfall(again, limit)
        assert short == item.reason if short else rank(again, prefer) >= rank(plan, prefer)
    for item in plan.rejected:
        if item.total_s is None:
            with pytest.raises((NotApplicable, DoesNotFit)):
                reassess(asked, plan, item)


def test_formats_that_fewer_bytes_make_no_faster_say_so_with_figures() -> None:
    """The null machine's arithmetic takes every format alike, and its RAM is fast enough for those of 6 bits."""
    model = described(layers=3, matrix="bf16")
    budget = Budget(80 * MB, WORKLOAD, degradation=0.2)
    plan = make_plan(model, machine(ram_bw=100e9), budget)
    reasons = {str(item.step): item.reason for item in plan.rejected if item.total_s is not None}
    slow = [reason for reason in reasons.values() if "a step, the" in reason]
    assert slow
    for reason in slow:
        assert re.search(r"; its [0-9.]+ [kM]B take [0-9.]+ .s a step, the [0-9.]+ [kM]B of \S+", reason), reason


def test_a_record_from_before_the_tables_prices_them_like_the_slowest() -> None:
    """No rate of theirs was measured: they are offered, and no plan takes longer for that."""
    made = machine()
    earlier = replace(made, rates=tuple(r for r in made.rates if "nf4" not in r.what and "fp4" not in r.what))
    model, budget = described(layers=3, matrix="bf16"), Budget(60 * MB, WORKLOAD, degradation=0.2)
    plans = [make_plan(model, one, budget) for one in (made, earlier)]
    assert any("NormalFloat" in item.what and item.total_s for item in plans[1].rejected)
    assert plans[1].cost.total_s.mid >= plans[0].cost.total_s.mid > 0


def test_fewer_bytes_pay_where_memory_is_short_or_speed_unknown() -> None:
    made, budget = machine(ram_bw=100e9), Budget(80 * MB, WORKLOAD, degradation=0.5)
    question = Question(described(layers=3, matrix="bf16"), made, budget, shipped_priors())
    six, five = RoundToNearest("blocks", 6), RoundToNearest("blocks", 5)
    assert set(outpaced(question, (six, five))) == {five}
    unmeasured = replace(made, rates=tuple(rate for rate in made.rates if rate.what != "matvec/sym5"))
    for changed in (
        replace(question, budget=replace(budget, memory_bytes=PROCESS + MB)),
        replace(question, budget=replace(budget, prefer="memory")),
        replace(question, machine=unmeasured),
        replace(question, machine=machine(ram_bw=10e9)),
    ):
        assert outpaced(changed, (six, five)) == {}


def test_alternatives_keep_everything_else() -> None:
    plan = planned(40 * MB)
    for item in plan.rejected:
        steps = alternative(plan, item)
        others = [step for step in plan.steps if step in steps]
        assert len(others) >= len(plan.steps) - 1
        assert (item.step is None) or item.step in steps


def test_the_same_question_gives_the_same_bytes() -> None:
    one, two = planned(TIGHT).dumps(), planned(TIGHT).dumps()
    assert one == two
    assert planned(2 * TIGHT).dumps() != one


@pytest.mark.parametrize("memory", [TIGHT, 40 * MB])
def test_a_plan_survives_json(memory: int) -> None:
    plan = planned(memory)
    again = Plan.from_json(json.loads(plan.dumps()))
    assert again == plan
    assert again.dumps() == plan.dumps()
    assert again.form.ram_bytes == plan.form.ram_bytes
    assert again.without_reasons().rejected == ()


@pytest.mark.parametrize(("version", "remedy"), [(99, "update pintpot"), (1, "plan and pack again")])
def test_a_plan_of_another_format_is_refused_by_name(version: int, remedy: str) -> None:
    data = planned().to_json() | {"pintpot_plan": version}
    with pytest.raises(BadInput, match=f"format {version}, this pintpot reads .*{remedy}"):
        Plan.from_json(data)


@pytest.mark.parametrize("key", ["steps", "form", "cost", "budget", "degradation", "rejected"])
def test_a_damaged_plan_is_refused(key: str) -> None:
    data = json.loads(planned().dumps())
    for broken in (None, 3, "x", [1], {"a": 1}):
        with pytest.raises(BadInput):
            Plan.from_json({**data, key: broken})
    del data[key]
    with pytest.raises(BadInput):
        Plan.from_json(data)


@pytest.mark.parametrize("case", ["plain", "untied", "batch", "per token", "both limits", "bf16"])
def test_the_smallest_budget_is_the_smallest(case: str) -> None:
    model = described(layers=3, tied=case != "untied", matrix="bf16" if case == "bf16" else "q4_0")
    workload = Workload(512, batch=3 if case == "batch" else 1, prompt=128, output=32)
    limits: dict[str, Any] = {
        "per token": {"per_token_s": 0.0005},
        "both limits": {"per_token_s": 0.0005, "first_token_s": 0.05},
    }
    budget = Budget(60 * MB, workload, **limits.get(case, {}))
    here = machine(disk_bw=1e9)
    smallest = make_plan(model, here, budget).smallest_bytes
    plan = make_plan(model, here, replace(budget, memory_bytes=smallest))
    assert plan.cost.memory_high <= smallest
    assert plan.smallest_bytes == smallest
    with pytest.raises(DoesNotFit, match=f"smallest possible budget is .*{smallest} bytes"):
        make_plan(model, here, replace(budget, memory_bytes=round(0.99 * smallest)))
    if not limits.get(case):
        with pytest.raises(DoesNotFit, match=f"{smallest} bytes"):
            make_plan(model, here, replace(budget, memory_bytes=smallest - 1))


def test_the_smallest_budget_of_a_space_too_large_to_enumerate(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planned().smallest_bytes
    monkeypatch.setattr("pintpot.planner.search.EXHAUSTIVE", 1)
    assert planned().smallest_bytes == wanted


@pytest.mark.parametrize("memory", [TIGHT, 3 * TIGHT, 60 * MB])
def test_at_the_budgets_of_the_advice_things_change(memory: int) -> None:
    model = described(layers=3, hidden=512, ffn=1024, heads=8, matrix="q4_0", vocabulary="q8_0")
    plan = planned(memory, model)
    assert [item.what for item in plan.advice][:1] == ["10% more memory"]
    for index, item in enumerate(plan.advice):
        wider = planned(item.memory_bytes, model)
        assert wider.cost.total_s.mid == item.total_s
        if index:
            assert wider.cost.total_s.mid < 0.99 * plan.cost.total_s.mid
            assert item.memory_bytes > plan.budget.memory_bytes
            if item.what == "everything stays in RAM":
                assert plan.form.disk_bytes
                assert not wider.form.disk_bytes
    if memory == 60 * MB:
        assert len(plan.advice) == 1, "with room for everything, no larger budget changes anything"


def test_limits_of_speed_and_quality_are_kept_at_their_bad_end() -> None:
    wide = machine(spread=0.3)
    model = described(layers=3, matrix="q4_0", vocabulary="q8_0")
    free = make_plan(model, wide, Budget(60 * MB, WORKLOAD, degradation=0.2))
    limit = free.cost.per_token_s.high * 1.01
    held = make_plan(model, wide, Budget(60 * MB, WORKLOAD, degradation=0.2, per_token_s=limit))
    assert held.cost.per_token_s.high <= limit
    with pytest.raises(DoesNotFit, match=r"whatever the memory: a token takes .* at least, the limit is"):
        make_plan(model, wide, Budget(60 * MB, WORKLOAD, degradation=0.2, per_token_s=free.cost.per_token_s.low / 3))
    with pytest.raises(DoesNotFit, match=r"the first token takes .*s at least, the limit is 1\.00 µs"):
        make_plan(model, wide, Budget(60 * MB, WORKLOAD, first_token_s=1e-6))
    assert make_plan(model, wide, Budget(60 * MB, WORKLOAD, degradation=0.0)).degradation.high == 0.0


def test_what_is_preferred_is_what_is_best() -> None:
    plans = {prefer: planned(40 * MB, prefer=prefer) for prefer in ("speed", "quality", "memory")}
    assert min(plans.values(), key=lambda plan: plan.cost.total_s.mid) is plans["speed"]
    assert min(plans.values(), key=lambda plan: plan.degradation.high) is plans["quality"]
    assert min(plans.values(), key=lambda plan: plan.cost.memory_high) is plans["memory"]
    assert plans["memory"].cost.memory_high <= plans["memory"].smallest_bytes
    assert plans["memory"].budget.memory_bytes == 40 * MB


def test_few_bits_need_a_measurement_or_a_wish() -> None:
    def bits(plan: Plan) -> set[int]:
        return {getattr(step, "bits", 16) for step in plan.steps if step.facet == Facet.FORMAT}

    spans = {f"{target}/sym{b}": (0.0, 0.01) for target in KINDS for b in (8, 6, 5, 4, 3, 2)}
    model, here, priors = described(), machine(ram_bw=1e9), Priors(spans)
    budget = Budget(60 * MB, WORKLOAD)
    plain = make_plan(model, here, budget, priors=priors)
    assert min(bits(plain)) == 4
    assert any("rest on a prior alone" in item.reason for item in plain.rejected)
    assert min(bits(make_plan(model, here, replace(budget, below_4_bits=True), priors=priors))) == 2
    measured = {steps_key(plain.steps): Degradation(0.3, 0.4, True)}
    other = make_plan(model, here, budget, priors=priors, measured=measured)
    assert other.steps != plain.steps, "a plan that was measured to be worse than the limit is not made again"


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(UsageError, match="beyond the model's 4096; use --context 4096"):
        make_plan(described(), machine(), Budget(60 * MB, Workload(5000)))
