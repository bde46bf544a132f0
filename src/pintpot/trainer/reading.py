"""The examples of a file as a model learns them: what is learned, and what is held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import UsageError, need
from pintpot.model.spec import Model
from pintpot.model.tokens import Tokenizer
from pintpot.packer.pack import tokenizer_of
from pintpot.planner.training import learning_part
from pintpot.trainer.data import read_examples
from pintpot.trainer.freed import give_back
from pintpot.trainer.packing import Sequences, hold_out, pack_sequences
from pintpot.trainer.pictures import MOST_HELD_OUT, Pictures, about_pictures, read_pictures

if TYPE_CHECKING:
    from pintpot.trainer.loop import Examples

Progress = Callable[[float, str], None]


def read_for(
    model: Model, path: Path, length: int, seed: int, progress: Progress | None = None
) -> tuple[Examples, Examples]:
    """What is learned and what is held out, of what this model learns from: pictures, or sequences of words."""
    if model.language is None:
        return picked_pictures(model, path, seed, progress)
    return read_sequences(model, path, length, seed, progress)


def read_sequences(
    model: Model, path: Path, length: int, seed: int, progress: Progress | None = None
) -> tuple[Sequences, Sequences]:
    """What is learned and what is held out, in sequences of `length` tokens; the tokenizer is gone when it returns."""
    need(
        length <= model.context, f"sequences of {length} tokens, and the model's context is {model.context}", UsageError
    )
    if progress is not None:
        progress(0.0, f"reading {path.name}")
    examples = read_examples(path, Tokenizer.load(tokenizer_of(model)))
    packed = pack_sequences(examples, length)
    del examples
    give_back()
    return hold_out(packed, seed)


def picked_pictures(model: Model, path: Path, seed: int, progress: Progress | None = None) -> tuple[Pictures, Pictures]:
    """What is learned and what is held out, of pictures with labels."""
    if progress is not None:
        progress(0.0, f"reading {path.name}")
    return hold_out(read_pictures(path, about_pictures(learning_part(model).config)), seed, most=MOST_HELD_OUT)
