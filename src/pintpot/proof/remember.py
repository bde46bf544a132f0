"""What a proof measured flows back: rates into the machine's record, quality into the next plan."""

from __future__ import annotations

from math import isfinite

from pintpot.machine.remember import record_run
from pintpot.machine.spec import Machine, Rate
from pintpot.meter.clock import median
from pintpot.planner.memory import remember
from pintpot.planner.plan import Degradation, Plan
from pintpot.proof.judge import Measured
from pintpot.proof.proof import Proof


def remember_proof(machine: Machine, plan: Plan, proof: Proof, measured: Measured) -> None:
    """Keep the limits measured beside the runs, and the bytes, seconds and degradation of these very steps."""
    if machine.origin != "catalog":
        record_run(machine.fingerprint, _rates(machine, plan, measured))
    remember(
        plan,
        machine.fingerprint,
        degradation=_degradation(proof),
        holders={name: num_bytes for name, num_bytes in measured.held.items() if num_bytes > 0},
        seconds={
            "prefill": median([run["first_token_s"] for run in measured.runs]),
            "decode": median([run["step_s"] for run in measured.runs]),
        },
    )


def _degradation(proof: Proof) -> Degradation | None:
    """None where it was not measured, or on so few words that they bound nothing."""
    if proof.answers is None or proof.prompts is None:
        return None
    answers, prompts = proof.answers.kl, proof.prompts.kl
    if not isfinite(answers.high + prompts.high):
        return None
    spans = (max(0.0, prompts.low), prompts.high)
    return Degradation(max(0.0, answers.low), answers.high, True, *spans, answers.mean, proof.answers.num_tokens)


def _rates(machine: Machine, plan: Plan, measured: Measured) -> list[Rate]:
    size = _nearest(machine, "read", plan.form.ram_bytes)
    rates = []
    for limit in measured.limits:
        ram, disk = limit["ram_bytes_per_s"], limit["disk_bytes_per_s"]
        rates.append(Rate("read", ram, ram, ram, plan.threads, size))
        if disk and plan.form.ring:
            ring = plan.form.ring
            rates.append(Rate("disk", disk, disk, disk, ring.in_flight, ring.slot_bytes))
    return rates


def _nearest(machine: Machine, what: str, size: int) -> int:
    rate = machine.rate(what, size=size)
    return rate.size if rate is not None else size
