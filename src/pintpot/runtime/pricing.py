"""A pack on the machine and with the threads that it is to run with: its plan, priced for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pintpot.errors import UsageError, need
from pintpot.machine.spec import Machine
from pintpot.packer.manifest import Manifest

MOST_THREADS_PER_CORE = 4


@dataclass(frozen=True, slots=True)
class Here:
    """The machine that a pack is opened on, as far as opening needs it.

    Its record is asked for, by `machine`, where the pack has to be priced again.
    """

    fingerprint: str
    cores: int
    machine: Callable[[], Machine]


def here_of(machine: Machine) -> Here:
    """All of it from a record."""
    return Here(machine.fingerprint, machine.cpu.threads, lambda: machine)


def priced_here(manifest: Manifest, here: Here, threads: int | None = None) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with its plan priced for this machine and this many threads, and what a person should know.

    Raises UsageError for more threads than could help.
    """
    plan, cores = manifest.plan, here.cores
    wanted = min(plan.threads, cores) if threads is None else threads
    need(wanted >= 1, f"{wanted} threads compute nothing; use 1 or more", UsageError)
    need(wanted <= MOST_THREADS_PER_CORE * cores, f"{wanted} threads are too many for {cores} cores", UsageError)
    elsewhere = plan.machine_fingerprint != here.fingerprint
    if not elsewhere and wanted == plan.threads:
        return manifest, ()
    return _priced(manifest, here.machine(), wanted, elsewhere)


def _priced(manifest: Manifest, machine: Machine, threads: int, elsewhere: bool) -> tuple[Manifest, tuple[str, ...]]:
    from pintpot.machine.aten import with_torch
    from pintpot.packer.packed_model import packed_model
    from pintpot.planner.assess import reprice
    from pintpot.planner.degradation import shipped_priors
    from pintpot.planner.question import Question

    plan = manifest.plan
    model, budget = packed_model(manifest), replace(plan.budget, threads=threads)
    machine, torch_bytes = with_torch(machine, model.needs_torch)
    question = Question(model, machine, budget, shipped_priors(model.kind), torch_bytes=torch_bytes)
    priced = replace(reprice(plan, question), degradation=plan.degradation)
    note = f"packed for {plan.machine_name}; priced again for {machine.name}"
    return replace(manifest, plan=priced), (note,) if elsewhere else ()
