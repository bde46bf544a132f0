"""A recording bound to memory: ATen on views of our arenas, and between two calls of it the native engine's leaves.

Every view is made once. A call writes straight into the memory that the layout gave its result, wherever ATen has a
form of the operator that takes its output; the others are computed aside and copied. Which calls a stranger's
recording may make was decided when its program was checked (`program.calls`); here, what their arguments may be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch

from pintpot._native import Arena
from pintpot.errors import BadPack, UsageError, need
from pintpot.kernels.native.bind import Replay
from pintpot.program.ops.aten import VALUE_BYTES, View, end_bytes
from pintpot.program.spec import Op, Program

Call = Callable[[], bool | None]
Leaves = Callable[[int, int], bool]
_WORDS = frozenset({"none", "tanh", "floor", "trunc", "ij", "mean", "sum", "prod", "amax", "amin"})
"""What a text among the arguments may be: the ways of rounding, approximating and reducing."""
COPIES = frozenset({"clone.default", "_to_copy.default"})
"""Calls of which the form that is told where to write makes its result aside all the same; a copy does not."""
_ASIDE = frozenset({"convolution.default"})
"""Calls of which the form that is told where to write computes aside and copies."""
_GIVEN_BY_OUT = frozenset({"dtype", "layout", "device", "pin_memory"})


class Memory:
    """Buffers of a program by name, as tensors: each view is made once and then looked up."""

    def __init__(self, program: Program, addresses: Mapping[str, int], arenas: Sequence[Arena]) -> None:
        self._program, self._addresses = program, addresses
        self._arenas = [(arena, torch.frombuffer(memoryview(arena).cast("B"), dtype=torch.uint8)) for arena in arenas]
        self._seen: dict[tuple[str, View], torch.Tensor] = {}

    def close(self) -> None:
        """Let go of the arenas; every view must be gone by then."""
        self._seen.clear()
        self._arenas.clear()

    def view(self, name: str, view: View) -> torch.Tensor:
        """A buffer looked at in this way. Raises BadPack for a look beyond it."""
        key = (name, view)
        if key not in self._seen:
            dtype, sizes, strides, offset = view
            room = 4 * prod(self._program.shape(name))
            need(0 <= end_bytes(view) <= room, f"a view beyond the {room} bytes of {name}", BadPack)
            flat = self._bytes(name, room // VALUE_BYTES[dtype] * VALUE_BYTES[dtype]).view(getattr(torch, dtype))
            self._seen[key] = flat.as_strided(sizes, strides, flat.storage_offset() + offset)
        return self._seen[key]

    def _bytes(self, name: str, num_bytes: int) -> torch.Tensor:
        address = self._addresses[name]
        for arena, whole in self._arenas:
            at = address - arena.address
            if at >= 0 and at + num_bytes <= arena.nbytes:
                return whole[at : at + num_bytes]
        raise BadPack(f"{name} lies in none of the arenas")


Blocks = Callable[[Op, Memory], Call]


def nobodys(op: Op, memory: Memory) -> Call:
    """Nobody's code is there for measured blocks."""
    raise UsageError(f"{op.get('block')} was measured and not recorded; nobody gave the module whose code it is")


class Forward:
    """A bound recording: `run()` computes the whole program once."""

    def __init__(self, program: Program, leaves: Leaves, memory: Memory, blocks: Blocks = nobodys) -> None:
        """`leaves(first, stop)` computes the program's packed leaves from op `first` up to but not including `stop`.

        `blocks` binds an op of kind `measured` to the memory, whose code is the user's.
        """
        parts: list[Call] = []
        first, waiting, joined = 0, False, False
        for index, op in enumerate(program.ops):
            if joined:
                joined = False
                continue
            if op.kind not in ("aten", "measured"):
                waiting = True
                continue
            # What was computed here is nothing to the leaves; from where they were left they go on.
            if waiting:
                parts.append(partial(leaves, first, index))
                first, waiting = index, False
            behind = program.ops[index + 1] if index + 1 < len(program.ops) else None
            joined = behind is not None and _hands_on(op, behind)
            if behind is not None and joined:
                parts.append(_bound_both(op, behind, memory))
            else:
                parts.append(_bound(op, memory) if op.kind == "aten" else blocks(op, memory))
        # The last range ends the pass of what streams, be it empty of leaves.
        self._parts: tuple[Call, ...] = (*parts, partial(leaves, first, len(program.ops)))

    def run(self) -> bool:
        """False when it was cancelled."""
        with torch.inference_mode():
            return all(part() is not False for part in self._parts)


def native_leaves(native: Replay) -> Leaves:
    """The leaves of a program that the native engine has bound."""
    arguments = native.call()
    arguments.num_tokens = arguments.num_rows = arguments.num_sequences = 1
    return partial(native.run, arguments)


def _hands_on(op: Op, behind: Op) -> bool:
    """Whether the result of a call that computes aside is all that the next one looks at there, and writes over."""
    if op.get("call") not in _ASIDE or behind.kind != "aten" or not behind.get("outs"):
        return False
    result = (op.writes[0][1], op.get("outs")[0])
    if (behind.writes[0][1], behind.get("outs")[0]) != result or not writes_in_place(behind):
        return False
    looked = [(name, view) for (_, name), view in zip(behind.reads, behind.get("views"), strict=True)]
    once = [name for name, _ in looked].count(result[0]) == 1 and result in looked
    return once and {"t": looked.index(result)} in json.loads(behind.get("args")) and behind.get("call") not in COPIES


def _bound_both(op: Op, behind: Op, memory: Memory) -> Call:
    """What the first call gives goes to the second, and only its result is written: one pass over memory less."""
    target, args, kwargs = _called(op, memory)
    later, given, named = _called(behind, memory)
    at = next(index for index, one in enumerate(given) if one is memory.view(op.writes[0][1], op.get("outs")[0]))
    outs = [memory.view(name, view) for (_, name), view in zip(behind.writes, behind.get("outs"), strict=True)]
    return partial(_handed_on, partial(target, *args, **kwargs), _told(later, named, outs), given[:at], given[at + 1 :])


def _handed_on(first: Callable[[], Any], then: Callable[..., Any], before: list[Any], behind: list[Any]) -> None:
    then(*before, first(), *behind)


def _called(op: Op, memory: Memory) -> tuple[Any, list[Any], dict[str, Any]]:
    """An op's operator, and its arguments."""
    target = operator_of(str(op.get("call")))
    tensors = [memory.view(name, view) for (_, name), view in zip(op.reads, op.get("views"), strict=True)]
    args = [argument(item, tensors) for item in json.loads(op.get("args"))]
    return target, args, {key: argument(item, tensors) for key, item in json.loads(op.get("kwargs")).items()}


def _told(target: Any, kwargs: Mapping[str, Any], outs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """An operator that writes its results where they are wanted; UsageError where it has no such form."""
    with_out = _with_outputs(target, len(outs))
    need(with_out is not None, f"{target} cannot be told where to write", UsageError)
    known = {one.name for one in with_out._schema.arguments}
    named = {one.name: tensor for one, tensor in zip(_outputs(with_out), outs, strict=True)}
    return partial(with_out, **{key: value for key, value in kwargs.items() if key in known}, **named)


def _bound(op: Op, memory: Memory) -> Call:
    target, args, kwargs = _called(op, memory)
    if not op.get("outs"):
        return partial(_discard, partial(target, *args, **kwargs))
    outs = [memory.view(name, view) for (_, name), view in zip(op.writes, op.get("outs"), strict=True)]
    if op.get("call") in COPIES:
        return partial(_moved, outs[0], args[0])
    if not writes_in_place(op):
        return partial(_copied, partial(target, *args, **kwargs), outs)
    return partial(_discard, partial(_told(target, kwargs, outs), *args))


def writes_in_place(op: Op) -> bool:
    """Whether a call writes its results where they are wanted; those of others are computed aside and copied."""
    return _with_outputs(operator_of(str(op.get("call"))), len(op.get("outs"))) is not None


def _moved(out: torch.Tensor, source: torch.Tensor) -> None:
    out.copy_(source)


def _discard(call: Callable[[], object]) -> None:
    call()


def _copied(call: Callable[[], Any], outs: Sequence[torch.Tensor]) -> None:
    result = call()
    results = result if isinstance(result, tuple | list) else (result,)
    found = [one for one in results if isinstance(one, torch.Tensor)]
    for out, one in zip(outs, found, strict=True):
        out.copy_(one)


def operator_of(call: str) -> Any:
    """An operator of ATen by name. Raises BadPack for one that this PyTorch has not."""
    name, _, overload = call.partition(".")
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise BadPack(f"this PyTorch has no operator {call!r:.60}; adapt the module again")
    return found


def _outputs(overload: Any) -> list[Any]:
    return [one for one in overload._schema.arguments if one.is_out]


def _with_outputs(target: Any, num_outs: int) -> Any:
    """The form of an operator that writes into tensors it is given; None where ATen has none."""
    wanted = [(one.name, str(one.type)) for one in target._schema.arguments if one.name not in _GIVEN_BY_OUT]
    packet = target._overloadpacket
    for overload in packet.overloads():
        found = getattr(packet, overload)
        outs = _outputs(found)
        rest = [one for one in found._schema.arguments if not one.is_out and one.name not in _GIVEN_BY_OUT]
        if len(outs) == num_outs and [(one.name, str(one.type)) for one in rest] == wanted:
            return found
    return None


def argument(item: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """An argument again from its JSON."""
    if isinstance(item, list):
        return [argument(one, tensors) for one in item]
    if isinstance(item, str):
        need(item in _WORDS, f"a recording may not call with {item!r:.40}", BadPack)
    if not isinstance(item, Mapping):
        return item
    (key, value), *more = item.items()
    need(not more, f"an argument {item!r:.60}", BadPack)
    if key == "t":
        need(type(value) is int and 0 <= value < len(tensors), f"no tensor {value!r:.40}", BadPack)
        return tensors[value]
    if key == "device":
        return torch.device("cpu")
    kinds = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    found = getattr(torch, str(value), None)
    need(key in kinds and isinstance(found, kinds[key]), f"an argument {item!r:.60}", BadPack)
    return found


def tensor_of(view: Mapping[str, Any], memory: Memory, name: str) -> torch.Tensor:
    """An input or output of a recording. Raises UsageError for a dtype without a home here."""
    need(view["dtype"] in VALUE_BYTES, f"no tensors of {view['dtype']!r:.40}", UsageError)
    return memory.view(name, (view["dtype"], tuple(view["sizes"]), tuple(view["strides"]), view["offset"]))
