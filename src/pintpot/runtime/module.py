"""An open pack of a module: its memory laid out, its recording bound, and a call that takes and gives tensors."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from pintpot._native import Pool
from pintpot.errors import BadPack, DoesNotFit, UsageError, need
from pintpot.kernels.torch.bind import Blocks, Forward, Memory, native_leaves, tensor_of
from pintpot.kernels.torch.threads import fork_address
from pintpot.machine.spec import Machine
from pintpot.meter.memory import attainable_bytes
from pintpot.model.adapted import FAMILY
from pintpot.model.spec import Part
from pintpot.nets import adapted
from pintpot.packer.manifest import Manifest, manifest_of
from pintpot.packer.raw import check_files
from pintpot.planner.names import BUFFERS, LOADER, TABLES, WEIGHTS
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import Layout, lay_out
from pintpot.program.scratch import scratch_bytes
from pintpot.program.spec import Work
from pintpot.runtime.begun import Begun, begin, find
from pintpot.runtime.bound import addresses_of, bind_stages
from pintpot.runtime.held import Held, split_process
from pintpot.runtime.kinds import Answer, Given
from pintpot.runtime.memory import PackMemory, finish_weights, memory_bytes, open_memory
from pintpot.runtime.own_code import blocks_of
from pintpot.runtime.pricing import Here, here_of, priced_here
from pintpot.units import format_bytes

if TYPE_CHECKING:
    from pintpot._native import Arena, Ring


class StageCall:
    """One stage of an open module: called with tensors of shapes it was recorded with, it gives what it gives."""

    def __init__(
        self,
        stage: Mapping[str, Any],
        forward: Forward,
        memory: Memory,
        prefix: str = "",
        others: Sequence[StageCall] = (),
    ) -> None:
        """`prefix` is that of the part whose stage it is; `others` are calls of it with inputs of other shapes."""
        self.name, self.seconds, self._others = prefix + str(stage["name"]), 0.0, tuple(others)
        self._tree, self._forward = stage["outputs"], [forward]

        def tensor(item: Mapping[str, Any]) -> torch.Tensor:
            return tensor_of(item, memory, prefix + adapted.buffer_name(stage["name"], item))

        self._inputs = {item["name"]: tensor(item) for item in stage["inputs"]}
        self._outputs = {id(item): tensor(item) for item in adapted.leaves(stage["outputs"])}

    def close(self) -> None:
        """Let go of memory."""
        for held in (self._forward, self._inputs, self._outputs):
            held.clear()
        for one in self._others:
            one.close()

    def __call__(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """What the stage gives, as tensors of its own in lists and dicts.

        Raises UsageError for inputs of other names, shapes or dtypes than those that it was recorded with.
        """
        need(bool(self._inputs), "the session is closed", UsageError)
        given = {**{str(at): one for at, one in enumerate(args)}, **kwargs}
        same = given.keys() == self._inputs.keys()
        need(same, f"{self.name} takes {', '.join(self._inputs)}, not {', '.join(given) or 'nothing'}", UsageError)
        fitting = next((one for one in self._others if one.takes(given)), None)
        if fitting is not None:
            answer = fitting(**given)
            self.seconds = fitting.seconds
            return answer
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
        return self._given(self._tree)

    def takes(self, given: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are inputs of its shapes; of their names they are."""
        return all(given[name].shape == place.shape for name, place in self._inputs.items())

    def _given(self, tree: Any) -> Any:
        if adapted.is_view(tree):
            return self._outputs[id(tree)].clone()
        if "dict" in tree:
            return {key: self._given(one) for key, one in tree["dict"].items()}
        return tuple(self._given(one) for one in tree["list"]) if "list" in tree else tree["value"]


class ModuleSession:
    """A module that runs: call it, or one of its stages, with tensors of the shapes it was recorded with.

    One call at a time. What a stage keeps in memory that lasts, the others see; `reset` forgets it.

    Torch computes with as many threads as the plan has, from its opening on, in all of this process.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        stages: Mapping[str, StageCall],
        ring: Ring | None,
        arenas: Mapping[str, Arena],
        held: Mapping[str, int],
        notes: tuple[str, ...],
        closing: ExitStack,
    ) -> None:
        self.folder, self.plan, self.ring, self.held, self.notes = folder, plan, ring, held, notes
        self._stages, self._cache, self._closing = stages, arenas.get("cache"), closing
        for stage in stages.values():
            closing.callback(stage.close)
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

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the module's stages, in the order in which a request runs them."""
        return tuple(self._stages)

    def stage(self, name: str) -> StageCall:
        """A stage by its name. Raises UsageError for one that the module has not."""
        need(name in self._stages, f"this module has the stages {', '.join(self._stages)}, not {name}", UsageError)
        return self._stages[name]

    def __call__(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """What a module of one stage gives; see `StageCall`. Raises UsageError where there are several."""
        first, *others = self._stages.values()
        need(not others, f"this module has several stages; call stage({first.name!r}), for one", UsageError)
        return first(*args, **kwargs)

    @property
    def seconds(self) -> float:
        """Of the last call of each stage, together."""
        return sum(stage.seconds for stage in self._stages.values())

    def reset(self) -> None:
        """Forget what lasts from call to call: a new request begins."""
        clear(self._cache)

    def ask(
        self, *, images: Sequence[str | Path] = (), texts: Sequence[str] = (), audios: Sequence[str | Path] = ()
    ) -> Iterator[Answer]:
        """What a published model says of pictures, texts or sounds, one answer for each, as many at a time as it was
        recorded for. Raises UsageError for a module that takes tensors alone, or something else.
        """
        from pintpot.runtime.asking import answers, read

        given = Given(tuple(map(Path, images)), tuple(texts), audios=tuple(map(Path, audios)))
        return answers(self, read(self.plan.config, self.folder, given, self.plan.model_name))


def clear(cache: Arena | None) -> None:
    """Fill what lasts from call to call with zeros, where there is some."""
    if cache is not None:
        with memoryview(cache).cast("B") as place:
            torch.frombuffer(place, dtype=torch.uint8).zero_()


def open_module(
    folder: Path, machine: Machine, *, threads: int | None = None, module: torch.nn.Module | None = None
) -> ModuleSession:
    """Open a pack of a module with so many threads, as planned where it is None; `module` has the code of its blocks
    that were measured.

    Raises BadPack for one that was changed, DoesNotFit, UsageError for more threads than could help.
    """
    with find(folder) as pack:
        return finish_module(begin(pack), here_of(machine), threads=threads, module=module)


def warm_up() -> None:
    """Compute a little with each library that PyTorch may use, for they take memory when they first do."""
    rows = torch.ones(256, 256)
    with torch.inference_mode():
        torch.nn.functional.gelu(torch.softmax(rows @ rows, -1))
        torch.nn.functional.conv2d(torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3))
        heads = torch.ones(1, 4, 64, 16)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def finish_module(
    begun: Begun, here: Here, *, threads: int | None = None, module: torch.nn.Module | None = None
) -> ModuleSession:
    """As `open_module`, of a pack whose opening has begun."""
    folder, loader, stack = begun.pack.folder, begun.loader, begun.pack.closing
    # First of all: what it takes is torch's own, and no part of opening the pack.
    warm_up()
    held = Held(loader.beside)
    manifest, notes = priced_here(manifest_of(folder, begun.pack.raw), here, threads)
    check_files(folder, manifest.files)
    plan = manifest.plan
    others = [part.family for part in plan.parts if part.family != FAMILY]
    need(not others, f"{folder} is a pack of {', '.join(others)}, and no module's", BadPack)
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
        stages, tensors = _bind(manifest, work, layout, memory, blocks_of(folder, plan, module))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPack(f"{folder}: its recording cannot be bound: {error!r}") from error
    for one in tensors:
        stack.callback(one.close)
    held.mark(LOADER)
    finish_weights(begun, manifest, None)
    held.put(WEIGHTS, begun.weights.nbytes)
    fill_constants(plan.parts, layout, memory.arenas)
    held.mark(TABLES)
    split_process(held, here)
    clear(memory.arenas.get("cache"))
    arenas, closing = memory.arenas, stack.pop_all()
    return ModuleSession(folder, plan, stages, memory.ring, arenas, held.by_holder, notes, closing)


def _measures(folder: Path, plan: Plan) -> tuple[Work, Layout, int]:
    try:
        work = rebuild_work(plan)
        scratch = max(scratch_bytes(program, plan.threads) for program in work.programs())
        return work, lay_out(work), scratch
    except (KeyError, TypeError, ValueError, ArithmeticError, UsageError) as error:
        raise BadPack(f"{folder}: its plan makes no program: {error!r}") from error


def _bind(
    manifest: Manifest, work: Work, layout: Layout, memory: PackMemory, blocks: Blocks
) -> tuple[dict[str, StageCall], list[Memory]]:
    native, arenas = (
        bind_stages(manifest, work, layout, memory, Pool(manifest.plan.threads, fork=fork_address())),
        list(memory.arenas.values()),
    )
    stages, tensors = {}, []
    for part, recorded in stages_of(manifest.plan.parts):
        stage = work.stage(part.prefix + recorded["name"])
        calls: list[StageCall] = []
        # The first is of the planned shapes, and has the others.
        for one, program in reversed(list(zip(adapted.recordings(recorded), stage.programs, strict=True))):
            tensors.append(Memory(program, addresses_of(program, layout, memory), arenas))
            forward = Forward(program, native_leaves(native[program.name]), tensors[-1], blocks)
            calls.append(StageCall(one, forward, tensors[-1], part.prefix, () if one is not recorded else calls[:]))
        stages[stage.name] = calls[-1]
    return stages, tensors


def stages_of(parts: Sequence[Part]) -> Iterator[tuple[Part, Mapping[str, Any]]]:
    """The recorded stages of all parts that are modules, in their order."""
    return ((part, stage) for part in parts if part.family == FAMILY for stage in part.config["stages"])


def fill_constants(parts: Sequence[Part], layout: Layout, arenas: Mapping[str, Arena]) -> None:
    """Write the numbers that the modules came with into the memory laid out for them."""
    for part in parts:
        for name, constant in part.config["constants"].items() if part.family == FAMILY else ():
            holder, offset = layout.session[part.prefix + adapted.constant_name(name)]
            dtype = getattr(torch, constant["dtype"])
            numbers = [float(one) if isinstance(one, str) else one for one in constant["values"]]
            values = torch.tensor(numbers, dtype=dtype).view(torch.uint8).numpy().tobytes()
            with memoryview(arenas[holder])[offset : offset + len(values)] as place:
                place[:] = values
