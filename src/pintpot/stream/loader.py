"""A region of a file on its way into an arena from the first moment on, while the caller does something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pintpot._native import Arena
from pintpot._native import Loader as NativeLoader
from pintpot.errors import BadPack
from pintpot.stream.border import native_errors

IN_FLIGHT = 4
_LOOK_S = 0.1


class Loader:
    """Fills the first `num_bytes` of an arena that nobody has touched, as far as `allow` says, and verifies them.

    Its threads touch, read and check blocks side by side: one CRC-32C for each `run_bytes`. Close it before the arena.
    Raises BadPack where the file cannot be read.
    """

    def __init__(
        self, path: Path, offset: int, arena: Arena, num_bytes: int, crcs: Sequence[int], run_bytes: int
    ) -> None:
        self._what, self.num_bytes = f"reading {path}", num_bytes
        with native_errors(self._what, BadPack):
            self._native = NativeLoader(str(path), offset, arena, num_bytes, list(crcs), run_bytes, IN_FLIGHT)

    @property
    def direct(self) -> bool:
        """False where the filesystem made it go through the page cache."""
        return self._native.direct

    def allow(self, num_bytes: int) -> None:
        """The first `num_bytes` may be in memory from now on."""
        self._native.allow(num_bytes)

    def finish(self, told: Callable[[int], object] = lambda done: None) -> int | None:
        """Wait for everything; `told(bytes)` hears how far it is. The number of the first changed run, if one is.

        Raises BadPack where the file cannot be read, DoesNotFit where the machine gives no memory.
        """
        self.allow(self.num_bytes)
        done = -1
        while done < self.num_bytes and self._native.changed is None:
            with native_errors(self._what, BadPack):
                done = self._native.wait(_LOOK_S)
            told(done)
        return self._native.changed

    def beside(self, look: Callable[[], int]) -> int:
        """What `look` measures of this process's memory, less what this has touched of the arena."""
        return self._native.beside(look)

    def close(self) -> None:
        """End the reading wherever it is."""
        self._native.close()
