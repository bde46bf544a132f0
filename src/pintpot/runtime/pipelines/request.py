"""One call of a stage as JSON: which method of which network, and for inputs of which shapes it is recorded.

Tensors among the arguments are inputs, all else is part of what is recorded; so a call with other numbers, words or
shapes is another recording.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from pintpot.errors import UnsupportedModel, need
from pintpot.runtime.published import made_by

PLAIN = (type(None), bool, int, float, str)
INNER = "network"
"""The name that a network has inside what is recorded."""


@dataclass(frozen=True)
class Request:
    """`leaves` are [dtype, sizes] of a tensor, or [value]; `spec` says how they lie in arguments and keywords."""

    folder: str
    library: str
    kind: str
    method: str
    leaves: list[list[Any]]
    spec: str

    @property
    def mark(self) -> str:
        """Tells requests apart, and files that have changed since."""
        files = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in sorted(Path(self.folder).iterdir())]
        made = made_by("pintpot", "torch", "diffusers", "transformers")
        text = json.dumps([asdict(self), files, made], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def zeros(self) -> tuple[torch.Tensor, ...]:
        """Inputs of these shapes."""
        return tuple(torch.zeros(leaf[1], dtype=getattr(torch, leaf[0])) for leaf in self.leaves if len(leaf) == 2)


def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], list[list[Any]], str]:
    """The tensors of a call, and the rest of it as JSON. Raises UnsupportedModel for what cannot be written down."""
    # Nothing that draws at random can be recorded, so whoever is given a generator has no use for it.
    kept = {key: one for key, one in kwargs.items() if one is not None and not isinstance(one, torch.Generator)}
    found, spec = tree_flatten((args, kept))
    tensors, leaves = [], list[list[Any]]()
    for one in found:
        if isinstance(one, torch.Tensor):
            tensors.append(one)
            dtype = torch.float32 if one.is_floating_point() else one.dtype
            leaves.append([str(dtype).removeprefix("torch."), list(one.shape)])
        else:
            need(isinstance(one, PLAIN), f"a stage called with a {type(one).__name__}", UnsupportedModel)
            leaves.append([one])
    try:
        return tensors, leaves, treespec_dumps(spec)
    except (NotImplementedError, TypeError) as error:
        raise UnsupportedModel(f"a stage called with what cannot be written down: {error}") from error


class Call(torch.nn.Module):
    """A network's method with everything but tensors filled in: what is recorded."""

    def __init__(self, network: torch.nn.Module, request: Request) -> None:
        super().__init__()
        self.network = network
        self._request = request

    def forward(self, *tensors: torch.Tensor) -> Any:
        left = iter(tensors)
        leaves = [next(left) if len(leaf) == 2 else leaf[0] for leaf in self._request.leaves]
        args, kwargs = tree_unflatten(leaves, treespec_loads(self._request.spec))
        method = self.network if self._request.method == "forward" else getattr(self.network, self._request.method)
        return method(*args, **kwargs)
