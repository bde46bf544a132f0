"""Runs that learn are killed at drawn moments: whatever was being written, in the end nothing differs by a bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import transformers as tf
from forking import Forks
from killing import Moment, Run, kill, learned_files, told
from PIL import Image
from published import PROCESSOR, recorded, save
from tiny import Tiny, write_hf

import pintpot
from pintpot.errors import DoesNotFit
from pintpot.trainer.checkpoint import FOLDER

MOMENTS = (Moment("writing", 0.02), Moment("learning", 0.05), Moment("ending", 0.0))
SHORT = ("--length", "32", "--steps", "24", "--threads", "1", "--checkpoint", "1", "--learning-rate", "0.01", "-q")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


def test_kills_of_a_run_that_learns_on_disk_change_no_bit(tmp_path: Path, forks: Forks) -> None:
    tiny = Tiny(family="qwen2", tied=True, hidden=128, intermediate=256, heads=4, kv_heads=2, head_dim=32, layers=16)
    model, data = write_hf(tmp_path / "m", tiny), tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} and 1 are {n + 1}. " * 6}) + "\n" for n in range(40)))

    def arguments(folder: Path, memory: str, *more: str) -> list[str]:
        steps = (*SHORT[:3], "6", *SHORT[4:], "--method", "full", "--arithmetic", "float32", "--memory", memory, *more)
        return ["tune", str(model), str(data), "-o", str(folder), *steps]

    with pytest.raises(DoesNotFit, match=r"needs .* at least") as raised:
        asked = {"method": "full", "arithmetic": "float32", "length": 32, "threads": 1}
        pintpot.tune(model, data, output=tmp_path / "none", memory="1MB", **asked)
    memory = "".join(str(raised.value).split()[2:4])
    found = {}
    for name in ("away", "killed"):
        folder = tmp_path / name
        if name == "killed":
            assert kill(partial(forks.start, *arguments(folder, memory)), folder, Moment("learning", 0.05)) is not None
        command = [sys.executable, "-m", "pintpot", *arguments(folder, memory, "--json")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found[name] = dict(json.loads(done.stdout))
        assert 0 in [weight["ram_rows"] for weight in found[name]["plan"]["form"]["weights"]]
        assert found[name]["measured"]["peak_bytes"] <= found[name]["promised"]["memory_bytes"][1]
        assert not (folder / FOLDER).exists()
    assert found["killed"]["measured"]["began_at_step"] > 0
    assert found["away"]["losses"] == found["killed"]["losses"]
    assert learned_files(tmp_path / "away") == learned_files(tmp_path / "killed")


def test_three_kills_change_no_bit(tmp_path: Path, forks: Forks) -> None:
    model, data = write_hf(tmp_path / "m", Tiny(family="qwen2", tied=True)), tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} and 1 are {n + 1}. " * 6}) + "\n" for n in range(40)))

    def begin(folder: Path) -> Run:
        return forks.start("tune", str(model), str(data), "-o", str(folder), *SHORT)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert begin(whole).wait() == 0
    steps = []
    for moment in MOMENTS:
        found = kill(partial(begin, killed), killed, moment)
        if found is None:
            pytest.fail("it ended before it could be killed")
        steps.append(found.step)
    assert steps[0] < steps[1] < steps[2] == 24
    assert begin(killed).wait() == 0
    assert learned_files(killed) == learned_files(whole)
    assert told(killed) == told(whole)
    assert not (killed / FOLDER).exists()


def test_a_kill_changes_no_bit_of_a_classifier(tmp_path: Path, forks: Forks) -> None:
    small = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[2, 1], layer_type="basic", num_labels=2)
    recorded(
        save(tf.ResNetForImageClassification(small), tmp_path / "folder", PROCESSOR), tmp_path / "m", batch=4, fewer=1
    )
    drawn, lines = np.random.default_rng(0), []
    for number in range(12):
        pixels = drawn.integers(0, 90, (40, 40, 3)) + 160 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "label": number % 2}))
    (tmp_path / "d.jsonl").write_text("\n".join(lines))

    def begin(folder: Path) -> Run:
        more = ("--sequences", "4", "--steps", "12", "--threads", "1", "--checkpoint", "1", "-q")
        return forks.start("tune", str(tmp_path / "m"), str(tmp_path / "d.jsonl"), "-o", str(folder), *more)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert begin(whole).wait() == 0
    for moment in (Moment("writing", 0.0, 0.5), Moment("ending", 0.0)):
        found = kill(partial(begin, killed), killed, moment, steps=12)
        assert found is not None, "it ended before it could be killed"
        assert found.step >= 6
    assert begin(killed).wait() == 0
    assert learned_files(killed) == learned_files(whole)
    assert told(killed) == told(whole)
    assert not (killed / FOLDER).exists()
