"""Real models at four budgets, from comfortable to the smallest possible: what was promised, held, and agreed.

Each is first compared unpacked with its publisher's own code on the same inputs. Then it is planned, packed and proved
at each budget: the peak of every process beside the budget, promises, and the kind's own measures of agreement.

    python benchmarks/real_models.py --packages FOLDER minilm dinov2 lite0 whisper digits --json real.json
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import real

import pintpot
from pintpot.errors import DoesNotFit, PintpotError, need
from pintpot.model.store import Store
from pintpot.planner.plan import Plan
from pintpot.proof.module_batches import computed, sampled
from pintpot.proof.module_quality import Unpacked
from pintpot.proof.proof import Proof
from pintpot.units import format_bytes, parse_bytes

SHARES = (1.0, 0.4, 0.1, 0.0)
"""Of what lies between the smallest budget and all weights as they are with room to spare."""
ROOM = 1.25
FRACTION_OF_PLAN = 0.002
"""A budget is a little above the smallest one that was named, which is rounded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=real.names(), help=f"of {', '.join(real.names())}")
    parser.add_argument("--packages", type=Path, help="where the wheels' packages are unpacked  [they are installed]")
    parser.add_argument("--budgets", type=int, default=len(SHARES), help="so many of the four, the smallest first")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each proof")
    parser.add_argument("--json", type=Path, help="where all figures go")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="pintpot-real-") as scratch:
        for name in asked.models:
            work = Path(scratch) / name
            work.mkdir()
            one = real.prepare(name, asked.packages, work)
            document = {"model": name, "published": beside_publisher(one), "checked": dict(one.checked), "budgets": []}
            print(
                f"\n{name}: {format_bytes(one.model.num_bytes)}; unpacked beside its publisher: {document['published']}"
            )
            for what, value in one.checked.items():
                print(f"  {what}: {value}")
            for row in at_budgets(one, work, asked.budgets, asked.runs):
                document["budgets"].append(row)
                print("  " + told(row))
            found.append(document)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def beside_publisher(one: real.Real) -> dict[str, Any]:
    """The largest difference of any output, its size beside the largest value, and the share of equal bits."""
    config, folder = one.model.parts[0].config, Path(one.model.source.path)
    batches = sampled(config, folder, one.given)[:4]
    with ExitStack() as closing, Store(one.model) as store:
        plan = pintpot.plan(one.model)
        unpacked = computed(config, batches, Unpacked(one.model, store, plan.budget.workload, closing))
    worst = largest = 0.0
    equal = total = 0
    for batch, given in zip(batches, unpacked, strict=True):
        wanted = one.publisher(batch.inputs)
        for key, due in wanted.items():
            array = given[key]
            need(array.shape == due.shape, f"{key}: {array.shape} where its publisher gives {due.shape}", PintpotError)
            worst = max(worst, float(np.abs(array - due).max()))
            largest = max(largest, float(np.abs(due).max()))
            equal, total = equal + int((array == due).sum()), total + array.size
    return {"largest_difference": worst, "largest_value": largest, "equal_bits": equal / total, "inputs": len(batches)}


def at_budgets(one: real.Real, work: Path, count: int, runs: int) -> Iterator[dict[str, Any]]:
    least = smallest_budget(one)
    most = least + ROOM * one.model.num_bytes
    for index, share in enumerate(SHARES[len(SHARES) - count :]):
        # What proofs have taught of its memory moves the smallest one.
        budget = max(smallest_budget(one), round(least + share * (most - least)))
        plan = pintpot.plan(one.model, memory=budget)
        started = time.perf_counter()
        folder = pintpot.pack(one.model, plan, work / f"pack{index}")
        seconds = time.perf_counter() - started
        proof = pintpot.prove(folder, runs=runs, images=one.given.images, audios=one.given.audios)
        yield {**row_of(budget, plan, proof), "packing_s": seconds}


def smallest_budget(one: real.Real) -> int:
    """The one that a refusal names."""
    try:
        pintpot.plan(one.model, memory="30MB")
    except DoesNotFit as refused:
        named = re.search(r"smallest possible budget is (\S+ ?[kMG]B)", str(refused))
        if named is None:
            raise
        return round(parse_bytes(named[1]) * (1 + FRACTION_OF_PLAN))
    raise PintpotError("a budget of 30 MB is enough")


def row_of(budget: int, plan: Plan, proof: Proof) -> dict[str, Any]:
    peak = max(peak.peak_bytes for peak in proof.peaks)
    return {
        "budget": budget,
        "peak": peak,
        "held": peak <= budget,
        "in_ram": plan.form.ram_bytes,
        "on_disk": plan.form.disk_bytes,
        "steps": [str(step) for step in plan.steps],
        "promises": {
            row.what: {
                "low": row.promised_low,
                "high": row.promised_high,
                "measured": row.measured,
                "unit": row.unit,
                "holds": row.holds,
            }
            for row in proof.rows
        },
        "agreement": {agreed.what: agreed.mean for agreed in proof.agreements},
        "shortfalls": list(proof.shortfalls),
    }


def told(row: dict[str, Any]) -> str:
    broken = [what for what, one in row["promises"].items() if one["holds"] is False]
    kept = "promises held" if not broken else f"not held: {', '.join(broken)}"
    agreed = ", ".join(f"{what} {value:.5f}" for what, value in row["agreement"].items())
    rates = [f"{one['measured']:.1f} {one['unit']}" for one in row["promises"].values() if one["unit"].endswith("/s")]
    return (
        f"{format_bytes(row['budget']):>8}: peak {format_bytes(row['peak'])}, weights {format_bytes(row['in_ram'])} in "
        f"RAM and {format_bytes(row['on_disk'])} on disk, {', '.join(rates)}; {agreed}; {kept}"
    )


if __name__ == "__main__":
    main()
