"""The process that builds a published module: transformers makes it from config.json, and it is recorded, not run.

No code of the folder is ever run. Whoever describes a model this way waits for seconds, once; nothing of torch or
transformers stays in that process.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from pintpot.errors import UnsupportedModel, need
from pintpot.model.adapted import DESCRIPTION
from pintpot.nets._recorded import adapt_stages
from pintpot.packer.apart import serve
from pintpot.runtime.kinds import Published, kind_of
from pintpot.runtime.loaded import OF_LIBRARIES, build, own_errors
from pintpot.runtime.processors import processor_settings
from pintpot.runtime.published import files_of, model_type
from pintpot.runtime.staged import staged

Progress = Callable[[float, str], None]
_TABLES: Final = "_MAPPING_NAMES"
_BARE: Final = frozenset({"MODEL_MAPPING_NAMES", "MODEL_FOR_PRETRAINING_MAPPING_NAMES"})


def record_published(folder: Path, shapes: Mapping[str, int], place: Path, progress: Progress) -> None:
    """Record the module of a folder into `place`, which appears whole or not at all.

    Raises UnsupportedModel with what stands against it, BadInput for weights that are not there.
    """
    files, tensors = files_of(folder)
    progress(0.1, "building the module")
    config = config_of(folder)
    module, names = build(folder, config, tensors)
    takes = tuple(inspect.signature(module.forward).parameters)
    published = Published(
        folder, type(module).__name__, _task(type(module).__name__), config.to_dict(), takes,
        processor_settings(folder) if "pixel_values" in takes else None, shapes,
    )  # fmt: skip
    found, about = kind_of(published)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    progress(0.5, "recording it")
    try:
        draft.mkdir(parents=True)
        for name in about["files"]:
            shutil.copyfile(folder / name, draft / name)
        inputs, *others = (
            {name: torch.from_numpy(one) for name, one in found.examples({**about, **shape}).items()}
            for shape in ({}, *about.get("narrower", ()))
        )
        with own_errors(folder, "its forward does not take the inputs of its kind"):
            whole, prefix, stages = staged(about["name"], module, about, inputs, others)
            names = {prefix + own: stored for own, stored in names.items()}
            title = folder.resolve().name
            adapt_stages(whole, stages, weights=files, names=names, kind=about, name=title, folder=draft)
        settle(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def config_of(folder: Path) -> Any:
    kind = model_type(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except OF_LIBRARIES as error:
        raise UnsupportedModel(
            f"{folder.name}: transformers {transformers.__version__} cannot read the configuration of {kind!r:.60} "
            f"without running code of the folder, which is never done: {error}"
        ) from error
    stored = getattr(config, "quantization_config", None)
    need(not stored, f"{folder.name}: the weights are stored quantized; give the original", UnsupportedModel)
    for one in (config, *(sub for sub in vars(config).values() if isinstance(sub, transformers.PretrainedConfig))):
        one.use_cache = False
        one.output_attentions = one.output_hidden_states = False
        one.return_dict = True
    return config


def _task(architecture: str) -> str:
    """The table of transformers that lists an architecture, without its frame: `image_classification`; "" for bare."""
    from transformers.models.auto import modeling_auto

    for key, table in vars(modeling_auto).items():
        if not key.endswith(_TABLES) or key in _BARE:
            continue
        names = {name for one in table.values() for name in ((one,) if isinstance(one, str) else tuple(one))}
        if architecture in names and architecture not in _bare_names(modeling_auto):
            return key.removeprefix("MODEL_FOR_").removeprefix("MODEL_").removesuffix(_TABLES).lower()
    return ""


def _bare_names(auto: Any) -> frozenset[str]:
    table = auto.MODEL_MAPPING_NAMES.values()
    return frozenset(name for one in table for name in ((one,) if isinstance(one, str) else tuple(one)))


def settle(draft: Path, place: Path, mark: str = DESCRIPTION) -> None:
    """Into its place; where another process was first, that one's stays, if the file `mark` is in it."""
    try:
        draft.rename(place)
    except OSError:
        if (place / mark).is_file():
            return
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)


def _answer(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    record_published(Path(request["folder"]), request["shapes"], Path(request["place"]), progress)
    return {"place": request["place"]}


if __name__ == "__main__":
    serve(_answer)
