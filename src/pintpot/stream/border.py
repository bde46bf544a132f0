"""What the native part raises, as the errors of this house."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pintpot._native import SlotError
from pintpot.errors import BadFile, DiskTooSmall, DoesNotFit, PintpotError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def native_errors(what: str, broken: type[PintpotError] = BadFile) -> Iterator[None]:
    """Turn native errors inside into ours: `broken` for what cannot be read or is not what it should be.

    Raises DoesNotFit where memory is refused, DiskTooSmall where a disk is full.
    """
    try:
        yield
    except MemoryError as error:
        raise DoesNotFit(f"{what}: the machine gave no memory for it") from error
    except OSError as error:
        if error.errno in _FULL:
            raise DiskTooSmall(f"{what}: {error.strerror}; make room and start again") from error
        raise broken(f"{what}: {error.strerror}") from error
    except (SlotError, ValueError) as error:
        raise broken(f"{what}: {error}") from error
