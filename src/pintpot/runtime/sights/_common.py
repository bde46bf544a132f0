"""What architectures that see share: settings of pictures, and what a recording keeps of an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pintpot.errors import UnsupportedModel, need
from pintpot.runtime.kinds._pictures import MEMORY_BYTES, drawn, prepared
from pintpot.runtime.sights import About, Arrays

if TYPE_CHECKING:
    from pintpot.runtime.kinds import Published

_HALF: Final = [0.5, 0.5, 0.5]


def settings_of(published: Published, edge: int) -> dict[str, Any]:
    """How pictures are prepared: as the folder's processor says, squares with values around 0 where it has none."""
    if published.processor is not None:
        return dict(published.processor)
    return square(edge, _HALF, _HALF)


def square(edge: int, mean: Sequence[float], std: Sequence[float], resample: int = 3) -> dict[str, Any]:
    """Squares of so many pixels an edge, normalized so."""
    return {
        "do_resize": True, "size": {"height": edge, "width": edge}, "resample": resample, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(mean), "image_std": list(std),
    }  # fmt: skip


def seen(
    config: Mapping[str, Any], grid: list[int], settings: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """What all keep, and what one keeps of its own. Raises UnsupportedModel where no word stands for an image."""
    word = config.get("image_token_id", config.get("image_token_index"))
    if not isinstance(word, int):
        raise UnsupportedModel("config.json does not say which word stands for an image")
    height, width = more["size"]
    need(min(grid) > 0, f"pictures of {grid} rows", UnsupportedModel)
    size = MEMORY_BYTES + 8 * 3 * 4 * height * width
    return {"grid": grid, "word": word, "pictures": dict(settings), "files": [], "memory_bytes": size, **more}


def examples_of(about: About, seed: int = 0) -> Arrays:
    """A drawn picture of the very size that a tower takes."""
    height, width = about["size"]
    settings = {**about["pictures"], "do_resize": False, "do_center_crop": False}
    return {"pixel_values": np.ascontiguousarray(prepared(drawn(height, width, seed), settings)[None])}
