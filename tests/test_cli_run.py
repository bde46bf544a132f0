"""`pintpot run` and `pintpot prove`: where prompts come from, where words go, and what the ends look like."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_fakes import SUMMARY, FakeSession
from click.testing import CliRunner, Result

import pintpot
from pintpot.cli import cli
from pintpot.cli.proof_view import amount
from pintpot.meter.agreement import Agreement, Interval
from pintpot.proof.proof import HolderRow, Peak, Proof, Row, StepQuality
from pintpot.units import format_bytes_up

Opened = Callable[..., FakeSession]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Puts a fake session behind `pintpot.run`; `.asked` of the function holds the planning options."""

    def put(**fields: Any) -> FakeSession:
        session = FakeSession(**fields)

        def run(model_or_pack: str, *, progress: object, **asked: object) -> FakeSession:
            session.__dict__["opened_with"] = (model_or_pack, asked)
            return session

        monkeypatch.setattr(pintpot, "run", run, raising=False)
        return session

    return put


def invoke(*args: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)


def test_words_go_to_stdout_and_the_receipt_to_stderr(opened: Opened) -> None:
    session = opened(notes=("packed on another machine; priced again",))
    done = invoke("run", "m.gguf", "--memory", "300MB", "--threads", 2, "-p", "Why?")
    assert done.exit_code == 0
    assert done.stdout == "Because of light.\n"
    assert done.stderr.splitlines() == ["pintpot: packed on another machine; priced again", str(SUMMARY)]
    assert session.__dict__["opened_with"] == ("m.gguf", {"memory": 300_000_000, "threads": 2})
    assert session.closed
    assert session.engine.progress is None
    quiet = invoke("run", "m.gguf", "-p", "Why?", "-q")
    assert (quiet.stdout, quiet.stderr) == ("Because of light.\n", "")


@pytest.mark.parametrize(("ended", "words"), [("length", "--max-tokens allows more"), ("context", "larger --context")])
def test_an_answer_that_was_cut_off_is_told(opened: Opened, ended: str, words: str) -> None:
    opened(summed=replace(SUMMARY, ended=ended))
    done = invoke("run", "m.gguf", "-p", "Why?")
    assert done.stdout == "Because of light.\n"
    assert words in done.stderr.splitlines()[0]
    told = json.loads(invoke("run", "m.gguf", "-p", "Why?", "--json").stdout)
    assert (told["text"], told["cut_off"]) == ("Because of light.", True)
    opened()
    assert json.loads(invoke("run", "m.gguf", "-p", "Why?", "--json").stdout)["cut_off"] is False


def test_more_threads_than_cores_are_told(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert "3 threads share 2 cores" in invoke("run", "m.gguf", "--threads", 3, "-p", "Why?").stderr
    assert "share" not in invoke("run", "m.gguf", "--threads", 2, "-p", "Why?").stderr
    assert invoke("run", "m.gguf", "--threads", 3, "-p", "Why?", "-q").stderr == ""


def test_how_to_answer_reaches_the_session(opened: Opened) -> None:
    session = opened()
    given = "--temperature 0 --top-k 5 --top-p 0.5 --min-p 0.1 --repetition-penalty 1.2 --seed 9 --max-tokens 7"
    invoke("run", "m", "-p", "Why?", "--system", "Be short.", "--stop", "\n", "--stop", "END", *given.split())
    kind, text, how = session.asked[0]
    assert (kind, text) == ("chat", "Why?")
    assert how == {
        "images": (),
        "system": "Be short.",
        "max_tokens": 7,
        "stop": ("\n", "END"),
        "sampling": pintpot.Sampling(0.0, 5, 0.5, 0.1, 1.2, 9),
    }
    invoke("run", "m", "-p", "Once", "--raw")
    kind, text, how = session.asked[1]
    assert (kind, text, "system" in how) == ("complete", "Once", False)
    assert how["sampling"] == pintpot.Sampling()
    assert invoke("run", "m", "-p", "Once", "--raw", "--system", "x").exit_code == 2


def test_prompts_come_from_options_files_and_pipes(opened: Opened, tmp_path: Path) -> None:
    session = opened()
    file = tmp_path / "prompt.txt"
    file.write_text("from a file\n\n", encoding="utf-8")
    assert invoke("run", "m", "--prompt-file", file).exit_code == 0
    assert invoke("run", "m", stdin="from a pipe\n").exit_code == 0
    assert invoke("run", "m", "--prompt-file", "-", stdin="from a dash").exit_code == 0
    assert invoke("run", "m", "-p", "given", stdin="ignored").exit_code == 0
    assert [text for _, text, _ in session.asked] == ["from a file\n", "from a pipe", "from a dash", "given"]


def test_prompts_that_are_none(opened: Opened, tmp_path: Path) -> None:
    session = opened()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    cases: list[tuple[int, tuple[object, ...], str]] = [
        (2, ("-p", "a", "--prompt-file", tmp_path / "binary"), "not from both"),
        (2, ("-p", "  "), "empty"),
        (2, (), "empty"),
        (4, ("--prompt-file", tmp_path / "absent"), "cannot be read"),
        (4, ("--prompt-file", tmp_path / "binary"), "not UTF-8"),
    ]
    for code, given, why in cases:
        done = invoke("run", "m", *given, stdin="")
        assert (done.exit_code, done.stdout) == (code, "")
        assert why in done.stderr
    assert not session.asked
    assert "opened_with" not in session.__dict__, "a prompt that is none is told before anything is planned or packed"


def test_json_is_one_document(opened: Opened) -> None:
    opened(notes=("a note",))
    done = invoke("run", "m", "-p", "Why?", "--json", "-v")
    told = json.loads(done.stdout)
    assert told["text"] == "Because of light."
    assert told["summary"]["memory_bytes"] == SUMMARY.memory_bytes
    assert told["summary"]["ended"] == "end"
    assert told["notes"] == ["a note"]
    assert told["plan"] == {"pintpot_plan": 1}


def test_ctrl_c_ends_the_answer_with_its_receipt(opened: Opened) -> None:
    class Pressed(FakeSession):
        def chat(self, text: str, **how: Any) -> Any:
            yield "Because"
            os.kill(os.getpid(), signal.SIGINT)
            while not self.cancelled:
                yield "."

    session = opened()
    session.__class__ = Pressed
    before = signal.getsignal(signal.SIGINT)
    done = invoke("run", "m", "-p", "Why?")
    assert done.exit_code == 130
    assert done.stdout.startswith("Because")
    assert str(SUMMARY) in done.stderr
    assert signal.getsignal(signal.SIGINT) is before


PROOF = Proof(
    pack=Path("packed"),
    pack_digest="0123",
    model_name="tiny",
    machine_name="null",
    rows=(
        Row("memory", "bytes", 0, 300e6, 250e6, 249e6, 251e6, holds=True),
        Row("decode", "tokens/s", 40.0, 60.0, 50.0, 45.0, 55.0, limit=62.5, holds=True),
        Row("degradation", "nats", 0.0, 0.05, None),
    ),
    holders=(HolderRow("cache", 10, 10, None), HolderRow("tokenizer", 10, 20, 15)),
    peaks=(Peak("packing", 200_000_000, 300_000_000),),
    answers=None,
    prompts=None,
    binds="disk",
    num_runs=5,
    environment={},
    notes=("the source is gone: speed and memory only",),
    profile=(("linear", 0.5, 0.4), ("sample", 0.001, 0.0)),
    report_path=Path("packed/report.html"),
)


def test_a_proof_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: seen.update(how, pack=pack) or PROOF, raising=False)
    done = invoke("prove", "packed", "--runs", 3, "--profile")
    assert done.exit_code == 0
    assert (seen["pack"], seen["runs"], seen["profile"]) == ("packed", 3, True)
    assert not {"text", "html"} & set(seen), "what is not given is left to the verb"

    def line(name: str) -> str:
        return next(one for one in done.stdout.splitlines() if name in one)

    assert "40.0 to 60.0 tok/s" in line("decode")
    assert "80%" in line("decode")
    assert "✓" in line("decode")
    assert "up to 300 MB" in line("memory of packing")
    assert "-" in line("degradation")
    assert "15 B" in line("tokenizer")
    assert "400 ms" in line("linear")
    assert "the source is gone" in done.stderr
    assert "packed/report.html" in done.stderr
    assert json.loads(invoke("prove", "packed", "--json").stdout)["holds"] is True


def test_a_proof_says_on_how_many_words_quality_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def agreement(number: int) -> Agreement:
        return Agreement(number, 6, Interval(0.001, 0.002, 0.003), 0.1, 0.2, 0.99, 10.0, 10.1)

    known = replace(PROOF, answers=agreement(762), prompts=agreement(1530))
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: known, raising=False)
    assert "degradation: of 762 words of answers and 1530 of prompts, 6 texts" in invoke("prove", "packed").stdout
    told = json.loads(invoke("prove", "packed", "--json").stdout)
    assert (told["answers"]["num_tokens"], told["prompts"]["num_tokens"]) == (762, 1530)


def test_a_proof_says_what_so_few_words_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    found = Agreement(762, 6, Interval(0.01, 0.02, 0.03), 0.1, 0.2, 0.99, 10.0, 10.1)
    row = Row("degradation", "nats", 0.0, 0.025, 0.02, 0.01, 0.03, needed=3048)
    step = StepQuality(("RoundToNearest(bits=4) on blocks",), found, found, Interval(-0.001, 0.02, 0.03))
    open_ = replace(
        PROOF, rows=(PROOF.rows[0], row), answers=found, prompts=found, text_tokens=1536, steps=(step,),
        answers_of_weights=replace(found, kl=Interval(0.005, 0.0123, 0.02)),
    )  # fmt: skip
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: open_, raising=False)
    done = invoke("prove", "packed", "--steps")
    assert done.exit_code == 0, "nothing was broken"
    words = " ".join(done.stdout.split())
    assert "not decided: degradation, by 1536 tokens of text; about 6144 would decide" in words
    assert "--tokens 6144" in words
    assert "every promise that was judged held" in words
    assert "answers, weights alone" in words
    assert "0.0123" in words
    assert "-0.001 to 0.03" in words
    told = json.loads(invoke("prove", "packed", "--json").stdout)
    assert told["rows"][1]["verdict"] == "not decided"
    assert told["steps"][0]["added"] == {"low": -0.001, "mean": 0.02, "high": 0.03}


def test_a_proof_by_one_short_text_names_a_number_of_tokens_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    found = Agreement(31, 1, Interval(0.0, 0.02, math.inf), 0.1, 0.2, 0.99, 10.0, 10.1)
    row = Row("degradation", "nats", 0.0, 0.025, 0.02, 0.0, math.inf)
    step = StepQuality(("EightBitCache()",), found, found, Interval(-math.inf, 0.02, math.inf))
    short = replace(PROOF, rows=(row,), answers=found, prompts=found, text_tokens=64, steps=(step,))
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: short, raising=False)
    shown = invoke("prove", "packed", "--steps").stdout
    assert "inf" not in shown
    assert "by 64 tokens of text; about 1536 would decide (--text FILE --tokens 1536)" in " ".join(shown.split())


def test_a_proof_that_does_not_hold_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    broken = replace(PROOF, rows=(replace(PROOF.rows[1], measured=20.0, holds=False),))
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: broken, raising=False)
    done = invoke("prove", "packed", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["shortfalls"] == list(broken.shortfalls)
    assert "decode: measured 20.0 tok/s, promised 40.0 to 60.0 tok/s" in done.stderr, "as the table has it"
    assert "✗" in invoke("prove", "packed").stdout


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_a_proof_is_told_whole_at_any_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    from dataclasses import replace

    rows = (
        *PROOF.rows,
        Row("first token", "seconds", 0.000973, 0.00121, 0.00115, holds=True),
        Row("prefill", "tokens/s", 1031.0, 602_389.0, 1161.4, limit=1302.0, holds=False),
    )
    peaks = (*PROOF.peaks, Peak("proof with a long name", 398_000_000, 300_000_000))
    long = replace(PROOF, rows=rows, peaks=peaks)
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: long, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = invoke("prove", "packed").stdout
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown
    assert shown.count("✓") == 4
    assert shown.count("✗") == 2
    words = " ".join(shown.split())
    for figure in ("250 MB", "50.0 tok/s", "1161 tok/s", "1.15 ms", "398 MB", "80%", "89%"):
        assert figure in words
    assert "not judged: degradation not held: prefill, memory of proof with a long name" in words
    assert "every promise" not in shown
    held = replace(PROOF, rows=PROOF.rows[:2])
    monkeypatch.setattr(pintpot, "prove", lambda pack, **how: held, raising=False)
    assert "\nevery promise held\n" in invoke("prove", "packed").stdout


def test_amounts_are_written_in_their_unit() -> None:
    assert [format_bytes_up(one) for one in (80_211_060, 79_300_000, 999, 999_000_001)] == [
        "80.3 MB", "79.3 MB", "999 B", "1.00 GB",
    ]  # fmt: skip
    rates = [amount(one, "tokens/s") for one in (1161.4, 9999.9, 17_140.0, 602_389.0, 2.5e7)]
    assert rates == ["1161 tok/s", "10.0k tok/s", "17.1k tok/s", "602k tok/s", "25.0M tok/s"]
    values = [(None, "bytes"), (97_300_000, "bytes"), (0.00125, "seconds"), (41.27, "tokens/s"), (0.0312, "nats")]
    assert [amount(*one) for one in values] == ["-", "97.3 MB", "1.25 ms", "41.3 tok/s", "0.0312 nats"]
