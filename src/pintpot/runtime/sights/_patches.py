"""Pictures as rows of patches, in the order in which squares of them are merged: what Qwen's towers take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import UnsupportedModel, need
from pintpot.runtime.kinds._pictures import drawn, open_picture, prepared
from pintpot.runtime.sights import About, Arrays, Source
from pintpot.runtime.sights._common import seen, square

if TYPE_CHECKING:
    from pintpot.runtime.kinds import Published

DEFAULT_EDGE: Final = 448


def about_patches(published: Published, mean: list[float], std: list[float]) -> dict[str, Any]:
    """Squares of the edge that was asked for, in whole merged patches."""
    vision = published.config["vision_config"]
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    unit = patch * merge
    edge = published.shapes.get("image_size", DEFAULT_EDGE)
    need(edge >= unit, f"pictures of {edge} pixels an edge; {unit} or more will do", UnsupportedModel)
    side = edge // unit
    size = side * unit
    more = {
        "size": [size, size], "patch": patch, "merge": merge, "frames": vision["temporal_patch_size"],
        "patches": [1, side * merge, side * merge],
    }  # fmt: skip
    return seen(published.config, [1, side, side], square(size, mean, std), more)


def examples_of(about: About, seed: int = 0) -> Arrays:
    """Patches of a drawn picture."""
    height, width = about["size"]
    settings = {**about["pictures"], "do_resize": False}
    return {"pixel_values": patches(prepared(drawn(height, width, seed), settings), about)}


def read_patches(about: About, source: Source) -> Arrays:
    """Patches of a picture's file."""
    return {"pixel_values": patches(prepared(open_picture(source), about["pictures"]), about)}


def patches(picture: NDArray[np.float32], about: About) -> NDArray[np.float32]:
    """A picture [3, height, width] as [patches, 3 * frames * patch * patch]; it stands still for all frames of one."""
    patch, merge, frames = about["patch"], about["merge"], about["frames"]
    _, rows, columns = about["patches"]
    still = np.repeat(picture[None], frames, axis=0)
    cut = still.reshape(frames, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    ordered = cut.transpose(2, 5, 3, 6, 1, 0, 4, 7)
    return np.ascontiguousarray(ordered.reshape(rows * columns, -1), np.float32)
