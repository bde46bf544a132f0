"""Several adapters beside a weight: the steps that people ask for, and the form in which these are saved.

peft has no form for them, so they have one of ours, told in docs/adapters.md: routed_adapters.json says how they count,
routed_adapters.safetensors has the matrices. Where tasks mix heads, what comes of it for a task is plain LoRA: a folder
for each in peft's form lies beside, `tasks/0-NAME`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pintpot.contract.routing import HEADS, LORA_A, LORA_B, ROUTES
from pintpot.contract.training import TrainingForm
from pintpot.kernels.torch.adapters import mean_a, mean_b
from pintpot.model.spec import Model
from pintpot.trainer.adapters import save_adapters
from pintpot.trainer.tensors import write_tensors

CONFIG, VALUES, TASKS = "routed_adapters.json", "routed_adapters.safetensors", "tasks"
VERSION = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MOST_NAME = 40


def save_routed(
    folder: Path, model: Model, how: TrainingForm, values: Mapping[str, torch.Tensor], tasks: Sequence[str]
) -> None:
    """Both files, and of tasks that mix heads a folder of plain adapters for each."""
    routing, config = how.routing, model.part("language").config
    if routing is None:
        return
    write_tensors(folder / VALUES, values, {"format": "pt"})
    rows = "pairs" if config.get("rope_layout") == "interleaved" else "halves"
    settings = {
        "pintpot_adapters": VERSION, "base_model_name_or_path": model.source.named, "r": how.rank,
        "lora_alpha": how.alpha, "roles": list(how.roles), "routing": asdict(routing), "tasks": list(tasks),
        "rows_of_q_and_k": rows,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if routing.kind == HEADS:
        for number, name in enumerate(tasks):
            own = folder / TASKS / f"{number}-{_UNSAFE.sub('_', name)[:_MOST_NAME]}".rstrip("-")
            own.mkdir(parents=True, exist_ok=True)
            save_adapters(own, model, how, of_task(values, number))


def of_task(values: Mapping[str, torch.Tensor], task: int) -> dict[str, torch.Tensor]:
    """Plain adapters that count as much as all of them do for one task."""
    found: dict[str, torch.Tensor] = {}
    for name, routes in values.items():
        if name.endswith(ROUTES):
            weight = name.removesuffix(ROUTES)
            found[weight + LORA_A] = mean_a(values[weight + LORA_A], routes[task]).contiguous()
            found[weight + LORA_B] = mean_b(values[weight + LORA_B], routes[task]).contiguous()
    return found
