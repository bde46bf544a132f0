"""Rows of a weight that rest on disk, read into the ring before the op that needs them: `bytes` of one pass.

Of `experts` matrices, of which each token meets `chosen`, only those are read that some token meets (`ops/experts.py`).
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.ops.experts import met
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    need(op.lane == "read", "fetch runs on the read lane", UsageError)
    need(op.get("bytes", 0) >= 0, "fetch reads a number of bytes", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> Extent:
    return extent


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    per_pass = float(op.get("bytes"))
    # Rows looked up by token are read once for each; the head's not where no logits are wanted.
    if op.get("per_token"):
        looked_up = per_pass * (op.get("rows", 0) or extent.tokens)
        return Demand(disk_bytes=looked_up, lookup_bytes=looked_up, ram_bytes=looked_up)
    if op.get("experts"):
        found = met(op.get("experts"), op.get("chosen"), extent.rows if op.get("over_rows") else extent.tokens)
        least, mid, most = (per_pass / op.get("experts") * count for count in found)
        return Demand(
            ram_bytes=mid, disk_bytes=mid, chosen_bytes=mid, less_bytes=mid - least, more_bytes=most - mid
        )  # fmt: skip
    num_bytes = per_pass * int(extent.rows > 0 or not op.get("over_rows"))
    return Demand(disk_bytes=num_bytes, ram_bytes=num_bytes)
