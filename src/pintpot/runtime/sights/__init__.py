"""One file per architecture that sees: how a picture becomes rows of embedding, and which words stand around them.

A file is an architecture by being here; names with `_` in front are helpers. `about` is plain JSON that travels inside
the recording of the vision half (`config["kind"]`) into plans and packs. Arrays are numpy's, imported by what looks at
a picture alone; PyTorch is imported by `tower`, in the process that records.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pintpot.errors import UnsupportedModel, need

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from pintpot.runtime.kinds import Published

About = Mapping[str, Any]
Arrays = Mapping[str, "NDArray[Any]"]
Source = Path | bytes
"""A picture's file, or what is in one."""
ROWS = "given"
"""The output of a tower that takes the place of words; `given.0` and on are added behind deeper layers."""


class Sight(Protocol):
    """What each file of this folder offers."""

    MODEL_TYPES: frozenset[str]
    """What config.json calls the architectures."""

    def about(self, published: Published) -> dict[str, Any]:
        """What running needs to know: `grid` (time, height, width) of a picture's rows, `word`, the id of the word that
        stands for an image, `before` and `after` it texts of special words, `files`, `memory_bytes`, and its own."""

    def tower(self, module: torch.nn.Module, about: About) -> torch.nn.Module:
        """The vision half with its projector, for pictures of one size, as a module that keeps all under `vision`."""

    def examples(self, about: About) -> Arrays:
        """Inputs of the shapes to record."""

    def read(self, about: About, source: Source) -> Arrays:
        """A picture as inputs of the tower. Raises BadInput for what is none."""


@cache
def sights() -> tuple[str, ...]:
    """The architectures there are."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if not name.startswith("_"))


@cache
def sight(name: str) -> Sight:
    """An architecture by the name of its file. Raises UnsupportedModel for one without a file."""
    need(name in sights(), f"no sight {name!r:.40}; there are {', '.join(sights())}", UnsupportedModel)
    return cast(Sight, importlib.import_module(f"{__name__}.{name}"))


def sight_of(model_type: str) -> str | None:
    """The file that serves a model type, None where none does."""
    return next((name for name in sights() if model_type in sight(name).MODEL_TYPES), None)


def rows_of(about: About) -> int:
    """Rows of embedding that a picture takes."""
    time, height, width = about["grid"]
    return int(time) * int(height) * int(width)


def special_texts(about: About) -> Sequence[str]:
    """What stands before and after the rows of a picture."""
    return about.get("before", ""), about.get("after", "")
