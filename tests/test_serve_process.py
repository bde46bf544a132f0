"""`pintpot serve` as a process: SIGTERM lets answers end, kill -9 loses nothing, and what cannot be is refused."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("llguidance")

from packing import EXACT, pack_of
from tiny import Tiny, write_hf

TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21, context=1024)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("process") / "model", TINY)


@pytest.fixture(scope="module")
def pack(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(source, tmp_path_factory.mktemp("process") / "tiny", EXACT, context=1024, batch=4)


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    command = [sys.executable, "-m", "pintpot", "serve", *arguments, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            lines = [running.stdout.readline()]
            while lines[-1] not in ("}\n", ""):
                lines.append(running.stdout.readline())
            yield running, json.loads("".join(lines))
        finally:
            running.kill()


def connect(told: Any) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(told["url"].removeprefix("http://"), timeout=60)


def test_a_signal_lets_answers_end(pack: Path) -> None:
    with process(str(pack)) as (running, told):
        talk, look = connect(told), connect(told)
        look.request("GET", "/metrics.json")
        before = json.loads(look.getresponse().read())
        body = {"model": told["model"], "prompt": "A", "max_tokens": 900, "temperature": 0, "stream": True}
        talk.request("POST", "/v1/completions", json.dumps(body))
        answer = talk.getresponse()
        first = answer.readline()
        assert first.startswith(b"data: {")
        running.send_signal(signal.SIGTERM)
        rest = answer.read().decode()
        assert rest.endswith("data: [DONE]\n\n")
        assert '"finish_reason":null' in rest
        assert running.wait(30) == 0
    assert before["memory"]["peak"] <= before["memory"]["budget"]
    assert before["running"] == before["waiting"] == 0


def test_a_killed_server_starts_again(pack: Path) -> None:
    """Killed in the middle of an answer: nothing of the pack has changed, and it answers as before."""
    whole, answers = hashes(pack), []
    for _ in range(2):
        with process(str(pack)) as (running, told):
            talk = connect(told)
            asked = {"model": told["model"], "prompt": "A", "temperature": 0}
            talk.request("POST", "/v1/completions", json.dumps(asked))
            answers.append(json.loads(talk.getresponse().read())["choices"][0]["text"])
            talk.request("POST", "/v1/completions", json.dumps({**asked, "max_tokens": 900, "stream": True}))
            assert talk.getresponse().readline().startswith(b"data: {")
            running.kill()
            assert running.wait(30) == -signal.SIGKILL
        assert hashes(pack) == whole
    assert answers[0] == answers[1]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_a_model_is_planned_for_as_many_at_once_as_pay(source: Path) -> None:
    asked = ("--memory", "400MB", "--context", "256")
    with process(str(source), *asked) as (running, told):
        workload, memory = told["plan"]["budget"]["workload"], told["plan"]["budget"]["memory_bytes"]
        assert workload["batch"] > 1
        assert memory < 400_000_000, "what the server itself takes is left to it"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0


def test_what_cannot_be_served(pack: Path, tmp_path: Path) -> None:
    def code(*arguments: str, **env: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pintpot", "serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=60)
        return done.returncode, done.stderr

    assert code(str(tmp_path))[0] == 4
    assert code(str(pack), "--memory", "1GB")[0] == 2
    assert code("model.gguf", "--memory", "10MB")[0] == 3
    found, said = code(str(pack), "--host", "256.0.0.1")
    assert (found, "cannot listen" in said) == (2, True)
    for name in ("starlette", "uvicorn"):
        (tmp_path / "hidden.py").write_text(
            "import sys, importlib.util as u\nf=u.find_spec\n"
            f"u.find_spec=lambda n,*a: None if n=={name!r} else f(n,*a)\n"
            "from pintpot.cli import main\nsys.argv=['pintpot','serve','x']\nmain()\n"
        )
        done = subprocess.run([sys.executable, str(tmp_path / "hidden.py")], capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install pintpot[serve]" in done.stderr
