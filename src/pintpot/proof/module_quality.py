"""The quality of a packed module: its answers beside those of its recording with every weight as its file has it.

The reference is PyTorch's own float32 product in the place of each packed leaf, its weight read for that moment alone,
so that the reference of a module too large for the budget is inside it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pintpot.contract.form import source_form
from pintpot.kernels.torch.bind import Blocks, Forward, Leaves, Memory, nobodys, tensor_of
from pintpot.meter.likeness import likeness
from pintpot.meter.memory import peak_bytes
from pintpot.model.spec import Model, Part, Weight
from pintpot.model.store import Store
from pintpot.nets import adapted, work_of
from pintpot.packer.calibrate.source import RowSource, whole
from pintpot.packer.manifest import read_manifest
from pintpot.program.gather import Gather
from pintpot.program.layout import Layout, lay_out
from pintpot.program.ops.linear import gathered
from pintpot.program.spec import Op, Program
from pintpot.proof.module_batches import compared, read_arrays, read_batches
from pintpot.proof.module_measured import read_inputs, stage_place
from pintpot.proof.source import source_model
from pintpot.runtime.begun import give_back
from pintpot.runtime.bound import addresses_of
from pintpot.runtime.memory import PackMemory
from pintpot.runtime.module import clear, fill_constants, stages_of
from pintpot.runtime.own_code import blocks_of, built
from pintpot.stream.arena import open_arena

ALIGN = 64
MOST_READ_BYTES = 8 << 20
"""Of a weight in float32, at once."""


class Answerer:
    """Requests `compare` and `agreement`."""

    def __init__(self, pack: Path, threads: str, code: str = "") -> None:
        torch.set_num_threads(int(threads))
        self._module = built(code)
        self._pack, (self._manifest, _) = pack, read_manifest(pack)

    def compare(self, path: str) -> dict[str, Any]:
        """How like the answers in `path` are to the unpacked module's. Raises BadInput when the source is gone."""
        model = source_model(self._manifest)
        given = np.load(path, allow_pickle=False)
        inputs = read_inputs(Path(model.source.path), model.parts)
        with ExitStack() as closing, Store(model) as store:
            unpacked = self._unpacked(model, store, closing)
            wanted: dict[str, Any] = {}
            for stage, (positional, named) in inputs.items():
                tensors = {**{str(at): one for at, one in enumerate(positional)}, **named}
                wanted |= unpacked(tensors, stage, stage_place(stage))
        found = [asdict(likeness(name, one, given[name])) for name, one in wanted.items()]
        return {"likeness": found, "peak_bytes": peak_bytes()}

    def agreement(self, path: str, inputs: str, names: list[list[str]]) -> dict[str, Any]:
        """The same of batches that a kind reads, in its measures. Raises BadInput when the source is gone."""
        model = source_model(self._manifest)
        batches = read_batches(Path(inputs), names)
        with ExitStack() as closing, Store(model) as store:
            unpacked = self._unpacked(model, store, closing)
            config, given = self._manifest.plan.config, read_arrays(Path(path))
            likenesses, agreements = compared(config, self._pack, batches, unpacked, given)
        return {"likeness": likenesses, "agreements": agreements, "peak_bytes": peak_bytes()}

    def _unpacked(self, model: Model, store: Store, closing: ExitStack) -> Unpacked:
        plan = self._manifest.plan
        return Unpacked(model, store, plan.budget.workload, closing, blocks_of(self._pack, plan, self._module))


class Unpacked:
    """A recording with every weight as its file has it: a module as kinds want it (`pintpot.runtime.kinds.Runs`)."""

    def __init__(self, model: Model, store: Store, workload: Any, closing: ExitStack, blocks: Blocks = nobodys) -> None:
        self._store, self._closing, self._blocks = store, closing, blocks
        self._work = work_of(model.parts, source_form(model), workload)
        self._layout = lay_out(self._work)
        self._stages = {part.prefix + stage["name"]: (part, stage) for part, stage in stages_of(model.parts)}
        self._sources = {weight.name: weight for part in model.parts for weight in part.weights()}
        self._places = _places(self._sources, self._layout, closing)
        self._memory: dict[str, Memory] = {}
        self._filled: set[str] = set()
        fill_constants(model.parts, self._layout, self._places.arenas)
        self.reset()

    def reset(self) -> None:
        clear(self._places.arenas.get("cache"))

    def __call__(self, inputs: Mapping[str, Any], stage: str = "", at: str = "") -> dict[str, Any]:
        name = stage or next(iter(self._stages))
        part, recorded = self._stages[name]
        memory = self._memory_of(name, part)

        def tensor(item: Mapping[str, Any]) -> torch.Tensor:
            return tensor_of(item, memory, part.prefix + adapted.buffer_name(recorded["name"], item))

        for item in recorded["inputs"]:
            tensor(item).copy_(torch.as_tensor(inputs[item["name"]]))
        program = self._work.stage(name).programs[0]
        Forward(program, _leaves(program, memory, self._store, self._sources), memory, self._blocks).run()
        leaves = adapted.named_leaves(recorded["outputs"], at)
        return {place: tensor(item).float().numpy().copy() for place, item in leaves}

    def _memory_of(self, name: str, part: Part) -> Memory:
        if name not in self._memory:
            program = self._work.stage(name).programs[0]
            addresses = addresses_of(program, self._layout, self._places)
            self._memory[name] = Memory(program, addresses, list(self._places.arenas.values()))
            self._closing.callback(self._memory[name].close)
        if part.name not in self._filled:
            _fill_vectors({weight.name: weight for weight in part.weights()}, self._store, self._memory[name])
            self._filled.add(part.name)
        return self._memory[name]


def _places(sources: dict[str, Weight], layout: Layout, closing: ExitStack) -> PackMemory:
    """Memory for everything but the matrices."""
    offsets, end = {}, 0
    for weight in sources.values():
        if len(weight.shape) == 1:
            offsets[weight.name] = end
            end += -(-4 * weight.shape[0] // ALIGN) * ALIGN
    arenas = {name: open_arena(max(size, 4096)) for name, size in {**layout.sizes, "weights": end}.items()}
    for arena in arenas.values():
        closing.callback(give_back, arena)
    base = arenas["weights"].address
    return PackMemory(arenas, {name: base + offset for name, offset in offsets.items()}, None, True)


def _fill_vectors(sources: dict[str, Weight], store: Store, memory: Memory) -> None:
    for weight in sources.values():
        if len(weight.shape) == 1:
            values = torch.from_numpy(np.ascontiguousarray(whole(store, weight)).reshape(-1))
            memory.view(weight.name, ("float32", weight.shape, (1,), 0)).copy_(values)


def _leaves(program: Program, memory: Memory, store: Store, sources: dict[str, Weight]) -> Leaves:
    def leaves(first: int, stop: int) -> bool:
        for op in program.ops[first:stop]:
            if op.kind == "linear":
                _multiply(op, memory, RowSource(store, sources[str(op.read("weight"))]))
            elif op.kind == "embed":
                _look_up(op, memory, RowSource(store, sources[str(op.read("weight"))]))
        return True

    return leaves


def _look_up(op: Op, memory: Memory, table: RowSource) -> None:
    """Each word's row is read by itself: a whole table may be more than the budget has room for."""
    rows, width = op.get("rows"), table.shape[1]
    words, places = np.unique(
        memory.view(str(op.read("ids")), ("int32", (rows,), (1,), 0)).numpy(), return_inverse=True
    )
    out = memory.view(str(op.write("out")), ("float32", (rows, width), (width, 1), 0))
    out.copy_(torch.from_numpy(table[words][places]))


def _multiply(op: Op, memory: Memory, source: RowSource) -> None:
    """A large weight is read some rows at a time: a vocabulary's head may be more than the budget has room for."""
    rows, (num_outputs, columns) = op.get("rows"), source.shape
    gather, x = gathered(op), str(op.read("x"))
    out = memory.view(str(op.write("out")), ("float32", (rows, num_outputs), (num_outputs, 1), 0))
    bias = op.read("bias")
    added = None if bias is None else memory.view(bias, ("float32", (num_outputs,), (1,), 0))
    if gather is not None:
        out.copy_(_convolved(memory, x, gather, _rows(source, 0, num_outputs), added))
        return
    given = memory.view(x, ("float32", (rows, columns), (columns, 1), 0))
    step = max(1, MOST_READ_BYTES // (4 * columns))
    for first in range(0, num_outputs, step):
        stop = min(first + step, num_outputs)
        weight, part = _rows(source, first, stop), out[:, first:stop]
        # In one call where there is a bias, as the layer makes it: the same bits.
        if added is None:
            torch.mm(given, weight.T, out=part)
        else:
            torch.addmm(added[first:stop], given, weight.T, out=part)


def _rows(source: RowSource, first: int, stop: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(source.part(first, stop)))


def _convolved(memory: Memory, x: str, gather: Gather, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The rows of a convolution [rows, N]: its weight has the channels of each of the kernel's places side by side.

    Over as many axes as there are, so that it is the call that the layer makes.
    """
    alone = [axis == (1, axis.stride, 1, 1, 1, 0, 1) for axis in gather.axes]
    axes = gather.axes[2 if alone[:2] == [True, True] else 1 if alone[0] else 0 :]
    strides = (gather.batch_stride, gather.channel_stride, *(axis.stride for axis in axes))
    sizes = (gather.batch, gather.channels, *(axis.size for axis in axes))
    kernel = weight.reshape(len(weight), *(axis.kernel for axis in axes), gather.channels).movedim(-1, 1).contiguous()
    steps, before, dilations = ([axis[at] for axis in axes] for at in (4, 5, 6))
    call = (torch.conv1d, torch.conv2d, torch.conv3d)[len(axes) - 1]
    found = call(memory.view(x, ("float32", sizes, strides, 0)), kernel, bias, steps, before, dilations)
    return found.movedim(1, -1).reshape(gather.rows, len(weight))
