"""A laid-out program, bound to memory, as one native call.

    scratch_bytes(program, threads)      what a replay needs beside the program's buffers
    bind(program, addresses, weights, pool, ...) -> Replay
    replay.call() -> Call                arrays to fill in;     replay.run(call) replays

Addresses are numbers inside the arenas given to `bind`; everything is checked there, and every call again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pintpot._native import Arena, Builder, Call, CancelFlag, Pool, Ring, SlotError
from pintpot._native import Replay as NativeReplay
from pintpot._native import Weight as NativeWeight
from pintpot.errors import BadPack, UsageError
from pintpot.kernels.native.record import record
from pintpot.program.layout import buffer_bytes
from pintpot.program.spec import Program

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [first_row, first_row + num_rows) of a weight, whole strips, at `offset` of slot `slot`."""

    slot: int
    offset: int
    first_row: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class BoundWeight:
    """A packed matrix [rows, columns]: its first `resident_rows` (whole strips) lie at `address`, the others on disk.

    Of `experts` matrices, one below the other, so many of each lie there, expert by expert. What is on disk lies in
    `pieces`, in row order; a tied embedding uses the head's. Slots of rows that are only looked up by token need not be
    in the ring's order.
    """

    name: str
    format: str
    rows: int
    columns: int
    address: int
    resident_rows: int
    pieces: tuple[Piece, ...] = ()
    experts: int = 1

    def native(self) -> NativeWeight:
        pieces = [(piece.slot, piece.offset, piece.first_row, piece.num_rows) for piece in self.pieces]
        return NativeWeight(
            self.format, self.rows, self.columns, self.address, self.resident_rows, pieces, self.experts
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds of each op, in the program's order, summed over `calls` replays."""

    calls: int
    kinds: tuple[str, ...]
    seconds: tuple[float, ...]


class Replay:
    """A bound program. It keeps the arenas, the ring and the pool it uses; drop it before closing them."""

    def __init__(
        self, program: Program, native: NativeReplay, addresses: Mapping[str, int], arenas: Sequence[Arena]
    ) -> None:
        self.program = program
        self._native = native
        self._addresses = addresses
        self._arenas = tuple(arenas)

    def call(self, history: int = 0) -> Call:
        """Arguments of a replay, in arrays of the program's bounds; `history` earlier tokens for the penalty.

        Fill tokens, positions and sequence [num_tokens], rows [num_rows], pages [sequences, pages] (-1: none), and per
        sequence temperature, top_k, top_p, min_p, penalty, seed, counter, history and history_length. One call serves
        every replay whose bounds are not smaller.
        """
        bound = self.program.bound
        return Call(bound("tokens"), bound("rows"), bound("sequences"), bound("context"), history)

    def run(self, call: Call, first: int = 0, stop: int | None = None) -> bool:
        """Replay ops [first, stop), by default all. False when the cancel flag was set.

        With num_rows 0 the ops over rows do nothing and their streamed slots are not read. Raises UsageError for a call
        that cannot be, BadPack when streamed bytes cannot be read or are not what the pack says; what a Python signal
        handler raises comes out of it.
        """
        try:
            return self._native.run(call, first, stop)
        except ValueError as error:
            raise UsageError(f"{self.program.name}: {error}") from error
        except (SlotError, OSError) as error:
            raise BadPack(f"{self.program.name}: {error}") from error

    @property
    def progress(self) -> int:
        """Ops done in the call under way, from any thread."""
        return self._native.progress

    def profile(self, on: bool) -> None:
        """Start or stop taking the time of every op; forgets what was taken."""
        self._native.profile(on)

    def stats(self) -> Profile:
        found = self._native.stats()
        return Profile(found["calls"], tuple(found["kinds"]), tuple(found["seconds"]))

    def floats(self, name: str) -> NDArray[float32]:
        """A float32 buffer of the program, with axes at their bounds, as a view (logits, say)."""
        import numpy as np

        shape = self.program.shape(name)
        return np.frombuffer(self._view(name), np.float32, count=_count(shape)).reshape(shape)

    def rows(self, name: str, num_rows: int) -> memoryview[float]:
        """The first rows of a float32 buffer [rows, width] of the program, as a view that needs no numpy."""
        width = self.program.shape(name)[1]
        # A cast to two axes exists from bytes only, and such a view cannot be cut.
        return self._view(name)[: 4 * num_rows * width].cast("f", (num_rows, width))

    def integers(self, name: str) -> memoryview[int]:
        """An int32 buffer of the program as a flat view (next, say)."""
        return self._view(name)[: 4 * _count(self.program.shape(name))].cast("i")

    def bytes(self, name: str) -> memoryview:
        """A buffer of the program as it lies in memory, to read and to write."""
        return self._view(name)[: buffer_bytes(self.program, self.program.by_name[name])]

    def _view(self, name: str) -> memoryview:
        address = self._addresses[name]
        arena = next(arena for arena in self._arenas if 0 <= address - arena.address < arena.nbytes)
        return memoryview(arena)[address - arena.address :]


def scratch_bytes(program: Program, threads: int) -> int:
    """Bytes of one region that replays of this program use beside its buffers; programs may share it.

    Its `fetch` ops say which weights have rows on disk. Raises UsageError for a program that the native backend cannot
    run.
    """
    builder = _builder(program, "")
    on_disk = {op.read("weight") for op in program.ops if op.kind == "fetch"}
    weights = [buffer.name for buffer in program.buffers if buffer.holder == "weights"]
    try:
        experts = {name: op.get("experts", 1) for op in program.ops for name in op.read_all("weight")}
        unplaced = {name: _unplaced(program, name, name in on_disk, experts.get(name, 1)) for name in weights}
        record(builder, program, dict.fromkeys(program.by_name, 0), unplaced)
        return builder.scratch_bytes(threads)
    except ValueError as error:
        raise UsageError(f"{program.name}: {error}") from error


def bind(
    program: Program,
    addresses: Mapping[str, int],
    weights: Mapping[str, BoundWeight],
    pool: Pool,
    *,
    arenas: Sequence[Arena],
    scratch: int,
    scratch_size: int,
    ring: Ring | None = None,
    cancel: CancelFlag | None = None,
    isa: str = "",
) -> Replay:
    """Bind a program to memory. `addresses` gives every buffer that is no matrix, `weights` every matrix.

    `scratch` is the address of `scratch_size` bytes, at least `scratch_bytes(program, pool.size)`, at a multiple of
    4096. `ring` serves what is not resident. `cancel`, shared by several replays, makes them return False. `isa` names
    an instruction set, "" the best. Raises BadPack when sizes, places or order do not fit together.
    """
    builder = _builder(program, isa)
    try:
        record(builder, program, addresses, {name: weight.native() for name, weight in weights.items()})
        flag = CancelFlag() if cancel is None else cancel
        native = NativeReplay(builder, pool, ring, list(arenas), scratch, scratch_size, flag)
    except (ValueError, TypeError) as error:
        raise BadPack(f"{program.name} cannot be bound: {error}") from error
    return Replay(program, native, addresses, arenas)


def _builder(program: Program, isa: str) -> Builder:
    bound = program.bound
    return Builder(bound("tokens"), bound("rows"), bound("sequences"), bound("context"), isa)


def _unplaced(program: Program, name: str, on_disk: bool, experts: int) -> NativeWeight | None:
    shape = program.shape(name)
    if len(shape) != 2:
        return None
    rows, columns = shape
    pieces = [(0, 0, 0, rows)] if on_disk else []
    resident = 0 if on_disk else rows // experts
    return NativeWeight(program.by_name[name].format, rows, columns, 0, resident, pieces, experts)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for axis in shape:
        count *= axis
    return count
