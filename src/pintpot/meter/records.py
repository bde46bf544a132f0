"""Small JSON records under PINTPOT_HOME: locked while they change, replaced whole; two processes lose nothing."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Hold a record alone while it is read, changed and written. Raises BadInput where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
    except OSError as error:
        why = f"{path.parent} cannot be written ({error.strerror}); make room, or set PINTPOT_HOME to another folder"
        raise BadInput(why) from error


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a record whole or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(data, file, indent=0, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
