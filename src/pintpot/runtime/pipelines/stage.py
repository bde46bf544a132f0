"""A stage: it stands in for a network in a pipeline of diffusers, with its attributes and without its weights.

The pipeline calls it as it would call the network. The first call of given shapes is recorded, planned and packed, and
every call computes in a session of ours, which is opened when it is needed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from pintpot.nets import adapted
from pintpot.runtime.pipelines.folder import Component
from pintpot.runtime.pipelines.keeper import Entry, Keeper
from pintpot.runtime.pipelines.request import Request, split

METHODS: Final = ("decode", "encode")
"""What pipelines call of a network beside the network itself."""
_RESULT_ALONE: Final = ("return_dict",)


class Output(OrderedDict[str, Any]):
    """What a network of diffusers or transformers gives: fields by name, as attributes, and by their number."""

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.get(name)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there, in order."""
        return tuple(self.values())


class Stage(torch.nn.Module):
    """Stands in for one network. `network` has its attributes: its configuration above all, and no values."""

    def __init__(
        self, component: Component, network: torch.nn.Module, keeper: Keeper, recorded: Callable[[Request], Path]
    ) -> None:
        super().__init__()
        # Not as modules of this one, whose parameters would be on meta.
        self.__dict__.update(network=network, component=component, keeper=keeper, planning=False)
        self._recorded = recorded
        self._entries: dict[str, Entry] = {}

    @property
    def device(self) -> torch.device:
        """Where its inputs are to be."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What its inputs are to be."""
        return torch.float32

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__["network"]
        found = getattr(network, name)
        if name in METHODS and callable(found):
            return lambda *args, **kwargs: self._computed(name, args, kwargs)
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives for this call, computed by our session.

        Raises UnsupportedModel for a call that cannot be recorded, DoesNotFit where it alone is too much.
        """
        return self._computed("forward", args, kwargs)

    def release(self) -> None:
        """Leave memory; the next call opens what it needs again."""
        for entry in self._entries.values():
            self.keeper.release(entry)

    def _computed(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Whoever asks for a plain tuple gets one, and the same recording serves both.
        tupled = kwargs.pop("return_dict", True) is False
        tensors, leaves, spec = split(args, kwargs)
        component = self.component
        request = Request(str(component.folder), component.library, component.kind, method, leaves, spec)
        entry = self._entry(method, request)
        entry.num_calls += 1
        if self.planning:
            found = _zeros(entry.plan.config["stages"][0]["outputs"])
        else:
            session = self.keeper.open(entry)
            started = time.perf_counter()
            found = session(*tensors)
            entry.run_s += time.perf_counter() - started
        given = Output(found) if isinstance(found, Mapping) else found
        return given.to_tuple() if tupled and isinstance(given, Output) else given

    def _entry(self, method: str, request: Request) -> Entry:
        key = request.method + request.spec + repr(request.leaves)
        if key not in self._entries:
            name = self.component.name if method == "forward" else f"{self.component.name}.{method}"
            self._entries[key] = self.keeper.entry(name, self._recorded(request))
        return self._entries[key]


def _zeros(tree: Any) -> Any:
    """What a recording gives, in shape alone."""
    if adapted.is_view(tree):
        dtype, sizes, *_ = adapted.view_of(tree)
        return torch.zeros(sizes, dtype=getattr(torch, dtype))
    if "dict" in tree:
        return {key: _zeros(one) for key, one in tree["dict"].items()}
    return tuple(_zeros(one) for one in tree["list"]) if "list" in tree else tree["value"]
