"""Any module of PyTorch: what was recorded while it ran under fake tensors becomes work. No torch is needed for that.

`config` is the recording (`pintpot.kernels.torch.record`): `storages`, bytes of each piece of memory that a forward
uses; `inputs` and `outputs`, views of them; `constants`; and `ops` in their order, each either a packed leaf (`linear`)
or a call of ATen on views. One stage, `forward`, with the shapes of the example inputs. A recording may come from a
stranger: nothing of it is looked at beyond its buffers, and `kernels.torch.bind` says which calls there may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

from pintpot.budget import Workload
from pintpot.contract.form import ActivationForm, Form, Weights
from pintpot.errors import BadInput, need
from pintpot.program import ops as ops_of
from pintpot.program.ops.aten import VALUE_BYTES, View, end_bytes
from pintpot.program.spec import Buffer, Buffers, Extent, Life, Op, Program, Segment, Stage, Table, Work

STAGE = "forward"
MOST_OPS = 1 << 20
MOST_BYTES = 1 << 46


def work(config: Mapping[str, Any], form: Form, workload: Workload) -> Work:
    """The stage `forward`, once for each answer of the workload. Raises UsageError for what cannot be a recording."""
    recording = _Recording(config)
    ops = recording.ops(form.activation)
    buffers = Buffers.join(_weight_buffers(form.weights), recording.buffers)
    bounds = (("tokens", 1), ("rows", 1), ("sequences", 1), ("context", 1))
    program = Program(STAGE, bounds, buffers, ops, (Segment(0, len(ops)),))
    ops_of.check(program)
    return Work((Stage(STAGE, "module", (program,), ((Extent(1), workload.output),)),))


def check(config: Mapping[str, Any], form: Form) -> None:
    """Raises BadInput for a recording without bounds, or one whose weights are others than the form's."""
    storages, found = config.get("storages"), config.get("ops")
    good = isinstance(storages, list | tuple) and all(type(n) is int and 0 < n < MOST_BYTES for n in storages)
    need(good and isinstance(found, list | tuple) and len(found) <= MOST_OPS, "a recording without storages or ops")
    lacking = _weights_of(config) - form.weights.names
    need(not lacking, f"nobody has the weights {sorted(lacking)[:3]}")
    for view in (*config.get("inputs", ()), *leaves(config.get("outputs"))):
        at = view["storage"]
        need(type(at) is int and 0 <= at < len(config["storages"]), f"no storage {at!r:.40}")
        need(0 <= end_bytes(view_of(view)) <= config["storages"][at], f"a view beyond storage {at}")


def leaves(tree: Any) -> Iterator[Mapping[str, Any]]:
    """The views in a tree of outputs, in order."""
    return (item for _, item in named_leaves(tree))


def named_leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same, each with its place in the tree: keys of mappings and numbers in lists, dots between them."""
    if isinstance(tree, Mapping) and "storage" in tree:
        yield at or "answer", tree
    elif isinstance(tree, Mapping):
        inner = tree.get("dict", {}).items() if "dict" in tree else enumerate(tree.get("list", ()))
        for key, item in inner:
            yield from named_leaves(item, f"{at}.{key}" if at else str(key))


def view_of(item: Mapping[str, Any]) -> View:
    """How a recorded tensor looks at its memory. Raises BadInput for one of a dtype without a home here."""
    need(item["dtype"] in VALUE_BYTES, f"tensors of {item['dtype']!r:.40} have no home here", BadInput)
    return item["dtype"], tuple(item["sizes"]), tuple(item["strides"]), item["offset"]


def storage_name(index: int) -> str:
    """The buffer of a storage."""
    return f"storage.{index}"


def constant_name(name: str) -> str:
    """The buffer of a constant."""
    return f"constant.{name}"


def _weights_of(config: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for op in config["ops"]:
        if op["kind"] == "linear":
            found |= {name for name in (op["weight"], op["bias"]) if name is not None}
        else:
            found |= {item["weight"] for item in op["tensors"] if "weight" in item}
    return found


def _buffer_name(item: Mapping[str, Any]) -> str:
    if "weight" in item:
        return str(item["weight"])
    return constant_name(item["constant"]) if "constant" in item else storage_name(item["storage"])


class _Recording:
    """A recording, turned into buffers and ops."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._lasting = {view["storage"] for view in (*config["inputs"], *leaves(config["outputs"]))}

    @property
    def buffers(self) -> Buffers:
        """Memory in whole 4-byte words: inputs and outputs outlive a forward, all else shares one arena."""
        found = []
        for index, num_bytes in enumerate(self._config["storages"]):
            words = (-(-num_bytes // 4),)
            life: Life = "session" if index in self._lasting else "step"
            found.append(Buffer(storage_name(index), words, "int32", "buffers", life))
        for name, constant in self._config["constants"].items():
            words = -(-prod(constant["sizes"]) * VALUE_BYTES[constant["dtype"]] // 4)
            found.append(Buffer(constant_name(name), (max(1, words),), "int32", "tables", "session"))
        # What is handed out is a copy, which the caller keeps.
        given = sum(-(-prod(v["sizes"]) * VALUE_BYTES[v["dtype"]] // 4) for v in leaves(self._config["outputs"]))
        found.append(Buffer("answers", (max(1, given),), "int32", "buffers", "session"))
        return Buffers(found)

    def ops(self, activation: ActivationForm) -> Table[Op]:
        return Table(self._op(op, activation) for op in self._config["ops"])

    def _op(self, op: Mapping[str, Any], activation: ActivationForm) -> Op:
        if op["kind"] == "linear":
            bias = () if op["bias"] is None else (("bias", op["bias"]),)
            reads = (("x", storage_name(op["x"])), ("weight", op["weight"]), *bias)
            knobs = (("prologue", "none"), ("activation", activation.prefill), ("rows", op["rows"]))
            return Op("linear", reads, (("out", storage_name(op["out"])),), knobs)
        attributes = (
            ("call", op["call"]), ("args", op["args"]), ("kwargs", op["kwargs"]),
            ("views", tuple(map(view_of, op["tensors"]))), ("outs", tuple(map(view_of, op["outs"]))),
            ("multiply_adds", op["multiply_adds"]),
        )  # fmt: skip
        reads = tuple(("tensor", _buffer_name(item)) for item in op["tensors"])
        writes = tuple(("out", storage_name(index)) for index in op["writes"])
        return Op("aten", reads, writes, attributes)


@lru_cache(maxsize=64)
def _weight_buffers(weights: Weights) -> Buffers:
    return Buffers(Buffer(w.name, w.shape, w.format, "weights", "pack") for w in weights)
