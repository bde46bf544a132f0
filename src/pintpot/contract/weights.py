"""How each weight is kept: its format, and how many of its rows rest in RAM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

from pintpot.contract.targets import FIXED_ROLES, LOOKED_UP, SHARED
from pintpot.formats import STRIP_ROWS as STRIP_ROWS
from pintpot.formats import encoding
from pintpot.program.spec import Table

LEFT_BYTES = {"f32": 4, "bf16": 2}
"""Of a value of what is no matrix of ours: vectors, and leaves that are left to another library."""


@dataclass(frozen=True, slots=True)
class WeightForm:
    """How one weight is kept. Rows [0, ram_rows) rest in RAM, the others on disk, streamed through the ring.

    Of `experts` matrices, one below the other, each has its first `ram_rows` in RAM: whichever are chosen, as much of
    them is read.
    `source` is the encoding in the model's own files; `packed` says that `format` is one of the tile layouts.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    format: str
    ram_rows: int
    packed: bool = False
    experts: int = 1

    @property
    def role(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2

    @property
    def may_stream(self) -> bool:
        """Whether rows of it may be read from disk: it is used once in a pass, and large."""
        return self.is_matrix and self.role not in (SHARED, *FIXED_ROLES)

    @property
    def num_strips(self) -> int:
        return -(-self.shape[0] // STRIP_ROWS)

    @property
    def rows(self) -> int:
        """Rows of one expert, or of all."""
        return self.shape[0] // self.experts

    @property
    def expert_strips(self) -> int:
        """Strips of one expert, or of all."""
        return -(-self.rows // STRIP_ROWS)

    @property
    def ram_strips(self) -> int:
        """Strips of one expert that are in RAM, or of all."""
        return -(-self.ram_rows // STRIP_ROWS)

    def runs(self) -> tuple[range, range]:
        """Where the experts' strips begin that are in RAM, and where those on disk do."""
        starts = [range(first, first + self.num_strips, self.expert_strips) for first in (0, self.ram_strips)]
        return starts[0], starts[1]

    @property
    def in_grid(self) -> WeightForm:
        """The same weight with no columns kept apart."""
        return replace(self, format=encoding(self.format).grid)

    @property
    def strip_bytes(self) -> int:
        return bytes_of_strip(self.format, self.shape[1])

    @property
    def ram_bytes(self) -> int:
        shape = self.shape
        if len(shape) != 2:
            return 4 * shape[0]
        return self.experts * -(-self.ram_rows // STRIP_ROWS) * bytes_of_strip(self.format, shape[1])

    @property
    def disk_bytes(self) -> int:
        rows = self.rows
        if self.ram_rows >= rows or len(self.shape) != 2:
            return 0
        strips = -(-rows // STRIP_ROWS) + -self.ram_rows // STRIP_ROWS
        return self.experts * strips * bytes_of_strip(self.format, self.shape[1])

    @property
    def num_bytes(self) -> int:
        return self.ram_bytes + self.disk_bytes


@cache
def bytes_of_strip(name: str, columns: int) -> int:
    found = encoding(name)
    # What a file holds and no kernel reads lies row after row.
    return found.strip_bytes(columns) if found.is_kernel else STRIP_ROWS * found.row_bytes(columns)


class Weights(Table[WeightForm]):
    """The weights of a form, in the model's order, and what is often asked of all of them."""

    @cached_property
    def by_name(self) -> dict[str, WeightForm]:
        return {weight.name: weight for weight in self}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.by_name)

    @cached_property
    def ram_bytes(self) -> int:
        return sum([weight.ram_bytes for weight in self])

    @cached_property
    def disk_bytes(self) -> int:
        return sum([weight.disk_bytes for weight in self if weight.ram_rows < weight.rows])

    @property
    def num_bytes(self) -> int:
        return self.ram_bytes + self.disk_bytes

    @cached_property
    def vector_bytes(self) -> int:
        """Norms, biases, what is used several times, and what chooses experts: they are always in RAM."""
        return sum(weight.ram_bytes for weight in self if not weight.may_stream)

    @cached_property
    def matrices(self) -> tuple[tuple[str, int, int, int], ...]:
        """Of each matrix that may be on disk its name, strips of one expert (or all), bytes of one, and experts."""
        return tuple([(w.name, w.expert_strips, w.strip_bytes, w.experts) for w in self if w.may_stream])

    @cached_property
    def num_values(self) -> Mapping[str, int]:
        """Values of all matrices by format."""
        values: Counter[str] = Counter()
        for weight in self:
            if weight.is_matrix:
                values[weight.format] += weight.shape[0] * weight.shape[1]
        return values

    @cached_property
    def sources(self) -> frozenset[str]:
        """The encodings that the matrices come in, but for those that stay as they are."""
        return frozenset(weight.source for weight in self if weight.is_matrix and weight.role not in FIXED_ROLES)

    @cached_property
    def unpacked(self) -> tuple[str, ...]:
        """Matrices that no step has given one of the packed formats."""
        return tuple(weight.name for weight in self if weight.is_matrix and not weight.packed)

    @cached_property
    def largest_strip_bytes(self) -> int:
        return max((weight.strip_bytes for weight in self if weight.is_matrix), default=0)

    @cached_property
    def looked_up(self) -> frozenset[str]:
        """Matrices of which a pass needs single rows only: an embedding that is not also the head."""
        own = (weight.name for weight in self if weight.is_matrix and weight.name.endswith(f".{LOOKED_UP}"))
        return frozenset({*own, *({"embed"} if "head" in self.names else ())})

    @cached_property
    def passing_bytes(self) -> int:
        """Bytes of the matrices that a pass needs: of all rows, but those of experts that nothing chooses."""
        return sum(weight.num_bytes for weight in self if weight.may_stream and weight.name not in self.looked_up)

    @cached_property
    def routed_bytes(self) -> int:
        """Bytes of the experts."""
        return sum(weight.num_bytes for weight in self if weight.experts > 1)
