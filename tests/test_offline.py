"""A file of requests: every line gets the answer that it gets alone, once, also after a stop in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packing import EXACT, opened, pack_of
from test_service import TINY
from tiny import write_hf

from pintpot.cli import cli
from pintpot.errors import BadInput
from pintpot.runtime.request import Sampling
from pintpot.server import offline
from pintpot.server.offline import Offline


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_hf(tmp_path_factory.mktemp("offline") / "model", TINY)
    return pack_of(source, tmp_path_factory.mktemp("offline") / "pack", EXACT, context=160, batch=4)


HEAD = "A pint is a measure of what one may drink, and of what one has drunk. " * 2


def lines() -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = [
        {"prompt": f"{HEAD if index % 2 else ''}Number {index}", "max_tokens": 5 + index, "temperature": 0}
        for index in range(9)
    ]
    asked = [{"custom_id": f"q{index}", "url": "/v1/completions", "body": body} for index, body in enumerate(bodies)]
    asked[3] = {"messages": [{"role": "user", "content": "What is a pint?"}], "max_tokens": 4}  # type: ignore[dict-item]
    asked[5]["body"] = {"prompt": "A", "temperature": 99}
    asked[6]["body"] |= {"n": 2, "temperature": 1, "seed": 4}
    return asked


def write(path: Path, asked: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in asked) + "no JSON\n\n")
    return path


def answers(path: Path) -> dict[str, Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found)
    return {one["custom_id"]: one["response"] for one in found}


def test_every_line_gets_its_answer_once(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, into = write(tmp_path / "asked.jsonl", lines()), tmp_path / "out.jsonl"
    shares: list[float] = []
    with opened(pack) as session:
        total = Offline(session).run(source, into, lambda share, what: shares.append(share))
        assert session.engine.audit() == []
    assert (total.num_answered, total.num_refused, total.num_before) == (8, 2, 0)
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    found = answers(into)
    assert set(found) == {*(f"q{index}" for index in range(9) if index != 3), "line-4", "line-10"}
    assert found["q5"]["status_code"] == found["line-10"]["status_code"] == 400
    assert [choice["index"] for choice in found["q6"]["body"]["choices"]] == [0, 1]
    assert found["line-4"]["body"]["choices"][0]["message"]["role"] == "assistant"
    with opened(pack) as session:
        for index in (0, 1, 2, 7, 8):
            body = lines()[index]["body"]
            session.engine.reset()
            said = session.complete(body["prompt"], sampling=Sampling(temperature=0.0), max_tokens=body["max_tokens"])
            assert found[f"q{index}"]["body"]["choices"][0]["text"] == "".join(said)


def test_a_start_that_was_ended_goes_on(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, into = write(tmp_path / "asked.jsonl", lines()), tmp_path / "out.jsonl"
    monkeypatch.setattr(offline, "AT_A_TIME", 3)
    with opened(pack) as session:
        calls = []

        def stop(share: float, what: str) -> None:
            calls.append(share)
            if len(calls) == 12:
                session.cancel()

        first = Offline(session).run(source, into, stop)
    assert first.cancelled
    assert 0 < first.num_answered < 8
    kept = answers(into)
    with into.open("a") as file:
        file.write('{"custom_id": "q8", "resp')  # a line that was being written
    with opened(pack) as session:
        second = Offline(session).run(source, into, lambda share, what: None)
    assert not second.cancelled
    assert second.num_before == len(kept)
    found = answers(into)
    assert len(found) == 10
    assert {name: found[name] for name in kept} == kept


def test_the_command(pack: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "asked.jsonl", lines())
    done = CliRunner().invoke(cli, ["run", str(pack), "--batch", str(source), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_answered"] == 8
    assert len(answers(tmp_path / "asked.answers.jsonl")) == 10
    assert CliRunner().invoke(cli, ["plan", str(pack), "--batch", str(source)]).exit_code == 2
    (tmp_path / "other.txt").write_text("a letter\n")
    with opened(pack) as session:
        with pytest.raises(BadInput, match="holds no answers"):
            Offline(session).run(source, tmp_path / "other.txt", lambda share, what: None)
        with pytest.raises(BadInput, match="cannot be read"):
            Offline(session).run(tmp_path / "none.jsonl", tmp_path / "b", lambda share, what: None)
