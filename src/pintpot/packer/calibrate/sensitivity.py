"""What each weight of a model costs in each format, from one pass forward and one back over a text.

Forward: the states before every block go to disk. Back, last block first: each block runs again, gradients of the
model's own labels pass through it, and their squares for each weight (`fisher`) price every format. Then comes the
vocabulary, and last a few real changes (`scale`), by which everything is scaled. Only one block is ever in memory, and
a start that was ended is gone on with at the block where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.targets import matches
from pintpot.errors import BadInput, need
from pintpot.formats import GRIDS
from pintpot.meter.disk import ask_room
from pintpot.meter.home import home
from pintpot.meter.memory import peak_bytes
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.backward import Backward, before
from pintpot.packer.calibrate.begun import Begun
from pintpot.packer.calibrate.fisher import add_squares, losses, worth_measuring
from pintpot.packer.calibrate.forward import PART, BlockOps, Forward, Texts
from pintpot.packer.calibrate.scale import TOGETHER, Checked, Checks, fitted
from pintpot.packer.calibrate.together import groups
from pintpot.packer.calibrate.vocabulary import Drawn, add_looked_up, draw, residuals, to_states
from pintpot.planner.sensitivity import Sensitivities, keep_sensitivities, recall_sensitivities, table_key

VERSION = 1
TOKENS, LENGTH = 4096, 128
"""Many short texts and not a few long ones: each is one sample of the gradients."""
SEED = 20
DIGITS = 4
Floats = NDArray[np.float32]
Losses = dict[str, dict[str, float]]
"""Of each weight, by format, nats a token as the second order has them."""
Progress = Callable[[float, str], None]
_LABELS, _GRADS, _FOUND, _CHECKED = "labels", "grads", "found", "checked"
_BACK, _ENDS, _CHECK = 4.0, 6.0, 9.0
"""What a block costs backwards, the vocabulary each time, and a real change of all weights, in blocks forward."""


def measure_sensitivities(
    model: Model,
    texts: Texts,
    progress: Progress | None = None,
    *,
    again: bool = True,
    folder: Path | None = None,
    memory_bytes: int | None = None,
) -> Sensitivities:
    """Measure a model's table in `memory_bytes`, keep it in `<home>/sensitivities`, and return it.

    While another process measures the same model it is waited for. Not `again`: a table that is of these texts is
    returned as it is. Raises UsageError for a model that is not on this machine, DiskTooSmall and BadInput where there
    is no room for what is on its way, DoesNotFit.
    """
    need(len(texts) > 0, "there is no text to measure on")
    tell = progress or (lambda share, what: None)
    with Store(model) as store:
        key, text = store.sample_digest(), _digest(texts)
        asked = {"version": VERSION, "grids": GRIDS, "data": key, "texts": text, "seed": SEED}
        place = (home() if folder is None else folder) / "sensitivities" / f"{key}.begun"
        with Begun(place, asked, lambda: tell(0.0, "waiting for another process that measures this model")) as begun:
            known = None if again else recall_sensitivities(key, folder=folder)
            if known is not None and known.text == text:
                begun.end()
                return known
            _ask_room(model, texts, begun)
            checked = _Measuring(model, texts, store, begun, tell, memory_bytes).run()
            fit = fitted(checked.checks)
            weights = {
                name: {kept: (_short(nats * fit.low), _short(nats * fit.high)) for kept, nats in found.items()}
                for name, found in checked.losses.items()
            }
            table = Sensitivities(sum(map(len, texts)), weights, text)
            notes = {
                "texts": len(texts), "scale": fit.scale, "low": fit.low, "high": fit.high,
                "checks": [asdict(one) for one in checked.checks],
            }  # fmt: skip
            keep_sensitivities(key, table, notes, folder=folder)
            begun.end()
    return table


def _digest(texts: Texts) -> str:
    return hashlib.sha256(json.dumps([list(map(int, text)) for text in texts]).encode()).hexdigest()[:16]


def _ask_room(model: Model, texts: Texts, begun: Begun) -> None:
    """Raises DiskTooSmall where states before every block, and gradients, have no room beside what is there."""
    config = model.part(PART).config
    state_bytes = 4 * sum(map(len, texts)) * config["hidden_size"]
    ask_room(begun.folder, (config["num_hidden_layers"] + 3) * state_bytes - begun.num_bytes)


def _short(value: float) -> float:
    """As many digits as mean something; sums of floats differ in later ones from machine to machine."""
    return float(f"{value:.{DIGITS - 1}e}")


class _Measuring:
    """One table on its way."""

    def __init__(
        self,
        model: Model,
        texts: Texts,
        store: Store,
        begun: Begun,
        progress: Progress,
        memory_bytes: int | None,
    ) -> None:
        self._texts, self._begun, self._progress = texts, begun, progress
        self._forward = Forward(model, store, max(map(len, texts)))
        self._backward = Backward(self._forward)
        matrices = (w for w in model.part(PART).weights() if len(w.shape) == 2 and matches("all", w.name))
        self._sources = {w.name: w.dtype for w in matrices}
        self._num_tokens = sum(map(len, texts))
        self._groups = list(groups(model, texts, memory_bytes))
        self._done, self._total = (
            0.0,
            (1 + _BACK) * len(self._forward.blocks) + 3 * _ENDS + (1 + len(TOGETHER)) * _CHECK,
        )
        self._losses: Losses = {}

    def run(self) -> Checked:
        blocks = self._forward.blocks
        self._forwards()
        drawn = self._labels(self._begun.get(_states(len(blocks))))
        for index in reversed(range(len(blocks))):
            self._backwards(index)
        self._vocabulary(drawn, self._begun.get(_grads(0)))
        checks = Checks(self._forward, self._texts, self._losses, lambda index: self._begun.get(_states(index)))
        return Checked(self._losses, checks.run(lambda: self._tell(_CHECK, "checking")))

    def _forwards(self) -> None:
        blocks = self._forward.blocks
        if not self._begun.has(_states(0)):
            self._begun.put(_states(0), self._forward.embedded(self._texts))
        for index, block in enumerate(blocks):
            if not self._begun.has(_states(index + 1)):
                states, values = self._begun.get(_states(index)), self._forward.values(block)
                parts = [self._forward.run(block, values, states[rows], lengths) for rows, lengths in self._groups]
                self._begun.put(_states(index + 1), np.concatenate(parts))
            self._tell(1.0, "forward")

    def _labels(self, states: Floats) -> Drawn:
        """Labels, and what they say about the states that the last block leaves."""
        head, last = self._forward.head, _grads(len(self._forward.blocks))
        final, name = self._forward.final(states), str(head.read("weight"))
        if not self._begun.has(_LABELS):
            drawn = draw(final, self._forward.rows(name), np.random.default_rng(SEED))
            grads = to_states(final, drawn, self._forward.rows(name))
            memory = {str(head.read("x")): states, str(head.read("norm")): self._forward.weight(str(head.read("norm")))}
            self._begun.put(last, before(head, memory, grads))
            self._begun.put(_LABELS, np.stack([drawn.labels.astype(np.float64), drawn.log_z.astype(np.float64)]))
        labels, log_z = self._begun.get(_LABELS)
        self._tell(2 * _ENDS, "head")
        return Drawn(labels.astype(np.int64), log_z.astype(np.float32))

    def _backwards(self, index: int) -> None:
        """One block: gradients before it, and what its weights cost."""
        block, found = self._forward.blocks[index], f"{_FOUND}.{index}"
        if not self._begun.has(found):
            states, grads = self._begun.get(_states(index)), self._begun.get(_grads(index + 1))
            values = self._forward.values(block)
            squares = {name: np.zeros_like(array) for name, array in values.items() if name in self._sources}
            parts = [self._part(block, values, states, grads, rows, lengths, squares) for rows, lengths in self._groups]
            own = {name: losses(values[name], squares[name], self._worth(name)) for name in squares}
            self._begun.put(_grads(index), np.concatenate(parts))
            self._begun.put(found, np.array(json.dumps(own)))
            self._begun.drop(_grads(index + 1))
        self._take(json.loads(str(self._begun.get(found))))
        self._tell(_BACK, "backward")

    def _part(
        self,
        block: BlockOps,
        values: dict[str, Floats],
        states: Floats,
        grads: Floats,
        rows: slice,
        lengths: Sequence[int],
        squares: dict[str, Floats],
    ) -> Floats:
        def seen(name: str, met: Floats, out: Floats, first: int) -> None:
            if name in squares:
                add_squares(met, out, lengths, squares[name][first : first + out.shape[1]])

        return self._backward.run(block, values, states[rows], grads[rows], lengths, seen)

    def _vocabulary(self, drawn: Drawn, grads: Floats) -> None:
        """Embedding and head, some rows at a time; one matrix that is both has the sum of both gradients."""
        head, embed = str(self._forward.head.read("weight")), str(self._forward.embed.read("weight"))
        if not self._begun.has(_FOUND):
            final = self._forward.final(self._begun.get(_states(len(self._forward.blocks))))
            scaled = grads * np.float32(self._forward.embed.get("scale", 1.0))
            totals: Losses = {name: {} for name in {head, embed}}
            for first, rows, part in residuals(final, drawn, self._forward.rows(head)):
                self._add(totals[head], head, rows, self._gradients(final, part, first, scaled, head == embed))
            if embed != head:
                for first, rows in self._forward.rows(embed):
                    space = np.empty_like(rows)
                    self._add(totals[embed], embed, rows, add_looked_up(self._texts, scaled, first, space))
            self._begun.put(_FOUND, np.array(json.dumps(totals)))
        self._take(json.loads(str(self._begun.get(_FOUND))))
        self._tell(_ENDS, "vocabulary")

    def _gradients(self, final: Floats, part: Floats, first: int, scaled: Floats, tied: bool) -> Iterator[Floats]:
        """Each text's gradient of some rows of the head, with what they do as an embedding where they are both."""
        space = np.empty((part.shape[1], final.shape[1]), np.float32)
        looked_up = add_looked_up(self._texts, scaled, first, space) if tied else None
        at = 0
        for text in self._texts:
            rows = slice(at, at + len(text))
            at = rows.stop
            gradient = part[rows].T @ final[rows]
            yield gradient if looked_up is None else gradient + next(looked_up)

    def _add(self, totals: dict[str, float], name: str, rows: Floats, gradients: Iterator[Floats]) -> None:
        squares = np.zeros_like(rows)
        for gradient in gradients:
            squares += gradient * gradient
        for kept, lost in losses(rows, squares, self._worth(name)).items():
            totals[kept] = totals.get(kept, 0.0) + lost

    def _worth(self, name: str) -> tuple[str, ...]:
        return worth_measuring(self._sources[name])

    def _take(self, found: Losses) -> None:
        for name, costs in found.items():
            self._losses[name] = {kept: 0.5 * lost / self._num_tokens for kept, lost in costs.items()}

    def _tell(self, more: float, what: str) -> None:
        self._done += more
        self._progress(min(self._done / self._total, 1.0), f"sensitivities: {what}")


def _states(index: int) -> str:
    return f"states.{index}"


def _grads(index: int) -> str:
    return f"{_GRADS}.{index}"


def _answer(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.model.read import describe
    from pintpot.packer.calibrate.texts import cut, read_text, remember_text
    from pintpot.packer.pack import tokenizer_of

    model = describe(request["model"])
    need(model.digest == request["digest"], f"{request['model']} changed meanwhile", BadInput)
    text = None if request["text"] is None else Path(request["text"])
    texts = cut(tokenizer_of(model), read_text(text), model.context, TOKENS, LENGTH)
    memory = request["memory_bytes"]
    table = measure_sensitivities(model, texts, progress, again=request["again"], memory_bytes=memory)
    remember_text(table_key(model), text)
    return {"tokens": table.tokens, "wanted": TOKENS, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    from pintpot.packer.apart import serve

    serve(_answer)
