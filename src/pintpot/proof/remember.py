"""What a proof measured flows back: rates into the machine's record, quality into the next plan."""

from __future__ import annotations

import logging
from math import isfinite

from pintpot.contract.step import CALIBRATED, Facet
from pintpot.machine.remember import record_run
from pintpot.machine.spec import Machine, Rate
from pintpot.packer.manifest import Manifest
from pintpot.planner.degradation import gentler, shipped_priors
from pintpot.planner.memory import remember
from pintpot.planner.plan import COSINE, Degradation, Plan
from pintpot.planner.sensitivity import Sensitivities, recall_sensitivities
from pintpot.proof.judge import Measured
from pintpot.proof.proof import Proof

_log = logging.getLogger(__name__)
LEAST_NATS = 1e-3
"""Of a table's sum, from which on a proof says how far it is off."""


def remember_proof(machine: Machine, manifest: Manifest, proof: Proof, measured: Measured) -> None:
    """Keep the limits measured beside the runs, and the bytes and the degradation of these very steps."""
    plan = manifest.plan
    if machine.origin != "catalog":
        record_run(machine.fingerprint, _rates(machine, plan, measured))
    key, degradation = manifest.sample_digest, _degradation(proof)
    if not key:
        _log.warning("%s was packed by an earlier version; the next plan knows nothing of this proof", plan.model_name)
        return
    remember(
        key,
        machine.fingerprint,
        plan,
        degradation=degradation,
        proved=None if degradation is None else over_table(plan, recall_sensitivities(key), degradation),
        holders={name: num_bytes for name, num_bytes in measured.held.items() if num_bytes > 0},
    )


def _degradation(proof: Proof) -> Degradation | None:
    """None where it was not measured, or on so few words that they bound nothing."""
    if proof.likeness:
        worst = max(proof.likeness, key=lambda one: one.lacking.high)
        span = (max(0.0, worst.lacking.low), worst.lacking.high)
        return Degradation(*span, True, *span, worst.lacking.mean, worst.num_inputs, unit=COSINE)
    if proof.answers is None or proof.prompts is None:
        return None
    answers, prompts = proof.answers.kl, proof.prompts.kl
    if not isfinite(answers.high + prompts.high):
        return None
    spans = (max(0.0, prompts.low), prompts.high)
    return Degradation(max(0.0, answers.low), answers.high, True, *spans, answers.mean, proof.answers.num_tokens)


def over_table(plan: Plan, table: Sensitivities | None, found: Degradation) -> tuple[float, float] | None:
    """What formats were found to lose over the middle of what the model's table says of them, low..high.

    None without a table, and where it says so little that nothing can be told. What other steps are expected to lose
    is taken off.
    """
    span = None if table is None else table.sum(plan.form.weights, gentler(plan.steps))
    if span is None:
        return None
    middle = (span[0] + span[1]) / 2
    others = [shipped_priors().of(step.key) for step in plan.steps if step.facet not in (Facet.FORMAT, *CALIBRATED)]
    least, most = (sum(one[end] for one in others) for end in (0, 1))
    low, high = max(0.0, found.low - most), max(0.0, found.high - least)
    return (low / middle, high / middle) if middle > LEAST_NATS and high > 0 else None


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
