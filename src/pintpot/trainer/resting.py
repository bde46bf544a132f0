"""What learns and rests on disk: values and moments in one file, in two versions, while blocks pass through memory.

ZeRO-Infinity, Rajbhandari et al. 2021, arXiv:2104.07857. Values are lent to whoever computes, a block or some rows at
a time; moments come and go in records, as many ahead as there is memory for. What changed is written behind, by a
thread of its own, and always into the version that the last checkpoint does not name: that one stays as it is until the
next checkpoint names the other. So a checkpoint copies nothing, and a start that is ended at any moment leaves a whole
one. What was never written is as the model's own files have it, is decoded once and then written behind as well; its
moments are zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event
from typing import Any

import torch

from pintpot.contract.form import Form
from pintpot.contract.resting import DISK_BLOCK, PASSING, VERSIONS, passing, record_bytes, whole_blocks
from pintpot.errors import Interrupted, PintpotError
from pintpot.kernels.torch.threads import compute_alone
from pintpot.stream.regions import Regions
from pintpot.trainer.places import aligned_memory, bytes_of, places_of, pool_of

Source = Callable[[str, int, int], torch.Tensor]
"""Rows [first, stop) of a weight in float32, as the model's own files have them."""
Came = Callable[[str, torch.Tensor], None]
IN_FLIGHT = 2
"""Reads of values, reads of moments and writes that are on their way at once, of each: between two of its own a thread
waits for the processor, and the disk for it."""
LOOKING = 4
"""Rows that are looked up at a time."""
VALUES = -1
"""In the place of a record's number, less the first row."""
_LOOK_S = 0.2


@dataclass(frozen=True)
class Loan:
    """Values in memory, by name, float32: whole matrices, or of a single one the rows from `first` on."""

    tensors: Mapping[str, torch.Tensor]
    memory: torch.Tensor
    pool: Queue[torch.Tensor]
    first: int = 0


class Resting:
    """What of a form rests on disk, in a file at `path`. `kept` is the version that the last checkpoint names.

    Raises DiskTooSmall where there is no room for both versions: later there always is.
    """

    def __init__(self, path: Path, form: Form, source: Source, tile_rows: int) -> None:
        self._states, self._source = form.training.states if form.training else "", source
        self.places, self._version_bytes = places_of(form)
        sizes = passing(form.weights, form.training, tile_rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = Regions(path, VERSIONS * self._version_bytes)
        self._blocks, self._tiles = pool_of(PASSING, sizes.block_bytes), pool_of(PASSING, sizes.tile_bytes)
        self._records = pool_of(sizes.records, sizes.record_bytes)
        self.kept: int | None = None
        self._newest: dict[str, int | None] = dict.fromkeys(self.places)
        self._newest_moments: dict[str, int | None] = dict.fromkeys(self.places)
        self._loans: dict[str, Loan] = {}
        self._changed: set[str] = set()
        self._coming: deque[tuple[str, int, Future[torch.Tensor]]] = deque()
        self._writing: dict[tuple[str, int], Future[None]] = {}
        self._lender = ThreadPoolExecutor(IN_FLIGHT, "values ahead", compute_alone)
        self._reader = ThreadPoolExecutor(IN_FLIGHT, "moments ahead")
        self._writer = ThreadPoolExecutor(IN_FLIGHT, "written behind")
        self._broken: PintpotError | None = None
        self._closing = Event()

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def lend(
        self, names: Sequence[str], first: int = 0, stop: int | None = None, came: Came = lambda name, values: None
    ) -> Loan:
        """Read whole matrices of a block, or rows [first, stop) of a single one; waits for memory.

        `came` is told of each as soon as it is there, while the next one is read.
        """
        whole = stop is None
        pool = self._blocks if whole else self._tiles
        memory = self._free(pool)
        at, coming = 0, dict[str, Future[torch.Tensor]]()
        for name in names:
            last = stop or self.places[name].rows
            written = self._writing.get((name, VALUES)) if whole else None
            coming[name] = self._lender.submit(self._once, written, name, first, last, memory[at:])
            at += self._taken(name, first, last)
        tensors = dict[str, torch.Tensor]()
        for name, one in coming.items():
            tensors[name] = one.result()
            came(name, tensors[name])
        return Loan(tensors, memory, pool, first)

    def hand(self, loan: Loan) -> None:
        """From now on what it has may be changed."""
        self._loans.update(dict.fromkeys(loan.tensors, loan))

    def changing(self, name: str, first: int, rows: int) -> torch.Tensor:
        """Rows of a matrix that is lent, which will be changed in place."""
        loan = self._loans[name]
        self._changed.add(name)
        return loan.tensors[name][first - loan.first : first - loan.first + rows]

    def back(self, loan: Loan) -> None:
        """Take a loan back; what was changed, or decoded, is written behind. Raises what went wrong while writing."""
        self._raise()
        changed = self._changed.intersection(loan.tensors)
        new = [name for name in loan.tensors if name in changed or self._newest[name] is None]
        self._changed -= changed
        for name in loan.tensors:
            self._loans.pop(name, None)
        if not new:
            loan.pool.put(loan.memory)
            return
        slot = self.working
        written = self._writer.submit(self._write_values, new, loan, slot)
        for name in new:
            self._writing[name, VALUES - loan.first] = written
            if loan.first + len(loan.tensors[name]) == self.places[name].rows:
                self._newest[name] = slot
                if name in changed:
                    self._newest_moments[name] = slot

    def expect(self, names: Iterable[str]) -> None:
        """Moments of these are wanted soon, one record after the other."""
        for name in names:
            if name in self.places:
                place = self.places[name]
                for index in range(-(-place.rows // place.at_once)):
                    self._coming.append((name, index, self._reader.submit(self._read_record, name, index)))

    def take(self, name: str, index: int) -> torch.Tensor:
        """A record that was expected, in the order in which it was."""
        self._raise()
        if not self._coming:
            self.expect([name])
        coming = self._coming.popleft()
        if coming[:2] != (name, index):
            raise ValueError(f"moments of {name}, {index}, were not expected here, but {coming[:2]}")
        return coming[2].result()

    def put(self, name: str, index: int, record: torch.Tensor) -> None:
        """A record is written behind."""
        self._writing[name, index] = self._writer.submit(self._write_record, name, index, record, self.working)

    @property
    def working(self) -> int:
        """The version into which is written."""
        return 0 if self.kept is None else 1 - self.kept

    def looked_up(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Single rows of a matrix, float32 [n, K]."""
        self.settle()
        place, slot = self.places[name], self._newest[name]
        if slot is None:
            return torch.cat([self._source(name, row, row + 1) for row in rows])
        out = torch.empty((len(rows), place.columns))

        def some(start: int) -> None:
            memory = aligned_memory(whole_blocks(place.row_bytes) + DISK_BLOCK)
            for index in range(start, len(rows), LOOKING):
                out[index] = self._values(name, rows[index], rows[index] + 1, memory)

        with ThreadPoolExecutor(LOOKING, "looked up") as pool:
            list(pool.map(some, range(LOOKING)))
        return out

    def rows(self, name: str, first: int, stop: int) -> torch.Tensor:
        """Rows as they are now, a copy; for who goes over everything once learning has ended."""
        self.settle()
        memory = aligned_memory(whole_blocks((stop - first) * self.places[name].row_bytes) + DISK_BLOCK)
        return self._values(name, first, stop, memory)

    def settle(self) -> None:
        """Wait until everything that was given back is written. Raises what went wrong while writing."""
        for written in list(self._writing.values()):
            written.result()
        self._writing.clear()
        self._raise()

    def flushed(self) -> int:
        """The version that holds everything, once it rests on the disk: a checkpoint may name it, and then calls
        `keep`."""
        self.settle()
        self._file.flush()
        return self.working

    def keep(self, version: int) -> None:
        """A checkpoint names this version: it stays as it is, and everything is read from it."""
        self.kept = version
        self._newest = dict.fromkeys(self.places, version)
        self._newest_moments = dict.fromkeys(self.places, version)

    def stop(self) -> None:
        """Nobody waits for memory from now on."""
        self._closing.set()

    def close(self) -> None:
        """End all reading and writing."""
        self.stop()
        self._lender.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        self._file.close()

    def _raise(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _free(self, pool: Queue[torch.Tensor]) -> torch.Tensor:
        """Memory of a pool, once there is some."""
        while not self._closing.is_set():
            try:
                return pool.get(timeout=_LOOK_S)
            except Empty:
                self._raise()
        raise Interrupted("learning ended")

    def _once(self, written: Future[None] | None, name: str, *where: Any) -> torch.Tensor:
        """Rows, once that is written."""
        if written is not None:
            written.result()
        return self._values(name, *where)

    def _taken(self, name: str, first: int, stop: int) -> int:
        """Bytes of memory that rows take, in whole blocks."""
        row_bytes = self.places[name].row_bytes
        return whole_blocks(first * row_bytes % DISK_BLOCK + (stop - first) * row_bytes)

    def _values(self, name: str, first: int, stop: int, memory: torch.Tensor) -> torch.Tensor:
        """Rows in some bytes of memory, float32 [n, K]."""
        place, slot = self.places[name], self._newest[name]
        start, count = first * place.row_bytes, (stop - first) * place.columns
        before = start % DISK_BLOCK
        found = memory[before : before + 4 * count].view(torch.float32).view(stop - first, place.columns)
        if slot is None:
            for at in range(first, stop, place.at_once):
                some = found[at - first : at - first + place.at_once]
                some.copy_(self._source(name, at, at + len(some)))
            return found
        offset = slot * self._version_bytes + place.values_at + start - before
        self._file.read(offset, bytes_of(memory[: self._taken(name, first, stop)]))
        return found

    def _write_values(self, names: Sequence[str], loan: Loan, slot: int) -> None:
        def write() -> None:
            at = 0
            for name, value in loan.tensors.items():
                used = whole_blocks(4 * value.numel())
                if name in names:
                    place = self.places[name]
                    offset = slot * self._version_bytes + place.values_at + loan.first * place.row_bytes
                    self._file.write(offset, bytes_of(loan.memory[at : at + used]))
                at += used

        self._try(write, loan.pool, loan.memory)

    def _read_record(self, name: str, index: int) -> torch.Tensor:
        record, slot = self._free(self._records), self._newest_moments[name]
        written = self._writing.get((name, index))
        if written is not None:
            written.result()
        if slot is None:
            return record.zero_()
        self._file.read(*self._at(name, index, slot, record))
        return record

    def _write_record(self, name: str, index: int, record: torch.Tensor, slot: int) -> None:
        self._try(lambda: self._file.write(*self._at(name, index, slot, record)), self._records, record)

    def _at(self, name: str, index: int, slot: int, record: torch.Tensor) -> tuple[int, memoryview]:
        place = self.places[name]
        rows = min(place.at_once, place.rows - index * place.at_once)
        used = record_bytes(rows * place.columns, self._states)
        offset = slot * self._version_bytes + place.moments_at + index * place.record_bytes
        return offset, bytes_of(record[:used])

    def _try(self, write: Callable[[], None], pool: Queue[torch.Tensor], memory: torch.Tensor) -> None:
        """Write, give the memory back, and keep what went wrong for who comes next."""
        try:
            if self._broken is None:
                write()
        except PintpotError as error:
            self._broken = error
        finally:
            pool.put(memory)
