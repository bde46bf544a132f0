"""Measuring sensitivities in a process of its own, unless a table is there already."""

from __future__ import annotations

import logging
from pathlib import Path

from pintpot.errors import PintpotError
from pintpot.model.spec import Model
from pintpot.packer.apart import Progress, apart
from pintpot.planner.sensitivity import Sensitivities, recall_sensitivities, table_key

_log = logging.getLogger(__name__)


def sensitivities_apart(
    model: Model, text: Path | None, again: bool, progress: Progress | None, memory_bytes: int | None = None
) -> Sensitivities:
    """The table that is there; one measured elsewhere where none is, where it is of another `text`, and `again`.

    That process takes `memory_bytes` at most, of a quarter of what is free otherwise. Raises DoesNotFit.
    """
    key = table_key(model)
    found = None if again or text is not None else recall_sensitivities(key)
    if found is None:
        words = None if text is None else str(text.expanduser().absolute())
        request = {
            "model": model.source.named, "digest": model.digest, "text": words, "again": again,
            "memory_bytes": memory_bytes,
        }  # fmt: skip
        done = apart("pintpot.packer.calibrate.sensitivity", request, progress)
        if done["tokens"] < done["wanted"]:
            short = "only %s tokens could be measured on, and %s are usual: what is expected may be further off"
            _log.warning(short, done["tokens"], done["wanted"])
        found = recall_sensitivities(key)
    if found is None:
        raise PintpotError(f"the table of {model.name} was measured, and is gone again")
    return found
