"""The verb `frontier`: what quality costs, of a model or of a pack's model, measured and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pintpot.machine.here import this_machine
from pintpot.meter.memory import attainable_bytes
from pintpot.model.spec import Model
from pintpot.packer.manifest import read_manifest
from pintpot.packer.raw import is_pack, pack_named
from pintpot.planner.defaults import make_budget
from pintpot.proof.frontier import Asked, Frontier, measure_frontier
from pintpot.proof.frontier_report import write_frontier_report
from pintpot.proof.source import source_model

Progress = Callable[[float, str], None]


def frontier(
    model_or_pack: str | Path,
    *,
    context: int | None = None,
    budgets: int | None = None,
    runs: int | None = None,
    text: str | Path | None = None,
    tokens: int | None = None,
    threads: int | None = None,
    html: str | Path | None = None,
    keep: str | Path | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Frontier:
    """Measure what quality costs: the plans chosen at some memory budgets, each packed and proved, and an HTML report.

    Of a pack its model is taken, with the workload of its plan. Packs are removed again, unless a folder is given to
    `keep` them. Points that an earlier start measured are kept, unless all are asked for `again`. Raises DoesNotFit
    where no plan has all its weights in RAM.
    """
    model, asked = _asked(pack_named(model_or_pack), str(model_or_pack))
    asked |= {key: value for key, value in {"context": context, "threads": threads}.items() if value is not None}
    budget = make_budget(model, this_machine(progress=progress), attainable_bytes(), **asked)
    given = {"num_budgets": budgets, "runs": runs, "tokens": tokens}
    how = Asked(
        text=None if text is None else Path(text),
        keep=None if keep is None else Path(keep),
        again=again,
        **{key: value for key, value in given.items() if value is not None},
    )
    found = measure_frontier(model, budget, how, progress)
    path = found.folder / f"frontier-{how.num_budgets}.html" if html is None else Path(html)
    return replace(found, report_path=write_frontier_report(found, path))


def _asked(folder: Path, name: str) -> tuple[Model, dict[str, Any]]:
    """The model, on this machine, and the workload that a pack of it was planned for."""
    if not is_pack(folder):
        from pintpot.model.hub import download
        from pintpot.model.read import describe

        model = describe(name)
        return (download(model) if model.source.kind == "hub" else model), {}
    manifest, _ = read_manifest(folder)
    plan, work = manifest.plan, manifest.plan.budget.workload
    asked = {"context": work.context, "batch": work.batch, "prompt": work.prompt, "output": work.output}
    return source_model(manifest), {**asked, "threads": plan.budget.threads}
