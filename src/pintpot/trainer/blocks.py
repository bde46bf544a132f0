"""Blocks of a network that learns: passed with their weights either way, and their inside with its way back.

Weights are lent to a block for as long as it is computed; between the ways forward and back its inside has none.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import torch
from torch.autograd.graph import get_gradient_edge

from pintpot.contract.routing import BESIDE
from pintpot.contract.training import block_of
from pintpot.errors import Diverged
from pintpot.kernels.torch.differentiable import BALANCE, FLOATS, Memory, forget
from pintpot.trainer.learned import Learned, are_numbers
from pintpot.trainer.weights import Weights

Update = Callable[..., None]
"""Is told gradients by name; those of some rows of a matrix with the number of the first, as `first`."""


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

    As soon as it has gone back it is empty.
    """

    def __init__(
        self,
        block: Block[One],
        memory: Memory,
        states: torch.Tensor,
        run: Run[One],
        asked: tuple[Sequence[str], bool] = ((), True),
    ) -> None:
        learns, through = asked
        # A weight that is expanded for its block learns by the gradient of what it was expanded to.
        keys = {name: name if name in memory else name + FLOATS for name in learns}
        stands = set(block.weights) if block.lends else set[str]()
        self._learning = {name: _learning(memory[key], name in stands) for name, key in keys.items()}
        self._begin = states.detach().requires_grad_(through)
        self._lent = dict(memory)
        own = {**memory, **{keys[name]: one for name, one in self._learning.items()}, block.x: self._begin}
        with torch.enable_grad():
            compute(block, own, self._lent, run)
        given = (own[block.out], *(one for name, one in own.items() if name.endswith(BALANCE)))
        self.out = own[block.out].detach()
        self._ways = tuple(get_gradient_edge(one) for one in given if one.requires_grad)

    def back(
        self, memory: Memory, grads: torch.Tensor, share: float = 1.0
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """From gradients of `out` those of the states, where these are wanted, and those of what learns.

        What is wanted small beside the loss is a mean over sequences, of which here is so large a `share`.
        """
        self._lent.update(memory)
        through = self._begin.requires_grad
        wanted = (*([self._begin] if through else ()), *self._learning.values())
        ways = (grads, *(torch.tensor(share) for _ in self._ways[1:]))
        made = torch.autograd.grad(self._ways, wanted, ways, allow_unused=True) if wanted and self._ways else ()
        # What a block has and does not use has no gradient.
        found = [torch.zeros_like(own) if one is None else one for own, one in zip(wanted, made, strict=True)]
        before = found.pop(0) if through else None
        learned = dict(zip(self._learning, found, strict=True))
        self._lent.clear()
        return before, learned


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


def learning_in(block: Block[One], resting: Container[str]) -> tuple[str, ...]:
    """What learns in a block, and is of no layer that is resting."""
    return tuple(name for name in block.learns if _layer(name) not in resting)


def _layer(name: str) -> str:
    """The layer of a weight, or of what stands beside one."""
    for end in BESIDE:
        name = name.removesuffix(end)
    return block_of(name)


class Passage(Generic[One]):
    """Blocks in the order of the way forward. What is `beside` comes to each block's weights.

    Gradients of what is `shared` are shared out among processes. `between` is called after each block.
    """

    def __init__(
        self,
        blocks: Sequence[Block[One]],
        held: tuple[Weights, Learned],
        beside: Callable[[Block[One]], Memory],
        shared: Container[str] = (),
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.blocks = tuple(blocks)
        (self._weights, self._learned), self._beside = held, beside
        self._shared, self._between = shared, between

    def passing(self, blocks: Sequence[Block[One]]) -> Iterator[tuple[Block[One], Memory]]:
        """Blocks with their weights and what is beside these; the next block's weights come meanwhile."""
        for block, following in pairwise((*blocks, None)):
            if block is not None:
                coming = None if following is None else (following.name, following.weights)
                yield block, {**self._weights.block(block.name, block.weights, coming), **self._beside(block)}
                self._weights.done(block.name)
                self._between()

    def back_through(self, resting: Container[str]) -> tuple[Block[One], ...]:
        """The blocks that gradients go back through, down to the first in which something learns now."""
        learning = (at for at, block in enumerate(self.blocks) if learning_in(block, resting))
        return self.blocks[next(learning, len(self.blocks)) :]

    def back(
        self,
        blocks: Sequence[Block[One]],
        resting: Container[str],
        update: Update,
        go: Callable[[Block[One], Memory, tuple[str, ...]], dict[str, torch.Tensor]],
    ) -> None:
        """Go back through blocks, given in the order of the way forward; `update` has a block's gradients at once.

        `go` finds the gradients of those names. Raises Diverged where one is no number.
        """
        for block, memory in self.passing(blocks[::-1]):
            learns = learning_in(block, resting)
            self._learned.expect(learns)
            own = self._weights.ranks.summed(go(block, memory, learns), self._shared)
            if not are_numbers(own.values()):
                raise Diverged(f"gradients are no numbers from {block.name} on, counted from the end")
            update(own)
            del own  # before those of the next block come


def _learning(value: torch.Tensor, stands: bool) -> torch.Tensor:
    """What learns, or of a matrix what only `stands` for it, a single value: its own memory is lent."""
    if stands and value.dim() > 1:
        return value.new_zeros(()).expand(value.shape).requires_grad_()
    return value.detach().requires_grad_()
