"""Reading GGUF's primitive values from a source, little-endian, never past its end and never all at once."""

from __future__ import annotations

import struct
from typing import Any, Final

from pintpot.errors import BadFile
from pintpot.model.source import ByteSource

_WINDOW_BYTES = 2**20
_LENGTH: Final = struct.Struct("<Q")


class Cursor:
    """A position in a source, read through one window."""

    def __init__(self, source: ByteSource, position: int = 0) -> None:
        self.source = source
        self.position = position
        self._start = 0
        self._window = b""

    def fail(self, why: str) -> BadFile:
        return BadFile(f"{self.source.name}: {why}")

    @property
    def remaining(self) -> int:
        return self.source.size - self.position

    def window(self, count: int) -> tuple[bytes, int]:
        """Bytes around the position and where in them it lies, with at least `count` bytes from there on."""
        if count > self.remaining:
            raise self.fail(f"ends at byte {self.source.size}, but {count} bytes were expected at byte {self.position}")
        at = self.position - self._start
        if at < 0 or at + count > len(self._window):
            self._window = self.source.read(self.position, min(max(count, _WINDOW_BYTES), self.remaining))
            self._start, at = self.position, 0
        return self._window, at

    def take(self, count: int) -> bytes:
        window, at = self.window(count)
        self.position += count
        return window[at : at + count]

    def skip(self, count: int) -> None:
        if count > self.remaining:
            raise self.fail(f"ends at byte {self.source.size}, but {count} bytes were expected at byte {self.position}")
        self.position += count

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self, what: str, max_bytes: int) -> str:
        length = self.number("Q")
        limit = min(max_bytes, self.remaining)
        if length > limit:
            raise self.fail(f"{what} at byte {self.position - 8} is {length} bytes long; at most {limit} are possible")
        start = self.position
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 at byte {start + error.start}") from error

    def strings(self, count: int, what: str) -> list[str]:
        """The next `count` length-prefixed strings."""
        found: list[str] = []
        unpack = _LENGTH.unpack_from
        while len(found) < count:
            window, at = self.window(8)
            window, at = self.window(8 + unpack(window, at)[0])
            base = self.position - at
            try:
                while len(found) < count and at + 8 <= len(window):
                    end = at + 8 + unpack(window, at)[0]
                    if end > len(window):
                        break
                    found.append(window[at + 8 : end].decode("utf-8"))
                    at = end
            except UnicodeDecodeError as error:
                raise self.fail(f"item {len(found)} of {what!r} is not UTF-8") from error
            self.position = base + at
        return found

    def skip_strings(self, count: int) -> None:
        """Pass over `count` length-prefixed strings."""
        unpack = _LENGTH.unpack_from
        while count:
            window, at = self.window(8)
            base, last = self.position - at, len(window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            self.skip(base + at - self.position)
