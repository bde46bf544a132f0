"""Networks that draw: a diffusion transformer takes noise away step by step, on the way to a picture of a label.

Such as diffusers' `DiTTransformer2DModel` (Peebles and Xie 2023, arXiv:2212.09748). One step is one call; guidance, the
difference that the label makes taken more than once, is a second call each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, UnsupportedModel, need
from pintpot.meter.agreement import psnr
from pintpot.meter.overlap import Agreed, cosines
from pintpot.runtime.kinds import About, Answer, Arrays, Batch, Given, Published, Runs, side_by_side
from pintpot.runtime.kinds._noise import normal
from pintpot.runtime.kinds._pictures import MEMORY_BYTES
from pintpot.runtime.loops import denoise
from pintpot.runtime.pipelines.folder import schedule_of
from pintpot.runtime.schedules import moves

TAKES = frozenset({"labels"})
TASK: Final = "denoise"
DEFAULT_STEPS: Final = 30
FEWEST_SAMPLES: Final = 4
PEAK: Final = 2.0
"""Pictures reach from -1 to 1."""
MOST_DB: Final = 100.0
"""Equal pictures have a signal without noise, and a mean with that in it says nothing."""
COLOURS: Final = (1, 3)
"""Channels of a picture; what has others are latents."""
_INPUTS: Final = frozenset({"hidden_states", "timestep", "class_labels"})


def about(published: Published) -> dict[str, Any] | None:
    if published.task != TASK:
        return None
    config, name = published.config, published.folder.name
    known = set(published.takes) >= _INPUTS and isinstance(config.get("num_embeds_ada_norm"), int)
    why = f"{name}: {published.architecture} does not draw by a label; its pipeline runs by pintpot.pipeline"
    need(known, why, UnsupportedModel)
    schedule, side = schedule_of(published.folder), config["sample_size"]
    found = moves(schedule, DEFAULT_STEPS)
    return {
        "classes": config["num_embeds_ada_norm"],
        "size": [config["in_channels"], side, side],
        "batch": published.shapes.get("batch", 1),
        "schedule": schedule,
        "whole_times": all(move.time.is_integer() for move in found),
        "repeats": DEFAULT_STEPS,
        "guidance": 1.0,
        "files": [],
        "memory_bytes": MEMORY_BYTES,
    }


def examples(about: About) -> Arrays:
    batch = about["batch"]
    labels = np.arange(batch) % about["classes"]
    return _asked(about, normal((batch, *about["size"]), 0), about["classes"] / 2, labels)


def read(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    _check(about, given)
    numbered = zip(given.labels, count(given.seed or 0), strict=False)
    for some in side_by_side(numbered, about["batch"]):
        # Rows that nobody asked for draw the last label once more.
        rows = [*some, *[some[-1]] * (about["batch"] - len(some))]
        yield Batch(
            {
                "noise": np.stack([normal(tuple(about["size"]), seed) for _, seed in rows]),
                "labels": np.array([label for label, _ in rows], np.int64),
                "seeds": np.array([seed for _, seed in rows], np.uint64),
                "steps": np.array([given.steps or about["repeats"]]),
                "guidance": np.array([about["guidance"] if given.guidance is None else given.guidance]),
            },
            tuple(f"label {label}, seed {seed}" for label, seed in some),
        )


def offers(about: About) -> str:
    return "images" if about["size"][0] in COLOURS else ""


def effort(about: About, folder: Path, given: Given) -> float:
    _check(about, given)
    calls = 1 if given.guidance in (None, 1) else 2
    usual = int(about["repeats"])
    return float(ceil(len(given.labels) / about["batch"]) * calls * (given.steps or usual) / usual)


def samples(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    labels = given.labels or tuple(at % about["classes"] for at in range(max(FEWEST_SAMPLES, about["batch"])))
    return read(about, folder, Given(labels=labels, seed=given.seed, steps=given.steps, guidance=given.guidance))


def compute(about: About, run: Runs, batch: Batch) -> Arrays:
    """`images` [batch, C, H, W] from -1 to 1; of a network of latents, those."""
    inputs, guidance = batch.inputs, float(batch.inputs["guidance"][0])
    labels, free = inputs["labels"], np.full_like(inputs["labels"], about["classes"])
    steps = moves(about["schedule"], int(inputs["steps"][0]))
    loop, answer = denoise(inputs["noise"], steps, None if guidance == 1 else guidance), None
    while True:
        try:
            ask = loop.send(answer)
        except StopIteration as end:
            return {"images": np.asarray(end.value, np.float32)}
        answer = run(_asked(about, ask.x, ask.time, labels))["sample"]
        if guidance != 1:
            answer = np.concatenate([answer, run(_asked(about, ask.x, ask.time, free))["sample"]])


def answers(about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
    images, inputs = outputs["images"], batch.inputs
    for row, name in enumerate(batch.names):
        data = {key: int(inputs[key][row]) for key in ("labels", "seeds")}
        told = {"label": data["labels"], "seed": data["seeds"], "steps": int(inputs["steps"][0])}
        values = images[row]
        yield Answer(name, f"{_words(values)}", {**told, "guidance": float(inputs["guidance"][0])}, pixels(values))


def judged(about: About, batch: Batch, outputs: Arrays) -> Arrays:
    return {"images": outputs["images"][: len(batch.names)]}


def agreement(about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays) -> tuple[Agreed, ...]:
    one, other = (judged(about, batch, outputs)["images"] for outputs in (reference, test))
    ratios = [min(MOST_DB, psnr(*both, PEAK)) for both in zip(one, other, strict=True)]
    found = cosines(one, other)
    return (
        Agreed("PSNR of images", float(np.mean(ratios)), len(ratios), "dB"),
        Agreed("cosine of images", float(found.mean()), len(found)),
    )


def pixels(values: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """A picture [H, W] or [H, W, 3] of values [C, H, W] from -1 to 1; None for what has other channels."""
    if len(values) not in COLOURS:
        return None
    found = np.round((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return found[0] if len(values) == 1 else np.moveaxis(found, 0, -1)


def _check(about: About, given: Given) -> None:
    for label in given.labels:
        most = about["classes"] - 1
        need(0 <= label <= most, f"label {label}; this model draws 0 to {most}", BadInput)


def _asked(about: About, x: NDArray[Any], time: float, labels: NDArray[Any]) -> Arrays:
    times = np.full(len(x), time, np.int64 if about["whole_times"] else np.float32)
    return {"hidden_states": np.asarray(x, np.float32), "timestep": times, "class_labels": labels}


def _words(values: NDArray[np.float32]) -> str:
    channels, height, width = values.shape
    what = "a picture" if channels in (1, 3) else f"latents of {channels} channels"
    return f"{what} of {width} x {height}, from {values.min():.2f} to {values.max():.2f}"
