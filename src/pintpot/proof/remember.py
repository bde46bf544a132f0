"""What a proof measured flows back: rates into the machine's record, quality into the next plan."""

from __future__ import annotations

from pintpot.machine.remember import record_run
from pintpot.machine.spec import Machine, Rate
from pintpot.planner.plan import Plan
from pintpot.proof.judge import Measured
from pintpot.proof.proof import Proof


def remember_proof(machine: Machine, plan: Plan, proof: Proof, measured: Measured) -> None:
    """Keep the limits that were measured beside the runs, and the degradation of these very steps."""
    size = plan.form.ram_bytes
    rates = []
    for limit in measured.limits:
        ram, disk = limit["ram_bytes_per_s"], limit["disk_bytes_per_s"]
        rates.append(Rate("read", ram, ram, ram, plan.threads, _nearest(machine, "read", size)))
        if disk and plan.form.ring:
            ring = plan.form.ring
            rates.append(Rate("disk", disk, disk, disk, ring.in_flight, ring.slot_bytes))
    if machine.origin != "catalog":
        record_run(machine.fingerprint, rates)
    if proof.agreement is not None:
        from pintpot.planner.memory import remember

        kl = proof.agreement.kl
        remember(plan, machine.fingerprint, degradation=(kl.low, kl.high))


def _nearest(machine: Machine, what: str, size: int) -> int:
    rate = machine.rate(what, size=size)
    return rate.size if rate is not None else size
