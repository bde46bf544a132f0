"""Any module of PyTorch: what was recorded while it ran under fake tensors becomes work. No torch is needed for that.

`config` is the recording (`pintpot.kernels.torch.record`): `constants`; `state`, memory that lasts from call to call;
and `stages`, mostly one alone, `forward`. A stage has `storages`, bytes of each piece of memory that it uses; `inputs`
and `outputs`, views of them with the shapes of the example inputs; `ops` in their order, each either a leaf (`linear`,
`embed`), a call of ATen on views, or a call of a block that was run and not recorded; `repeats`, how often a request
runs it; and `others`, the same for inputs of other shapes, which no plan counts on. `measured` says what calls of such
blocks took. A recording may come from a stranger: nothing of it is looked at beyond its buffers, and
`kernels.torch.bind` says which calls there may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

from pintpot.budget import Workload
from pintpot.contract.form import Form, Weights
from pintpot.errors import BadInput, need
from pintpot.nets._leaves import LEAVES, leaf_ops
from pintpot.program import ops as ops_of
from pintpot.program.ops.aten import VALUE_BYTES, View, end_bytes
from pintpot.program.prefix import ONCE
from pintpot.program.spec import Buffer, Buffers, Extent, Life, Op, Program, Segment, Stage, Table, Work
from pintpot.program.tidy import tidy

REPEATS = ("output", "prompt", "pictures")
"""Fields of a workload that say how often a stage runs."""
MOST_STAGES = 64
MOST_OPS = 1 << 20
MOST_BYTES = 1 << 46


def work(config: Mapping[str, Any], form: Form, workload: Workload) -> Work:
    """The recorded stages, each as often as a request runs it. Raises UsageError for what cannot be a recording."""
    lasting = Buffers(_lasting(config))
    return Work(tuple(_stage(stage, config, lasting, form, workload) for stage in config["stages"]))


def check(config: Mapping[str, Any], form: Form) -> None:
    """Raises BadInput for a recording without bounds, or one whose weights are others than the form's."""
    stages: Any = config.get("stages")
    need(isinstance(stages, list | tuple) and 0 < len(stages) <= MOST_STAGES, "a recording without stages")
    stages = [each for stage in stages for each in recordings(stage)]
    names = [stage["name"] for stage in stages]
    plain = all(isinstance(name, str) and name.isidentifier() and len(name) < 64 for name in names)
    need(plain and len(set(names)) == len(names), f"stages of the names {names!r:.80}")
    for stage in stages:
        _check_stage(stage, config)
    for item in config["state"].values():
        need(0 < _num_bytes(item) < MOST_BYTES, f"state of {item!r:.80}")
    lacking = set().union(*map(_weights_of, stages)) - form.weights.names - set(config["constants"])
    need(not lacking, f"nobody has the weights {sorted(lacking)[:3]}")


def recordings(stage: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A stage as a plan prices it, and as it was recorded for other shapes."""
    return (stage, *stage.get("others", ()))


def _check_stage(stage: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    storages, found, repeats = stage["storages"], stage["ops"], stage["repeats"]
    good = isinstance(storages, list | tuple) and all(type(n) is int and 0 < n < MOST_BYTES for n in storages)
    need(good and isinstance(found, list | tuple) and len(found) <= MOST_OPS, "a recording without storages or ops")
    counted = repeats in REPEATS if isinstance(repeats, str) else type(repeats) is int and 0 < repeats < MOST_OPS
    need(counted, f"a stage that runs {repeats!r:.40} times")
    for view in (*stage.get("inputs", ()), *leaves(stage.get("outputs"))):
        if "state" in view:
            need(view["state"] in config["state"], f"no state {view['state']!r:.40}")
            room = _num_bytes(config["state"][view["state"]])
        else:
            at = view["storage"]
            need(type(at) is int and 0 <= at < len(storages), f"no storage {at!r:.40}")
            room = storages[at]
        need(0 <= end_bytes(view_of(view)) <= room, f"a view beyond {view!r:.80}")


def measured_blocks(config: Mapping[str, Any]) -> dict[str, str]:
    """The blocks that were measured and not recorded, and why not."""
    return {str(key).split("/")[1]: str(one["why"]) for key, one in config.get("measured", {}).items()}


def leaves(tree: Any) -> Iterator[Mapping[str, Any]]:
    """The views in a tree of outputs, in order."""
    return (item for _, item in named_leaves(tree))


def named_leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same, each with its place in the tree: keys of mappings and numbers in lists, dots between them."""
    if isinstance(tree, Mapping) and is_view(tree):
        yield at or "answer", tree
    elif isinstance(tree, Mapping):
        inner = tree.get("dict", {}).items() if "dict" in tree else enumerate(tree.get("list", ()))
        for key, item in inner:
            yield from named_leaves(item, f"{at}.{key}" if at else str(key))


def view_of(item: Mapping[str, Any]) -> View:
    """How a recorded tensor looks at its memory. Raises BadInput for one of a dtype without a home here."""
    need(item["dtype"] in VALUE_BYTES, f"tensors of {item['dtype']!r:.40} have no home here", BadInput)
    return item["dtype"], tuple(item["sizes"]), tuple(item["strides"]), item["offset"]


def is_view(tree: Mapping[str, Any]) -> bool:
    """Whether a tree of outputs is a single tensor."""
    return "storage" in tree or "state" in tree


def buffer_name(stage: str, item: Mapping[str, Any]) -> str:
    """The buffer that a recorded tensor of a stage looks at."""
    if "weight" in item:
        return str(item["weight"])
    if "constant" in item:
        return constant_name(item["constant"])
    return state_name(item["state"]) if "state" in item else _storage_name(stage, item["storage"])


def constant_name(name: str) -> str:
    """The buffer of a constant."""
    return f"constant/{name}"


def state_name(name: str) -> str:
    """The buffer of what lasts, one for all stages."""
    return f"state/{name}"


def _storage_name(stage: str, index: int) -> str:
    return f"stage/{stage}/{index}"


def _num_bytes(item: Mapping[str, Any]) -> int:
    """Of a constant or a state."""
    return int(prod(item["sizes"])) * VALUE_BYTES[item["dtype"]]


def _weights_of(stage: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for op in stage["ops"]:
        if op["kind"] in LEAVES:
            found |= {name for name in (op["weight"], op.get("bias")) if name is not None}
        else:
            found |= {item["weight"] for item in op["tensors"] if "weight" in item} | set(op.get("own", ()))
    return found


def _words(num_bytes: int) -> tuple[int]:
    """Memory comes in whole words of 4 bytes."""
    return (max(1, -(-num_bytes // 4)),)


def _lasting(config: Mapping[str, Any]) -> Iterator[Buffer]:
    """What all stages share beside the weights."""
    for name, item in config["constants"].items():
        yield Buffer(constant_name(name), _words(_num_bytes(item)), "int32", "tables", "session")
    for name, item in config["state"].items():
        yield Buffer(state_name(name), _words(_num_bytes(item)), "int32", "cache", "session")


def _stage(
    stage: Mapping[str, Any], config: Mapping[str, Any], lasting: Buffers, form: Form, workload: Workload
) -> Stage:
    name, repeats = stage["name"], stage["repeats"]
    programs = tuple(_program(one, config, lasting, form) for one in recordings(stage))
    need(not isinstance(repeats, str) or repeats in REPEATS, f"a stage that runs {repeats!r:.40} times")
    times = max(1, int(getattr(workload, repeats)) if isinstance(repeats, str) else int(repeats))
    # A stage that a request runs once reads what is needed once, beside what others need as well.
    reads = ONCE if any(str(op.read("weight")).startswith(ONCE) for op in programs[0].ops) else "module"
    return Stage(name, reads, programs, ((Extent(1), times),))


def _program(stage: Mapping[str, Any], config: Mapping[str, Any], lasting: Buffers, form: Form) -> Program:
    recording = _Recording(stage, config)
    ops = recording.ops(form)
    ops, others = tidy(ops, Buffers.join(lasting, recording.buffers))
    buffers = Buffers.join(_weight_buffers(form.weights), *others.parts)
    bounds = (("tokens", 1), ("rows", 1), ("sequences", 1), ("context", 1))
    program = Program(str(stage["name"]), bounds, buffers, ops, (Segment(0, len(ops)),))
    ops_of.check(program)
    return program


def plain_calls(stage: Mapping[str, Any], config: Mapping[str, Any], form: Form) -> tuple[Table[Op], Buffers]:
    """The calls of a recording, its leaves left to PyTorch, none of which writes upon what another one made.

    Of a weight all values lie in a row; the buffers are those of the recording and what all of its stages share.
    """
    recording = _Recording(stage, config)
    ops = recording.ops(form.left({weight.name for weight in form.weights if weight.is_matrix}))
    return tidy(ops, Buffers.join(Buffers(_lasting(config)), recording.buffers), upon=False)


class _Recording:
    """One recorded stage, turned into buffers and ops."""

    def __init__(self, stage: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._stage, self._name, self._config = stage, str(stage["name"]), config
        views = (*stage["inputs"], *leaves(stage["outputs"]))
        self._kept = {view["storage"] for view in views if "storage" in view}
        self._rooms: list[Buffer] = []

    @property
    def buffers(self) -> Buffers:
        """Inputs and outputs outlive a replay, all else shares one arena; and what `ops` made room for."""
        found = []
        for index, num_bytes in enumerate(self._stage["storages"]):
            life: Life = "session" if index in self._kept else "step"
            found.append(Buffer(_storage_name(self._name, index), _words(num_bytes), "int32", "buffers", life))
        # What is handed out is a copy, which the caller keeps.
        given = sum(_words(_num_bytes(view))[0] for view in leaves(self._stage["outputs"]))
        found.append(Buffer(f"stage/{self._name}/answers", (max(1, given),), "int32", "buffers", "session"))
        return Buffers((*found, *self._rooms))

    def ops(self, form: Form) -> Table[Op]:
        self._rooms.clear()
        return Table(made for op in self._stage["ops"] for made in self._made(op, form))

    def _room(self, words: int) -> str:
        name = f"stage/{self._name}/between/{len(self._rooms)}"
        self._rooms.append(Buffer(name, (max(1, words),), "int32", "buffers", "step"))
        return name

    def _made(self, op: Mapping[str, Any], form: Form) -> tuple[Op, ...]:
        if op["kind"] in LEAVES:
            storages = {role: _storage_name(self._name, op[role]) for role in ("x", "out")}
            return leaf_ops(op, form, storages, self._room)
        return (self._measured(op) if op["kind"] == "measured" else self._op(op),)

    def _op(self, op: Mapping[str, Any]) -> Op:
        attributes = (
            ("call", op["call"]), ("args", op["args"]), ("kwargs", op["kwargs"]),
            ("views", tuple(map(view_of, op["tensors"]))), ("outs", tuple(map(view_of, op["outs"]))),
            ("multiply_adds", op["multiply_adds"]),
        )  # fmt: skip
        reads = tuple(("tensor", buffer_name(self._name, item)) for item in op["tensors"])
        writes = tuple(("out", buffer_name(self._name, item)) for item in op["writes"])
        need(not any("weight" in item for item in op["writes"]), f"{op['call']!r:.40} writes to a weight")
        return Op("aten", reads, writes, attributes)

    def _measured(self, op: Mapping[str, Any]) -> Op:
        """A block that was run and measured: its weights lie in the pack as its module has them."""
        constants, took = self._config["constants"], self._config["measured"][op["measured"]]
        names, sizes = op["own"], op["shapes"]
        attributes = (
            ("block", op["block"]), ("args", op["args"]), ("views", tuple(map(view_of, op["tensors"]))),
            ("outs", tuple(map(view_of, op["outs"]))), ("names", tuple(names)),
            ("shapes", tuple((dtype, tuple(one)) for dtype, one in sizes)),
            ("seconds", tuple(map(float, took["seconds"]))), ("inside", took["inside_bytes"]),
        )  # fmt: skip
        reads = [("tensor", buffer_name(self._name, item)) for item in op["tensors"]]
        reads += [("own", constant_name(name) if name in constants else name) for name in names]
        writes = tuple(("out", buffer_name(self._name, item)) for item in op["writes"])
        return Op("measured", tuple(reads), writes, attributes)


@lru_cache(maxsize=64)
def _weight_buffers(weights: Weights) -> Buffers:
    return Buffers(Buffer(w.name, w.shape, w.format, "weights", "pack") for w in weights)
