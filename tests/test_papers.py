"""docs/papers.md has a row for every technique there is, and trials compare packs of as many bytes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from described import described
from packing import MACHINE

from pintpot.budget import Budget, Workload
from pintpot.formats import is_lossless
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.proof.steps import OF_WEIGHTS
from pintpot.techniques import classes

ROOT = Path(__file__).parent.parent
CONTEXT = 512
WITHOUT_TRIAL = {
    "RoundToNearest",
    "AsStored",
    "Mixed",
    "TwoOfFour",
    "LeftInFloat",
    "Mbq",
    "LowRank",
    "EveryWeight",
    "SSte",
    "TwoFour",
}
"""What others are compared with, what rounds nothing, what needs a table, modules, pictures or zeros, what learns."""


def document() -> str:
    return (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """The modules behind the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield {name: importlib.import_module(name) for name in ("by_bytes", "trials", "papers_page")}


@pytest.fixture(scope="module")
def made(benchmarks: Any) -> list[Any]:
    load = Workload(CONTEXT, prompt=CONTEXT // 2, output=CONTEXT // 4)
    budget = Budget(1 << 32, load, degradation=0.1, threads=2, below_4_bits=True)
    question = Question(described(tied=False), MACHINE, budget, shipped_priors())
    return list(benchmarks["trials"].trials(described(tied=False), [question]))


def test_every_technique_has_a_row(benchmarks: Any) -> None:
    named = {row[0].strip("` ") for row in benchmarks["papers_page"].rows(document())}
    assert named == set(classes()), "run `python benchmarks/papers.py` (--only-write: without measuring anything)"


def test_a_row_says_where_its_technique_is_from(benchmarks: Any) -> None:
    for row in benchmarks["papers_page"].rows(document()):
        cls = classes()[row[0].strip("` ")]
        assert row[2] == f"`{cls.__module__.replace('.', '/')}.py`"
        for number in re.findall(r"\d{4}\.\d{5}", cls.paper):
            assert f"https://arxiv.org/abs/{number}" in row[1]


def test_every_technique_that_changes_weights_has_a_trial(made: list[Any]) -> None:
    wanted = {name for name, cls in classes().items() if cls.facet in OF_WEIGHTS}
    assert wanted - WITHOUT_TRIAL <= {trial.technique for trial in made}


def test_both_sides_of_a_trial_have_as_many_bytes(benchmarks: Any, made: list[Any]) -> None:
    plan_of, model = benchmarks["by_bytes"].plan_of, described(tied=False)
    for trial in made:
        ours, theirs = (plan_of(model, steps, context=CONTEXT).form for steps in (trial.steps, trial.without))
        assert theirs.weight_bytes <= 1.001 * ours.weight_bytes, trial.name
        assert theirs.weight_bytes >= 0.9 * ours.weight_bytes, trial.name
        rounded = [w for w in ours.weights if w.is_matrix and not is_lossless(w.source, w.format)]
        assert rounded, f"{trial.name} rounds nothing"


def test_a_measured_trial_becomes_a_row(benchmarks: Any) -> None:
    side = {"mean": 0.5, "low": 0.4, "high": 0.6, "bits": 4.5}
    case: dict[str, Any] = {"technique": "Gptq", "model": "dense", "name": "Gptq() on blocks", "mark": "8 tokens"}
    cases = {
        "trial: dense, Gptq": case | {"computed": False, "without": side, "with": side | {"mean": 0.25}},
        "plans: dense": {"Gptq": {"chosen": 3, "of": 10, "why": ""}, "Awq": {"chosen": 0, "of": 10, "why": "slower"}},
    }
    page, models = benchmarks["papers_page"], {"dense": "dense", "pairs": "pairs"}
    text = page.page(cases, models)
    found = {row[0].strip("` "): row for row in page.rows(text)}
    assert found["Gptq"][3:] == ["as it is; dense", "4.50", "0.5 (0.4 to 0.6)", "0.25 (0.4 to 0.6)", "0.50",
                                 "not measured", "in 3 of 10"]  # fmt: skip
    assert found["Awq"][-1] == "in none of 10: slower"
    assert page.page({}, models, text) == text, "what nothing is kept of stays on the page"
