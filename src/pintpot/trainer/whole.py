"""A model of which every weight has learned, as a folder that transformers reads and every command here takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.model.names import hf_name, plus_of
from pintpot.model.spec import Model
from pintpot.packer.export.beside import write_beside
from pintpot.packer.export.config import hf_config
from pintpot.packer.pack import tokenizer_of
from pintpot.trainer.adapters import in_halves

if TYPE_CHECKING:
    import torch

VALUES = "model.safetensors"


def check_whole(model: Model) -> None:
    """Raises UnsupportedModel for a model that could not be written as such a folder."""
    hf_config(model.part("language").config, "float32")


def save_whole(folder: Path | None, model: Model, parts: Callable[[str], Iterator[torch.Tensor]]) -> None:
    """Weights in float32, config.json and the tokenizer. What the model's own files say by sharing stays shared.

    A weight is asked for its `parts`, rows in their order, when its turn has come to be written, and once; without a
    folder only asked for.
    """
    import torch

    from pintpot.trainer.tensors import Entry, write_entries

    part = model.part("language")
    config, family = part.config, str(part.config["model_type"])
    plus = plus_of(family)
    shapes = {one.name: one.shape for one in part.weights()}
    factors = next(parts("rope_freqs")).tolist() if "rope_freqs" in shapes else ()
    # config.json tells the factors of rotary angles.
    names = {hf_name(name, family): name for name in shapes if name != "rope_freqs"}

    def made(name: str) -> Iterator[torch.Tensor]:
        # Heads of a block's weights may change places; what is in no block is larger, and stays as it is.
        found = parts(name) if "." not in name else iter([torch.cat(list(parts(name)))])
        for one in found:
            own = in_halves(name.removesuffix("_bias"), one, config) if "." in name else one
            yield own - plus(name) if plus(name) else own

    entries = [Entry(theirs, tuple(shapes[ours]), partial(made, ours)) for theirs, ours in names.items()]
    write_entries(Path(os.devnull) if folder is None else folder / VALUES, entries, {"format": "pt"})
    if folder is not None:
        write_beside(folder, tokenizer_of(model), hf_config(config, "float32", factors))
