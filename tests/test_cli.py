"""The commands: what they parse and print, which exit code follows which error, and JSON that is JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import DEFAULT, write_gguf, write_hf

import pintpot
from pintpot import errors
from pintpot.cli import cli
from pintpot.cli.progress import Bar, Lines
from pintpot.cli.terminal import plain, safe

COMMANDS = ("describe", "probe", "calibrate", "plan", "pack", "run", "prove", "list", "rm", "doctor")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", DEFAULT, "q4_0")


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def raising(error: BaseException) -> Any:
    def fail(*args: object, **named: object) -> None:
        raise error

    return fail


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = invoke("--help")
    assert shown.exit_code == 0
    assert all(f"\n  {name} " in shown.stdout for name in COMMANDS)
    assert "3 does not fit" in shown.stdout
    assert invoke("--version").stdout == f"pintpot, version {pintpot.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_the_shared_options(command: str) -> None:
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    assert f"Example:\n    pintpot {command}" in shown.stdout
    assert all(option in shown.stdout for option in ("--json", "-v, --verbose", "-q, --quiet"))


@pytest.mark.parametrize("command", ["plan", "pack", "run"])
def test_commands_that_plan_take_the_whole_budget(command: str) -> None:
    shown = invoke(command, "--help").stdout
    for option in (
        "memory", "context", "batch", "prompt", "output", "first-token", "per-token", "degradation", "prefer",
        "threads", "below-4-bits",
    ):  # fmt: skip
        assert f"--{option} " in shown or f"--{option}, " in shown


def test_options_reach_the_verb_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def plan(model: str, *, progress: object, **asked: object) -> None:
        seen.update(asked, model=model)
        raise errors.DoesNotFit("no")

    monkeypatch.setattr(pintpot, "plan", plan, raising=False)
    given = "plan m.gguf --memory 1.5GiB --first-token 500ms --prompt 7 --output 8 --degradation 0 --machine h100"
    assert invoke(*given.split()).exit_code == 3
    assert seen == {
        "model": "m.gguf", "memory": 1610612736, "first_token": 0.5, "prompt": 7, "output": 8, "degradation": 0.0,
        "machine": "h100",
    }  # fmt: skip
    seen.clear()
    invoke("plan", "m.gguf")
    assert seen == {"model": "m.gguf"}, "what is not given is left to the verb"


@pytest.mark.parametrize(
    "arguments",
    [
        "nothing",
        "plan",
        "plan m --memory lots",
        "plan m --memory 0",
        "plan m --per-token 3parsecs",
        "plan m --batch 0",
        "plan m --degradation -1",
        "plan m --prefer luck",
        "describe m -q -v",
        "run m -p hello --top-p 0",
        "run m -p hello --stop=",
        "rm ..",
        "rm not-there",
        "prove m --runs 0",
    ],
)
def test_what_cannot_be_meant_is_usage(arguments: str) -> None:
    done = invoke(*arguments.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PromiseBroken("broken"), 1),
        (errors.InUse("held"), 2),
        (errors.DoesNotFit("the smallest is 63 MB"), 3),
        (errors.DiskTooSmall("full"), 3),
        (errors.UnsupportedModel("no home"), 4),
        (errors.PintpotError("other"), 4),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: errors.PintpotError, code: int
) -> None:
    monkeypatch.setattr(pintpot, "describe", raising(error), raising=False)
    done = invoke("describe", "m")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"pintpot: {error}\n")
    quiet = invoke("describe", "m", "-q")
    assert (quiet.exit_code, quiet.stderr) == (code, done.stderr), "errors are told even when all else is quiet"
    traced = invoke("describe", "m", "-vv")
    assert "Traceback" in traced.stderr
    assert traced.stderr.endswith(done.stderr)
    assert "Traceback" not in invoke("describe", "m").stderr, "-vv lasts for one command"


def test_interrupted_is_130_and_a_reader_that_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pintpot, "describe", raising(KeyboardInterrupt()), raising=False)
    done = invoke("describe", "m")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "\n")
    monkeypatch.setattr(pintpot, "describe", raising(BrokenPipeError()), raising=False)
    done = invoke("describe", "m")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pintpot, "describe", raising(ZeroDivisionError()), raising=False)
    assert isinstance(invoke("describe", "m").exception, ZeroDivisionError)


def test_describe(model: Path, tmp_path: Path) -> None:
    shown = invoke("describe", model)
    assert shown.exit_code == 0
    assert "family llama, 2 blocks" in shown.stdout
    assert "q4_0" in shown.stdout
    done = invoke("describe", model, "--json", "-v")
    told = json.loads(done.stdout)
    assert told["context"] == DEFAULT.context
    assert told["num_values"] == sum(
        math.prod(weight["shape"]) for part in told["parts"] for block in part["blocks"] for weight in block["weights"]
    )
    assert invoke("describe", tmp_path / "absent.gguf").exit_code == 4


def test_an_error_is_a_document_too(model: Path, tmp_path: Path) -> None:
    done = invoke("describe", tmp_path / "absent.gguf", "--json")
    told = json.loads(done.stdout)["error"]
    assert (told["type"], told["exit_code"], done.exit_code) == ("BadInput", 4, 4)
    assert done.stderr == f"pintpot: {told['message']}\n"
    assert "smallest_bytes" not in told
    small = invoke("plan", model, "--memory", "1MB", "--json")
    told = json.loads(small.stdout)["error"]
    assert (told["type"], small.exit_code) == ("DoesNotFit", 3)
    assert f"({told['smallest_bytes']} bytes" in told["message"]


def test_names_out_of_files_do_not_command_the_terminal(tmp_path: Path) -> None:
    assert safe("a\x1b[2Jb\tc\nd\x07é你") == "a\ufffd[2Jb\tc\nd\ufffdé你"
    folder = write_hf(tmp_path / "evil\x1b[31m[bold]", DEFAULT)
    shown = invoke("describe", folder)
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert "[bold]" in shown.stdout


def test_the_shelf(pintpot_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path))
    done = invoke("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert str(tmp_path) in done.stderr
    assert json.loads(invoke("list", "--json").stdout) == {
        "folder": str(tmp_path / "packs"), "packs": [], "unfinished": [],
    }  # fmt: skip


def test_doctor_tells_everything_and_ends_with_2_where_something_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from pintpot.machine import doctor

    found = (
        doctor.Finding("python", True, "Python"),
        doctor.Finding("compiler", None, "none found", "apt install g++"),
    )
    monkeypatch.setattr(doctor, "doctor", lambda: found)
    shown = invoke("doctor")
    assert shown.exit_code == 0
    assert "✓" in shown.stdout
    assert "→ apt install g++" in shown.stdout
    monkeypatch.setattr(doctor, "doctor", lambda: (*found, doctor.Finding("compiled part", False, "not there")))
    wrong = invoke("doctor", "--json")
    told = json.loads(wrong.stdout)
    names = [one["name"] for one in told["findings"]]
    assert (wrong.exit_code, told["ready"], names) == (2, False, ["python", "compiler", "compiled part", "kept"])
    assert "compiled part" in wrong.stderr


def test_elsewhere_than_linux_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.delitem(vars(pintpot), "describe", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    done = invoke("describe", model)
    assert done.exit_code == 2
    assert "runs on Linux" in done.stderr
    assert "darwin" in done.stderr


def test_json_knows_no_infinity() -> None:
    given = {"a": (1, math.inf), "b": {Path("x"), None}, "c": errors, 4: [math.nan, True, 0.5]}
    told = plain(given)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["a"] == [1, None]
    assert told["4"] == [None, True, 0.5]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_as_lines_comes_every_few_seconds_with_the_time_left() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, 3.0, clock)
    for second in range(10):
        clock.now = 100.0 + second
        lines(second / 10, "packing")
    assert said == ["packing: 20%, 8.00 s left", "packing: 50%, 5.00 s left", "packing: 80%, 2.00 s left"]


def test_the_bar_waits_shows_and_wipes_itself() -> None:
    import io

    clock, out = Clock(), io.StringIO()
    bar = Bar(out, clock)
    bar(0.1, "packing")
    assert out.getvalue() == "", "what is over at once shows nothing"
    bar.close()
    assert out.getvalue() == ""
    clock.now += 10
    bar(0.5, "packing")
    bar(0.51, "packing")
    assert out.getvalue().count("packing") == 1, "drawn at most ten times a second"
    assert " 50%, 12.5 s left" in out.getvalue()
    bar.close()
    assert out.getvalue().endswith("\r\x1b[2K")
