"""The plan of a run that learns, made in a process apart: what weighing all ways takes would stay with the learner.

Some 70 MB for a model of 30 blocks, which the interpreter keeps in pieces and PyTorch cannot have. Whoever asks has not
imported PyTorch yet, so that both processes together are smaller than the one that learns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pintpot.budget import Budget
from pintpot.contract.step import step_from_json
from pintpot.errors import DoesNotFit
from pintpot.meter.memory import resident_bytes
from pintpot.model.spec import Model
from pintpot.packer.apart import apart, serve
from pintpot.packer.calibrate.apart import sensitivities_apart
from pintpot.planner.methods import wants_table
from pintpot.planner.plan import Plan, budget_from_json
from pintpot.planner.training import Asked
from pintpot.techniques import classes

Progress = Callable[[float, str], None]
_log = logging.getLogger(__name__)


def planned(model: Model, budget: Budget, asks: Asked, progress: Progress | None = None) -> Plan:
    """The fastest way to learn on this machine inside a budget. Raises what `make_training_plan` raises.

    Where weights are to be rounded and nobody knows what each of them loses, that is measured first, once a model.
    """
    plan = _made(model, budget, asks, progress)
    if not wants_table(plan.steps):
        return plan
    try:
        sensitivities_apart(model, None, False, progress, budget.memory_bytes - resident_bytes())
    except DoesNotFit as error:
        _log.warning("all matrices get as many bits, for what each loses was not measured: %s", error)
        return plan
    return _made(model, budget, asks, progress)


def _made(model: Model, budget: Budget, asks: Asked, progress: Progress | None) -> Plan:
    steps = {"adapters": asks.adapters.to_json(), "also": [step.to_json() for step in asks.also]}
    request = {"model": model.source.named, "budget": asdict(budget), "asks": {**vars(asks), **steps}}
    return Plan.from_json(apart("pintpot.trainer.planned", request, progress)["plan"])


def _plan(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.machine.aten import with_torch
    from pintpot.machine.here import this_machine
    from pintpot.model.read import describe
    from pintpot.planner.degradation import shipped_priors
    from pintpot.planner.question import Question
    from pintpot.planner.sensitivity import recall_sensitivities, table_key
    from pintpot.planner.training import make_training_plan

    asks, known, model = request["asks"], classes(), describe(request["model"])
    asks["adapters"] = step_from_json(asks["adapters"], known)
    asks["also"] = tuple(step_from_json(step, known) for step in asks["also"])
    machine, torch_bytes = with_torch(this_machine(progress=progress), True)
    question = Question(
        model, machine, budget_from_json(request["budget"]), shipped_priors(),
        sensitivities=recall_sensitivities(table_key(model)), torch_bytes=torch_bytes,
    )  # fmt: skip
    return {"plan": make_training_plan(question, Asked(**asks)).to_json()}


if __name__ == "__main__":
    serve(_plan)
