"""One paper, one file. A technique is found by being there; a file that does not import is an error."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from pintpot.contract.step import Step


@cache
def classes() -> dict[str, type[Step]]:
    """Every technique there is, by class name, in the order of their files."""
    found: dict[str, type[Step]] = {}
    for module_info in sorted(pkgutil.walk_packages(__path__, f"{__name__}."), key=lambda info: info.name):
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, Step) and value.__module__ == module.__name__:
                found[name] = value
    return found
