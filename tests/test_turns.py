"""Updates in turns with a second device: the same bits wherever they were taken, their order, and what they promise."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from learning import drawn_sequences, folder_of, made
from test_planner_training import TORCH_BYTES
from tiny import K_QUANT, Tiny, write_gguf

from pintpot.budget import Budget, Train, Workload
from pintpot.cli import cli
from pintpot.contract.slots import Slots
from pintpot.contract.training import TrainingForm
from pintpot.contract.updating import Updating
from pintpot.errors import NotApplicable, UnsupportedPlatform
from pintpot.kernels.torch.adam import Rates, adam
from pintpot.kernels.torch.card import Card, CudaCard, Four
from pintpot.machine.catalog import load_machine
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Device, Machine, Rate
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.nets._training import training_work
from pintpot.planner.cost import Span
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.explain import explain
from pintpot.planner.plan import Plan
from pintpot.planner.price import Prices
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates as Speeds
from pintpot.planner.training import Asked, make_training_plan, training_work_of
from pintpot.planner.turns import in_turns
from pintpot.program.ops import check
from pintpot.program.ops.turns import demand
from pintpot.program.ops.update import PASSES
from pintpot.program.spec import Extent
from pintpot.program.turns import PLACES, TURN_VALUES, is_elsewhere, shared_out
from pintpot.techniques.train import deep_optimizer_states
from pintpot.techniques.train.deep_optimizer_states import DeepOptimizerStates, InTurns
from pintpot.trainer.learned import Learned, Pace

TINY = Tiny(family="qwen2", heads=4, kv_heads=2)
EVERY = TrainingForm(at_once=2, fused=True, states="f32")
TRAIN = Train(length=40, sequences=3, steps=4)


class Beside(Card):
    """Another device of the tests: it keeps what it is given apart, and gives everything back when it is waited for."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self._given: list[tuple[Four, Four, Rates]] = []

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        self.held = {one.data_ptr(): one.numel() for one in tensors}
        self.log.append("hold")

    def give(self, four: Four, rates: Rates) -> None:
        value, grad, m, v = four
        self._given.append((four, (value.clone(), grad.clone(), m.clone(), v.clone()), rates))
        self.log.append(f"give {len(value)}")

    def wait(self) -> None:
        for here, there, rates in self._given:
            for mine, own in zip(here, there, strict=True):
                assert torch.equal(mine, own), "what was lent has changed meanwhile"
            adam(*there, rates)
            for mine, own in zip(here, there, strict=True):
                mine.copy_(own)
        self._given.clear()
        self.log.append("wait")

    def release(self) -> None:
        self.log.append("release")


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def updated(updating: Updating | None, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """What is left after three steps along drawn gradients, with its moments."""
    values = {name: drawn(*shape, seed=at) for at, (name, shape) in enumerate(shapes.items())}
    learned = Learned(values, updating=updating)
    for step in range(3):
        grads = {name: drawn(*shape, seed=100 * step + at) for at, (name, shape) in enumerate(shapes.items())}
        learned.update(grads, Pace(1e-2, weight_decay=0.1), step, 3)
    return {name: one.clone() for name, one in learned.tensors().items()}


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_the_bits_are_the_same_wherever_a_step_was_taken(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InTurns, "piece_values", 1024)
    shapes = {"norm": (37,), "wide": (33, 129), "tall": (701, 3), "small": (5, 5)}
    log: list[str] = []
    plain, turns = updated(None, shapes), updated(InTurns(stride, lambda: Beside(log)), shapes)
    assert plain.keys() == turns.keys()
    for name, one in plain.items():
        assert torch.equal(one, turns[name]), name
    sizes = [37, *[1024] * 4, 161, *[1024] * 2, 55, 25]
    given = [f"give {size}" for number, size in enumerate(sizes) if number % stride == 0]
    assert log == ["hold", *[*given, "wait"] * 3]


def test_what_the_processor_does_lies_between_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InTurns, "piece_values", 100)
    log: list[str] = []
    card = Beside(log)
    monkeypatch.setattr(deep_optimizer_states, "update", lambda piece, rates: log.append(f"own {len(piece.value)}"))
    learned = Learned({"w": torch.zeros(7, 100)}, updating=InTurns(3, lambda: card))
    learned.update({"w": torch.ones(7, 100)}, Pace(0.1), 0, 1)
    assert len(card.held) == 3  # the weight and both means
    learned.ended()
    first = ["give 100", "own 100", "own 100"]
    assert log == ["hold", *first, *first, "give 100", "wait", "release"]


def test_blocks_learn_the_same_with_updates_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InTurns, "piece_values", 512)
    folder, sequences = folder_of(TINY, tmp_path), drawn_sequences(3, 40, TINY.vocab)

    def learn(updating: Updating | None) -> tuple[list[float], dict[str, torch.Tensor]]:
        with made(folder, EVERY, TRAIN, updating=updating) as ours:
            update = partial(ours.learned.update, pace=Pace(1e-3), steps=4)
            losses = [ours.network.learn(sequences, partial(update, step=at)) for at in range(4)]
            return losses, {name: one.clone() for name, one in ours.learned.tensors().items()}

    log: list[str] = []
    plain, turns = learn(None), learn(InTurns(2, lambda: Beside(log)))
    assert plain[0] == turns[0]
    assert all(torch.equal(one, turns[1][name]) for name, one in plain[1].items())
    assert log.count("wait") > 4 * K_QUANT.layers // 2


def test_without_a_card_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    slots = Slots()
    DeepOptimizerStates(stride=3).install(slots)
    with pytest.raises(UnsupportedPlatform, match="here is none"):
        Learned({"w": torch.zeros(4, 4)}, updating=slots.updating)
    with pytest.raises(UnsupportedPlatform):
        CudaCard(16, PLACES)


# --- What they promise ------------------------------------------------------------------------------------------------


def simulated(turns: int, stride: int, own_s: float, steps: tuple[float, ...]) -> float:
    """Both devices, piece by piece: this one works, or waits for a place; there each step is free for one at a time."""
    here, free, ends = 0.0, [0.0] * len(steps), list[float]()
    for number in range(turns):
        if not is_elsewhere(number, stride):
            here += own_s
            continue
        if len(ends) >= PLACES:
            here = max(here, ends[-PLACES])
        at = here
        for index, seconds in enumerate(steps):
            at = free[index] = max(at, free[index]) + seconds
        ends.append(at)
    return max(here, *ends)


@pytest.mark.parametrize("stride", [2, 3, 4, 8])
def test_the_closed_form_is_what_a_simulation_of_every_piece_gives(stride: int) -> None:
    draw = torch.Generator().manual_seed(stride)
    for _ in range(300):
        own, *steps = (0.05 + torch.rand(1, generator=draw).item() for _ in range(4))
        whole = stride * int(torch.randint(1, 30, (1,), generator=draw))
        for turns in (whole, whole + 1):
            elsewhere = -(-turns // stride)
            found = in_turns(
                Span.exactly((turns - elsewhere) * own), [Span.exactly(one) for one in steps], elsewhere
            ).mid
            due = simulated(turns, stride, own, tuple(steps))
            # Beyond whole rounds the pace is taken as even, and a piece may be counted that comes a little later.
            apart = 1e-9 if turns == whole else (stride - 1) * own
            assert found == pytest.approx(due, abs=apart)


def test_the_best_stride_is_the_one_that_balances() -> None:
    own, steps = 1.0, (2.5, 0.5, 1.5)
    times = {stride: simulated(960, stride, own, steps) for stride in (2, 3, 4, 5, 6, 8)}
    # While a turn takes 2.5 there, two or three pieces are updated here.
    assert min(times, key=lambda stride: times[stride]) == 4
    assert times[4] == pytest.approx(3 / 4 * 960, rel=0.01)
    assert times[2] == pytest.approx(480 * 2.5, rel=0.01)
    assert shared_out(10 * TURN_VALUES, 4) == (7, 3)
    assert shared_out(5, 2) == (0, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(write_gguf(tmp_path_factory.mktemp("turns") / "m.gguf", replace(K_QUANT, layers=4), "q8_0")))


SLOW = 27.0


def with_card(h2d: float = 25e9, d2h: float = 20e9, ram: float = 20e9) -> Machine:
    """The null machine with passes over values that are slow beside its RAM, and a card."""
    null = null_machine(ram_bw=ram)
    speeds = {
        "cuda/read": 1e12,
        "cuda/h2d_pinned": h2d,
        "cuda/d2h_pinned": d2h,
        "aten/values": ram / SLOW,
        "aten": 1e12,
    }
    rates = tuple(Rate(what, speed, speed, speed) for what, speed in speeds.items())
    card = Device("card", "cuda", 8_000_000_000, 1, ())
    return replace(null, devices=(*null.devices, card), rates=null.rates + rates)


def plan(model: Model, machine: Machine, method: str = "full", memory: int = 1 << 33) -> Plan:
    budget = Budget(memory, Workload(task="train", train=Train(length=64, sequences=4, steps=10)))
    question = Question(model, machine, budget, shipped_priors(), torch_bytes=TORCH_BYTES)
    return make_training_plan(question, Asked(method, "float32"))


def test_a_machine_with_a_card_takes_turns_and_the_plan_says_what_they_bring(model: Model) -> None:
    found = plan(model, with_card())
    assert any(isinstance(step, DeepOptimizerStates) for step in found.steps)
    assert found.steps[-1].name == "Offloaded"
    alone = plan(model, replace(with_card(), devices=null_machine().devices))
    assert found.cost.step_s.mid < alone.cost.step_s.mid
    lost = {one.what: one for one in found.rejected}
    assert "no DeepOptimizerStates" in lost
    assert any(what.startswith("DeepOptimizerStates(stride=") for what in lost)
    again = Plan.from_json(json.loads(found.dumps()))
    assert again == found
    for program in training_work_of(again).programs():
        check(program)
    kinds = {op.kind for program in training_work_of(again).programs() for op in program.ops}
    assert "turns" in kinds
    assert "update" not in kinds
    assert any("DeepOptimizerStates" in str(row) for row in explain(found).steps)


def test_seconds_of_the_update_are_those_of_both_sides_and_the_copies(model: Model) -> None:
    """One block, calculated by hand: all its values are two turns at most."""
    part = model.part("language")
    machine, steps = with_card(), plan(model, with_card()).steps
    stride = next(step.stride for step in steps if isinstance(step, DeepOptimizerStates))
    work = training_work_of(plan(model, machine))
    program = work.stage("backward").programs[0]
    op = next(op for op in program.ops if op.kind == "turns")
    values = sum(weight.num_values for weight in part.weights() if weight.name.startswith("layers.3."))
    here, there = shared_out(values, stride)
    asked = demand(op, program, Extent(256, 256, 4))
    each = values / (here + there)
    assert (asked.turns, asked.ram_bytes) == (there, 28 * values + 8 * each * there)
    own = (PASSES * here + there) * each / (20e9 / SLOW)
    turn = (16 * each / 25e9, 28 * each / 1e12, 12 * each / 20e9)
    by_hand = max(own, (there - 1) * max(*turn, own / there) + sum(turn), asked.ram_bytes / 20e9)
    found = Prices(Speeds(machine, 2, 1 << 30))._price(asked, "compute").seconds.mid
    assert found == pytest.approx(by_hand, rel=0.01)


def test_where_copies_take_longer_than_updates_there_are_no_turns(model: Model) -> None:
    found = plan(model, with_card(h2d=1e7, d2h=1e7))
    assert not any(isinstance(step, DeepOptimizerStates) for step in found.steps)
    slower = next(one for one in found.rejected if one.what.startswith("DeepOptimizerStates"))
    assert "times as long" in slower.reason


def test_elsewhere_the_plan_says_why_not(model: Model) -> None:
    reasons = {one.what: one.reason for one in plan(model, null_machine()).rejected}
    assert "no second device" in reasons["DeepOptimizerStates"]
    step, part = DeepOptimizerStates(), model.part("language")
    base = plan(model, with_card()).form
    how = base.training
    assert how is not None
    for changed, why in (
        (replace(how, states="dynamic8"), "float32"), (replace(how, ranks=2), "several processes"), (None, "to learn"),
    ):  # fmt: skip
        with pytest.raises(NotApplicable, match=why):
            step.check(model, replace(base, training=changed))
    with pytest.raises(NotApplicable, match="stride of 1"):
        DeepOptimizerStates(stride=1).check(model, base)
    least = plan(model, with_card(), memory=plan(model, with_card()).smallest_bytes + 200_000)
    assert training_work(part, least.form, least.budget.workload) is not None
    away = [one.reason for one in least.rejected if one.what == "DeepOptimizerStates"]
    assert not away or "rest on disk" in away[0] or "float32" in away[0]


def test_machines_of_the_catalog_have_hosts(model: Model) -> None:
    for name in ("dgx-h100", "desktop-rtx4090"):
        machine = load_machine(name)
        assert [device.kind for device in machine.devices] == ["cpu", "cuda"]
        found = plan(model, machine)
        lost = [one.what for one in found.rejected] + [str(step) for step in found.steps]
        assert any("DeepOptimizerStates(stride=" in one for one in lost)


def test_tune_plans_for_a_machine_that_is_not_here_and_learns_nothing(model: Model, tmp_path: Path) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"{count} is the number after {count - 1}. " * 20}) + "\n"
                            for count in range(40)))  # fmt: skip
    gguf = write_gguf(tmp_path / "m.gguf", K_QUANT, "q8_0")
    command = ["tune", str(gguf), str(data), "--method", "full", "--length", "32", "--steps", "3", "--json"]
    done = CliRunner().invoke(cli, [*command, "--machine", "dgx_h100"])
    assert done.exit_code == 0, done.output
    found = Plan.from_json(json.loads(done.stdout))
    assert found.machine_origin == "catalog"
    assert found.budget.memory_bytes == 200_000_000_000
    assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl", "m.gguf"}
    short = CliRunner().invoke(cli, [*command, "--machine", "dgx_h100", "--memory", "900GB"])
    assert (short.exit_code, "900 GB is more than the 250 GB there" in short.output) == (3, True)
    card = CliRunner().invoke(cli, [*command, "--machine", "h100"])
    assert (card.exit_code, "is a card alone" in card.output) == (2, True)
    nowhere = CliRunner().invoke(cli, command)
    assert (nowhere.exit_code, "-o names the folder" in nowhere.output) == (2, True)
