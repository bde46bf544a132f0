"""The text that weights are calibrated on, cut into sequences of tokens.

Which text a model's table of sensitivities was measured on is remembered beside it: packs are rounded on it, too.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record
from pintpot.model.tokens import Tokenizer, TokenizerSource
from pintpot.planner.calibrating import LENGTH, TOKENS

Texts = list[list[int]]
MOST_BYTES = 1 << 18
"""A tokenizer takes a text whole, and 150 times its memory; so much holds twice the tokens that are used."""
PIECES = 32
"""In which a longer text is read, evenly from all of it."""
OTHERWISE = "%s, on which `pintpot calibrate` measured, %s; weights are rounded on the text that comes with Pintpot"
_log = logging.getLogger(__name__)


def read_text(path: Path | None = None) -> str:
    """A file's text, or pieces of a long one, or the one that comes with the package.

    Raises BadInput for what is no text.
    """
    if path is None:
        return files("pintpot.packer.calibrate").joinpath("text.txt").read_text(encoding="utf-8")
    try:
        size = path.stat().st_size
        if size <= MOST_BYTES:
            return path.read_text(encoding="utf-8")
        with path.open("rb") as file:
            last = size - MOST_BYTES // PIECES
            return "\n\n".join(_piece(file, index * last // (PIECES - 1)) for index in range(PIECES))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def _piece(file: BinaryIO, first: int) -> str:
    """Whole characters of a run of bytes, which may begin and end inside one."""
    file.seek(first)
    data = file.read(MOST_BYTES // PIECES)
    begin = next((place for place in range(min(3, len(data))) if data[place] & 0xC0 != 0x80), 3) if first else 0
    return codecs.getincrementaldecoder("utf-8")().decode(data[begin:])


def text_digest(path: Path) -> str:
    """A digest of a whole file. Raises BadInput where it cannot be read, or not again."""
    need(not path.exists() or path.is_file(), f"{path} cannot be read as text: it is no file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def chosen_texts(source: TokenizerSource, context: int, asked: Path | None, key: str) -> Texts:
    """What a model is rounded on: the text `asked` for, else that of the table of a `table_key`, else the package's.

    Few tokens are told. Raises UsageError where the text asked for is too short, BadInput where it is none.
    """
    path = asked or text_of_table(key)
    if path is not None:
        try:
            texts = cut(source, read_text(path), context)
        except UsageError as error:
            if asked is not None:
                raise
            _log.warning(OTHERWISE, path, f"is of no use for it ({error})")
        else:
            found = sum(map(len, texts))
            if found < TOKENS:
                _log.warning("weights are rounded on only %s tokens of %s, and %s are usual", found, path, TOKENS)
            return texts
    return cut(source, read_text(), context)


def remember_text(key: str, path: Path | None) -> None:
    """Keep which text the table of a `table_key` was measured on; None: the one that comes with the package."""
    with locked(_note(key)) as note:
        if path is None:
            note.unlink(missing_ok=True)
        else:
            write_record(note, {"path": str(path.absolute()), "digest": text_digest(path) if path.is_file() else ""})


def text_of_table(key: str) -> Path | None:
    """The text that the table of a `table_key` was measured on, None where it is the one that comes with the package.

    Also None, with a warning, where its file is gone or has changed. Raises BadInput for a note that is none.
    """
    try:
        kept = json.loads(_note(key).read_text())
        path, digest = Path(kept["path"]), str(kept["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{_note(key)} names no text ({error!r}); remove it") from error
    if path.is_file() and text_digest(path) == digest:
        return path
    _log.warning(OTHERWISE, path, "has changed" if path.is_file() else "is gone")
    return None


def _note(key: str) -> Path:
    return home() / "sensitivities" / f"{key}.text.json"


def cut(source: TokenizerSource, words: str, context: int, tokens: int = TOKENS, length: int = LENGTH) -> Texts:
    """Sequences of `length` tokens (fewer where the model's context is shorter), `tokens` together at most.

    Where the text has more, sequences are taken evenly from all of it. Raises UsageError for one that gives none.
    """
    found = Tokenizer.load(source).encode(words, add_special=False)
    length = min(length, context)
    whole = [found[first : first + length] for first in range(0, len(found) - length + 1, length)]
    need(bool(whole), f"a text of {len(found)} tokens is too short to calibrate on: give {length} or more", UsageError)
    wanted = min(len(whole), max(1, tokens // length))
    return [whole[index * len(whole) // wanted] for index in range(wanted)]
