"""Networks that learn, for tests: built without a planner, beside transformers with adapters put in by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import Tiny, torch_model, write_hf

from pintpot.budget import Train, Workload
from pintpot.contract.form import Form, source_form
from pintpot.contract.step import Step
from pintpot.contract.training import LORA_A, LORA_B, TrainingForm
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.contract.updating import Updating
from pintpot.contract.weights import WeightForm
from pintpot.contract.weights import Weights as Forms
from pintpot.model.names import hf_name
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets._training import training_work
from pintpot.trainer.aside import Aside
from pintpot.trainer.head import tile_rows
from pintpot.trainer.learned import Learned
from pintpot.trainer.network import Network
from pintpot.trainer.packing import NOT_LEARNED, Sequences
from pintpot.trainer.weights import Weights

HOW = TrainingForm(rank=4, alpha=8.0, roles=("q", "v", "down"), at_once=2)


@dataclass(frozen=True)
class Made:
    """A network with what it is made of."""

    model: Model
    form: Form
    network: Network
    learned: Learned


@contextmanager
def made(
    folder: Path,
    how: TrainingForm,
    train: Train,
    *steps: Step,
    drawn: bool = True,
    held: bool = True,
    tutor: Tutor = ALONE,
    teacher: Network | None = None,
    rests: Path | None = None,
    updating: Updating | None = None,
    aside: Path | None = None,
) -> Iterator[Made]:
    """A network over a folder; adapters are drawn, so that both of their matrices matter.

    Weights that no step packs are `held` as they are multiplied with, or expanded for each block; where every weight
    learns they are held in memory, or rest in the file `rests`. What is written of blocks' insides goes to `aside`.
    """
    model = describe(str(folder))
    form = source_form(model)
    for step in steps:
        form = step.promise(form)
    floats = how.computed_in if how.rank else "f32"
    held = held and rests is None
    resting = [w if w.packed or not w.is_matrix else _resting(w, floats, held) for w in form.weights]
    form = replace(form, training=how, weights=Forms(resting))
    part = model.part("language")
    work = training_work(part, form, Workload(train=train))
    for step in steps:
        work = step.rewrite(work, form)
    with Store(model) as store:
        rest = None if rests is None else (rests, tile_rows(work))
        weights = Weights(model, store, form, steps, tutor, rest)
        if how.rank:
            learned = Learned.adapters(form, 0, tutor, updating)
        else:
            learned = Learned.whole(form, weights, tutor, updating)
        draw = torch.Generator().manual_seed(1)
        for name, value in learned.values.items():
            if drawn and name.endswith(LORA_B):
                value.normal_(0, 0.1, generator=draw)
        away = Aside.opened(aside, work) if aside is not None else None
        try:
            network = Network(part, work, form, weights, learned, tutor, teacher, aside=away)
            yield Made(model, form, network, learned)
        finally:
            weights.close()
            if away is not None:
                away.close()


def _resting(weight: WeightForm, computed_in: str, held: bool) -> WeightForm:
    return replace(weight, format=computed_in) if held else replace(weight, ram_rows=0)


def folder_of(tiny: Tiny, at: Path) -> Path:
    return write_hf(at / f"{tiny.family}-{tiny.seed}", tiny)


def drawn_sequences(num: int, length: int, vocab: int, seed: int = 0) -> Sequences:
    """Sequences of one example each, of which every word is learned."""
    tokens = np.random.default_rng(seed).integers(0, vocab, (num, length)).astype(np.int32)
    targets = np.full_like(tokens, NOT_LEARNED)
    targets[:, :-1] = tokens[:, 1:]
    return Sequences(tokens, targets, np.zeros_like(tokens))


class Adapted:
    """A model of transformers, adapters added by hooks; its parameters are copies of those that are given."""

    def __init__(self, model: Any, values: Mapping[str, torch.Tensor], scale: float) -> None:
        self.model = model
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.parameters = {name: one.clone().requires_grad_() for name, one in values.items()}
        for name in self.parameters:
            if name.endswith(LORA_A):
                self._adapt(name.removesuffix(LORA_A), scale)

    @classmethod
    def of(cls, folder: Path, made: Made) -> Adapted:
        """The same weights and adapters as a network of ours."""
        return cls(torch_model(folder), made.learned.values, made.form.training.scale if made.form.training else 0.0)

    def _adapt(self, weight: str, scale: float) -> None:
        module = self.model.get_submodule(hf_name(weight).removesuffix(".weight"))
        a, b = self.parameters[weight + LORA_A], self.parameters[weight + LORA_B]

        def added(_: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            inner = torch.nn.functional.linear(args[0].float(), a)
            return out + (torch.nn.functional.linear(inner, b) * scale).to(out.dtype)

        module.register_forward_hook(added)

    def losses(self, sequences: Sequences) -> torch.Tensor:
        """The loss of every word that is learned, each sequence one example."""
        logits = self.model(torch.from_numpy(sequences.tokens).long()).logits.float().flatten(0, 1)
        targets = torch.from_numpy(sequences.targets).long().flatten()
        asked = targets != NOT_LEARNED
        return torch.nn.functional.cross_entropy(logits[asked], targets[asked], reduction="none")


def gathering(found: dict[str, torch.Tensor]) -> Callable[..., None]:
    """An update that keeps gradients, whole, also those that come some rows at a time."""

    def update(grads: Mapping[str, torch.Tensor], first: int = 0) -> None:
        for name, grad in grads.items():
            found[name] = torch.cat([found[name], grad]) if first else grad

    return update
