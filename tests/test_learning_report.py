"""The report of learning: its curve lies where the losses are, and it says what was promised and what was measured."""

from __future__ import annotations

from math import exp
from pathlib import Path

import pytest
from test_report import Structure, elements, percent
from tiny import Tiny, write_hf

from pintpot.budget import Budget, Train, Workload
from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan
from pintpot.proof.learning_report import MOST_POINTS, loss_curve, write_learning_report
from pintpot.trainer.tune import Tuned

STEPS = 100
LOSSES = tuple(3.0 - 0.01 * step for step in range(STEPS))
ASKED = ((0, 3.1), (50, 2.5), (100, 2.1))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    at = tmp_path_factory.mktemp("report")
    model = describe(str(write_hf(at / "m<b>", Tiny())))
    budget = Budget(1 << 31, Workload(task="train", train=Train(64, 2, STEPS, 4, 3)))
    question = Question(model, null_machine(), budget, shipped_priors(), torch_bytes=200_000_000)
    plan = make_training_plan(question, Asked("lora", "float32"))
    step_s = 2 * plan.cost.step_s.high
    return Tuned(at, plan, LOSSES, ASKED, step_s * STEPS, plan.cost.memory_high - 1, 123.0, 0)


def test_the_page_says_what_was_learned_and_loads_nothing(tuned: Tuned) -> None:
    page = write_learning_report(tuned).read_text()
    found = Structure()
    found.feed(page)
    assert not found.open
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in found.seen}
    assert not [value for _, about in found.seen for key, value in about.items() if key in ("src", "href")]
    assert "m<b>" in found.text
    for word in ("3.1000", "2.1000", f"{exp(2.1):.4g}", "123 tok/s", "LowRank(rank=8", "100 steps"):
        assert word in found.text, word
    # Within the promise of memory, and not within that of time.
    said = [about.get("aria-label") for tag, about in found.seen if tag == "span"]
    assert said.count("held") == 2
    assert said.count("not held") == 1
    charts = [str(about["aria-label"]) for tag, about in found.seen if tag == "svg" and about.get("role") == "img"]
    assert len(charts) == 3
    assert charts[0].startswith("training (nats a word by steps taken): 2.99 at 2")
    assert "held out (nats a word by steps taken): 3.1 at 0, 2.5 at 50, 2.1 at 100" in charts[0]


def test_the_curve_falls_where_losses_fall() -> None:
    drawn = loss_curve(LOSSES, ASKED)
    circles = [one for one in elements_of(drawn) if one[2]]
    training = [one for one in circles if one[2] == "training"]
    assert len(training) == -(-STEPS // -(-STEPS // MOST_POINTS)) <= MOST_POINTS
    assert [one[0] for one in training] == sorted(one[0] for one in training)
    assert [one[1] for one in training] == sorted(one[1] for one in training)  # downwards on a screen
    assert len(elements(drawn, "span")) == len(training)
    held = [one for one in circles if one[2].startswith("held out")]
    assert [one[2] for one in held] == ["held out: 3.100", "held out: 2.500", "held out: 2.100"]


def elements_of(drawn: str) -> list[tuple[float, float, str]]:
    from test_report import tree

    circles = (one for one in tree(drawn).iter("circle"))
    return [(percent(one, "cx"), float(one.attrib["cy"]), one.findtext("title") or "") for one in circles]


def test_few_steps_are_drawn_one_by_one(tuned: Tuned) -> None:
    assert len(elements_of(loss_curve(LOSSES[:5], ()))) == 5
    assert len(elements_of(loss_curve((), ASKED[:1]))) == 1


def test_a_page_elsewhere_is_written_there(tuned: Tuned, tmp_path: Path) -> None:
    assert write_learning_report(tuned, tmp_path / "other.html") == tmp_path / "other.html"
