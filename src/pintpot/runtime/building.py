"""The process that builds a published module: transformers makes it from config.json, and it is recorded, not run.

No weight is read. Instead of its tensors a module is given stand-ins of their shapes that take no memory and hold
their own number; transformers renames and ties them as it does with real ones, and the numbers then tell which tensor
of the files each parameter is. What transformers computes while it builds (positions, rotary frequencies) is there.
No code of the folder is ever run.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import safe_open

from pintpot.errors import BadInput, UnsupportedModel, need
from pintpot.model.adapted import DESCRIPTION
from pintpot.nets._recorded import adapt
from pintpot.packer.apart import serve
from pintpot.runtime.kinds import Published, kind_of
from pintpot.runtime.processors import processor_settings
from pintpot.runtime.published import Tensors, files_of, model_type

Progress = Callable[[float, str], None]
_FIRST: Final = 2**20 + 0.5
"""No weight is drawn as this, or as a whole number more: float32 holds six million of them exactly."""
_MOST_TENSORS: Final = 6_000_000
_MOST_INTEGERS: Final = 1 << 20
_TABLES: Final = "_MAPPING_NAMES"
_BARE: Final = frozenset({"MODEL_MAPPING_NAMES", "MODEL_FOR_PRETRAINING_MAPPING_NAMES"})
_OF_LIBRARIES: Final = (
    ValueError, RuntimeError, TypeError, KeyError, AttributeError, IndexError, ImportError, OSError, AssertionError,
)  # fmt: skip
"""What transformers raises for a configuration or for inputs that it cannot use."""


def record_published(folder: Path, shapes: Mapping[str, int], place: Path, progress: Progress) -> None:
    """Record the module of a folder into `place`, which appears whole or not at all.

    Raises UnsupportedModel with what stands against it, BadInput for weights that are not there.
    """
    files, tensors = files_of(folder)
    progress(0.1, "building the module")
    config = _config(folder)
    module, names = build(folder, config, tensors)
    published = Published(
        folder, type(module).__name__, _task(type(module).__name__), config.to_dict(),
        tuple(inspect.signature(module.forward).parameters), processor_settings(folder), shapes,
    )  # fmt: skip
    found, about = kind_of(published)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    progress(0.5, "recording it")
    try:
        draft.mkdir(parents=True)
        for name in about["files"]:
            shutil.copyfile(folder / name, draft / name)
        inputs = {name: torch.from_numpy(one) for name, one in found.examples(about).items()}
        with _own_errors(folder, "its forward does not take the inputs of its kind"):
            adapt(module, inputs, weights=files, names=names, kind=about, name=folder.resolve().name, folder=draft)
        _settle(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def build(folder: Path, config: Any, tensors: Tensors) -> tuple[torch.nn.Module, dict[str, str]]:
    """The module as transformers builds it, and by what name the files have each parameter; what they lack is on meta.

    Raises UnsupportedModel for a module of which transformers makes other weights than those in the files.
    """
    need(len(tensors) < _MOST_TENSORS, f"{folder.name} has {len(tensors)} tensors", UnsupportedModel)
    made, info = _loaded(folder, config, tensors)
    if info["missing_keys"] and all(".pooler." in f".{name}" for name in info["missing_keys"]):
        # Many encoders are published without the layer on top of them that nobody trained.
        made, info = _loaded(folder, config, tensors, add_pooling_layer=False)
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    need(not wrong, f"{folder.name}: not of the shape that config.json says: {', '.join(wrong[:3])}", BadInput)
    module: torch.nn.Module = made.eval()
    listed, names = list(tensors), dict[str, str]()
    computed = _computed(module)
    for owner_name, owner in module.named_modules():
        for kept in (owner._parameters, owner._buffers):
            for key, tensor in kept.items():
                name = f"{owner_name}.{key}" if owner_name else key
                if tensor is None or not tensor.is_floating_point() or name in computed:
                    continue
                found = _number(tensor, len(listed))
                if found is not None and tensors[listed[found]].shape == tuple(tensor.shape):
                    names[name] = listed[found]
                else:
                    empty = tensor.to("meta")
                    kept[key] = torch.nn.Parameter(empty) if isinstance(tensor, torch.nn.Parameter) else empty
    return module, names


def _loaded(folder: Path, config: Any, tensors: Tensors, **how: Any) -> tuple[Any, dict[str, Any]]:
    named = list(config.architectures or [])
    need(bool(named), f"{folder.name}/config.json names no architecture", UnsupportedModel)
    kind = getattr(transformers, named[0], None)
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    version = transformers.__version__
    need(known, f"{folder.name}: transformers {version} has no architecture {named[0]!r:.60}", UnsupportedModel)
    with _own_errors(folder, f"transformers {version} cannot build it"):
        loaded = kind.from_pretrained(  # type: ignore[union-attr]
            None, config=config, state_dict=_stand_ins(folder, tensors), dtype=torch.float32,
            output_loading_info=True, local_files_only=True, **how,
        )  # fmt: skip
    module, info = loaded
    return module, info


def _stand_ins(folder: Path, tensors: Tensors) -> dict[str, torch.Tensor]:
    """For each tensor of the files one of its shape that is its number everywhere; integers, being few, are read."""
    found = {}
    for index, (name, about) in enumerate(tensors.items()):
        if about.dtype[0] in "iu" or about.dtype == "bool":
            need(about.num_values <= _MOST_INTEGERS, f"{name} holds {about.num_values} integers", UnsupportedModel)
            with safe_open(folder / about.file, "pt") as file:
                found[name] = file.get_tensor(name)
        else:
            found[name] = torch.tensor(_FIRST + index).expand(about.shape)
    return found


def _number(tensor: torch.Tensor, count: int) -> int | None:
    """Which stand-in a tensor is; None for any other, such as one that was put together of several."""
    if tensor.numel() == 0 or tensor.is_meta or (tensor.numel() > 1 and set(tensor.stride()) != {0}):
        return None
    index = float(tensor.detach().flatten()[0]) - _FIRST
    return int(index) if index.is_integer() and 0 <= index < count else None


def _computed(module: torch.nn.Module) -> frozenset[str]:
    """The buffers that no file holds: transformers computes their values when it builds a module."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, owner in module.named_modules()
        for key in owner._non_persistent_buffers_set
    )


def _config(folder: Path) -> Any:
    kind = model_type(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _OF_LIBRARIES as error:
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


@contextmanager
def _own_errors(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except _OF_LIBRARIES as error:
        raise UnsupportedModel(f"{folder.name}: {what}: {type(error).__name__}: {error}") from error


def _settle(draft: Path, place: Path) -> None:
    """Into its place; where another process was first, that one's stays."""
    try:
        draft.rename(place)
    except OSError:
        if (place / DESCRIPTION).is_file():
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
