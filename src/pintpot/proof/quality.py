"""Quality of a pack against the unpacked model: both models' distributions over the same texts, word by word."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.meter.agreement import Agreement, Comparison, TokenScores, mean_interval
from pintpot.meter.home import home
from pintpot.meter.memory import peak_bytes
from pintpot.meter.vocabulary import VocabularyStream
from pintpot.model.joined import VISION
from pintpot.model.store import Store
from pintpot.packer.manifest import read_manifest
from pintpot.proof.head import PackedHead
from pintpot.proof.reference import Network, states_of, texts_per_pass, unpacked
from pintpot.proof.source import source_model
from pintpot.proof.steps import ALONE, Variant, network, strides
from pintpot.proof.worker import tell

Floats = NDArray[np.float32]
Logits = Iterator[tuple[int, Floats]]
Told = Callable[[int, int], None]
KEPT_S = 30 * 86_400
"""States that no proof asked for during so long go when others are kept."""


class Answerer:
    """Requests: `reference` (states of the unpacked model, kept), `compare`, `see`, `weights`, `networks`, `steps`."""

    def __init__(self, pack: Path) -> None:
        self._pack = pack
        self._manifest, _ = read_manifest(pack)
        self._model = source_model(self._manifest)
        self._states: Floats | None = None
        self._alone: list[TokenScores] | None = None

    def reference(self, texts: list[list[int]], key: str) -> dict[str, Any]:
        """Compute, or find, the unpacked model's states of the texts."""
        with Store(self._model) as store:
            path = home() / "references" / f"{store.sample_digest()}-{key}.npy"
            if path.exists():
                path.touch()
                self._states = np.load(path, allow_pickle=False)
            else:
                self._states = self._passes(unpacked(self._model, store), texts, tell)
                path.parent.mkdir(parents=True, exist_ok=True)
                _forget_old(path.parent)
                partial = path.with_suffix(f".{os.getpid()}.partial.npy")
                np.save(partial, self._states, allow_pickle=False)
                partial.replace(path)
        return {"peak_bytes": peak_bytes()}

    def compare(self, texts: list[list[int]], path: str, num_words: int = 0) -> dict[str, Any]:
        """Agreement of the packed model's states at `path` with the reference's: those of the last words, or of all."""
        test = np.load(path, allow_pickle=False)
        reference = _last_of_each(self._reference, texts, num_words)
        need(test.shape == reference.shape, f"states of {test.shape} meet a reference of {reference.shape}")
        with Store(self._model) as store:
            logits = PackedHead(self._pack, self._manifest).logits(test)
            source = unpacked(self._model, store).head(reference)
            words = [text[-num_words:] for text in texts]
            found = _result(_scores(words, source, logits, self._vocab_size, tell))
        return {"agreement": asdict(found), "peak_bytes": peak_bytes()}

    def see(self, path: str) -> dict[str, Any]:
        """How like the rows in `path` are to what the unpacked tower makes of the same picture: their mean cosine."""
        from contextlib import ExitStack

        from pintpot.meter.overlap import cosines
        from pintpot.proof.module_quality import Unpacked
        from pintpot.runtime.eyes import drawn_inputs

        part = self._model.part(VISION)
        stage = part.prefix + part.config["stages"][0]["name"]
        with ExitStack() as closing, Store(self._model) as store:
            unpacked = Unpacked(self._model, store, self._manifest.plan.budget.workload, closing)
            wanted = unpacked(drawn_inputs(part.config["kind"], 0), stage)
        given = np.load(path, allow_pickle=False)
        found = np.concatenate([cosines(rows, given[name]) for name, rows in sorted(wanted.items())])
        return {"cosine": float(found.mean()), "rows": len(found), "peak_bytes": peak_bytes()}

    def weights(self, texts: list[list[int]], num_words: int) -> dict[str, Any]:
        """Agreement of the pack's weights alone, in float32 arithmetic: on words of answers, and on all words."""
        with Store(self._model) as store:
            source = unpacked(self._model, store)
            found = self._alone = self._agreement(source, self._network(ALONE, store, 0), texts, tell)
        words = [_last(scores, num_words - 1) for scores in found]
        both = [asdict(_result(scores)) for scores in (words, found)]
        return {"answers": both[0], "prompts": both[1], "peak_bytes": peak_bytes()}

    def networks(self) -> dict[str, Any]:
        """How many networks `steps` walks through, after `weights`."""
        return {"number": len([variant for variant in self._variants() if variant != ALONE])}

    def steps(self, texts: list[list[int]], num_words: int) -> dict[str, Any]:
        """What each step changes on the words of answers: alone, and added to those before it.

        The weights alone are what `weights` found, for float32 arithmetic knows no words of answers.
        """
        planned, wanted = strides(self._manifest.plan), self._variants()
        found: dict[Variant, list[TokenScores]] = {}
        if self._alone is not None and ALONE in wanted:
            wanted.remove(ALONE)
            found[ALONE] = [_last(one, num_words - 1) for one in self._alone]
        with Store(self._model) as store:
            source = unpacked(self._model, store)
            for index, variant in enumerate(wanted):

                def told(done: int, total: int, index: int = index) -> None:
                    tell(index * total + done, len(wanted) * total)

                scores = self._agreement(source, self._network(variant, store, num_words), texts, told)
                found[variant] = [_last(one, num_words - 1) for one in scores]
        rows, before = [], [np.zeros(len(one.kl)) for one in next(iter(found.values()), [])]
        for stride in planned:
            after = [scores.kl for scores in found[stride.after]]
            added = mean_interval([new - old for new, old in zip(after, before, strict=True)])
            alone = None if stride.alone is None else asdict(_result(found[stride.alone]))
            names = [str(step) for step in stride.steps]
            rows.append(
                {"steps": names, "alone": alone, "after": asdict(_result(found[stride.after])), "added": asdict(added)}
            )
            before = after
        return {"steps": rows, "peak_bytes": peak_bytes()}

    def _variants(self) -> list[Variant]:
        """The networks of all strides, each once."""
        planned = strides(self._manifest.plan)
        variants = [one for stride in planned for one in (stride.after, stride.alone) if one is not None]
        return list(dict.fromkeys(variants))

    @property
    def _reference(self) -> Floats:
        need(self._states is not None, "the reference comes first")
        return np.asarray(self._states)

    @property
    def _vocab_size(self) -> int:
        """Words of the vocabulary."""
        return self._manifest.plan.form.weights.by_name["embed"].shape[0]

    def _network(self, variant: Variant, store: Store, num_words: int) -> Network:
        return network(variant, self._model, store, self._pack, self._manifest, num_words)

    def _passes(self, made: Network, texts: list[list[int]], told: Told) -> Floats:
        """States of all texts: as many together as the budget allows; each pass reads every weight once."""
        budget = self._manifest.plan.budget.memory_bytes
        together = texts_per_pass(self._model, max(map(len, texts)), budget, made.is_rounded)
        states: list[Floats] = []
        for first in range(0, len(texts), together):
            part = texts[first : first + together]

            def within(done: int, total: int, first: int = first, count: int = len(part)) -> None:
                told(first * total + count * done, len(texts) * total)

            states += states_of(made, part, within)
        return np.concatenate(states)

    def _agreement(self, source: Network, test: Network, texts: list[list[int]], told: Told) -> list[TokenScores]:
        """Scores of each text, without its last token."""
        states = self._passes(test, texts, told)
        return _scores(texts, source.head(self._reference), test.head(states), self._vocab_size, _silently)


def _scores(texts: list[list[int]], reference: Logits, test: Logits, num_words: int, told: Told) -> list[TokenScores]:
    """Scores of each text from both models' logits of all words in order; after a text's last token nothing comes."""
    targets = np.concatenate([np.array([*text[1:], -1]) for text in texts])
    stream, waiting = VocabularyStream(len(targets), targets), list[tuple[int, Floats]]()
    for first, ours in reference:
        while sum(part.shape[1] for _, part in waiting) < ours.shape[1]:
            waiting.append(next(test))
        theirs, waiting = _take(waiting, ours.shape[1])
        stream.add(first, ours, theirs)
        told(first + ours.shape[1], num_words)
    whole, ends = stream.scores(), np.cumsum([len(text) for text in texts])
    return [_cut(whole, slice(end - len(text), end - 1)) for text, end in zip(texts, ends.tolist(), strict=True)]


def _silently(done: int, total: int) -> None:
    """The passes before it told how far it is."""


def _cut(scores: TokenScores, part: slice) -> TokenScores:
    return TokenScores(scores.kl[part], scores.same_top1[part], scores.nll_reference[part], scores.nll_test[part])


def _last(scores: TokenScores, number: int) -> TokenScores:
    return _cut(scores, slice(max(0, len(scores.kl) - number), None))


def _result(scores: list[TokenScores]) -> Agreement:
    comparison = Comparison()
    for one in scores:
        comparison.add_scores(one)
    return comparison.result()


def _forget_old(folder: Path) -> None:
    for path in folder.glob("*.npy"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()


def _last_of_each(states: Floats, texts: list[list[int]], num_words: int) -> Floats:
    """Of the states of all texts, one after the other, those of the last words of each; 0: all of them."""
    ends = np.cumsum([len(text) for text in texts])
    return np.concatenate([part[-num_words:] for part in np.split(states, ends[:-1])])


def _take(waiting: list[tuple[int, Floats]], count: int) -> tuple[Floats, list[tuple[int, Floats]]]:
    """The first `count` words of what waits, and what is left."""
    whole = np.concatenate([part for _, part in waiting], axis=1)
    left = whole[:, count:]
    return whole[:, :count], [(waiting[0][0] + count, left)] if left.shape[1] else []
