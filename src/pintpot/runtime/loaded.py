"""A module of transformers without its weights, and what the files of a folder call each of its parameters.

Instead of its tensors a module is given stand-ins of their shapes that take no memory and hold their own number;
transformers renames and ties them as it does with real ones, and the numbers then tell which tensor of the files each
parameter is. What transformers computes while it builds (positions, rotary frequencies) is there. Parameters of which
it makes others than the files have (parts of one, several together) are read and made once, for they have to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from pintpot.errors import BadInput, UnsupportedModel, need
from pintpot.runtime.published import Tensors

_FIRST: Final = 2**20 + 0.5
"""No weight is drawn as this, or as a whole number more: float32 holds six million of them exactly."""
_MOST_TENSORS: Final = 6_000_000
_MOST_INTEGERS: Final = 1 << 20
OF_LIBRARIES: Final = (
    ValueError, RuntimeError, TypeError, KeyError, AttributeError, IndexError, ImportError, OSError, AssertionError,
)  # fmt: skip
"""What transformers raises for a configuration or for inputs that it cannot use."""


def build(folder: Path, config: Any, tensors: Tensors) -> tuple[torch.nn.Module, dict[str, str]]:
    """The module as transformers builds it, and by what name the files have each parameter.

    What is in the files in another form has its values; what they lack is on meta. Raises UnsupportedModel for what
    transformers does not build, BadInput for tensors of other shapes than config.json says.
    """
    need(len(tensors) < _MOST_TENSORS, f"{folder.name} has {len(tensors)} tensors", UnsupportedModel)
    how: dict[str, Any] = {}
    stand_ins = _stand_ins(folder, tensors)
    module, info = _loaded(folder, config, stand_ins)
    if info["missing_keys"] and all(".pooler." in f".{name}" for name in info["missing_keys"]):
        # Many encoders are published without the layer on top of them that nobody trained.
        how = {"add_pooling_layer": False}
        module, info = _loaded(folder, config, stand_ins, **how)
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    need(not wrong, f"{folder.name}: not of the shape that config.json says: {', '.join(wrong[:3])}", BadInput)
    names, others = _named(module, list(tensors), tensors)
    missing = frozenset(info["missing_keys"])
    for name in others & missing:
        _put(module, name, _tensor(module, name).to("meta"))
    if others - missing:
        real, _ = _loaded(folder, config, None, **how)
        for name in others - missing:
            _put(module, name, _tensor(real, name).detach())
    _unturn(module, names, folder, tensors)
    return module, names


def _named(module: torch.nn.Module, listed: list[str], tensors: Tensors) -> tuple[dict[str, str], frozenset[str]]:
    """Names in the files of all that is one stand-in, and what is none."""
    names, others = dict[str, str](), set[str]()
    computed = _computed(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in {**parameters, **dict(module.named_buffers(remove_duplicate=False))}.items():
        if not tensor.is_floating_point() or name in computed:
            continue
        found = _number(tensor.detach(), len(listed))
        if found is not None and tensors[listed[found]].shape == tuple(tensor.shape):
            names[name] = listed[found]
        else:
            others.add(name)
    return names, frozenset(others)


def _unturn(module: torch.nn.Module, names: dict[str, str], folder: Path, tensors: Tensors) -> None:
    """Linear layers that keep their weight as [inputs, outputs] become those that everybody else has."""
    for path, layer in list(module.named_modules()):
        if type(layer) is not Conv1D:
            continue
        name = f"{path}.weight"
        with safe_open(folder / tensors[names[name]].file, "pt") as file:
            weight = file.get_tensor(names.pop(name)).float().T.contiguous()
        turned = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        turned.weight, turned.bias = torch.nn.Parameter(weight, requires_grad=False), layer.bias
        module.set_submodule(path, turned)


def _loaded(
    folder: Path, config: Any, weights: dict[str, torch.Tensor] | None, **how: Any
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The module with these weights, or with those of the files, and what transformers says of them."""
    named = list(config.architectures or [])
    need(bool(named), f"{folder.name}/config.json names no architecture", UnsupportedModel)
    kind = getattr(transformers, named[0], None)
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    version = transformers.__version__
    need(known, f"{folder.name}: transformers {version} has no architecture {named[0]!r:.60}", UnsupportedModel)
    with own_errors(folder, f"transformers {version} cannot build it"):
        module, info = kind.from_pretrained(  # type: ignore[union-attr]
            None if weights is not None else folder, config=config, state_dict=weights, dtype=torch.float32,
            output_loading_info=True, local_files_only=True, use_safetensors=True, **how,
        )  # fmt: skip
    return module.eval(), info


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
    index = float(tensor.flatten()[0]) - _FIRST
    return int(index) if index.is_integer() and 0 <= index < count else None


def _computed(module: torch.nn.Module) -> frozenset[str]:
    """The buffers that no file holds: transformers computes their values when it builds a module."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, owner in module.named_modules()
        for key in owner._non_persistent_buffers_set
    )


def _tensor(module: torch.nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    found = owner._parameters.get(key)
    return owner._buffers[key] if found is None else found  # type: ignore[return-value]


def _put(module: torch.nn.Module, name: str, values: torch.Tensor) -> None:
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    if key in owner._parameters:
        owner._parameters[key] = torch.nn.Parameter(values, requires_grad=False)
    else:
        owner._buffers[key] = values


@contextmanager
def own_errors(folder: Path, what: str) -> Iterator[None]:
    """What transformers raises becomes an UnsupportedModel that says what was tried."""
    try:
        yield
    except OF_LIBRARIES as error:
        raise UnsupportedModel(f"{folder.name}: {what}: {type(error).__name__}: {error}") from error
