"""Rows of embedding that pictures give, and the angles of their positions, in the memory of a bound pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pintpot.errors import UsageError, need
from pintpot.kernels.native.bind import Replay
from pintpot.model.config_sections import axes_of
from pintpot.nets._decoder import ANGLES, GIVEN
from pintpot.program.spec import Program
from pintpot.runtime.pictures import Picture, picture_angles
from pintpot.runtime.request import Request
from pintpot.runtime.sequence import Sequence

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

Look = Callable[[Picture], "Mapping[str, NDArray[float32]]"]
"""What a picture becomes: rows [num_rows, D] for each buffer of given rows, by the buffer's name."""


class Given:
    """`num_rows` rows for the pictures of each sequence; `sections` says that those turn by angles of their own."""

    def __init__(self, program: Program, config: Mapping[str, Any]) -> None:
        self.num_rows = program.shape(GIVEN)[0] // program.bound("sequences") if GIVEN in program.by_name else 0
        self.sections = ANGLES in program.by_name
        self._axes = axes_of(config, program.shape(ANGLES)[1] // 2) if self.sections else []

    def check(self, request: Request) -> None:
        """Raise UsageError for more rows than a sequence has."""
        wanted = sum(picture.num_rows for picture in request.pictures)
        none = "" if self.num_rows else "; plan with --images for a model that sees them"
        why = f"images of {wanted} positions where the plan has room for {self.num_rows}{none}"
        need(wanted <= self.num_rows, why, UsageError)

    def fill(self, bound: Replay, sequence: Sequence, first: int, stop: int, look: Look) -> None:
        """Make ready, in the memory of a stage, the pictures that positions [first, stop) of a sequence show."""
        placed = sequence.placed
        for picture in placed.within(sequence.tokens[first:stop]):
            row = sequence.first_row + placed.row_of(picture)
            rows = slice(row, row + picture.num_rows)
            if picture.first not in placed.ready:
                for name, values in look(picture).items():
                    bound.floats(name)[rows] = values
                placed.ready.add(picture.first)
            if self.sections:
                start = placed.starts[picture.first]
                angles = picture_angles(bound.floats("rope"), self._axes, start, picture.grid)
                bound.floats(ANGLES)[rows] = angles
