"""Pictures as modules want them: decoded, resized, cropped and normalized, by the settings of the published model.

PIL decodes and resizes, numpy does the rest, in the order in which transformers' own image processors do it; that the
values are theirs is checked when a model is recorded. A picture is [height, width, channels] of bytes until then.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, UnsupportedModel, UsageError, need

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
MEMORY_BYTES: Final = 14_000_000
"""What importing PIL and a decoder adds, and the arrays of a picture of some 500 by 500."""
MOST_PIXELS: Final = 40_000_000
MOST_PIXELS_SENT: Final = 8_000_000
"""Of one that came over a network: whoever sent it is not who has to find the memory."""
_BILINEAR: Final = 2
KEYS: Final = (
    "do_resize", "size", "resample", "crop_pct", "wider", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "rescale_offset", "do_normalize", "image_mean", "image_std", "include_top", "do_flip_channel_order",
)  # fmt: skip
"""The settings that are looked at. `wider` is a factor on the shortest edge, in place of `crop_pct`'s quotient."""


def open_picture(source: Path | bytes) -> Picture:
    """A picture as RGB. Raises BadInput for what is none or has over 40 million pixels, 8 million where it was sent."""
    with _opened(source) as found:
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(found).convert("RGB"))


def check_picture(path: Path) -> None:
    """By its header alone: raises BadInput as `open_picture` does."""
    with _opened(path):
        pass


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Any]:
    need_pillow()
    from PIL import Image, UnidentifiedImageError

    sent = isinstance(source, bytes)
    path, most = "the image" if sent else str(source), MOST_PIXELS_SENT if sent else MOST_PIXELS
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as found:
            width, height = found.size
            size = f"{path} has {width} by {height} pixels"
            need(width * height <= most, f"{size}; at most {most:,} are read", BadInput)
            yield found
    except UnidentifiedImageError as error:
        raise BadInput(f"{path} is no picture that PIL knows") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def need_pillow() -> None:
    """Raise UsageError where PIL is not installed."""
    from importlib.util import find_spec

    there = find_spec("PIL") is not None
    need(there, "pictures are read by Pillow, which is not here: pip install pintpot[hf]", UsageError)


def prepared(picture: Picture, settings: Mapping[str, Any]) -> Floats:
    """A picture [height, width, 3] as a module takes it: [3, height, width] in float32."""
    image: NDArray[Any] = picture
    if settings.get("do_resize"):
        image = _resized(picture, settings)
    if settings.get("do_center_crop"):
        image = _cropped(image, settings["crop_size"])
    values = image.astype(np.float32)
    if settings.get("do_rescale"):
        values = (image.astype(np.float64) * settings["rescale_factor"]).astype(np.float32)
        values -= 1.0 if settings.get("rescale_offset") else 0.0
    if settings.get("do_normalize"):
        values = (values - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
    if settings.get("include_top"):
        values = values / np.float32(settings["image_std"])
    if settings.get("do_flip_channel_order"):
        values = values[..., ::-1]
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), np.float32)


def output_size(settings: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Height and width of what `prepared` gives of any picture; of a square one of `size` where that depends on it."""
    return prepared(np.zeros((size, size, 3), np.uint8), settings).shape[1:3]


def drawn(height: int, width: int, seed: int) -> Picture:
    """A picture that nobody took: clouds of all sizes, as natural pictures have them, and a few plain shapes."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    waves = rng.standard_normal((3, *falling.shape)) + 1j * rng.standard_normal((3, *falling.shape))
    mixed = np.tensordot(rng.uniform(0.2, 1.0, (3, 3)), np.fft.irfft2(waves * falling, (height, width)), 1)
    values = 128 + 48 * mixed / max(float(mixed.std()), 1e-9)
    ys, xs = np.mgrid[:height, :width]
    for _ in range(3):
        y, x, half = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.05, 0.25) * min(height, width)
        distance = np.hypot(ys - y, xs - x) if rng.random() < 0.5 else np.maximum(abs(ys - y), abs(xs - x))
        values[:, distance < half] = rng.uniform(0, 255, (3, 1))
    return np.moveaxis(values.clip(0, 255), 0, -1).astype(np.uint8)


def _resized(picture: Picture, settings: Mapping[str, Any]) -> Picture:
    from PIL import Image

    height, width = _target(picture.shape[0], picture.shape[1], settings)
    resample = Image.Resampling(int(settings.get("resample", _BILINEAR)))
    return np.asarray(Image.fromarray(picture).resize((width, height), resample))


def _target(height: int, width: int, settings: Mapping[str, Any]) -> tuple[int, int]:
    size, share = settings["size"], settings.get("crop_pct")
    wider = settings.get("wider") or 1.0
    if size.get("shortest_edge") and size.get("longest_edge"):
        return _between(height, width, size["shortest_edge"], size["longest_edge"])
    if size.get("shortest_edge"):
        edge = int(size["shortest_edge"] / share) if share else int(wider * size["shortest_edge"])
        short, long = min(height, width), max(height, width)
        other = int(edge * long / short)
        return (edge, other) if height <= width else (other, edge)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    raise UnsupportedModel(f"pictures of the size {dict(size)} are not made here")


def _between(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    exact = shortest if long / short * shortest <= longest else longest * short / long
    edge = round(exact)
    if short == edge:
        return height, width
    return (edge, int(exact * width / height)) if height <= width else (int(exact * height / width), edge)


def _cropped(image: NDArray[Any], size: Mapping[str, int]) -> NDArray[Any]:
    """The middle; what a smaller picture lacks is black."""
    wanted = size["height"], size["width"]
    room = [max(0, due - have) for due, have in zip(wanted, image.shape[:2], strict=True)]
    if any(room):
        before = [math.ceil(space / 2) for space in room]
        after = [space - first for space, first in zip(room, before, strict=True)]
        image = np.pad(image, (*zip(before, after, strict=True), (0, 0)))
    top, left = ((have - due) // 2 for due, have in zip(wanted, image.shape[:2], strict=True))
    return image[top : top + wanted[0], left : left + wanted[1]]
