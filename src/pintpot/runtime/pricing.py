"""A pack on the machine and with the threads that it is to run with: its plan, priced for them."""

from __future__ import annotations

from dataclasses import replace

from pintpot.errors import UsageError, need
from pintpot.machine.spec import Machine
from pintpot.packer.manifest import Manifest
from pintpot.packer.packed_model import packed_model
from pintpot.planner.assess import reprice
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question

MOST_THREADS_PER_CORE = 4


def priced_here(manifest: Manifest, machine: Machine, threads: int | None = None) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with its plan priced for this machine and this many threads, and what a person should know.

    Raises UsageError for more threads than could help.
    """
    plan, cores = manifest.plan, machine.cpu.threads
    wanted = min(plan.threads, cores) if threads is None else threads
    need(wanted >= 1, f"{wanted} threads compute nothing; use 1 or more", UsageError)
    need(wanted <= MOST_THREADS_PER_CORE * cores, f"{wanted} threads are too many for {cores} cores", UsageError)
    elsewhere = plan.machine_fingerprint != machine.fingerprint
    if not elsewhere and wanted == plan.threads:
        return manifest, ()
    question = Question(packed_model(manifest), machine, replace(plan.budget, threads=wanted), shipped_priors())
    priced = replace(reprice(plan, question), degradation=plan.degradation)
    note = f"packed for {plan.machine_name}; priced again for {machine.name}"
    return replace(manifest, plan=priced), (note,) if elsewhere else ()
