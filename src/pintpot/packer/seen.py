"""What met the weights of modules while they answered their example inputs, as `adapt` kept it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pintpot.contract.statistics import InputStatistics
from pintpot.errors import BadFile, need
from pintpot.model.adapted import FAMILY, SEEN
from pintpot.model.joined import part_folder
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile
from pintpot.model.spec import Model


def seen_of(model: Model) -> dict[str, InputStatistics]:
    """By weight; {} of a model that has no modules, or none that was run. Raises BadFile for a damaged file."""
    return dict(_seen(model))


def _seen(model: Model) -> Iterator[tuple[str, InputStatistics]]:
    columns = {weight.name: weight.shape[-1] for part in model.parts for weight in part.weights()}
    for part in model.parts:
        path = part_folder(Path(model.source.path), part.name) / SEEN
        if part.family != FAMILY or not path.is_file():
            continue
        for found in parse_safetensors(LocalFile(path)):
            name, shape = part.prefix + found.name, (2, columns.get(part.prefix + found.name, 0))
            need(found.shape == shape and found.dtype == "f32", f"{path}: {name} has the shape {found.shape}", BadFile)
            values = np.fromfile(path, np.float32, found.num_values, offset=found.offset).reshape(shape)
            yield name, InputStatistics(1, None, values[0], values[1])
