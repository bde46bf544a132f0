"""A recorded module that learns to classify: its calls become `forward`, `backward` and what is asked between.

The recording is cut into blocks wherever a single piece of memory is all that goes on. What a block begins with is
kept on the way forward, and the block is computed again on the way back; the last one is not, for its way back follows
at once. Cuts are made where what is kept and the inside of the largest block take least together; where all is `kept`
there is one block. `at_once` pictures go through a block together, the shapes for which it was recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from pintpot.budget import Train, Workload
from pintpot.contract.form import Form
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, UnsupportedModel, need
from pintpot.model.spec import Part
from pintpot.nets._decoder_blocks import Pass
from pintpot.nets._insides import ACTIVATIONS
from pintpot.nets._module_blocks import apart, called, cuts, ends, keeps
from pintpot.nets._training import GRADIENTS, GRADS, LABELS, OPTIMIZER
from pintpot.nets.adapted import buffer_name, plain_calls, recordings
from pintpot.program.blocks import BlockOps
from pintpot.program.filtering import filtered, marked
from pintpot.program.spec import Buffer, Extent, Op, Program, Stage, Work

TASK = "classify"


def classifies(part: Part) -> bool:
    """Whether a part is a recorded module that tells pictures apart."""
    return (part.config.get("kind") or {}).get("task") == TASK


def pictures_at_once(part: Part) -> dict[int, Mapping[str, Any]]:
    """The recordings of a classifier by how many pictures they take."""
    stages = part.config["stages"]
    good = classifies(part) and len(stages) == 1
    need(good, "of recorded modules those learn that classify pictures, in one stage", UnsupportedModel)
    return {int(one["inputs"][0]["sizes"][0]): one for one in recordings(stages[0])}


def module_work(part: Part, form: Form, workload: Workload) -> Work:
    """The stages of a step, and `ask`. Raises NotApplicable for numbers of pictures that nothing was recorded for."""
    train, how = workload.train, form.training
    if train is None or how is None:
        raise NotApplicable("nothing was asked to be learned")
    need(not how.distance, "steps from losses alone are for models of words", NotApplicable)
    found = pictures_at_once(part)
    known = ", ".join(map(str, sorted(found)))
    need(how.at_once in found, f"recorded for {known} pictures at once, not for {how.at_once}", NotApplicable)
    return _Making(part, form, train, how, found[how.at_once]).work()


class _Making:
    def __init__(self, part: Part, form: Form, train: Train, how: TrainingForm, recording: Mapping[str, Any]) -> None:
        self.form, self.train, self.how, self.part = form, train, how, part
        self.parts = -(-train.sequences // how.at_once)
        self.weights = form.weights.by_name
        ops, buffers = plain_calls(recording, part.config, form)
        known = {buffer.name: buffer for buffer in buffers}
        stage = str(recording["name"])
        x, answers = (buffer_name(stage, view) for view in ends(recording))
        self.ops, names, more = apart(ops, known)
        self.answers = names.get(answers, answers)
        known |= more
        self.sizes = {name: prod(map(int, one.shape)) for name, one in known.items()}
        self.buffers = {name: one for name, one in known.items() if one.holder == "tables"}
        self.tables = frozenset(self.buffers)
        self.x = x
        self.ops = marked(self.ops, how.patch, self.sizes, keeps) if how.patch else self.ops
        self.blocks = self._cut()
        first = next((at for at, one in enumerate(self.blocks) if self._trained(one.weights)), len(self.blocks) - 1)
        self.back = self.blocks[first:]

    def _cut(self) -> list[BlockOps]:
        """The blocks that take least: what they begin with of all pictures, and the inside of the largest."""
        places = list(cuts(self.ops, self.x, set(self.weights) | self.tables))
        inside = [sum(self.sizes[name] for name in self._kept(op)) for op in self.ops]
        total, least, best = sum(inside), float("inf"), [len(self.ops)]
        limit = total
        while not self.how.kept and limit > 0:
            stops, at, largest, boundaries = list[int](), 0, 0, self.sizes[self.x]
            for place, name in places:
                if sum(inside[at:place]) >= limit:
                    largest, at = max(largest, sum(inside[at:place])), place
                    boundaries += self.sizes[name]
                    stops.append(place)
            largest = max(largest, sum(inside[at:]))
            if self.parts * boundaries + largest < least:
                least, best = self.parts * boundaries + largest, [*stops, len(self.ops)]
            limit //= 2
        return self._blocks(best)

    def _blocks(self, stops: Sequence[int]) -> list[BlockOps]:
        found: list[BlockOps] = []
        first, x = 0, self.x
        for stop in dict.fromkeys(stops):
            ops = tuple(self.ops[first:stop])
            weights = tuple(dict.fromkeys(name for op in ops for _, name in op.reads if name in self.weights))
            later = {name for op in self.ops[stop:] for _, name in op.reads} | {self.answers}
            out = next(name for op in reversed(ops) for _, name in op.writes if name in later)
            taken = {one.name for one in found}
            found.append(BlockOps(called(weights, first, taken), ops, weights, x, out))
            first, x = stop, out
        return found

    def _instead(self, op: Op) -> str:
        """Where convolutions are filtered, what a call keeps in place of what it read or made; "" for nothing."""
        out = op.writes[0][1] if op.writes else ""
        found = filtered(op, self.how.patch) if op.get("sums") else None
        if found is not None:
            self.sizes[f"{out}.sums"] = found.kept
            return f"{out}.sums"
        if op.get("signs"):
            self.sizes[f"{out}.signs"] = -(-self.sizes[out] // 4)
            return f"{out}.signs"
        return ""

    def _kept(self, op: Op) -> Iterator[str]:
        """What the way back needs of a call, beside weights."""
        instead = self._instead(op)
        if instead:
            yield instead
            return
        for name in keeps(op):
            if name not in self.weights and name not in self.tables:
                yield name

    def _trained(self, names: Collection[str]) -> list[str]:
        return [own for name in names for own in self.how.trained(self.weights[name])]

    def work(self) -> Work:
        self._states()
        forward, backward, update, ask = Pass([], []), Pass([], []), Pass([], []), Pass([], [])
        for block in self.blocks:
            ask.add(block.name, (self._call(op) for op in block.ops))
        ask.add("head", [self._loss(backward=False)])
        for block in self.blocks[:-1]:
            forward.add(block.name, (self._call(op) for op in block.ops))
        for block in reversed(self.back):
            loss = [self._loss(backward=True)] if block is self.blocks[-1] else []
            ends = self._updates(block.weights) if self.how.fused else ()
            again = (self._again(op) for op in block.ops)
            backward.add(block.name, again, loss, self._backward(block), ends)
        if not self.how.fused:
            update.add("update", self._updates(tuple(self.weights)))
        made = (("forward", forward), ("backward", backward), ("update", update))
        stages = [self._stage(name, one, self.train.steps) for name, one in made if one.ops]
        asked = self.train.evaluations * max(1, -(-self.train.held_out // self.train.sequences))
        return Work((*stages, self._stage("ask", ask, asked)))

    def _stage(self, name: str, made: Pass, times: int) -> Stage:
        count, rows = self.train.sequences, self.how.at_once
        bounds = (("tokens", count), ("rows", rows), ("sequences", count), ("context", 2), ("pages", 1))
        used = {one for op in made.ops for _, one in (*op.reads, *op.writes)}
        buffers = tuple(buffer for one, buffer in self.buffers.items() if one in used)
        program = Program(name, bounds, buffers, tuple(made.ops), tuple(made.segments))
        return Stage(name, self.part.name, (program,), ((Extent(count, rows, count), times),))

    def _states(self) -> None:
        """Memory by how long it is needed: what blocks begin with until the way back, of all pictures of a step."""
        for weight in self.form.weights:
            self._put(weight.name, weight.shape, weight.format, "weights", "pack")
            for name, shape in self.how.trained(weight).items():
                self._learns(name, shape)
        for op in self.ops:
            for _, name in op.writes:
                self._put(name, (self.sizes[name],), "f32", "buffers", "step")
        # All of a block that is not computed again is there when its way back begins.
        for op in self.blocks[-1].ops if len(self.blocks) == 1 else ():
            for name in self._kept(op):
                self._put(name, (self.sizes[name],), "f32", ACTIVATIONS, "session")
        begins = {block.x for block in self.back} | {self.x}
        for block in self.blocks:
            shape = (self.parts * self.sizes[block.x],)
            self._put(block.x, shape, "f32", ACTIVATIONS, "session" if block.x in begins else "step")
        self._put(LABELS, (self.train.sequences,), "int32", "buffers", "session")

    def _learns(self, name: str, shape: tuple[int, ...]) -> None:
        for moment, (own, kind) in self.how.moments_of(name, shape).items():
            self._put(moment, own, kind, OPTIMIZER, "session")
        self._put(name + GRADS, shape, "f32", GRADIENTS, "step" if self.how.fused else "session")

    def _put(self, name: str, shape: tuple[int, ...], kind: str, holder: str, life: str) -> str:
        held = holder if life != "step" else "buffers"
        self.buffers[name] = Buffer(name, shape, kind, held, life)  # type: ignore[arg-type]
        return name

    def _call(self, op: Op) -> Op:
        return Op("forward", op.reads, op.writes, (*op.attributes, ("of", "call")))

    def _again(self, op: Op) -> Op:
        """A call whose way back follows."""
        found = filtered(op, self.how.patch) if op.get("filtered") else None
        more = (("passed", found.passed), ("calls", found.calls)) if found is not None else ()
        kept = [("kept", self._put_inside(name)) for name in [self._instead(op)] if name]
        return Op("forward", op.reads, (*op.writes, *kept), (*op.attributes, ("of", "call"), *more))

    def _put_inside(self, name: str) -> str:
        return name if name in self.buffers else self._put(name, (self.sizes[name],), "f32", "buffers", "step")

    def _backward(self, block: BlockOps) -> Iterator[Op]:
        """Each call the other way round: of what it read, and of its weights that learn."""
        begins = block is not self.back[0]
        for op in reversed(block.ops):
            given = [("grad", self._grad(name)) for _, name in op.writes[:1]]
            kept = [("kept", name) for name in dict.fromkeys(self._kept(op))]
            own = [name for _, name in op.reads if name in self.weights]
            rest = (name for _, name in op.reads if name not in self.weights and name not in self.tables)
            through = [name for name in dict.fromkeys(rest) if begins or name != block.x]
            learns = self._trained(own)
            writes = [("grad", self._grad(name)) for name in through] + [("grad", name + GRADS) for name in learns]
            found = filtered(op, self.how.patch) if op.get("filtered") else None
            left = (("left", found.share),) if found is not None else ()
            knobs = (*op.attributes, ("of", "call"), ("trained", bool(learns)), ("through", bool(through)), *left)
            weights = [("weight", name) for name in own]
            if writes:
                yield Op("backward", (*given, *kept, *weights), tuple(writes), knobs)

    def _grad(self, name: str) -> str:
        words = self.parts * self.sizes[name] if any(name == one.x for one in self.blocks) else self.sizes[name]
        return self._put(name + GRADS, (words,), "f32", "buffers", "step")

    def _loss(self, backward: bool) -> Op:
        writes = (
            (("grad", self._grad(self.answers)),)
            if backward
            else (("out", self._put("losses", (self.how.at_once,), "f32", "buffers", "step")),)
        )
        return Op("class_loss", (("x", self.answers), ("targets", LABELS)), writes)

    def _updates(self, names: Sequence[str]) -> Iterator[Op]:
        for name in names:
            for own, shape in self.how.trained(self.weights[name]).items():
                found = self.how.moments_of(own, shape)
                moments = tuple((moment.removeprefix(own).lstrip("."), moment) for moment in found)
                reads = (("weight", own), ("grad", own + GRADS), *moments)
                yield Op("update", reads, (("out", own),), (("states", self.how.states),))
