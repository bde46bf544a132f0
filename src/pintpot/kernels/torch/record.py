"""A module's recording: its leaves replaced once, then run under fake tensors, which have shapes and no memory.

What is replaced is a copy that shares nothing with the user's module but its code; no weight is read. A leaf is
replaced where it is the only user of its weight; what else a module does with its parameters stays a call of ATen.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from pintpot.errors import UnsupportedModel, UsageError, need
from pintpot.kernels.torch.trace import Trace

Inputs = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor] | torch.Tensor
DTYPES = (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)
_UNTRACEABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


@dataclass(frozen=True)
class Recorded:
    """`config` for `pintpot.nets.adapted`; `matrices` and `vectors` are the parameters it uses, by name.

    A matrix is the weight of a packed leaf; of a vector all values stay as they are, in the order of its memory.
    """

    config: dict[str, Any]
    matrices: Mapping[str, torch.Tensor]
    vectors: Mapping[str, torch.Tensor]


class Leaf(torch.nn.Module):
    """Stands in for a linear layer: it tells the trace that it was called."""

    def __init__(self, original: torch.nn.Linear, weight: str, bias: str | None, trace: list[Trace]) -> None:
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        self.in_features, self.out_features = original.in_features, original.out_features
        self._names, self._trace = (weight, bias), trace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._trace[0].linear(x, *self._names, self.out_features)


def record(module: torch.nn.Module, inputs: Inputs) -> Recorded:
    """Run a module in eval mode on fakes of `inputs` (a tensor, a tuple for its arguments, or a mapping of keywords).

    Raises UnsupportedModel, with what it was, for a forward that decides by values, draws at random or reads tensors
    that nobody registered; UsageError for inputs that are no tensors.
    """
    given = named_inputs(inputs)
    state = _State(module)
    excluded: frozenset[str] = frozenset()
    while True:
        trace, config = _traced(module, state, given, excluded)
        used = {
            item["weight"] for op in trace.ops if op["kind"] == "aten" for item in op["tensors"] if "weight" in item
        }
        packed = {op["weight"] for op in trace.ops if op["kind"] == "linear"}
        both = used & packed
        if not both:
            break
        excluded |= both
    need(bool(packed), "the module has no linear layer, so there is nothing to pack", UnsupportedModel)
    used |= {op["bias"] for op in trace.ops if op["kind"] == "linear" and op["bias"] is not None}
    return Recorded(
        config,
        {name: state.tensors[name] for name in state.tensors if name in packed},
        {name: state.tensors[name] for name in state.tensors if name in used},
    )


def named_inputs(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Inputs by name: keywords have their own, arguments the number of their place."""
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    items = inputs.items() if isinstance(inputs, Mapping) else ((str(at), one) for at, one in enumerate(inputs))
    found = dict(items)
    for name, one in found.items():
        need(isinstance(one, torch.Tensor), f"input {name} is a {type(one).__name__}, not a tensor", UsageError)
        kind = one.dtype if not one.is_floating_point() else torch.float32
        need(kind in DTYPES, f"input {name} has the dtype {one.dtype}, which has no home here", UsageError)
    need(bool(found), "a module is recorded with example inputs; there are none", UsageError)
    return found


class _State:
    """Parameters and buffers of a module by their first name; those of integers are constants of its recording."""

    def __init__(self, module: torch.nn.Module) -> None:
        everything = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.tensors = {name: one for name, one in everything.items() if one.is_floating_point()}
        self.constants = {name: one for name, one in everything.items() if not one.is_floating_point()}
        owners = (named for owner in module.modules() for named in owner._parameters.values() if named is not None)
        self.num_owners = Counter(id(one) for one in owners)
        self.names = {id(one): name for name, one in everything.items()}


def _traced(
    module: torch.nn.Module, state: _State, given: Mapping[str, torch.Tensor], excluded: frozenset[str]
) -> tuple[Trace, dict[str, Any]]:
    trace, mode = Trace(), FakeTensorMode()
    with mode:
        fakes = {name: _fake(one) for name, one in {**state.tensors, **state.constants}.items()}
        inputs = {name: _fake(one) for name, one in given.items()}
    memo: dict[int, Any] = {}
    for name, one in {**state.tensors, **state.constants}.items():
        fake = fakes[name]
        memo[id(one)] = torch.nn.Parameter(fake, requires_grad=False) if isinstance(one, torch.nn.Parameter) else fake
        trace.know(memo[id(one)], {"weight": name} if name in state.tensors else {"constant": name})
    swapped = copy.deepcopy(module, memo).eval()
    swapped = _replace_leaves(swapped, module, state, excluded, [trace])
    views = []
    for name, fake in inputs.items():
        trace.storage(fake)
        views.append({"name": name, **trace.view(fake)})
    args = [fake for name, fake in inputs.items() if name.isdecimal()]
    try:
        with _call_by_call(), mode, trace, torch.no_grad():
            result = swapped(*args, **{name: fake for name, fake in inputs.items() if not name.isdecimal()})
    except _UNTRACEABLE as error:
        raise UnsupportedModel(
            f"the module's forward depends on values, which no recording can hold: {error}"
        ) from error
    except AssertionError as error:
        why = "the module reads a tensor that is neither an input, nor a parameter, nor a buffer; register it"
        raise UnsupportedModel(why) from error
    return trace, {
        "inputs": views, "outputs": _tree(result, trace), "ops": trace.ops, "storages": trace.storages,
        "constants": {name: _constant(name, state.constants[name]) for name in _constants_of(trace)},
    }  # fmt: skip


@contextmanager
def _call_by_call() -> Iterator[None]:
    """One operator for a whole encoder layer, or a whole recurrence, would have all its weights to itself."""
    fused, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(onednn)


def _fake(one: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if one.is_floating_point() else one.dtype
    return torch.empty(one.shape, dtype=dtype, device="cpu")


def _replace_leaves(
    swapped: torch.nn.Module, module: torch.nn.Module, state: _State, excluded: frozenset[str], trace: list[Trace]
) -> torch.nn.Module:
    """The copy with a leaf in the place of each linear layer that is the only user of its weight."""
    originals = dict(module.named_modules(remove_duplicate=False))
    for path, child in list(swapped.named_modules()):
        if type(child) is not torch.nn.Linear:
            continue
        original = originals[path]
        weight = state.names[id(original.weight)]
        if weight in excluded or state.num_owners[id(original.weight)] > 1:
            continue
        bias = None if original.bias is None else state.names[id(original.bias)]
        leaf = Leaf(child, weight, bias, trace)
        if not path:
            return leaf
        parent, _, name = path.rpartition(".")
        swapped.get_submodule(parent)._modules[name] = leaf
    return swapped


def _tree(result: Any, trace: Trace) -> Any:
    """What a forward gave: views in lists and dicts."""
    if isinstance(result, FakeTensor | torch.Tensor):
        trace.storage(result)
        return trace.view(result)
    if isinstance(result, Mapping):
        return {"dict": {str(key): _tree(one, trace) for key, one in result.items() if one is not None}}
    if isinstance(result, tuple | list):
        return {"list": [_tree(one, trace) for one in result]}
    if result is None or isinstance(result, bool | int | float | str):
        return {"value": result}
    raise UnsupportedModel(
        f"the module gives back a {type(result).__name__}; tensors in lists and dicts are known here"
    )


def _constants_of(trace: Trace) -> list[str]:
    found = {
        item["constant"] for op in trace.ops if op["kind"] == "aten" for item in op["tensors"] if "constant" in item
    }
    return sorted(found)


MOST_CONSTANT_VALUES = 1 << 20


def _constant(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """A buffer of integers, with its values."""
    need(not tensor.is_meta, f"the buffer {name} has no values yet; build the module outside of meta", UnsupportedModel)
    need(tensor.numel() <= MOST_CONSTANT_VALUES, f"the buffer {name} is too large for a recording", UnsupportedModel)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sizes": list(tensor.shape),
        "values": tensor.flatten().tolist(),
    }
