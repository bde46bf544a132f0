"""The bytes of a model's weights, read by rows and never mapped; what was read leaves the page cache again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.errors import BadFile, BadInput, UsageError, need
from pintpot.model.merged import added_rows
from pintpot.model.spec import Added, Model, Weight

if TYPE_CHECKING:
    import numpy as np

_PAGE = 4096
_READ_BYTES = 8 * 2**20
_SAMPLES = 64


class Store:
    """Reads the weights of a described model whose files are on this machine. A context manager; not for two threads.

    Raises UsageError for a model that is still on the hub (`pintpot.model.hub.download` brings it here).
    """

    def __init__(self, model: Model) -> None:
        need(
            model.source.kind != "hub", f"{model.source.path} is not on this machine yet; download it first", UsageError
        )
        self.model = model
        self._files = model.source.files
        self._handles: dict[int, int] = {}
        self._weights = {weight.name: weight for part in model.parts for weight in part.weights()}
        self._adapter: tuple[Added, np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def read(self, weight: Weight | str, first_row: int = 0, num_rows: int | None = None) -> np.ndarray:
        """Rows as they lie in the file: uint8 [num_rows, bytes per row], or all from `first_row` on.

        A weight of one axis is one row; the columns of a convolution's matrix come as `Weight.taps` says. Raises
        UsageError for rows that do not exist, BadFile where the file is shorter than it was when it was described.
        """
        import numpy as np

        found = self._weights[weight] if isinstance(weight, str) else weight
        total = rows_of(found)
        count = total - first_row if num_rows is None else num_rows
        inside = first_row >= 0 and 0 <= count <= total - first_row
        need(inside, f"{found.name} has rows 0 to {total - 1}; asked for {count} from {first_row} on", UsageError)
        if found.added is not None:
            return self._with_added(found.added, first_row, count)
        row_bytes = found.num_bytes // total
        rows = np.empty((count, row_bytes), np.uint8)
        self._read_into(found, first_row * row_bytes, rows.reshape(-1).data)
        return rows if found.taps == 1 else _by_place(rows, found)

    def row(self, weight: Weight, index: int) -> bytearray:
        """One row of a matrix as it lies in its file, in the file's order of columns, with nothing added."""
        found = bytearray(weight.num_bytes // rows_of(weight))
        self._read_into(weight, index * len(found), memoryview(found))
        return found

    def vector(self, weight: Weight | str) -> np.ndarray:
        """All values of a weight in a row: float32, with what its file leaves out added."""
        import numpy as np

        from pintpot.formats.source import decode

        found = self._weights[weight] if isinstance(weight, str) else weight
        values = decode(self.read(found), found.dtype, found.shape[-1]).reshape(-1).astype(np.float32)
        return values + np.float32(found.plus) if found.plus else values

    def _with_added(self, added: Added, first: int, count: int) -> np.ndarray:
        """Rows of a weight with its adapter; both matrices of the last one are kept."""
        if self._adapter is None or self._adapter[0] is not added:
            self._adapter = (added, self._values(added.a), self._values(added.b))
        _, a, b = self._adapter
        return added_rows(self._values(added.base, first, count), added, a, b, first)

    def _values(self, weight: Weight, first: int = 0, count: int | None = None) -> np.ndarray:
        from pintpot.formats.source import decode

        return decode(self.read(weight, first, count), weight.dtype, weight.shape[1])

    def sample_digest(self) -> str:
        """A digest of the description and of 64 spots of the data: tells two trainings of one network apart."""
        digest = hashlib.sha256(self.model.digest.encode())
        # What adapters hold is in the model's digest.
        stored = (weight.added.base if weight.added else weight for weight in self._weights.values())
        ordered = sorted(stored, key=lambda weight: (-weight.num_bytes, weight.name))[:_SAMPLES]
        for number, weight in enumerate(ordered):
            length = min(_PAGE, weight.num_bytes)
            spot = bytearray(length)
            offset = (weight.num_bytes - length) * number // _SAMPLES
            self._read_into(weight, offset, memoryview(spot))
            digest.update(spot)
        return digest.hexdigest()[:16]

    def _read_into(self, weight: Weight, first: int, target: memoryview) -> None:
        """Bytes of a weight from its byte `first` on."""
        done = 0
        for file, offset, count in _places(weight, first, len(target)):
            self._read_run(weight, file, offset, target[done : done + count])
            done += count

    def _read_run(self, weight: Weight, file: int, offset: int, target: memoryview) -> None:
        handle = self._handle(file)
        done = 0
        try:
            while done < len(target):
                got = os.preadv(handle, [target[done : done + _READ_BYTES]], offset + done)
                need(
                    got > 0,
                    f"{self._files[file]}: ends inside {weight.name}; it was longer when described",
                    BadFile,
                )
                # The page at the end stays: the next rows begin in it.
                first = (offset + done) // _PAGE * _PAGE
                done += got
                os.posix_fadvise(handle, first, (offset + done) // _PAGE * _PAGE - first, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise BadInput(f"cannot read {self._files[file]}: {error.strerror}") from error

    def _handle(self, file: int) -> int:
        if file not in self._handles:
            try:
                handle = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise BadInput(f"cannot open {self._files[file]}: {error.strerror}") from error
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._handles[file] = handle
        return self._handles[file]


def _places(weight: Weight, first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(file, offset, bytes) of the stretches in which bytes [first, first + count) of a weight lie."""
    if not weight.runs:
        yield weight.file, weight.offset + first, count
        return
    row_bytes = weight.num_bytes // weight.shape[0]
    for file, offset, rows in weight.runs:
        inside = min(count, rows * row_bytes - first)
        if inside > 0:
            yield file, offset + first, inside
            count -= inside
        first = max(0, first - rows * row_bytes)


def rows_of(weight: Weight) -> int:
    """The rows that `Store.read` counts: the first axis, or one for a vector."""
    return weight.shape[0] if len(weight.shape) == 2 else 1


def _by_place(rows: np.ndarray, weight: Weight) -> np.ndarray:
    """Rows of (channels, places) as rows of (places, channels)."""
    import numpy as np

    channels = weight.shape[1] // weight.taps
    value_bytes = rows.shape[1] // weight.shape[1]
    parts = rows.reshape(len(rows), channels, weight.taps, value_bytes)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3)).reshape(rows.shape)
