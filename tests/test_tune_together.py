"""`torchrun -m pintpot tune`: two processes on this machine learn what one does, and end together with one message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import Tiny, write_hf

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHORT = ("--length", "32", "--steps", "6", "--threads", "1", "--learning-rate", "0.003", "--arithmetic", "float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("together")
    write_hf(at / "m", Tiny(family="qwen2", tied=True))
    lines = (json.dumps({"text": f"{n} and 1 are {n + 1}. " * (1 + n % 4)}) for n in range(41))
    (at / "d.jsonl").write_text("\n".join(lines))
    return at


def started(at: Path, out: str, *more: str, count: int) -> subprocess.CompletedProcess[str]:
    begin = [*TORCHRUN, "-m", "pintpot"] if count == 2 else [sys.executable, "-m", "pintpot"]
    command = [*begin, "tune", str(at / "m"), str(at / "d.jsonl"), "-o", str(at / out), *SHORT, *more, "--json"]
    return subprocess.run(command, capture_output=True, text=True)


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
