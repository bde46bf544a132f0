"""docs/papers.md: what every technique does to trained weights at equal bits, and whether a plan chooses it.

    python benchmarks/papers.py                                  # off-grid SmolLM2, and one whose channels stand out
    python benchmarks/papers.py --models dense --tokens 2048 --calibrated 8192 --without-speed
    python benchmarks/papers.py --only-write                     # the document from what was measured before

Rows come from the registry of techniques, so a new one appears by itself, as "not measured" until a run has measured
it. Each that changes values is packed twice, with it and without it (`trials.py` says what without means), and both are
compared with the float model; the speed is that of decoding, both packs taking turns. Then plans are made for several
budgets, and the document says in how many of them a technique was chosen, or why not. Everything found is kept in
out/papers.json: a start that was stopped goes on. Rows of which nothing is kept stay as the document has them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, ROOT, Case, Record, parser, probed_machine, whisper
from by_bytes import packed, plan_of
from divergence import Judge
from held_out import held_out_tokens
from in_turn import decode_in_turn, own, ratio_of
from off_grid import turn
from papers_page import page
from trials import CONTEXT, Trial, trials

from pintpot import api
from pintpot.budget import Budget, Workload
from pintpot.errors import DoesNotFit
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.model.tokens import Tokenizer
from pintpot.packer.calibrate.texts import cut, read_text
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import tokenizer_of
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.make import make_plan
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.sensitivity import Sensitivities
from pintpot.techniques import classes

LENGTH, ROUNDS = 256, 6
MODELS = {"dense": "off the grid", "pairs": "off the grid, outlying channels kept"}
DOCUMENT = ROOT / "docs" / "papers.md"
MEGABYTE = 1_000_000
QUESTIONS: tuple[dict[str, Any], ...] = (
    *({"memory": size * MEGABYTE} for size in (150, 175, 200, 250, 400, 2000)),
    {"memory": 2000 * MEGABYTE, "degradation": 0.5},
    {"memory": 2000 * MEGABYTE, "batch": 8},
    *({"memory": size * MEGABYTE, "prefer": "quality"} for size in (150, 200, 300, 2000)),
    {"memory": 2000 * MEGABYTE, "prefer": "memory"},
)
"""Budgets for which a plan is made: memory in RAM, then what else differs from the defaults."""


@dataclass(frozen=True)
class Bench:
    """One model, and how its trials are packed and judged."""

    record: Record
    name: str
    model: Model
    machine: Machine
    judge: Judge
    texts: list[list[int]]
    mark: str

    def measured(self, trial: Trial) -> Case:
        """Both packs of a trial, judged; packs that trials share are judged once."""
        key = f"{self.name}, {trial.technique}, {trial.name}, {self.mark}"
        sides = {
            side: self._side(f"{self.name}, {'; '.join(map(str, steps))}, {self.mark}", steps, trial.computed)
            for side, steps in (("without", trial.without), ("with", trial.steps))
        }
        known = {"technique": trial.technique, "model": self.name, "name": trial.name, "mark": self.mark}
        return self.record.case(f"trial: {key}", lambda: known | {"computed": trial.computed} | sides)

    def _side(self, key: str, steps: tuple[Any, ...], computed: bool) -> Case:
        def found() -> Case:
            folder = self.pack(steps)
            forms = [form for form in read_manifest(folder)[0].plan.form.weights if form.is_matrix]
            blocks = [form for form in forms if form.name not in ("embed", "head")]
            size, values = (sum(of(form) for form in blocks) for of in (_num_bytes, _num_values))
            judged = self.judge.of_run(folder, LENGTH // 2) if computed else self.judge.of_pack(folder)
            return {"bits": 8 * size / values, **judged}

        return self.record.case(f"{key}{', as it runs' if computed else ''}", found)

    def pack(self, steps: tuple[Any, ...]) -> Path:
        plan = plan_of(self.model, steps, context=CONTEXT, machine=self.machine)
        return packed(self.model, plan, self.texts)

    def speed(self, trial: Trial) -> Case:
        def found() -> Case:
            packs = [own("with", self.pack(trial.steps)), own("without", self.pack(trial.without))]
            turns = decode_in_turn(packs, 100 * MEGABYTE, ROUNDS)
            return turns | {"ratio": vars(ratio_of(turns, *turns["finals"]))}

        return self.record.case(f"speed: {self.name}, {trial.technique}, {trial.name}", found)


def _num_bytes(form: Any) -> int:
    return int(form.num_strips * form.strip_bytes)


def _num_values(form: Any) -> int:
    return int(form.shape[0] * form.shape[1])


def plans(model: Model, machine: Machine, table: Sensitivities) -> list[Plan]:
    """What is chosen in each question that has an answer."""
    found = []
    for asked in QUESTIONS:
        batch = asked.get("batch", 1)
        load = Workload(CONTEXT, batch=batch, prompt=CONTEXT // 2, output=CONTEXT // 4)
        budget = Budget(
            asked["memory"], load, degradation=asked.get("degradation", 0.05), prefer=asked.get("prefer", "speed"),
            threads=2,
        )  # fmt: skip
        try:
            found.append(make_plan(model, machine, budget, sensitivities=table))
        except DoesNotFit as reason:
            whisper(f"no plan: {reason}")
    return found


def verdicts(made: list[Plan]) -> dict[str, Case]:
    """Of each technique in how many plans it is, or why it is in none."""
    found = {}
    for name, cls in classes().items():
        chosen = sum(any(isinstance(step, cls) for step in plan.steps) for plan in made)
        reasons = [row.reason for plan in made for row in plan.rejected if isinstance(row.step, cls)]
        why = min(reasons, key=reasons.index) if reasons else "not among what a plan is offered"
        found[name] = {"chosen": chosen, "of": len(made), "why": why}
    return found


def model_of(kind: str) -> Model:
    """SmolLM2 off its grid, its channels turned into each other or in pairs only; made where it is missing."""
    from bench import smollm2

    name = "smollm2-off-grid-f32" if kind == "dense" else f"smollm2-off-grid-{kind}-f32"
    folder = OUT / "models" / name
    if not folder.exists():
        whisper(f"making {name} ...")
        folder.parent.mkdir(parents=True, exist_ok=True)
        turn(api.describe(str(smollm2())), folder, dtype="f32", mixing=kind)
    return api.describe(str(folder))


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("--models", nargs="+", choices=MODELS, default=tuple(MODELS))
    parse.add_argument("--tokens", type=int, default=8192, help="of held-out text")
    parse.add_argument("--calibrated", type=int, default=32768)
    parse.add_argument("--only", default="", help="techniques with this text in their name")
    parse.add_argument("--without-speed", action="store_true", help="no speeds: the machine is not quiet")
    parse.add_argument("--only-write", action="store_true", help="measure nothing")
    asked = parse.parse_args()
    record = Record("papers", fresh=asked.fresh)
    if not asked.only_write:
        for kind in asked.models:
            _measure(record, kind, asked)
    before = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    DOCUMENT.write_text(page(record.cases, MODELS, before), encoding="utf-8")
    record.say(f"{DOCUMENT.relative_to(ROOT)} is written")
    return record.finish()


def _measure(record: Record, kind: str, asked: Any) -> None:
    machine, model = probed_machine(), model_of(kind)
    source, table = tokenizer_of(model), api.calibrate(model)
    texts = held_out_tokens(Tokenizer.load(source), asked.tokens // LENGTH, LENGTH)
    calibration = cut(source, read_text(), model.context, asked.calibrated)
    mark = f"{asked.tokens} tokens, {asked.calibrated} calibrated"
    bench = Bench(record, kind, model, machine, Judge(model, texts), calibration, mark)
    record.keep(f"plans: {kind}", verdicts(plans(model, machine, table)))
    # As long as the texts are, so that a window over the cache is shorter and does forget.
    load = Workload(LENGTH, prompt=LENGTH // 2, output=LENGTH // 4)
    budget = Budget(2000 * MEGABYTE, load, degradation=0.1, threads=2, below_4_bits=True, windowed=True)
    questions = [Question(model, machine, budget, shipped_priors(), sensitivities=one) for one in (None, table)]
    for trial in trials(model, questions):
        if asked.only in trial.technique:
            found = bench.measured(trial)
            whisper(f"{kind}, {trial.name}: {found['without']['mean']:.4f} -> {found['with']['mean']:.4f}")
            if not asked.without_speed:
                bench.speed(trial)


if __name__ == "__main__":
    sys.exit(main())
