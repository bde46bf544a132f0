"""Batches of a kind's samples on their way through the processes of a proof, and what came of them, compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.likeness import likeness
from pintpot.meter.overlap import together
from pintpot.runtime.kinds import Arrays, Batch, Given, Runs, kept

MOST_TEXTS = 64
FEWEST_CHARACTERS = 20


def given_for(
    config: Mapping[str, Any],
    text: Path | None,
    images: Sequence[str | Path] = (),
    audios: Sequence[str | Path] = (),
) -> Given:
    """What a proof judges a module by: the lines of a text, one that comes with the package where none is named,
    pictures and sounds. Raises UsageError for what its kind does not read, BadInput for a file that cannot be read.
    """
    found = kept(config)
    takes = frozenset() if found is None else found[0].TAKES
    need(text is None or "texts" in takes, "this module reads no texts", UsageError)
    need(not images or "images" in takes, "this module looks at no pictures", UsageError)
    need(not audios or "audios" in takes, "this module hears nothing", UsageError)
    if "texts" not in takes:
        return Given(images=tuple(map(Path, images)), audios=tuple(map(Path, audios)))
    try:
        own = files("pintpot.proof").joinpath("text.txt")
        words = (own if text is None else text.expanduser()).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{text} cannot be read as text: {error}") from error
    return Given(tuple(map(Path, images)), sentences(words))


def sentences(words: str) -> tuple[str, ...]:
    """The sentences of a text that hold more than a few words, as many as a proof reads."""
    found = (" ".join(one.split()) for line in words.splitlines() for one in re.split(r"(?<=[.!?])\s+", line))
    return tuple(one for one in found if len(one) >= FEWEST_CHARACTERS)[:MOST_TEXTS]


def sampled(config: Mapping[str, Any], folder: Path, given: Given) -> list[Batch]:
    """The batches that a pack and the unpacked module are compared on; none for a module without a kind."""
    found = kept(config)
    if found is None:
        return []
    kind, about = found
    return list(kind.samples(about, folder, given))


def write_arrays(path: Path, batches: Sequence[Arrays]) -> None:
    """Arrays of batch after batch in one .npz file."""
    named = {f"{at}/{name}": one for at, arrays in enumerate(batches) for name, one in arrays.items()}
    np.savez(path, allow_pickle=False, **named)


def read_arrays(path: Path) -> list[Arrays]:
    """The same again."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            at, _, name = key.partition("/")
            found.setdefault(int(at), {})[name] = file[key]
    return [found[at] for at in sorted(found)]


def read_batches(path: Path, names: Sequence[Sequence[str]]) -> list[Batch]:
    """Batches whose inputs `write_arrays` wrote."""
    arrays = read_arrays(path)
    return [Batch(inputs, tuple(called)) for inputs, called in zip(arrays, names, strict=True)]


def computed(config: Mapping[str, Any], batches: Sequence[Batch], run: Runs) -> list[Arrays]:
    """What a module makes of batches."""
    found = kept(config)
    if found is None:
        raise BadInput("a module without a kind reads no batches")
    kind, about = found
    return [kind.compute(about, run, batch) for batch in batches]


def compared(
    config: Mapping[str, Any], folder: Path, batches: Sequence[Batch], unpacked: Runs, given: Sequence[Arrays]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Likeness of what answers are judged by, and the kind's measures, of `given` beside the unpacked module's.

    `folder` holds the kind's files.
    """
    found = kept(config)
    if found is None:
        raise BadInput("a module without a kind reads no batches")
    kind, about = found
    wanted = computed(config, batches, unpacked)
    pairs = list(zip(batches, wanted, given, strict=True))
    agreements = together(one for each in pairs for one in kind.agreement(about, folder, *each))
    judged = [[kind.judged(about, batch, outputs) for outputs in both] for batch, *both in pairs]
    names = dict.fromkeys(name for (first, _) in judged for name in first)
    whole = {
        name: [np.concatenate([both[side][name] for both in judged if name in both[side]]) for side in (0, 1)]
        for name in names
    }
    likenesses = [asdict(likeness(name, *both)) for name, both in whole.items()]
    return likenesses, [asdict(one) for one in agreements]
