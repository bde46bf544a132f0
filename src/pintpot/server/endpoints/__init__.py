"""One file per address at which clients ask a model for something: what a body holds, and what becomes of it.

A file is an endpoint by being here; each says of an open model whether it answers there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from pintpot.server.schema import Record
from pintpot.server.served import Served


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole answer: its text in pieces, which may be made as they are sent."""

    pieces: Iterable[str]
    media_type: str = "application/json"

    @property
    def length(self) -> int | None:
        """Of all of it, in bytes, where it is there."""
        return sum(len(piece.encode()) for piece in self.pieces) if isinstance(self.pieces, tuple) else None


class Exchange(Protocol):
    """One request that was let in, on its way to an answer, which goes out whole or as events."""

    @property
    def streams(self) -> bool:
        """Whether the client wants events."""

    @property
    def user(self) -> str:
        """What the client calls whoever asks; "" where it does not say."""

    def start(self, client: str, within_s: float) -> None:
        """Ask the model. Raises what its service raises, and nothing is then under way."""

    def stop(self) -> None:
        """Nobody wants what has not been told yet. What the request holds is given back."""

    async def whole(self) -> Whole:
        """The answer, when it is there. Raises TimeUp, Busy for a service that closes, and what went wrong."""

    def events(self) -> AsyncIterator[Mapping[str, Any]]:
        """The answer as it comes. Raises likewise."""


Prepare = Callable[[Any], Exchange]
"""Makes an exchange of what was sent: of a body of JSON its value, else a `form.Form`. Raises Invalid; runs in a thread
of its own."""


class Endpoint(Protocol):
    """What each file of this folder offers."""

    PATH: str
    SUMMARY: str
    BODY: Record
    """What is sent."""
    FORM: bool
    """Whether it is sent as a form with a file, and not as JSON."""

    def prepare_for(self, served: Served) -> Prepare | None:
        """What makes exchanges with this model; None for one that does not answer here."""


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """All of them, by their addresses."""
    names = (info.name for info in pkgutil.iter_modules(__path__))
    found = (cast(Endpoint, importlib.import_module(f"{__name__}.{name}")) for name in names)
    return tuple(sorted(found, key=lambda one: one.PATH))
