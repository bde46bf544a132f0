"""What is measured: small files, found by being there, each with `CASES` in the order in which they run."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bench import Record


class Case(Protocol):
    """A name, whether the short run has it, a measurement that can be stored as JSON, and how to show it."""

    @property
    def name(self) -> str: ...

    @property
    def quick(self) -> bool: ...

    def measure(self, quick: bool) -> dict[str, Any]: ...

    def show(self, record: Record, found: dict[str, Any]) -> None: ...


def cases() -> tuple[Case, ...]:
    """Every case there is, the cheap files first."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    modules.sort(key=lambda module: (module.ORDER, module.__name__))
    return tuple(case for module in modules for case in module.CASES)
