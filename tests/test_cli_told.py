"""What the commands tell somebody who is new to them: names that can be copied, and mistakes said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from described import described
from tiny import DEFAULT, write_gguf

from pintpot.cli import cli
from pintpot.errors import UsageError
from pintpot.machine.null import null_machine
from pintpot.packer.shelf import Kept
from pintpot.planner.defaults import make_budget


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", DEFAULT, "q4_0")


def invoke(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)


def program(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pintpot", *map(str, arguments)]
    environment = {**os.environ, "PINTPOT_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("columns", [None, 100, 80, 40])
def test_names_of_packs_can_be_copied(monkeypatch: pytest.MonkeyPatch, columns: int | None) -> None:
    long = f"{'A-model-of-a-very-long-name-' * 3}"[:60] + "-0123456789ab"
    steps = tuple(f"technique_{index}" for index in range(20))
    packs = (
        Kept(Path("/x") / long, "A", 97_300_000, 300_000_000, 8192, steps),
        Kept(Path("/x/b-1"), "B", 1, 2, 64, ("only",)),
    )
    monkeypatch.setattr("pintpot.packer.shelf.kept_packs", lambda: packs)
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    shown = invoke("list").stdout.splitlines()
    rows = [line for line in shown if line.strip() and "─" not in line]
    assert len(rows) == 3, "a line each, below the heads of the columns"
    assert rows[0].split() == ["name", "disk", "memory", "context", "steps"]
    assert rows[1].split()[:7] == [long, "97.3", "MB", "300", "MB", "8,192", *rows[1].split()[6:7]]
    assert rows[1].rstrip().endswith("…"), "it is the steps that are shortened"
    assert "techniqu" in rows[1]
    assert rows[2].split() == ["b-1", "1", "B", "2", "B", "64", "only"]
    assert json.loads(invoke("list", "--json").stdout)["packs"][0]["context"] == 8192


@pytest.mark.parametrize("below", ["file", "proc"])
def test_a_home_that_cannot_be_used_is_told_in_one_line(model: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    home = {"file": tmp_path / "file" / "home", "proc": Path("/proc/nohome")}[below]
    done = program("plan", model, "--memory", "300MB", home=home)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"pintpot: {home}/machines")
    assert "set PINTPOT_HOME to another folder" in done.stderr
    asked = program("doctor", home=home)
    assert (asked.returncode, "✗" in asked.stdout) == (2, True)
    assert asked.stderr == "pintpot: in the way: home\n"


def test_a_prompt_given_as_a_number_of_tokens_is_told_how() -> None:
    done = invoke("run", "packed", "--prompt", "Why?")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "-p TEXT" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, (2048, 512, 128)),
        ({"prompt": 3000}, (3128, 3000, 128)),
        ({"prompt": 1500, "output": 1500}, (3000, 1500, 1500)),
        ({"prompt": 4090}, (4096, 4090, 6)),
        ({"prompt": 90, "context": 100}, (100, 90, 10)),
        ({"context": 2}, (2, 1, 1)),
    ],
)
def test_the_context_holds_the_prompt_and_the_output(asked: dict[str, int], found: tuple[int, ...]) -> None:
    work = make_budget(described(context=4096), null_machine(), 10**9, **asked).workload
    assert (work.context, work.prompt, work.output) == found


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"prompt": 90, "output": 20, "context": 100}, "use --context 110"),
        ({"prompt": 4000, "output": 1000}, "do not fit a context of 4096; ask for fewer"),
        ({"prompt": 4096}, "ask for fewer"),
    ],
)
def test_work_that_fits_no_context_is_usage(asked: dict[str, int], remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        make_budget(described(context=4096), null_machine(), 10**9, **asked)


@pytest.mark.parametrize("verb", [("prove",), ("export",), ("export", "--to", "out.gguf")])
def test_what_is_no_pack_is_told_alike(model: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    for place, why in ((model, "is no pack; if it is a model, first `pintpot pack "), (tmp_path / "x", "nothing is")):
        done = invoke(*verb, place)
        assert (done.exit_code, done.stdout) == (4, "")
        assert done.stderr.startswith(f"pintpot: {place} is no pack")
        assert why in done.stderr
