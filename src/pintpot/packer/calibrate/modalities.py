"""How much a model's loss moves with what each op gives for words, and with what it gives for rows of pictures.

The loss is the cross entropy of the words that follow, as in training. Prompts with pictures go forward through the
network, whose states before every block are kept, and gradients back: exact ones, of the unpacked network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.statistics import Sensitivity
from pintpot.meter.disk import ask_room
from pintpot.meter.records import write_record
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.backward import Backward, before
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import BlockOps, Forward
from pintpot.packer.calibrate.parallel import ordered
from pintpot.packer.calibrate.prompts import Prompts
from pintpot.packer.calibrate.vocabulary import following, loss_gradients
from pintpot.planner.calibrating import SENSED_TOKENS
from pintpot.program.spec import Op

Floats = NDArray[np.float32]
Totals = dict[str, NDArray[np.float64]]
"""By the buffer that an op writes, for words and for pictures: the sum of |gradient|, and of how many values."""
Told = Callable[[float], None]
KEPT = "modalities.found"
_STATES, _GRADS = "states", "grads"


@dataclass(frozen=True)
class Counting:
    """How often rows count that meet the weights of an op, as the steps that were chosen say."""

    factors: Mapping[str, tuple[float, float]]
    prompts: Prompts

    @classmethod
    def of(cls, found: Mapping[str, Sensitivity], forward: Forward, chosen: Chosen, prompts: Prompts) -> Counting:
        factors = {}
        for op in (*(op for block in forward.blocks for op in block.ops), forward.head):
            key = str(op.write("out"))
            counts = chosen.counts(op.read_all("weight"), found[key]) if key in found else None
            if counts is not None:
                factors[key] = counts
        return cls(factors, prompts)

    def rows(self, op: Op, text: int) -> Floats | None:
        """Of a text's rows [T]; None: once each."""
        found = self.factors.get(str(op.write("out")))
        if found is None:
            return None
        return np.where(self.prompts.of_pictures(text), np.float32(found[1]), np.float32(found[0]))


def sensitivities(forward: Forward, prompts: Prompts, folder: Path, threads: int, told: Told) -> dict[str, Sensitivity]:
    """Of every linear op by the buffer that it writes; `forward` is the unpacked network, for prompts with pictures.

    Some of the prompts with pictures are looked at, evenly from all of them. What was found is kept in `folder`, and
    found again by the next start. Raises DiskTooSmall.
    """
    kept = folder / KEPT
    if kept.is_file():
        return {name: Sensitivity(**found) for name, found in json.loads(kept.read_text()).items()}
    texts = _some([text for text in range(len(prompts.texts)) if prompts.of_pictures(text).any()], prompts)
    scratch = folder / "sensing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    width = forward.weight(str(forward.head.read("norm"))).nbytes
    ask_room(folder, (len(forward.blocks) + 3) * width * sum(len(prompts.texts[text]) for text in texts))
    found = _Sensing(forward, prompts, texts, Activations(scratch), threads, told).run()
    write_record(kept, {name: asdict(one) for name, one in found.items()})
    shutil.rmtree(scratch)
    return found


def _some(texts: Sequence[int], prompts: Prompts) -> list[int]:
    """Texts evenly from all of these, of so many tokens as are looked at, and one at least."""
    longest = max(len(prompts.texts[text]) for text in texts)
    count = min(len(texts), max(1, SENSED_TOKENS // longest))
    return [texts[index * len(texts) // count] for index in range(count)]


class _Sensing:
    """One pass forward and one back."""

    def __init__(
        self, forward: Forward, prompts: Prompts, texts: Sequence[int], live: Activations, threads: int, told: Told
    ) -> None:
        self._forward, self._backward = forward, Backward(forward)
        self._prompts, self._texts, self._live, self._threads = prompts, texts, live, threads
        self._told, self._passed = told, 0

    def run(self) -> dict[str, Sensitivity]:
        blocks = self._forward.blocks
        for text in self._texts:
            states = self._forward.embedded([self._prompts.texts[text]], given=self._prompts.given)
            self._live.put(f"{_STATES}.0", text, states)
        for index, block in enumerate(blocks):
            self._forwards(index, block)
            self._tell()
        found = dict([self._head(f"{_STATES}.{len(blocks)}")])
        for index in reversed(range(len(blocks))):
            found.update(self._backwards(index, blocks[index]))
            self._tell()
        return found

    def _tell(self) -> None:
        self._passed += 1
        self._told(self._passed / (2 * len(self._forward.blocks)))

    def _forwards(self, index: int, block: BlockOps) -> None:
        values = self._forward.values(block)

        def one(text: int) -> None:
            memory, states = self._prompts.memory(text), self._live.get(f"{_STATES}.{index}", text)
            out = self._forward.run(block, {**values, **memory}, states, [len(states)])
            self._live.put(f"{_STATES}.{index + 1}", text, out)

        for _ in ordered(one, self._texts, self._threads):
            pass

    def _head(self, name: str) -> tuple[str, Sensitivity]:
        """What the loss says of the states that the last block leaves, which is kept, and of logits."""
        head = self._forward.head
        weight, norm = str(head.read("weight")), str(head.read("norm"))
        states = np.concatenate([self._live.get(name, text) for text in self._texts])
        pictures = np.concatenate([self._prompts.of_pictures(text) for text in self._texts])
        labels = np.concatenate([following(self._prompts.texts[text]) for text in self._texts])
        final = self._forward.final(states)
        grads, sizes = loss_gradients(final, labels, self._forward.rows(weight))
        grads = before(head, {str(head.read("x")): states, norm: self._forward.weight(norm)}, grads)
        at = 0
        for text in self._texts:
            length = len(self._prompts.texts[text])
            self._live.put(_GRADS, text, grads[at : at + length])
            at += length
        values = self._forward.rows(weight).shape[0]
        return str(head.write("out")), _sensitivity(_by_modality(sizes, pictures, values))

    def _backwards(self, index: int, block: BlockOps) -> Iterator[tuple[str, Sensitivity]]:
        values = self._forward.values(block)
        written = {name: str(op.write("out")) for op in block.ops for name in op.read_all("weight")}

        def one(text: int) -> Totals:
            memory, pictures = self._prompts.memory(text), self._prompts.of_pictures(text)
            states, found = self._live.get(f"{_STATES}.{index}", text), Totals()

            def seen(name: str, rows: Floats, grads: Floats, first: int) -> None:
                sums = _by_modality(np.abs(grads).sum(axis=1), pictures, grads.shape[1])
                found[written[name]] = found.get(written[name], 0.0) + sums

            grads = self._live.get(_GRADS, text)
            into = {**values, **memory}
            self._live.put(_GRADS, text, self._backward.run(block, into, states, grads, [len(states)], seen))
            self._live.drop(f"{_STATES}.{index}", text)
            return found

        parts = list(ordered(one, self._texts, self._threads))
        for name in dict.fromkeys(name for part in parts for name in part):
            yield name, _sensitivity(sum((part[name] for part in parts), np.zeros((2, 2))))


def _by_modality(sizes: Floats, pictures: NDArray[np.bool_], values: int) -> NDArray[np.float64]:
    """Sums of rows' sizes [T] and how many values they are of: of words, and of pictures."""
    rows = [(float(sizes[mask].sum(dtype=np.float64)), float(mask.sum()) * values) for mask in (~pictures, pictures)]
    return np.array(rows)


def _sensitivity(totals: NDArray[np.float64]) -> Sensitivity:
    words, pictures = (float(total / max(count, 1.0)) for total, count in totals)
    return Sensitivity(words, pictures)
