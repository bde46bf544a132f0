"""Quality of a pack against the unpacked model: both models' distributions over the same texts, word by word."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.meter.agreement import Comparison, TokenScores
from pintpot.meter.home import home
from pintpot.meter.memory import peak_bytes
from pintpot.meter.vocabulary import VocabularyStream
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.manifest import read_manifest
from pintpot.proof.head import PackedHead
from pintpot.proof.reference import head_rows, hidden_states, texts_per_pass
from pintpot.proof.source import source_model
from pintpot.proof.worker import tell

Floats = NDArray[np.float32]


class Answerer:
    """Requests: `reference` (states of the unpacked model, remembered), `compare`."""

    def __init__(self, pack: Path) -> None:
        self._pack = pack
        self._manifest, _ = read_manifest(pack)
        self._model = source_model(self._manifest.source, self._manifest.plan.model_digest)
        self._states: Floats | None = None

    def reference(self, texts: list[list[int]], key: str) -> dict[str, Any]:
        """Compute, or find, the unpacked model's states of the texts."""
        with Store(self._model) as store:
            path = home() / "references" / f"{store.sample_digest()}-{key}.npy"
        if path.exists():
            self._states = np.load(path, allow_pickle=False)
        else:
            self._states = np.concatenate(self._passes(texts))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial.npy")
            np.save(partial, self._states, allow_pickle=False)
            partial.replace(path)
        return {"peak_bytes": peak_bytes()}

    def _passes(self, texts: list[list[int]]) -> list[Floats]:
        """As many texts together as the budget allows; each pass reads every weight once."""
        together = texts_per_pass(self._model, max(map(len, texts)), self._manifest.plan.budget.memory_bytes)
        states: list[Floats] = []
        for first in range(0, len(texts), together):
            part = texts[first : first + together]

            def told(done: int, total: int, first: int = first, count: int = len(part)) -> None:
                tell(first * total + count * done, len(texts) * total)

            states += hidden_states(self._model, part, told)
        return states

    def compare(self, texts: list[list[int]], path: str, num_words: int = 0) -> dict[str, Any]:
        """Agreement of the packed model's states at `path` with the reference's: those of the last words, or of all."""
        need(self._states is not None, "the reference comes first")
        test = np.load(path, allow_pickle=False)
        reference = _last_of_each(np.asarray(self._states), texts, num_words)
        need(test.shape == reference.shape, f"states of {test.shape} meet a reference of {reference.shape}")
        comparison, first, done = Comparison(), 0, 0
        for text in texts:
            words = text[-num_words:]
            part = slice(first, first + len(words))
            stream = VocabularyStream(len(words), np.array([*words[1:], -1]))
            _stream_logits(stream, self._model, reference[part], PackedHead(self._pack, self._manifest), test[part])
            comparison.add_scores(_without_last(stream.scores()))
            first, done = part.stop, done + 1
            tell(done, len(texts))
        return {"agreement": asdict(comparison.result()), "peak_bytes": peak_bytes()}


def _last_of_each(states: Floats, texts: list[list[int]], num_words: int) -> Floats:
    """Of the states of all texts, one after the other, those of the last words of each; 0: all of them."""
    ends = np.cumsum([len(text) for text in texts])
    return np.concatenate([part[-num_words:] for part in np.split(states, ends[:-1])])


def _stream_logits(stream: VocabularyStream, model: Model, reference: Floats, head: PackedHead, test: Floats) -> None:
    """Feed both models' logits in runs of words that both sides have; the two heads come in chunks of their own."""
    waiting: list[tuple[int, Floats]] = []
    packed = head.logits(test)
    with Store(model) as store:
        for first, rows in head_rows(model, store):
            ours = reference @ rows.T
            while sum(part.shape[1] for _, part in waiting) < ours.shape[1]:
                waiting.append(next(packed))
            theirs, waiting = _take(waiting, ours.shape[1])
            stream.add(first, ours, theirs)


def _take(waiting: list[tuple[int, Floats]], count: int) -> tuple[Floats, list[tuple[int, Floats]]]:
    """The first `count` words of what waits, and what is left."""
    whole = np.concatenate([part for _, part in waiting], axis=1)
    left = whole[:, count:]
    return whole[:, :count], [(waiting[0][0] + count, left)] if left.shape[1] else []


def _without_last(scores: TokenScores) -> TokenScores:
    """Scores of all tokens but the last, after which the text says nothing."""
    return TokenScores(scores.kl[:-1], scores.same_top1[:-1], scores.nll_reference[:-1], scores.nll_test[:-1])
