"""A folder that appears whole or not at all: it is filled under a name of its own, and what the dead left is swept."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pintpot.errors import BadPack, InUse, UsageError, need
from pintpot.packer.locks import alone, is_still

_DRAFT = re.compile(r"\..+\.pintpot-draft-[0-9a-f]{16}")
_ASIDE = re.compile(r"\.(.+)\.pintpot-aside-[0-9a-f]{16}")
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_AT_CWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A locked draft beside the folder that it is to become; it is gone at the end, unless it was moved away."""
    sweep(folder.parent)
    while True:
        draft = _draft_name(folder)
        draft.mkdir()
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Before it was locked, another process may have swept it.
        if is_still(draft, descriptor):
            break
        os.close(descriptor)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


def settle(draft: Path, folder: Path) -> None:
    """Put a finished draft in its place in one step. Raises InUse while somebody uses what is there."""
    try:
        os.rename(draft, folder)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        with alone(folder):
            _exchange(draft, folder)
    _flush(folder.parent)


def settle_new(finished: Path, place: Path) -> None:
    """Give a finished file or folder its name in one step. Raises UsageError where something has that name by now."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_CWD, os.fsencode(finished), _AT_CWD, os.fsencode(place), _NO_REPLACE) != 0:
        taken = ctypes.get_errno() == errno.EEXIST or os.path.lexists(place)
        need(not taken, f"{place} is there already; name another place", UsageError)
        os.rename(finished, place)  # a filesystem that cannot promise it
    _flush(place.parent)


def discard(folder: Path) -> None:
    """Remove a folder, out of sight in one step. Raises InUse while somebody uses it."""
    with alone(folder):
        doomed = _draft_name(folder)
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed processes left in a folder; what a living one still fills or moves is locked, and stays.

    What stepped aside for a draft that never came gets its name back.
    """
    for path in parent.iterdir():
        if path.is_symlink():
            continue
        if aside := _ASIDE.fullmatch(path.name):
            _put_back(path, path.with_name(aside[1]))
        elif _DRAFT.fullmatch(path.name):
            remove_free(path)


def remove_free(folder: Path) -> None:
    """Remove a folder, unless a process holds it or it is gone already."""
    with suppress(InUse, BadPack), alone(folder):
        shutil.rmtree(folder, ignore_errors=True)


def is_draft(path: Path) -> bool:
    """Whether a name is that of a draft, or of what stepped aside for one."""
    return any(names.fullmatch(path.name) for names in (_DRAFT, _ASIDE))


def _draft_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.pintpot-draft-{secrets.token_hex(8)}")


def _put_back(aside: Path, folder: Path) -> None:
    """Give a folder that nobody holds its name again; where that is taken, its successor came, and it goes."""
    with suppress(InUse, BadPack), alone(aside):
        try:
            os.rename(aside, folder)
        except OSError as error:
            if error.errno in _TAKEN:
                shutil.rmtree(aside, ignore_errors=True)


def _exchange(draft: Path, folder: Path) -> None:
    """Swap two folders; where the filesystem cannot do that at once, the old one steps aside first."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(draft), os.fsencode(folder)
    if libc.renameat2(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE) == 0:
        return
    aside = folder.with_name(f".{folder.name}.pintpot-aside-{secrets.token_hex(8)}")
    os.rename(folder, aside)
    os.rename(draft, folder)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until a folder's entries rest on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
