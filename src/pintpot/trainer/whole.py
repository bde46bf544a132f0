"""A model of which every weight has learned, as a folder that transformers reads and every command here takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pintpot.model.names import hf_name, plus_of
from pintpot.model.spec import Model
from pintpot.packer.export.beside import write_beside
from pintpot.packer.export.config import hf_config
from pintpot.packer.pack import tokenizer_of
from pintpot.trainer.adapters import in_halves
from pintpot.trainer.tensors import write_tensors

VALUES = "model.safetensors"


def check_whole(model: Model) -> None:
    """Raises UnsupportedModel for a model that could not be written as such a folder."""
    hf_config(model.part("language").config, "float32")


def save_whole(folder: Path, model: Model, value: Callable[[str], torch.Tensor]) -> None:
    """Weights in float32, config.json and the tokenizer. What the model's own files say by sharing stays shared.

    A weight is asked for its `value` when its turn has come to be written, and once.
    """
    part = model.part("language")
    config, family = part.config, str(part.config["model_type"])
    plus = plus_of(family)
    shapes = {one.name: one.shape for one in part.weights()}
    factors = value("rope_freqs").tolist() if "rope_freqs" in shapes else ()
    # config.json tells the factors of rotary angles.
    names = {hf_name(name, family): name for name in shapes if name != "rope_freqs"}

    def made(theirs: str, _: torch.Tensor) -> torch.Tensor:
        own = in_halves(names[theirs].removesuffix("_bias"), value(names[theirs]), config)
        return own - plus(names[theirs]) if plus(names[theirs]) else own

    tensors = {theirs: torch.empty(shapes[ours], device="meta") for theirs, ours in names.items()}
    write_tensors(folder / VALUES, tensors, {"format": "pt"}, made)
    write_beside(folder, tokenizer_of(model), hf_config(config, "float32", factors))
