"""Who uses a pack's folder: readers share it, and who would move or remove it must be alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pintpot.errors import BadPack, InUse
from pintpot.packer.raw import no_pack


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold a pack against removal and replacement. Raises BadPack when it is not there."""
    descriptor = _locked(folder, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against everybody. Raises InUse while a process uses it, BadPack when it is not there."""
    try:
        descriptor = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(f"{folder} is in use by another process; stop that one first") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path, kind: int) -> int:
    """A descriptor of the folder with a lock; while it was waited for, the folder may have become another."""
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise no_pack(folder) from error
        except OSError as error:
            raise BadPack(f"{folder} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, kind)
            if is_still(folder, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_still(folder: Path, descriptor: int) -> bool:
    """Whether the folder of this name is the one that was opened."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False
