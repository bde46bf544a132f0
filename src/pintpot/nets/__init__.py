"""One file per family: configuration and form become work. The file's name is the model type it serves."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, Protocol, cast

from pintpot.budget import Workload
from pintpot.contract.form import Form, Weights
from pintpot.errors import UnsupportedModel, need
from pintpot.model.adapted import FAMILY
from pintpot.model.spec import Part
from pintpot.program.prefix import under
from pintpot.program.spec import Work

MOST_PARTS = 16


class Family(Protocol):
    """What each file of this folder offers."""

    def work(self, config: Mapping[str, Any], form: Form, workload: Workload) -> Work:
        """The stages of this network in this form: `prefill` and `decode` of a decoder."""

    def check(self, config: Mapping[str, Any], form: Form) -> None:
        """Raises BadInput for a configuration that this network cannot have, be it made by a stranger."""


@cache
def families() -> tuple[str, ...]:
    """The model types that run natively."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if not name.startswith("_") and name != FAMILY)


@cache
def family(name: str) -> Family:
    """The family of a model type, or of recorded modules. Raises UnsupportedModel for one without a file."""
    if name not in (*families(), FAMILY):
        raise UnsupportedModel(f"no native family {name!r}; there are {', '.join(families())}")
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))


def work_of(parts: Sequence[Part], form: Form, workload: Workload) -> Work:
    """The stages of all parts, one part after the other: all that a part calls its own bears its prefix."""
    works = [
        under(family(part.family).work(part.config, form_of(part, parts, form), workload), part.prefix)
        for part in parts
    ]
    if len(works) == 1:
        return works[0]
    keys = tuple(work.key for work in works)
    return Work(tuple(stage for work in works for stage in work.stages), None if None in keys else keys)


def form_of(part: Part, parts: Sequence[Part], form: Form) -> Form:
    """The form of one part, whose weights it knows by their names without a prefix."""
    if len(parts) == 1 and not part.prefix:
        return form
    others = tuple(other.prefix for other in parts if other.prefix and other.prefix != part.prefix)
    return replace(form, weights=_within(form.weights, part.prefix, others))


def check_parts(parts: Sequence[Part], form: Form) -> None:
    """Raises BadInput for parts that cannot be, be they made by a stranger."""
    need(0 < len(parts) <= MOST_PARTS, f"a model of {len(parts)} parts")
    for part in parts:
        plain = part.name.isidentifier() and part.prefix in ("", f"{part.name}.")
        need(plain, f"a part {part.name!r:.60} whose weights begin with {part.prefix!r:.60}")
    for kind in ("name", "prefix"):
        need(len({getattr(part, kind) for part in parts}) == len(parts), f"two parts of one {kind}")
    for part in parts:
        family(part.family).check(part.config, form_of(part, parts, form))


@lru_cache(maxsize=64)
def _within(weights: Weights, prefix: str, others: tuple[str, ...]) -> Weights:
    """Weights that begin with a prefix and with none of the others, without it."""
    return Weights(
        replace(weight, name=weight.name.removeprefix(prefix))
        for weight in weights
        if weight.name.startswith(prefix) and (prefix or not weight.name.startswith(others))
    )
