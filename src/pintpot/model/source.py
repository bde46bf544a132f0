"""Where a description is read from: files and folders, on this disk or elsewhere, behind two narrow seams."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from pintpot.errors import BadFile, BadInput, need
from pintpot.units import format_bytes

_MAX_TEXT_BYTES = 100 * 2**20


class ByteSource(Protocol):
    """Bytes with a known size. `read` gives exactly `count` bytes or raises BadFile."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...


class Folder(Protocol):
    """Files by plain name. `text` is None where there is no such file; `open` raises BadInput there."""

    @property
    def name(self) -> str: ...

    def names(self) -> frozenset[str]: ...

    def text(self, name: str) -> str | None: ...

    def open(self, name: str) -> ByteSource: ...


class LocalFile:
    """A file of this machine, opened for each read so that nothing is left open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error

    def read(self, offset: int, count: int) -> bytes:
        need(
            offset >= 0 and 0 <= count <= self.size - offset,
            f"{self.name}: bytes {offset} to {offset + count} of {self.size}",
            BadFile,
        )
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(handle, count, offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from error
        need(len(data) == count, f"{self.name}: asked for {count} bytes at {offset}, got {len(data)}", BadFile)
        return data


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    def names(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.path))
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from error

    def text(self, name: str) -> str | None:
        if not (self.path / name).is_file():
            return None
        source = LocalFile(self.path / name)
        return decode_text(source.read(0, checked_text_size(source)), name)

    def open(self, name: str) -> LocalFile:
        return LocalFile(self.path / name)


def checked_text_size(source: ByteSource) -> int:
    """The source's size. Raises BadFile where it is too large to be a text that is read whole."""
    limit = format_bytes(_MAX_TEXT_BYTES)
    need(
        source.size <= _MAX_TEXT_BYTES,
        f"{source.name} has {format_bytes(source.size)}; at most {limit} is read",
        BadFile,
    )
    return source.size


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 text. Raises BadFile with the offset of the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"{where}: byte {error.start} is not UTF-8") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} comes twice")
    return found


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises BadFile for anything else, keys that come twice included."""
    try:
        found = json.loads(text, object_pairs_hook=_no_twins)
    except ValueError as error:
        raise BadFile(f"{where} is not JSON: {error}") from error
    except RecursionError as error:
        raise BadFile(f"{where} is nested too deeply to be read") from error
    need(isinstance(found, dict), f"{where} holds a {type(found).__name__}, not an object", BadFile)
    return dict(found)
