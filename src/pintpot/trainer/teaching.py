"""A plan of learning is carried out: weights brought in, steps taken, checkpoints kept, and adapters left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch

from pintpot.contract.form import source_form
from pintpot.contract.slots import Slots
from pintpot.contract.training import TrainingForm
from pintpot.contract.tutor import Tutors
from pintpot.errors import UsageError, need
from pintpot.meter.memory import peak_bytes
from pintpot.model.spec import FAMILY_OF_MODULES, Model
from pintpot.model.store import Store
from pintpot.nets._training import training_work
from pintpot.planner.holders import again_bytes
from pintpot.planner.names import BUFFERS, INSIDE
from pintpot.planner.plan import Plan
from pintpot.planner.training import learning_part, training_work_of
from pintpot.program.spec import Work
from pintpot.techniques.place.offloaded import Offloaded
from pintpot.trainer.adapters import save_adapters
from pintpot.trainer.aside import Aside
from pintpot.trainer.checkpoint import Checkpoints, flush
from pintpot.trainer.classifier import Classifier
from pintpot.trainer.freed import give_back_all, keep_freed, kept_below
from pintpot.trainer.head import tile_rows
from pintpot.trainer.learned import Learned
from pintpot.trainer.loop import Stepped, Task, descending, learn
from pintpot.trainer.network import Network
from pintpot.trainer.ranks import ALONE, Ranks
from pintpot.trainer.receipt import write_receipt
from pintpot.trainer.rounding import Rounded
from pintpot.trainer.routed import save_routed
from pintpot.trainer.small import flushed
from pintpot.trainer.tune import NOBODY, Settings, Told, Tuned
from pintpot.trainer.weights import Weights
from pintpot.trainer.whole import save_whole
from pintpot.trainer.whole_module import save_whole_module
from pintpot.trainer.zeroth import following


def teach(
    model: Model,
    plan: Plan,
    checkpoints: Checkpoints,
    task: Task,
    settings: Settings,
    folder: Path,
    before: Rounded,
    told: Told = NOBODY,
    ranks: Ranks = ALONE,
) -> Tuned:
    """Take the steps that are left, keep where it is every `settings.checkpoint` of them, and leave the adapters.

    They learn beside weights rounded `before`. Of several processes the first leaves what was learned; the checkpoint
    goes last: a run that is ended before is ended again.
    """
    if (how := plan.form.training) is None:
        raise UsageError("this plan is not one of learning")
    keep_freed()
    torch.set_num_threads(plan.threads)
    slots = Slots()
    for step in plan.steps:
        step.install(slots)
    tutors, form = Tutors(slots.tutors), plan.form
    with Store(model) as store, ExitStack() as opened:
        opened.enter_context(flushed())
        work = training_work_of(plan)
        rests, ready = (checkpoints.rests, tile_rows(work)), before.prepared
        weights = opened.enter_context(closing(Weights(model, store, form, plan.steps, tutors, rests, ranks, ready)))
        learned = Learned.begun(form, weights, settings.seed, tutors, slots.updating)
        done = checkpoints.load(learned)
        need(done.step <= task.train.steps, "the checkpoint is of more steps than were asked for", UsageError)
        began, spent = done.step, 0.0
        teacher = _teacher(model, store, plan, opened) if tutors.wants_teacher else None
        network = _network(plan, work, weights, learned, slots, teacher, (opened, checkpoints.inside))
        if how.distance and isinstance(network, Network):
            take = following(network, learned, task, settings.seed, how.distance)
        else:
            take = descending(network, learned, task, how.fused, tutors)
        for event in learn(network, take, task, done):
            if isinstance(event, Stepped):
                spent += event.seconds
                if event.step % settings.checkpoint == 0 or event.step == task.train.steps:
                    checkpoints.save(learned, done, plan.without_reasons().to_json())
            if told.happened is not None:
                told.happened(event)
        learned.ended()
        give_back_all()
        _leave(folder if ranks.number == 0 else None, model, how, learned, _resting(learned, weights, tutors), task)
    tokens = (done.step - began) * task.train.tokens * ranks.count
    peak, rate = _most(max(peak_bytes(), before.peak_bytes), ranks), tokens / max(spent, 1e-9)
    tuned = Tuned(folder, plan, tuple(done.losses), tuple(done.asked), spent, peak, rate, began, tuple(done.right))
    if ranks.number == 0:
        write_receipt(tuned)
        if told.left is not None:
            told.left(tuned)
        checkpoints.clear()
        before.remove()
    ranks.total(torch.zeros(1))  # until all is written
    return tuned


def _network(
    plan: Plan,
    work: Work,
    weights: Weights,
    learned: Learned,
    slots: Slots,
    teacher: Network | None,
    aside: tuple[ExitStack, Path],
) -> Network | Classifier:
    part = learning_part(plan)
    if part.family == FAMILY_OF_MODULES:
        return Classifier(part, work, plan.form, weights, learned, slots.calls)
    alike = weights.resting is not None
    # What a block takes at most while it is computed, be it where another one's inside has stayed.
    holders = (BUFFERS, INSIDE) if alike else (BUFFERS,)
    most = sum(holder.high for holder in plan.cost.holders if holder.name in holders) + again_bytes(work)
    between = kept_below(plan.cost.memory_high, most, alike)
    away = Aside.opened(aside[1], work)
    if away is not None:
        aside[0].enter_context(closing(away))
    return Network(part, work, plan.form, weights, learned, Tutors(slots.tutors), teacher, between, away)


def _teacher(model: Model, store: Store, plan: Plan, opened: ExitStack) -> Network:
    """The model as it came, of which nothing learns: its blocks are read when they are computed."""
    how = plan.form.training or TrainingForm()
    form = replace(source_form(model), training=replace(how, rank=0, only=("",)))
    form, part = Offloaded(resident=0).promise(form), model.part("language")
    work = training_work(part, form, plan.budget.workload)
    weights = opened.enter_context(closing(Weights(model, store, form, ())))
    return Network(part, work, form, weights, Learned({}))


def _leave(
    folder: Path | None,
    model: Model,
    how: TrainingForm,
    learned: Learned,
    parts: Callable[[str], Iterator[torch.Tensor]],
    task: Task,
) -> None:
    """Write what was learned. Without a folder only the parts of whole weights are given to who writes them."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if how.rank == 0 and model.language is None and folder is not None:
        save_whole_module(folder, model, parts)
    elif how.rank == 0:
        save_whole(folder, model, parts)
    elif folder is not None and how.routing is not None:
        save_routed(folder, model, how, learned.values, task.learns.names)
    elif folder is not None:
        save_adapters(folder, model, how, learned.values)
    if folder is not None:
        flush(folder)


def _resting(learned: Learned, weights: Weights, tutors: Tutors) -> Callable[[str], Iterator[torch.Tensor]]:
    """One weight of the model that was learned: as rows meet it, or as it came where it did not learn."""

    def parts(name: str) -> Iterator[torch.Tensor]:
        if name not in learned.shapes:
            yield weights.source(name)
        elif name in learned.values:
            yield tutors.left(name, weights.gathered(name) if weights.divides(name) else learned.values[name])
        else:
            yield from learned.parts(name)

    return parts


def _most(num_bytes: int, ranks: Ranks) -> int:
    """The largest of what the processes have."""
    own = torch.zeros(ranks.count, dtype=torch.float64)
    own[ranks.number] = num_bytes
    return int(ranks.total(own).max())
