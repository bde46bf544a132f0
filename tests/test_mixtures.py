"""Formats weight by weight in plans: the table, the step, the budget used up, and what it says of itself."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from described import described
from tiny import Tiny, write_gguf

from pintpot.budget import Budget, Workload
from pintpot.contract.form import WeightForm, source_form
from pintpot.contract.step import Facet, SourceRows, Step, step_from_json
from pintpot.errors import BadInput, DoesNotFit, NotApplicable
from pintpot.formats import KERNEL_FORMATS, can_pack, encoding, is_lossless
from pintpot.formats.convert import convert
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.planner.assess import assess
from pintpot.planner.degradation import expected, shipped_priors, steps_key
from pintpot.planner.explain import explain
from pintpot.planner.make import make_plan
from pintpot.planner.mixtures import choices, mixed, mixtures, paying_formats, usual_work
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.question import Question
from pintpot.planner.refine import EXACT, NEAR
from pintpot.planner.sensitivity import Sensitivities, keep_sensitivities, recall_sensitivities
from pintpot.planner.space import build_space
from pintpot.techniques import classes
from pintpot.techniques.cache.eight_bit import EightBitCache
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.mixed import Mixed, read_formats, write_formats
from pintpot.techniques.quantize.round_to_nearest import BITS, RoundToNearest

MB = 1_000_000
WORKLOAD = Workload(512, prompt=128, output=32)
LOSSES = {8: 2e-5, 6: 4e-4, 5: 2e-3, 4: 8e-3, 3: 4e-2, 2: 3e-1}


def machine() -> Machine:
    """Slow memory beside its arithmetic: every byte that is not read is time won."""
    return null_machine(process_bytes=10 * MB, ram_bw=4e9)


def drawn_table(model: Model, seed: int = 1, scale: float = 0.3) -> Sensitivities:
    """Weights of which some are a hundred times as sensitive as others."""
    rng = random.Random(seed)
    weights = {}
    matrices = [w for w in source_form(model).weights if w.is_matrix]
    for weight in matrices:
        worth = scale * rng.lognormvariate(0, 1.5) / len(matrices)
        found = {}
        for bits, loss in LOSSES.items():
            for kind, factor in (("sym", 1.0), ("aff", 0.7)):
                if f"{kind}{bits}" in KERNEL_FORMATS:
                    nats = worth * factor * loss * rng.uniform(0.8, 1.2)
                    found[f"{kind}{bits}"] = (0.8 * nats, 1.25 * nats)
        weights[weight.name] = found
    return Sensitivities(8192, weights)


MODEL = described(layers=6, vocab=4000, hidden=256, ffn=768)
TABLE = drawn_table(MODEL, scale=10.0)


def planned(memory: int, table: Sensitivities | None = TABLE, here: Machine | None = None, **budget: Any) -> Plan:
    return make_plan(MODEL, here or machine(), Budget(memory, WORKLOAD, **budget), sensitivities=table)


def uniform_plans(best: Plan) -> list[Plan]:
    """One format for all weights, with everything else as in this plan."""
    question = Question(MODEL, machine(), best.budget, shipped_priors(), sensitivities=TABLE)
    others = [step for step in best.steps if step.facet.name != "FORMAT"]
    formats = [AsStored(), *(RoundToNearest("all", b, m) for b in BITS for m in (False, True) if not (m and b == 8))]
    plans = []
    for step in formats:
        with suppress(NotApplicable, DoesNotFit):
            plans.append(assess(question, [step, *others]))
    return plans


# --- The step -------------------------------------------------------------------------------------------------------


def test_a_choice_survives_being_written_and_is_written_in_one_way() -> None:
    chosen = {f"layers.{i}.{role}": f"sym{4 + i % 2}" for i in range(12) for role in ("q", "down")} | {"embed": "aff6"}
    text = write_formats(chosen)
    assert read_formats(text) == chosen
    assert write_formats(dict(reversed(chosen.items()))) == text
    runs = write_formats({f"layers.{i}.q": "sym4" for i in (0, 1, 2, 5, 7, 8)} | {"head": "sym4"})
    assert runs == "sym4 head layers.0-2,5,7-8.q"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sym4",
        "sym4 layers.3-1.q",
        "sym4 layers.-.q",
        "sym4 layers.0-999999999.q",
        "a b; c b",
        ";",
        "a layers.1,,2.q",
    ],
)
def test_what_is_no_choice_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(NotApplicable, match=r"\w+ \w+ \w+"):
        Mixed(formats=text).check(MODEL, source_form(MODEL))


def test_a_mixture_names_every_weight_and_only_formats_that_its_source_can_become() -> None:
    form = source_form(MODEL)
    names = [w.name for w in form.weights if w.is_matrix]
    mixed(dict.fromkeys(names, "sym4")).check(MODEL, form)
    for wrong, why in (
        ({**dict.fromkeys(names, "sym4"), "layers.9.q": "sym4"}, "has no weights layers.9.q"),
        (dict.fromkeys(names[1:], "sym4"), "no format is named for embed"),
        (dict.fromkeys(names, "q4_0"), "cannot be kept as q4_0"),
        (dict.fromkeys(names, "sym7"), "cannot be kept as sym7"),
    ):
        with pytest.raises(NotApplicable, match=why):
            mixed(wrong).check(MODEL, form)


def test_superblocks_are_for_rows_of_whole_superblocks() -> None:
    for hidden, fits in ((256, True), (288, False)):
        model = described(layers=2, vocab=4000, hidden=hidden, ffn=768)
        step = mixed({w.name: "q4_k" if w.role == "q" else "sym6" for w in source_form(model).weights if w.is_matrix})
        if fits:
            step.check(model, source_form(model))
            continue
        with pytest.raises(NotApplicable, match=r"288 columns are not whole blocks of q4_k, of 256 each"):
            step.check(model, source_form(model))


def test_a_mixture_is_a_step_in_json_and_in_words() -> None:
    step = mixed({"embed": "sym8", "layers.0.q": "sym4", "layers.1.q": "sym4"})
    again = step_from_json(json.loads(json.dumps(step.to_json())), classes())
    assert again == step
    assert hash(again) == hash(step)
    assert str(step).startswith("Mixed(2 sym4, 1 sym8; ")
    assert str(step) != str(mixed({"embed": "sym8", "layers.0.q": "sym4", "layers.2.q": "sym4"}))


@pytest.mark.parametrize("source", ["f16", "q4_0", "q5_1"])
def test_conversion_keeps_the_promise_and_what_is_kept_as_stored_keeps_its_bits(source: str, tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", Tiny(), source)))
    form, rng = source_form(model), random.Random(2)
    matrices = [w for w in form.weights if w.is_matrix]
    chosen = {w.name: rng.choice([encoding(w.source).packed_as, "sym3", "aff2"]) for w in matrices}
    step = mixed(chosen)
    step.check(model, form)
    promised = step.promise(form)
    sources = {w.name: w for part in model.parts for w in part.weights()}
    with Store(model) as store:
        for weight in promised.weights:
            if not weight.is_matrix:
                continue
            assert weight.format == chosen[weight.name]
            assert weight.packed
            raw = store.read(sources[weight.name])
            strips = step.convert(weight, SourceRows(weight.source, raw, weight.shape[1]))
            assert strips is not None
            assert strips.shape == (weight.num_strips, weight.strip_bytes)
            if is_lossless(weight.source, weight.format):
                own = encoding(weight.source).packed_as
                assert (strips == convert(raw, weight.source, own, weight.shape[1])).all()


# --- The table ------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was_kept_and_damage_is_named(tmp_path: Path) -> None:
    assert recall_sensitivities("abc", folder=tmp_path) is None
    path = keep_sensitivities("abc", TABLE, {"seconds": 3}, folder=tmp_path)
    assert recall_sensitivities("abc", folder=tmp_path) == TABLE
    whole = json.loads(path.read_text())
    assert set(whole) >= {"tokens", "weights"}
    damaged: list[Any] = [
        "{", "[]", json.dumps({**whole, "text": None, "tokens": "many"}), json.dumps({**whole, "weights": 3}),
        json.dumps({**whole, "weights": {"embed": {"sym4": [2.0, 1.0]}}}),
        json.dumps({**whole, "weights": {"embed": {"sym4": [0.0]}}}),
        json.dumps({**whole, "weights": {"embed": {"sym4": [0.0, float("nan")]}}}),
    ]  # fmt: skip
    for text in damaged:
        path.write_text(text)
        with pytest.raises(BadInput, match=r"abc\.json"):
            recall_sensitivities("abc", folder=tmp_path)
    with pytest.raises(BadInput):
        recall_sensitivities("../abc", folder=tmp_path)


@pytest.mark.parametrize("key", ["version", "grids"])
def test_a_table_of_other_grids_is_not_used_and_that_is_told(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = keep_sensitivities("abc", TABLE, folder=tmp_path)
    whole = json.loads(path.read_text())
    for other in ({**whole, key: 99}, {name: value for name, value in whole.items() if name != key}):
        path.write_text(json.dumps(other))
        caplog.clear()
        assert recall_sensitivities("abc", folder=tmp_path) is None
        assert "from another version and not used" in caplog.text


def test_a_plans_degradation_is_the_sum_of_the_table_and_a_measured_one_overrides_it() -> None:
    plan = planned(60 * MB, degradation=0.05)
    low, high = 0.0, 0.0
    for weight in plan.form.weights:
        found = TABLE.of(weight, weight.format) if weight.is_matrix else None
        low, high = (low + found[0], high + found[1]) if found else (low, high)
    others = [shipped_priors().of(step.key) for step in plan.steps if step.facet.name != "FORMAT"]
    assert plan.degradation.low == pytest.approx(low + sum(span[0] for span in others))
    assert plan.degradation.high == pytest.approx(high + sum(span[1] for span in others))
    assert plan.degradation.summed
    assert not plan.degradation.measured
    known = {steps_key(plan.steps): Degradation(0.01, 0.02, True, 0.01, 0.02)}
    question = Question(MODEL, machine(), plan.budget, shipped_priors(), known, sensitivities=TABLE)
    assert assess(question, plan.steps).degradation == known[steps_key(plan.steps)]


class Gentle(Step):
    """Rounding that leaves a third to a half of the harm, of what has fewer bits a sixth."""

    paper = "none"
    facet = Facet.ROUNDING

    def remains(self, weight: WeightForm) -> tuple[float, float]:
        return (0.1, 0.15) if encoding(weight.format).code_bits < 4 else (0.3, 0.5)


def test_gentler_rounding_leaves_a_share_of_what_formats_cost_and_of_nothing_else() -> None:
    question = Question(MODEL, machine(), Budget(60 * MB, WORKLOAD), shipped_priors(), sensitivities=TABLE)
    formats, others = RoundToNearest("all", 4), EightBitCache()
    (low, high), cache = question.expects.of(formats), question.expects.of(others)
    plain = expected((formats, others), question.expects, {}, False)
    gentle = expected((formats, Gentle(), others), question.expects, {}, False)
    assert (plain.low, plain.high) == pytest.approx((low + cache[0], high + cache[1]))
    assert (gentle.low, gentle.high) == pytest.approx((0.3 * low + cache[0], 0.5 * high + cache[1]))
    assert steps_key((formats, Gentle())) != steps_key((formats,)), "what was measured of one is not told of the other"


# --- The plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", ["speed", "quality", "memory"])
@pytest.mark.parametrize("limit", [0.02, 0.1])
def test_no_uniform_choice_is_better_in_what_is_preferred(prefer: Any, limit: float) -> None:
    num_plans = 0
    for memory in (19 * MB, 21 * MB, 60 * MB):
        try:
            plan = planned(memory, degradation=limit, prefer=prefer)
        except DoesNotFit:
            continue
        num_plans += 1
        assert plan.degradation.high <= limit
        assert plan.cost.memory_high <= memory
        for other in uniform_plans(plan):
            if prefer == "speed":
                assert plan.cost.total_s.mid <= other.cost.total_s.mid * (1 + 1e-9)
            elif prefer == "quality":
                assert plan.degradation.high <= other.degradation.high * (1 + 1e-9)
    assert num_plans >= 2


def test_plans_survive_json_and_are_the_same_twice() -> None:
    plan = planned(60 * MB)
    assert any(isinstance(step, Mixed) for step in plan.steps)
    assert Plan.from_json(json.loads(plan.dumps())).dumps() == plan.dumps()
    assert planned(60 * MB).dumps() == plan.dumps()


def test_a_plan_says_where_its_degradation_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highspy")
    exact = planned(60 * MB)
    assert "this model's own weights" in explain(exact).quality
    assert EXACT in exact.notes
    monkeypatch.setattr("pintpot.planner.bits.has_solver", lambda: False)
    near = planned(60 * MB)
    assert NEAR in near.notes
    assert EXACT not in near.notes
    assert near.degradation.high <= near.budget.degradation
    plain = planned(60 * MB, table=None)
    assert "expected from other models" in explain(plain).quality
    assert not plain.degradation.summed
    assert not {EXACT, NEAR} & set(plain.notes)


def test_the_degradation_that_is_allowed_is_used_up() -> None:
    plan = planned(60 * MB, degradation=0.05)
    assert 0.97 * 0.05 <= plan.degradation.high <= 0.05


def test_under_a_limit_of_time_the_quality_that_it_leaves_is_taken() -> None:
    free = planned(60 * MB, degradation=5.0, prefer="speed")
    slow = planned(60 * MB, degradation=5.0, prefer="quality")
    limit = (free.cost.per_token_s.high + slow.cost.per_token_s.high) / 2
    held = planned(60 * MB, degradation=5.0, prefer="quality", per_token_s=limit)
    assert 0.97 * limit <= held.cost.per_token_s.high <= limit
    assert slow.degradation.high <= held.degradation.high < free.degradation.high


def test_a_format_whose_kernel_is_slower_than_a_larger_ones_is_not_in_a_mixture() -> None:
    here = machine()
    slowed = tuple(
        replace(rate, low=rate.low / 3, mid=rate.mid / 3, high=rate.high / 3)
        if rate.what.partition("/")[2].startswith("sym4")
        else rate
        for rate in here.rates
    )
    for device, there in ((here, True), (replace(here, rates=slowed), False)):
        question = Question(MODEL, device, Budget(60 * MB, WORKLOAD), shipped_priors(), sensitivities=TABLE)
        work = usual_work(question)
        assert ("sym4" in paying_formats(work)) == there
        found = {one.format for formats in choices(question, work).values() for one in formats}
        assert ("sym4" in found) == there
        assert "sym3" in found


def test_candidates_are_what_the_source_can_become_and_nothing_is_lost_as_stored() -> None:
    model = described(matrix="q4_k", vocabulary="q6_k", hidden=256, ffn=512)
    table = drawn_table(model)
    question = Question(model, machine(), Budget(60 * MB, WORKLOAD), shipped_priors(), sensitivities=table)
    found = choices(question, usual_work(question))
    sources = {w.name: w.source for w in source_form(model).weights}
    assert set(found) == {w.name for w in source_form(model).weights if w.is_matrix}
    for name, formats in found.items():
        assert all(can_pack(sources[name], one.format) for one in formats)
        assert [one.format for one in formats if one.nats == 0.0] == [encoding(sources[name]).packed_as]
    assert all(step.target == "all" for step in mixtures(question))


def test_a_table_makes_the_space_no_larger() -> None:
    """What planning takes is the number of choices it weighs; `benchmarks/planning.py` has the seconds."""
    model = described(layers=30, hidden=576, ffn=1536, heads=9, kv_heads=3, vocab=49152, tied=False, matrix="f32")
    budget = Budget(180 * MB, WORKLOAD, degradation=0.1)
    plain = Question(model, machine(), budget, shipped_priors())
    known = replace(plain, sensitivities=drawn_table(model, scale=2.0))
    assert build_space(known).size <= build_space(plain).size
    (formats,) = (d for d in build_space(known).dimensions if d.facet == Facet.FORMAT)
    assert formats.target == "all"
    assert 3 <= sum(isinstance(option, Mixed) for option in formats.hopeful) <= 6
