"""Models that compare pictures with texts (CLIP and its kin): which of several texts says best what a picture shows.

One picture and the recorded number of texts meet in a call; of more texts each picture meets all, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np

from pintpot.meter.overlap import Agreed, cosines, same_top, shared_probability, softmax
from pintpot.runtime.kinds import About, Answer, Arrays, Batch, Given, Published, Runs, side_by_side, text, vision

TAKES = frozenset({"images", "texts"})
DEFAULT_TEXTS: Final = 4
_JUDGED_TEXTS: Final = 4
_FIRST_PICTURES: Final = 8


def about(published: Published) -> dict[str, Any] | None:
    config, takes = published.config, set(published.takes)
    both = {"pixel_values", "input_ids"} <= takes and {"vision_config", "text_config"} <= set(config)
    if not both or published.task not in ("", "zero_shot_image_classification"):
        return None
    shapes = {key: value for key, value in published.shapes.items() if key != "batch"}
    seeing = replace(published, config=config["vision_config"], takes=("pixel_values",), task="", shapes=shapes)
    texts = {**shapes, "batch": published.shapes.get("batch", DEFAULT_TEXTS)}
    mask = [name for name in published.takes if name in ("input_ids", "attention_mask")]
    reading = replace(published, config=config["text_config"], takes=tuple(mask), task="", shapes=texts)
    seen, read_ = vision.about(seeing), text.about(reading)
    if seen is None or read_ is None:
        return None
    return {
        "task": "compare",
        "batch": texts["batch"],
        "size": seen["size"],
        "tokens": read_["tokens"],
        "pictures": seen,
        "texts": read_,
        "files": read_["files"],
        "memory_bytes": seen["memory_bytes"] + read_["memory_bytes"],
    }


def examples(about: About) -> Arrays:
    return {**vision.examples(about["pictures"]), **text.examples(about["texts"])}


def read(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    yield from _together(about, list(vision.read(about["pictures"], folder, given)), folder, given)


def offers(about: About) -> str:
    return ""


def effort(about: About, folder: Path, given: Given) -> float:
    return float(len(given.images) * ceil(len(given.texts) / about["batch"]))


def samples(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    seen = list(vision.samples(about["pictures"], folder, given))[:_FIRST_PICTURES]
    yield from _together(about, seen, folder, replace(given, texts=given.texts[:_JUDGED_TEXTS]))


def compute(about: About, run: Runs, batch: Batch) -> Arrays:
    """Logits [1, texts] of one picture beside all texts, whatever number of them a call takes."""
    ids = batch.inputs["input_ids"]
    found = []
    for start in range(0, len(ids), about["batch"]):
        rows = {
            name: one[start : start + about["batch"]] for name, one in batch.inputs.items() if name != "pixel_values"
        }
        found.append(run({"pixel_values": batch.inputs["pixel_values"], **rows})["logits_per_image"])
    return {"logits": np.concatenate(found, axis=1)}


def answers(about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
    picture, *texts = batch.names
    shares = softmax(outputs["logits"][0, : len(texts)])
    order = shares.argsort()[::-1]
    found = [{"text": texts[at], "probability": float(shares[at])} for at in order]
    told = ", ".join(f"{one['text']} {one['probability']:.2f}" for one in found[: vision.TOLD])
    yield Answer(picture, told, {"image": picture, "texts": found})


def judged(about: About, batch: Batch, outputs: Arrays) -> Arrays:
    return {"logits": outputs["logits"][:, : len(batch.names) - 1]}


def agreement(about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays) -> tuple[Agreed, ...]:
    one, other = (judged(about, batch, outputs)["logits"] for outputs in (reference, test))
    measures = (("same text", same_top), ("shared probability", shared_probability), ("cosine of logits", cosines))
    return tuple(Agreed(what, float(measure(one, other).mean()), len(one)) for what, measure in measures)


def _together(about: About, seen: list[Batch], folder: Path, given: Given) -> Iterator[Batch]:
    """Each picture with all texts, filled up to whole calls; the picture's name comes first."""
    read_ = list(text.in_order(about["texts"], folder, given))
    rows = {name: np.concatenate([batch.inputs[name] for batch in read_]) for name in read_[0].inputs}
    names = tuple(name for batch in read_ for name in batch.names)
    notes = tuple(note for batch in read_ for note in batch.notes)
    for batch in seen:
        for picture in side_by_side(batch.names, 1):
            yield Batch({**batch.inputs, **rows}, (*picture, *names), notes)
