"""`torchrun -m pintpot tune`: two processes on this machine learn what one does, and end together with one message."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from killing import Moment, Together, kill, learned_files
from safetensors.numpy import load_file
from tiny import Tiny, write_hf

from pintpot.errors import EndedElsewhere
from pintpot.trainer import ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHORT = ("--length", "32", "--steps", "6", "--threads", "1", "--learning-rate", "0.003", "--arithmetic", "float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("together")
    write_hf(at / "m", Tiny(family="qwen2", tied=True))
    lines = (json.dumps({"text": f"{n} and 1 are {n + 1}. " * (1 + n % 4)}) for n in range(41))
    (at / "d.jsonl").write_text("\n".join(lines))
    return at


def command_of(at: Path, out: str, *more: str, count: int) -> list[str]:
    begin = [*TORCHRUN, "-m", "pintpot"] if count == 2 else [sys.executable, "-m", "pintpot"]
    return [*begin, "tune", str(at / "m"), str(at / "d.jsonl"), "-o", str(at / out), *SHORT, *more, "--json"]


def started(at: Path, out: str, *more: str, count: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_of(at, out, *more, count=count), capture_output=True, text=True)


@cache
def learned(at: Path, out: str, *more: str, count: int) -> dict[str, Any]:
    done = started(at, out, *more, count=count)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("method", "file"), [("full", "model.safetensors"), ("qlora", "adapter_model.safetensors")])
def test_two_processes_learn_what_one_does(place: Path, method: str, file: str) -> None:
    one, two = (learned(place, f"{method}{n}", "--method", method, count=n) for n in (1, 2))
    assert np.allclose(one["losses"], two["losses"], rtol=1e-4, atol=0)
    assert np.allclose(one["asked"], two["asked"], rtol=1e-4, atol=0)
    assert one["losses"][-1] < one["losses"][0]
    found, due = (load_file(place / f"{method}{n}" / file) for n in (2, 1))
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in due.items()}
    assert all(np.allclose(found[name], value, atol=2e-3) for name, value in due.items())
    assert sorted(path.name for path in (place / f"{method}2").iterdir()) == sorted(
        path.name for path in (place / f"{method}1").iterdir()
    )
    assert any("FullySharded" in str(step) for step in two["plan"]["steps"])
    assert two["measured"]["peak_bytes"] <= two["promised"]["memory_bytes"][1]


def test_both_processes_are_killed_and_a_second_start_changes_no_bit(place: Path) -> None:
    more, folder = ("--method", "full"), place / "killed"
    whole, command = learned(place, "full2", *more, count=2), command_of(place, "killed", *more, count=2)
    begin = partial(subprocess.Popen, [*command, "--checkpoint", "1"], stdout=subprocess.DEVNULL)
    found = kill(lambda: Together(begin()), folder, Moment("learning", 0.01, 0.5), steps=6)
    assert found is not None, "it ended before it could be killed"
    again = learned(place, "killed", *more, "--checkpoint", "1", count=2)
    assert again["measured"]["began_at_step"] == found.step >= 3
    assert (again["losses"], again["asked"]) == (whole["losses"], whole["asked"])
    assert learned_files(folder) == learned_files(place / "full2")


def test_what_cannot_be_is_said_once_and_ends_all(place: Path) -> None:
    for more, why in (
        (("--sequences", "3"), "3 sequences cannot be shared out among 2 processes"),
        (("--method", "zeroth"), "not shared out among processes"),
        (("--learn", "last:1"), "parts of it and several adapters take one process"),
    ):
        done = started(place, "none", *more, count=2)
        assert done.returncode != 0
        assert done.stderr.count(f"pintpot: {'zeroth: ' * ('zeroth' in more)}") == 1, done.stderr
        assert why in done.stderr
        assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert not (place / "none").exists()


def test_what_is_started_behind_a_dead_starter_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    left = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**left, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "sys", SimpleNamespace(platform="another"))  # or pytest would end with its own starter
    with pytest.raises(EndedElsewhere, match="what started this process has ended"), ranks.joined():
        pass
