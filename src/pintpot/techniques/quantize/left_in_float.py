"""Leaves of a module that stay in float32 and are multiplied by PyTorch, those with the most rows for their weights.

A product with many rows is bound by arithmetic and not by the bytes of its weights (Williams, Waterman and Patterson
2009, Roofline), so that low bits save it no time: the first convolutions of a network have most of the rows and next to
none of the weights. Which of them gain is the planner's to weigh; here they are set apart by their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.adapted import FAMILY
from pintpot.model.spec import Model

MOST_OFFERS = 3


@dataclass(frozen=True)
class LeftInFloat(Step):
    """`leaves` are the names of the weights, a space between each two."""

    paper: ClassVar[str] = "Roofline, Williams, Waterman and Patterson, Communications of the ACM, 2009"
    facet: ClassVar[Facet] = Facet.LEAVES
    leaves: str = ""

    def check(self, model: Model, form: Form) -> None:
        need(model.needs_torch, "only a module's leaves have another way to be computed", NotApplicable)
        strangers = sorted(set(self.leaves.split()) - form.weights.names)
        need(not strangers, f"the module has no leaves {', '.join(strangers[:3])}", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form.left(frozenset(self.leaves.split()))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """All leaves with at least so many rows, and all convolutions, for a few numbers of rows."""
        rows: dict[str, int] = {}
        for name, op in _leaves(model):
            rows[name] = max(op["rows"], rows.get(name, 0))
        least = sorted(set(rows.values()))
        sets = [tuple(name for name, count in rows.items() if count >= one) for one in least[:: _every(least)]]
        sets.append(tuple(dict.fromkeys(name for name, op in _leaves(model) if "axes" in op)))
        return tuple(cls(leaves=" ".join(names)) for names in dict.fromkeys(sets) if names)

    def __str__(self) -> str:
        """How many leaves there are, and a mark of which."""
        mark = hashlib.blake2s(self.leaves.encode(), digest_size=4).hexdigest()
        return f"{self.name}({len(self.leaves.split())} leaves; {mark})"


def _every(least: list[int]) -> int:
    """Of so many numbers of rows a few are tried."""
    return max(1, -(-len(least) // MOST_OFFERS))


def _leaves(model: Model) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The weights that modules multiply with, and what was recorded of each product."""
    for part in model.parts:
        for stage in part.config["stages"] if part.family == FAMILY else ():
            for op in stage["ops"]:
                if op["kind"] == "linear":
                    yield part.prefix + op["weight"], op
