"""`pintpot.tune`: a model learns from a file of examples, inside a memory budget, by a plan that is made first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.budget import Budget, Train
from pintpot.contract.training import TrainingForm
from pintpot.errors import UsageError, need
from pintpot.planner.plan import Plan
from pintpot.trainer.ranks import ALONE, Ranks
from pintpot.trainer.receipt import RECEIPT

if TYPE_CHECKING:
    from pintpot.contract.step import Step
    from pintpot.model.spec import Model
    from pintpot.trainer.loop import Event, Examples, Task

Progress = Callable[[float, str], None]
LENGTH, SEQUENCES, PICTURES, EVALUATIONS = 256, 4, 16, 3
LEARNING_RATE, WARMUP_SHARE, MOST_WARMUP = 2e-4, 0.05, 20
WITHOUT_GRADIENTS = {True: 5e-5, False: 1e-6}
"""The same of adapters, and of every weight, where steps follow losses alone; of the size that MeZO's authors took."""
CHECKPOINT_STEPS = 25


@dataclass(frozen=True)
class Settings:
    """How it is learned, all but the budget. Without a rate that of the method is taken.

    `freeze` is the share of blocks that is frozen for the next steps, those that changed least in the last. `sparse`:
    two of four weights become zero ("2:4"), do so while they learn ("s-ste"; "s-ste-mvue" by estimates of gradients),
    or zeros stay ("kept"); `distill` has a model learn what it held before, block by block, as well; convolutions go
    back by means of `filter` x `filter` places. Weights beside which qlora learns have `bits` bits a code. What blocks
    need to go back is kept in memory, recomputed, or written to disk, as `activations` say, "auto" as is fastest. Of
    routed adapters there are `experts`, of which a token takes `taken`, or whose parts, `heads`, each task mixes.
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: int | None = None
    seed: int = 0
    checkpoint: int = CHECKPOINT_STEPS
    freeze: float = 0.0
    experts: int = 8
    taken: int = 2
    heads: int = 4
    sparse: str | None = None
    distill: bool = False
    filter: int = 0
    bits: int = 4
    activations: str = "auto"


@dataclass(frozen=True)
class Tuned:
    """What came of it: the folder, losses of every step, what was held out as (step, loss), and promise and measure.

    `right` are (step, share of the pictures that were held out and told right).
    """

    folder: Path
    plan: Plan
    losses: tuple[float, ...]
    asked: tuple[tuple[int, float], ...]
    seconds: float
    peak_bytes: int
    tokens_per_s: float
    began_at: int
    right: tuple[tuple[int, float], ...] = ()

    @property
    def train(self) -> Train:
        """What was asked of learning."""
        return self.plan.budget.workload.train or Train()

    @property
    def step_s(self) -> float:
        """Seconds of a step that this start took, the mean."""
        return self.seconds / max(1, len(self.losses) - self.began_at)


@dataclass(frozen=True)
class Told:
    """Who is told what: the plan, before the first step; every step; what came of it; and progress before that."""

    ready: Callable[[Plan], None] | None = None
    happened: Callable[[Event], None] | None = None
    left: Callable[[Tuned], object] | None = None
    progress: Progress | None = None


NOBODY = Told()


def tune(
    model: str | Path,
    data: str | Path,
    *,
    output: str | Path,
    memory: str | int | None = None,
    method: str = "auto",
    steps: int | None = None,
    epochs: float | None = None,
    length: int = LENGTH,
    sequences: int | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str = "q,v",
    adapter: str = "lora",
    arithmetic: str = "auto",
    learn: str = "",
    threads: int | None = None,
    settings: Settings = Settings(),
    ready: Callable[[Plan], None] | None = None,
    happened: Callable[[Event], None] | None = None,
    left: Callable[[Tuned], object] | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Tuned:
    """Teach a model the examples of a file; leave adapters that peft reads, or a whole model, in the folder `output`.

    `data` has one JSON object a line, each with `messages` or each with `text`; for a model that tells pictures apart
    each with an `image`, a path beside the file, and its `label`, and every weight learns. A step takes `sequences`
    (4) of `length` tokens, or so many pictures (16); without `steps` or `epochs` every example is seen once. `method`
    is lora, qlora, full, zeroth (very many steps, from losses alone, in the memory of weights as floats and of a way
    forward) or auto (one of the first three); `arithmetic` is float32, bf16 or auto, the faster one. `adapter` is
    lora, mixlora (experts of the feed-forward network, of which a token takes some) or mhr (several, whose parts each
    `task` that lines name mixes in its own way). `learn` names the part that learns (`last:8`, `attention`, `biases`,
    `norms`, a role, a block; with commas), "auto" the last blocks, as many as fit. `ready` is told the plan before the
    first step, `happened` of every step, `left` what came of it, before the checkpoint goes. `ranks`
    (`trainer.ranks.joined`) share out sequences and weights, each has this budget. The same call goes on where a start
    was ended, with the same losses. Raises BadInput, DoesNotFit, InUse while others learn there, Diverged.
    """
    need(find_spec("torch") is not None, "learning needs PyTorch: pip install pintpot[tune]", UsageError)
    need(steps is None or epochs is None, "steps and epochs say the same; give one of them", UsageError)
    from pintpot.runtime.describing import local, shaped
    from pintpot.trainer.question import asked_of, budget_of, question_of
    from pintpot.trainer.reading import read_for

    if ranks.number:
        ready = happened = left = progress = None
    described = local(shaped(model, {"batch": sequences or PICTURES, "fewer": 1}, progress)[0])
    check_kept(described, method, settings, ranks)
    folder, path = _open(Path(output)), Path(data)
    read = learns, held = read_for(described, path, length, settings.seed, progress)
    train = train_of(described, (length, sequences), (steps, epochs), (len(learns), len(held)), ranks)
    budget = budget_of(memory, threads, train, {"length": length, "steps": steps, "sequences": sequences})
    adapters = adapters_of((adapter, rank, alpha, targets), settings, len(learns.names))
    size = learns.num_bytes + held.num_bytes
    asks = asked_of((method, arithmetic, learn), adapters, size, settings, ranks, folder)
    ranks.check(asks.learn or asks.also, adapter)
    question = question_of(described, path, asks, (memory, threads), train, settings, ranks)
    return _run(described, folder, budget, asks, question, read, settings, Told(ready, happened, left, progress), ranks)


def train_of(
    model: Model,
    size: tuple[int, int | None],
    times: tuple[int | None, float | None],
    there: tuple[int, int],
    ranks: Ranks,
) -> Train:
    """What is asked of learning: of words sequences of a length, or pictures; `there` are learned and held out."""
    sees = model.language is None
    (length, given), (steps, epochs), (count, held) = size, times, there
    batch = given or (PICTURES if sees else SEQUENCES)
    wanted = steps or max(1, ceil((epochs or 1.0) * count / batch))
    train = Train(length, ranks.share(batch, "sequences"), wanted, ceil(held / ranks.count), EVALUATIONS)
    return replace(train, length=1, of="pictures") if sees else train


def _open(folder: Path) -> Path:
    """The folder. Raises UsageError for a finished folder; one ended behind its receipt, with a checkpoint, is open."""
    from pintpot.trainer.checkpoint import begun

    ended = (folder / RECEIPT).exists() and not begun(folder)
    need(not ended, f"{folder} holds what was learned already; name another folder", UsageError)
    return folder


def check_kept(model: Model, method: str, settings: Settings, ranks: Ranks) -> None:
    """Raises UnsupportedModel where what a method leaves could not be written, UsageError for what cannot be asked."""
    from pintpot.trainer.adapters import check_adapters
    from pintpot.trainer.whole import check_whole

    if model.language is None:
        only = method in ("auto", "full") and not settings.sparse and not settings.distill and ranks.count == 1
        need(only, f"of {model.name}, which has no words, every weight learns, in one process: --method full",
             UsageError)  # fmt: skip
        return

    if method in ("full", "zeroth"):
        check_whole(model)
    if method != "full":
        check_adapters(model)


def steps_beside(settings: Settings) -> tuple[Step, ...]:
    """The techniques that were asked for beside what learns."""
    from pintpot.techniques.sparsify.s_ste import SSte
    from pintpot.techniques.sparsify.two_four import TwoFour
    from pintpot.techniques.train.gradient_filter import GradientFilter
    from pintpot.techniques.train.slim_fit import SlimFit
    from pintpot.techniques.train.square_head import SquareHead

    steps: list[Step] = [SlimFit(share=settings.freeze)] if settings.freeze else []
    steps += [GradientFilter(patch=settings.filter)] if settings.filter else []
    if settings.sparse:
        soft = settings.sparse.startswith("s-ste")
        steps.append(SSte(estimated="mvue" in settings.sparse) if soft else TwoFour(pattern=settings.sparse))
    return (*steps, *([SquareHead()] if settings.distill else []))


def adapters_of(plain: tuple[str, int, float, str], settings: Settings, num_tasks: int) -> Step:
    from pintpot.trainer.chosen import Chosen

    return Chosen(*plain, settings.experts, settings.taken, settings.heads).step(num_tasks)


def _run(
    model: Model,
    folder: Path,
    budget: Budget,
    asks: Any,
    question: Mapping[str, Any],
    data: tuple[Examples, Examples],
    settings: Settings,
    told: Told,
    ranks: Ranks,
) -> Tuned:
    from pintpot.meter.disk import ask_room
    from pintpot.trainer.checkpoint import Checkpoints, held, kept_bytes
    from pintpot.trainer.planned import planned
    from pintpot.trainer.rounding import rounded

    checkpoints = Checkpoints(folder, question, ranks)
    kept = checkpoints.plan()
    if kept is None and ranks.number == 0:
        plan = planned(model, budget, asks, told.progress)
        ranks.told(json.dumps(plan.to_json()))
    else:
        plan = Plan.from_json(kept if kept is not None else json.loads(ranks.told("")))
    if told.ready is not None:
        told.ready(plan)
    ask_room(folder, max(0, plan.cost.pack_bytes - kept_bytes(folder)))
    with held(folder, ranks):
        if ranks.number == 0:
            _open(folder)  # whoever held it before may have ended meanwhile
        before = rounded(model, plan, folder, data[0], told.progress, ranks)
        from pintpot.trainer.teaching import teach  # and PyTorch with it

        task = task_of(plan, data, settings, ranks)
        return teach(model, plan, checkpoints, task, settings, folder, before, told, ranks)


def task_of(plan: Plan, data: tuple[Examples, Examples], settings: Settings, ranks: Ranks) -> Task:
    """What is learned by a plan, in which order, and how fast."""
    from pintpot.trainer.learned import Pace
    from pintpot.trainer.loop import Task
    from pintpot.trainer.packing import Order

    train = plan.budget.workload.train
    need(train is not None, "this plan is not one of learning", UsageError)
    made = train or Train()
    default = min(MOST_WARMUP, round(WARMUP_SHARE * made.steps))
    warmup = default if settings.warmup is None else settings.warmup
    how = plan.form.training or TrainingForm()
    rate = settings.learning_rate or (WITHOUT_GRADIENTS[how.rank > 0] if how.distance else LEARNING_RATE)
    pace = Pace(rate, settings.weight_decay, warmup, settings.schedule)
    order = Order(len(data[0]), made.sequences, settings.seed, ranks.number, ranks.count)
    return Task(made, pace, data[0], data[1], order)
