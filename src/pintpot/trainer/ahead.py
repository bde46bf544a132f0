"""What learning would take on a machine that one does not have: its plan, and nothing is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.budget import Budget, Workload
from pintpot.errors import UsageError, need
from pintpot.trainer.question import memory_within
from pintpot.trainer.ranks import ALONE
from pintpot.trainer.tune import PICTURES, Progress, Settings, adapters_of, check_kept, steps_beside, train_of

if TYPE_CHECKING:
    from pintpot.planner.plan import Plan

PLAIN = Settings()


def plan_learning(
    model: str | Path,
    data: str | Path,
    machine: str | Path,
    *,
    settings: Settings = PLAIN,
    progress: Progress | None = None,
    **asked: Any,
) -> Plan:
    """The plan of `tune` on a machine of the catalog, or of a TOML file; `asked` as there, but for the folder.

    Raises BadInput for a machine that is not known, DoesNotFit, UsageError for a card without a host to learn on.
    """
    from pintpot.machine.catalog import load_machine
    from pintpot.machine.process import module_process_bytes
    from pintpot.planner.degradation import shipped_priors
    from pintpot.planner.question import Question
    from pintpot.planner.training import Asked, make_training_plan
    from pintpot.runtime.describing import local, shaped
    from pintpot.trainer.reading import read_for

    there = load_machine(machine)
    alone = f"{there.name} is a card alone, and models learn on a processor, with a card beside it at most"
    need(there.cpu.kind == "cpu", alone, UsageError)
    given = {"length": 256, "sequences": None, "method": "auto", "arithmetic": "auto", "learn": "", **asked}
    described = local(shaped(model, {"batch": given["sequences"] or PICTURES, "fewer": 1}, progress)[0])
    check_kept(described, given["method"], settings, ALONE)
    learns, held = read_for(described, Path(data), given["length"], settings.seed, progress)
    size, times = (given["length"], given["sequences"]), (given.get("steps"), given.get("epochs"))
    train = train_of(described, size, times, (len(learns), len(held)), ALONE)
    budget = _budget(given, there.cpu.memory_bytes)
    plain = (given.get("adapter", "lora"), given.get("rank", 8), given.get("alpha", 16.0), given.get("targets", "q,v"))
    adapters, num_bytes = adapters_of(plain, settings, len(learns.names)), learns.num_bytes + held.num_bytes
    asks = Asked(
        given["method"], given["arithmetic"], adapters, num_bytes, given["learn"], steps_beside(settings),
        bits=settings.bits, activations=settings.activations,
    )  # fmt: skip
    question = Question(
        described, there, replace(budget, workload=Workload(task="train", train=train)), shipped_priors(),
        torch_bytes=module_process_bytes(True),
    )  # fmt: skip
    return make_training_plan(question, asks)


def _budget(given: dict[str, Any], room: int) -> Budget:
    memory = given.get("memory")
    num_bytes = memory_within(memory, room, "there")
    keys = [key for key in ("length", "steps", "sequences", "threads") if given.get(key) is not None]
    keys += ["memory_bytes"] * (memory is not None)
    return Budget(num_bytes, threads=given.get("threads"), chosen=tuple(sorted(keys)))
