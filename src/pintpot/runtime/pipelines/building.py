"""Networks of diffusers and transformers without their weights: built by their own libraries, parameters on meta.

What a library computes while it builds (positions, frequencies) has its values; of the weights only names and shapes
are there. No code of a folder is run: the class has to be the library's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from pintpot.errors import BadInput, UnsupportedModel, UsageError, need
from pintpot.runtime.pipelines.folder import CONFIG, settings, tensors_of

_OF_LIBRARIES: Final = (
    ValueError, RuntimeError, TypeError, KeyError, AttributeError, IndexError, ImportError, OSError, AssertionError,
)  # fmt: skip
"""What a library raises for a configuration that it cannot use."""


def empty(folder: Path, library: str, kind: str) -> torch.nn.Module:
    """A network in eval mode, its parameters on meta. Raises UnsupportedModel for what its library cannot build."""
    made = class_of(library, kind)
    with own_errors(folder, f"{library} cannot build it"), parameters_on_meta():
        module: torch.nn.Module
        if library == "diffusers":
            module = made.from_config(settings(folder, CONFIG))
        else:
            config = made.config_class.from_pretrained(folder, local_files_only=True)
            if "attn_implementation" not in config and getattr(made, "_supports_sdpa", False):
                config._attn_implementation = "sdpa"
            module = made(config)
    return module.eval().requires_grad_(False)


def class_of(library: str, kind: str) -> Any:
    """A library's own class. Raises UsageError where the library is not installed, UnsupportedModel for none there."""
    try:
        found = getattr(importlib.import_module(library), kind, None)
    except ImportError as error:
        raise UsageError(f"{kind} is of {library}, which is not here: pip install pintpot[diffusion]") from error
    need(isinstance(found, type), f"this {library} has no {kind}", UnsupportedModel)
    return found


def names_in_files(module: torch.nn.Module, folder: Path) -> Mapping[str, str]:
    """What the files call each parameter and buffer. Raises BadInput for a shape that is not the network's."""
    stored = tensors_of(folder)
    called = {name: name for name in stored}
    renamed = getattr(module, "_convert_deprecated_attention_blocks", None)
    if renamed is not None:
        renamed(called)  # older decoders call the parts of attention by other names
    own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    found = {name: called[_stem(name, called)] for name in own if _stem(name, called) in called}
    for name, file_name in found.items():
        here, there = tuple(own[name].shape), stored[file_name].shape
        need(here == there, f"{folder}: {file_name} has the shape {there}, and config.json says {here}", BadInput)
    return found


def _stem(name: str, called: Mapping[str, str]) -> str:
    """As the files have it: some leave out, or put in front, what holds the whole network."""
    first, _, rest = name.partition(".")
    tries = (name, rest, *(f"{prefix}.{name}" for prefix in ("model", "text_model", first)))
    return next((one for one in tries if one in called), name)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """While this lasts a parameter loses its memory as soon as a module has it: one layer's is there at most."""
    before = torch.nn.Module.register_parameter

    def register(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        # One on meta may be another module's as well, and stays shared.
        if param is not None and not param.is_meta:
            param = torch.nn.Parameter(torch.empty_like(param, device="meta"), False)
        before(self, name, param)

    torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = before  # type: ignore[method-assign]


@contextmanager
def own_errors(folder: Path, what: str) -> Iterator[None]:
    """What a library raises becomes UnsupportedModel."""
    try:
        yield
    except _OF_LIBRARIES as error:
        raise UnsupportedModel(f"{folder}: {what}: {type(error).__name__}: {error}") from error
