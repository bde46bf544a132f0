"""Leaves of a module that stay in float32 or bf16 and are multiplied by PyTorch, those with the most rows.

A product with many rows is bound by arithmetic and not by the bytes of its weights (Williams, Waterman and Patterson
2009, Roofline), so that low bits save it no time: the first convolutions of a network have most of the rows and next to
none of the weights. Processors with products in bfloat16 are fastest in those (Kalamkar et al. 2019, arXiv:1905.12322).
Which leaves gain is the planner's to weigh; here they are set apart by their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import LEFT_BYTES, Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.adapted import FAMILY
from pintpot.model.spec import Model

MOST_OFFERS = 3
PRODUCTS_IN_BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Features of processors, as `machine.features` names them."""


@dataclass(frozen=True)
class LeftInFloat(Step):
    """`leaves` are the names of the weights, a space between each two; `kept` is the format that they stay in."""

    paper: ClassVar[str] = "Roofline, Williams, Waterman and Patterson, Communications of the ACM, 2009"
    facet: ClassVar[Facet] = Facet.LEAVES
    leaves: str = ""
    kept: str = "f32"

    def check(self, model: Model, form: Form) -> None:
        need(model.needs_torch, "only a module's leaves have another way to be computed", NotApplicable)
        need(self.kept in LEFT_BYTES, f"leaves are left in f32 or bf16, not {self.kept!r:.20}", NotApplicable)
        kinds = {kind: {name for name, op in _leaves(model) if op["kind"] == kind} for kind in ("linear", "embed")}
        strangers = sorted(set(self.leaves.split()) - (kinds["linear"] | kinds["embed"]))
        words = kinds["embed"].intersection(self.leaves.split()) if self.kept == "bf16" else ()
        need(not words, "tables of words are not multiplied", NotApplicable)
        need(not strangers, f"the module has no leaves {', '.join(strangers[:3])}", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form.left(frozenset(self.leaves.split()), self.kept)

    @property
    def key(self) -> str | None:
        return None if self.kept == "f32" else f"left/{self.kept}"

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """All leaves with at least so many rows, and all convolutions, for a few numbers of rows.

        The same in bf16 where the processor multiplies it.
        """
        rows: dict[str, int] = {}
        for name, op in _products(model):
            rows[name] = max(op["rows"], rows.get(name, 0))
        least = sorted(set(rows.values()))
        sets = [tuple(name for name, count in rows.items() if count >= one) for one in least[:: _every(least)]]
        sets.append(tuple(dict.fromkeys(name for name, op in _products(model) if "axes" in op)))
        words = {name for name, op in _leaves(model) if op["kind"] == "embed"}
        narrow = [tuple(name for name in one if name not in words) for one in sets]
        offers = [cls(leaves=" ".join(one)) for one in dict.fromkeys(sets) if one]
        if PRODUCTS_IN_BF16.intersection(machine.cpu.features):
            offers += [cls(leaves=" ".join(one), kept="bf16") for one in dict.fromkeys(narrow) if one]
        return tuple(offers)

    def __str__(self) -> str:
        """How many leaves there are, and a mark of which."""
        mark = hashlib.blake2s(self.leaves.encode(), digest_size=4).hexdigest()
        kept = "" if self.kept == "f32" else f" in {self.kept}"
        return f"{self.name}({len(self.leaves.split())} leaves{kept}; {mark})"


def _every(least: list[int]) -> int:
    """Of so many numbers of rows a few are tried."""
    return max(1, -(-len(least) // MOST_OFFERS))


def _products(model: Model) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, op) for name, op in _leaves(model) if op["kind"] == "linear")


def _leaves(model: Model) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The weights of leaves, and what was recorded of each."""
    for part in model.parts:
        for stage in part.config["stages"] if part.family == FAMILY else ():
            for op in stage["ops"]:
                if op["kind"] in ("linear", "embed"):
                    yield part.prefix + op["weight"], op
