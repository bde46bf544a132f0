"""A decoder that learns: its prefill program becomes `forward`, `backward` and, where gradients wait for it, `update`.

Blocks are the segments of the stages. What a block begins with is kept on the way forward; on the way back the block is
computed again from it, then its gradients, down to the first block in which something learns. Whatever does not rest in
memory as it is multiplied with is fetched and expanded for its block alone, in both directions. The loss, last of all
forward, belongs to `backward`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pintpot.budget import Train, Workload
from pintpot.contract.form import CacheForm, Form
from pintpot.contract.routing import EXPERTS, HEADS
from pintpot.contract.training import TrainingForm, block_of, is_plain, stored_bytes
from pintpot.contract.weights import STRIP_ROWS, WeightForm, Weights
from pintpot.errors import NotApplicable, UnsupportedModel, need
from pintpot.model.spec import Part
from pintpot.nets import family
from pintpot.nets._mixing import mixed
from pintpot.program.blocks import BlockOps, cut_blocks
from pintpot.program.spec import Buffer, Extent, Op, Program, Segment, Stage, Work

LOSS_BYTES = 8 << 20
"""Logits of a chunk of the vocabulary, and as much again that is made of them."""
LEAST_CHUNK = 256
WITHOUT_GRADIENTS = ("forward", "loss", "forward again", "loss again", "update")
"""The stages of a step that has no gradients: a loss on either side of what learns."""
MIXED_VALUES = 6
"""Values of its inside that autograd keeps of a token with an expert: both sides, the gate's slope, what they give."""
STATES, GRADS, LABELS = "states.grad", ".grad", "targets"
ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS = "adapters", "gradients", "optimizer", "activations"


def training_work(part: Part, form: Form, workload: Workload) -> Work:
    """The stages of a step. Raises UnsupportedModel for a network of which some op cannot be learned through."""
    train, how = workload.train, form.training
    if train is None or how is None:
        raise NotApplicable("nothing was asked to be learned")
    return _Making(part, form, train, how).work()


def decoder_blocks(part: Part, form: Form, length: int) -> tuple[Program, Op, list[BlockOps], Op]:
    """A family's prefill over one text: the program, its embedding, its blocks, and its head."""
    page = CacheForm().page_tokens
    context = -(-length // page) * page
    plain = replace(form, cache=CacheForm("f32"), chunk=context)
    program = family(part.family).work(part.config, plain, Workload(context=context)).stage("prefill").programs[0]
    stop = next(index for index, op in enumerate(program.ops) if op.kind == "select")
    head = next(op for op in program.ops[stop:] if op.kind == "linear")
    need(program.ops[0].kind == "embed", f"{part.family} does not begin with an embedding", UnsupportedModel)
    owner = {weight.name: block_of(weight.name) for weight in form.weights}
    return program, program.ops[0], cut_blocks(program, program.ops[1:stop], owner), head


@dataclass(frozen=True)
class _Pass:
    """The ops of one stage so far, cut where blocks end."""

    ops: list[Op]
    segments: list[Segment]

    def add(self, name: str, *ops: Iterable[Op]) -> None:
        first = len(self.ops)
        self.ops.extend(op for some in ops for op in some)
        self.segments.append(Segment(first, len(self.ops), name))


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
        forward = _Pass([], [])
        forward.add("embed", [Op("forward", self.embed.reads, self.embed.writes, knobs)])
        for block in self.blocks:
            forward.add(block.name, self._arriving(block), self._forward(block, saved=False))
        return self._without_gradients(forward) if self.how.distance else self._with_gradients(forward)

    def _without_gradients(self, forward: _Pass) -> Work:
        """Two losses a step, from either side of what learns, which moves between them."""
        loss, update = _Pass([], []), _Pass([], [])
        loss.add("head", self._loss())
        moved = [own for weight in self.weights for own in self.how.trained(weight)]
        update.add("update", (Op("perturb", (("weight", own),), (("out", own),)) for own in moved))
        made = (forward, loss, forward, loss, update)
        return Work(tuple(self._stage(name, one) for name, one in zip(WITHOUT_GRADIENTS, made, strict=True)))

    def _with_gradients(self, forward: _Pass) -> Work:
        backward = _Pass([], [])
        backward.add("head", self._loss())
        for block in reversed(self.back):
            ends = (self._updates(block.weights), self._leaving(block.weights)) if self.how.fused else ()
            backward.add(
                block.name, self._arriving(block), self._forward(block, saved=True), self._backward(block), *ends
            )
        stages = [self._stage("forward", forward), self._stage("backward", backward)]
        last = self._outside() if self.how.fused else [weight.name for weight in self.weights]
        update = _Pass([], [])
        update.add("update", self._updates(last), self._leaving(last))
        return Work((*stages, self._stage("update", update)) if update.ops else tuple(stages))

    def _stage(self, name: str, made: _Pass) -> Stage:
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
            self._put(block.x, ("tokens", self.hidden), "f32", ACTIVATIONS, "session" if block.x in kept else "step")
        for name in (self.blocks[-1].out, *(() if self.how.distance else (STATES,))):
            self._put(name, ("tokens", self.hidden), "f32", ACTIVATIONS, "session")
        self._put(LABELS, ("tokens",), "int32", "buffers", "session")
        for weight in self.weights:
            for name, shape in self.how.trained(weight).items():
                self._learns(weight, name, shape)

    def _learns(self, weight: WeightForm, name: str, shape: tuple[int, ...]) -> None:
        """The buffers of something that learns: on disk there is nothing of it but while its block is computed."""
        life = "session" if weight.ram_rows else "step"
        if name != weight.name:
            self._put(name, shape, "f32", ADAPTERS, "session")
            life = "session"
        if self.how.distance:
            return
        for moment, (own, form) in self.how.moments_of(name, shape).items():
            self._put(moment, own, form, OPTIMIZER, life)
        waits = not self.how.fused or block_of(name) == name
        self._put(name + GRADS, shape, "f32", GRADIENTS, "session" if waits else "step")

    def _put(self, name: str, shape: tuple[int | str, ...], form: str, holder: str, life: str) -> str:
        # Only what lasts is counted for its holder; what lives inside a replay shares one arena.
        held = holder if life == "session" else "buffers"
        self.buffers[name] = Buffer(name, shape, form, held, life)  # type: ignore[arg-type]
        return name

    def _floats(self, name: str) -> str:
        """The buffer in which a weight is multiplied with."""
        weight = self.weights.by_name[name]
        return name if is_plain(weight, self.how.computed_in) else f"{name}.floats"

    def _arriving(self, block: BlockOps) -> Iterator[Op]:
        """What of a block's weights is read and expanded before it is computed."""
        forms = [self.weights.by_name[name] for name in block.weights]
        away = sum(self._away(weight) for weight in forms)
        if away:
            yield Op("fetch", (), (), (("bytes", away),), lane="read")
        for weight in forms:
            if self._floats(weight.name) != weight.name:
                self._put(f"{weight.name}.floats", weight.shape, self.how.computed_in, "buffers", "step")
                yield Op("expand", (("weight", weight.name),), (("out", f"{weight.name}.floats"),))

    def _away(self, weight: WeightForm) -> int:
        """Bytes on disk of a weight and of the moments beside it."""
        if weight.ram_rows or not weight.is_matrix:
            return 0
        moments = self.how.moment_bytes(weight.shape) if self.how.changes(weight) else 0
        return stored_bytes(weight) + moments

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

    def _forward(self, block: BlockOps, saved: bool) -> Iterator[Op]:
        for op in block.ops:
            out = str(op.write("out"))
            writes = [("out", out)]
            if out != block.out:
                width = self.program.shape(out)[-1]
                self._put(out, ("rows", width), "f32", "buffers", "step")
            if saved:
                name = f"{block.name}.{op.kind}.{out}.saved"
                writes.append(("saved", self._put(name, ("rows", self._saved(op)), "f32", "buffers", "step")))
            yield Op("forward", self._wired(op), tuple(writes), self._knobs(op))

    def _saved(self, op: Op) -> int:
        """Values for each row that autograd keeps of an op beside its input and output."""
        half = self.how.computed_in == "bf16"
        if op.kind == "attend":
            width = op.get("head_dim") * (op.get("heads") + 2 * op.get("kv_heads"))
            computed = 4 * op.get("heads") * op.get("head_dim")
            return 2 * int(width) + int(computed) // (1 + half)
        outputs, inputs = self.weights.by_name[op.read_all("weight")[0]].shape
        if op.kind == "mixture":
            each = MIXED_VALUES * op.get("chosen") + 4 + half
            return int(inputs * (2 + half) + outputs * each)
        normed = {"rmsnorm": 2, "swiglu": 2, "geglu": 3}.get(str(op.get("prologue", "none")), 0)
        return int(inputs * (normed + (1 if half else 0)))

    def _backward(self, block: BlockOps) -> Iterator[Op]:
        for op in reversed(block.ops):
            out, x = str(op.write("out")), str(op.read("x") or op.read("qkv"))
            saved = f"{block.name}.{op.kind}.{out}.saved"
            reads = [*self._wired(op), ("saved", saved), ("grad", STATES if out == block.out else self._grad(out))]
            writes = [("grad", STATES if x == block.x else self._grad(x))]
            for name in op.read_all("weight"):
                writes += [("grad", own + GRADS) for own in self.how.trained(self.weights.by_name[name])]
            yield Op("backward", tuple(reads), tuple(writes), self._knobs(op))

    def _grad(self, name: str) -> str:
        width = self.program.shape(name)[-1]
        return self._put(name + GRADS, ("rows", width), "f32", "buffers", "step")

    def _loss(self) -> Iterator[Op]:
        weight = self.weights.by_name[str(self.head.read("weight"))]
        if self._away(weight):
            yield Op("fetch", (), (), (("bytes", self._away(weight)),), lane="read")
        # As many rows at a time as keep the logits of a whole step small.
        chunk = max(LEAST_CHUNK, LOSS_BYTES // (4 * self.train.tokens)) // STRIP_ROWS * STRIP_ROWS
        chunk = min(weight.shape[0], chunk)
        logits = self._put("logits", ("tokens", chunk), "f32", "buffers", "step")
        again = self._put("logits.made", ("tokens", chunk), "f32", "buffers", "step")
        states = self._put("head.states", ("tokens", 3 * self.hidden), "f32", "buffers", "step")
        rows = self._put("head.rows", (chunk, weight.shape[1]), "f32", "buffers", "step")
        reads = [("x", self.blocks[-1].out), ("weight", weight.name), ("norm", str(self.head.read("norm")))]
        writes = [("logits", logits), ("made", again), ("states", states), ("rows", rows)]
        backward = not self.how.distance
        writes += [("grad", STATES)] if backward else []
        knobs = (
            ("chunk", chunk), ("computed_in", self.how.computed_in), ("trained", self.how.changes(weight)),
            ("eps", self.head.get("eps")), *((("backward", False),) if not backward else ()),
        )  # fmt: skip
        yield Op("cross_entropy", (*reads, ("targets", LABELS)), tuple(writes), knobs)

    def _updates(self, names: Sequence[str] | Iterator[str]) -> Iterator[Op]:
        for name in names:
            for own, shape in self.how.trained(self.weights.by_name[name]).items():
                found = self.how.moments_of(own, shape)
                moments = tuple((moment.removeprefix(own).lstrip("."), moment) for moment in found)
                yield Op("update", (("weight", own), ("grad", own + GRADS), *moments), (("out", own),))

    def _leaving(self, names: Sequence[str]) -> Iterator[Op]:
        forms = (self.weights.by_name[name] for name in names)
        away = sum(self._away(weight) for weight in forms if self.how.changes(weight))
        if away:
            yield Op("store", (), (), (("bytes", away),), lane="write")

    def _outside(self) -> list[str]:
        """Weights of no block: the vocabulary's and the last norm."""
        inside = {name for block in self.blocks for name in block.weights}
        return [weight.name for weight in self.weights if weight.name not in inside]
