"""Where the insides of blocks are between the ways forward and back: held, on their way to the disk, or made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pintpot.budget import Train
from pintpot.contract.training import AGAIN, STAYS, WRITTEN, TrainingForm
from pintpot.contract.weights import Weights
from pintpot.nets import _moving as moving
from pintpot.nets._saved import saved_bytes
from pintpot.program.blocks import BlockOps
from pintpot.program.spec import Buffer, Op

Put = Callable[[str, tuple[int | str, ...], str, str, str], str]
"""Makes a buffer of a name, shape, format, holder and life."""
ACTIVATIONS = "activations"
Reads = list[tuple[str, str]]


class Insides:
    """Buffers of what the ways back through blocks need; `back` are these blocks, in the order of the way forward."""

    def __init__(
        self,
        back: Sequence[BlockOps],
        train: Train,
        weights: Weights,
        how: TrainingForm,
        made: tuple[Put, Mapping[str, Buffer]],
    ) -> None:
        self._weights, self._how, (self._put, self._buffers) = weights, how, made
        self._sequences, self._length = train.sequences, train.length
        self._fates = dict(zip((block.name for block in back), how.fates(len(back)), strict=True))
        self._stayed: dict[int, str] = {}  # by the number of its op, that of the first block of which it stays
        self._piece = 0

    def lasts(self, block: BlockOps) -> bool:
        """Whether what was made on the way forward is there on the way back."""
        return self._fates.get(block.name, AGAIN) != AGAIN

    def written(self, block: BlockOps) -> bool:
        return self._fates.get(block.name) == WRITTEN

    def saved(self, op: Op, block: BlockOps) -> Reads:
        """The buffer of what the way back needs of an op: for as long as a block is computed, or all the way.

        What is computed again takes the place of what stayed, which is gone by then.
        """
        each = saved_bytes(op, block, self._weights, self._how, not self.lasts(block))
        fate, name, index = self._fates[block.name], f"{block.name}.{op.write('out')}.saved", block.ops.index(op)
        if fate == STAYS:
            self._stayed.setdefault(index, name)
        elif fate == AGAIN and self._fits(each, self._stayed.get(index, "")):
            return [("saved", self._stayed[index])]
        axis, life = ("tokens", "session") if fate == STAYS else ("rows", "step")
        return [("saved", self._put(name, (axis, each), "uint8", ACTIVATIONS, life))] if each else []

    def found(self, op: Op, block: BlockOps) -> Reads:
        """From where the way back reads it."""
        return [("saved", moving.ASIDE)] if self.written(block) else self.saved(op, block)

    def aside(self, block: BlockOps) -> tuple[list[str], int, int]:
        """What is written of a block's inside: its buffers, bytes of a piece, and pieces. Some are on their way."""
        names = [name for op in block.ops for _, name in self.saved(op, block)]
        widths = [int(self._buffers[name].shape[-1]) for name in names]
        # Of every block as much, so that memory for one is memory for another.
        self._piece = max(self._piece, moving.piece_bytes(self._at_once * self._length * one for one in widths))
        self._put(moving.ASIDE, (moving.ON_THEIR_WAY, self._piece), "uint8", moving.ASIDE, "session")
        return names, self._piece, -(-self._sequences // self._at_once)

    @property
    def _at_once(self) -> int:
        return min(self._how.at_once, self._sequences)

    def _fits(self, each: int, stayed: str) -> bool:
        """Whether so many bytes a row have room where others stayed: as many rows at a time are one piece of memory."""
        return stayed in self._buffers and 0 < each <= int(self._buffers[stayed].shape[-1])
