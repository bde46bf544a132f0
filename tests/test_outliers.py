"""Columns that outliers meet, kept in 16 bits; channels put in order: what is computed stays, what is lost shrinks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import STREAMED, opened, plan_of
from tiny import FAMILIES, K_QUANT, Tiny, write_gguf, write_hf

from pintpot.contract.form import WeightForm, source_form
from pintpot.contract.statistics import Block, InputStatistics
from pintpot.contract.step import Facet, Step, step_from_json
from pintpot.errors import NotApplicable, UsageError
from pintpot.formats import encoding
from pintpot.formats.columns_apart import separated
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.calibrate import calibrated, preparing
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.gather import Sums, statistics
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.planner.plan import Plan
from pintpot.program.spec import Op
from pintpot.proof.reference import Network, states_of
from pintpot.proof.strips import Dequantized, packed_strips, packed_vector
from pintpot.techniques import classes
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.mixed import Mixed, write_formats
from pintpot.techniques.quantize.outlier_columns import OutlierColumns
from pintpot.techniques.quantize.rearranged import Rearranged
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
TINY = Tiny(hidden=96, intermediate=160, layers=2, heads=4, kv_heads=2, seed=11)
TEXTS = np.random.default_rng(3).integers(3, 300, (4, 40)).tolist()
OUTLIERS = [7, 40, 41, 90]
COMPUTED = (Int8Activations(prefill=1, decode=1), PrefillChunk(tokens=16))
APART: tuple[Step, ...] = (RoundToNearest("all", 4), OutlierColumns(columns=4), *COMPUTED)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which some channels of the residual stream and of the hidden ones are a hundred times the others."""
    from safetensors.numpy import load_file, save_file

    folder = write_hf(tmp_path_factory.mktemp("outliers") / "model", TINY)
    tensors = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        if name.endswith("layernorm.weight"):
            values[OUTLIERS] *= 30
        if name.endswith("up_proj.weight"):
            values[OUTLIERS] *= 30
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def model(source: Path) -> Model:
    return describe(str(source))


def states_of_pack(folder: Path) -> Floats:
    with opened(folder, every_row=True) as session:
        return np.concatenate([np.array(part) for part in session.engine.hidden(tuple(TEXTS[0]), 4)])


def source_states(model: Model) -> Floats:
    with Store(model) as store:
        forward = Forward(model, store, 40)
        states = forward.embedded(TEXTS[:1])
        for block in forward.blocks:
            states = forward.run(block, forward.values(block), states, [40])
        return states


# --- Columns apart ------------------------------------------------------------------------------------------------


def test_the_columns_are_those_that_the_largest_rows_meet(model: Model, tmp_path: Path) -> None:
    plan = plan_of(model, APART)
    assert calibrated(plan)
    with preparing(model, plan, tmp_path / "pack", TEXTS) as prepared:
        for form in plan.form.weights:
            if not form.is_matrix or form.name in ("embed", "head"):
                assert form.name not in prepared.names
                assert encoding(form.format).num_apart == 0
                continue
            strips = prepared.strips(form.name, 0, form.num_strips)
            _, kept, which = separated(strips, form.format, *form.shape)
            assert form.format == "sym4+4"
            if form.role != "o":
                assert which.tolist() == OUTLIERS, form.name
            with Store(model) as store:
                values = Forward(model, store, 32).weight(form.name)
            np.testing.assert_array_equal(kept, values[:, which].astype(np.float16))


def test_a_pack_with_columns_apart_is_nearer_to_its_source_and_the_same_streamed(
    model: Model, source: Path, tmp_path: Path
) -> None:
    truth = source_states(model)
    plain = (RoundToNearest("all", 4), *COMPUTED)
    folder = write_pack(model, plan_of(model, APART), tmp_path / "apart", texts=TEXTS)
    streamed = write_pack(model, plan_of(model, (*APART, STREAMED)), tmp_path / "streamed", texts=TEXTS)
    found = states_of_pack(folder)
    error = float(np.square(found - truth).mean())
    other = states_of_pack(write_pack(model, plan_of(model, plain), tmp_path / "plain"))
    assert error < 0.5 * float(np.square(other - truth).mean())
    np.testing.assert_array_equal(states_of_pack(streamed), found)


def test_a_pack_opens_where_its_source_is_gone(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    model = describe(str(copy))
    folder = write_pack(model, plan_of(model, (*APART, STREAMED)), tmp_path / "pack", texts=TEXTS)
    shutil.rmtree(copy)
    assert np.isfinite(states_of_pack(folder)).all()


@pytest.mark.parametrize("planes", [1, 2])
def test_the_streamed_reference_computes_what_the_pack_does(planes: int, model: Model, tmp_path: Path) -> None:
    steps = (RoundToNearest("all", 4), OutlierColumns(columns=4), Int8Activations(prefill=planes, decode=planes))
    folder = write_pack(model, plan_of(model, (*steps, PrefillChunk(tokens=16))), tmp_path / "pack", texts=TEXTS)
    manifest, _ = read_manifest(folder)
    weights = {
        form.name: Dequantized(form, packed_strips(folder, manifest, form))
        if form.is_matrix
        else packed_vector(folder, manifest, form)
        for form in manifest.plan.form.weights
    }
    with Store(model) as store:
        (expected,) = states_of(Network(model, store, manifest.plan.form, weights), TEXTS[:1])
        norm = Forward(model, store, 40).weight("norm")
    found = states_of_pack(folder)
    found = found / np.sqrt(np.mean(found * found, axis=1, keepdims=True) + 1e-5) * norm
    away = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert away < 0.02, "but for keys and values that were rounded"


def test_what_rounds_by_what_it_meets_goes_on_beside_the_columns(model: Model, tmp_path: Path) -> None:
    """Every rounding step takes the grid alone, and knows that nothing meets it where columns are kept apart."""
    with Store(model) as store:
        forward = Forward(model, store, 40)
        values, rows = forward.weight("layers.0.gate"), []
        states = [forward.embedded([text]) for text in TEXTS]

        def met(op: Op, found: Floats) -> None:
            if "layers.0.gate" in op.read_all("weight"):
                rows.append(found)

        for x in states:
            forward.run(forward.blocks[0], forward.values(forward.blocks[0]), x, [40], met)
    errors = []
    for step in ((), (Gptq("blocks", sweeps=1),), (Gptq("blocks", sweeps=1, act_order=False),)):
        plan = plan_of(model, (RoundToNearest("all", 4), OutlierColumns(columns=4), *step, PrefillChunk(tokens=16)))
        with preparing(model, plan, tmp_path / "pack", TEXTS) as prepared:
            form = plan.form.weights.by_name["layers.0.gate"]
            kept = unpack(prepared.strips(form.name, 0, form.num_strips), form.format, *form.shape)
        errors.append(float(np.square(np.concatenate(rows) @ (kept - values).T).mean()))
    assert max(errors[1:]) < 0.7 * errors[0]


def test_all_that_is_calibrated_makes_one_pack(model: Model, tmp_path: Path) -> None:
    steps = (RoundToNearest("all", 4), Awq(), Rearranged(), OutlierColumns(columns=4), Gptq("blocks", sweeps=1))
    folder = write_pack(model, plan_of(model, (*steps, *COMPUTED)), tmp_path / "pack", texts=TEXTS)
    assert np.isfinite(states_of_pack(folder)).all()


def test_columns_beside_mixed_formats(model: Model, tmp_path: Path) -> None:
    roles = {"q": "sym4", "k": "aff3", "v": "f16", "o": "sym8", "gate": "nf4_32", "up": "mxfp4", "down": "sym4"}
    names = [w.name for w in source_form(model).weights if w.is_matrix]
    formats = write_formats({name: roles.get(name.rpartition(".")[2], "sym8") for name in names})
    plan = plan_of(model, (Mixed(formats=formats), OutlierColumns(columns=3), *COMPUTED))
    assert plan.form.weights.by_name["layers.0.k"].format == "aff3+3"
    assert plan.form.weights.by_name["layers.0.v"].format == "f16"
    assert np.isfinite(states_of_pack(write_pack(model, plan, tmp_path / "pack", texts=TEXTS))).all()


def test_reasons_against_columns_apart(model: Model, tmp_path: Path) -> None:
    form = RoundToNearest("all", 4).promise(source_form(model))
    OutlierColumns(columns=48).check(model, form)
    for wrong in (
        OutlierColumns("all"),
        OutlierColumns("layers.0.q"),
        OutlierColumns(columns=49),
        OutlierColumns(columns=0),
    ):
        with pytest.raises(NotApplicable):
            wrong.check(model, form)
    with pytest.raises(NotApplicable, match="low bits"):
        OutlierColumns().check(model, AsStored().promise(source_form(model)))
    stored = describe(str(write_gguf(tmp_path / "model.gguf", K_QUANT, "q4_k")))
    with pytest.raises(NotApplicable, match="as their file"):
        OutlierColumns().check(stored, AsStored().promise(source_form(stored)))
    wide = source_form(describe(str(write_hf(tmp_path / "wide", K_QUANT))))
    blocks = Mixed(formats=write_formats({w.name: "q4_k" for w in wide.weights if w.is_matrix})).promise(wide)
    with pytest.raises(NotApplicable, match=r"no columns can be kept apart from .* in q4_k"):
        OutlierColumns().check(stored, blocks)


# --- Channels in order --------------------------------------------------------------------------------------------


def seen(rows: Floats) -> InputStatistics:
    return statistics([Sums.of(rows)], rows.T @ rows)


@pytest.mark.parametrize("family", [tiny.family for tiny in FAMILIES])
def test_rearranged_blocks_compute_the_same(family: str, tmp_path: Path) -> None:
    wide = Tiny(family=family, hidden=96, intermediate=160, layers=2, heads=4, kv_heads=2, head_dim=64)
    model = describe(str(write_hf(tmp_path / "model", wide)))
    form = RoundToNearest("blocks", 4).promise(source_form(model))
    text = np.random.default_rng(1).integers(3, 300, 40).tolist()
    moved: set[str] = set()
    with Store(model) as store:
        forward = Forward(model, store, 40)
        states = forward.embedded([text])
        for block in forward.blocks:
            values, sums = forward.values(block), {}
            rng = np.random.default_rng(2)
            for name in values:
                if name.endswith((".o", ".down")):
                    # Columns that differ in size: otherwise there would be nothing to put in order. Alike in all heads.
                    size = np.tile(rng.choice(np.array([0.2, 2], np.float32), 32), values[name].shape[1] // 32)
                    values[name] = values[name] * size

            def met(op: Op, rows: Floats) -> None:
                sums.update(dict.fromkeys(op.read_all("weight"), seen(rows)))  # noqa: B023

            after = forward.run(block, values, states, [40], met)
            forms = {name: form.weights.by_name[name] for name in block.weights}
            made = Block(block.name, block.ops, forms, dict(values), dict(sums))
            Rearranged().transform(made)
            moved |= {name.rpartition(".")[2] for name in values if not np.array_equal(values[name], made.values[name])}
            sums.clear()
            np.testing.assert_allclose(forward.run(block, made.values, states, [40], met), after, atol=1e-4, rtol=1e-3)
            for name, inputs in made.inputs.items():
                np.testing.assert_allclose(inputs.mean_square, sums[name].mean_square, rtol=2e-3)
                np.testing.assert_allclose(inputs.second_moment, sums[name].second_moment, rtol=2e-2, atol=1e-2)  # type: ignore[arg-type]
            states = after
    routed = model.part("language").config.get("num_experts")
    assert {"v", "o", *(() if routed else ("gate", "up", "down"))} <= moved
    assert not routed or not moved & {"router", "gate", "up", "down"}
    assert not moved & {"q", "k", "attn_norm", "ffn_norm"}


def test_like_channels_in_a_group_lose_less(model: Model) -> None:
    form = RoundToNearest("blocks", 4).promise(source_form(model))
    with Store(model) as store:
        forward = Forward(model, store, 40)
        block, rng = forward.blocks[0], np.random.default_rng(5)
        values = forward.values(block)
        size = rng.choice(np.array([1, 8], np.float32), 160)
        values["layers.0.down"] = values["layers.0.down"] * size
        rows = (rng.normal(size=(300, 160)) / size).astype(np.float32)
        inputs = {name: seen(rows[:, : forward.weight(name).shape[1]]) for name in values if forward.is_matrix(name)}
        made = Block(block.name, block.ops, {n: form.weights.by_name[n] for n in values}, dict(values), dict(inputs))
        Rearranged().transform(made)
    errors = []
    for down, met in ((values["layers.0.down"], inputs), (made.values["layers.0.down"], made.inputs)):
        lost = np.square(unpack(encode(down, "sym4"), "sym4", *down.shape) - down).sum(axis=0)
        errors.append(float(lost @ met["layers.0.down"].mean_square))
    assert errors[1] < 0.2 * errors[0]
    np.testing.assert_array_equal(np.sort(made.values["layers.0.down"]), np.sort(values["layers.0.down"]))


def test_what_is_kept_as_its_file_has_it_keeps_its_order(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "model.gguf", K_QUANT, "q4_k")))
    plan = plan_of(model, (AsStored("all"), Rearranged(), PrefillChunk(tokens=16)))
    plain = plan_of(model, (AsStored("all"), PrefillChunk(tokens=16)))
    found = states_of_pack(write_pack(model, plan, tmp_path / "pack", texts=TEXTS))
    np.testing.assert_array_equal(found, states_of_pack(write_pack(model, plain, tmp_path / "plain")))


# --- Both ---------------------------------------------------------------------------------------------------------


def test_steps_survive_json_and_stand_beside_the_others(model: Model) -> None:
    steps = (RoundToNearest("all", 4), Awq(), Rearranged(), OutlierColumns(columns=2), Gptq("blocks"), *COMPUTED)
    plan = plan_of(model, steps)
    assert Plan.from_json(json.loads(plan.dumps())) == plan
    assert [step.facet for step in plan.steps[:4]] == [Facet.TRANSFORM, Facet.ORDER, Facet.FORMAT, Facet.OUTLIERS]
    for step in (Rearranged(), OutlierColumns(columns=5)):
        assert step_from_json(json.loads(json.dumps(step.to_json())), classes()) == step
    with pytest.raises(NotApplicable, match="inside blocks"):
        Rearranged("all").check(model, source_form(model))
    with pytest.raises(UsageError, match="outliers"):
        plan_of(model, (*steps, OutlierColumns(columns=4)))


def test_a_promise_is_kept_to_the_byte(model: Model) -> None:
    before = RoundToNearest("all", 4).promise(source_form(model))
    after = OutlierColumns(columns=4).promise(before)
    for old, new in zip(before.weights, after.weights, strict=True):
        blocks = old.is_matrix and old.name not in ("embed", "head")
        assert new == (WeightForm(old.name, old.shape, old.source, "sym4+4", old.ram_rows, True) if blocks else old)
        assert new.num_bytes - old.num_bytes == (old.num_strips * 192 if blocks else 0)
        assert new.in_grid == old
