"""The proof of a module's pack: measured calls and the limit in turn, each in a process of its own, then its answers
beside the unpacked module's: on samples of its kind, or on the example inputs where it takes tensors alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput
from pintpot.meter.agreement import Interval
from pintpot.meter.likeness import Likeness
from pintpot.meter.overlap import Agreed
from pintpot.model.adapted import EXAMPLES
from pintpot.model.joined import part_folder
from pintpot.packer.manifest import Manifest
from pintpot.proof.judge import Measured, Quality
from pintpot.proof.module_batches import sampled, write_arrays
from pintpot.proof.worker import Worker
from pintpot.runtime.kinds import Given

Told = Callable[[float, str], None]
DRAWN = "the example inputs are gone, so zeros were computed"


def measure_module(
    pack: Path,
    manifest: Manifest,
    disk: dict[str, int],
    runs: int,
    peaks: dict[str, int],
    notes: list[str],
    tell: Told,
    given: Given,
    code: str = "",
) -> tuple[Measured, Quality]:
    """What a module's pack takes, and how like its answers are; nothing of that, with a note, where its source is gone.

    `disk` says what the limit reads of the pack's file; on `given` a kind's answers are compared; `code` names what
    builds the user's own module, where blocks of it were measured.
    """
    batches = sampled(manifest.plan.config, pack, given)
    notes += sorted({note for batch in batches for note in batch.notes})
    plan, source = manifest.plan, Path(manifest.source.path)
    known = all((part_folder(source, part.name) / EXAMPLES).is_file() for part in plan.parts)
    if not known:
        notes.append(DRAWN)
    found: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pintpot-") as scratch:
        path = str(Path(scratch) / "answers.npz")
        asked: dict[str, Any] = {"path": path}
        if batches:
            asked |= {"inputs": str(Path(scratch) / "inputs.npz"), "names": [batch.names for batch in batches]}
            write_arrays(Path(asked["inputs"]), [batch.inputs for batch in batches])
        inputs = (str(source),) if known else ()
        with Worker("module_measured", pack, str(plan.threads), code, *inputs) as worker:
            opened = worker.ask("opened")
            with Worker("limit", pack, str(plan.form.ram_bytes), str(plan.threads)) as limit:
                worker.ask("run")
                for index in range(runs):
                    tell(0.1 + 0.6 * index / runs, f"run {index + 1} of {runs}")
                    limits.append(limit.ask("measure", **disk))
                    found.append(worker.ask("run"))
            peaks["measured run"], peaks["limit"] = found[-1]["peak_bytes"], limits[-1]["peak_bytes"]
            peaks["answers of the pack"] = worker.ask("answers", **asked)["peak_bytes"]
        tell(0.8, "answers of the unpacked module")
        quality = _quality(pack, manifest, asked, peaks, notes, code) if known else Quality()
    return Measured(opened, tuple(found), tuple(limits), peaks), quality


def _quality(
    pack: Path, manifest: Manifest, asked: dict[str, Any], peaks: dict[str, int], notes: list[str], code: str
) -> Quality:
    try:
        with Worker("module_quality", pack, str(manifest.plan.threads), code) as worker:
            answer = worker.ask("agreement" if "inputs" in asked else "compare", **asked)
    except BadInput as error:
        notes.append(f"quality was not measured: {error}")
        return Quality()
    peaks["reference"] = answer["peak_bytes"]
    found = (Likeness(**{**one, "lacking": Interval(**one["lacking"])}) for one in answer["likeness"])
    agreements = tuple(Agreed(**one) for one in answer.get("agreements", ()))
    return Quality(likeness=tuple(found), agreements=agreements)
