"""The programs of a plan, bound to the memory of an open pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pintpot.contract.form import STRIP_ROWS, WeightForm
from pintpot.kernels.native.bind import BoundWeight, Piece, Replay, bind
from pintpot.packer.manifest import Manifest
from pintpot.program.layout import Layout
from pintpot.program.spec import Program, Work
from pintpot.runtime.memory import PackMemory

if TYPE_CHECKING:
    from pintpot._native import CancelFlag, Pool


@dataclass(frozen=True)
class Stages:
    """One replay for each program of the work, by name; the first one of a stage has the stage's."""

    replays: Mapping[str, Replay]
    cancel: CancelFlag

    def __getitem__(self, program: str) -> Replay:
        return self.replays[program]


def bind_stages(
    manifest: Manifest, work: Work, layout: Layout, memory: PackMemory, pool: Pool, *, isa: str = ""
) -> Stages:
    """Bind every program. Raises BadPack where manifest and plan do not fit together."""
    from pintpot._native import CancelFlag

    cancel = CancelFlag()
    weights = _bound_weights(manifest, memory)
    scratch = memory.arenas["scratch"]
    replays = {
        program.name: bind(
            program,
            addresses_of(program, layout, memory),
            weights,
            pool,
            arenas=list(memory.arenas.values()),
            scratch=scratch.address,
            scratch_size=scratch.nbytes,
            ring=memory.ring,
            cancel=cancel,
            isa=isa,
        )
        for program in work.programs()
    }
    return Stages(replays, cancel)


def addresses_of(program: Program, layout: Layout, memory: PackMemory) -> dict[str, int]:
    """Where every buffer of a program lies, but for matrices with rows on disk."""
    addresses: dict[str, int] = {}
    steps = layout.steps[program.name]
    for buffer in program.buffers:
        if buffer.name in steps:
            addresses[buffer.name] = memory.address("buffers", steps[buffer.name])
        elif buffer.name in layout.session:
            addresses[buffer.name] = memory.address(*layout.session[buffer.name])
        elif buffer.name in memory.weights:
            addresses[buffer.name] = memory.weights[buffer.name]
    return addresses


def _bound_weights(manifest: Manifest, memory: PackMemory) -> dict[str, BoundWeight]:
    pieces: dict[str, list[Piece]] = {}
    rows = {weight.name: weight.shape[0] for weight in manifest.plan.form.weights}
    for index, (_, _, slot) in enumerate(manifest.slots):
        for piece in slot.pieces:
            first = piece.first_strip * STRIP_ROWS
            count = min(piece.num_strips * STRIP_ROWS, rows[piece.weight] - first)
            pieces.setdefault(piece.weight, []).append(Piece(index, piece.offset, first, count))
    return {
        weight.name: _bound(weight, memory, tuple(pieces.get(weight.name, ())))
        for weight in manifest.plan.form.weights
        if weight.is_matrix
    }


def _bound(weight: WeightForm, memory: PackMemory, pieces: tuple[Piece, ...]) -> BoundWeight:
    rows, columns = weight.shape
    address = memory.weights.get(weight.name, 0)
    return BoundWeight(weight.name, weight.format, rows, columns, address, weight.ram_rows, pieces, weight.experts)
