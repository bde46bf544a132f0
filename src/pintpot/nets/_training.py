"""A decoder that learns: its prefill program becomes `forward`, `backward` and, where gradients wait for it, `update`.

Blocks are the segments of the stages. What a block begins with is kept on the way forward; on the way back the block is
computed again from it, then its gradients, down to the first block in which something learns. Whatever does not rest in
memory as it is multiplied with is fetched and expanded for its block alone, in both directions. The loss, last of all
forward, belongs to `backward`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from pintpot.budget import Train, Workload
from pintpot.contract.form import Form
from pintpot.contract.resting import rests_on_disk
from pintpot.contract.routing import EXPERTS, HEADS
from pintpot.contract.training import TrainingForm, is_plain, stored_bytes
from pintpot.contract.weights import WeightForm, Weights
from pintpot.errors import NotApplicable, UnsupportedModel, need
from pintpot.model.spec import Part
from pintpot.nets import _moving as moving
from pintpot.nets._decoder_blocks import Pass, decoder_blocks
from pintpot.nets._insides import ACTIVATIONS, Insides
from pintpot.nets._mixing import mixed
from pintpot.nets._saved import made_columns, made_in, passing_values
from pintpot.program.blocks import BlockOps
from pintpot.program.spec import Buffer, Extent, Op, Program, Stage, Work

WITHOUT_GRADIENTS = ("forward", "loss", "forward again", "loss again", "update")
"""The stages of a step that has no gradients: a loss on either side of what learns."""
STATES, GRADS, LABELS, MET = "states.grad", ".grad", "targets", "head.met"
ADAPTERS, GRADIENTS, OPTIMIZER = "adapters", "gradients", "optimizer"


def training_work(part: Part, form: Form, workload: Workload) -> Work:
    """The stages of a step. Raises UnsupportedModel for a network of which some op cannot be learned through."""
    train, how = workload.train, form.training
    if train is None or how is None:
        raise NotApplicable("nothing was asked to be learned")
    return _Making(part, form, train, how).work()


class _Making:
    def __init__(self, part: Part, form: Form, train: Train, how: TrainingForm) -> None:
        self.form, self.train, self.how = form, train, how
        self.program, self.embed, self.blocks, self.head = decoder_blocks(part, form, train.length)
        if how.routing is not None and how.routing.kind == EXPERTS:
            self.blocks = [mixed(block, how.routing, part.family) for block in self.blocks]
        known = {"linear", "attend", "mixture"}
        strange = {op.kind for block in self.blocks for op in block.ops} - known
        need(not strange, f"{part.family} has {', '.join(sorted(strange))}, which nobody here learns through yet",
             UnsupportedModel)  # fmt: skip
        self.weights: Weights = form.weights
        self.buffers: dict[str, Buffer] = {}
        self.hidden = self.program.shape(self.blocks[0].x)[-1]
        self.back = self._back_through()
        self.insides = Insides(self.back, train, form.weights, how, (self._put, self.buffers))

    def _back_through(self) -> list[BlockOps]:
        """The blocks that gradients go back through, in the order of the way forward."""
        if self._learning(self.embed.read_all("weight")):
            return self.blocks
        first = next((at for at, block in enumerate(self.blocks) if self._learning(block.weights)), len(self.blocks))
        return self.blocks[first:]

    def _learning(self, names: Iterable[str]) -> bool:
        return any(self.how.trained(self.weights.by_name[name]) for name in names)

    def work(self) -> Work:
        self._states()
        knobs = (*self.embed.attributes, ("of", "embed"))
        forward = Pass([], [])
        forward.add("embed", [Op("forward", self.embed.reads, self.embed.writes, knobs)])
        for block in self.blocks:
            aside = moving.put_aside(*self.insides.aside(block)) if self.insides.written(block) else ()
            forward.add(block.name, self._arriving(block, moments=False), self._forward(block, again=False), aside)
        return self._without_gradients(forward) if self.how.distance else self._with_gradients(forward)

    def _without_gradients(self, forward: Pass) -> Work:
        """Two losses a step, from either side of what learns, which moves between them."""
        loss, update = Pass([], []), Pass([], [])
        loss.add("head", self._loss())
        moved = [own for weight in self.weights for own in self.how.trained(weight)]
        update.add("update", (Op("perturb", (("weight", own),), (("out", own),)) for own in moved))
        made = (forward, loss, forward, loss, update)
        return Work(tuple(self._stage(name, one) for name, one in zip(WITHOUT_GRADIENTS, made, strict=True)))

    def _with_gradients(self, forward: Pass) -> Work:
        backward = Pass([], [])
        backward.add("head", self._loss())
        for block in reversed(self.back):
            ends = (self._updates(block.weights), self._leaving(block.weights)) if self.how.fused else ()
            again = () if self.insides.lasts(block) else self._forward(block, again=True)
            again = moving.brought_back(*self.insides.aside(block)[1:]) if self.insides.written(block) else again
            backward.add(block.name, self._arriving(block, moments=True), again, self._backward(block), *ends)
        stages = [self._stage("forward", forward), self._stage("backward", backward)]
        update = Pass([], [])
        waiting = () if self.how.fused else (name for block in self.blocks for name in block.weights)
        update.add("update", self._outside(), self._updates(waiting))
        return Work((*stages, self._stage("update", update)) if update.ops else tuple(stages))

    def _stage(self, name: str, made: Pass) -> Stage:
        train, rows = self.train, min(self.how.at_once, self.train.sequences)
        bounds = (
            ("tokens", train.tokens), ("rows", rows * train.length), ("sequences", train.sequences),
            ("context", self.program.bound("context")), ("pages", 1),
        )  # fmt: skip
        used = {name for op in made.ops for _, name in (*op.reads, *op.writes)}
        buffers = tuple(buffer for name, buffer in self.buffers.items() if name in used)
        program = Program(name, bounds, buffers, tuple(made.ops), tuple(made.segments))
        extent = Extent(train.tokens, rows * train.length, train.sequences)
        return Stage(name, "language", (program,), ((extent, train.steps),))

    def _states(self) -> None:
        """What lasts from the way forward to the way back, and weights as they rest."""
        for op in (self.embed, *(op for block in self.blocks for op in block.ops), self.head):
            for _, name in (*op.reads, *op.writes):
                found = self.program.by_name[name]
                if found.life in ("pack", "session") and found.holder != "cache":
                    self.buffers[name] = found
        kept = set() if self.how.distance else {block.x for block in self.back}
        for block in self.blocks:
            form, life = (self.how.kept_in, "session") if block.x in kept else ("f32", "step")
            self._put(block.x, ("tokens", self.hidden), form, ACTIVATIONS, life)
        for name in (self.blocks[-1].out, *(() if self.how.distance else (STATES,))):
            self._put(name, ("tokens", self.hidden), "f32", ACTIVATIONS, "session")
        self._put(LABELS, ("tokens",), "int32", "buffers", "session")
        for weight in self.weights:
            for name, shape in self.how.trained(weight).items():
                self._learns(weight, name, shape)

    def _learns(self, weight: WeightForm, name: str, shape: tuple[int, ...]) -> None:
        """The buffers of something that learns: of what rests on disk there are none, it is lent."""
        if name != weight.name:
            self._put(name, shape, "f32", ADAPTERS, "session")
        if self.how.distance:
            return
        if not rests_on_disk(weight, self.how):
            for moment, (own, form) in self.how.moments_of(name, self.how.own_shape(weight, shape)).items():
                self._put(moment, own, form, OPTIMIZER, "session")
        # Of a vocabulary gradients exist for some rows at a time.
        tile = (min(shape[0], self._chunk()), *shape[1:]) if name == weight.name and "." not in name else shape
        waits = not self.how.fused if "." in name else len(shape) == 1
        came = self.how.gradients_in(self.train.sequences) if "." in name and name == weight.name else "f32"
        self._put(name + GRADS, tile, came, GRADIENTS, "session" if waits else "step")

    def _put(self, name: str, shape: tuple[int | str, ...], form: str, holder: str, life: str) -> str:
        # Only what lasts is counted for its holder; what lives inside a replay shares one arena.
        held = holder if life == "session" else "buffers"
        self.buffers[name] = Buffer(name, shape, form, held, life)  # type: ignore[arg-type]
        return name

    def _floats(self, name: str) -> str:
        """The buffer in which a weight is multiplied with."""
        weight = self.weights.by_name[name]
        return name if is_plain(weight, self.how) else f"{name}.floats"

    def _arriving(self, block: BlockOps, moments: bool) -> Iterator[Op]:
        """What of a block's weights is read and expanded before it is computed."""
        forms = [self.weights.by_name[name] for name in block.weights]
        yield from moving.moved("fetch", sum(moving.away_bytes(weight, self.how, moments) for weight in forms), "read")
        yield from moving.moved("exchange", sum(stored_bytes(weight) for weight in forms if self.how.divides(weight)))
        for weight in forms:
            if self._floats(weight.name) != weight.name:
                out = self._put(f"{weight.name}.floats", weight.shape, self.how.computed_in, "buffers", "step")
                yield Op("expand", (("weight", weight.name),), (("out", out),), (("packed", weight.packed),))

    def _changes(self, names: Iterable[str]) -> bool:
        return any(self.how.changes(self.weights.by_name[name]) for name in names)

    def _wired(self, op: Op) -> tuple[tuple[str, str], ...]:
        """What an op reads: weights as floats, adapters beside them, no cache."""
        reads = []
        for role, name in op.reads:
            if role in ("k", "v"):
                continue
            reads.append((role, self._floats(name) if role == "weight" else name))
            if role == "weight":
                found = self.how.trained(self.weights.by_name[name]) if self.how.rank else {}
                reads += [("adapter", own) for own in found]
        return tuple(reads)

    def _knobs(self, op: Op) -> tuple[tuple[str, object], ...]:
        adapted = any(self.how.adapts(self.weights.by_name[name]) for name in op.read_all("weight"))
        own = (("of", op.kind), ("computed_in", self.how.computed_in), ("rank", self.how.rank if adapted else 0))
        routing = self.how.routing
        several = (("adapters", routing.count),) if adapted and routing is not None and routing.kind == HEADS else ()
        return (*op.attributes, *own, *several, ("trained", self._changes(op.read_all("weight"))))

    def _forward(self, block: BlockOps, again: bool) -> Iterator[Op]:
        """A block's ops: as they pass, or with what their way back needs, which follows, or for which it stays."""
        for op in block.ops:
            out = str(op.write("out"))
            writes = [("out", out)]
            if out != block.out:
                self._rows(out, self.program.shape(out)[-1], made_in(op, self.how))
            if columns := made_columns(op, self.weights):
                writes += [("made", self._rows(f"{block.name}.{out}.made", columns, self.how.computed_in))]
            if again or self.insides.lasts(block):
                writes += self.insides.saved(op, block)
            yield Op("forward", self._wired(op), tuple(writes), self._knobs(op))

    def _passing(self, op: Op, block: BlockOps) -> str:
        values = passing_values(op, block, self.weights, self.how, not self.insides.lasts(block))
        return self._rows(f"{block.name}.{op.write('out')}.passing", values, "f32")

    def _backward(self, block: BlockOps) -> Iterator[Op]:
        """Nothing of the way forward is there but what was saved."""
        makers = {one.write("out"): one for one in block.ops}
        for op in reversed(block.ops):
            out, x = str(op.write("out")), str(op.read("x") or op.read("qkv"))
            wired = [(role, name) for role, name in self._wired(op) if name not in makers]
            reads = [
                *wired,
                *self.insides.found(op, block),
                ("grad", STATES if out == block.out else self._grad(out, op)),
            ]
            writes = [("grad", STATES if x == block.x else self._grad(x, makers[x]))]
            writes += [("passing", self._passing(op, block))]
            for name in op.read_all("weight"):
                writes += [("grad", own + GRADS) for own in self.how.trained(self.weights.by_name[name])]
            yield Op("backward", tuple(reads), tuple(writes), self._knobs(op))

    def _grad(self, name: str, maker: Op) -> str:
        return self._rows(name + GRADS, self.program.shape(name)[-1], made_in(maker, self.how))

    def _rows(self, name: str, columns: int, form: str) -> str:
        return self._put(name, ("rows", columns), form, "buffers", "step")

    def _chunk(self) -> int:
        """Rows of the head at a time: as many as keep the logits of a whole step small, and whole records to update."""
        head = self.weights.by_name[str(self.head.read("weight"))]
        return moving.rows_at_once(head, self.train.tokens, learns=self._changes([head.name]) and not self.how.distance)

    def _loss(self) -> Iterator[Op]:
        weight, chunk = self.weights.by_name[str(self.head.read("weight"))], self._chunk()
        yield from moving.moved("fetch", moving.away_bytes(weight, self.how, False), "read")
        logits = self._put("logits", ("tokens", chunk), "f32", "buffers", "step")
        again = self._put("logits.made", ("tokens", chunk), "f32", "buffers", "step")
        states = self._put("head.states", ("tokens", 3 * self.hidden), "f32", "buffers", "step")
        rows = self._put("head.rows", (chunk, weight.shape[1]), "f32", "buffers", "step")
        reads = [("x", self.blocks[-1].out), ("weight", weight.name), ("norm", str(self.head.read("norm")))]
        writes = [("logits", logits), ("made", again), ("states", states), ("rows", rows)]
        backward = not self.how.distance
        writes += [("grad", STATES)] if backward else []
        if backward and self._changes([weight.name]):
            writes.append(("met", self._put(MET, ("tokens", self.hidden), "f32", ACTIVATIONS, "session")))
        knobs = (
            ("chunk", chunk), ("computed_in", self.how.computed_in), ("eps", self.head.get("eps")),
            *((("backward", False),) if not backward else ()),
        )  # fmt: skip
        yield Op("cross_entropy", (*reads, ("targets", LABELS)), tuple(writes), knobs)

    def _updates(self, names: Iterable[str]) -> Iterator[Op]:
        for name in names:
            weight = self.weights.by_name[name]
            trained, away = self.how.trained(weight), rests_on_disk(weight, self.how)
            if self.how.ranks > 1:
                yield from moving.moved("exchange", 4 * sum(prod(shape) for shape in trained.values()))
            for own, shape in trained.items():
                found = {} if away else self.how.moments_of(own, self.how.own_shape(weight, shape))
                moments = tuple((moment.removeprefix(own).lstrip("."), moment) for moment in found)
                reads = (("weight", own), ("grad", own + GRADS), *moments)
                yield Op("update", reads, (("out", own),), (("states", self.how.states),))

    def _leaving(self, names: Iterable[str]) -> Iterator[Op]:
        forms = [self.weights.by_name[name] for name in names]
        away = sum(moving.away_bytes(weight, self.how, True) for weight in forms if rests_on_disk(weight, self.how))
        yield from moving.moved("store", away, "write")

    def _outside(self) -> Iterator[Op]:
        """Weights of no block learn last: the vocabulary's, some rows at a time, and the last norm."""
        inside = {name for block in self.blocks for name in block.weights}
        for weight in self.weights:
            if weight.name in inside or not self.how.changes(weight):
                continue
            yield from moving.moved("fetch", moving.away_bytes(weight, self.how, True), "read")
            if weight.name == self.head.read("weight"):
                made = self._put("shares", ("tokens", self._chunk()), "f32", "buffers", "step")
                reads = (("x", MET), ("weight", weight.name))
                rows = self._put("head.rows", (self._chunk(), weight.shape[1]), "f32", "buffers", "step")
                writes = (("shares", made), ("made", rows), ("grad", weight.name + GRADS))
                yield Op("head_grad", reads, writes, (("computed_in", self.how.computed_in),))
            yield from self._updates([weight.name])
            yield from self._leaving([weight.name])
