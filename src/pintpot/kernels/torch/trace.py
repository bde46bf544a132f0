"""What a module does, call by call, while it runs under fake tensors: memory by its lifetime, and who writes it.

A piece of memory is a storage; tensors are views of it, so that a view costs nothing and is no call. Operators that
only take memory are none either. What a forward decides by values, or draws at random, cannot be recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pintpot.errors import UnsupportedModel, need
from pintpot.program.calls import ATTENTION, fits, meaning
from pintpot.program.gather import Axis, Gather
from pintpot.program.ops.aten import VALUE_BYTES

FEW_CHANNELS = 8
"""A picture of fewer is gathered as it lies; of others each place's channels are brought side by side before."""

_TAKES_MEMORY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"})
_SAME_MEMORY = frozenset({"_unsafe_view", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"})
"""Operators whose result shares memory with their input although their schema does not say so."""
_GIVES_OTHER_MEMORY = frozenset({"resize_", "resize_as_", "set_", "set_data"})
"""Operators that change where a tensor lies."""


class Untraceable(UnsupportedModel):
    """Something that a module does when it runs, and that no recording can hold."""


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every call of ATen under it becomes an op. Weights, inputs and constants are made known to it first.

    Of `buffers`, which a module may change, it knows the names; `changed` are those that it did change. `outputs` are
    views of what it gave away. What a module makes of numbers while it runs is the same every time: such tensors are
    constants too, `made`, by names that follow from their values. What convolutions give has its channels side by side
    where `channels_last`, and lies as PyTorch's own where not.
    """

    def __init__(self, buffers: Collection[str] = (), channels_last: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[dict[str, Any]] = []
        self.storages: list[int] = []
        self.changed: set[str] = set()
        self.outputs: list[dict[str, Any]] = []
        self.made: dict[str, torch.Tensor] = {}
        self._buffers = frozenset(buffers)
        self._places: dict[int, dict[str, Any]] = {}
        self._kept: list[torch.Tensor] = []
        self.channels_last = channels_last

    def know(self, tensor: torch.Tensor, place: dict[str, Any]) -> None:
        """A tensor lies in this place: {"weight": name} or {"constant": name}."""
        self._places[_key(tensor)] = place
        self._kept.append(tensor)

    def written(self, tensor: torch.Tensor) -> dict[str, Any]:
        """The place of memory that changes: a storage, or a buffer of the module, which lasts from call to call."""
        place = self._places.get(_key(tensor), {})
        name = place.get("weight", place.get("constant"))
        if name not in self._buffers:
            return {"storage": self.storage(tensor)}
        self.changed.add(str(name))
        return dict(place)

    def given(self, tensor: torch.Tensor) -> dict[str, Any]:
        """A tensor that the module gives away, as a view."""
        place = self._places.get(_key(tensor), {})
        if place.get("weight", place.get("constant")) not in self._buffers:
            self.storage(tensor)
        self.outputs.append(self.view(tensor))
        return self.outputs[-1]

    def storage(self, tensor: torch.Tensor) -> int:
        """The number of a tensor's memory, a new one for memory that was never seen."""
        place = self._places.get(_key(tensor))
        if place is None:
            place = {"storage": len(self.storages)}
            self.storages.append(max(1, tensor.untyped_storage().nbytes()))
            self.know(tensor, place)
        if "storage" not in place:
            raise UnsupportedModel(f"the module writes to, or gives away, {place}")
        return int(place["storage"])

    def view(self, tensor: torch.Tensor) -> dict[str, Any]:
        """A tensor as a view of memory that is known."""
        place = self._places.get(_key(tensor))
        if place is None:
            raise UnsupportedModel(
                "the module reads a tensor that is neither an input, nor a parameter, nor a buffer; register it"
            )
        need(tensor.device.type == "cpu", f"a tensor on {tensor.device}", UnsupportedModel)
        known = _name(tensor.dtype) in VALUE_BYTES
        need(known, f"the module computes in {tensor.dtype}, which has no home here", UnsupportedModel)
        strides = list(tensor.stride())
        return {
            **place, "dtype": _name(tensor.dtype), "sizes": list(tensor.shape), "strides": strides,
            "offset": tensor.storage_offset(),
        }  # fmt: skip

    def linear(self, x: torch.Tensor, weight: str, bias: str | None, num_outputs: int) -> torch.Tensor:
        """A packed leaf: x [..., K] -> [..., N]."""
        flat = self._whole(x.reshape(-1, x.shape[-1]).to(torch.float32))
        out = torch.empty(flat.shape[0], num_outputs)
        self._leaf("linear", flat, out, weight, bias=bias, rows=flat.shape[0], shape=[num_outputs, flat.shape[1]])
        return out.view(*x.shape[:-1], num_outputs)

    def embed(self, ids: torch.Tensor, weight: str, num_words: int, width: int) -> torch.Tensor:
        """A packed table of words: ids [...] -> [..., D]."""
        flat = self._whole(ids.reshape(-1).to(torch.int32))
        out = torch.empty(flat.shape[0], width)
        self._leaf("embed", flat, out, weight, rows=flat.shape[0], shape=[num_words, width])
        return out.view(*ids.shape, width)

    def convolution(
        self, x: torch.Tensor, weight: str, bias: str | None, num_outputs: int, along: list[tuple[int, int, int, int]]
    ) -> torch.Tensor:
        """A packed leaf: x [B, C, ...] -> [B, N, ...], whose channels lie side by side.

        `along` holds of each axis the kernel, the step, the zeros before, and the dilation.
        """
        last = x.movedim(1, -1)
        few = x.shape[1] < FEW_CHANNELS and x.dtype == torch.float32 and self._is_whole(x)
        source = x if few else self._whole(last.to(torch.float32)).movedim(-1, 1)
        gather = _gather(source, along)
        out = torch.empty(gather.rows, num_outputs)
        self._leaf(
            "linear", source, out, weight, bias=bias, rows=gather.rows, shape=[num_outputs, gather.columns],
            gather=[*gather[:4], [list(axis) for axis in gather.axes]], axes=len(along),
        )  # fmt: skip
        places = [axis.places for axis in gather.axes[3 - len(along) :]]
        return self._channels_second(out.view(x.shape[0], *places, num_outputs))

    def _channels_second(self, out: torch.Tensor) -> torch.Tensor:
        found = out.movedim(-1, 1)
        return found if self.channels_last else found.clone(memory_format=torch.contiguous_format)

    def _leaf(self, kind: str, x: torch.Tensor, out: torch.Tensor, weight: str, **more: Any) -> None:
        self.ops.append({"kind": kind, "x": self.storage(x), "out": self.storage(out), "weight": weight, **more})

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that a leaf may read: all of its memory, row after row."""
        return tensor if self._is_whole(tensor) else tensor.clone(memory_format=torch.contiguous_format)

    def _is_whole(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is all of its memory, row after row, and that memory may be read by a leaf."""
        place = self._places.get(_key(tensor), {})
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return "storage" in place and whole and tensor.is_contiguous()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        need(
            torch.Tag.nondeterministic_seeded not in func.tags or _drops_nothing(func._schema, args, kwargs),
            f"the module draws at random ({func}), so no two answers of it would be equal; is it in eval mode?",
            UnsupportedModel,
        )
        result = func(*args, **kwargs)
        schema = func._schema
        name = schema.name.partition("::")[2]
        given = [one for one in _flat(result) if isinstance(one, torch.Tensor)]
        if name in _TAKES_MEMORY:
            for tensor in given:
                self.storage(tensor)
            return result
        if name == "lift_fresh":
            self._make(args[0], result)
            return result
        changed = [t for a, t in _arguments(schema, args, kwargs) if a.alias_info is not None and a.alias_info.is_write]
        known = all(_key(tensor) in self._places for tensor in given)
        if not changed and not given:
            return result  # a question about shapes
        if torch.Tag.inplace_view in func.tags and known and name not in _GIVES_OTHER_MEMORY:
            return result  # the same memory, looked at in another way from now on
        if not changed and known:
            shares = any(one.alias_info is not None for one in schema.returns) or name in _SAME_MEMORY
            need(shares, f"{func} gave back memory that it was given, and does not say so", UnsupportedModel)
            return result
        self._record(func, args, kwargs, given, [one for item in changed for one in _tensors(item)])
        return result

    def _make(self, numbers: torch.Tensor, tensor: torch.Tensor) -> None:
        """A new tensor of numbers: each pass has a copy of its own, which it may change."""
        with unset_fake_temporarily():
            values = json.dumps([_name(numbers.dtype), list(numbers.shape), numbers.flatten().tolist()])
        name = f"made.{hashlib.sha256(values.encode()).hexdigest()[:16]}"
        self.made[name] = numbers
        self.know(numbers, {"constant": name})
        self._record(torch.ops.aten.clone.default, (numbers,), {}, [tensor], [])

    def _record(
        self, func: Any, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor], changed: list[torch.Tensor]
    ) -> None:
        schema, tensors = func._schema, list[dict[str, Any]]()
        call = f"{schema.name.partition('::')[2]}.{schema.overload_name or 'default'}"
        known = schema.name.startswith("aten::") and meaning(call) is not None
        need(known, f"the module calls {schema.name}, and what that does is not known here", Untraceable)
        written = [self.written(tensor) for tensor in changed]
        said = [_json(item, tensors, self) for item in args]
        named = {key: _json(item, tensors, self) for key, item in kwargs.items()}
        sizes = [tuple(tensor["sizes"]) for tensor in tensors]
        sound = fits(call, json.dumps(said), json.dumps(named), sizes)
        need(sound, f"the module calls {schema.name} as only training does, or as is not known here", Untraceable)
        outs = [] if changed else given
        self.ops.append(
            {
                "kind": "aten", "call": call, "args": json.dumps(said), "kwargs": json.dumps(named), "tensors": tensors,
                "writes": written or [{"storage": self.storage(tensor)} for tensor in outs],
                "outs": [self.view(tensor) for tensor in outs],
                "multiply_adds": _multiply_adds(func, args, kwargs, given),
            }
        )  # fmt: skip


def _gather(x: torch.Tensor, along: list[tuple[int, int, int, int]]) -> Gather:
    """The rows of a convolution over x [B, C, ...]."""
    batch_stride, channel_stride, *strides = x.stride()
    axes = [Axis(1, 0, 1, 1, 1, 0, 1)] * (3 - len(along))
    for size, stride, (kernel, step, before, dilation) in zip(x.shape[2:], strides, along, strict=True):
        places = (size + 2 * before - dilation * (kernel - 1) - 1) // step + 1
        axes.append(Axis(size, stride, places, kernel, step, before, dilation))
    need(
        all(axis.places > 0 for axis in axes), "a picture smaller than the kernel of its convolution", UnsupportedModel
    )
    first, second, third = axes
    return Gather(x.shape[0], batch_stride, x.shape[1], channel_stride, (first, second, third))


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _flat(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return [one for item in result for one in _flat(item)]
    return [result]


def _tensors(item: Any) -> list[torch.Tensor]:
    return [one for one in _flat(item) if isinstance(one, torch.Tensor)]


def _arguments(schema: Any, args: Any, kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Of each argument that was given its place in the schema, and its value."""
    placed = list(zip(schema.arguments, args, strict=False))
    return placed + [(one, kwargs[one.name]) for one in schema.arguments if one.name in kwargs]


def _drops_nothing(schema: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator draws only what it would drop, and drops nothing."""
    shares = [one for one in schema.arguments if one.name == "dropout_p"]
    given = {argument.name: value for argument, value in _arguments(schema, args, kwargs)}
    return bool(shares) and not given.get("dropout_p", shares[0].default_value)


def _json(item: Any, tensors: list[dict[str, Any]], trace: Trace) -> Any:
    """An argument as JSON; a tensor becomes its number among those that are read."""
    if isinstance(item, torch.Tensor):
        tensors.append(trace.view(item))
        return {"t": len(tensors) - 1}
    if isinstance(item, tuple | list):
        return [_json(one, tensors, trace) for one in item]
    if item is None or isinstance(item, bool | int | float | str):
        return item
    for kind, key in ((torch.dtype, "dtype"), (torch.layout, "layout"), (torch.memory_format, "memory_format")):
        if isinstance(item, kind):
            return {key: str(item).removeprefix("torch.")}
    if isinstance(item, torch.device):
        return {"device": "cpu"}
    raise UnsupportedModel(f"the module calls an operator with a {type(item).__name__}, which cannot be written down")


def _multiply_adds(func: Any, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> float:
    if func._schema.name == f"aten::{ATTENTION}":
        (*heads, queries, width), keys = args[0].shape, args[1].shape[-2]
        return 2.0 * float(prod(heads) * queries * keys * width)
    count = flop_registry.get(func._overloadpacket)
    if count is None:
        return 0.0
    return float(count(*args, **kwargs, out_val=given[0] if len(given) == 1 else tuple(given))) / 2
