"""Opening a pack: tokenizer first, then all memory at once, so that what started never runs out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pintpot.runtime.everything  # noqa: F401  (all of it before memory is first looked at)
from pintpot._native import Pool
from pintpot.errors import BadPack, DoesNotFit, UsageError, need
from pintpot.machine.spec import Machine
from pintpot.meter.memory import attainable_bytes
from pintpot.model.joined import VISION
from pintpot.model.tokens import Tokenizer, from_folder
from pintpot.packer.manifest import Manifest, manifest_of
from pintpot.packer.raw import check_files
from pintpot.planner.names import BUFFERS, LOADER, TABLES, TOKENIZER, WEIGHTS
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import Layout, lay_out
from pintpot.program.scratch import scratch_bytes
from pintpot.program.spec import Work
from pintpot.runtime.begun import Begun, begin, find
from pintpot.runtime.bound import Stages, bind_stages
from pintpot.runtime.engine import Engine
from pintpot.runtime.held import Held, split_process
from pintpot.runtime.memory import PackMemory, fill_tables, finish_weights, memory_bytes, open_memory
from pintpot.runtime.moving import Moving
from pintpot.runtime.pricing import Here, here_of, priced_here
from pintpot.runtime.session import Session
from pintpot.units import format_bytes

if TYPE_CHECKING:
    from pintpot.runtime.eyes import Eyes

Progress = Callable[[float, str], None]
BUFFERED = (
    "this disk takes no direct reads: weights pass through the page cache, which is dropped behind them, "
    "and streaming may be slower than promised"
)


def open_session(
    folder: Path,
    machine: Machine,
    *,
    threads: int | None = None,
    isa: str = "",
    every_row: bool = False,
    progress: Progress | None = None,
) -> Session:
    """Open a pack with so many threads (as planned where it is None) on an instruction set ("" is the best).

    With `every_row` prompts are read such that `Engine.hidden` knows the states of all their tokens, which takes longer
    than an answer needs. A pack made on another machine is priced again, and refused where it does not fit. Raises
    BadPack for one that was changed, DoesNotFit, UsageError for more threads than could help.
    """
    with find(folder) as pack:
        return finish_opening(
            begin(pack), here_of(machine), threads=threads, isa=isa, every_row=every_row, progress=progress
        )


def finish_opening(
    begun: Begun,
    here: Here,
    *,
    threads: int | None = None,
    isa: str = "",
    every_row: bool = False,
    progress: Progress | None = None,
) -> Session:
    """As `open_session`, of a pack whose opening has begun."""
    folder, loader, stack = begun.pack.folder, begun.loader, begun.pack.closing
    if begun.pack.sees:
        # First of all: what it takes is its own, and no part of opening the pack.
        warm_up()
    held = Held(loader.beside)
    manifest, notes = priced_here(manifest_of(folder, begun.pack.raw), here, threads)
    check_files(folder, manifest.files)
    plan = manifest.plan
    work, layout, scratch = _measures(folder, plan, every_row)
    due, promised = memory_bytes(manifest, layout, scratch), plan.cost.memory_high
    lying = f"{folder}: its plan promises {format_bytes(promised)}, and its program needs {format_bytes(due)}"
    need(due <= promised or every_row, lying, BadPack)
    _refuse_too_large(plan, due)
    held.mark(LOADER)
    tokenizer = Tokenizer.load(from_folder(folder))
    held.mark(TOKENIZER)
    loader.allow(manifest.resident_bytes)
    memory = open_memory(begun, manifest, layout, scratch, held.mark)
    stages = bind_stages(manifest, work, layout, memory, Pool(plan.threads), isa=isa)
    look = _eyes(manifest, work, layout, memory, stages, stack)
    held.mark(LOADER)
    engine = Engine(plan, work, stages)
    stack.callback(engine.close)
    engine.look = look or engine.look
    if plan.form.cache.lent:
        engine.mover = Moving(plan, stages["decode"], folder)
        stack.callback(engine.mover.close)
    held.mark(BUFFERS)
    finish_weights(begun, manifest, progress)
    held.put(WEIGHTS, begun.weights.nbytes)
    fill_tables(manifest, layout, memory)
    if look is not None:
        look.fill(layout)
        split_process(held, here)
    held.mark(TABLES)
    if not memory.direct:
        notes = (*notes, BUFFERED)
    closing = stack.pop_all()
    session = Session(folder, plan, tokenizer, engine, memory.ring, held.by_holder, notes, closing, look)
    if look is not None:
        # PyTorch lets go of memory later than the interpreter does, so a session that nobody closed ends before.
        weakref.finalize(session, closing.close)
    return session


def warm_up() -> None:
    """Import and try what sees."""
    from pintpot.runtime.eyes import warm_up

    warm_up()


def _eyes(
    manifest: Manifest, work: Work, layout: Layout, memory: PackMemory, stages: Stages, closing: ExitStack
) -> Eyes | None:
    """What turns pictures into rows of embedding, where the model sees. Raises BadPack for a recording that cannot."""
    if not any(part.name == VISION for part in manifest.plan.parts):
        return None
    from pintpot.runtime.eyes import Eyes

    try:
        eyes = Eyes(manifest.plan, work, layout, memory, stages)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPack(f"what sees cannot be bound: {error!r}") from error
    closing.callback(eyes.close)
    return eyes


def _measures(folder: Path, plan: Plan, every_row: bool) -> tuple[Work, Layout, int]:
    """The work of a plan, where its buffers lie, and bytes of scratch. Raises BadPack for a plan that makes none."""
    try:
        work = rebuild_work(plan, every_row=every_row)
        scratch = max(scratch_bytes(program, plan.threads) for program in work.programs())
        return work, lay_out(work), scratch
    except (KeyError, TypeError, ValueError, ArithmeticError, UsageError) as error:
        raise BadPack(f"{folder}: its plan makes no program: {error!r}") from error


def _refuse_too_large(plan: Plan, num_bytes: int) -> None:
    room, due = attainable_bytes(), max(plan.cost.memory_high, num_bytes)
    need(
        due <= room,
        f"the pack needs {format_bytes(due)} and {format_bytes(room)} are free; free some memory, or plan for less",
        DoesNotFit,
    )
