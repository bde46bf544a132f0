"""Runs that learn are killed at drawn moments: whatever was being written, in the end nothing differs by a bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killing import Moment, kill, learned_files, told
from tiny import Tiny, write_hf

import pintpot
from pintpot.errors import DoesNotFit
from pintpot.trainer.checkpoint import FOLDER

MOMENTS = (Moment("writing", 0.02), Moment("learning", 0.05), Moment("ending", 0.0))
SHORT = ("--length", "32", "--steps", "24", "--threads", "1", "--checkpoint", "1", "--learning-rate", "0.01", "-q")


def test_kills_of_a_run_that_learns_on_disk_change_no_bit(tmp_path: Path) -> None:
    tiny = Tiny(family="qwen2", tied=True, hidden=128, intermediate=256, heads=4, kv_heads=2, head_dim=32, layers=16)
    model, data = write_hf(tmp_path / "m", tiny), tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} and 1 are {n + 1}. " * 6}) + "\n" for n in range(40)))

    def command(folder: Path, memory: str, *more: str) -> list[str]:
        steps = (*SHORT[:3], "6", *SHORT[4:], "--method", "full", "--arithmetic", "float32", "--memory", memory, *more)
        return [sys.executable, "-m", "pintpot", "tune", str(model), str(data), "-o", str(folder), *steps]

    with pytest.raises(DoesNotFit, match=r"needs .* at least") as raised:
        pintpot.tune(model, data, output=tmp_path / "none", memory="1MB", method="full", length=32, threads=1)
    memory = "".join(str(raised.value).split()[2:4])
    found = {}
    for name in ("away", "killed"):
        folder = tmp_path / name
        if name == "killed":
            assert kill(command(folder, memory), folder, Moment("learning", 0.05)) is not None
        done = subprocess.run(command(folder, memory, "--json"), check=True, stdout=subprocess.PIPE)
        found[name] = dict(json.loads(done.stdout))
        assert 0 in [weight["ram_rows"] for weight in found[name]["plan"]["form"]["weights"]]
        assert found[name]["measured"]["peak_bytes"] <= found[name]["promised"]["memory_bytes"][1]
        assert not (folder / FOLDER).exists()
    assert found["killed"]["measured"]["began_at_step"] > 0
    assert found["away"]["losses"] == found["killed"]["losses"]
    assert learned_files(tmp_path / "away") == learned_files(tmp_path / "killed")


def test_three_kills_change_no_bit(tmp_path: Path) -> None:
    model, data = write_hf(tmp_path / "m", Tiny(family="qwen2", tied=True)), tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} and 1 are {n + 1}. " * 6}) + "\n" for n in range(40)))

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-m", "pintpot", "tune", str(model), str(data), "-o", str(folder), *SHORT]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
    steps = []
    for moment in MOMENTS:
        found = kill(command(killed), killed, moment)
        if found is None:
            pytest.fail("it ended before it could be killed")
        steps.append(found.step)
    assert steps[0] < steps[1] < steps[2] == 24
    subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL)
    assert learned_files(killed) == learned_files(whole)
    assert told(killed) == told(whole)
    assert not (killed / FOLDER).exists()
