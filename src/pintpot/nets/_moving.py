"""What comes and goes while a decoder learns: weights that rest elsewhere, rows of its head, insides of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pintpot.contract.resting import DISK_BLOCK, record_rows, resting_bytes, rests_on_disk, whole_blocks
from pintpot.contract.training import TrainingForm, stored_bytes
from pintpot.contract.weights import STRIP_ROWS, WeightForm
from pintpot.program.spec import Lane, Op, Program, Segment

LOSS_BYTES = 8 << 20
"""Logits of a chunk of the vocabulary, and as much again that is made of them; of its rows no more, either."""
LEAST_CHUNK = 256
ON_THEIR_WAY = 2
"""Insides that are in memory at once while they are written or read: one is copied or used, the other one comes or
goes."""
ASIDE = "activations on their way"


def moved(kind: str, num_bytes: int, lane: Lane = "compute") -> Iterator[Op]:
    """What comes or goes in one pass, where there is something."""
    if num_bytes:
        yield Op(kind, (), (), (("bytes", num_bytes),), lane=lane)


def away_bytes(weight: WeightForm, how: TrainingForm, moments: bool) -> int:
    """Bytes that are read of a weight that is not in memory, and of its moments."""
    if rests_on_disk(weight, how):
        rows, columns = weight.shape
        found = resting_bytes((rows, columns), how.states)
        return sum(found) if moments else found[0]
    return 0 if weight.ram_rows or not weight.is_matrix else stored_bytes(weight)


def rows_at_once(head: WeightForm, tokens: int, learns: bool) -> int:
    """Rows of a head at a time, for logits of so many tokens; where it `learns` whole records of what is updated."""
    rows, columns = head.shape
    most = min(LOSS_BYTES // (4 * tokens), LOSS_BYTES // (4 * columns))
    chunk = max(LEAST_CHUNK, most) // STRIP_ROWS * STRIP_ROWS
    if learns:
        chunk = max(1, chunk // record_rows(columns)) * record_rows(columns)
    return min(rows, chunk)


def piece_bytes(sizes: Iterable[int]) -> int:
    """Bytes at most of an inside on disk whose ops hold so many: each of their tensors begins where vectors do."""
    found = list(sizes)
    return whole_blocks(sum(found)) + DISK_BLOCK * len(found)


def put_aside(saved: Iterable[str], piece: int, count: int) -> Iterator[Op]:
    """An inside of `count` pieces is copied together, and written behind."""
    knobs = (("bytes", count * piece), ("pieces", count))
    yield Op("aside", tuple(("saved", name) for name in saved), (("out", ASIDE),), knobs)
    yield Op("store", (), (), knobs, lane="write")


def brought_back(piece: int, count: int) -> Iterator[Op]:
    """It is read ahead of the block that goes back through it."""
    yield Op("fetch", (), (("out", ASIDE),), (("bytes", count * piece), ("pieces", count)), lane="read")


def staying_here(program: Program) -> Program:
    """The same where nobody goes back: nothing is put aside."""
    ops: list[Op] = []
    segments: list[Segment] = []
    for segment in program.segments:
        own = [op for op in program.ops[segment.first : segment.stop] if op.kind not in ("aside", "store")]
        segments.append(Segment(len(ops), len(ops) + len(own), segment.slot))
        ops += own
    return replace(program, ops=tuple(ops), segments=tuple(segments))
