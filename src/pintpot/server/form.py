"""A form with a file (multipart/form-data, RFC 7578), read as it comes: the file goes to disk, whatever its size.

The file has no name while it is there, so nothing is left of it when the server ends, however it ends.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pintpot.errors import DiskTooSmall, need
from pintpot.server.schema import Invalid

MOST_HEAD, MOST_FIELD, MOST_PARTS = 8 << 10, 64 << 10, 64
FILE = "file"
_BOUNDARY = re.compile(
    r'^multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE
)
_NAME = re.compile(r';\s*name="([^"]*)"')
_FILE_NAME = re.compile(r';\s*filename="([^"]*)"')


class Form:
    """What was sent: fields by name, and one file. `feed` it with what comes, then `finish`; `close` it at the end."""

    def __init__(self, content_type: str, folder: Path) -> None:
        """`folder` is where the file goes. Raises Invalid where the body is no form."""
        found = _BOUNDARY.match(content_type)
        if found is None:
            raise Invalid("the body is a form with a file: multipart/form-data with a boundary")
        self.fields: dict[str, str] = {}
        self.file_name, self.num_bytes, self.closed = "", 0, False
        self._folder = folder
        self._file: BinaryIO | None = None
        self._delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
        self._held, self._num_parts = bytearray(b"\r\n"), 0
        self._take: Callable[[bytes], None] = lambda data: None
        self._parse: Callable[[], bool] = self._body

    @property
    def path(self) -> Path:
        """Where the file can be read until the form is closed. Raises Invalid where none came."""
        if self._file is None:
            raise Invalid(f"{FILE} is missing", FILE)
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    def feed(self, data: bytes) -> None:
        """More of the body. Raises Invalid, DiskTooSmall."""
        self._held += data
        while self._parse():
            pass

    def finish(self) -> None:
        """That was all of it. Raises Invalid for a body that ends too early."""
        need(self._parse == self._rest, "the form ends in the middle", Invalid)
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Give the file back."""
        self.closed = True
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _body(self) -> bool:
        """Take what is certainly no delimiter. Returns whether one was found, behind which something else begins."""
        at = self._held.find(self._delimiter)
        sure = at if at >= 0 else len(self._held) - len(self._delimiter)
        if sure > 0:
            self._take(bytes(self._held[:sure]))
        del self._held[: max(0, sure) + (len(self._delimiter) if at >= 0 else 0)]
        if at >= 0:
            self._parse = self._line
        return at >= 0

    def _line(self) -> bool:
        """What stands behind a delimiter: another part, or the end."""
        if self._held.startswith(b"--"):
            self._parse = self._rest
            return True
        at = self._held.find(b"\r\n")
        need(at >= 0 or len(self._held) < MOST_HEAD, "a boundary of the form stands in the middle of a line", Invalid)
        if at >= 0:
            need(not self._held[:at].strip(), "a boundary of the form stands in the middle of a line", Invalid)
            # The end of this line also begins the empty one of a part without a head.
            del self._held[:at]
            self._parse = self._head
        return at >= 0

    def _head(self) -> bool:
        at = self._held.find(b"\r\n\r\n")
        need(at >= 0 or len(self._held) < MOST_HEAD, "the head of a part of the form is too long", Invalid)
        if at < 0:
            return False
        lines = bytes(self._held[:at]).decode("utf-8", "replace").split("\r\n")
        del self._held[: at + 4]
        self._begin(next((line for line in lines if line.lower().startswith("content-disposition:")), ""))
        self._parse = self._body
        return True

    def _rest(self) -> bool:
        self._held.clear()
        return False

    def _begin(self, disposition: str) -> None:
        self._num_parts += 1
        need(self._num_parts <= MOST_PARTS, f"the form has more than {MOST_PARTS} parts", Invalid)
        name, file_name = _NAME.search(disposition), _FILE_NAME.search(disposition)
        if name is None:
            raise Invalid("a part of the form has no name")
        if name[1] == FILE:
            need(self._file is None, "there are several files, and one is read", Invalid)
            self.file_name = os.path.basename(file_name[1] if file_name else "")[:100] or "the file"
            self._file = _unnamed(self._folder)
            self._take = self._write
        else:
            self._take = self._field(name[1])

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "no file was begun"
        try:
            self._file.write(data)
            self.num_bytes += len(data)
        except OSError as error:
            raise DiskTooSmall(f"the file cannot be kept while it is heard: {error.strerror}") from error

    def _field(self, name: str) -> Callable[[bytes], None]:
        data = bytearray()

        def take(part: bytes) -> None:
            data.extend(part)
            need(len(data) <= MOST_FIELD, f"{name[:40]} is too long", Invalid)
            self.fields[name] = data.decode("utf-8", "replace")

        self.fields[name] = ""
        return take


def _unnamed(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise DiskTooSmall(f"no file can be kept in {folder}: {error.strerror}") from error
