"""A vision transformer larger than its memory: the shape of ViT-g/14 with drawn weights in float32, and its packs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench import OUT, code_digest, probed_machine, remove
from pixels import SIDE, picture

from pintpot import api
from pintpot.machine.process import module_process_bytes
from pintpot.meter.memory import attainable_bytes
from pintpot.model.adapted import describe_adapted
from pintpot.model.spec import Model
from pintpot.planner.allocate import place
from pintpot.planner.assess import Bench
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.planner.space import build_space
from pintpot.techniques import classes

SHAPE = {
    "hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 16, "intermediate_size": 6144,
    "patch_size": 14, "image_size": SIDE,
}  # fmt: skip
STD = 0.02


def model_folder() -> Path:
    """The model as transformers has it; made where it is missing."""
    import torch
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTModel

    folder = OUT / "models" / "vit-g-14-f32"
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        remove(part)
    part.mkdir(parents=True)
    config = ViTConfig(**SHAPE, architectures=["ViTModel"])
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in ViTModel(config, add_pooling_layer=False).state_dict().items()}
    drawn = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape) if "norm" in name and name.endswith("weight")
        else torch.randn(shape, generator=drawn) * STD
        for name, shape in shapes.items()
    }  # fmt: skip
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    (part / "config.json").write_text(json.dumps({**config.to_dict(), "dtype": "float32"}))
    os.replace(part, folder)
    return folder


def adapted(batch: int) -> Model:
    """The model recorded for so many pictures at once; its weights stay in the file they are in."""
    import pintpot

    folder = OUT / "models" / f"vit-g-14-recorded-{batch}-{code_digest()}"
    if folder.exists():
        return describe_adapted(folder)
    import torch
    from transformers import ViTConfig, ViTModel

    source = model_folder()
    with torch.device("meta"):
        module = ViTModel(ViTConfig.from_pretrained(source), add_pooling_layer=False).eval()
    return pintpot.adapt(
        module, {"pixel_values": picture(batch)}, weights=source / "model.safetensors", name="vit-g-14", folder=folder
    )


def pack_vision(batch: int, memory: int | None, chosen: bool) -> Path:
    """A pack for so much memory (None: as much as there is): of the weights as they are, or `chosen` by the planner."""
    place_name = f"vit-g-14-{batch}-in-{memory or 'all'}-{'chosen' if chosen else 'same'}-{code_digest()}"
    folder = OUT / "packs" / "peers" / place_name
    if folder.exists():
        return folder
    machine, described = probed_machine(), adapted(batch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if chosen:
        return api.pack(described, api.plan(described, machine=machine, memory=memory), folder)
    room = attainable_bytes()
    budget = make_budget(described, machine, room, memory_bytes=memory or room, degradation=100.0)
    question = Question(
        described, machine, budget, shipped_priors(described.kind), torch_bytes=module_process_bytes(described.kind)
    )
    bench, steps = Bench(question), (classes()["AsStored"](target="blocks"), classes()["AsStored"](target="vocabulary"))
    placed = place(bench, bench.draft(steps), build_space(question).places, memory or room)
    return api.pack(described, bench.plan(placed.price(bench)), folder)
