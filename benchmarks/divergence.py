"""How far networks' answers lie from those of the model that they are of: KL divergence over texts, kept by the judge.

A network is anything that the proofs' reference can walk (`proof.reference.Network`): a pack's weights, those of a
GGUF file, or the source's with some matrices replaced. The source's own states are computed once and kept on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench import OUT, Case, whisper
from numpy.typing import NDArray

from pintpot.meter.agreement import Agreement, Comparison, TokenScores, compare
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.parallel import one_blas_thread, ordered
from pintpot.packer.manifest import read_manifest
from pintpot.program.ops.linear import PLANES
from pintpot.proof.reference import Network, states_of, unpacked
from pintpot.proof.steps import OF_WEIGHTS, Variant, network

Floats = NDArray[np.float32]
Texts = list[list[int]]
TOGETHER = 8192
"""Tokens that go through a block at once."""


class Judge:
    """A model's own answers over some texts, and the divergence of others from them."""

    def __init__(self, model: Model, texts: Texts, threads: int = 2) -> None:
        self.model, self.texts, self._threads = model, texts, threads
        with Store(model) as store:
            self._head = _head(unpacked(model, store))
            self._states = self._known(store)

    def of_weights(self, weights: Mapping[str, Any]) -> Case:
        """With these matrices and vectors in place of the source's, in float32 arithmetic."""
        with Store(self.model) as store:
            own = unpacked(self.model, store)
            return self.of_network(replace(own, weights={**own.weights, **weights}))

    def of_pack(self, folder: Path) -> Case:
        """A pack's weights alone, in float32 arithmetic."""
        with Store(self.model) as store:
            kept = network(Variant((), packed=True), self.model, store, folder, read_manifest(folder)[0])
            return self.of_network(kept)

    def of_run(self, folder: Path, num_words: int) -> Case:
        """A pack as it runs, imitated in numpy: roundings of rows and cache, the last words of a text decoded."""
        with Store(self.model) as store:
            manifest = read_manifest(folder)[0]
            steps = tuple(step for step in manifest.plan.steps if step.facet not in OF_WEIGHTS)
            return self.of_network(network(Variant(steps, packed=True), self.model, store, folder, manifest, num_words))

    def of_file(self, file: Path) -> Case:
        """A GGUF file's weights alone, in float32 arithmetic, as this project reads them."""
        other = describe(str(file))
        with Store(other) as store:
            return self.of_network(unpacked(other, store))

    def of_network(self, test: Network) -> Case:
        """Over all words of all texts."""
        states, head = self._passed(test), _head(test)
        name = "head" if "head" in test.weights else "embed"
        planes = PLANES[test.form.activation.decode]
        return self._judged(lambda text: test.meets(name, states[text], planes) @ head.T)

    def of_logits(self, logits: Iterable[Floats], num_words: int = 0) -> Case:
        """Of logits [T, V] of each text in order: of its last words, or of all of them."""
        given = iter(logits)
        return told([compare(self._logits(text, num_words), next(given)) for text in range(len(self.texts))])

    def _judged(self, logits: Callable[[int], Floats]) -> Case:
        def one(text: int) -> TokenScores:
            return compare(self._logits(text), logits(text))

        with one_blas_thread():
            return told(list(ordered(one, range(len(self.texts)), self._threads)))

    def _logits(self, text: int, num_words: int = 0) -> Floats:
        return self._states[text][-num_words:] @ self._head.T

    def _known(self, store: Store) -> list[Floats]:
        """The source's states of every text, from an earlier start where there was one."""
        key = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:12]
        path = OUT / "references" / f"{store.sample_digest()}-{key}.npy"
        if not path.exists():
            whisper("the source's own states ...")
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, np.concatenate(self._passed(unpacked(self.model, store))))
            part.replace(path)
        return np.split(np.load(path), np.cumsum([len(text) for text in self.texts])[:-1])

    def _passed(self, test: Network) -> list[Floats]:
        """States of all texts, as many together as memory is meant for."""
        number = max(1, TOGETHER // max(map(len, self.texts)))
        parts = (self.texts[first : first + number] for first in range(0, len(self.texts), number))
        return [states for part in parts for states in states_of(test, part)]


def told(scores: list[TokenScores]) -> Case:
    """Mean divergence in nats with its 95% interval over texts, p99, largest, and the same likeliest word."""
    comparison = Comparison()
    for one in scores:
        comparison.add_scores(one)
    found: Agreement = comparison.result()
    return {**asdict(found.kl), "p99": found.kl_p99, "max": found.kl_max, "same": found.top1, "words": found.num_tokens}


def _head(found: Network) -> Floats:
    """The matrix [V, D] that gives the logits."""
    kept = found.weights["head" if "head" in found.weights else "embed"]
    return kept if isinstance(kept, np.ndarray) else np.concatenate([part for _, part in kept])
