"""Before anything learns beside weights in few bits: they are rounded by what meets them when the examples are read.

In a process of its own, which is gone when learning begins, and before this one has PyTorch; what it leaves waits in
the run's folder, so that a start which goes on learns beside the very same weights. QLoRA rounds to nearest, and what
that errs the adapters would have to learn back; with GPTQ on the examples there is little to learn back (LOG.md has
the figures).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pintpot.contract.step import Facet
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.model.spec import Model
from pintpot.packer.apart import apart, serve
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.planner.calibrating import TOKENS
from pintpot.planner.plan import Plan
from pintpot.planner.taken import beside_rounding
from pintpot.trainer.packing import Sequences
from pintpot.trainer.ranks import ALONE, Ranks

Progress = Callable[[float, str], None]
NAME = "rounded"


@dataclass(frozen=True)
class Rounded:
    """Weights that were rounded, if any, and the most memory that this process and the one apart took together."""

    prepared: Prepared | None = None
    peak_bytes: int = 0

    def remove(self) -> None:
        """Nobody goes on with this run."""
        if self.prepared is not None:
            shutil.rmtree(self.prepared.folder)


def rounded(
    model: Model, plan: Plan, folder: Path, learns: object, progress: Progress | None, ranks: Ranks = ALONE
) -> Rounded:
    """The weights that steps of a plan round by what meets them, on what is learned; none where none do.

    Of several processes the first has it done, and tells the others where they lie. Raises what rounding raises, and
    DoesNotFit where the process apart was killed.
    """
    if not isinstance(learns, Sequences) or not any(step.facet == Facet.ROUNDING for step in plan.steps):
        return Rounded()
    if ranks.number:
        return Rounded(Prepared(Path(ranks.told(""))))
    folder.mkdir(parents=True, exist_ok=True)
    here = beside_rounding(plan.form, plan.cost.holders)
    left = replace(plan.budget, memory_bytes=plan.cost.memory_high - here)
    request = {
        "model": model.source.named, "plan": replace(plan, budget=left).without_reasons().to_json(),
        "folder": str((folder / NAME).absolute()), "texts": _texts(learns),
    }  # fmt: skip
    done = apart("pintpot.trainer.rounding", request, progress)
    ranks.told(done["place"])
    return Rounded(Prepared(Path(done["place"])), resident_bytes() + done["peak_bytes"])


def _texts(learns: Sequences) -> list[list[int]]:
    """Sequences without what fills them up, taken evenly from all, as many tokens as are usual at most."""
    count, length = learns.tokens.shape
    wanted = min(count, max(1, TOKENS // length))
    rows = [index * count // wanted for index in range(wanted)]
    # The last word of a sequence is only asked for.
    stops = length - np.argmax(learns.targets[:, ::-1] >= 0, axis=1)
    return [learns.tokens[row, : stops[row]].tolist() for row in rows]


def _round(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.model.read import describe
    from pintpot.packer.calibrate.calibrate import prepare

    model, plan = describe(request["model"]), Plan.from_json(request["plan"])
    place = prepare(model, plan, Path(request["folder"]), request["texts"], progress)
    return {"place": str(place), "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    serve(_round)
