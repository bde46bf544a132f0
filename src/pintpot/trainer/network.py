"""A decoder that learns, driven by its training work: forward keeps what blocks begin with, backward computes again.

    network = Network(part, work, form, weights, learned)
    network.losses(sequences)                                # nets of words that are asked, nothing learns
    network.learn(sequences, update)                         # `update(grads)` is told of gradients as they are final
    network.learn(sequences, update, frozenset({"layers.0"}))    # of these blocks nothing learns in this step

Tokens of all sequences of a step go through a block, some sequences at a time, before the next block's weights come.
Of a vocabulary that learns gradients exist for some rows at a time, last of all, and each is followed by its update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from pintpot.contract.form import Form
from pintpot.contract.routing import BESIDE
from pintpot.contract.training import AGAIN, WRITTEN
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.errors import Diverged
from pintpot.kernels.torch.differentiable import Batch, Memory, rms_norm, run
from pintpot.kernels.torch.loss import cross_entropy
from pintpot.kernels.torch.room import room
from pintpot.model.spec import Part
from pintpot.nets._rope import rope_tables
from pintpot.program.spec import Op, Program, Work
from pintpot.trainer.aside import Aside
from pintpot.trainer.blocks import Passage, Update, learning_in
from pintpot.trainer.freed import Look
from pintpot.trainer.head import Head, asked, head_of, tile_rows
from pintpot.trainer.inside import Block, Inside, Run, through
from pintpot.trainer.learned import Learned, add_grads
from pintpot.trainer.packing import Sequences
from pintpot.trainer.weights import DTYPES, Weights


class Network:
    """A part of a model whose weights, and what learns of it, are in memory or come when they are needed."""

    def __init__(
        self,
        part: Part,
        work: Work,
        form: Form,
        weights: Weights,
        learned: Learned,
        tutor: Tutor = ALONE,
        teacher: Network | None = None,
        between: Look = lambda block=True: None,
        aside: Aside | None = None,
    ) -> None:
        self._how, self._tutor, self._teacher, self._aside = form.training, tutor, teacher, aside
        self.work, forward = work, work.stage("forward").programs[0]
        self._weights, self._learned, self.ranks, how = weights, learned, weights.ranks, form.training
        self._embed = forward.ops[0]
        self._head, self._tile_rows = head_of(work), tile_rows(work)
        self._between = between
        self._kept = torch.empty((0, 0, 0), dtype=DTYPES[how.kept_in if how else "f32"])
        factors = weights.tensor("rope_freqs").numpy() if "rope_freqs" in form.weights.names else None
        tables = rope_tables(part.config, forward.bound("context"), factors)
        self._tables = {name: torch.from_numpy(table) for name, table in tables.items()}
        self._at_once = how.at_once if how else 1
        self._changes = {weight.name for weight in form.weights if how is not None and how.changes(weight)}
        self._shared = {one.name for one in form.weights if one.name in self._changes and how and how.divides(one)}
        held = weights, learned
        self._passage = Passage(tuple(_blocks(forward, form)), held, self._beside, self._shared, between)
        self.blocks = self._passage.blocks

    def losses(self, sequences: Sequences) -> torch.Tensor:
        """The loss in nats of every word of some sequences that would be learned."""
        with torch.no_grad():
            states = self._embedded(sequences)
            for block, memory in self._passage.passing(self.blocks):
                states = self._through(block, memory, states, sequences)
            self._between(block=False)
            rows, targets = asked(sequences)
            met = rms_norm(states[rows], self._norm, self._head.get("eps"))
            return cross_entropy(met, targets, self._rows, backward=False).losses

    def passed(self, sequences: Sequences) -> list[torch.Tensor]:
        """States [T, D] after each block, the first one first."""
        found = []
        with torch.no_grad():
            states = self._embedded(sequences)
            for block, memory in self._passage.passing(self.blocks):
                states = self._through(block, memory, states, sequences)
                found.append(states)
        return found

    def _pulled(self, grads: torch.Tensor, after: torch.Tensor, wanted: list[torch.Tensor]) -> torch.Tensor:
        """Gradients of the states after a block, with what the tutor adds; `wanted` loses its last ones."""
        more = self._tutor.pulled(after.float(), wanted.pop()) if wanted else None
        return grads if more is None else more.add_(grads)

    def learn(self, sequences: Sequences, update: Update, resting: frozenset[str] = frozenset()) -> float:
        """The mean loss of the words of a step; gradients of it go to `update`, those of a block at a time.

        They go back as far as something learns, which in blocks that are `resting` nothing does. Raises Diverged where
        a loss or a gradient is no number, with the first block in which something is none.
        """
        wanted = [] if self._teacher is None else self._teacher.passed(sequences)
        back = self._back_through(resting)
        # Below the last of them nobody wants gradients, unless what is looked up learns.
        last = None if self._embed.read("weight") in self._changes or not back else back[0]
        fates = self._how.fates(len(back)) if self._how else ()
        kept, insides = self._room(len(back), sequences.tokens.size), dict[str, list[Inside[Op]]]()
        with torch.no_grad():
            states = self._embedded(sequences)
            for block, memory in self._passage.passing(self.blocks):
                fate = fates[back.index(block)] if block in back else AGAIN
                if block in back:
                    begun = kept[back.index(block)]
                    begun.copy_(states)
                    if begun.dtype != states.dtype:
                        states.copy_(begun)  # so that whoever computes it again begins with the same
                if fate != AGAIN:
                    learns = learning_in(block, resting)
                    found = self._insides(block, memory, begun, sequences, (learns, block is not last), True)
                    states, insides[block.name] = self._rested(found, fate == WRITTEN)
                else:
                    states = self._through(block, memory, states, sequences)
        if self._aside is not None:
            self._aside.turn(one for block in reversed(back) for one in insides.get(block.name, ()))
        self._between(block=False)
        loss, grads, head = self._loss(states, sequences)
        self._between(block=False)  # what it gave back fits no block
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {float(loss)}, and {self._first_broken([*kept, states])}")
        after = states
        del states

        def go(block: Block[Op], memory: Memory, learns: tuple[str, ...]) -> dict[str, torch.Tensor]:
            nonlocal grads, after
            grads, after = self._pulled(grads, after, wanted), kept[back.index(block)]
            asked = learns, block is not last
            found = insides.pop(block.name, None) or self._insides(block, memory, after, sequences, asked)
            found = found if self._aside is None else self._aside.returned(found)
            grads, own = self._back(memory, grads, found)
            return own

        self._passage.back(back, resting, update, go)
        self._between(block=False)
        self._update_outside(update, head, grads, sequences)
        return float(loss)

    def _rested(self, insides: Iterable[Inside[Op]], written: bool) -> tuple[torch.Tensor, list[Inside[Op]]]:
        """What they made, and they themselves; what is `written` out goes before the next one is computed."""
        outs, found = [], []
        for inside in insides:
            outs.append(inside.rest())
            found.append(inside)
            if written and self._aside is not None:
                self._aside.put(inside)
        return _joined(outs), found

    def _room(self, count: int, tokens: int) -> torch.Tensor:
        """Where what `count` blocks begin with is kept [count, T, D]: one piece, so that gaps are nowhere."""
        if self._kept.shape[0] < count or self._kept.shape[1] < tokens:
            self._kept = torch.empty((count, tokens, self._norm.shape[0]), dtype=self._kept.dtype)
        return self._kept[:count, :tokens]

    def _back_through(self, resting: frozenset[str]) -> tuple[Block[Op], ...]:
        """The blocks that gradients go back through, in the order of the way forward."""
        return self.blocks if self._embed.read("weight") in self._changes else self._passage.back_through(resting)

    def _update_outside(self, update: Update, head: Head, grads: torch.Tensor, sequences: Sequences) -> None:
        """What learns in no block: rows of the head, of what is looked up (often the same), and the last norm."""
        embed, own = str(self._embed.read("weight")), str(self._head.read("weight"))
        tokens = torch.from_numpy(sequences.tokens).flatten().long()
        grads = grads * float(self._embed.get("scale", 1.0))
        for name in [one for one in dict.fromkeys((own, embed)) if one in self._changes]:
            self._learned.expect([name])
            for first, rows in self._weights.rows(name, self._tile_rows):
                grad = head.grad(first, rows) if name == own else torch.zeros(rows.shape)
                if name == embed:
                    here = ((tokens >= first) & (tokens < first + len(rows))).nonzero().flatten()
                    grad.index_add_(0, tokens[here] - first, grads[here])
                update(self.ranks.summed({name: grad}, self._shared), first=first)
        norm = str(self._head.read("norm"))
        if norm in self._changes:
            update(self.ranks.summed({norm: head.norm}, self._shared))

    def _embedded(self, sequences: Sequences) -> torch.Tensor:
        tokens = torch.from_numpy(sequences.tokens).flatten().long()
        found = self._weights.looked_up(str(self._embed.read("weight")), tokens)
        return found * float(self._embed.get("scale", 1.0))

    def _beside(self, block: Block[Op]) -> Memory:
        adapters = {} if self._changes else self._learned.within(block.learns)
        return {**adapters, **self._tables}

    def _through(self, block: Block[Op], memory: Memory, states: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        out = room(tuple(states.shape))
        for rows, batch in self._parts(sequences):
            out[rows] = through(block, memory, states[rows], _running(batch))
        return out

    def _back(
        self, memory: Memory, grads: torch.Tensor, insides: Iterable[Inside[Op]]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Gradients of what a block began with, and of what learns in it."""
        before, found, first = room(tuple(grads.shape)), dict[str, torch.Tensor](), 0
        for inside in insides:
            rows = slice(first, first := first + inside.num_rows)
            share = inside.num_rows / len(grads)
            passed, made = inside.back(memory, grads[rows], share)
            if passed is not None:
                before[rows] = passed
            add_grads(found, made, share == self.ranks.count)
            del inside, passed, made  # before the next one is computed
        return before, found

    def _insides(
        self,
        block: Block[Op],
        memory: Memory,
        states: torch.Tensor,
        sequences: Sequences,
        asked: tuple[Sequence[str], bool],
        stays: bool = False,
    ) -> Iterator[Inside[Op]]:
        """The inside of a block, some sequences at a time; `asked` and `stays` as `Inside` has them."""
        for rows, batch in self._parts(sequences):
            yield Inside(block, memory, states[rows], _running(batch), asked, stays)

    def _loss(self, states: torch.Tensor, sequences: Sequences) -> tuple[torch.Tensor, torch.Tensor, Head]:
        """The mean loss, its gradients by the states after the last block, and what those of the head are made of."""
        rows, targets = asked(sequences)
        x, norm = states[rows].requires_grad_(), self._norm.detach().requires_grad_()
        with torch.enable_grad():
            met = rms_norm(x, norm, self._head.get("eps"))
        scale = 1 / float(self.ranks.total(torch.tensor(float(len(targets)))))
        with torch.no_grad():
            found = cross_entropy(met.detach(), targets, self._rows)
            if found.grads is None:
                raise Diverged("the loss has no gradient")
        by_states, by_norm = torch.autograd.grad(met, (x, norm), found.grads * scale)
        whole = torch.zeros_like(states)
        whole[rows] = by_states
        head = Head(met.detach(), targets, found.log_z, by_norm, scale)
        return self.ranks.total(found.losses.sum() * scale), whole, head

    @property
    def _norm(self) -> torch.Tensor:
        return self._weights.tensor(str(self._head.read("norm")))

    @property
    def _rows(self) -> partial[Iterator[tuple[int, torch.Tensor]]]:
        return partial(self._weights.rows, str(self._head.read("weight")), self._tile_rows)

    def _parts(self, sequences: Sequences) -> Iterator[tuple[slice, Batch]]:
        """Rows of the sequences that go through a block together, and what attention knows of them."""
        count, length = sequences.tokens.shape
        starts = torch.from_numpy(sequences.starts).long()
        tasks = None if sequences.tasks is None else torch.from_numpy(sequences.tasks).flatten().long()
        scale = self._how.scale if self._how else 0.0
        for first in range(0, count, self._at_once):
            own = starts[first : first + self._at_once]
            rows = slice(first * length, (first + len(own)) * length)
            given = own if bool(own.any()) else None
            batch = Batch(len(own), torch.arange(length) - own, given, scale, None if tasks is None else tasks[rows])
            yield rows, batch

    def _first_broken(self, states: Sequence[torch.Tensor]) -> str:
        names = ("embed", *(block.name for block in self.blocks))
        for block, after in zip(names[len(names) - len(states) :], states, strict=True):
            if not bool(torch.isfinite(after).all()):
                return f"{block} is the first that gave a value which is no number"
        return "every block gave numbers, so it is the head"


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _running(batch: Batch) -> Run[Op]:
    return lambda op, memory, lent: run(op, memory, replace(batch, lent=lent))


def _blocks(program: Program, form: Form) -> Iterator[Block[Op]]:
    """The blocks of a forward program, from its segments."""
    known = form.weights.by_name
    x = str(program.ops[0].write("out"))
    for segment in program.segments[1:]:
        ops = tuple(op for op in program.ops[segment.first : segment.stop] if op.kind == "forward")
        reads = dict.fromkeys(name.removesuffix(".floats") for op in ops for _, name in op.reads)
        adapters = tuple(name for name in reads if name.endswith(BESIDE))
        weights = tuple(name for name in reads if name in known)
        how = form.training
        changing = tuple(name for name in weights if how is not None and how.changes(known[name]))
        out = str(ops[-1].write("out"))
        yield Block(str(segment.slot), ops, weights, changing or adapters, x, out, lends=True)
        x = out
