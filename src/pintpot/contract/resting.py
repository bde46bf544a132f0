"""What learns and rests on disk: in which pieces it comes and goes, and the bytes of these there and in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

from pintpot.contract.training import DYNAMIC8, STATE_BLOCK, TrainingForm, block_of
from pintpot.contract.weights import WeightForm

RECORD_VALUES, RECORD_UNIT = 1 << 18, 1024
"""Values that are updated at a time, and read and written where their moments rest on disk: about so many in whole
rows, and a multiple of the second, which is whole blocks of moments in 8 bits and of the disk."""
RECORDS_AHEAD = 12, 40
"""Moments that rest on disk are in memory for as many of these at a time as a block has, but for so many at least and
at most: the more, the more of them is read and written while gradients are computed."""
PASSING = 2
"""Blocks that rest on disk are in memory so many at a time: one is computed, the next one comes."""
VERSIONS = 2
"""Of what rests on disk: that of the last checkpoint, and that which is learned."""
DISK_BLOCK, HUGE_PAGE = 4096, 2 << 20


@dataclass(frozen=True, slots=True)
class Passing:
    """Bytes in memory of what passes by: the largest block, rows of a matrix that is in none, and so many records."""

    block_bytes: int = 0
    tile_bytes: int = 0
    record_bytes: int = 0
    records: int = 0

    @property
    def values_bytes(self) -> int:
        return PASSING * (self.block_bytes + self.tile_bytes)

    @property
    def moments_bytes(self) -> int:
        return self.records * self.record_bytes


def passing(weights: Iterable[WeightForm], how: TrainingForm | None, tile_rows: int) -> Passing:
    """Of a form's weights, where `tile_rows` of a vocabulary are computed with at a time."""
    blocks, records = dict[str, int](), dict[str, int]()
    tile = record = 0
    for weight in weights:
        if how is None or not rests_on_disk(weight, how):
            continue
        rows, columns = weight.shape
        record = max(record, record_bytes(min(rows, record_rows(columns)) * columns, how.states))
        if "." in weight.name:
            name = block_of(weight.name)
            blocks[name] = blocks.get(name, 0) + whole_blocks(4 * rows * columns)
            records[name] = records.get(name, 0) + -(-rows // record_rows(columns))
        else:  # wherever they begin
            tile = max(tile, whole_blocks(4 * min(rows, tile_rows) * columns) + DISK_BLOCK)
    least, most = RECORDS_AHEAD
    ahead = max(least, min(most, max(records.values(), default=0))) if record else 0
    return Passing(max(blocks.values(), default=0), tile, record, ahead)


def rests_on_disk(weight: WeightForm, how: TrainingForm | None) -> bool:
    """Whether a weight learns, and rests on disk with its moments but while it is computed and updated."""
    learns = how is not None and how.changes(weight) and not how.distance
    return learns and weight.is_matrix and not weight.ram_rows


def record_rows(columns: int) -> int:
    """Rows of a matrix that are updated at a time: as many as `RECORD_VALUES` holds, and whole units."""
    least = RECORD_UNIT // gcd(RECORD_UNIT, columns)
    return max(1, RECORD_VALUES // (least * columns)) * least


def record_bytes(num_values: int, states: str) -> int:
    """Bytes on disk of the moments of so many values that are updated at a time."""
    coded = 2 * num_values + 8 * -(-num_values // STATE_BLOCK)
    return whole_blocks(coded if states == DYNAMIC8 else 8 * num_values)


def resting_bytes(shape: tuple[int, ...], states: str) -> tuple[int, int]:
    """Bytes on disk of a matrix that learns, and of its moments."""
    rows, columns = shape
    at_once = record_rows(columns)
    whole, rest = divmod(rows, at_once)
    moments = whole * record_bytes(at_once * columns, states)
    return whole_blocks(4 * rows * columns), moments + (record_bytes(rest * columns, states) if rest else 0)


def whole_blocks(num_bytes: int) -> int:
    """`num_bytes`, and what is lacking to a whole block of the disk."""
    return -(-num_bytes // DISK_BLOCK) * DISK_BLOCK
