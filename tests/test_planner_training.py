"""Plans of learning: what holds memory, what streams where it is short, what is refused with which number, and JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path

import pytest
from tiny import K_QUANT, Tiny, write_gguf, write_hf

from pintpot.budget import Budget, Train, Workload
from pintpot.contract.form import source_form
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm
from pintpot.errors import DoesNotFit, UsageError
from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.nets._training import training_work
from pintpot.planner.candidate import Candidate
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.explain import explain
from pintpot.planner.keeping import ways
from pintpot.planner.methods import METHODS, wants_table
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.sensitivity import Sensitivities
from pintpot.planner.training import Asked, _priced, make_training_plan, training_work_of
from pintpot.program.layout import lay_out
from pintpot.program.ops import check, op_module
from pintpot.program.spec import Extent, Program
from pintpot.techniques.adapt.low_rank import LowRank
from pintpot.techniques.train.recompute import Recompute
from pintpot.units import parse_bytes

TRAIN = Train(length=64, sequences=4, steps=10)
TORCH_BYTES = 200_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(write_gguf(tmp_path_factory.mktemp("plan") / "m.gguf", replace(K_QUANT, layers=4), "q8_0")))


def question(model: Model, memory: int = 1 << 32, train: Train = TRAIN) -> Question:
    budget = Budget(memory, Workload(task="train", train=train))
    return Question(model, null_machine(), budget, shipped_priors(), torch_bytes=TORCH_BYTES)


def plan(model: Model, memory: int = 1 << 32, method: str = "lora", arithmetic: str = "float32") -> Plan:
    return make_training_plan(question(model, memory), Asked(method, arithmetic))


def held(found: Plan) -> dict[str, int]:
    return {holder.name: holder.high for holder in found.cost.holders}


def test_memory_by_what_holds_it(model: Model) -> None:
    lora, full = held(plan(model)), held(plan(model, method="full"))
    values = sum(weight.num_values for weight in model.part("language").weights())
    rows = {name: weight.shape for weight in model.part("language").weights() for name in [weight.name]}
    adapters = sum(8 * sum(rows[f"layers.{layer}.{role}"]) for layer in range(4) for role in "qv")
    # Layouts align what they lay out.
    assert lora["adapters"] == lora["gradients"] == pytest.approx(4 * adapters, rel=0.01)
    assert lora["optimizer states"] == pytest.approx(8 * adapters, rel=0.01)
    assert lora["weights in RAM"] == full["weights in RAM"] == pytest.approx(4 * values, rel=0.01)
    assert full["optimizer states"] == pytest.approx(8 * values, rel=0.01)
    # Of the last norm alone gradients wait.
    assert full["gradients"] == 4 * K_QUANT.hidden
    # What each block begins with, what the last one leaves, and the gradients of that; and inside each of four blocks
    # what two A's give, q, k and v, what the second norm meets, gate and up.
    inside = 2 * 8 + 256 + 2 * 128 + 256 + 2 * 512
    assert lora["kept activations"] == 4 * TRAIN.tokens * (K_QUANT.hidden * 6 + 4 * inside)


def test_what_stays_is_not_computed_again(model: Model) -> None:
    most = plan(model)
    recomputing = question(model, most.smallest_bytes + 500_000)
    least = make_training_plan(recomputing, Asked("lora", "float32", activations="recomputed"))
    again = [
        sum(op.kind == "forward" for op in training_work_of(one).stage("backward").programs[0].ops)
        for one in (most, least)
    ]
    assert "stays=4" in str(most.steps)
    assert again[0] == 0 < again[1]
    assert most.cost.step_s.mid < least.cost.step_s.mid


@pytest.mark.parametrize("arithmetic", ["float32", "bf16"])
def test_as_many_stay_as_there_is_room_for(model: Model, arithmetic: str) -> None:
    """Of the first one that stays another one takes the place that is computed again."""
    asked = Asked("lora", arithmetic, activations="recomputed")
    steps, source = make_training_plan(question(model), asked).steps, source_form(model)

    def with_stays(count: int) -> Candidate:
        own = tuple(replace(step, stays=count) if isinstance(step, Recompute) else step for step in steps)
        return price(own, reduce(lambda form, step: step.promise(form), own, source))

    price = partial(_priced, question(model), asked, ("lora",))
    priced = [with_stays(count) for count in range(5)]
    memories = [one.cost.memory_high for one in priced]
    assert all(low < high for low, high in pairwise(memories[1:]))
    assert abs(memories[1] - memories[0]) < (memories[4] - memories[1]) / 9
    rooms = [*((low + high) // 2 for low, high in pairwise(memories[1:])), *memories[2:]]
    found = [next(ways(priced[0], price, source, room, 0)).steps for room in rooms]
    assert found == [priced[count].steps for count in (1, 2, 3, 2, 3, 4)]


def test_less_memory_keeps_fewer_blocks_and_takes_longer(model: Model) -> None:
    most = plan(model)
    assert most.steps[-1].to_json()["resident"] == 5
    memories = [most.cost.memory_high, most.cost.memory_high - 6_000_000, most.smallest_bytes + 500_000]
    plans = [plan(model, memory) for memory in memories]
    assert plans[0].steps == most.steps
    for found, memory in zip(plans, memories, strict=True):
        assert found.cost.memory_high <= memory
    times = [found.cost.step_s.mid for found in plans]
    assert sorted(times) == times
    assert times[-1] > times[0]
    assert plans[-1].steps[-1].to_json()["resident"] < 5
    assert plans[-1].cost.stage("forward").disk_bytes > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_budget_is_one(model: Model, method: str) -> None:
    with pytest.raises(DoesNotFit) as raised:
        plan(model, 1_000_000, method)
    words = str(raised.value).split()
    smallest = parse_bytes("".join(words[2:4]))
    assert plan(model, smallest, method).cost.memory_high <= smallest
    with pytest.raises(DoesNotFit):
        plan(model, smallest - 2_000_000, method)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """So many blocks that it pays to let them pass."""
    tiny = replace(K_QUANT, layers=24)
    return describe(str(write_gguf(tmp_path_factory.mktemp("deep") / "m.gguf", tiny, "q8_0")))


def test_what_learns_rests_on_disk_where_memory_is_short(deep: Model) -> None:
    whole = plan(deep, method="full")
    assert whole.cost.stage("backward").disk_bytes == 0
    least = plan(deep, whole.smallest_bytes + 200_000, "full")
    assert "resident=0" in str(least.steps[-1])
    assert least.cost.memory_high < whole.cost.memory_high - 20_000_000
    assert least.cost.step_s.mid > whole.cost.step_s.mid
    matrices = [weight for weight in deep.part("language").weights() if len(weight.shape) > 1]
    inside = sum(weight.num_values for weight in matrices if "." in weight.name)
    vocabulary = sum(weight.num_values for weight in matrices if "." not in weight.name)
    states = next(step.name for step in least.steps if step.facet == Facet.OPTIMIZER)
    moments = 8 if states == "AdamW" else 2 + 8 / 256
    # A block's values are read forward, and back with its moments; both are written.
    replays = TRAIN.steps
    backward, update = least.cost.stage("backward"), least.cost.stage("update")
    assert least.cost.stage("forward").disk_bytes == pytest.approx(replays * 4 * inside, rel=0.25)
    assert backward.written_bytes == pytest.approx(replays * (4 + moments) * inside, rel=0.1)
    assert backward.disk_bytes == pytest.approx(2 * backward.written_bytes + 4 * vocabulary * replays, rel=0.1)
    assert update.written_bytes == pytest.approx(replays * (4 + moments) * vocabulary, rel=0.1)
    middle = plan(deep, (3 * least.cost.memory_high + whole.cost.memory_high) // 4, "full")
    assert 0 < middle.steps[-1].to_json()["resident"] < 25
    assert middle.cost.stage("backward").written_bytes < backward.written_bytes
    assert re.search(r"a step reads [\d.]+ MB of it and writes [\d.]+ MB", explain(least).packing)
    # Both versions, and the result.
    assert least.cost.pack_bytes > 2 * (4 + moments) * (inside + vocabulary) + 4 * (inside + vocabulary)


def test_what_was_not_taken_has_its_figures_and_its_reason(model: Model) -> None:
    found = make_training_plan(question(model), Asked())
    lost = {one.what: one for one in found.rejected}
    assert any("NormalFloat" in what for what in lost)
    assert any("EveryWeight" in what for what in lost)
    assert lost.pop("DeepOptimizerStates").reason.startswith("no second device")
    assert all(one.memory_bytes and one.total_s and one.reason for one in lost.values())
    told = explain(found)
    assert {row.what for row in told.speed} >= {"forward", "backward", "update", "ask", "each step", "in all"}
    assert "checkpoints" in told.packing


def test_each_process_has_its_own_checkpoint_on_the_disk(model: Model) -> None:
    alone, two = (make_training_plan(question(model), Asked("lora", "float32", processes=count)) for count in (1, 2))
    assert two.cost.pack_bytes == pytest.approx(2 * alone.cost.pack_bytes, rel=0.01)


def test_a_plan_survives_json_and_gives_the_same_work(model: Model) -> None:
    for method in METHODS:
        found = plan(model, method=method)
        again = Plan.from_json(json.loads(found.dumps()))
        assert again == found
        assert again.dumps() == plan(model, method=method).dumps()
        assert lay_out(training_work_of(again)) == lay_out(training_work_of(found))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_op_of_the_work_is_sound_and_asks_for_something(tmp_path: Path, family: str) -> None:
    described = describe(str(write_hf(tmp_path / "m", Tiny(family=family))))
    adapters, every = TrainingForm(4, 8.0, ("q",), states="f32"), TrainingForm(fused=True, states="f32")
    for how in (adapters, every):
        form = replace(source_form(described), training=how)
        work = training_work(described.part("language"), form, Workload(train=TRAIN))
        assert [stage.name for stage in work.stages] == ["forward", "backward", "update"]
        for program in work.programs():
            check(program)
            assert [segment.first for segment in program.segments[1:]] == [s.stop for s in program.segments[:-1]]
            for op in program.ops:
                demand = op_module(op.kind).demand(op, program, Extent(TRAIN.tokens, 64, TRAIN.sequences))
                assert demand.ram_bytes > 0 or demand.disk_bytes > 0
        forward, backward = (multiply_adds(work.stage(name).programs[0]) for name in ("forward", "backward"))
        # Computed again, then the gradients of rows, and where weights learn theirs; of attention 2.5 times as much.
        least = 3 if how is every else 2
        assert least * forward <= backward <= (least + 0.6) * forward


def multiply_adds(program: Program) -> float:
    """Of all blocks."""
    extent = Extent(TRAIN.tokens, 64, TRAIN.sequences)
    inside = (op for op in program.ops if op.kind != "cross_entropy")
    return sum(op_module(op.kind).demand(op, program, extent).multiply_adds for op in inside)


def test_what_cannot_be_asked(model: Model) -> None:
    with pytest.raises(UsageError, match="no weights x in its layers"):
        make_training_plan(question(model), Asked("lora", adapters=LowRank(roles="x")))
    with pytest.raises(UsageError, match="no method 'none'"):
        Asked("none")
    with pytest.raises(UsageError, match="no arithmetic 'f8'"):
        Asked(arithmetic="f8")


WIDE = replace(K_QUANT, intermediate=4096)
"""Of whose widest inputs rounding holds more than learning takes."""


def test_what_a_file_has_in_four_bits_is_not_rounded_again(tmp_path: Path) -> None:
    for name, step in (("q4_1", "AsStored"), ("q8_0", "Gptq"), ("f16", "Gptq")):
        found = plan(describe(str(write_gguf(tmp_path / f"{name}.gguf", K_QUANT, name))), method="qlora")
        assert any(one.name == step for one in found.steps), (name, found.steps)
        inside = [w for w in found.form.weights if w.is_matrix and "." in w.name]
        assert {w.format for w in inside} == {"aff4"}


@pytest.mark.parametrize(("bits", "kept"), [(5, "aff5"), (6, "aff6"), (8, "sym8")])
def test_adapters_learn_beside_more_bits_where_they_are_asked_for(tmp_path: Path, bits: int, kept: str) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", WIDE, "f16")))
    roomy = make_training_plan(question(model), Asked("qlora", "float32", bits=bits))
    scarce = make_training_plan(question(model, roomy.smallest_bytes), Asked("qlora", bits=bits))
    for found, gently in ((roomy, True), (scarce, False)):
        assert {w.format for w in found.form.weights if w.is_matrix and "." in w.name} == {kept}
        assert ("Gptq" in {one.name for one in found.steps}) == gently
    assert held(roomy)["weights in RAM"] > held(plan(model, method="qlora"))["weights in RAM"]
    with pytest.raises(UsageError, match="beside weights in 4, 5, 6, 8 bits, not in 3"):
        Asked("qlora", bits=3)


def test_without_room_to_look_at_what_meets_weights_they_are_rounded_to_nearest(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", WIDE, "f16")))
    roomy = plan(model, method="qlora")
    assert held(roomy)["rounding, before learning"] > 0
    scarce = plan(model, roomy.smallest_bytes, method="qlora")
    assert "Gptq" not in {one.name for one in scarce.steps}
    assert {w.format for w in scarce.form.weights if w.is_matrix and "." in w.name} == {"nf4"}
    assert scarce.cost.memory_high <= roomy.smallest_bytes < roomy.cost.memory_high


def test_bits_are_dealt_out_where_it_is_known_what_each_weight_loses(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", replace(K_QUANT, layers=4), "f16")))
    inside = [w.name for w in source_form(model).weights if w.is_matrix and "." in w.name]
    formats = {"nf4_32": 1.0, "aff4": 0.9, "sym5": 0.3, "sym6": 0.08, "sym8": 0.004, "sym3": 4.0}

    def table(names: list[str]) -> Sensitivities:
        nats = {name: 1.0 if name.startswith("layers.2.") else 0.01 for name in names}
        return Sensitivities(
            64, {name: {kept: (0.0, n * x) for kept, x in formats.items()} for name, n in nats.items()}
        )

    asked = question(model)
    alike = make_training_plan(asked, Asked("qlora"))
    found = make_training_plan(replace(asked, sensitivities=table(inside)), Asked("qlora"))
    assert wants_table(alike.steps)
    assert not wants_table(found.steps)
    kept = {w.name: w for w in found.form.weights if w.name in inside}
    bits = {name: 8 * w.num_bytes / (w.shape[0] * w.shape[1]) for name, w in kept.items()}
    assert min(bits[n] for n in inside if n.startswith("layers.2.")) > max(bits[n] for n in inside if ".1." in n)
    assert min(bits.values()) > 4, "fewer than four bits a code"
    values = sum(w.shape[0] * w.shape[1] for w in kept.values())
    assert 4.5 * values < 8 * sum(w.num_bytes for w in kept.values()) <= 5.0 * values
    assert held(found)["weights in RAM"] <= held(alike)["weights in RAM"]
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))).form == found.form
    # Whoever lacks a weight knows nothing of the sum; 8 bits lose so little that there is nothing to deal out.
    assert make_training_plan(replace(asked, sensitivities=table(inside[1:])), Asked("qlora")).steps == alike.steps
    eight = make_training_plan(replace(asked, sensitivities=table(inside)), Asked("qlora", bits=8))
    assert {eight.form.weights.by_name[name].format for name in inside} == {"sym8"}
    assert not wants_table(eight.steps)
