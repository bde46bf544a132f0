"""A module's recording: its leaves replaced once, then run under fake tensors, which have shapes and no memory.

What is replaced is a copy that shares nothing with the user's module but its code; no weight is read. A leaf is
replaced where leaves alone use its weight; what else a module does with its parameters stays a call of ATen.
A module may have several stages, methods of its own that are called in turn; a buffer that one of them writes lasts
from call to call, and all of them see it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
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
from pintpot.kernels.torch.blocks import FAILURES, Blocks
from pintpot.kernels.torch.examples import Example, named_inputs, nested
from pintpot.kernels.torch.leaves import LEAVES, canonical, replace_leaves
from pintpot.kernels.torch.trace import Trace, Untraceable
from pintpot.program.prefix import ONCE

_UNTRACEABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


@dataclass(frozen=True)
class Recorded:
    """`config` for `pintpot.nets.adapted`; `tensors` are the parameters it uses, by the names that the module has.

    `matrices` are the weights of packed leaves, under the names that the recording has and these; of `vectors` all
    values stay as they are, in the order of their memory.
    """

    config: dict[str, Any]
    matrices: list[tuple[str, str]]
    vectors: list[str]
    tensors: Mapping[str, torch.Tensor]


def record(module: torch.nn.Module, examples: Sequence[Example], run: bool = True) -> Recorded:
    """Run the stages of a module in eval mode on fakes of their inputs.

    Inputs are a tensor, a tuple for the arguments, or a mapping of keywords. A block that decides by values, or calls
    what is not known here, is `run` and measured. Raises UnsupportedModel, with what it was, where that cannot be, for
    a stage that does so itself, draws at random or reads tensors that nobody registered, and for a buffer that is
    written and does not begin at zero; UsageError for inputs that are no tensors, and stages of one name.
    """
    given_examples, examples = examples, [each for one in examples for each in one.all()]
    names = [example.name for example in examples]
    good = all(name.isidentifier() for name in names) and len(set(names)) == len(names)
    need(bool(names) and good, f"stages are named once each, by plain words; these are {names}", UsageError)
    own = _Own(module)
    given = [named_inputs(example.inputs) for example in examples]
    stages = list(zip(examples, given, strict=True))
    blocks = Blocks(module, [(one.name, one.method, inputs) for one, inputs in stages], run)
    traced: Traced | None = None
    while traced is None:
        try:
            traced = _settled(module, own, stages, blocks)
        except FAILURES as error:
            blocks.take(error)
    ops = [op for trace, _ in traced for op in trace.ops]
    lacking = "the module has no linear layer, convolution or table of words, so there is nothing to pack"
    need(any(op["kind"] in LEAVES for op in ops), lacking, UnsupportedModel)
    lasting = {name for trace, _ in traced for name in trace.changed}
    kept = sorted(lasting & {name for op in ops for name in op.get("own", ())})
    need(not kept, f"a block that cannot be recorded reads {', '.join(kept[:3])}, which changes", UnsupportedModel)
    for trace, _ in traced:
        _name_state(trace, lasting)
    known = {**own.constants, **{name: one for trace, _ in traced for name, one in trace.made.items()}}
    constants = {item["constant"] for op in ops for item in op.get("tensors", ()) if "constant" in item}
    constants |= {name for op in ops for name in op.get("own", ()) if name in own.constants}
    used = _read_whole(ops) - constants
    used |= {op["bias"] for op in ops if op["kind"] == "linear" and op["bias"] is not None}
    called = canonical([trace.ops for trace, _ in traced])
    called |= {name: ONCE + called[name] for name in _needed_once(examples, [trace.ops for trace, _ in traced])}
    for op in ops:
        if op["kind"] in LEAVES:
            op["weight"] = called[op["weight"]]
    config = {
        "stages": nested(given_examples, [stage for _, stage in traced]),
        "constants": {name: _constant(name, known[name]) for name in sorted(constants)},
        "state": {name: own.state(name) for name in sorted(lasting)},
    }
    if blocks.why:
        config["measured"] = blocks.measured()
    return Recorded(
        config,
        [(called[name], name) for name in own.tensors if name in called],
        [name for name in own.tensors if name in used],
        {name: own.tensors[name] for name in own.tensors if name in called or name in used},
    )


Traced = list[tuple[Trace, dict[str, Any]]]


def _settled(
    module: torch.nn.Module, own: _Own, stages: list[tuple[Example, dict[str, torch.Tensor]]], blocks: Blocks
) -> Traced:
    """All stages, with the same leaves in each.

    Channels lie side by side behind a convolution, unless the module looks at them in a way that takes another order.
    """
    excluded: frozenset[str] = frozenset()
    channels_last = True
    while True:
        try:
            traced = [_traced(module, own, *stage, blocks, excluded, channels_last) for stage in stages]
        except (RuntimeError, ValueError):
            if not channels_last:
                raise
            channels_last = False
            continue
        ops = [op for trace, _ in traced for op in trace.ops]
        both = _read_whole(ops) & {op["weight"] for op in ops if op["kind"] in LEAVES}
        if not both:
            return traced
        excluded |= both


def _read_whole(ops: Sequence[Mapping[str, Any]]) -> set[str]:
    """Weights that are read as they are, by calls of PyTorch and by blocks that were measured."""
    read = {item["weight"] for op in ops for item in op.get("tensors", ()) if "weight" in item}
    return read | {name for op in ops for name in op.get("own", ())}


def _needed_once(examples: Sequence[Example], ops: Sequence[Sequence[Mapping[str, Any]]]) -> set[str]:
    """Weights of leaves that only stages need which a request runs once, where it runs others often."""
    needed: dict[bool, set[str]] = {True: set(), False: set()}
    for example, made in zip(examples, ops, strict=True):
        needed[example.repeats == 1] |= {op["weight"] for op in made if op["kind"] in LEAVES}
    return needed[True] - needed[False] if needed[False] else set()


class _Own:
    """Parameters and buffers of a module by their first name; those of integers are constants of its recording."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.buffers = dict(module.named_buffers())
        everything = {**dict(module.named_parameters()), **self.buffers}
        self.tensors = {name: one for name, one in everything.items() if one.is_floating_point()}
        self.constants = {name: one for name, one in everything.items() if not one.is_floating_point()}
        self.names = {id(one): name for name, one in everything.items()}

    def state(self, name: str) -> dict[str, Any]:
        """A buffer that lasts from call to call, without its values, which are zeros at first."""
        one = self.buffers[name]
        zero = one.is_meta or not bool(one.any())
        need(zero, f"the module writes to its buffer {name}, which does not begin at zero", UnsupportedModel)
        return {"dtype": str(_fake(one).dtype).removeprefix("torch."), "sizes": list(one.shape)}


def _traced(
    module: torch.nn.Module,
    own: _Own,
    example: Example,
    given: Mapping[str, torch.Tensor],
    blocks: Blocks,
    excluded: frozenset[str],
    channels_last: bool,
) -> tuple[Trace, dict[str, Any]]:
    trace, mode = Trace(own.buffers, channels_last), FakeTensorMode()
    with mode:
        fakes = {name: _fake(one) for name, one in {**own.tensors, **own.constants}.items()}
        inputs = {name: _fake(one) for name, one in given.items()}
    memo: dict[int, Any] = {}
    for name, one in {**own.tensors, **own.constants}.items():
        fake = fakes[name]
        memo[id(one)] = torch.nn.Parameter(fake, requires_grad=False) if isinstance(one, torch.nn.Parameter) else fake
        trace.know(memo[id(one)], {"weight": name} if name in own.tensors else {"constant": name})
    swapped = copy.deepcopy(module, memo).eval()
    blocks.watch(swapped)
    blocks.replace(swapped, example.name, own.names, [trace])
    swapped = replace_leaves(swapped, module, own.names, excluded, [trace])
    views = []
    for name, fake in inputs.items():
        trace.storage(fake)
        views.append({"name": name, **trace.view(fake)})
    args = [fake for name, fake in inputs.items() if name.isdecimal()]
    called = swapped if example.method == "forward" else getattr(swapped, example.method)
    try:
        with _call_by_call(), mode, trace, torch.no_grad():
            result = called(*args, **{name: fake for name, fake in inputs.items() if not name.isdecimal()})
    except _UNTRACEABLE as error:
        raise Untraceable(
            f"the module's {example.name} depends on values, which no recording can hold: {error}"
        ) from error
    except AssertionError as error:
        why = "the module reads a tensor that is neither an input, nor a parameter, nor a buffer; register it"
        raise UnsupportedModel(why) from error
    return trace, {
        "name": example.name, "repeats": example.repeats, "inputs": views, "outputs": _tree(result, trace),
        "ops": trace.ops, "storages": trace.storages,
    }  # fmt: skip


def _name_state(trace: Trace, lasting: set[str]) -> None:
    """Buffers that a stage changes are state wherever they are looked at."""
    for item in (*(item for op in trace.ops for item in op.get("tensors", []) + op.get("writes", [])), *trace.outputs):
        name = item.get("weight", item.get("constant"))
        if name in lasting:
            item.pop("weight" if "weight" in item else "constant")
            item["state"] = name
    kept = [item for item in trace.outputs if "weight" in item or "constant" in item]
    need(not kept, f"the module gives away its own {kept[:1]}", UnsupportedModel)


@contextmanager
def _call_by_call() -> Iterator[None]:
    """One operator for a whole encoder layer, or a whole recurrence, would have all its weights to itself.

    Modules are told that they are compiled, as torch.export tells them: what they keep between calls for the sake of
    speed would hold fakes from then on.
    """
    fused, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    compiling = torch.compiler._is_compiling_flag
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(onednn)
        torch.compiler._is_compiling_flag = compiling


def _fake(one: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if one.is_floating_point() else one.dtype
    return torch.empty(one.shape, dtype=dtype, device="cpu")


def _tree(result: Any, trace: Trace) -> Any:
    """What a forward gave: views in lists and dicts."""
    if isinstance(result, FakeTensor | torch.Tensor):
        return trace.given(result)
    if isinstance(result, Mapping):
        return {"dict": {str(key): _tree(one, trace) for key, one in result.items() if one is not None}}
    if isinstance(result, tuple | list):
        return {"list": [_tree(one, trace) for one in result]}
    if result is None or isinstance(result, bool | int | float | str):
        return {"value": result}
    raise UnsupportedModel(
        f"the module gives back a {type(result).__name__}; tensors in lists and dicts are known here"
    )


MOST_CONSTANT_VALUES = 1 << 20


def _constant(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """A buffer of integers, or what a module makes of numbers, with its values; of floats infinity and NaN as words."""
    need(not tensor.is_meta, f"the buffer {name} has no values yet; build the module outside of meta", UnsupportedModel)
    need(tensor.numel() <= MOST_CONSTANT_VALUES, f"the buffer {name} is too large for a recording", UnsupportedModel)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sizes": list(tensor.shape),
        "values": [one if isfinite(one) else str(one) for one in tensor.flatten().tolist()],
    }
