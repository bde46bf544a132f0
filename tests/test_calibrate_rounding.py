"""Rounding by what meets the weights: scales by importance, errors compensated, columns scaled and nothing changed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import plan_of
from tiny import FAMILIES, Tiny, write_hf

from pintpot.contract.form import WeightForm, source_form
from pintpot.contract.statistics import Block, InputStatistics
from pintpot.contract.step import step_from_json
from pintpot.errors import BadInput, NotApplicable, PintpotError
from pintpot.formats import encoding
from pintpot.formats.compensation import Hessian, compensated, descended, squared_error
from pintpot.formats.convert import encode
from pintpot.formats.grid import Grid, has_grid
from pintpot.formats.tiles import unpack
from pintpot.model.read import describe
from pintpot.model.store import Store
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.gather import Sums, statistics
from pintpot.planner.plan import Plan
from pintpot.program.spec import Op
from pintpot.techniques import classes
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
FORMATS = (
    "sym8", "sym6", "sym5", "sym4", "sym3", "sym2", "aff6", "aff5", "aff4", "aff3", "aff2", "nf4", "nf4_32", "mxfp4",
    "nvfp4", "q4_k", "q6_k",
)  # fmt: skip


def drawn(seed: int, rows: int = 40, columns: int = 100) -> tuple[Floats, Floats]:
    """Weights with a few outliers [N, K], and correlated inputs [T, K] of columns that differ in size."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_t(4, (rows, columns)) * 0.05).astype(np.float32)
    mixing = rng.normal(size=(columns // 4, columns)) * np.exp(rng.normal(size=columns))
    inputs = rng.normal(size=(400, columns // 4)) @ mixing + 0.2 * rng.normal(size=(400, columns))
    return values, inputs.astype(np.float32)


def some(seed: int, name: str) -> tuple[Floats, Floats]:
    """`drawn` with as many columns as a format can have; superblocks are of 256."""
    return drawn(seed, columns=100 if encoding(name).fits(100) else 256)


def seen(rows: Floats) -> InputStatistics:
    return statistics([Sums.of(rows)], rows.T @ rows)


def form_of(values: Floats, name: str) -> WeightForm:
    rows, columns = values.shape
    return WeightForm("layers.0.q", (rows, columns), "f32", name, rows, packed=True)


def error_of(step: object, values: Floats, inputs: InputStatistics, name: str) -> float:
    """tr(E M E^T) of a step's strips, or of rounding to nearest."""
    form, moment = form_of(values, name), inputs.second_moment
    assert moment is not None
    strips = encode(values, name) if step is None else step.round(form, values, inputs)  # type: ignore[attr-defined]
    errors = (values - unpack(strips, name, *values.shape)).astype(np.float64)
    return float(np.sum((errors @ moment.astype(np.float64)) * errors))


# --- Scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_strips_of_a_grid_hold_what_the_grid_says(name: str) -> None:
    values, inputs = drawn(1, 35, 75 if encoding(name).fits(75) else 512)
    grid = Grid.of(name)
    scales = grid.fit(values, seen(inputs).mean_square)
    levels = grid.nearest(values, scales)
    np.testing.assert_array_equal(unpack(grid.strips(levels, scales), name, *values.shape), grid.values(levels, scales))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(2))
def test_scales_by_importance_err_less_where_it_matters(name: str, seed: int) -> None:
    values, inputs = some(seed, name)
    importance, grid = seen(inputs).mean_square, Grid.of(name)

    def weighted(found: Floats) -> float:
        return float((np.square(found - values) * importance).sum(dtype=np.float64))

    scales = grid.fit(values, importance)
    found = grid.values(grid.nearest(values, scales), scales)
    nearest = unpack(encode(values, name), name, *values.shape)
    assert weighted(found) <= weighted(nearest) * 1.0001


def test_odd_groups_keep_finite_scales() -> None:
    values = np.zeros((16, 70), np.float32)
    values[1], values[2], values[3], values[4, 69] = 3.0, 1e30, 1e-42, -5.0
    for name in ("sym4", "aff4", "sym2", "aff2", "nf4", "mxfp4", "nvfp4"):
        grid = Grid.of(name)
        scales = grid.fit(values, np.zeros(70, np.float32))
        assert np.isfinite(grid.values(grid.nearest(values, scales), scales)).all()
    with pytest.raises(BadInput, match="infinite or not a number"):
        Grid.of("sym4").fit(np.full((1, 32), np.nan, np.float32))
    with pytest.raises(BadInput, match="no grid"):
        Grid.of("f16")
    assert not has_grid("f16")


# --- Compensation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("act_order", [False, True])
def test_compensation_never_loses_to_nearest(name: str, act_order: bool) -> None:
    for seed in range(2):
        values, rows = some(seed, name)
        inputs = seen(rows)
        nearest, importance = error_of(None, values, inputs, name), error_of(ImportanceRounding(), values, inputs, name)
        plain = error_of(Gptq(act_order=act_order, sweeps=0), values, inputs, name)
        swept = error_of(Gptq(act_order=act_order, sweeps=2), values, inputs, name)
        assert plain < 0.7 * min(nearest, importance), (seed, plain, nearest, importance)
        assert swept <= plain * 1.0001


def test_without_correlation_compensation_is_rounding_to_nearest() -> None:
    values, _ = drawn(7)
    grid = Grid.of("sym4")
    scales = grid.fit(values)
    for falling in (False, True):
        hessian = Hessian.of(np.eye(100, dtype=np.float32), 0.01, falling)
        levels = compensated(values, grid, scales, hessian)
        np.testing.assert_array_equal(levels, grid.nearest(values, scales))
        again, fitted = descended(values, levels, grid, scales, hessian)
        assert squared_error(values, again, grid, fitted, hessian.matrix) <= squared_error(
            values, levels, grid, scales, hessian.matrix
        )


def test_what_should_have_come_is_made_up_for() -> None:
    values, wanted = drawn(3)
    came = wanted + 0.3 * np.roll(wanted, 1, axis=1)
    inputs, form = statistics([Sums.of(came)], came.T @ came, wanted.T @ came), form_of(values, "aff4")
    found = [unpack(Gptq(correction=share).round(form, values, inputs), "aff4", *values.shape) for share in (0, 0.5)]
    plain, corrected = (np.linalg.norm(wanted @ values.T - came @ one.T) for one in found)
    assert corrected < 0.7 * plain


def test_columns_are_visited_by_falling_diagonal() -> None:
    _, rows = drawn(8)
    moment = seen(rows).second_moment
    assert moment is not None
    falling = np.diagonal(moment)[Hessian.of(moment, 0.01, True).order]
    assert (np.diff(falling) <= 0).all()
    assert list(Hessian.of(moment, 0.01, False).order) == list(range(100))


def test_the_factor_is_that_of_the_inverse() -> None:
    _, rows = drawn(9, 4, 150)
    moment = seen(rows).second_moment
    assert moment is not None
    hessian = Hessian.of(moment, 0.01, True)
    assert np.array_equal(hessian.upper, np.triu(hessian.upper))
    visited = hessian.matrix[np.ix_(hessian.order, hessian.order)].astype(np.float64)
    upper = hessian.upper.astype(np.float64)
    np.testing.assert_allclose(upper.T @ upper @ visited, np.eye(150), atol=1e-3)


def test_inputs_that_never_came_and_too_few_of_them() -> None:
    values, rows = drawn(10)
    rows[:, 40:] = 0
    for few in (rows, rows[:3], np.zeros_like(rows)):
        strips = Gptq().round(form_of(values, "sym4"), values, seen(few))
        assert strips is not None
        assert np.isfinite(unpack(strips, "sym4", *values.shape)).all()
    inputs = seen(rows)
    inputs.second_moment[0, 0] = np.inf  # type: ignore[index]
    with pytest.raises(BadInput, match="not finite"):
        Gptq().round(form_of(values, "sym4"), values, inputs)


def test_rows_do_not_depend_on_each_other() -> None:
    values, rows = drawn(11, 64)
    inputs = seen(rows)
    whole = Gptq().round(form_of(values, "aff3"), values, inputs)
    parts = [Gptq().round(form_of(values[:32], "aff3"), part, inputs) for part in (values[:32], values[32:])]
    assert whole is not None
    difference = unpack(whole, "aff3", 64, 100) - np.concatenate([unpack(p, "aff3", 32, 100) for p in parts])  # type: ignore[arg-type]
    assert np.count_nonzero(difference) <= 5, "products of other shapes may round the last bit otherwise"


@pytest.mark.parametrize("name", ["sym3", "aff3", "sym2", "aff4", "nf4", "nvfp4"])
def test_a_descent_never_climbs(name: str) -> None:
    values, rows = drawn(12)
    moment = seen(rows).second_moment
    assert moment is not None
    grid = Grid.of(name)
    scales, hessian = grid.fit(values), Hessian.of(moment, 0.01, False)
    levels = grid.nearest(values, scales)
    errors = [squared_error(values, levels, grid, scales, hessian.matrix)]
    for _ in range(4):
        levels, scales = descended(values, levels, grid, scales, hessian)
        errors.append(squared_error(values, levels, grid, scales, hessian.matrix))
    assert errors[1] < 0.5 * errors[0]
    assert all(after <= before * 1.0001 for before, after in pairwise(errors))


def test_without_statistics_it_says_what_it_lacks() -> None:
    values, rows = drawn(13)
    with pytest.raises(PintpotError, match="second moments"):
        Gptq().round(form_of(values, "sym4"), values, statistics([Sums.of(rows)], None))
    assert Gptq().round(form_of(values, "f16"), values, seen(rows)) is None
    assert ImportanceRounding().round(form_of(values, "bf16"), values, seen(rows)) is None


# --- AWQ ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", FAMILIES, ids=lambda tiny: tiny.family)
def test_scaled_blocks_compute_the_same(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    form = RoundToNearest("blocks", 4).promise(source_form(model))
    text = np.random.default_rng(1).integers(3, 300, 40).tolist()
    with Store(model) as store:
        forward = Forward(model, store, 40)
        states = forward.embedded([text])
        for block in forward.blocks:
            values, sums = forward.values(block), {}

            def met(op: Op, rows: Floats) -> None:
                # Columns that differ in size: otherwise there would be nothing to scale.
                found = seen(rows * np.exp(np.random.default_rng(2).normal(size=rows.shape[1])).astype(np.float32))
                sums.update(dict.fromkeys(op.read_all("weight"), found))  # noqa: B023

            after = forward.run(block, values, states, [40], met)
            forms = {name: form.weights.by_name[name] for name in block.weights}
            made = Block(block.name, block.ops, forms, dict(values), dict(sums))
            Awq().transform(made)
            scaled = [name for name in values if not np.array_equal(values[name], made.values[name])]
            roles = {name.rpartition(".")[2] for name in scaled}
            ffn = set() if tiny.has_experts else {"ffn_norm", "gate", "up", "down"}
            assert {"attn_norm", "q", "k", "v", "o", *ffn} <= roles
            assert not tiny.has_experts or not roles & {"ffn_norm", "router", "gate", "up", "down"}
            np.testing.assert_allclose(forward.run(block, made.values, states, [40]), after, atol=1e-4, rtol=1e-4)
            assert all((made.inputs[name] is sums[name]) == name.endswith("router") for name in sums)
            states = after


def test_what_is_seen_after_scaling_is_what_comes(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(layers=1, heads=4, kv_heads=2))))
    form = RoundToNearest("blocks", 3).promise(source_form(model))
    with Store(model) as store:
        forward = Forward(model, store, 40)
        (block,) = forward.blocks
        states, sums = forward.embedded([list(range(3, 43))]), {}

        def met(op: Op, rows: Floats) -> None:
            sums.update(dict.fromkeys(op.read_all("weight"), seen(rows)))

        values = forward.values(block)
        forward.run(block, values, states, [40], met)
        made = Block(block.name, block.ops, {n: form.weights.by_name[n] for n in values}, values, dict(sums))
        Awq().transform(made)
        sums.clear()
        forward.run(block, made.values, states, [40], met)
    for name, inputs in made.inputs.items():
        np.testing.assert_allclose(inputs.mean_abs, sums[name].mean_abs, rtol=2e-3)
        np.testing.assert_allclose(inputs.second_moment, sums[name].second_moment, rtol=2e-2, atol=1e-4)  # type: ignore[arg-type]


# --- Steps --------------------------------------------------------------------------------------------------------


def test_steps_survive_json_and_say_where_they_do_not_apply(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny())))
    steps = (RoundToNearest("all", 4), Awq(), Gptq(damping=0.02, sweeps=3), PrefillChunk(tokens=16))
    plan = plan_of(model, steps)
    assert Plan.from_json(json.loads(plan.dumps())) == plan
    for step in (Gptq("blocks", 0.02, False, 0), ImportanceRounding("vocabulary"), Awq(steps=5)):
        assert step_from_json(json.loads(json.dumps(step.to_json())), classes()) == step
        assert step.needs
    kept = AsStored().promise(source_form(model))
    for wrong in (Gptq(), ImportanceRounding()):
        with pytest.raises(NotApplicable, match="kept as its file has it"):
            wrong.check(model, kept)
    for knobs in ({"damping": 0.0}, {"sweeps": -1}):
        with pytest.raises(NotApplicable):
            Gptq(**knobs).check(model, RoundToNearest().promise(source_form(model)))  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="inside blocks"):
        Awq("all").check(model, kept)
