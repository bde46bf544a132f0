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
from pintpot.program.spec import Work


class Family(Protocol):
    """What each file of this folder offers."""

    def work(self, config: Mapping[str, Any], form: Form, workload: Workload) -> Work:
        """The stages `prefill` and `decode` of this network in this form."""


@cache
def families() -> tuple[str, ...]:
    """The model types that run natively."""
    return tuple(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


@cache
def family(name: str) -> Family:
    """The family of a model type. Raises UnsupportedModel for one without a file."""
    if name not in families():
        raise UnsupportedModel(f"no native family {name!r}; there are {', '.join(families())}")
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))
