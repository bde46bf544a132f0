"""Packs for tests: a model planned with the steps a test wants, packed, and opened, on a machine nobody measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pintpot.budget import Budget, Workload
from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.packer.apart import pack_apart
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.degradation import Priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.opening import open_session
from pintpot.runtime.session import Session
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

MACHINE = null_machine()
FREE = Priors({})
"""Nobody knows what any step costs, and a budget that allows everything."""

EXACT = (AsStored("all"), PrefillChunk(tokens=16))
"""Weights as they come, float32 activations: nothing that rounds but the cache."""
INT8 = (RoundToNearest("all", 8), Int8Activations(prefill=1, decode=1), PrefillChunk(tokens=16))
"""For float sources: both sides of every product in 8 bits."""
BLOCKS = (AsStored("all"), Int8Activations(prefill=1, decode=1), PrefillChunk(tokens=16))
"""For GGUF files: their own blocks meet activations in 8 bits."""
BY_DEFAULT = (AsStored("all"), Int8Activations(), PrefillChunk(tokens=16))
"""The same with a second plane of 8 bits for the words of answers."""
STREAMED = Streamed(resident_bytes=0, slot_bytes=128 << 10, num_slots=4, in_flight=3)


def plan_of(
    model: Model,
    steps: tuple[Step, ...] = EXACT,
    *,
    context: int = 128,
    batch: int = 1,
    output: int | None = None,
    given: int = 0,
    guesses: int = 0,
    threads: int = 1,
    memory_bytes: int = 4_000_000_000,
    machine: Machine = MACHINE,
    change: Callable[[Form], Form] | None = None,
) -> Plan:
    """The plan that these steps make; `change` may turn its form into one that no step makes."""
    words = {"prompt": context // 4, "output": output or context // 4}
    workload = Workload(context=context, batch=batch, given=given, guesses=guesses, **words)
    budget = Budget(memory_bytes, workload, degradation=1e9, threads=threads)
    plan = assess(Question(model, machine, budget, FREE), steps)
    return plan if change is None else replace(plan, form=change(plan.form))


def pack_of(source: Path, folder: Path, steps: tuple[Step, ...] = EXACT, **how: object) -> Path:
    """A model's file or folder packed with these steps."""
    model = describe(str(source))
    return write_pack(model, plan_of(model, steps, **how), folder)  # type: ignore[arg-type]


def pack_apart_of(source: Path, folder: Path, steps: tuple[Step, ...] = EXACT, **how: object) -> Path:
    """As `pack_of`, in a process of its own, whose peak is then its own."""
    model = describe(str(source))
    return pack_apart(model, plan_of(model, steps, **how), folder)  # type: ignore[arg-type]


def f32_cache(form: Form) -> Form:
    """Keys and values that nobody rounds: with exact activations nothing at all is rounded but float32 itself."""
    return replace(form, cache=replace(form.cache, format="f32"))


def opened(folder: Path, *, threads: int | None = None, isa: str = "", every_row: bool = False) -> Session:
    return open_session(folder, MACHINE, threads=threads, isa=isa, every_row=every_row)
