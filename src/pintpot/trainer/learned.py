"""What learns, with the two moments of its gradients: adapters, or all weights; updated by AdamW.

AdamW: Loshchilov and Hutter 2017, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import cos, pi, prod, sqrt

import torch

from pintpot.contract.form import Form
from pintpot.contract.resting import record_rows
from pintpot.contract.routing import LORA_B, ROUTER, ROUTES
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.contract.updating import Piece, Updating
from pintpot.errors import UsageError, need
from pintpot.kernels.torch import passes
from pintpot.kernels.torch.adam import BETAS, Rates
from pintpot.kernels.torch.room import copied
from pintpot.trainer.moments import Moments, moments_of
from pintpot.trainer.passing import Passing
from pintpot.trainer.resting import Resting
from pintpot.trainer.weights import Weights

FIRST = {ROUTER: 0.02, ROUTES: 1e-3}
LEAST_RATE = 0.1
"""Of the learning rate, at the end of a cosine."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast is learned: a rate that rises for `warmup` steps and then stays, or falls along a cosine."""

    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        need(self.learning_rate > 0, f"a learning rate of {self.learning_rate} teaches nothing", UsageError)
        need(self.schedule in ("constant", "cosine"), f"no schedule {self.schedule!r}: constant or cosine", UsageError)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant" or steps <= self.warmup:
            return self.learning_rate
        share = (step - self.warmup) / (steps - self.warmup)
        return self.learning_rate * (LEAST_RATE + (1 - LEAST_RATE) * (1 + cos(pi * share)) / 2)


class Learned:
    """Tensors that learn, by name, each float32, with what the optimizer keeps of it: `states` of a `TrainingForm`.

    `values` are those in memory; what rests on disk is changed while it is lent (`trainer.resting`). The `tutor` begins
    with them, and has a say in their gradients.
    """

    def __init__(
        self,
        values: Mapping[str, torch.Tensor],
        states: str = "f32",
        tutor: Tutor = ALONE,
        resting: Resting | None = None,
        updating: Updating | None = None,
    ) -> None:
        self.values = dict(values)
        self.resting = resting
        self._tutor = tutor
        tutor.begin(self.values)
        self._moments: dict[str, Moments] = {}
        if states:
            self._moments = {name: moments_of(one, states) for name, one in self.values.items()}
            away = () if resting is None else resting.places
            self._moments |= {name: Passing(resting, name, states) for name in away if resting is not None}
        self._updating = Updating() if updating is None else updating
        self._updating.begin(self._changed())

    @classmethod
    def begun(cls, form: Form, weights: Weights, seed: int, tutor: Tutor, updating: Updating | None) -> Learned:
        """What a form says that learns, before the first step."""
        beside = form.training is not None and form.training.rank > 0
        return cls.adapters(form, seed, tutor, updating) if beside else cls.whole(form, weights, tutor, updating)

    @classmethod
    def adapters(cls, form: Form, seed: int, tutor: Tutor = ALONE, updating: Updating | None = None) -> Learned:
        """Fresh adapters: A drawn evenly within 1 / sqrt(K), B zero, so that nothing is changed by them yet.

        What routes them is drawn as small as `FIRST` says, so that at first none is preferred.
        """
        draw = torch.Generator().manual_seed(seed)
        values: dict[str, torch.Tensor] = {}
        for weight in form.weights:
            for name, shape in form.training.trained(weight).items() if form.training else ():
                values[name] = torch.zeros(shape)
                bound = FIRST.get(f".{name.rpartition('.')[2]}", 1 / sqrt(shape[-1]))
                if not name.endswith(LORA_B):
                    values[name].uniform_(-bound, bound, generator=draw)
        return cls(values, _states(form), tutor, updating=updating)

    @classmethod
    def whole(cls, form: Form, weights: Weights, tutor: Tutor = ALONE, updating: Updating | None = None) -> Learned:
        """The weights of a form that learn, in the very memory in which `weights` holds them, or where they rest."""
        how, away = form.training, () if weights.resting is None else weights.resting.places
        learning = (weight for weight in form.weights if how and how.changes(weight))
        values = {weight.name: weights.held(weight.name) for weight in learning if weight.name not in away}
        return cls(values, _states(form), tutor, weights.resting, updating)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All in memory that a start which goes on must have: what learns, its moments, and what the tutor keeps."""
        found = {**self.values, **self._tutor.tensors()}
        for name, moments in self._moments.items():
            found |= moments.tensors(name)
        return found

    def expect(self, names: Iterable[str]) -> None:
        """Updates of these come next, in this order; of what is in memory nothing follows from that."""
        if self.resting is not None:
            self.resting.expect(names)

    def update(self, grads: Mapping[str, torch.Tensor], pace: Pace, step: int, steps: int, first: int = 0) -> None:
        """One step of AdamW on those of which there are gradients; `step` is counted from 0.

        Gradients of a matrix may be those of some rows, from `first` on, which begins at a record of moments.
        """
        rate = pace.rate(step, steps)
        pieces = self._pieces(grads, 1 - rate * pace.weight_decay, first)
        self._updating.step(pieces, Rates(rate, *(1 - beta ** (step + 1) for beta in BETAS)))

    def _pieces(self, grads: Mapping[str, torch.Tensor], decay: float, first: int) -> Iterator[Piece]:
        for name, grad in grads.items():
            value, moments = self._changing(name, first, len(grad)), self._moments[name]
            if decay != 1.0 and value.dim() > 1:
                value.mul_(decay)
            flat, own = value.view(-1), self._tutor.graded(name, value, grad).reshape(-1)
            before = first * prod(grad.shape[1:])
            for part in _records(grad, self._updating.piece_values):
                m, v = moments.read(shifted := slice(before + part.start, before + part.stop))
                yield Piece(flat[part], own[part].float(), m, v, partial(moments.write, shifted, m, v))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of everything that learns, by name."""
        found = {name: tuple(one.shape) for name, one in self.values.items()}
        away = {} if self.resting is None else self.resting.places
        return found | {name: (place.rows, place.columns) for name, place in away.items()}

    def parts(self, name: str) -> Iterator[torch.Tensor]:
        """What has been learned of one tensor, some rows at a time."""
        if self.resting is None or name not in self.resting:
            yield self.values[name]
            return
        place = self.resting.places[name]
        for first in range(0, place.rows, place.at_once):
            yield self.resting.rows(name, first, min(place.rows, first + place.at_once))

    def _changed(self) -> dict[str, torch.Tensor]:
        """All in memory that steps change."""
        moments = (found for name, one in self._moments.items() for found in one.tensors(name).items())
        return {**self.values, **dict(moments)} if self._moments else {}

    def ended(self) -> None:
        """No step is left: what only steps need is given back, so that there is room for writing."""
        self._updating.end()
        self._moments.clear()

    def within(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Those of these names that learn."""
        return {name: self.values[name] for name in names if name in self.values}

    def _changing(self, name: str, first: int, rows: int) -> torch.Tensor:
        if self.resting is not None and name in self.resting:
            return self.resting.changing(name, first, rows)
        return self.values[name][first : first + rows]


def add_grads(found: dict[str, torch.Tensor], made: dict[str, torch.Tensor], whole: bool) -> None:
    """Gradients of some sequences join those found so far, in float32; those of a whole step stay as they came.

    `made` has none of them afterwards: each is gone before the next one joins.
    """
    for name in list(made):
        grad = made.pop(name)
        if name not in found:
            found[name] = grad if whole else copied(grad, torch.float32)
        elif (grad.dtype, found[name].dtype) == (torch.bfloat16, torch.float32):
            passes.join(grad, found[name], out=found[name])
        else:
            found[name].add_(grad)


def are_numbers(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value is infinite or no number; sums tell in one pass, unless they overflow themselves."""
    return all(bool(torch.isfinite(one.sum())) or bool(torch.isfinite(one).all()) for one in tensors)


def _records(grad: torch.Tensor, most: int) -> Iterator[slice]:
    """The parts of a tensor's values that are updated at a time: `most`, or else whole records of its moments."""
    size = most or (record_rows(grad.shape[1]) * grad.shape[1] if grad.dim() > 1 else max(1, grad.numel()))
    for first in range(0, grad.numel(), size):
        yield slice(first, min(first + size, grad.numel()))


def _states(form: Form) -> str:
    return form.training.states if form.training else ""
