"""One file per family: configuration and form become work. The file's name is the model type it serves."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, cast

from pintpot.budget import Workload
from pintpot.contract.form import Form
from pintpot.errors import UnsupportedModel
from pintpot.model.adapted import FAMILY
from pintpot.program.spec import Work


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
