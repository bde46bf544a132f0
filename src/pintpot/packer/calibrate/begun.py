"""Arrays of a long computation, each on disk whole or not at all, so that a start that was ended is gone on with."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, DiskTooSmall
from pintpot.packer.locks import is_still

KEY = "asked.json"
_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Begun:
    """A folder for one question; what another question left in it is removed. A context manager.

    Inside, no other process has the folder: while one has, `waits` is called once and the lock is waited for. Raises
    DiskTooSmall where the disk is full, BadInput where the folder cannot be written.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], waits: Callable[[], object] = lambda: None) -> None:
        self.folder = folder
        self._asked, self._waits = json.dumps(asked, sort_keys=True), waits
        self._lock = -1

    def __enter__(self) -> Begun:
        with self._writing():
            self._lock = self._alone()
            try:
                self._clear()
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def num_bytes(self) -> int:
        """What is there already."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def get(self, name: str) -> NDArray[Any]:
        """What was put under a name. Raises BadInput where it is damaged or gone."""
        try:
            return np.asarray(np.load(self._path(name), allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{self._path(name)} cannot be read ({error}); remove {self.folder}") from error

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Keep an array under a name."""
        with self._writing():
            descriptor, part = tempfile.mkstemp(dir=self.folder, suffix=_PART)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    # numpy's own way of saving forgets why a disk took less.
                    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
                    file.write(np.ascontiguousarray(values).data)
                os.replace(part, self._path(name))
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def end(self) -> None:
        """Everything is done: the folder goes."""
        shutil.rmtree(self.folder)

    def _alone(self) -> int:
        """The folder's descriptor, locked; while it was waited for, the folder may have gone and come again."""
        waited = False
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not waited:
                        self._waits()
                    waited = True
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_still(self.folder, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _clear(self) -> None:
        """Remove what another question left, and what a start that was killed did not finish."""
        mine = self._is_mine()
        for path in self.folder.iterdir():
            if not mine or path.suffix == _PART:
                path.unlink()
        (self.folder / KEY).write_text(self._asked)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise DiskTooSmall(f"{self.folder} is full; make room, and the next start goes on from here") from error
            raise BadInput(f"{self.folder} cannot be written ({error.strerror}); make room there") from error

    def _is_mine(self) -> bool:
        try:
            return (self.folder / KEY).read_text() == self._asked
        except OSError:
            return False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"
