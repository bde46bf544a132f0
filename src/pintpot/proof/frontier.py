"""PROOF: what quality costs: the plans that would be chosen at budgets from the smallest on, each packed and measured.

At each budget it is asked for the least degradation with all weights in RAM, and for the fastest plan that is next to
as good. A measured point is kept under PINTPOT_HOME; equal plans are measured once, also for frontiers of other numbers
of budgets.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pintpot.budget import Budget
from pintpot.errors import BadInput, DoesNotFit, PintpotError, need
from pintpot.machine.here import this_machine
from pintpot.machine.process import program_mark
from pintpot.machine.spec import Machine
from pintpot.meter.agreement import Agreement, Interval
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record
from pintpot.model.spec import Model
from pintpot.packer.apart import pack_apart
from pintpot.planner.assess import assess
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.make import make_plan
from pintpot.planner.memory import Recalled, recall
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.sensitivity import Sensitivities, recall_sensitivities, table_key, table_mark
from pintpot.proof.proof import Proof
from pintpot.proof.prove import prove

Progress = Callable[[float, str], None]
VERSION = 1
NUM_BUDGETS = 10
NEXT_TO, NATS = 1.05, 0.002
"""Of the least degradation so many times, and so many nats more, may be given for speed."""
NO_LIMIT = 1e9
PACKING = 0.25
"""Of the time that a point takes, about."""


@dataclass(frozen=True)
class Point:
    """One plan, packed and measured. `budgets` chose it; bytes are of its weights, rates in tokens/s.

    `answers` is about the words of answers through the fast path, `answers_of_weights` in float32 arithmetic.
    """

    budgets: tuple[int, ...]
    steps: tuple[str, ...]
    weight_bytes: int
    bits: float
    memory_bytes: int
    answers: Agreement
    answers_of_weights: Agreement
    decode: float
    prefill: float
    promised_degradation: tuple[float, float]
    shortfalls: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Raises BadInput for what was not written here."""
        try:
            fields = dict(data)
            for key in ("answers", "answers_of_weights"):
                fields[key] = Agreement(**{**fields[key], "kl": Interval(**fields[key]["kl"])})
            for key in ("budgets", "steps", "promised_degradation", "shortfalls"):
                fields[key] = tuple(fields[key])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise BadInput(f"not a point of a frontier: {error!r}") from error


@dataclass(frozen=True)
class Frontier:
    """The points of a model on a machine, smallest budget first."""

    model_name: str
    machine_name: str
    context: int
    num_runs: int
    points: tuple[Point, ...]
    folder: Path
    report_path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "pintpot_frontier": VERSION,
            **{key: getattr(self, key) for key in ("model_name", "machine_name", "context", "num_runs")},
            "points": [asdict(point) for point in self.points],
            "folder": str(self.folder),
            "report_path": None if self.report_path is None else str(self.report_path),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """How a frontier is measured: budgets, runs and tokens of text for each point, and where packs shall stay."""

    num_budgets: int = NUM_BUDGETS
    runs: int = 3
    text: Path | None = None
    tokens: int | None = None
    keep: Path | None = None
    again: bool = False


def measure_frontier(model: Model, budget: Budget, asked: Asked, progress: Progress | None = None) -> Frontier:
    """Plan, pack and measure what would be chosen at budgets up to `budget`, whose workload each point has.

    What an earlier start measured is kept, unless it is asked for `again`. Raises DoesNotFit where no plan has all its
    weights in RAM, and what packing and proving raise.
    """
    tell = progress or (lambda share, what: None)
    machine = this_machine()
    folder = home() / "frontiers" / _name(model, machine, budget, asked)
    with locked(folder / "frontier"):
        _clear(folder, asked.again)
        plans = _planned(folder, model, machine, budget, asked, tell)
        todo = [budgets for budgets in plans if not _path(folder, plans[budgets]).exists()]
        for index, budgets in enumerate(todo):
            what = f"frontier: plan {index + 1} of {len(todo)}"
            within = _within(tell, index / len(todo), (index + 1) / len(todo), what)
            plan = plans[budgets]
            write_record(_path(folder, plan), _measured(model, plan, folder, asked, within))
        points = tuple(_point(_path(folder, plan), budgets) for budgets, plan in plans.items())
    tell(1.0, "frontier: measured")
    return Frontier(model.name, machine.name, budget.workload.context, asked.runs, points, folder)


def plans_along(
    model: Model,
    machine: Machine,
    budget: Budget,
    num: int,
    known: Recalled,
    tell: Progress,
    table: Sensitivities | None = None,
) -> dict[tuple[int, ...], Plan]:
    """The plans at `num` memory budgets, spaced geometrically, by the budgets that chose them.

    From the smallest in which all weights are in RAM to the smallest in which nothing is left to gain. With a `table`
    of the model's sensitivities each weight may have a format of its own, as in any other plan.
    """
    # Read from disk, the best quality fits any memory: it would be the only plan.
    in_ram = replace(machine, rates=tuple(rate for rate in machine.rates if rate.what not in ("disk", "lookup")))
    told: dict[str, Any] = {"sensitivities": table, "proved": known.proved}

    def chosen(budget: Budget) -> Plan:
        return make_plan(model, in_ram, budget, measured=known.degradation, measured_bytes=known.holders, **told)

    best = replace(budget, prefer="quality", degradation=NO_LIMIT, below_4_bits=True)
    tell(0.0, "frontier: planning")
    whole = chosen(best)
    sizes = _spaced(whole.smallest_bytes, whole.cost.memory_high, num)
    found: dict[tuple[Any, ...], tuple[list[int], Plan]] = {}
    for index, size in enumerate(sizes):
        tell(0.0, f"frontier: planning, {index + 1} of {len(sizes)}")
        here = replace(best, memory_bytes=size)
        gentlest = chosen(here)
        fast = replace(here, prefer="speed", degradation=gentlest.degradation.high * NEXT_TO + NATS)
        try:
            steps = chosen(fast).steps
        except DoesNotFit:
            # What a proof found of a whole plan can be less than what is expected of a part of its steps alone.
            steps = gentlest.steps
        question = Question(model, machine, fast, shipped_priors(), known.degradation, known.holders, **told)
        plan = assess(question, steps)
        found.setdefault(tuple(map(str, steps)), ([], plan))[0].append(size)
    return {tuple(budgets): plan for budgets, plan in found.values()}


def _spaced(low: int, high: int, num: int) -> list[int]:
    """Budgets from low to high, each the same ratio above the one before."""
    if high <= low or num == 1:
        return [low]
    return [round(low * (high / low) ** (index / (num - 1))) for index in range(num - 1)] + [high]


def _planned(
    folder: Path, model: Model, machine: Machine, budget: Budget, asked: Asked, tell: Progress
) -> dict[tuple[int, ...], Plan]:
    """The plans of an earlier start, for what was measured since would change them, or new ones."""
    path = folder / f"plans-{asked.num_budgets}.json"
    if path.exists():
        try:
            kept = json.loads(path.read_text())["plans"]
            return {tuple(budgets): Plan.from_json(plan) for budgets, plan in kept}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not a list of plans ({error}); remove it") from error
    key = table_key(model)
    known, table = recall(key, machine.fingerprint), recall_sensitivities(key)
    plans = plans_along(model, machine, budget, asked.num_budgets, known, tell, table)
    need(bool(plans), f"no plan for {model.name} has all its weights in RAM", DoesNotFit)
    write_record(path, {"plans": [[budgets, plan.to_json()] for budgets, plan in plans.items()]})
    return plans


def _clear(folder: Path, everything: bool) -> None:
    """Remove what a start that was killed left behind; `everything`: what was measured, too."""
    for left in folder.glob("pack-*"):
        shutil.rmtree(left)
    for kept in (*folder.glob("point-*"), *folder.glob("plans-*.json")) if everything else ():
        kept.unlink()


def _measured(model: Model, plan: Plan, folder: Path, asked: Asked, tell: Progress) -> dict[str, Any]:
    """Pack a plan, prove it, and what of it is a point."""
    with _place(folder, asked.keep, plan) as place:
        pack = pack_apart(model, plan, place, lambda share, what: tell(PACKING * share, "packing"))
        proof = prove(
            pack,
            runs=asked.runs,
            text=asked.text,
            tokens=asked.tokens,
            html=_path(folder, plan).with_suffix(".html"),
            progress=lambda share, what: tell(PACKING + (1 - PACKING) * share, what),
        )
    return _record(plan, proof)


def _record(plan: Plan, proof: Proof) -> dict[str, Any]:
    answers, alone = proof.answers, proof.answers_of_weights
    if answers is None or alone is None:
        raise PintpotError("; ".join(("quality was not measured", *proof.notes)))
    weights, rates = plan.form.weights, {name: proof.row(name).measured for name in ("memory", "decode", "prefill")}
    values = sum(weights.num_values.values())
    return {
        "steps": [str(step) for step in plan.steps],
        "weight_bytes": weights.num_bytes,
        "bits": 8 * (weights.num_bytes - weights.vector_bytes) / values,
        "memory_bytes": int(rates["memory"] or 0),
        "answers": asdict(answers),
        "answers_of_weights": asdict(alone),
        "decode": rates["decode"],
        "prefill": rates["prefill"],
        "promised_degradation": [plan.degradation.low, plan.degradation.high],
        "shortfalls": list(proof.shortfalls),
    }


@contextmanager
def _place(folder: Path, keep: Path | None, plan: Plan) -> Iterator[Path]:
    """Where a pack is written: gone afterwards, unless it shall be kept."""
    if keep is not None:
        yield keep / f"{plan.form.weights.num_bytes}-{_key(plan)}"
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="pack-") as scratch:
        yield Path(scratch) / "pack"


def _point(path: Path, budgets: tuple[int, ...]) -> Point:
    try:
        return Point.from_json({**json.loads(path.read_text()), "budgets": budgets})
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a point of a frontier ({error}); remove it") from error


def _path(folder: Path, plan: Plan) -> Path:
    return folder / f"point-{_key(plan)}.json"


def _key(plan: Plan) -> str:
    return hashlib.sha256("; ".join(map(str, plan.steps)).encode()).hexdigest()[:12]


def _name(model: Model, machine: Machine, budget: Budget, asked: Asked) -> str:
    """A folder for points measured in the same way of this model, on this machine, by this program.

    Frontiers of other numbers of budgets have points in common.
    """
    identity = table_key(model)
    try:
        words = None if asked.text is None else hashlib.sha256(asked.text.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"{asked.text} cannot be read as text: {error}") from error
    here = [
        identity,
        table_mark(identity),
        machine.fingerprint,
        program_mark(),
        asdict(budget.workload),
        budget.threads,
    ]
    how = [asked.runs, words, asked.tokens]
    return hashlib.sha256(json.dumps([here, how]).encode()).hexdigest()[:16]


def _within(tell: Progress, first: float, last: float, what: str) -> Progress:
    """Tells shares of a part of the whole, and what is done in it."""
    return lambda share, inner: tell(first + share * (last - first), f"{what}, {inner}")
