"""The whole path through the real program, on a tiny model: plan, pack, run, prove, list, rm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import DEFAULT, write_gguf

import pintpot
from pintpot.cli import cli
from pintpot.planner.plan import Plan

BUDGET = ("--memory", "120MB", "--context", "64", "--prompt", "16", "--output", "8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", DEFAULT, "q4_0")


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A shelf that other tests put nothing on, and a machine that was measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(tmp_path_factory.mktemp("cli-home")))
        pintpot.probe(quick=True)
        yield


@pytest.fixture(scope="module")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "packed"
    done = program("pack", model, *BUDGET, "-o", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\n"
    assert "pintpot prove" in done.stderr
    return folder


def program(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pintpot", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, env=dict(os.environ))


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_a_plan_is_json_that_is_read_again(model: Path) -> None:
    done = invoke("plan", model, *BUDGET, "--json", "-v")
    assert done.exit_code == 0, done.output
    plan = Plan.from_json(json.loads(done.stdout))
    assert plan.budget.memory_bytes == 120_000_000
    assert plan.budget.workload.context == 64
    assert invoke("plan", model, *BUDGET, "--json").stdout == done.stdout, "the same question, the same bytes"


def test_a_plan_shows_memory_speed_steps_what_lost_and_what_was_asked(model: Path) -> None:
    done = invoke("plan", model, *BUDGET)
    assert done.exit_code == 0, done.output
    plan = pintpot.plan(model, memory="120MB", context=64, prompt=16, output=8)
    for holder in plan.cost.holders:
        assert not holder.high or holder.name in done.stdout
    assert "budget 120 MB" in done.stdout
    assert "context 64 tokens ·" in done.stdout, "what was asked stands without a star"
    assert "batch 1* ·" in done.stdout, "what was not is the default, with a star"
    for stage in plan.cost.stages:
        line = next(line for line in done.stdout.splitlines() if line.strip().startswith(f"{stage.name}, "))
        assert "tok/s" in line
        assert max(stage.bound_s, key=lambda pair: pair[1])[0] in line
    assert all(step.name in done.stdout for step in plan.steps)
    assert "what lost" in done.stdout
    assert "smallest possible budget" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert len(invoke("plan", model, *BUDGET, "-v").stdout) > len(done.stdout)


def test_a_narrow_terminal_still_gets_a_plan(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    done = invoke("plan", model, *BUDGET)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 60


@pytest.mark.parametrize("columns", [80, 100])
def test_no_figure_of_a_fast_machine_is_cut(model: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = invoke("plan", model, *BUDGET, "--machine", "h100").stdout
    assert "nothing runs on a graphics card yet" in shown
    assert "…" not in shown
    assert re.search(r"prefill, .* [0-9.]+[kM] tok/s +to +[0-9.]+[kM] tok/s", shown)
    assert max(map(len, shown.splitlines())) <= columns


def test_an_impossible_budget_says_what_is_possible(model: Path) -> None:
    done = invoke("plan", model, "--memory", "20MB")
    assert (done.exit_code, done.stdout) == (3, "")
    found = re.search(r"the smallest possible budget is ([0-9.]+) MB \((\d+) bytes", done.stderr)
    assert found is not None
    assert 0 <= float(found[1]) * 1e6 - int(found[2]) < 100_000
    assert invoke("plan", model, "--memory", f"{found[1]}MB").exit_code == 0, "what it says can be copied"


def test_a_context_beyond_the_models_is_usage(model: Path) -> None:
    done = invoke("plan", model, "--context", DEFAULT.context + 1)
    assert done.exit_code == 2
    assert str(DEFAULT.context) in done.stderr


def test_a_pack_runs_and_says_what_it_kept(packed: Path) -> None:
    done = program("run", packed, "-p", "Once upon a time", "--max-tokens", 6, "--temperature", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "promised" in done.stderr
    assert done.stderr.count("\n") <= 2, "the receipt, and that the answer was cut off"
    piped = program("run", packed, "--max-tokens", 6, "--temperature", 0, stdin="Once upon a time\n")
    assert piped.stdout == done.stdout
    told = json.loads(program("run", packed, "-p", "Once upon a time", "--max-tokens", 6, "--seed", 3, "--json").stdout)
    assert told["summary"]["num_tokens"] <= 6
    assert Plan.from_json(told["plan"]).budget.memory_bytes == 120_000_000
    asked = program("run", packed, "-p", "Once", "--memory", "50MB")
    assert (asked.returncode, asked.stdout) == (2, ""), "a pack has its plan"


@pytest.mark.parametrize("verb", ["describe", "plan", "pack"])
def test_a_pack_where_a_model_belongs_is_told_as_one(packed: Path, verb: str) -> None:
    done = invoke(verb, packed)
    assert (done.exit_code, done.stdout) == (4, "")
    assert f"is a pack already: `pintpot run {packed}` runs it, `pintpot prove {packed}` measures it" in done.stderr


def test_a_prompt_longer_than_the_context_is_usage(packed: Path) -> None:
    done = program("run", packed, "-p", "word " * 100)
    assert (done.returncode, done.stdout) == (2, "")
    assert "context" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_is_packed_once_listed_and_removed(model: Path) -> None:
    speaking = ("-p", "Once", "--max-tokens", 4, "--temperature", 0)
    first = program("run", model, *BUDGET, *speaking)
    assert first.returncode == 0, first.stderr
    packs = json.loads(program("list", "--json").stdout)["packs"]
    assert len(packs) == 1
    name = Path(packs[0]["folder"]).name
    made = Path(packs[0]["folder"], "manifest.json").stat().st_mtime_ns
    assert program("run", model, *BUDGET, *speaking).stdout == first.stdout
    assert program("pack", model, *BUDGET).stdout == f"{packs[0]['folder']}\n", "pack keeps it where run finds it"
    assert len(json.loads(program("list", "--json").stdout)["packs"]) == 1
    assert name in program("list").stdout
    assert Path(packs[0]["folder"], "manifest.json").stat().st_mtime_ns >= made
    removed = program("rm", name, "--json")
    assert json.loads(removed.stdout) == {"removed": [packs[0]["folder"]]}
    assert json.loads(program("list", "--json").stdout)["packs"] == []


def test_a_proof_judges_and_writes_its_report(packed: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("They say you cannot get a quart into a pint pot. " * 40, encoding="utf-8")
    report = tmp_path / "report.html"
    done = program("prove", packed, "--runs", 1, "--text", text, "--html", report, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["holds"] else 1), done.stderr
    assert {row["what"] for row in told["rows"]} >= {"memory", "prefill", "decode", "degradation"}
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert program("prove", tmp_path).returncode == 4
