"""The quality of a packed module: its answers beside those of its recording with every weight as its file has it.

The reference is PyTorch's own float32 product in the place of each packed leaf, its weight read for that moment alone,
so that the reference of a module too large for the budget is inside it too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pintpot.contract.form import source_form
from pintpot.kernels.torch.bind import Forward, Leaves, Memory, tensor_of
from pintpot.meter.likeness import likeness
from pintpot.meter.memory import peak_bytes
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store
from pintpot.nets import adapted, work_of
from pintpot.packer.calibrate.source import whole
from pintpot.packer.manifest import read_manifest
from pintpot.program.layout import Layout, lay_out
from pintpot.program.spec import Op, Program
from pintpot.proof.module_measured import read_inputs, stage_place
from pintpot.proof.source import source_model
from pintpot.runtime.begun import give_back
from pintpot.runtime.bound import addresses_of
from pintpot.runtime.memory import PackMemory
from pintpot.runtime.module import clear, fill_constants, stages_of
from pintpot.stream.arena import open_arena

ALIGN = 64


class Answerer:
    """Request `compare`."""

    def __init__(self, pack: Path, threads: str) -> None:
        torch.set_num_threads(int(threads))
        self._manifest, _ = read_manifest(pack)

    def compare(self, path: str) -> dict[str, Any]:
        """How like the answers in `path` are to the unpacked module's. Raises BadInput when the source is gone."""
        model = source_model(self._manifest)
        given = np.load(path, allow_pickle=False)
        inputs = {
            stage: {**{str(at): one for at, one in enumerate(positional)}, **named}
            for stage, (positional, named) in read_inputs(Path(model.source.path), model.parts).items()
        }
        with ExitStack() as closing, Store(model) as store:
            wanted = _unpacked(model, store, inputs, self._manifest.plan.budget.workload, closing)
        found = [asdict(likeness(name, one, given[name])) for name, one in wanted.items()]
        return {"likeness": found, "peak_bytes": peak_bytes()}


def _unpacked(
    model: Model, store: Store, inputs: dict[str, dict[str, torch.Tensor]], workload: Any, closing: ExitStack
) -> dict[str, Any]:
    """The outputs of all stages, each called once, in their order."""
    work = work_of(model.parts, source_form(model), workload)
    layout, sources = lay_out(work), {weight.name: weight for part in model.parts for weight in part.weights()}
    places = _places(sources, layout, closing)
    arenas = list(places.arenas.values())
    fill_constants(model.parts, layout, places.arenas)
    clear(places.arenas.get("cache"))
    found: dict[str, Any] = {}
    for part, recorded in stages_of(model.parts):
        name = part.prefix + recorded["name"]
        program = work.stage(name).programs[0]
        memory = Memory(program, addresses_of(program, layout, places), arenas)
        closing.callback(memory.close)
        _fill_vectors({weight.name: weight for weight in part.weights()}, store, memory)
        for item in recorded["inputs"]:
            tensor_of(item, memory, part.prefix + adapted.buffer_name(recorded["name"], item)).copy_(
                inputs[name][item["name"]]
            )
        Forward(program, _leaves(program, memory, store, sources), memory).run()
        for place, item in adapted.named_leaves(recorded["outputs"], stage_place(name)):
            found[place] = (
                tensor_of(item, memory, part.prefix + adapted.buffer_name(recorded["name"], item))
                .float()
                .numpy()
                .copy()
            )
    return found


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
                weight = whole(store, sources[str(op.read("weight"))])
                _multiply(op, program, memory, torch.from_numpy(np.ascontiguousarray(weight)))
        return True

    return leaves


def _multiply(op: Op, program: Program, memory: Memory, weight: torch.Tensor) -> None:
    rows, (num_outputs, columns) = op.get("rows"), weight.shape
    x = memory.view(str(op.read("x")), ("float32", (rows, columns), (columns, 1), 0))
    out = memory.view(str(op.write("out")), ("float32", (rows, num_outputs), (num_outputs, 1), 0))
    bias = op.read("bias")
    torch.mm(x, weight.T, out=out)
    if bias is not None:
        out.add_(memory.view(bias, ("float32", (num_outputs,), (1,), 0)))
