"""The image processor of a published model, asked of transformers: its settings, in the words of `kinds._pictures`.

What transformers' own processor makes of a few pictures is compared with what is made here, value by value, so that a
processor that does something else is refused by name, and never imitated wrongly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import transformers

from pintpot.errors import UnsupportedModel, need
from pintpot.runtime.kinds._pictures import KEYS, drawn, prepared

_FILES: Final = ("preprocessor_config.json", "processor_config.json")
_TRIED: Final = ((301, 400), (500, 333), (90, 90))
_MOST_APART: Final = 1e-5
_LEVIT_WIDER: Final = 256 / 224
_CONVNEXT_WARPS: Final = 384
"""From this edge on its pictures are not cropped."""


def processor_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of a folder's image processor with all its defaults; None for a folder without one.

    Raises UnsupportedModel for a processor that does what is not known here.
    """
    if not any((folder / name).is_file() for name in _FILES):
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise UnsupportedModel(f"{folder.name}: transformers makes no image processor of it: {error}") from error
    given, name = processor.to_dict(), type(processor).__name__.removesuffix("Pil")
    settings: dict[str, Any] = _plain({key: given[key] for key in KEYS if given.get(key) is not None})
    settings |= _own_ways(name, settings)
    for seed, (height, width) in enumerate(_TRIED):
        picture = drawn(height, width, seed)
        wanted = np.asarray(processor(images=[picture], return_tensors="np")["pixel_values"][0])
        ours = prepared(picture, settings)
        same = ours.shape == wanted.shape and float(np.abs(ours - wanted).max()) <= _MOST_APART
        need(same, f"{folder.name}: its {name} does with pictures what is not known here", UnsupportedModel)
    return settings


def _own_ways(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What single processors do beside what their settings say."""
    size = settings.get("size", {})
    edge = size.get("shortest_edge")
    if name == "LevitImageProcessor":
        return {"wider": _LEVIT_WIDER}
    if name == "ConvNextImageProcessor" and edge:
        square = {"height": edge, "width": edge}
        cropped = {"do_center_crop": True, "crop_size": square}
        return cropped if edge < _CONVNEXT_WARPS else {"size": square, "crop_pct": None}
    if name == "PoolFormerImageProcessor" and size.get("height") and size.get("height") == size.get("width"):
        return {"size": {"shortest_edge": size["height"]}}
    return {}


def _plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return float(value) if isinstance(value, float) else int(value)
