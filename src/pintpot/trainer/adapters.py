"""Adapters as peft reads them: adapter_config.json and adapter_model.safetensors in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.contract.training import LORA_A, LORA_B, TrainingForm
from pintpot.errors import UnsupportedModel, need
from pintpot.model.names import hf_name
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import torch

CONFIG, VALUES = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ENDS = {LORA_A: ".lora_A.weight", LORA_B: ".lora_B.weight"}
_TURNED = ("q", "k")
_OTHERWISE = frozenset({"phi3"})
"""Families whose files hold several of our weights as one: an adapter of one of them has no name there."""


def check_adapters(model: Model) -> None:
    """Raises UnsupportedModel for a model whose adapters could not be written in peft's form."""
    family = model.part("language").family
    why = f"{family} has q, k and v in one matrix, and peft no adapters of one of them; nothing is learned of it yet"
    need(family not in _OTHERWISE, why, UnsupportedModel)


def save_adapters(folder: Path, model: Model, how: TrainingForm, values: Mapping[str, torch.Tensor]) -> None:
    """Both files. Rows of q and k stand as transformers wants them, however the model's own file has them."""
    from pintpot.trainer.tensors import write_tensors

    config = model.part("language").config
    names = {name_of(name, str(config["model_type"])): name for name in values}
    tensors = {theirs: values[ours] for theirs, ours in names.items()}
    write_tensors(folder / VALUES, tensors, {"format": "pt"}, lambda theirs, one: _in_order(names[theirs], one, config))
    places = {hf_name(name.rpartition(".")[0]).removesuffix(".weight") for name in values}
    modules = sorted(places if how.only else {place.rpartition(".")[2] for place in places})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model.source.named,
        "r": how.rank, "lora_alpha": how.alpha, "lora_dropout": 0.0, "target_modules": modules, "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "modules_to_save": None,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def name_of(name: str, family: str) -> str:
    """What peft calls a matrix of an adapter."""
    weight, _, end = name.rpartition(".")
    return _PREFIX + hf_name(weight, family).removesuffix(".weight") + _ENDS[f".{end}"]


def _in_order(name: str, value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """B makes a weight's rows, and A none of them."""
    weight, _, end = name.rpartition(".")
    return in_halves(weight, value, config) if f".{end}" == LORA_B else value


def in_halves(weight: str, value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """Rows [N, ...] of q and k as transformers has them: where pairs lie side by side, they are put into halves."""
    if config.get("rope_layout") != "interleaved" or weight.rpartition(".")[2] not in _TURNED:
        return value
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    heads = value.reshape(-1, head_dim // 2, 2, *value.shape[1:])
    return heads.transpose(1, 2).reshape(value.shape)
