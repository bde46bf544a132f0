"""Rotations: the network computes the same, online and folded; packs keep it, and need no text where none is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import FREE, MACHINE, opened, plan_of
from tiny import FAMILIES, K_QUANT, Tiny, write_gguf, write_hf

from pintpot.budget import Budget, Workload
from pintpot.contract.form import CacheForm, Form, source_form
from pintpot.contract.rotation import Rotation
from pintpot.contract.step import Step, step_from_json
from pintpot.errors import NotApplicable, UnsupportedModel, UsageError
from pintpot.formats.hadamard import rotate_columns
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.packer.calibrate.calibrate import calibrated, gathers
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.rounded import Vocabulary, transformed
from pintpot.packer.export.export import Wish, write_export
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.assess import assess
from pintpot.planner.question import Question
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.ops import check
from pintpot.program.spec import Program
from pintpot.proof.head import PackedHead
from pintpot.techniques import classes
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.block_rotation import BlockRotation
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.quarot import QuaRot, turned
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
TEXT = np.random.default_rng(5).integers(3, 300, 40).tolist()
NORMED = [tiny for tiny in FAMILIES if tiny.family == "gemma3"]
"""With norms between products and the stream."""
ROUTED = [tiny for tiny in FAMILIES if tiny.has_experts]
UNTIED = [
    *(replace(tiny, tied=False) for tiny in FAMILIES if tiny not in NORMED + ROUTED),
    Tiny(family="qwen2", hidden=72, seed=7),
]  # fmt: skip
BIASED = Tiny(bias=True, heads=4, kv_heads=2, seed=9)
ONLINE: tuple[Rotation, ...] = (
    BlockRotation(size=8), BlockRotation(size=32), BlockRotation(size=64), BlockRotation(size=16, roles="o down"),
    QuaRot("blocks", stream=False), QuaRot("blocks", stream=False, down=0),
)  # fmt: skip


def form_of(model: Model, bits: int = 8) -> Form:
    return replace(RoundToNearest("all", bits).promise(source_form(model)), cache=CacheForm("f32"))


def logits(model: Model, step: Rotation | None) -> Floats:
    """Of the network in its floats, [T, V]; the step transforms, nothing is rounded."""
    steps, form = (() if step is None else (step,)), form_of(model)
    chosen = Chosen.of(form, steps)
    with Store(model) as store:
        forward = Forward(model, store, len(TEXT), form, steps)
        vocabulary = Vocabulary(forward, chosen)
        states = forward.embedded([TEXT], vocabulary.rows(forward.embed))
        for block in forward.blocks:
            values = transformed(chosen, block.name, block.ops, forward.values(block), {})
            states = forward.run(block, values, states, [len(TEXT)])
        head = form.weights.by_name[str(forward.head.read("weight"))]
        found = forward.final(states, vocabulary.norm()) @ vocabulary.rows(forward.head).part(0, head.shape[0]).T
    return np.asarray(found)


def rotated_ops(program: Program) -> list[int]:
    return [op.get("rotate", 0) for op in program.ops if op.kind == "linear"]


def answers(folder: Path, isa: str = "") -> Floats:
    """Logits [T, V] as the native kernels give them."""
    manifest, _ = read_manifest(folder)
    with opened(folder, isa=isa, every_row=True) as session:
        states = np.concatenate([np.array(part) for part in session.engine.hidden(tuple(TEXT), 4)])
    return np.concatenate([part for _, part in PackedHead(folder, manifest).logits(states)], axis=1)


@pytest.mark.parametrize("tiny", [*FAMILIES, BIASED], ids=lambda tiny: f"{tiny.family} {tiny.seed}")
def test_rotated_blocks_compute_the_same(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    expected = logits(model, None)
    for step in ONLINE:
        step.check(model, source_form(model))
        np.testing.assert_allclose(logits(model, step), expected, atol=2e-5 * np.abs(expected).max(), err_msg=str(step))


@pytest.mark.parametrize("tiny", [*UNTIED, replace(BIASED, hidden=104)], ids=lambda tiny: f"{tiny.family} {tiny.seed}")
def test_a_rotated_stream_computes_the_same(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    expected = logits(model, None)
    for step in (QuaRot(), QuaRot(heads=False, down=32), QuaRot(down=0)):
        step.check(model, source_form(model))
        np.testing.assert_allclose(logits(model, step), expected, atol=4e-5 * np.abs(expected).max(), err_msg=str(step))


@pytest.mark.parametrize("tiny", NORMED, ids=lambda tiny: tiny.family)
def test_a_stream_behind_norms_is_not_rotated(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", replace(tiny, tied=False))))
    with pytest.raises(NotApplicable, match="a norm between a product and the stream"):
        QuaRot().check(model, source_form(model))
    QuaRot("blocks", stream=False).check(model, source_form(model))


@pytest.mark.parametrize("tiny", ROUTED, ids=lambda tiny: tiny.family)
def test_a_stream_that_experts_are_chosen_by_is_not_rotated(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    with pytest.raises(NotApplicable, match="experts share a norm with the scores"):
        QuaRot().check(model, source_form(model))
    QuaRot("blocks", stream=False).check(model, source_form(model))


@pytest.mark.parametrize("size", [1, 8, 9, 72, 96, 104, 576])
def test_the_stream_is_turned_by_an_orthogonal_matrix_that_spreads(size: int) -> None:
    matrix = turned(np.eye(size, dtype=np.float32)).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    assert np.abs(matrix).max() <= 1.5 / size**0.5


def test_what_attention_gives_is_rotated_by_the_rows_that_make_it(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(hidden=96, intermediate=160, head_dim=32))))
    for step, wanted in (
        (BlockRotation(size=32), [32, 0, 32, 32]),
        (BlockRotation(size=64), [32, 64, 32, 32]),
        (BlockRotation(size=8, roles="o down"), [0, 0, 0, 8]),
        (QuaRot(), [0, 0, 0, 32]),
        (QuaRot(down=8), [0, 0, 0, 8]),
        (QuaRot("blocks", stream=False, down=0), [0, 0, 0, 0]),
    ):
        plan = plan_of(model, (RoundToNearest("all", 4), step, PrefillChunk(tokens=16)))
        for program in rebuild_work(plan).programs():
            assert rotated_ops(program) == [*2 * wanted, 0], step
            check(program)


def test_a_rotation_is_priced(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(hidden=96))))
    slow = replace(MACHINE, rates=tuple(
        replace(rate, low=1e6, mid=1e6, high=1e6) if rate.what == "prologue/rotate" else rate for rate in MACHINE.rates
    ))  # fmt: skip
    steps = (RoundToNearest("all", 4), PrefillChunk(tokens=16))
    budget = Budget(4_000_000_000, Workload(128, prompt=32, output=32), degradation=1e9, threads=1)
    plain, longer = (
        assess(Question(model, slow, budget, FREE), chosen).cost.per_token_s.mid
        for chosen in (steps, (*steps, BlockRotation(size=32)))
    )
    assert longer - plain == pytest.approx(2 * (96 + 96 + 160) / 1e6, rel=1e-3)


@pytest.mark.parametrize("step", [BlockRotation(size=32), QuaRot(), QuaRot("blocks", stream=False)], ids=str)
@pytest.mark.parametrize("int8", [False, True])
def test_a_pack_that_was_rotated_reads_no_text_and_answers_alike(
    step: Rotation, int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object) -> str:
        raise AssertionError("a text was read")

    monkeypatch.setattr("pintpot.packer.calibrate.texts.read_text", unread)
    model = describe(str(write_hf(tmp_path / "model", Tiny(family="qwen2", hidden=96, heads=4, kv_heads=2, seed=4))))
    common = (RoundToNearest("all", 8), PrefillChunk(tokens=16), *((Int8Activations(),) if int8 else ()))
    plain, plan = plan_of(model, common), plan_of(model, (*common, step))
    assert calibrated(plan)
    assert not gathers(plan)
    one, two = (
        answers(write_pack(model, made, tmp_path / name)) for name, made in (("plain", plain), ("turned", plan))
    )
    exact = logits(model, None)
    off = [float(np.abs(found - exact).mean() / np.abs(exact).mean()) for found in (one, two)]
    assert off[0] < 0.05
    assert off[1] < 1.5 * off[0]
    assert not np.array_equal(two, one)
    manifest, _ = read_manifest(tmp_path / "turned")
    assert manifest.plan.steps == plan.steps
    assert any(op.get("rotate") for program in rebuild_work(manifest.plan).programs() for op in program.ops)
    assert answers(tmp_path / "turned", isa="portable").tobytes() == two.tobytes()


def test_a_calibrated_rotation_gives_the_same_bytes_with_one_thread_or_two(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(hidden=96, heads=4, kv_heads=2, seed=6))))
    steps = (MicroScaling("blocks", "mxfp4"), AsStored("vocabulary"), BlockRotation(size=32), Gptq("blocks"))
    data = []
    for threads in (1, 2):
        plan = plan_of(model, (*steps, PrefillChunk(tokens=16)), threads=threads)
        folder = write_pack(model, plan, tmp_path / f"pack{threads}", texts=[TEXT, TEXT[::-1]])
        data.append((folder / WEIGHTS).read_bytes())
    assert data[0] == data[1]


def test_rotations_say_where_they_do_not_apply(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(tied=True))))
    form = source_form(model)
    steps: tuple[tuple[Step, str], ...] = (
        (BlockRotation("all"), "inside blocks, not in 'all'"),
        (BlockRotation(size=48), "power of two, not 48"),
        (BlockRotation(roles="nose"), "role of 'nose'"),
        (QuaRot(), "one matrix"),
        (QuaRot("blocks"), "rotate 'all'"),
        (QuaRot("blocks", stream=False, heads=False, down=0), "nothing would be rotated"),
        (QuaRot("blocks", stream=False, down=24), "not 24"),
    )
    for step, reason in steps:
        with pytest.raises(NotApplicable, match=reason):
            step.check(model, form)
        assert step_from_json(json.loads(json.dumps(step.to_json())), classes()) == step
    with pytest.raises(NotApplicable, match="rotating gains nothing"):
        plan_of(model, (AsStored("all"), BlockRotation(), PrefillChunk(tokens=16)))
    with pytest.raises(UsageError, match="both decide transform"):
        plan_of(model, (RoundToNearest("all", 4), BlockRotation(), Awq(), PrefillChunk(tokens=16)))
    blocks = describe(str(write_gguf(tmp_path / "model.gguf", K_QUANT, "q4_k")))
    turned = plan_of(blocks, (AsStored("all"), QuaRot("blocks", stream=False), PrefillChunk(tokens=16)))
    assert {w.format for w in turned.form.weights if w.is_matrix and w.role != "embed"} == {"q4_k"}


def test_a_program_with_blocks_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(hidden=96))))
    part, form = model.part("language"), form_of(model)
    program = family(part.family).work(part.config, form, Workload(context=64)).stage("decode").programs[0]
    for size in (64, 3, 1):
        ops = [
            replace(op, attributes=(*op.attributes, ("rotate", size))) if op.kind == "linear" else op
            for op in program.ops
        ]
        with pytest.raises(UsageError, match=f"96 columns cannot be rotated in blocks of {size}"):
            check(replace(program, ops=tuple(ops)))


def test_outliers_of_a_block_are_shared_out() -> None:
    values = np.zeros((1, 64), np.float32)
    values[0, 5] = 8
    rotated = rotate_columns(values, 32)
    np.testing.assert_allclose(np.abs(rotated[0, :32]), 8 / 32**0.5, rtol=1e-6)
    np.testing.assert_array_equal(rotated[0, 32:], 0)


def test_what_is_folded_can_be_exported_and_what_is_rotated_as_it_arrives_cannot(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "model", Tiny(hidden=96, heads=4, kv_heads=2, seed=8))
    model = describe(str(source))
    steps = (RoundToNearest("all", 8), PrefillChunk(tokens=16))
    folded = write_pack(model, plan_of(model, (*steps, QuaRot(down=0))), tmp_path / "folded")
    made = write_export(folded, tmp_path / "exported", Wish("safetensors"))
    exact = logits(model, None)
    found = logits(describe(str(made.path)), None)
    assert np.abs(found - exact).mean() < 0.05 * np.abs(exact).mean()
    online = write_pack(model, plan_of(model, (*steps, BlockRotation())), tmp_path / "online")
    with pytest.raises(UnsupportedModel, match=r"computed by no other program.*BlockRotation"):
        write_export(online, tmp_path / "never", Wish("safetensors"))
