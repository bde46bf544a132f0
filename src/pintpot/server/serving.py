"""What a server has open: the pack, the service that drives it, and what it may be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pintpot.errors import PintpotError, UnsupportedModel, need
from pintpot.server.admit import Bodies, Limits
from pintpot.server.endpoints import Prepare, endpoints
from pintpot.server.served import Driven, Opened, Served

PREPARING = 2
"""Bodies that are read into tokens at a time."""


class NoSuchModel(PintpotError):
    """Another model was asked for than is here."""


class NotServed(PintpotError):
    """The model that is here does not answer at this address."""


@dataclass
class Serving:
    """An open model under a name. `memory_bytes` is what the whole process may take; `stop` ends the server,
    `connections` are those that are open now, `closing` what is open besides.
    """

    served: Served
    name: str
    limits: Limits
    memory_bytes: int
    planning: Callable[[], list[dict[str, Any]]] | None = None
    draining: bool = False
    stop: Callable[[], None] = lambda: None
    connections: Callable[[], tuple[object, ...]] = tuple
    created: int = field(default_factory=lambda: int(time.time()))

    closing: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Raises UnsupportedModel for a model that no endpoint asks anything."""
        self.bodies = Bodies(self.limits)
        self.preparing = asyncio.Semaphore(PREPARING)
        self._plans: asyncio.Future[dict[str, Any]] | None = None
        found = ((one.PATH, one.prepare_for(self.served)) for one in endpoints())
        self.prepares: dict[str, Prepare] = {path: prepare for path, prepare in found if prepare is not None}
        addresses = ", ".join(one.PATH for one in endpoints())
        said = f"{self.name} is of a kind that is not served: it answers at none of {addresses}"
        need(bool(self.prepares), said, UnsupportedModel)

    @property
    def session(self) -> Opened:
        return self.served.session

    @property
    def service(self) -> Driven:
        return self.served.service

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.close()
        self.closing.close()

    def prepare_at(self, path: str) -> Prepare:
        """What makes exchanges of what is sent to an address. Raises NotServed."""
        found = self.prepares.get(path)
        if found is None:
            raise NotServed(f"{self.name} does not answer at {path}; it does at {', '.join(self.prepares)}")
        return found

    def check_name(self, name: Any) -> None:
        """Raise NoSuchModel for another model than this one."""
        known = f"there is no model {name!r:.80} here; this server has {self.name!r}"
        need(not isinstance(name, str) or name == self.name, known, NoSuchModel)

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
