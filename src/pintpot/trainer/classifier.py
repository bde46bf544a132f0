"""A recorded classifier that learns, driven by its training work, as `trainer.network` drives a decoder.

What each block begins with is kept; on the way back the block is computed again, but for the last one, whose way back
follows at once. Pictures go through a block some at a time, before the next block is begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from pintpot.contract.form import Form
from pintpot.errors import Diverged
from pintpot.kernels.torch.going import Call, Memory, Targets, call_of, constants
from pintpot.model.spec import Part
from pintpot.nets.adapted import constant_name
from pintpot.program.spec import Work
from pintpot.trainer.blocks import Passage, Update
from pintpot.trainer.inside import Block, Inside, through
from pintpot.trainer.learned import Learned, add_grads
from pintpot.trainer.pictures import NO_LABEL, Pictures
from pintpot.trainer.weights import Weights


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
        self._at_once = form.training.at_once if form.training else 1
        tables = {constant_name(name): one for name, one in constants(part.config).items()}
        blocks = tuple(_blocks(work, form, targets))
        self._passage = Passage(blocks, (weights, learned), lambda _: tables)
        self.blocks = self._passage.blocks

    def losses(self, pictures: Pictures) -> torch.Tensor:
        """[2, n]: the loss in nats of every picture, and 1 where its label has the largest number."""
        found = [torch.zeros(2, 0)]
        with torch.no_grad():
            parts = list(self._parts(pictures))
            states = [values for values, _ in parts]
            for block, memory in self._passage.passing(self.blocks):
                states = [through(block, memory, one, _run) for one in states]
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
        back = self._passage.back_through(resting) or self.blocks[-1:]
        states, kept = [values for values, _ in parts], list[list[torch.Tensor]]()
        with torch.no_grad():
            for block, memory in self._passage.passing(self.blocks[:-1]):
                if block in back:
                    kept.append(states)
                states = [through(block, memory, one, _run) for one in states]
        kept.append(states)
        scale = 1 / float(self.ranks.total(torch.tensor(float(len(pictures)))))
        grads, total = list[torch.Tensor](), torch.zeros(())

        def go(block: Block[Call], memory: Memory, learns: tuple[str, ...]) -> dict[str, torch.Tensor]:
            nonlocal grads
            own, passed = dict[str, torch.Tensor](), list[torch.Tensor]()
            for at, x in enumerate(kept.pop()):
                inside = Inside(block, memory, x, _run, (learns, block is not back[0]))
                if block is self.blocks[-1]:
                    loss, way = self._loss(inside.out, parts[at][1], scale)
                    total.add_(loss)
                else:
                    way = grads[at]
                before, made = inside.back(memory, way)
                passed += [] if before is None else [before]
                add_grads(own, made, whole=True)
            if not torch.isfinite(total):
                raise Diverged(f"the loss is {float(total)}")
            grads = passed
            return own

        self._passage.back(back, resting, update, go)
        return float(self.ranks.total(total))

    def _loss(self, logits: torch.Tensor, some: Some, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of losses, `scale` times as large, and its gradient by the logits."""
        given = logits.detach().requires_grad_()
        with torch.enable_grad():
            rows = self._rows(given, some)
            loss = functional.cross_entropy(rows, some.labels, ignore_index=NO_LABEL, reduction="sum") * scale
        return loss.detach(), torch.autograd.grad(loss, given)[0]

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


def _run(call: Call, memory: Memory, lent: Memory) -> None:
    call.run(memory)


def _blocks(work: Work, form: Form, targets: Targets | None) -> Iterator[Block[Call]]:
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
