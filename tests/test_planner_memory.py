"""What was measured comes back, whoever wrote at the same time; damaged files are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from described import described
from tiny import Tiny, write_hf

import pintpot
from pintpot.budget import Budget, Workload
from pintpot.errors import BadInput
from pintpot.machine.null import null_machine
from pintpot.machine.process import program_mark
from pintpot.model.read import describe
from pintpot.planner import memory
from pintpot.planner.degradation import steps_key
from pintpot.planner.make import make_plan
from pintpot.planner.memory import KEPT, recall, remember
from pintpot.planner.names import PROCESS, TOKENIZER, WEIGHTS
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.sensitivity import table_key

KEY = "a1b2c3d4e5f60718"
FOUND = Degradation(0.001, 0.002, True, 0.003, 0.004)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(described(), null_machine(), Budget(200_000_000, Workload(256)))


def test_what_was_remembered_is_recalled(plan: Plan, tmp_path: Path) -> None:
    key = steps_key(plan.steps)
    nothing = recall(KEY, "here", folder=tmp_path)
    assert (nothing.degradation, nothing.holders) == ({}, {})
    remember(KEY, "here", plan, degradation=FOUND, holders={PROCESS: 50, WEIGHTS: 7}, folder=tmp_path)
    remember(KEY, "here", plan, holders={PROCESS: 60, TOKENIZER: 9}, folder=tmp_path)
    known = recall(KEY, "here", folder=tmp_path)
    assert known.degradation == {key: FOUND}
    assert known.holders == {PROCESS: (50, 60), TOKENIZER: (9, 9)}, "what is computed exactly is not kept"


def test_records_that_also_hold_seconds_are_read_and_written(plan: Plan, tmp_path: Path) -> None:
    """As records were while the seconds of plans were kept."""
    file = tmp_path / "measured" / f"{KEY}.json"
    file.parent.mkdir()
    here = {"holders": {PROCESS: [50]}, "seconds": {steps_key(plan.steps): {"decode": [0.5]}}}
    machines = {f"here {program_mark()}": here}
    file.write_text(json.dumps({"version": 1, "degradation": {}, "machines": machines}))
    assert recall(KEY, "here", folder=tmp_path).holders == {PROCESS: (50, 50)}
    remember(KEY, "here", plan, holders={PROCESS: 60}, folder=tmp_path)
    assert recall(KEY, "here", folder=tmp_path).holders == {PROCESS: (50, 60)}
    remember(KEY, "there", plan, holders={PROCESS: 70}, folder=tmp_path)
    kept = json.loads(file.read_text())["machines"]
    assert set(kept[f"there {program_mark()}"]) == {"holders"}, "nobody reads seconds, so nobody writes them"


def test_quality_belongs_to_the_model_and_bytes_to_the_machine(plan: Plan, tmp_path: Path) -> None:
    remember(KEY, "here", plan, degradation=FOUND, holders={PROCESS: 50}, folder=tmp_path)
    there = recall(KEY, "there", folder=tmp_path)
    assert list(there.degradation.values()) == [FOUND]
    assert there.holders == {}
    assert recall("other", "here", folder=tmp_path).degradation == {}


def test_what_was_measured_of_one_training_is_not_planned_with_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    trainings = [write_hf(tmp_path / str(seed), Tiny(layers=1, seed=seed)) for seed in (1, 2)]
    models = [describe(str(folder)) for folder in trainings]
    assert models[0].digest == models[1].digest, "the headers say the same"

    def planned() -> list[Plan]:
        return [pintpot.plan(model, memory="200MB", context=128, machine=null_machine()) for model in models]

    before = planned()
    assert not any(plan.degradation.measured for plan in before)
    remember(table_key(models[0]), null_machine().fingerprint, before[0], degradation=FOUND)
    assert [plan.degradation.measured for plan in planned()] == [True, False]


def test_two_numbers_are_about_prompts_and_answers(plan: Plan, tmp_path: Path) -> None:
    """As records were while both were computed in the same way."""
    remember(KEY, "here", plan, degradation=FOUND, folder=tmp_path)
    file = tmp_path / "measured" / f"{KEY}.json"
    data = json.loads(file.read_text())
    data["degradation"] = {"AsStored()": [0.001, 0.002]}
    file.write_text(json.dumps(data))
    known = recall(KEY, "here", folder=tmp_path)
    assert known.degradation == {"AsStored()": Degradation(0.001, 0.002, True, 0.001, 0.002)}


def test_what_was_measured_on_more_words_stays(plan: Plan, tmp_path: Path) -> None:
    many, few = (Degradation(low, 0.3, True, 0.1, 0.3, 0.2, words) for low, words in ((0.1, 762), (0.15, 100)))
    for found in (few, many, few):
        remember(KEY, "here", plan, degradation=found, folder=tmp_path)
    known = recall(KEY, "here", folder=tmp_path).degradation
    assert list(known.values()) == [many]
    again = replace(many, mean=0.21)
    remember(KEY, "here", plan, degradation=again, folder=tmp_path)
    assert list(recall(KEY, "here", folder=tmp_path).degradation.values()) == [again]


def test_old_measurements_fall_out(plan: Plan, tmp_path: Path) -> None:
    for size in range(KEPT + 5):
        remember(KEY, "here", plan, holders={PROCESS: size}, folder=tmp_path)
    assert recall(KEY, "here", folder=tmp_path).holders == {PROCESS: (5, KEPT + 4)}


def test_the_next_plan_is_nearer(plan: Plan, tmp_path: Path) -> None:
    remember(
        KEY, "here", plan, degradation=Degradation(0.0, 1e-7, True), holders={PROCESS: 40_000_000}, folder=tmp_path
    )
    known = recall(KEY, "here", folder=tmp_path)
    again = make_plan(
        described(), null_machine(), plan.budget, measured=known.degradation, measured_bytes=known.holders
    )
    assert again.steps == plan.steps
    assert again.degradation.measured
    assert again.cost.memory_high == plan.cost.memory_high - 62_000_000 + 40_500_000


WRITE = """
import json, sys
from dataclasses import replace
from pathlib import Path
from pintpot.planner.memory import remember
from pintpot.planner.plan import Plan
plan = Plan.from_json(json.loads(Path(sys.argv[1]).read_text()))
for index in range(10):
    remember(sys.argv[5], sys.argv[3], plan, holders={"tokenizer": int(sys.argv[4]) + index}, folder=Path(sys.argv[2]))
"""


def test_processes_that_write_at_once_lose_nothing(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan.dumps())
    files = [str(tmp_path / "plan.json"), str(tmp_path / "home")]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, *files, fingerprint, first, KEY])
        for fingerprint, first in (("here", "100"), ("here", "500"), ("there", "900"))
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    data = json.loads((tmp_path / "home" / "measured" / f"{KEY}.json").read_text())
    seen = {name.split()[0]: machine["holders"]["tokenizer"] for name, machine in data["machines"].items()}
    assert sorted(seen["here"]) == [*range(100, 110), *range(500, 510)]
    assert seen["there"] == list(range(900, 910))
    assert not list((tmp_path / "home" / "measured").glob(".*json.*")), "nothing half-written stays"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a record"),
        ("[]", "not a record"),
        ('{"version": 9, "degradation": {}, "machines": {}}', "version 9, this program reads 1"),
        ('{"version": 1, "degradation": {"x": 3}, "machines": {}}', "not a record"),
        ('{"version": 1, "degradation": {}, "machines": {"HERE": {"holders": 3}}}', "not a record"),
    ],
)
def test_files_of_others_are_refused(plan: Plan, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "measured" / f"{KEY}.json"
    file.parent.mkdir()
    file.write_text(text.replace("HERE", f"here {program_mark()}"))
    with pytest.raises(BadInput, match=reason):
        recall(KEY, "here", folder=tmp_path)


def test_a_home_that_cannot_be_written_says_so(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "measured").write_text("a file")
    with pytest.raises(BadInput, match="set PINTPOT_HOME to another folder"):
        remember(KEY, "here", plan, degradation=FOUND, folder=tmp_path)


def test_what_another_program_measured_is_not_recalled(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(KEY, "here", plan, degradation=FOUND, holders={PROCESS: 50}, folder=tmp_path)
    monkeypatch.setattr(memory, "program_mark", lambda: "an upgrade")
    found = recall(KEY, "here", folder=tmp_path)
    assert found.holders == {}
    assert list(found.degradation.values()) == [FOUND]
