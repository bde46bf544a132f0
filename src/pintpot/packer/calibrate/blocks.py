"""One block after the other: what meets its weights is gathered, they are rounded, and what they then give goes on.

Inside a block it is one linear op after the other: every op's rows come from weights that are rounded already, so the
network is walked once. A block whose floats a step transforms is walked once more before, in its floats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.statistics import MOMENTS, InputStatistics
from pintpot.formats.tiles import unpack
from pintpot.kernels.reference import Memory
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import BlockOps, Forward, meeting, product
from pintpot.packer.calibrate.gather import Sums, crossed_moment, second_moment, statistics
from pintpot.packer.calibrate.modalities import Counting
from pintpot.packer.calibrate.parallel import ordered
from pintpot.packer.calibrate.rounded import Vocabulary, kept, transformed
from pintpot.program.spec import Op

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Columns = NDArray[np.int64]
Told = Callable[[float], None]
ROWS = "rows"
FLOATS = ".floats"
"""What the buffers of the unrounded network have behind their names, where it is walked too."""


class Walk:
    """A network with texts in it, whose states before the next block are in `states`; `counting` says how often each
    of their rows counts in what is gathered."""

    def __init__(self, forward: Forward, chosen: Chosen, states: Activations, counting: Counting, threads: int) -> None:
        self._forward, self._chosen, self._threads = forward, chosen, threads
        self._forms = {weight.name: weight for weight in chosen.form.weights}
        self._live, self._counting, self._prompts = states, counting, counting.prompts
        self._lengths = counting.prompts.lengths

    def block(self, block: BlockOps, told: Told = lambda share: None) -> dict[str, NDArray[np.generic]]:
        """Take the states through a block. Strips and vectors that calibration made of its weights, by name."""
        values = self._forward.values(block)
        if any(self._chosen.changes(name) for name in block.weights):
            wants = any(step.wants for step in self._chosen.transforms)
            values = transformed(
                self._chosen, block.name, block.ops, dict(values), self._seen(block, values) if wants else {}
            )
        made: dict[str, NDArray[np.generic]] = {}
        floats = dict(values)
        linears = [index for index, op in enumerate(block.ops) if op.kind == "linear"]
        before = None
        for number, index in enumerate(linears):
            op = block.ops[index]
            sums = self._through(block, values, before, index)
            if self._chosen.two_streams:
                self._through(block, floats, before, index, FLOATS)
            inputs = self._gathered(op, sums)
            apart = self._chosen.columns_apart(op.read_all("weight"), inputs)
            if apart is not None:
                inputs = inputs.without(apart)
            for name in op.read_all("weight"):
                form = self._forms[name]
                strips = kept(self._forward, self._chosen, form, values[name], inputs, self._threads, apart)
                if strips is not None:
                    values[name] = unpack(strips, form.format, form.shape[0], form.shape[1])
                    if self._chosen.prepares(form):
                        made[name] = strips
            before = index
            told((number + 1) / len(linears))
        made.update(self._experts(block, values))
        self._through(block, values, before, None)
        if self._chosen.two_streams:
            self._through(block, floats, before, None, FLOATS)
        vectors = {n: v for n, v in values.items() if v.ndim == 1 and self._chosen.changes(n)}
        return {**made, **vectors}

    def _experts(self, block: BlockOps, values: dict[str, Floats]) -> dict[str, NDArray[np.generic]]:
        """Matrices of experts, each value to nearest: they meet too few rows each to learn from."""
        made: dict[str, NDArray[np.generic]] = {}
        for name in block.weights:
            form = self._forms[name]
            if form.experts == 1:
                continue
            strips = kept(self._forward, self._chosen, form, values[name], None, self._threads)
            if strips is not None:
                values[name] = unpack(strips, form.format, form.shape[0], form.shape[1])
                if self._chosen.prepares(form):
                    made[name] = strips
        return made

    def head(self, vocabulary: Vocabulary) -> Bytes | None:
        """Strips of the output head, whose rows meet the states after the last block; None: packing rounds it."""
        form, norm = self._forms[str(self._forward.head.read("weight"))], vocabulary.norm()
        if not self._chosen.prepares(form):
            return None

        out = self._forward.blocks[-1].out

        def rows(text: int) -> Sums:
            for stream in self.streams[1:]:
                self._live.put(ROWS + stream, text, self._forward.final(self._live.get(out + stream, text), norm))
            found = self._forward.final(self._live.get(out, text), norm)
            self._live.put(ROWS, text, found)
            return Sums.of(found, self._counting.rows(self._forward.head, text))

        inputs = self._gathered(self._forward.head, list(ordered(rows, range(len(self._lengths)), self._threads)))
        strips = vocabulary.strips(self._forward.head, inputs, self._threads)
        for stream in self.streams:
            self._forget(ROWS + stream)
        return strips

    @property
    def streams(self) -> tuple[str, ...]:
        """What the buffers of each network that is walked have behind their names."""
        return ("", FLOATS) if self._chosen.two_streams else ("",)

    def _seen(self, block: BlockOps, values: dict[str, Floats]) -> dict[str, InputStatistics]:
        """What meets each weight of a block in its floats; the states stay where they are."""
        linears = [op for op in block.ops if op.kind == "linear"]
        moments = any(MOMENTS in step.wants for step in self._chosen.transforms)

        def one(text: int) -> list[Sums]:
            sums: list[Sums] = []

            def met(op: Op, rows: Floats) -> None:
                if moments:
                    self._live.put(f"{ROWS}.{len(sums)}", text, rows)
                sums.append(Sums.of(rows, self._counting.rows(op, text)))

            states = self._live.get(block.x, text)
            into = {**values, **self._prompts.memory(text)}
            self._forward.run(block, into, states, self._lengths[text : text + 1], met)
            return sums

        found: dict[str, InputStatistics] = {}
        by_text = list(ordered(one, range(len(self._lengths)), self._threads))
        for number, op in enumerate(linears):
            sums, moment = [of_text[number] for of_text in by_text], None
            if moments:
                name = f"{ROWS}.{number}"
                moment = second_moment(self._live, name, self._counts(op), len(sums[0].square), self._threads)
                self._forget(name)
            found.update(dict.fromkeys(op.read_all("weight"), statistics(sums, moment)))
        return found

    def _through(
        self, block: BlockOps, values: dict[str, Floats], before: int | None, stop: int | None, stream: str = ""
    ) -> list[Sums]:
        """Every text from linear op `before` (the block's beginning), whose rows wait, to the rows of op `stop`."""

        def one(text: int) -> Sums | None:
            return self._text(block, values, before, stop, text, stream)

        return [sums for sums in ordered(one, range(len(self._lengths)), self._threads) if sums is not None]

    def _text(
        self,
        block: BlockOps,
        values: dict[str, Floats],
        before: int | None,
        stop: int | None,
        text: int,
        stream: str,
    ) -> Sums | None:
        ops, lengths = block.ops, self._lengths[text : text + 1]
        first = 0 if before is None else before
        names = _live(block, first) if before is not None else {block.x}
        memory: Memory = {**values, **self._prompts.memory(text)}
        memory.update({name: self._live.get(name + stream, text) for name in names})
        if before is not None:
            memory[str(ops[before].write("out"))] = product(ops[before], self._live.get(ROWS + stream, text), memory)
            first += 1
        for op in ops[first:stop]:
            self._forward.step(op, memory, lengths)
        after = {block.out} if stop is None else _live(block, stop)
        for name in (names | {ROWS}) - after:
            self._live.drop(name + stream, text)
        for name in after - names:
            self._live.put(name + stream, text, memory[name])
        if stop is None:
            return None
        rows = meeting(ops[stop], memory)
        self._live.put(ROWS + stream, text, rows)
        return Sums.of(rows, self._counting.rows(ops[stop], text))

    def _counts(self, op: Op) -> list[Floats | None]:
        return [self._counting.rows(op, text) for text in range(len(self._lengths))]

    def _gathered(self, op: Op, sums: list[Sums]) -> InputStatistics:
        names, moment, crossed = op.read_all("weight"), None, None
        size = self._counts(op), len(sums[0].square), self._threads
        if self._chosen.needs_moment(names):
            moment = second_moment(self._live, ROWS, *size)
        if self._chosen.needs_crossed(names):
            crossed = crossed_moment(self._live, (ROWS + FLOATS, ROWS), *size)
        return statistics(sums, moment, crossed)

    def _forget(self, name: str) -> None:
        for text in range(len(self._lengths)):
            self._live.drop(name, text)


def _live(block: BlockOps, index: int) -> set[str]:
    """Buffers that must be kept while the rows of linear op `index` wait: what it adds, and what later ops read."""
    ops = block.ops
    there = {block.x} | {name for op in ops[:index] for _, name in op.writes}
    read = {name for role, name in ops[index].reads if role == "residual"}
    return there & (read | {name for op in ops[index + 1 :] for _, name in op.reads})
