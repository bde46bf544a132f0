"""What leaves RAM first: three groups of weights by how often a word needs them, and running shares of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pintpot.contract.weights import Weights
from pintpot.model.joined import ASIDE


@lru_cache(maxsize=1024)
def aside_bytes(weights: Weights) -> int:
    """Bytes of the matrices that are needed whole once for each picture or request; 0 where there are none."""
    found = (item for item in weights.matrices if item[0].startswith(ASIDE) and item[0] not in weights.looked_up)
    return sum(count * size for _, count, size, _ in found)


def totals(weights: Weights) -> tuple[int, int, int]:
    """Bytes of the weights that every word needs, of experts, and of what is needed once for each picture."""
    routed, aside = weights.routed_bytes, aside_bytes(weights)
    return weights.passing_bytes - routed - aside, routed, aside


def residents(weights: Weights, resident_bytes: int) -> tuple[int, int, int]:
    """Of so many resident bytes how many are of each of these groups, the first one first."""
    every, routed, aside = totals(weights)
    first = min(resident_bytes, every)
    second = min(resident_bytes - first, routed)
    return first, second, min(resident_bytes - first - second, aside)


def group_of(name: str, experts: int) -> int:
    """The group of a weight."""
    return 2 if name.startswith(ASIDE) else int(experts > 1)


def num_slots(weights: Weights, slot_bytes: int) -> int:
    """Slots of so many bytes for all that may stream; each expert has its own, gate and up in one, down in another."""
    found = (weights.passing_bytes - weights.routed_bytes) // slot_bytes + 1
    for weight in weights:
        if weight.experts > 1 and weight.role != "up":
            sides = 2 if weight.role == "gate" else 1
            found += weight.experts * -(-sides * weight.num_bytes // (weight.experts * slot_bytes))
    return found


@dataclass
class Share:
    """A running share of some matrices: of `total` bytes `resident` stay."""

    total: int
    resident: int = 0
    passed: int = 0
    kept: int = 0

    def strips(self, num_strips: int, strip_bytes: int) -> int:
        """How many of the next matrix's strips stay."""
        self.passed += num_strips * strip_bytes
        # Whole numbers: a share in floating point could keep a strip too many.
        strips = min(num_strips, (self.resident * self.passed // self.total - self.kept) // strip_bytes)
        self.kept += strips * strip_bytes
        return strips
