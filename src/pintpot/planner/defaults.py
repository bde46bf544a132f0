"""The budget of somebody who named none, and the refusal of one that this machine cannot give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pintpot.budget import DEFAULT_CONTEXT, DEFAULT_MEMORY_SHARE, Budget, Workload
from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.machine.spec import Machine
from pintpot.model.joined import VISION
from pintpot.model.spec import Model
from pintpot.units import format_bytes

PROMPT_BESIDE = 64
"""Words of a prompt beside its pictures, where nobody says how many."""
PROMPT_SHARE = 0.25
"""Of the context, for prompts and for answers of which nobody says how long they are."""
_MOST = {"prompt": 512, "output": 128}
"""Tokens of such prompts and answers at most."""


def make_budget(model: Model, machine: Machine, available_bytes: int, **asked: Any) -> Budget:
    """A budget from what was asked (None: not), the rest by default; what was asked is remembered in `chosen`.

    Defaults: memory 80% of what is available, context min(2048, the model's), batch 1, degradation 0.05 nats, prefer
    speed; a context that was not asked for holds the prompt and the output that were. Raises DoesNotFit for a memory
    budget above what this machine has left, UsageError for a prompt and an output beyond the context.
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
    alone = f"{model.name} sees no pictures, so there is nothing that --balanced could weigh against words"
    need(model.kind == "vlm" or not chosen.get("balanced"), alone, UsageError)
    workload = _workload(model, chosen)
    others = {k: chosen[k] for k in _BUDGET_KEYS if k in chosen}
    budget = Budget(memory_bytes=memory or int(room * DEFAULT_MEMORY_SHARE), workload=workload, **others)
    return replace(budget, chosen=tuple(sorted(chosen)))


_BUDGET_KEYS = (
    "degradation", "first_token_s", "per_token_s", "prefer", "threads", "below_4_bits", "windowed", "lending",
    "uncalibrated", "balanced",
)  # fmt: skip


def _workload(model: Model, chosen: dict[str, Any]) -> Workload:
    """Prompt and output fit the context together: one that nobody chose is raised for them. Raises UsageError."""
    if model.language is None:
        # A network that draws is run so many times for one answer; all others once.
        repeats = (model.parts[0].config.get("kind") or {}).get("repeats")
        no_words = ("context", "batch", "prompt", "guesses", *(() if repeats else ("output",)))
        words = [key for key in no_words if key in chosen]
        need(not words, f"{model.name} has no {' or '.join(words)}; its example inputs say what it takes", UsageError)
        output = chosen.get("output") or repeats or 1
        return Workload(context=2, prompt=1, output=output, task="denoise" if repeats else "forward")
    shown = _shown(model, chosen)
    given = {key: chosen[key] for key in _MOST if chosen.get(key)}
    if shown["given"]:
        given["prompt"] = given.get("prompt", PROMPT_BESIDE) + shown["given"]
    context, most = chosen.get("context") or min(DEFAULT_CONTEXT, model.context), chosen.get("context") or model.context
    left, share = most - sum(given.values()), int(context * PROMPT_SHARE)
    work = {key: given.get(key) or max(1, min(_MOST[key], share, left)) for key in _MOST}
    wanted = sum(work.values())
    remedy = f"use --context {wanted}" if wanted <= model.context else "ask for fewer"
    tokens = " and ".join(f"{count} tokens of {key}" for key, count in work.items())
    need(wanted <= most or not given, f"{tokens} do not fit a context of {most}; {remedy}", UsageError)
    context = context if "context" in chosen else max(context, wanted)
    made = Workload(context=context, batch=chosen.get("batch") or 1, guesses=chosen.get("guesses") or 0, **work)
    return replace(made, given=shown["given"], pictures=shown["pictures"])


def _shown(model: Model, chosen: dict[str, Any]) -> dict[str, int]:
    """Pictures of a prompt, and the positions that they take, with the special words around them."""
    part = next((part for part in model.parts if part.name == VISION), None)
    images = int(chosen.get("images") or (0 if part is None else 1))
    if part is None or not images:
        need(not images, f"{model.name} was described without what sees; describe it with images", UsageError)
        return {"given": 0, "pictures": 0}
    time, height, width = part.config["kind"]["grid"]
    return {"given": images * time * height * width, "pictures": images * (chosen.get("batch") or 1)}
