"""The blocks of a network that learns, passed with their weights in either direction."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import pairwise
from typing import Generic

import torch

from pintpot.contract.routing import BESIDE
from pintpot.contract.training import block_of
from pintpot.errors import Diverged
from pintpot.kernels.torch.differentiable import Memory
from pintpot.trainer.freed import Look
from pintpot.trainer.inside import Block, One
from pintpot.trainer.learned import Learned, are_numbers
from pintpot.trainer.weights import Weights

Update = Callable[..., None]
"""Is told gradients by name; those of some rows of a matrix with the number of the first, as `first`."""


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
        between: Look = lambda block=True: None,
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
