"""Blocks of a module that no recording can hold: run once on the example inputs, measured, and stood in for.

What decides by values, or calls what is not known here, is found by recording: the innermost block that was at work
when it failed. It becomes one op, with the seconds and bytes it was seen to take; its weights stay in float32. Its code
is the user's own, and only ever that of a module that the user gives.
"""

from __future__ import annotations

import json
import time
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.torch.trace import Trace, Untraceable
from pintpot.meter.clock import median

SECONDS, FEWEST_RUNS, MOST_RUNS = 0.3, 3, 50
"""A block is timed for so long."""
FAILURES = (Untraceable, RuntimeError, TypeError, ValueError, AttributeError)
"""What a module does while it is recorded that it may not do when it is run."""

Stage = tuple[str, str, Mapping[str, torch.Tensor]]
"""Its name, the module's method, and its inputs."""


@dataclass(frozen=True)
class Seen:
    """One call of a block: what it was given and gave, as trees of tensors, and what it took."""

    given: Any
    outs: list[torch.Tensor]
    tree: Any
    seconds: tuple[float, float, float]
    inside_bytes: int


@dataclass
class Blocks:
    """The blocks of a module that are measured, found one after the other as recordings fail.

    `why` says of each what stood against it; `entered` are the blocks that are at work while one recording is made.
    """

    module: nn.Module
    stages: Sequence[Stage]
    may_run: bool
    why: dict[str, str] = field(default_factory=dict)
    entered: list[str] = field(default_factory=list)
    _seen: dict[tuple[str, str], list[Seen]] = field(default_factory=dict)

    def watch(self, swapped: nn.Module) -> None:
        """From now on it is known which block of this copy of the module is at work."""
        self.entered.clear()
        for path, layer in swapped.named_modules():
            layer.register_forward_pre_hook(partial(self._enter, path))
            layer.register_forward_hook(self._leave)

    def _enter(self, path: str, *_: Any) -> None:
        self.entered.append(path)

    def _leave(self, *_: Any) -> None:
        self.entered.pop()

    def take(self, error: Exception) -> None:
        """Blame the block that was at work, run it and measure it; raise where none can be blamed, or run."""
        path = self.entered[-1] if self.entered else ""
        everything = (
            *self.module.parameters(),
            *self.module.buffers(),
            *tensors_of([one for _, _, one in self.stages]),
        )
        runs = self.may_run and not any(one.is_meta for one in everything)
        alone = bool(path) and path not in self.why
        if not isinstance(error, Untraceable) and not (alone and runs):
            raise error
        if not alone:
            hint = "; what cannot be recorded may be a block of its own within the module, which is then measured"
            raise UnsupportedModel(f"{error}{hint}") from error
        if not runs:
            raise UnsupportedModel(
                f"{path} cannot be recorded ({error}), and without its values it cannot be run and measured either; "
                "give pintpot.adapt a module that has them, with run=True"
            ) from error
        self.why = {one: why for one, why in self.why.items() if not one.startswith(f"{path}.")}
        self.why[path] = str(error).partition("\n")[0]
        for stage, method, inputs in self.stages:
            self._seen[stage, path] = _observed(self.module, method, inputs, path)

    def replace(self, swapped: nn.Module, stage: str, names: Mapping[int, str], trace: list[Trace]) -> None:
        """Put stand-ins where the measured blocks are; `names` are those of the module's tensors by identity."""
        for path in self.why:
            block = self.module.get_submodule(path)
            found = {names[id(one)]: one for one in (*block.parameters(), *block.buffers())}
            stands = _StandIn(f"{stage}/{path}", self._seen[stage, path], found, trace)
            parent, _, name = path.rpartition(".")
            swapped.get_submodule(parent)._modules[name] = stands

    def measured(self) -> dict[str, dict[str, Any]]:
        """Of each call of each block what it took, and why it was not recorded."""
        return {
            f"{stage}/{path}/{at}": {"seconds": list(one.seconds), "inside_bytes": one.inside_bytes, "why": why}
            for path, why in self.why.items()
            for stage, _, _ in self.stages
            for at, one in enumerate(self._seen[stage, path])
        }


class _StandIn(nn.Module):
    """In the place of a measured block while its module is recorded: it makes what the block gave, without values."""

    def __init__(self, key: str, seen: list[Seen], own: Mapping[str, torch.Tensor], trace: list[Trace]) -> None:
        super().__init__()
        self._key, self._seen, self._own, self._trace, self._calls = key, seen, own, trace, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self._calls
        self._calls += 1
        _, _, path = self._key.partition("/")
        shapes = [one.shape for one in tensors_of((args, kwargs))]
        as_seen = call < len(self._seen) and shapes == [one.shape for one in tensors_of(self._seen[call].given)]
        need(as_seen, f"how often {path} is called, or with which shapes, depends on values", UnsupportedModel)
        seen, trace, tensors = self._seen[call], self._trace[0], list[dict[str, Any]]()
        said = _said((args, kwargs), tensors, trace, path)
        outs = [torch.empty(one.shape, dtype=_dtype(one)) for one in seen.outs]
        trace.ops.append(
            {
                "kind": "measured", "block": path, "measured": f"{self._key}/{call}", "args": json.dumps(said),
                "tensors": tensors, "own": list(self._own), "shapes": list(map(_shape, self._own.values())),
                "outs": [trace.view(one) for one in outs],
                "writes": [{"storage": trace.storage(one)} for one in outs],
            }
        )  # fmt: skip
        made = iter(outs)
        leaves, spec = tree_flatten(seen.tree)
        return tree_unflatten([next(made) if isinstance(one, torch.Tensor) else one for one in leaves], spec)


def _observed(module: nn.Module, method: str, inputs: Mapping[str, torch.Tensor], path: str) -> list[Seen]:
    """Run a stage of the module, and of the block at this path every call of it again and again."""
    block, calls = module.get_submodule(path), list[tuple[Any, Any]]()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((_copied((args, kwargs)), None))

    def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        same = _equal(tensors_of(calls[-1][0]), tensors_of((args, kwargs)))
        need(same, f"{path} cannot be recorded, and changes what it is given", UnsupportedModel)
        calls[-1] = (calls[-1][0], _copied(result))

    with ExitStack() as closing:
        closing.enter_context(torch.no_grad())
        closing.enter_context(_as_it_was(module))
        hooks = (
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after, with_kwargs=True),
        )
        called = module if method == "forward" else getattr(module, method)
        named = {key: one for key, one in inputs.items() if not key.isdecimal()}
        try:
            called(*(one for key, one in inputs.items() if key.isdecimal()), **named)
        finally:
            for hook in hooks:
                hook.remove()
        return [_measured(block, path, given, result) for given, result in calls]


def _measured(block: nn.Module, path: str, given: Any, result: Any) -> Seen:
    args, kwargs = given
    others = [one for one in tree_leaves(result) if not isinstance(one, torch.Tensor | None)]
    odd = f"{path} cannot be recorded, and gives back a {type(others[0]).__name__}" if others else ""
    need(not others, f"{odd}; of what is measured, tensors alone are known", UnsupportedModel)
    kept = [one.clone() for one in block.buffers()]
    traced = tracemalloc.is_tracing()
    tracemalloc.start()
    with _Alive() as alive:
        again = block(*_copied(args), **_copied(kwargs))
    _, python = tracemalloc.get_traced_memory()
    if not traced:
        tracemalloc.stop()
    same = _equal(tensors_of(again), tensors_of(result))
    need(same, f"{path} cannot be recorded, and draws at random: no two answers of it are equal", UnsupportedModel)
    lasting = f"{path} cannot be recorded, and keeps something from call to call"
    need(_equal(kept, list(block.buffers())), lasting, UnsupportedModel)
    times, end = list[float](), time.perf_counter() + SECONDS
    while len(times) < FEWEST_RUNS or (time.perf_counter() < end and len(times) < MOST_RUNS):
        started = time.perf_counter()
        block(*args, **kwargs)
        times.append(time.perf_counter() - started)
    span = (min(times), median(times), max(times))
    return Seen(given, tensors_of(result), result, span, alive.peak_bytes + python)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are made while it lasts, and the most that were there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._held: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tensors_of(result):
            storage = one.untyped_storage()
            held = self._held.setdefault(int(storage._cdata), [storage.nbytes(), 0])
            held[1] += 1
            weakref.finalize(one, self._gone, int(storage._cdata))
        self.peak_bytes = max(self.peak_bytes, sum(size for size, _ in self._held.values()))
        return result

    def _gone(self, storage: int) -> None:
        held = self._held[storage]
        held[1] -= 1
        if not held[1]:
            del self._held[storage]


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """In eval mode; what runs write to its buffers is undone."""
    training = [layer for layer in module.modules() if layer.training]
    kept = [(one, one.clone()) for one in module.buffers()]
    module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True
        for one, values in kept:
            one.copy_(values)


def _said(item: Any, tensors: list[dict[str, Any]], trace: Trace, path: str) -> Any:
    """A tree of arguments as JSON; a tensor becomes its number among those that are read."""
    if isinstance(item, torch.Tensor):
        tensors.append(trace.view(item))
        return {"t": len(tensors) - 1}
    if item is None or isinstance(item, bool | int | float | str):
        return item
    if type(item) in (list, tuple):
        return {type(item).__name__: [_said(one, tensors, trace, path) for one in item]}
    if type(item) is dict and all(isinstance(key, str) for key in item):
        return {"dict": {key: _said(one, tensors, trace, path) for key, one in item.items()}}
    raise UnsupportedModel(f"{path} cannot be recorded, and is given a {type(item).__name__}, which cannot be kept")


def tensors_of(tree: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]


def _copied(tree: Any) -> Any:
    return tree_map_only(torch.Tensor, lambda one: one.detach().clone(), tree)


def _equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    if [one.shape for one in some] != [one.shape for one in others]:
        return False
    pairs = zip(some, others, strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs)


def _shape(one: torch.Tensor) -> tuple[str, list[int]]:
    return str(_dtype(one)).removeprefix("torch."), list(one.shape)


def _dtype(one: torch.Tensor) -> torch.dtype:
    return torch.float32 if one.is_floating_point() else one.dtype
