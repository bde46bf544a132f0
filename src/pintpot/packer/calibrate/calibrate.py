"""Calibrating: a model's weights are rounded by what meets them, and wait on disk for the pack that they are for.

The folder lies beside the pack, is found again by an equal plan over equal texts, and is gone when the pack is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

from pintpot.contract.form import CacheForm
from pintpot.errors import PintpotError, UsageError, need
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.blocks import Walk
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.modalities import Counting, sensitivities
from pintpot.packer.calibrate.parallel import one_blas_thread
from pintpot.packer.calibrate.plain import HEAD, convert_blocks, convert_embedding, with_norm
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.calibrate.prompts import Prompts
from pintpot.packer.calibrate.rounded import Vocabulary
from pintpot.packer.locks import is_still
from pintpot.packer.unfinished import place_of_calibration, remove_others
from pintpot.planner.calibrating import need_room, spacious_bytes
from pintpot.planner.plan import Plan
from pintpot.units import format_seconds

VERSION = 2
"""Of what calibration computes: what another version left behind is not taken up."""
Told = Callable[[float, str], None]
Texts = Sequence[Sequence[int]]


def calibrated(plan: Plan) -> bool:
    """Whether a plan has weights that cannot be rounded without knowing what meets them."""
    chosen = Chosen.of(plan.form, plan.steps)
    return bool(chosen) and any(chosen.prepares(weight) for weight in plan.form.weights)


def gathers(plan: Plan) -> bool:
    """Whether calibrating needs texts: some step has to know what meets the weights."""
    return Chosen.of(plan.form, plan.steps).gathers


@contextmanager
def preparing(
    model: Model, plan: Plan, folder: Path, texts: Texts | Prompts, told: Told | None = None
) -> Iterator[Prepared]:
    """The calibrated weights of the plan's pack in `folder`; they are removed where nothing is raised inside.

    An earlier start that was ended is gone on with. Raises UsageError where pictures are wanted and none are among the
    texts, and what reading and rounding the weights raises.
    """
    with _made(model, plan, folder, texts, told) as prepared:
        yield prepared
        shutil.rmtree(prepared.folder)


def prepare(model: Model, plan: Plan, folder: Path, texts: Texts | Prompts, told: Told | None = None) -> Path:
    """The same for who comes later: where they lie, beside `folder`, until that one removes them."""
    with _made(model, plan, folder, texts, told) as prepared:
        return prepared.folder


@contextmanager
def _made(model: Model, plan: Plan, folder: Path, texts: Texts | Prompts, told: Told | None) -> Iterator[Prepared]:
    prompts = Prompts.of(texts)
    unseen = "weighing pictures against words takes pictures to look at: `pintpot pack --pictures FOLDER` takes yours"
    need(prompts.pictured or not Chosen.of(plan.form, plan.steps).senses, unseen, UsageError)
    key = _key(model, plan, prompts)
    with _held(folder, key) as place:
        prepared = Prepared(place)
        with one_blas_thread(), Store(model) as store:
            tell = told or (lambda share, what: None)
            if gathers(plan):
                _Run(model, plan, prompts, store, prepared, tell).run()
            else:
                _transform(model, plan, store, prepared, tell)
        yield prepared


def _forward(model: Model, plan: Plan, store: Store, longest: int, pictured: bool = False) -> Forward:
    """The network over floats that the plan's steps will have transformed."""
    form = replace(plan.form, cache=CacheForm("f32"))
    return Forward(model, store, longest, form, Chosen.of(plan.form, plan.steps).transforms, pictured)


def _transform(model: Model, plan: Plan, store: Store, prepared: Prepared, told: Told) -> None:
    """Every block as the steps transform it, rounded to nearest. Raises DoesNotFit where not even one block may be."""
    chosen, forward = Chosen.of(plan.form, plan.steps), _forward(model, plan, store, 1)
    need_room(plan.form, plan.steps, plan.threads, plan.budget.memory_bytes)
    convert_blocks(forward, chosen, prepared, plan.threads, lambda share: told(share, "transforming"))


class _Run:
    """One pass over the network."""

    def __init__(
        self, model: Model, plan: Plan, prompts: Prompts, store: Store, prepared: Prepared, told: Told
    ) -> None:
        self._chosen = Chosen.of(plan.form, plan.steps)
        self._prompts, self._prepared, self._told = prompts, prepared, told
        self._lengths = prompts.lengths
        self._forward = _forward(model, plan, store, max(self._lengths), prompts.pictured)
        self._vocabulary = Vocabulary(self._forward, self._chosen)
        scratch = prepared.folder / "activations"
        shutil.rmtree(scratch, ignore_errors=True)
        spacious = self._room(plan)
        if not spacious:
            scratch.mkdir()
        self._live = Activations(None if spacious else scratch)
        self._threads = plan.threads
        self._started, self._first = time.monotonic(), 0.0
        self._sensing = len(self._forward.blocks) if self._chosen.senses else 0
        self._walk = Walk(self._forward, self._chosen, self._live, self._counting(model, store), plan.threads)

    def run(self) -> None:
        """Every block that is not done yet, and the head."""
        blocks, head = self._forward.blocks, str(self._forward.head.read("weight"))
        convert_embedding(self._forward, self._chosen, self._prepared, self._threads)
        first = self._begin()
        for index in range(first, len(blocks)):
            block = blocks[index]
            made = self._walk.block(block, lambda share, index=index: self._tell(self._sensing + index + share))  # type: ignore[misc]
            # Each text's states of one network behind those of the other, as they are taken up again.
            places = product(range(len(self._lengths)), self._walk.streams)
            states = (self._live.get(block.out + stream, text) for text, stream in places)
            self._prepared.add(block.name, made, states)
        if not self._prepared.has(HEAD):
            strips = self._walk.head(self._vocabulary)
            self._prepared.add(HEAD, with_norm(self._vocabulary, {} if strips is None else {head: strips}))
        self._tell(self._sensing + len(blocks) + 1)
        shutil.rmtree(self._prepared.folder / "activations", ignore_errors=True)

    def _counting(self, model: Model, store: Store) -> Counting:
        """How often each row counts; where steps ask what the loss moves with, that is found first."""
        if not self._sensing:
            return Counting({}, self._prompts)
        plain = Forward(model, store, max(self._lengths), pictured=True)
        found = sensitivities(
            plain, self._prompts, self._prepared.folder, self._threads, lambda share: self._tell(share * self._sensing)
        )
        self._started, self._first = time.monotonic(), self._sensing
        return Counting.of(found, self._forward, self._chosen, self._prompts)

    def _begin(self) -> int:
        """Put the states of the first block that is not done in place, and say which it is."""
        blocks = self._forward.blocks
        done = 0
        while done < len(blocks) and self._prepared.has(blocks[done].name):
            done += 1
        if done == len(blocks) and self._prepared.has(HEAD):
            return done
        try:
            if done:
                places = list(product(range(len(self._lengths)), self._walk.streams))
                lengths = [self._lengths[text] for text, _ in places]
                kept = self._prepared.states(blocks[done - 1].name, lengths)
                for (text, stream), states in zip(places, kept, strict=True):
                    self._live.put(blocks[done - 1].out + stream, text, states)
                self._first = self._sensing + done
                return done
        except PintpotError:
            done = 0
        table, given = self._vocabulary.rows(self._forward.embed), self._prompts.given
        for text, tokens in enumerate(self._prompts.texts):
            states = self._forward.embedded([tokens], table, given)
            for stream in self._walk.streams:
                self._live.put(blocks[0].x + stream, text, states)
        return 0

    def _tell(self, done: float) -> None:
        total = self._sensing + len(self._forward.blocks) + 1
        passed, share = done - self._first, done / total
        left = (time.monotonic() - self._started) / passed * (total - done) if passed > 0 else 0.0
        self._told(share, f"calibrating, {format_seconds(left)} left" if left > 0 else "calibrating")

    def _room(self, plan: Plan) -> bool:
        """Whether the rows of all texts may stay in memory. Raises DoesNotFit where not even one text's may.

        What pictures became is there throughout.
        """
        asked, memory = (plan.form, plan.steps, plan.threads), plan.budget.memory_bytes
        beside = sum(rows.nbytes for rows in self._prompts.rows.values())
        need_room(*asked, memory, max(self._lengths), beside)
        return spacious_bytes(*asked, self._lengths) + beside <= memory


def _key(model: Model, plan: Plan, prompts: Prompts) -> str:
    """Tells apart what would give other bytes: the model's data, the steps, the forms, the texts."""
    with Store(model) as store:
        data = store.sample_digest()
    chosen = Chosen.of(plan.form, plan.steps)
    steps = [step.to_json() for step in chosen.steps]
    forms = [(weight.name, weight.format) for weight in plan.form.weights]
    described = json.dumps([VERSION, data, steps, forms, prompts.digest()])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


@contextmanager
def _held(folder: Path, key: str) -> Iterator[Path]:
    """The folder of this calibration, which no other process then uses; those for other plans of the pack go.

    What another process works in stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = place_of_calibration(folder, key)
    remove_others(place)
    while True:
        place.mkdir(exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_still(place, descriptor):
                yield place
                return
        finally:
            os.close(descriptor)
