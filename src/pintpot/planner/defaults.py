"""The budget of somebody who named none, and the refusal of one that this machine cannot give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pintpot.budget import DEFAULT_CONTEXT, DEFAULT_MEMORY_SHARE, Budget, Workload
from pintpot.errors import DoesNotFit, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.units import format_bytes

PROMPT_SHARE = 0.25
"""Of the context, for prompts (up to 512) and for answers (up to 128) of which nobody says how long they are."""


def make_budget(model: Model, machine: Machine, available_bytes: int, **asked: Any) -> Budget:
    """A budget from what was asked (None: not), the rest by default; what was asked is remembered in `chosen`.

    Defaults: memory 80% of what is available, context min(2048, the model's), batch 1, degradation 0.05 nats, prefer
    speed. Raises DoesNotFit for a memory budget above what this machine has left.
    """
    chosen = {key: value for key, value in asked.items() if value is not None and value is not False}
    memory = chosen.get("memory_bytes")
    here = machine.origin != "catalog"
    room = available_bytes if here else machine.cpu.memory_bytes
    if memory is not None and here:
        need(
            memory <= room,
            f"a budget of {format_bytes(memory)} is more than the {format_bytes(room)} that are free here; "
            f"free some memory, or ask for less",
            DoesNotFit,
        )
    workload = _workload(model, chosen)
    others = {k: chosen[k] for k in _BUDGET_KEYS if k in chosen}
    budget = Budget(memory_bytes=memory or int(room * DEFAULT_MEMORY_SHARE), workload=workload, **others)
    return replace(budget, chosen=tuple(sorted(chosen)))


_BUDGET_KEYS = (
    "degradation", "first_token_s", "per_token_s", "prefer", "threads", "below_4_bits", "windowed", "uncalibrated",
)  # fmt: skip


def _workload(model: Model, chosen: dict[str, Any]) -> Workload:
    context = chosen.get("context") or min(DEFAULT_CONTEXT, model.context)
    prompt = chosen.get("prompt") or max(1, min(512, int(context * PROMPT_SHARE)))
    output = chosen.get("output") or max(1, min(128, int(context * PROMPT_SHARE)))
    return Workload(context=context, batch=chosen.get("batch") or 1, prompt=prompt, output=output)
