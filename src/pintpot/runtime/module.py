"""An open pack of a module: its memory laid out, its recording bound, and a call that takes and gives tensors."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from pintpot._native import Pool
from pintpot.errors import BadPack, DoesNotFit, UsageError, need
from pintpot.kernels.torch.bind import Forward, Memory, native_leaves, tensor_of
from pintpot.machine.spec import Machine
from pintpot.meter.memory import attainable_bytes
from pintpot.nets import adapted
from pintpot.packer.manifest import Manifest, manifest_of
from pintpot.packer.raw import check_files
from pintpot.planner.names import BUFFERS, LOADER, PROCESS, TABLES, TORCH, WEIGHTS
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import Layout, lay_out
from pintpot.program.scratch import scratch_bytes
from pintpot.program.spec import Work
from pintpot.runtime.begun import Begun, begin, find
from pintpot.runtime.bound import addresses_of, bind_stages
from pintpot.runtime.held import Held
from pintpot.runtime.memory import PackMemory, finish_weights, memory_bytes, open_memory
from pintpot.runtime.pricing import Here, here_of, priced_here
from pintpot.units import format_bytes

if TYPE_CHECKING:
    from pintpot._native import Arena, Ring


class ModuleSession:
    """A module that runs: call it with tensors of the shapes it was recorded with, one call at a time.

    Torch computes with as many threads as the plan has, from its opening on, in all of this process.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        forward: Forward,
        memory: Memory,
        ring: Ring | None,
        held: Mapping[str, int],
        notes: tuple[str, ...],
        closing: ExitStack,
    ) -> None:
        self.folder, self.plan, self.ring, self.held, self.notes = folder, plan, ring, held, notes
        self._closing, self._forward = closing, [forward]
        config = plan.config
        self._inputs = {
            item["name"]: tensor_of(item, memory, adapted.storage_name(item["storage"])) for item in config["inputs"]
        }
        self._outputs = {
            id(item): tensor_of(item, memory, adapted.storage_name(item["storage"]))
            for item in adapted.leaves(config["outputs"])
        }
        self.seconds = 0.0
        for end in (self._forward.clear, self._inputs.clear, self._outputs.clear):
            closing.callback(end)
        # PyTorch lets go of memory later than the interpreter does, so a session that nobody closed ends before.
        weakref.finalize(self, closing.close)

    def __enter__(self) -> ModuleSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give memory and lock back."""
        self._closing.close()

    def __call__(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """What the module gives, as tensors of its own in lists and dicts.

        Raises UsageError for inputs of other names, shapes or dtypes than those that it was recorded with.
        """
        need(bool(self._inputs), "the session is closed", UsageError)
        given = {**{str(at): one for at, one in enumerate(args)}, **kwargs}
        same = given.keys() == self._inputs.keys()
        need(same, f"this module takes {', '.join(self._inputs)}, not {', '.join(given) or 'nothing'}", UsageError)
        for name, place in self._inputs.items():
            one = given[name]
            need(
                one.shape == place.shape and (one.dtype == place.dtype or place.is_floating_point()),
                f"input {name} is {one.dtype} {tuple(one.shape)}; recorded was {place.dtype} {tuple(place.shape)}",
                UsageError,
            )
            place.copy_(one)
        started = time.perf_counter()
        self._forward[0].run()
        self.seconds = time.perf_counter() - started
        return self._given(self.plan.config["outputs"])

    def _given(self, tree: Any) -> Any:
        if "storage" in tree:
            return self._outputs[id(tree)].clone()
        if "dict" in tree:
            return {key: self._given(one) for key, one in tree["dict"].items()}
        return tuple(self._given(one) for one in tree["list"]) if "list" in tree else tree["value"]


def open_module(folder: Path, machine: Machine, *, threads: int | None = None) -> ModuleSession:
    """Open a pack of a module with so many threads, as planned where it is None.

    Raises BadPack for one that was changed, DoesNotFit, UsageError for more threads than could help.
    """
    with find(folder) as pack:
        return finish_module(begin(pack), here_of(machine), threads=threads)


def warm_up() -> None:
    """Compute a little with each library that PyTorch may use, for they take memory when they first do."""
    rows = torch.ones(256, 256)
    with torch.inference_mode():
        torch.nn.functional.gelu(torch.softmax(rows @ rows, -1))
        torch.nn.functional.conv2d(torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3))
        heads = torch.ones(1, 4, 64, 16)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def finish_module(begun: Begun, here: Here, *, threads: int | None = None) -> ModuleSession:
    """As `open_module`, of a pack whose opening has begun."""
    folder, loader, stack = begun.pack.folder, begun.loader, begun.pack.closing
    # First of all: what it takes is torch's own, and no part of opening the pack.
    warm_up()
    held = Held(loader.beside)
    manifest, notes = priced_here(manifest_of(folder, begun.pack.raw), here, threads)
    check_files(folder, manifest.files)
    plan = manifest.plan
    need(plan.family == "adapted", f"{folder} is a pack of {plan.family}, and no module's", BadPack)
    work, layout, scratch = _measures(folder, plan)
    due, promised = memory_bytes(manifest, layout, scratch), plan.cost.memory_high
    lying = f"{folder}: its plan promises {format_bytes(promised)}, and its recording needs {format_bytes(due)}"
    need(due <= promised, lying, BadPack)
    room = attainable_bytes()
    need(promised <= room, f"the pack needs {format_bytes(promised)} and {format_bytes(room)} are free", DoesNotFit)
    torch.set_num_threads(plan.threads)
    loader.allow(manifest.resident_bytes)
    memory = open_memory(begun, manifest, layout, scratch, held.mark)
    held.mark(BUFFERS)
    try:
        forward, tensors = _bind(manifest, work, layout, memory)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPack(f"{folder}: its recording cannot be bound: {error!r}") from error
    stack.callback(tensors.close)
    held.mark(LOADER)
    finish_weights(begun, manifest, None)
    held.put(WEIGHTS, begun.weights.nbytes)
    fill_constants(plan.config, layout, memory.arenas)
    held.mark(TABLES)
    _split_process(held, here)
    return ModuleSession(folder, plan, forward, tensors, memory.ring, held.by_holder, notes, stack.pop_all())


def _split_process(held: Held, here: Here) -> None:
    """What the process held before it opened anything: as much as any run of ours, and the rest is torch."""
    plain = here.machine().process_bytes
    held.by_holder[TORCH] = max(0, held.by_holder[PROCESS] - plain)
    held.by_holder[PROCESS] = min(plain, held.by_holder[PROCESS])


def _measures(folder: Path, plan: Plan) -> tuple[Work, Layout, int]:
    try:
        work = rebuild_work(plan)
        scratch = max(scratch_bytes(program, plan.threads) for program in work.programs())
        return work, lay_out(work), scratch
    except (KeyError, TypeError, ValueError, ArithmeticError, UsageError) as error:
        raise BadPack(f"{folder}: its plan makes no program: {error!r}") from error


def _bind(manifest: Manifest, work: Work, layout: Layout, memory: PackMemory) -> tuple[Forward, Memory]:
    stages = bind_stages(manifest, work, layout, memory, Pool(manifest.plan.threads))
    program = work.stages[0].programs[0]
    tensors = Memory(program, addresses_of(program, layout, memory), list(memory.arenas.values()))
    return Forward(program, native_leaves(stages[adapted.STAGE]), tensors), tensors


def fill_constants(config: Mapping[str, Any], layout: Layout, arenas: Mapping[str, Arena]) -> None:
    """Write the integers that the module came with into the memory laid out for them."""
    for name, constant in config["constants"].items():
        holder, offset = layout.session[adapted.constant_name(name)]
        dtype = getattr(torch, constant["dtype"])
        values = torch.tensor(constant["values"], dtype=dtype).view(torch.uint8).numpy().tobytes()
        with memoryview(arenas[holder])[offset : offset + len(values)] as place:
            place[:] = values
