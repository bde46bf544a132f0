"""A recorded module of which every weight has learned: a folder as the one it came from, with other values."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pintpot.model.adapted import DESCRIPTION, EXAMPLES, OWN_WEIGHTS, SEEN
from pintpot.model.source import parse_json
from pintpot.model.spec import Model, Weight
from pintpot.trainer.tensors import Entry, write_entries

CONFIG, BESIDE, VALUES = "config.json", ("preprocessor_config.json",), "model.safetensors"
KNOWN = (torch.float32, torch.uint8, torch.int64)
"""What is written as it is; other numbers become float32."""
Parts = Callable[[str], Iterator[torch.Tensor]]


def save_whole_module(folder: Path, model: Model, parts: Parts) -> None:
    """One file of all tensors that the model's own files hold, under their names there, and what stands beside them.

    A folder of transformers becomes one, a recording a recording, which names no file elsewhere.
    """
    own = Path(model.source.path)
    description = parse_json((own / DESCRIPTION).read_text(encoding="utf-8"), str(own))
    called = {str(description["names"].get(one, one)): name for name, one in description["matrices"]}
    called |= {str(description["names"].get(one, one)): one for one in description["vectors"]}
    weights = {weight.name: weight for part in model.parts for weight in part.weights()}
    came = Path(model.source.files[0]).parent
    published = (came / CONFIG).is_file()
    values = VALUES if published else OWN_WEIGHTS
    entries = [one for file in model.source.files for one in _entries(file, called, weights, parts)]
    write_entries(folder / values, entries, {"format": "pt"})
    if published:
        config = parse_json((came / CONFIG).read_text(encoding="utf-8"), CONFIG)
        config = {key: value for key, value in config.items() if key != "torch_dtype"}
        _write(folder / CONFIG, {**config, "dtype": "float32"})
        _copy(came, folder, BESIDE)
        return
    about = description["config"].get("kind") or {}
    _copy(own, folder, (EXAMPLES, SEEN, *about.get("files", ())))
    _write(folder / DESCRIPTION, {**description, "files": [values]})


def _entries(file: str, called: Mapping[str, str], weights: Mapping[str, Weight], parts: Parts) -> Iterator[Entry]:
    with safe_open(file, framework="pt") as found:
        for stored in found.keys():  # noqa: SIM118
            shape = tuple(found.get_slice(stored).get_shape())
            if stored in called:
                weight = weights[called[stored]]
                yield Entry(stored, shape, partial(_learned, weight, parts))
            else:
                dtype = found.get_tensor(stored).dtype
                kept = dtype if dtype in KNOWN else torch.float32
                yield Entry(stored, shape, partial(_as_it_came, file, stored, kept), kept)


def _learned(weight: Weight, parts: Parts) -> Iterator[torch.Tensor]:
    """Rows of (places, channels) as rows of (channels, places), which files have."""
    for one in parts(weight.name):
        if weight.taps == 1:
            yield one
        else:
            yield one.view(len(one), weight.taps, -1).transpose(1, 2).contiguous()


def _as_it_came(file: str, name: str, kept: torch.dtype) -> Iterator[torch.Tensor]:
    with safe_open(file, framework="pt") as found:
        yield found.get_tensor(name).to(kept)


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(aside, path)
