"""A module of PyTorch that was recorded: a folder with what it computes, and safetensors with what it knows.

`pintpot_module.json` holds `name`, the recording as `config` (`pintpot.nets.adapted`), the files of its weights, and
which tensors of them are `matrices` of packed leaves, under their names here and the module's, and which are `vectors`,
of which all values stay as they are; `names` says what the files call a tensor where that is not what the module calls
it. What kind of model it is lies in the recording, as `kind` (`pintpot.runtime.kinds`). No code lies in it, and nothing
here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, need
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile, LocalFolder, parse_json
from pintpot.model.spec import FAMILY_OF_MODULES, Block, Model, Part, Source, Weight

DESCRIPTION: Final = "pintpot_module.json"
OWN_WEIGHTS: Final = "weights.safetensors"
EXAMPLES: Final = "examples.safetensors"
SEEN: Final = "seen.safetensors"
"""Of weights float32 [2, K]: the means of |x| and x^2 over what met them while the module answered its examples."""
FAMILY: Final = FAMILY_OF_MODULES
"""No architecture of that name is looked for in a config.json."""
STAGE: Final = "forward"
"""The stage of a module that has one."""
VERSION: Final = 3
CONTEXT: Final = 2
"""Of what has no words: the least that a workload may name."""


def describe_adapted(path: Path) -> Model:
    """The model of an adapted module's folder, from headers alone. Raises BadFile for one that was damaged."""
    folder = LocalFolder(path)
    where = f"{folder.name}/{DESCRIPTION}"
    data = parse_json(folder.text(DESCRIPTION) or "", where)
    other = f"{where} has version {data.get('version')!r:.40}, not {VERSION}; adapt the module again"
    need(data.get("version") == VERSION, other, BadFile)
    try:
        config, name, files = dict(data["config"]), str(data["name"]), [str(file) for file in data["files"]]
        tensors = {t.name: t for number, file in enumerate(files) for t in parse_safetensors(_file(path, file), number)}
        called = dict(data.get("names", {}))
        tensors |= {own: replace(tensors[file_name], name=own) for own, file_name in called.items()}
        weights = [_matrix(tensors, name, own) for name, own in data["matrices"]]
        weights += [_vector(tensors, name) for name in data["vectors"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{where} is not what `adapt` writes: {error!r}") from error
    part = Part("module", FAMILY, config, _blocks(weights))
    table = [[w.name, w.shape, w.dtype, w.file, w.offset, w.num_bytes, w.taps] for w in weights]
    digest = hashlib.sha256(json.dumps([config, table], sort_keys=True).encode()).hexdigest()[:16]
    source = Source("module", str(path.resolve()), tuple(str(_file(path, file).path) for file in files))
    return Model(name, "module", (part,), (), CONTEXT, source, None, digest)


def example_name(stage: str, name: str) -> str:
    """What an input of a stage is called among the example inputs of all."""
    return f"{stage}/{name}"


def write_description(
    path: Path,
    name: str,
    config: dict[str, Any],
    files: list[str],
    matrices: list[tuple[str, str]],
    vectors: list[str],
    names: Mapping[str, str] | None = None,
) -> None:
    """Write the description of a recorded module, whole or not at all; `files` are paths, or names within the folder,
    `names` what they call a tensor of another name. Raises OSError."""
    data = {
        "version": VERSION, "name": name, "config": config, "files": files, "matrices": matrices, "vectors": vectors,
        "names": dict(names or {}),
    }  # fmt: skip
    draft = path / f".{DESCRIPTION}.draft"
    draft.write_text(json.dumps(data, sort_keys=True), encoding="utf-8")
    draft.replace(path / DESCRIPTION)


def was_run(model: Model) -> bool:
    """Whether a part of the model is a module that answered its example inputs when it was recorded."""
    return any(part.family == FAMILY and part.config.get("seen") for part in model.parts)


def recorded_calls(model: Model) -> frozenset[str]:
    """The calls of PyTorch's library that a recorded module makes, with those of leaves that are left to it."""
    stages = [stage for part in model.parts if part.family == FAMILY for stage in part.config.get("stages", ())]
    ops = [op for stage in stages for op in stage.get("ops", ())]
    return frozenset(
        str(op["call"]) if "call" in op else "convolution.default" for op in ops if {"call", "axes"} & set(op)
    )


def _file(path: Path, name: str) -> LocalFile:
    return LocalFile((path / name).resolve())


def _matrix(tensors: dict[str, Weight], name: str, own: str) -> Weight:
    """The weight of a leaf under its name here; a convolution's places are some of its columns."""
    need(own in tensors, f"no file has the weight {own!r:.80}", BadFile)
    found = tensors[own]
    good = len(found.shape) in (2, 3, 4, 5) and found.num_values > 0
    need(good, f"{own} is a matrix, and its tensor has the shape {found.shape}", BadFile)
    rows, channels, *places = found.shape
    shape, taps = (rows, channels * prod(places)), prod(places)
    return replace(found, name=name, shape=shape, taps=taps if channels > 1 else 1)


def _vector(tensors: dict[str, Weight], name: str) -> Weight:
    """Values in a row, whatever axes they have in their file."""
    need(name in tensors, f"no file has the weight {name!r:.80}", BadFile)
    found = tensors[name]
    need(found.num_values > 0, f"{name} is empty", BadFile)
    return replace(found, shape=(found.num_values,))


def _blocks(weights: list[Weight]) -> tuple[Block, ...]:
    """By layer, in the order in which their first weights were named."""
    found: dict[str, list[Weight]] = {}
    for weight in weights:
        found.setdefault(weight.name.rpartition(".")[0] or weight.name, []).append(weight)
    return tuple(Block(name, tuple(inside)) for name, inside in found.items())
