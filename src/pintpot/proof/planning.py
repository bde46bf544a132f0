"""The planning of a proof: the same question asked again in a process of its own, for its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pintpot.errors import DoesNotFit
from pintpot.machine.aten import with_torch
from pintpot.machine.here import this_machine
from pintpot.meter.memory import peak_bytes
from pintpot.packer.manifest import read_manifest
from pintpot.planner.make import make_plan
from pintpot.planner.memory import recall
from pintpot.planner.sensitivity import recall_sensitivities, table_key
from pintpot.proof.source import source_model


class Answerer:
    """Request `plan`."""

    def __init__(self, pack: Path) -> None:
        self._manifest, _ = read_manifest(pack)

    def plan(self) -> dict[str, Any]:
        """Plan the pack's model inside its budget again. Raises BadInput when the source is gone.

        What was measured since may leave the budget too small; the peak is what is asked for, and no steps are told.
        """
        plan = self._manifest.plan
        model = source_model(self._manifest)
        (here, torch_bytes), key = with_torch(this_machine(), model.needs_torch), table_key(model)
        known = recall(key, here.fingerprint)
        try:
            table = recall_sensitivities(key)
            made = make_plan(
                model,
                here,
                plan.budget,
                measured=known.degradation,
                measured_bytes=known.holders,
                sensitivities=table,
                proved=known.proved,
                torch_bytes=torch_bytes,
            )
        except DoesNotFit:
            return {"peak_bytes": peak_bytes(), "steps": []}
        return {"peak_bytes": peak_bytes(), "steps": [str(step) for step in made.steps]}
