"""The inside of a block that learns: its ops over some states, and what their way back needs.

Weights are lent to a block for as long as it is computed; between the ways forward and back its inside has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks

from pintpot.kernels.torch.differentiable import BALANCE, FLOATS, Memory, forget
from pintpot.kernels.torch.room import copied


class Wired(Protocol):
    """What is computed of a block in one go: the buffers that it reads and writes, each behind its role."""

    @property
    def reads(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def writes(self) -> tuple[tuple[str, str], ...]: ...


One = TypeVar("One", bound=Wired)
Run = Callable[[One, Memory, Memory], None]
"""Computes one op over a memory, where another one lends it its weights."""


@dataclass(frozen=True)
class Block(Generic[One]):
    """One block's ops, the names of its weights and of what learns in it, and the states it begins and ends with.

    Where the block `lends`, matrices that learn are found in what is lent alone.
    """

    name: str
    ops: tuple[One, ...]
    weights: tuple[str, ...]
    learns: tuple[str, ...]
    x: str
    out: str
    lends: bool = False


class Inside(Generic[One]):
    """What a block made of `states`, with its way back: to gradients of these if it goes `through`, and what `learns`.

    It goes back once. If it `stays` until then, it is told to `rest`, and `tensors` are all that it holds meanwhile,
    beside the states, which must not change and may be in fewer bits: it began with the same values as float32.
    """

    def __init__(
        self,
        block: Block[One],
        memory: Memory,
        states: torch.Tensor,
        run: Run[One],
        asked: tuple[Sequence[str], bool] = ((), True),
        stays: bool = False,
    ) -> None:
        learns, through = asked
        # A weight that is expanded for its block learns by the gradient of what it was expanded to.
        keys = {name: name if name in memory else name + FLOATS for name in learns}
        stands = set(block.weights) if block.lends else set[str]()
        self._learning = {name: _learning(memory[key], name in stands) for name, key in keys.items()}
        self._begin = _stand_in(states.shape) if through else None
        self._lent = dict(memory)
        self._saved = _Saved(states, memory)
        own = {**memory, **{keys[name]: one for name, one in self._learning.items()}}
        hooks = saved_tensors_hooks(self._saved.put, self._saved.take) if stays else nullcontext()
        with torch.enable_grad(), hooks:
            begun = self._saved.begun()
            own[block.x] = begun if self._begin is None else _begun(self._begin, begun)
            compute(block, own, self._lent, run)
        given = (own[block.out], *(one for name, one in own.items() if name.endswith(BALANCE)))
        self.out = own[block.out].detach()
        self._ways = tuple(get_gradient_edge(one) for one in given if one.requires_grad)

    @property
    def num_rows(self) -> int:
        """How many states it began with."""
        return self._saved.num_rows

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What is needed to go back, beside weights and states; who takes something out brings it again."""
        return self._saved.tensors

    def rest(self) -> torch.Tensor:
        """Let go of the weights until the way back, and give what it made."""
        self._lent.clear()
        self._saved.rest()
        out, self.out = self.out, self.out.new_empty(0)
        return out

    def back(
        self, memory: Memory, grads: torch.Tensor, share: float = 1.0
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """From gradients of `out` those of the states, where these are wanted, and those of what learns.

        What is wanted small beside the loss is a mean over sequences, of which here is so large a `share`.
        """
        self._lent.update(memory)
        wanted = (*([] if self._begin is None else [self._begin]), *self._learning.values())
        ways = (grads, *(torch.tensor(share) for _ in self._ways[1:]))
        made = torch.autograd.grad(self._ways, wanted, ways, allow_unused=True) if wanted and self._ways else ()
        # What a block has and does not use has no gradient.
        found = [torch.zeros_like(own) if one is None else one for own, one in zip(wanted, made, strict=True)]
        before = None if self._begin is None else found.pop(0)
        learned = dict(zip(self._learning, found, strict=True))
        self._lent.clear()
        self._saved.rest()
        self._saved.tensors.clear()
        return before, learned


class _Saved:
    """What autograd saves of an inside: each tensor once, the states that it began with as they rest, weights never."""

    def __init__(self, states: torch.Tensor, weights: Memory) -> None:
        self._states, self._begun = states, copied(states.detach(), torch.float32)
        self._weights = {one.data_ptr() for one in weights.values()}
        self._known: dict[tuple[int, torch.Size, torch.dtype], int] = {}
        self.tensors: list[torch.Tensor] = []
        self.num_rows = len(states)

    def begun(self) -> torch.Tensor:
        """The states in float32."""
        if not self._begun.numel() and self._states.numel():
            self._begun = copied(self._states.detach(), torch.float32)
        return self._begun

    def rest(self) -> None:
        """Nothing is added any more, and the states are made again when they are wanted."""
        self._begun = self._states.new_empty(0, dtype=torch.float32)
        self._known.clear()

    def put(self, one: torch.Tensor) -> object:
        """What stands for a tensor until the way back."""
        if one.data_ptr() in self._weights:
            return one
        if one.data_ptr() == self._begun.data_ptr() and one.shape == self._begun.shape:
            return None
        key = one.data_ptr(), one.shape, one.dtype
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self.tensors.append(one)
        return self._known[key]

    def take(self, stands: object) -> torch.Tensor:
        """The tensor."""
        if isinstance(stands, torch.Tensor):
            return stands
        return self.tensors[stands] if isinstance(stands, int) else self.begun()


def _begun(stands: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    given: torch.Tensor = _Begun.apply(stands, states)  # type: ignore[no-untyped-call]
    return given


class _Begun(torch.autograd.Function):
    """States that have gradients, though what has them is one value that stands in: theirs need not last."""

    @staticmethod
    def forward(ctx: Any, stands: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0], None


def through(block: Block[One], memory: Memory, states: torch.Tensor, run: Run[One]) -> torch.Tensor:
    """What a block makes of states, with no way back."""
    own = {**memory, block.x: states}
    compute(block, own, memory, run)
    return own[block.out]


def compute(block: Block[One], memory: Memory, lent: Memory, run: Run[One]) -> None:
    """A block's ops; each buffer goes when it was read for the last time."""
    last = {name: at for at, op in enumerate(block.ops) for _, name in op.reads}
    for at, op in enumerate(block.ops):
        run(op, memory, lent)
        for name in {name for _, name in (*op.reads, *op.writes)}:
            if last.get(name, -1) <= at and name != block.out:
                forget(memory, name)


def _stand_in(shape: torch.Size, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros((), dtype=dtype).expand(shape).requires_grad_()


def _learning(value: torch.Tensor, stands: bool) -> torch.Tensor:
    """What learns, or of a matrix what only `stands` for it, a single value: its own memory is lent."""
    return _stand_in(value.shape, value.dtype) if stands and value.dim() > 1 else value.detach().requires_grad_()
