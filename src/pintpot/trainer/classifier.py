"""A recorded classifier that learns, driven by its training work, as `trainer.network` drives a decoder.

What each block begins with is kept; on the way back the block is computed again, but for the last one, whose way back
follows at once. Pictures go through a block some at a time, before the next block is begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional

from pintpot.contract.form import Form
from pintpot.contract.training import block_of
from pintpot.errors import Diverged
from pintpot.kernels.torch.going import Call, Memory, Targets, call_of, constants
from pintpot.model.spec import Part
from pintpot.nets.adapted import constant_name
from pintpot.program.spec import Work
from pintpot.trainer.learned import Learned
from pintpot.trainer.network import Update
from pintpot.trainer.pictures import NO_LABEL, Pictures
from pintpot.trainer.weights import Weights


@dataclass(frozen=True)
class Block:
    """One block's calls, the names of its weights and of what learns in it, and what it begins and ends with."""

    name: str
    calls: tuple[Call, ...]
    weights: tuple[str, ...]
    learns: tuple[str, ...]
    x: str
    out: str


@dataclass(frozen=True)
class Some:
    """Some pictures of a step, as many as go through a block together: labels, `count` of them real."""

    labels: torch.Tensor
    count: int


class Classifier:
    """A part of a model whose weights, and what learns of it, are in memory."""

    def __init__(
        self,
        part: Part,
        work: Work,
        form: Form,
        weights: Weights,
        learned: Learned,
        targets: Targets | None = None,
    ) -> None:
        self.work, self.ranks = work, weights.ranks
        self._weights, self._learned = weights, learned
        self._at_once = form.training.at_once if form.training else 1
        self._tables = {constant_name(name): one for name, one in constants(part.config).items()}
        self.blocks = tuple(_blocks(work, form, targets))

    def losses(self, pictures: Pictures) -> torch.Tensor:
        """[2, n]: the loss in nats of every picture, and 1 where its label has the largest number."""
        found = [torch.zeros(2, 0)]
        with torch.no_grad():
            parts = list(self._parts(pictures))
            states = [values for values, _ in parts]
            for block, memory in self._passing(self.blocks):
                states = [self._through(block, memory, one) for one in states]
            for logits, (_, some) in zip(states, parts, strict=True):
                rows, labels = self._rows(logits, some)[: some.count], some.labels[: some.count]
                right = (rows.argmax(dim=1) == labels).float()
                found.append(torch.stack((functional.cross_entropy(rows, labels, reduction="none"), right)))
        return torch.cat(found, dim=1)

    def learn(self, pictures: Pictures, update: Update, resting: frozenset[str] = frozenset()) -> float:
        """The mean loss of the pictures of a step; gradients of it go to `update`, those of a block at a time.

        Of layers that are `resting` nothing learns. Raises Diverged where a loss or a gradient is no number.
        """
        parts = list(self._parts(pictures))
        states, kept, back = [values for values, _ in parts], list[list[torch.Tensor]](), self._back(resting)
        with torch.no_grad():
            for block, memory in self._passing(self.blocks[:-1]):
                if block in back:
                    kept.append(states)
                states = [self._through(block, memory, one) for one in states]
        kept.append(states)
        scale = 1 / float(self.ranks.total(torch.tensor(float(len(pictures)))))
        grads: list[torch.Tensor] = []
        total = torch.zeros(())
        for block, memory in self._passing(back[::-1]):
            learns = tuple(name for name in block.learns if block_of(name) not in resting)
            self._learned.expect(learns)
            own, passed = dict[str, torch.Tensor](), list[torch.Tensor]()
            begins = kept.pop()
            for at, x in enumerate(begins):
                some = parts[at][1] if block is self.blocks[-1] else None
                loss, grad = self._both_ways(block, memory, x, some or grads[at], (learns, block is not back[0], scale),
                                             own)  # fmt: skip
                total += loss
                passed.append(grad)
            if block is self.blocks[-1] and not torch.isfinite(total):
                raise Diverged(f"the loss is {float(total)}")
            own = self.ranks.summed(own, set())
            if not all(bool(torch.isfinite(grad).all()) for grad in own.values()):
                raise Diverged(f"gradients are no numbers from {block.name} on, counted from the end")
            update(own)
            grads = passed
        return float(self.ranks.total(total))

    def _both_ways(
        self,
        block: Block,
        memory: Memory,
        x: torch.Tensor,
        along: Some | torch.Tensor,
        asked: tuple[Sequence[str], bool, float],
        found: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, 0 but for the last block, and the gradient of what a block began with, where that is wanted.

        `along` is the gradient of what the block gives, or of the last one the labels; `found` grows by gradients.
        """
        learns, through, scale = asked
        learning = {name: memory[name].detach().requires_grad_() for name in learns}
        begin = x.detach().requires_grad_(through)
        own = {**memory, **learning, block.x: begin}
        with torch.enable_grad():
            self._run(block, own)
            out, loss, way = own[block.out], torch.zeros(()), torch.ones(())
            if isinstance(along, Some):
                rows = self._rows(out, along)
                out = functional.cross_entropy(rows, along.labels, ignore_index=NO_LABEL, reduction="sum") * scale
                loss = out.detach()
            else:
                way = along
        del own
        wanted = (*([begin] if through else ()), *learning.values())
        made = torch.autograd.grad(out, wanted, way, allow_unused=True) if wanted else ()
        for name, grad in zip(learning, made[1:] if through else made, strict=True):
            # What a classifier has and does not use has none.
            one = torch.zeros_like(memory[name]) if grad is None else grad
            found[name] = found[name].add_(one) if name in found else one
        return loss, made[0] if through and made[0] is not None else torch.zeros_like(x)

    def _back(self, resting: frozenset[str]) -> tuple[Block, ...]:
        """The blocks that gradients go back through, in the order of the way forward; the last one at least."""
        learning = (
            at for at, block in enumerate(self.blocks) if any(block_of(one) not in resting for one in block.learns)
        )
        return self.blocks[next(learning, len(self.blocks) - 1) :]

    def _passing(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Memory]]:
        for block, following in pairwise((*blocks, None)):
            if block is not None:
                coming = None if following is None else (following.name, following.weights)
                yield block, {**self._weights.block(block.name, block.weights, coming), **self._tables}
                self._weights.done(block.name)

    def _through(self, block: Block, memory: Memory, x: torch.Tensor) -> torch.Tensor:
        own = {**memory, block.x: x}
        self._run(block, own, forget=True)
        return own[block.out]

    def _run(self, block: Block, memory: Memory, forget: bool = False) -> None:
        last = {name: at for at, call in enumerate(block.calls) for name, _ in call.looks}
        for at, call in enumerate(block.calls):
            call.run(memory)
            for name in {name for name, _ in (*call.looks, *call.lays)} if forget else ():
                if last.get(name, -1) <= at and name != block.out:
                    memory.pop(name, None)

    def _rows(self, logits: torch.Tensor, some: Some) -> torch.Tensor:
        return logits.view(len(some.labels), -1)

    def _parts(self, pictures: Pictures) -> Iterator[tuple[torch.Tensor, Some]]:
        """Pictures that go through a block together, filled up by the last one to as many as were recorded."""
        values, labels = pictures.values(), torch.from_numpy(pictures.labels).long()
        for first in range(0, len(labels), self._at_once):
            own, some = torch.from_numpy(values[first : first + self._at_once]), labels[first : first + self._at_once]
            lacking = self._at_once - len(some)
            if lacking:
                own = torch.cat((own, own[-1:].expand(lacking, *own.shape[1:])))
            filled = torch.cat((some, torch.full((lacking,), NO_LABEL)))
            yield own.reshape(-1), Some(filled, len(some))


def _blocks(work: Work, form: Form, targets: Targets | None) -> Iterator[Block]:
    """The blocks of a classifier, from the segments of what is asked of it."""
    program, how, known = work.stage("ask").programs[0], form.training, form.weights.by_name
    x = str(program.ops[0].reads[0][1])
    segments = [segment for segment in program.segments if segment.slot != "head"]
    for segment in segments:
        ops = program.ops[segment.first : segment.stop]
        weights = tuple(dict.fromkeys(name for op in ops for _, name in op.reads if name in known))
        learns = tuple(name for name in weights if how is not None and how.changes(known[name]))
        later = {name for op in program.ops[segment.stop :] for _, name in op.reads}
        out = next(name for op in reversed(ops) for _, name in op.writes if name in later)
        yield Block(str(segment.slot), tuple(call_of(op, targets) for op in ops), weights, learns, x, out)
        x = out
