"""What a run of learning leaves about itself: promised beside measured, every loss, and the plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pintpot.trainer.tune import Tuned

RECEIPT = "tuning.json"


def receipt(tuned: Tuned) -> dict[str, Any]:
    """What a run leaves about itself: promised beside measured, every loss, and the plan."""
    cost = tuned.plan.cost
    return {
        "pintpot_tuning": 1,
        "promised": {
            "memory_bytes": [cost.memory_low, cost.memory_high],
            "step_s": [cost.step_s.low, cost.step_s.high],
            "total_s": [cost.total_s.low, cost.total_s.high],
            "step_disk_bytes": list(cost.step_disk_bytes),
        },
        "measured": {
            "peak_bytes": tuned.peak_bytes, "step_s": tuned.step_s, "seconds": tuned.seconds,
            "tokens_per_s": tuned.tokens_per_s, "began_at_step": tuned.began_at,
        },
        "losses": list(tuned.losses),
        "asked": [list(one) for one in tuned.asked],
        **({"right": [list(one) for one in tuned.right]} if tuned.right else {}),
        "plan": tuned.plan.without_reasons().to_json(),
    }  # fmt: skip


def write_receipt(tuned: Tuned) -> None:
    """The receipt in the folder, in one step."""
    path = tuned.folder / RECEIPT
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(receipt(tuned), indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
