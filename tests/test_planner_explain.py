"""A plan in plain rows: every section says what the plan says, defaults are marked, and odd machines are named."""

from __future__ import annotations

from typing import Any

import pytest
from described import described

from pintpot.budget import Budget, Workload
from pintpot.machine.catalog import load_machine
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.planner.explain import Explanation, explain
from pintpot.planner.make import _why_worse, make_plan
from pintpot.planner.plan import Degradation, Plan
from pintpot.units import format_bytes, format_bytes_up

MB = 1_000_000


def planned(memory: int = 30 * MB, machine: Machine | None = None, **budget: Any) -> Plan:
    here = machine or null_machine(process_bytes=10 * MB, spread=0.2)
    return make_plan(
        described(layers=3, matrix="q4_0", vocabulary="q8_0"),
        here,
        Budget(memory, Workload(512, prompt=128, output=32), **budget),
    )


@pytest.fixture(scope="module")
def streaming() -> Plan:
    return planned(planned().smallest_bytes + 200_000, chosen=("memory_bytes",))


@pytest.fixture(scope="module")
def told(streaming: Plan) -> Explanation:
    return explain(streaming)


def test_memory_adds_up_to_the_budgets_share(told: Explanation, streaming: Plan) -> None:
    assert sum(row.high for row in told.memory) == told.memory_total.high == streaming.cost.memory_high
    assert sum(row.share for row in told.memory) == pytest.approx(told.memory_total.share)
    assert 0.98 < told.memory_total.share <= 1
    assert [row.holder for row in told.memory][:2] == ["interpreter and libraries", "tokenizer"]


def test_speed_has_both_ends_and_what_binds(told: Explanation, streaming: Plan) -> None:
    rows = {row.what: row for row in told.speed}
    assert set(rows) == {"prefill", "decode", "first token", "each token", "opening", "guessed words, looked up"}
    decode = streaming.cost.stage("decode")
    assert rows["decode"].binds == decode.binds
    assert float(rows["decode"].slow.split()[0]) == pytest.approx(decode.tokens_per_s.low, rel=0.01)
    assert float(rows["decode"].fast.split()[0]) == pytest.approx(decode.tokens_per_s.high, rel=0.01)
    assert decode.tokens_per_s.low < decode.tokens_per_s.high
    assert told.binds[1].startswith(f"decode waits for {decode.binds}: ")


def test_defaults_are_told_from_choices(told: Explanation) -> None:
    asked = {item.name: item for item in told.asked}
    assert [name for name, item in asked.items() if item.chosen] == ["memory"]
    assert {"context", "batch", "degradation", "prefer"} <= set(asked)
    assert asked["degradation"].value == "at most 0.05 nats a token"
    assert "per token" not in asked
    limited = explain(planned(60 * MB, per_token_s=0.5, chosen=("per_token_s",)))
    assert {item.name: item for item in limited.asked}["per token"].chosen


def test_steps_come_with_their_papers(told: Explanation, streaming: Plan) -> None:
    assert told.steps == tuple((str(step), step.paper) for step in streaming.steps)


def test_what_lost_is_there_once_with_figures_and_the_nearest_first(told: Explanation, streaming: Plan) -> None:
    priced = [row for row in told.lost if row.total_s is not None]
    bare = [row for row in told.lost if row.total_s is None]
    assert told.lost == (*priced, *bare)
    assert len(priced) == sum(1 for item in streaming.rejected if item.total_s is not None)
    assert len({row.reason for row in bare}) == len(bare)
    for item in streaming.rejected:
        assert any(item.what in row.what and row.reason == item.reason for row in told.lost)
    now = streaming.cost.total_s.mid
    tempting = [row.total_s < now for row in priced if row.total_s is not None]
    assert tempting == sorted(tempting, reverse=True), "first what would have been faster but broke a limit"
    slower = [row.total_s for row in priced if row.total_s is not None and row.total_s >= now]
    assert slower == sorted(slower)


def test_advice_is_a_sentence_with_figures(told: Explanation, streaming: Plan) -> None:
    tenth, *others = streaming.advice
    assert told.advice.startswith(f"10% more memory ({format_bytes(tenth.memory_bytes)}) would bring ")
    gain = streaming.cost.total_s.mid / tenth.total_s
    assert f"{gain:.3g} times the speed" in told.advice
    for item in others:
        assert f"at {format_bytes(item.memory_bytes)} {item.what}: " in told.advice
    assert told.smallest == f"the smallest possible budget is {format_bytes_up(streaming.smallest_bytes)}"
    assert "would bring nothing" in explain(planned(200 * MB)).advice


def test_quality_says_whether_it_was_measured(streaming: Plan) -> None:
    from pintpot.planner.degradation import steps_key

    assert "expected from other models" in explain(streaming).quality
    budget = streaming.budget
    measured = {steps_key(streaming.steps): Degradation(0.0, 0.001, True)}
    here = null_machine(process_bytes=10 * MB, spread=0.2)
    known = make_plan(described(layers=3, matrix="q4_0", vocabulary="q8_0"), here, budget, measured=measured)
    assert explain(known).quality.endswith("measured")


def test_nothing_lost_is_told_as_that() -> None:
    plan = planned(90 * MB, prefer="quality")
    assert plan.degradation.high == 0
    assert explain(plan).quality.startswith("no degradation, ")
    reasons = [one.reason for one in plan.rejected]
    assert any(reason.endswith("nats a token, against none") for reason in reasons)
    assert not any("inf times" in reason or " 0 B more" in reason for reason in reasons)


def test_what_ties_in_everything_is_told_as_that() -> None:
    plan = planned(90 * MB)
    assert _why_worse(plan, plan) == "equally fast, equally good, but nothing is gained by it"  # type: ignore[arg-type]


def test_machines_that_were_not_measured_say_so() -> None:
    plan = planned(90 * MB, load_machine("apple_m4"))
    told = explain(plan)
    assert "from data sheets, not measured" in told.title
    assert any("data sheets" in note for note in told.notes)
    from dataclasses import replace

    quick = explain(planned(60 * MB, replace(null_machine(), origin="quick", process_bytes=10 * MB)))
    assert "for 2 seconds only" in quick.title
    assert any("pintpot probe" in note for note in quick.notes)
    full = explain(planned(60 * MB, replace(null_machine(), disk_free_bytes=1000, process_bytes=10 * MB)))
    assert any("1.00 kB are free" in note for note in full.notes)
