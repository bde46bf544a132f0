"""Calibration: what was gathered is what meets the weights; one thread or two, at once or after a kill: equal bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import opened, plan_of
from tiny import K_QUANT, Tiny, write_gguf, write_hf

from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit
from pintpot.formats.tiles import unpack
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate import calibrate
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.calibrate import calibrated, preparing
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.gather import second_moment
from pintpot.packer.calibrate.parallel import one_blas_thread, ordered
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.plan import Plan
from pintpot.program.spec import Op
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
TINY = Tiny(hidden=96, intermediate=160, layers=3, heads=4, kv_heads=2, seed=11)
TEXTS = np.random.default_rng(3).integers(3, 300, (5, 40)).tolist()
STEPS: tuple[Step, ...] = (RoundToNearest("all", 4), Gptq(sweeps=1, correction=0.5), PrefillChunk(tokens=16))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(write_hf(tmp_path_factory.mktemp("calibrate") / "model", TINY)))


def prepared_bytes(model: Model, plan: Plan, folder: Path) -> dict[str, bytes]:
    with preparing(model, plan, folder / "pack", TEXTS) as prepared:
        return {path.name: path.read_bytes() for path in sorted(prepared.folder.glob("*.bin"))}


@pytest.fixture(scope="module")
def expected(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return prepared_bytes(model, plan_of(model, STEPS), tmp_path_factory.mktemp("expected"))


def test_every_matrix_that_is_met_by_rows_is_rounded(model: Model, expected: dict[str, bytes]) -> None:
    assert list(expected) == ["head.bin", "layers.0.bin", "layers.1.bin", "layers.2.bin"]
    form = plan_of(model, STEPS).form
    for name, data in expected.items():
        block = name.removesuffix("bin")
        weights = [w for w in form.weights if w.is_matrix and (w.name + ".").startswith(block)]
        assert len(data) == sum(weight.num_bytes for weight in weights)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_or_two_in_memory_or_on_disk(
    threads: int, model: Model, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if threads == 2:
        monkeypatch.setattr(calibrate._Run, "_room", lambda *_: False)
    found = prepared_bytes(model, plan_of(model, STEPS, threads=threads), tmp_path)
    assert found == expected
    assert not list(tmp_path.iterdir()), "nothing is left behind"


class Killed(Exception):
    pass


@pytest.mark.parametrize(("at", "done"), [(0.3, 1), (0.74, 2), (0.8, 4)])
def test_after_a_kill_it_goes_on_behind_the_last_whole_block(
    at: float, done: int, model: Model, expected: dict[str, bytes], tmp_path: Path
) -> None:
    plan, told = plan_of(model, STEPS), []

    def kill(share: float, what: str) -> None:
        if share > at:
            raise Killed

    with pytest.raises(Killed), preparing(model, plan, tmp_path / "pack", TEXTS, kill):
        pass
    (left,) = tmp_path.iterdir()
    assert len(list(left.glob("*.json"))) == done
    with preparing(model, plan, tmp_path / "pack", TEXTS, lambda share, what: told.append(share)) as prepared:
        assert {path.name: path.read_bytes() for path in sorted(prepared.folder.glob("*.bin"))} == expected
    assert min(told) > done / 4 or min(told) == 1


def test_a_damaged_block_is_made_again_and_so_are_those_behind_it(
    model: Model, expected: dict[str, bytes], tmp_path: Path
) -> None:
    plan = plan_of(model, STEPS)
    with pytest.raises(Killed), preparing(model, plan, tmp_path / "pack", TEXTS):
        raise Killed
    (left,) = tmp_path.iterdir()
    data = bytearray((left / "layers.1.bin").read_bytes())
    data[7] ^= 1
    (left / "layers.1.bin").write_bytes(data)
    with preparing(model, plan, tmp_path / "pack", TEXTS) as prepared:
        assert {path.name: path.read_bytes() for path in sorted(prepared.folder.glob("*.bin"))} == expected


def test_another_text_or_another_step_begins_anew(model: Model, tmp_path: Path) -> None:
    plan = plan_of(model, STEPS)
    with pytest.raises(Killed), preparing(model, plan, tmp_path / "pack", TEXTS):
        raise Killed
    told: list[float] = []
    with preparing(model, plan, tmp_path / "pack", TEXTS[:4], lambda share, what: told.append(share)):
        assert len(list(tmp_path.iterdir())) == 1
    assert min(told) < 0.25


def test_a_calibrated_pack_holds_what_was_prepared_and_opens(
    model: Model, expected: dict[str, bytes], tmp_path: Path
) -> None:
    said: list[str] = []
    plan = Plan.from_json(plan_of(model, STEPS).to_json())
    folder = write_pack(model, plan, tmp_path / "pack", texts=TEXTS, calibrating=lambda share, what: said.append(what))
    assert said[0].startswith("calibrating")
    data = (folder / WEIGHTS).read_bytes()
    down = plan.form.weights.by_name["layers.2.down"]
    assert expected["layers.2.bin"][-down.num_bytes :] in data
    with opened(folder, every_row=True) as session:
        states = session.engine.hidden(tuple(TEXTS[0]), 4)
        assert np.isfinite(np.concatenate([np.array(part) for part in states])).all()


def test_rounding_that_knows_its_inputs_answers_more_like_the_source(model: Model, tmp_path: Path) -> None:
    """Squared error of the last states in float32, over what was calibrated on: drawn words say nothing of others."""
    texts = TEXTS

    def states(plan: Plan | None, folder: Path) -> Floats:
        lengths = [len(text) for text in texts]
        with Store(model) as store:
            forward = Forward(model, store, 40)
            found = forward.embedded(texts)
            kept: dict[str, Floats] = {}
            if plan is not None:
                with preparing(model, plan, folder / "pack", TEXTS) as prepared:
                    kept = weights_of(plan, prepared)
            for block in forward.blocks:
                values = {**forward.values(block), **{n: v for n, v in kept.items() if n in block.weights}}
                found = forward.run(block, values, found, lengths)
            return forward.final(found)

    source = states(None, tmp_path)
    errors = [
        float(np.square(states(plan_of(model, (STEPS[0], step, STEPS[2])), tmp_path) - source).mean())
        for step in (ImportanceRounding(), Gptq(sweeps=0), Gptq())
    ]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < errors[1]


def weights_of(plan: Plan, prepared: Prepared) -> dict[str, Floats]:
    found = {}
    for weight in plan.form.weights:
        if weight.name in prepared.names:
            strips = prepared.strips(weight.name, 0, weight.num_strips)
            found[weight.name] = unpack(strips, weight.format, weight.shape[0], weight.shape[1])
    return found


def test_moments_are_those_of_the_rows(model: Model) -> None:
    rng, kept = np.random.default_rng(5), Activations()
    parts = [rng.normal(size=(length, 200)).astype(np.float32) for length in (30, 1, 64)]
    for text, part in enumerate(parts):
        kept.put("rows", text, part)
    whole = np.concatenate(parts).astype(np.float64)
    for threads in (1, 2):
        found = second_moment(kept, "rows", [None] * 3, 200, threads)
        np.testing.assert_allclose(found, whole.T @ whole, atol=1e-3)
        assert np.array_equal(found, found.T)


def test_statistics_are_of_the_rows_that_come_from_rounded_weights(model: Model, tmp_path: Path) -> None:
    seen: dict[str, Floats] = {}

    class Watching(Gptq):
        def round(self, weight, values, inputs):  # type: ignore[no-untyped-def]
            seen[weight.name] = inputs.second_moment
            return super().round(weight, values, inputs)

    plan = plan_of(model, STEPS)
    watched = replace(plan, steps=tuple(Watching() if isinstance(step, Gptq) else step for step in plan.steps))
    with preparing(model, watched, tmp_path / "pack", TEXTS) as prepared:
        kept = weights_of(plan, prepared)
    met: dict[str, Floats] = {}

    def told(op: Op, rows: Floats) -> None:
        met[op.read_all("weight")[0]] = rows

    with Store(model) as store:
        forward = Forward(model, store, 40)
        states = forward.embedded(TEXTS)
        for block in forward.blocks:
            values = {**forward.values(block), **{n: v for n, v in kept.items() if n in block.weights}}
            states = forward.run(block, values, states, [40] * 5, told)
    for name, rows in met.items():
        np.testing.assert_allclose(seen[name], rows.T @ rows / len(rows), rtol=2e-3, atol=2e-4)


def test_what_earlier_layers_err_is_made_up_for(model: Model, tmp_path: Path) -> None:
    """On what was calibrated on, the last states are nearer to the source's with the correction than without."""

    def error(step: Step) -> float:
        plan = plan_of(model, (STEPS[0], step, STEPS[2]))
        lengths = [len(text) for text in TEXTS]
        with preparing(model, plan, tmp_path / "pack", TEXTS) as prepared:
            kept = weights_of(plan, prepared)
        with Store(model) as store:
            forward = Forward(model, store, 40)
            ours = theirs = forward.embedded(TEXTS)
            for block in forward.blocks:
                values = forward.values(block)
                ours = forward.run(block, values, ours, lengths)
                theirs = forward.run(block, {**values, **{n: kept[n] for n in values if n in kept}}, theirs, lengths)
            return float(np.square(ours - theirs).mean())

    assert error(Gptq(correction=1.0)) < 0.95 * error(Gptq(correction=0.0))


def test_a_budget_that_is_too_small_is_refused_with_its_number(model: Model, tmp_path: Path) -> None:
    plan = plan_of(model, STEPS)
    plan = replace(plan, budget=replace(plan.budget, memory_bytes=90_000_000))
    said = r"calibrating needs 11\d MB.*90.0 MB"
    with pytest.raises(DoesNotFit, match=said), preparing(model, plan, tmp_path / "pack", TEXTS):
        pass


def test_what_a_transform_leaves_alone_is_kept_without_loss(tmp_path: Path) -> None:
    """What a file has rounded would only lose: AWQ passes over it, and packing permutes it as ever."""
    model = describe(str(write_gguf(tmp_path / "model.gguf", K_QUANT, "q4_k")))
    plan = plan_of(model, (AsStored("all"), Awq(), PrefillChunk(tokens=16)))
    plain = plan_of(model, (AsStored("all"), PrefillChunk(tokens=16)))
    with opened(write_pack(model, plan, tmp_path / "pack", texts=TEXTS), every_row=True) as session:
        found = np.concatenate([np.array(part) for part in session.engine.hidden(tuple(TEXTS[0]), 4)])
    with opened(write_pack(model, plain, tmp_path / "plain"), every_row=True) as session:
        expected = np.concatenate([np.array(part) for part in session.engine.hidden(tuple(TEXTS[0]), 4)])
    np.testing.assert_array_equal(found, expected)


def test_what_is_kept_as_it_is_needs_no_calibration(model: Model, tmp_path: Path) -> None:
    assert calibrated(plan_of(model, STEPS))
    assert not calibrated(plan_of(model, (AsStored("all"), PrefillChunk(tokens=16))))


def test_pieces_come_in_order_and_errors_rise() -> None:
    assert list(ordered(lambda x: x * x, range(20), 3)) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(ordered(lambda x: 1 // x, [1, 1, 0, 1], 2))


def test_products_do_not_depend_on_the_threads_of_the_library() -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.normal(size=(700, 700)).astype(np.float32) for _ in range(2))
    with one_blas_thread():
        first = a @ b
    with one_blas_thread():
        assert np.array_equal(a @ b, first)
