"""Models that see: encoders give an embedding of each picture, classifiers its classes, detectors boxes in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import UnsupportedModel, need
from pintpot.meter.overlap import Agreed, cosines, matched_overlap, same_top, shared_probability, softmax
from pintpot.runtime.kinds import About, Answer, Arrays, Batch, Given, Published, Runs, side_by_side
from pintpot.runtime.kinds._pictures import MEMORY_BYTES, drawn, open_picture, output_size, prepared

TAKES = frozenset({"images"})
_TASKS: Final = {
    "image_classification": "classify",
    "object_detection": "detect",
    "": "embed",
    "image_feature_extraction": "embed",
    "backbone": "embed",
}
_VALUE_BYTES: Final = 4
TOLD: Final = 5
"""Classes that an answer names."""
FEWEST_SAMPLES: Final = 8
SURE: Final = 0.3
"""A detection with this probability is told."""
JUDGED_BOXES: Final = 10
"""Where a picture has fewer detections of which the unpacked model is sure, its best so many are compared."""


def about(published: Published) -> dict[str, Any] | None:
    if "pixel_values" not in published.takes or "input_ids" in published.takes:
        return None
    task = _TASKS.get(published.task)
    if task is None:
        return None
    config, shapes = published.config, published.shapes
    settings = dict(published.processor or _plain(config))
    asked = shapes.get("image_size")
    if asked:
        settings |= _of_size(settings, asked)
    height, width = output_size(settings, int(asked or _size_of(config)[0]))
    channels = int(config.get("num_channels") or 3)
    need(channels == 3, f"{published.architecture} takes pictures of {channels} channels, not of 3", UnsupportedModel)
    batch = shapes.get("batch", 1)
    fewer = {"narrower": list(_halves(batch))} if shapes.get("fewer") else {}
    return {
        "task": task,
        "labels": _labels(config),
        "batch": batch,
        **fewer,
        "size": [height, width],
        "pictures": settings,
        "files": [],
        "memory_bytes": MEMORY_BYTES + 3 * _VALUE_BYTES * 3 * height * width * batch,
    }


def _halves(batch: int) -> Iterator[dict[str, int]]:
    """Half as many pictures, and so on to one: as many as may be computed at once while a model learns."""
    while batch > 1:
        batch = -(-batch // 2)
        yield {"batch": batch}


def examples(about: About) -> Arrays:
    height, width = about["size"]
    pictures = [_normal(drawn(height, width, seed), about) for seed in range(about["batch"])]
    return {"pixel_values": np.stack(pictures)}


def read(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    for paths in side_by_side(given.images, about["batch"]):
        pictures = [prepared(open_picture(path), about["pictures"]) for path in paths]
        yield _batch(pictures, tuple(map(str, paths)), about)


def offers(about: About) -> str:
    return ""


def effort(about: About, folder: Path, given: Given) -> float:
    return float(ceil(len(given.images) / about["batch"]))


def samples(about: About, folder: Path, given: Given) -> Iterator[Batch]:
    if given.images:
        yield from read(about, folder, given)
        return
    height, width = about["size"]
    for seeds in side_by_side(range(max(FEWEST_SAMPLES, about["batch"])), about["batch"]):
        pictures = [_normal(drawn(height, width, seed), about) for seed in seeds]
        yield _batch(pictures, tuple(f"drawn picture {seed}" for seed in seeds), about)


def compute(about: About, run: Runs, batch: Batch) -> Arrays:
    return run(batch.inputs)


def answers(about: About, folder: Path, batch: Batch, outputs: Arrays) -> Iterator[Answer]:
    tell = {"classify": _classes, "detect": _boxes, "embed": _embedding}[about["task"]]
    for row, name in enumerate(batch.names):
        text, data = tell(about, outputs, row)
        yield Answer(name, text, {"image": name, **data})


def judged(about: About, batch: Batch, outputs: Arrays) -> Arrays:
    count = len(batch.names)
    if about["task"] == "classify":
        return {"logits": outputs["logits"][:count]}
    if about["task"] == "detect":
        # Queries come in an order of their own, so each class is judged by the query that is surest of it.
        return {"surest of each class": outputs["logits"][:count].max(axis=1)}
    return {"embedding": embeddings(outputs)[:count]}


def agreement(about: About, folder: Path, batch: Batch, reference: Arrays, test: Arrays) -> tuple[Agreed, ...]:
    one, other = (judged(about, batch, outputs) for outputs in (reference, test))
    if about["task"] == "embed":
        found = cosines(one["embedding"], other["embedding"])
        return (Agreed("cosine of embeddings", float(found.mean()), len(found)),)
    if about["task"] == "classify":
        return tuple(
            Agreed(what, float(measure(one["logits"], other["logits"]).mean()), len(one["logits"]))
            for what, measure in (("same class", same_top), ("shared probability", shared_probability))
        )
    overlaps = [_overlap(about, reference, test, row) for row in range(len(batch.names))]
    whole = np.concatenate(overlaps)
    return (Agreed("overlap of boxes", float(whole.mean()), len(whole)),)


def embeddings(outputs: Arrays) -> NDArray[Any]:
    """One row [batch, width] of what an encoder gives: its own pooled output, the first token, or the mean of a map."""
    for name in ("image_embeds", "pooler_output"):
        if name in outputs:
            return outputs[name].reshape(len(outputs[name]), -1)
    states = outputs["last_hidden_state"] if "last_hidden_state" in outputs else next(iter(outputs.values()))
    return states[:, 0] if states.ndim == 3 else states.reshape(*states.shape[:2], -1).mean(-1)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a folder that has none: the model's own size, values around 0."""
    height, width = _size_of(config)
    half = [0.5, 0.5, 0.5]
    return {
        "do_resize": True, "size": {"height": height, "width": width}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": half, "image_std": half,
    }  # fmt: skip


def _size_of(config: Mapping[str, Any]) -> tuple[int, int]:
    size = config.get("image_size") or 224
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _of_size(settings: Mapping[str, Any], asked: int) -> dict[str, Any]:
    """Settings for pictures of another size: what is cut away stays the same share."""
    square, size, crop = {"height": asked, "width": asked}, settings["size"], settings.get("crop_size")
    if not settings.get("do_center_crop") or not crop:
        return {"size": square, "crop_pct": None, "wider": None}
    edge = size.get("shortest_edge") or size.get("height")
    grown = round(edge * asked / crop["height"])
    wider = {"shortest_edge": grown} if "shortest_edge" in size else dict.fromkeys(square, grown)
    return {"size": wider, "crop_size": square}


def _labels(config: Mapping[str, Any]) -> list[str]:
    found = config.get("id2label") or {}
    return [str(found[key]) for key in sorted(found, key=int)]


def _normal(picture: NDArray[np.uint8], about: About) -> NDArray[np.float32]:
    """A drawn picture of the very size that the module takes."""
    return prepared(picture, {**about["pictures"], "do_resize": False, "do_center_crop": False})


def _batch(pictures: list[NDArray[np.float32]], names: tuple[str, ...], about: About) -> Batch:
    size = tuple(about["size"])
    for picture, name in zip(pictures, names, strict=True):
        why = f"{name} becomes {picture.shape[1:]} pixels here, and the model was recorded for {size}"
        need(picture.shape[1:] == size, why)
    filled = chain(pictures, [pictures[-1]] * (about["batch"] - len(pictures)))
    return Batch({"pixel_values": np.stack(list(filled))}, names)


def _label(about: About, index: int) -> str:
    return about["labels"][index] if index < len(about["labels"]) else f"class {index}"


def _classes(about: About, outputs: Arrays, row: int) -> tuple[str, dict[str, Any]]:
    logits = outputs["logits"][row]
    shares = softmax(logits)
    best = shares.argsort()[::-1][:TOLD]
    found = [{"label": _label(about, at), "class": int(at), "probability": float(shares[at])} for at in best]
    told = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in found[:3])
    return told, {"classes": found}


def _embedding(about: About, outputs: Arrays, row: int) -> tuple[str, dict[str, Any]]:
    values = embeddings(outputs)[row]
    first = ", ".join(f"{value:.3f}" for value in values[:4])
    told = f"{len(values)} values, length {np.linalg.norm(values):.4g}: {first}, ..."
    return told, {"embedding": [float(value) for value in values]}


def _detections(about: About, outputs: Arrays, row: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Scores, classes and boxes (of shares of the picture) of all queries, the surest first."""
    logits, boxes = outputs["logits"][row].astype(np.float64), outputs["pred_boxes"][row].astype(np.float64)
    # A column more than there are labels is for queries that found nothing.
    none = len(about["labels"]) + 1 == logits.shape[-1]
    shares = softmax(logits)[:, :-1] if none else 1 / (1 + np.exp(-logits))
    classes, scores = shares.argmax(axis=-1), shares.max(axis=-1)
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = np.concatenate([middle - half, middle + half], axis=-1)
    order = scores.argsort(kind="stable")[::-1]
    return scores[order], classes[order], corners[order]


def _boxes(about: About, outputs: Arrays, row: int) -> tuple[str, dict[str, Any]]:
    scores, classes, corners = _detections(about, outputs, row)
    found = [
        {"label": _label(about, int(at)), "probability": float(score), "box": [float(value) for value in box]}
        for score, at, box in zip(scores, classes, corners, strict=True)
        if score >= SURE
    ]
    told = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in found[:TOLD])
    return told or "nothing found", {"detections": found, "box": "left, top, right, bottom, as shares of the picture"}


def _overlap(about: About, reference: Arrays, test: Arrays, row: int) -> NDArray[np.float64]:
    (boxes, classes), (others, their_classes) = (_judged_boxes(about, outputs, row) for outputs in (reference, test))
    return matched_overlap(boxes, classes, others, their_classes)


def _judged_boxes(about: About, outputs: Arrays, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
    scores, classes, corners = _detections(about, outputs, row)
    count = max(int((scores >= SURE).sum()), min(JUDGED_BOXES, len(scores)))
    return corners[:count], classes[:count]
