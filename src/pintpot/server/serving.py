"""What a server has open: the pack, the service that drives it, and what it may be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pintpot.errors import PintpotError, need
from pintpot.runtime.request import Request
from pintpot.runtime.service import Service
from pintpot.runtime.session import Session
from pintpot.server.admit import Bodies, Limits
from pintpot.server.asking import Guiding, requests_of
from pintpot.server.wire import Asked

PREPARING = 2
"""Bodies that are read into tokens at a time."""


class NoSuchModel(PintpotError):
    """Another model was asked for than is here."""


@dataclass
class Serving:
    """An open pack under a name. `memory_bytes` is what the whole process may take; `stop` ends the server,
    `closing` what is open.
    """

    session: Session
    service: Service
    name: str
    limits: Limits
    memory_bytes: int
    guiding: Guiding | None = None
    planning: Callable[[], list[dict[str, Any]]] | None = None
    draining: bool = False
    stop: Callable[[], None] = lambda: None
    created: int = field(default_factory=lambda: int(time.time()))

    closing: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.limits)
        self.preparing = asyncio.Semaphore(PREPARING)
        self._plans: asyncio.Future[dict[str, Any]] | None = None

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.close()
        self.closing.close()

    def requests(self, asked: Asked) -> list[Request]:
        """The requests for all choices of all prompts, checked. Raises NoSuchModel, Invalid, and what the door says."""
        known = f"there is no model {asked.model!r} here; this server has {self.name!r}"
        need(asked.model == self.name, known, NoSuchModel)
        return requests_of(asked, self.session, self.service.check, self.guiding)

    async def plans(self) -> dict[str, Any]:
        """What other budgets would bring, planned once, in a process apart."""
        if self._plans is None:
            self._plans = asyncio.ensure_future(asyncio.to_thread(self._planned))
        return await asyncio.shield(self._plans)

    def _planned(self) -> dict[str, Any]:
        try:
            return {"plans": [] if self.planning is None else self.planning()}
        except PintpotError as error:
            return {"plans": [], "why": str(error)}
