"""How a model learns: what of it changes, in which arithmetic, and how much of a step is computed at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

from pintpot.contract.routing import LORA_A as LORA_A
from pintpot.contract.routing import LORA_B as LORA_B
from pintpot.contract.routing import Routing
from pintpot.contract.weights import WeightForm
from pintpot.formats import encoding

MOMENTS = (".m", ".v")
"""Behind the name of what learns: the optimizer's means of gradients and of their squares."""
SCALES = ".scales"
"""Behind the name of a moment in 8 bits: what multiplies each of its blocks."""
FIXED = frozenset({"rope_freqs", "running_mean", "running_var"})
"""Roles of what is no weight, but numbers of the architecture, or counted over examples before."""
AGAIN, WRITTEN, STAYS = "computed again", "written out", "stays"
"""What may become of a block's inside between the ways forward and back."""
DYNAMIC8, STATE_BLOCK = "dynamic8", 256
"""Moments as one byte a value, of which so many in a row share a float32 scale; those of vectors stay in float32."""


@dataclass(frozen=True, slots=True)
class TrainingForm:
    """Where `rank` is not 0, adapters of so many columns beside the weights of these `roles` learn; else all weights.

    Weights meet rows in `computed_in` (f32, bf16). `at_once` sequences go through a block together. `fused`: each block
    is updated as its gradients arrive, and no others exist. `states` is the format of the optimizer's two moments, ""
    without one. Where `distance` is not 0 there are no gradients: losses so far from the weights take their place.
    `only` names the weights that learn, or beside which something does; without it these are all.
    `routing` says, where several adapters stand beside a weight, which of them count.
    `kept`: the inside of every block stays in memory from the way forward to the way back. Where `patch` is not 0
    convolutions go back by means of so many by so many places. Of the last blocks that are gone back through the
    inside of so many `stays`; of those before them that of so many is `written` out and read again, and the others are
    computed again.
    `ranks` processes learn together, and each holds its part of every matrix of a block that is in RAM.
    """

    rank: int = 0
    alpha: float = 0.0
    roles: tuple[str, ...] = ()
    computed_in: str = "f32"
    at_once: int = 1
    fused: bool = False
    states: str = ""
    distance: float = 0.0
    ranks: int = 1
    only: tuple[str, ...] = ()
    routing: Routing | None = None
    kept: bool = False
    patch: int = 0
    stays: int = 0
    written: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingForm:
        """What `dataclasses.asdict` made, after JSON."""
        routing = data.get("routing")
        found = None if routing is None else Routing.from_json(routing)
        return cls(**{**data, "roles": tuple(data["roles"]), "only": tuple(data["only"]), "routing": found})

    @property
    def scale(self) -> float:
        """How large what an adapter gives is added."""
        return self.alpha / self.rank if self.rank else 0.0

    @property
    def kept_in(self) -> str:
        """The format in which what blocks begin with is kept, from the way forward to the way back."""
        return self.computed_in

    def gradients_in(self, sequences: int) -> str:
        """The format of gradients of a block's matrices, in a step of so many sequences: of one part as they come."""
        return self.computed_in if self.ranks == 1 and self.at_once >= sequences else "f32"

    def fates(self, count: int) -> tuple[str, ...]:
        """What becomes of the inside of each of `count` blocks that are gone back through, in the order of the way
        forward. Those on disk lie evenly between those that are computed again, so that the disk never rests.
        """
        before = max(0, count - self.stays)
        written = min(self.written, before)
        ends = [at * written // before for at in range(before + 1)] if before else []
        fates = (WRITTEN if first < last else AGAIN for first, last in pairwise(ends))
        return (*fates, *[STAYS] * (count - before))

    def divides(self, weight: WeightForm) -> bool:
        """Whether processes that learn together share out the rows of this weight: of a matrix of a block."""
        return self.ranks > 1 and weight.is_matrix and weight.ram_rows > 0 and "." in weight.name

    def own_shape(self, weight: WeightForm, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What one process holds at most of something of this shape that learns of a weight, or beside it."""
        whole = self.rank > 0 or not self.divides(weight)
        return shape if whole else (-(-shape[0] // self.ranks), *shape[1:])

    def adapts(self, weight: WeightForm) -> bool:
        """Whether an adapter stands beside this weight."""
        fits = self.rank > 0 and weight.is_matrix and weight.role in self.roles and "." in weight.name
        return fits and self._may(weight.name)

    def trained(self, weight: WeightForm) -> dict[str, tuple[int, ...]]:
        """What learns of a weight or beside it: names and shapes."""
        if self.rank == 0:
            return {weight.name: weight.shape} if self.changes(weight) else {}
        if not self.adapts(weight):
            return {}
        rows, columns = weight.shape
        if self.routing is None:
            return {weight.name + LORA_A: (self.rank, columns), weight.name + LORA_B: (rows, self.rank)}
        found = self.routing.beside(weight.role, (rows, columns), self.rank)
        return {weight.name + end: shape for end, shape in found.items()}

    def changes(self, weight: WeightForm) -> bool:
        """Whether the weight itself is another one after a step."""
        return self.rank == 0 and weight.role not in FIXED and self._may(weight.name)

    def _may(self, name: str) -> bool:
        return not self.only or name in _names(self.only)

    def moments_of(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
        """What the optimizer keeps for something that learns: shapes and formats by name."""
        if not self.states:
            return {}
        if self.states != DYNAMIC8 or len(shape) == 1:
            return {name + moment: (shape, "f32") for moment in MOMENTS}
        codes: dict[str, tuple[tuple[int, ...], str]] = {name + moment: (shape, "uint8") for moment in MOMENTS}
        scales = ((-(-prod(shape) // STATE_BLOCK),), "f32")
        return codes | {name + moment + SCALES: scales for moment in MOMENTS}

    def moment_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of what the optimizer keeps for something of this shape."""
        found = self.moments_of("", shape).values()
        return sum(prod(own) * encoding(form).block_bytes for own, form in found)


@lru_cache(maxsize=64)
def _names(only: tuple[str, ...]) -> frozenset[str]:
    return frozenset(only)


def block_of(name: str) -> str:
    """The block of a weight by its name: `layers.3` of `layers.3.q`; of those outside of layers the name itself."""
    return name.rpartition(".")[0] or name


def stored_bytes(weight: WeightForm) -> int:
    """Bytes of a weight as it rests: in strips where it is packed, row after row otherwise."""
    if weight.packed:
        return weight.num_strips * weight.strip_bytes
    if not weight.is_matrix:
        return 4 * weight.shape[0]
    return weight.shape[0] * encoding(weight.format).row_bytes(weight.shape[1])


def held_bytes(weight: WeightForm, how: TrainingForm | None) -> int:
    """Bytes of a weight that one process holds of it at most."""
    if how is None or not how.divides(weight):
        return stored_bytes(weight)
    rows = weight.num_strips if weight.packed else weight.shape[0]
    return stored_bytes(weight) // rows * -(-rows // how.ranks)


def is_plain(weight: WeightForm, how: TrainingForm | None) -> bool:
    """Whether a weight lies in memory just as it is multiplied with."""
    computed_in, lent = ("f32", False) if how is None else (how.computed_in, how.changes(weight))
    same = weight.format == computed_in and not weight.packed and not (how is not None and how.divides(weight))
    return not weight.is_matrix or (same and (weight.ram_rows > 0 or lent))
