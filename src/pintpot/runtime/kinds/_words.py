"""The tokenizer beside a recording, loaded once for as long as its file is the same: a server asks for it often."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pintpot.errors import BadInput
from pintpot.model.tokens import Tokenizer


def tokenizer_at(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises BadFile for one that is none, BadInput where none is."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    return _loaded(path, found.st_mtime_ns, found.st_ino, found.st_size)


@lru_cache(maxsize=1)
def _loaded(path: Path, *mark: int) -> Tokenizer:
    return Tokenizer.from_json(path)
