"""The measured table: second order against the whole quadratic form, against real changes, and again after a stop."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from tiny import Tiny, write_gguf, write_hf

import pintpot
from pintpot.cli import cli
from pintpot.errors import BadInput, DoesNotFit
from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate import sensitivity
from pintpot.packer.calibrate.backward import Backward, before
from pintpot.packer.calibrate.fisher import add_squares, losses, rounded, worth_measuring
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.scale import Check, fitted
from pintpot.packer.calibrate.sensitivity import measure_sensitivities
from pintpot.packer.calibrate.together import groups
from pintpot.packer.calibrate.vocabulary import Drawn, divergence, draw, to_states
from pintpot.planner.sensitivity import recall_sensitivities, table_key

Floats = NDArray[np.float32]


def texts(number: int, length: int) -> list[list[int]]:
    found: list[list[int]] = np.random.default_rng(7).integers(3, 300, (number, length)).tolist()
    return found


def test_labels_are_drawn_as_the_model_would_and_gradients_are_those_of_their_likelihood() -> None:
    rng = np.random.default_rng(1)
    head = rng.normal(size=(50, 8)).astype(np.float32)
    state = rng.normal(size=(1, 8)).astype(np.float32)
    states = np.repeat(state, 20_000, axis=0)
    runs = [(first, head[first : first + 7]) for first in range(0, 50, 7)]
    drawn = draw(states, runs, np.random.default_rng(2))
    logits = (state @ head.T)[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(drawn.log_z, np.log(np.exp(logits).sum()), rtol=1e-5)
    seen = np.bincount(drawn.labels, minlength=50) / len(states)
    np.testing.assert_allclose(seen, shares, atol=4 * np.sqrt(shares.max() / len(states)))
    few = Drawn(drawn.labels[:5], drawn.log_z[:5])
    expected = head[few.labels] - shares @ head
    np.testing.assert_allclose(to_states(states[:5], few, runs), expected, rtol=1e-4, atol=1e-5)


def test_divergence_of_two_heads_is_that_of_their_distributions() -> None:
    rng = np.random.default_rng(3)
    head, other = (rng.normal(size=(30, 4)).astype(np.float32) for _ in range(2))
    states = rng.normal(size=(9, 4)).astype(np.float32)
    p, q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (states @ head.T, states @ other.T))
    wanted = float((np.exp(p) * (p - q)).sum(axis=1).mean())
    cut = [0, 11, 30]
    one, two = ([(a, w[a:b]) for a, b in pairwise(cut)] for w in (head, other))
    assert divergence(states, one, states, two) == pytest.approx(wanted, rel=1e-5)


def test_rows_that_stand_for_their_like_give_the_sum_over_all() -> None:
    rng = np.random.default_rng(4)
    values = (rng.normal(size=(1500, 64)) * rng.lognormal(size=(1500, 1))).astype(np.float32)
    squares = (rng.lognormal(sigma=2, size=(1500, 64))).astype(np.float32)
    found = losses(values, squares, ("sym5", "aff3", "f16"))
    for name in ("sym5", "aff3", "f16"):
        wanted = float((squares * (rounded(values, name) - values) ** 2).sum(dtype=np.float64))
        assert found[name] == pytest.approx(wanted, rel=0.15)
    small = losses(values[:40], squares[:40], ("sym4",))
    wanted = float((squares[:40] * (rounded(values[:40], "sym4") - values[:40]) ** 2).sum(dtype=np.float64))
    assert small["sym4"] == pytest.approx(wanted, rel=1e-4)
    assert losses(values * 1e6, squares, ("f16",)) == {}


def test_squares_are_those_of_each_texts_own_gradient() -> None:
    rng = np.random.default_rng(5)
    rows, grads = rng.normal(size=(9, 3)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)
    into = np.zeros((2, 3), np.float32)
    add_squares(rows, grads, [4, 5], into)
    wanted = (grads[:4].T @ rows[:4]) ** 2 + (grads[4:].T @ rows[4:]) ** 2
    np.testing.assert_allclose(into, wanted, rtol=1e-5)


def test_formats_that_are_no_smaller_or_lose_nothing_are_not_measured() -> None:
    assert not {"aff4", "sym5", "sym8", "f16", "q6_k"} & set(worth_measuring("q4_1"))
    assert {"sym4", "aff3", "sym2", "q4_k"} <= set(worth_measuring("q4_1"))
    assert {"f16", "bf16", "sym8"} <= set(worth_measuring("f32"))


class Exact:
    """The quadratic form itself for a tiny model: <G, dW>^2 / 2T of many draws of labels."""

    def __init__(self, model: Model, own: list[list[int]], name: str, change: Floats) -> None:
        self.model, self.own, self.name, self.change = model, own, name, change

    def nats(self, draws: int) -> float:
        lengths = [len(text) for text in self.own]
        total = 0.0
        with Store(self.model) as store:
            forward = Forward(self.model, store, max(lengths))
            states = [forward.embedded(self.own)]
            for block in forward.blocks:
                states.append(forward.run(block, forward.values(block), states[-1], lengths))
            head, final = str(forward.head.read("weight")), forward.final(states[-1])
            memory = {str(forward.head.read("x")): states[-1], "norm": forward.weight("norm")}
            for seed in range(draws):
                drawn = draw(final, forward.rows(head), np.random.default_rng(seed))
                grads = before(forward.head, memory, to_states(final, drawn, forward.rows(head)))
                sums: list[float] = []

                def seen(name: str, met: Floats, out: Floats, first: int, sums: list[float] = sums) -> None:
                    if name == self.name:
                        for start in range(0, len(met), lengths[0]):
                            part = slice(start, start + lengths[0])
                            sums.append(float(((out[part].T @ met[part]) * self.change).sum()))

                for block, state in zip(reversed(forward.blocks), reversed(states[:-1]), strict=True):
                    grads = Backward(forward).run(block, forward.values(block), state, grads, lengths, seen)
                total += float(np.square(sums).sum())
        return total / (2 * draws * sum(lengths))


@pytest.mark.parametrize("name", ["layers.0.v", "layers.1.down"])
def test_the_quadratic_form_is_the_divergence_of_a_real_change(name: str, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny())))
    own = texts(12, 24)
    lengths = [24] * 12
    with Store(model) as store:
        forward = Forward(model, store, 24)
        change = (rounded(forward.weight(name), "sym3") - forward.weight(name)).astype(np.float32)
        ends = []
        for moved in (False, True):
            states = forward.embedded(own)
            for block in forward.blocks:
                values = forward.values(block)
                if moved and name in values:
                    values[name] = values[name] + change
                states = forward.run(block, values, states, lengths)
            ends.append(forward.final(states))
        head = forward.rows(str(forward.head.read("weight")))
        found = divergence(ends[0], head, ends[1], head)
    assert found > 1e-6
    assert Exact(model, own, name, change).nats(draws=10) == pytest.approx(found, rel=0.35)


@pytest.mark.parametrize("tiny", [Tiny(), Tiny(tied=True), Tiny(family="qwen3")], ids=["untied", "tied", "qwen3"])
def test_a_table_predicts_what_rounding_everything_costs(tiny: Tiny, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    table = measure_sensitivities(model, texts(48, 24), folder=tmp_path)
    assert recall_sensitivities(table_key(model), folder=tmp_path) == table
    assert set(table.weights) == {w.name for part in model.parts for w in part.weights() if len(w.shape) == 2}
    notes = json.loads((tmp_path / "sensitivities" / f"{table_key(model)}.json").read_text())["notes"]
    whole = [one for one in notes["checks"] if not one["weight"] and one["found"] > 1e-7]
    assert len(whole) >= 3
    for one in whole:
        assert 1 / 1.5 < one["found"] / one["predicted"] < 1.5, whole
    for found in table.weights.values():
        assert found["sym3"][0] > found["sym5"][1]
        assert all(low <= high for low, high in found.values())
    assert not list((tmp_path / "sensitivities").glob("*.begun"))


def test_a_start_that_was_ended_is_gone_on_with_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(layers=3))))
    own = texts(10, 24)
    whole = measure_sensitivities(model, own, folder=tmp_path / "whole")
    for stop in (2, 4, 6, 8):
        told: list[str] = []

        def stopping(share: float, what: str, told: list[str] = told, stop: int = stop) -> None:
            told.append(what)
            if len(told) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measure_sensitivities(model, own, stopping, folder=tmp_path / "parts")
    calls: list[int] = []
    run = Forward.run

    def counted(*args: Any, **given: Any) -> Floats:
        calls.append(1)
        return run(*args, **given)

    monkeypatch.setattr(Forward, "run", counted)
    monkeypatch.setattr(sensitivity.Checks, "run", lambda *args: ())
    measure_sensitivities(model, own, folder=tmp_path / "parts")
    assert not calls, "blocks that were done are done again"
    monkeypatch.undo()
    again = measure_sensitivities(model, own, folder=tmp_path / "parts")
    assert again.weights.keys() == whole.weights.keys()
    for name, found in whole.weights.items():
        for kept, span in found.items():
            assert again.weights[name][kept] == pytest.approx(span, rel=1e-2)


def test_groups_of_texts_give_what_all_together_give(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(layers=1))))
    own = [*texts(3, 24), *texts(2, 17)]
    one = measure_sensitivities(model, own, folder=tmp_path / "one")
    with pytest.raises(DoesNotFit, match="measuring what each weight loses takes") as raised:
        measure_sensitivities(model, own, folder=tmp_path / "none", memory_bytes=1_000_000)
    least = raised.value.smallest_bytes
    assert len(list(groups(model, own))) == 1
    assert len(list(groups(model, own, least))) == 5
    many = measure_sensitivities(model, own, folder=tmp_path / "many", memory_bytes=least)
    for name, found in one.weights.items():
        for kept, span in found.items():
            assert many.weights[name][kept] == pytest.approx(span, rel=1e-2)


def test_weights_that_are_stored_in_few_bits_are_measured_below_them(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", Tiny(), "q4_0")))
    table = measure_sensitivities(model, texts(6, 24), folder=tmp_path)
    found = set(table.weights["layers.0.q"])
    assert found >= {"aff3", "sym3", "sym2"}
    assert not found & {"sym4", "aff4", "sym8"}


def test_a_scale_holds_every_check_of_all_weights() -> None:
    checks = [Check("", "sym4", 0.1, 0.12), Check("", "sym5", 0.02, 0.021), Check("a", "sym4", 0.01, 0.05)]
    fit = fitted(checks)
    for one in checks[:2]:
        assert fit.low <= one.ratio <= fit.high
    assert fit.low < fit.scale < fit.high
    assert fitted([]).scale == 1.0


def test_a_table_is_measured_by_command_once_and_plans_use_it(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "model", Tiny())
    text = tmp_path / "text.txt"
    text.write_text("A pint of tea for the miller, and a quart for his mare. " * 90)
    model = describe(str(folder))
    plain = pintpot.plan(folder, memory="200MB", context=128, degradation=1.0, machine=null_machine())
    assert not plain.degradation.summed
    done = CliRunner().invoke(cli, ["calibrate", str(folder), "--text", str(text), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    table = recall_sensitivities(table_key(model))
    assert table is not None
    assert found["tokens"] == table.tokens > 500
    assert set(found["weights"]) == set(table.weights)
    assert pintpot.calibrate(folder) == table, "it is measured again"
    shown = CliRunner().invoke(cli, ["calibrate", str(folder)], catch_exceptions=False)
    assert "sym4" in shown.stdout
    known = pintpot.plan(folder, memory="200MB", context=128, degradation=1.0, machine=null_machine())
    assert known.degradation.summed


def test_nothing_to_measure_on_is_told(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny())))
    with pytest.raises(BadInput, match="no text"):
        measure_sensitivities(model, [], folder=tmp_path)
