"""The diffusion transformer of `examples/digits`, beside diffusers' own network and schedule, from equal seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pintpot
from pintpot.runtime.kinds import Given
from real import Arrays, Real

PACKAGE = ""
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
STEPS = 30


def prepare(package: Path, work: Path) -> Real:
    model = pintpot.describe(FOLDER)
    return Real(model, Given(labels=tuple(range(4)), seed=1, steps=STEPS), drawn)


def drawn(inputs: Arrays) -> Arrays:
    """Pictures of a batch without guidance."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    net = DiTTransformer2DModel.from_pretrained(FOLDER / "transformer").float().eval()
    schedule = DDIMScheduler.from_pretrained(FOLDER / "scheduler")
    schedule.set_timesteps(int(inputs["steps"][0]))
    x, labels = torch.from_numpy(inputs["noise"]), torch.from_numpy(inputs["labels"])
    with torch.inference_mode():
        for time in schedule.timesteps:
            x = schedule.step(net(x, time.expand(len(x)), labels).sample, time, x).prev_sample
    return {"images": x.numpy().astype(np.float32)}
