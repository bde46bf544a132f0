"""How modules of a kind are called: one file for each kind whose module has several stages, found by being there.

A file offers `staged(module, about)`: the module that is recorded, with the module that was built inside it, by which
name its parameters then begin, and an example of each stage. All other modules are called once, as they are.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pintpot.kernels.torch.examples import Example
from pintpot.model.adapted import STAGE

Staged = tuple[torch.nn.Module, str, tuple[Example, ...]]


def staged(
    kind: str,
    module: torch.nn.Module,
    about: Mapping[str, Any],
    inputs: Mapping[str, torch.Tensor],
    others: Sequence[Mapping[str, torch.Tensor]] = (),
) -> Staged:
    """What is recorded of a module of this kind, `inputs` being those of its first stage, `others` of other shapes.

    Raises UnsupportedModel for a module whose stages are not known.
    """
    if kind not in {info.name for info in pkgutil.iter_modules(__path__)}:
        return module, "", (Example(STAGE, inputs, repeats="output", others=tuple(others)),)
    found: Staged = importlib.import_module(f"{__name__}.{kind}").staged(module, about, inputs)
    return found
