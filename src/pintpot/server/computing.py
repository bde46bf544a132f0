"""A module of PyTorch that is served: what it says of itself, and what it makes of one request's inputs."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pintpot.runtime.kinds import Answer, Given
from pintpot.runtime.module_service import ModuleService
from pintpot.runtime.service import Over
from pintpot.server.answering import why_over
from pintpot.server.endpoints import Whole
from pintpot.server.served import Family, buckets

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Computing:
    """An open module of a kind, and the service that drives it."""

    session: ModuleSession
    service: ModuleService

    @property
    def offers(self) -> str:
        """What its kind answers for a server."""
        return self.service.kind.offers(self.service.about)

    def card(self) -> dict[str, Any]:
        tokens = self.service.about.get("tokens")
        return {} if tokens is None else {"context_length": tokens}

    def told(self) -> str:
        return "one after the other"

    def gauges(self) -> dict[str, Any]:
        counts, cost = self.service.counts, self.session.plan.cost
        return {
            "offers": self.offers,
            "answers_per_s": counts.rate.per_second(monotonic()),
            "promised_s": [cost.total_s.low, cost.total_s.high],
            "took_s": counts.first_token.total_s / max(1, counts.first_token.count),
            "binds": max(cost.stages, key=lambda stage: stage.seconds.mid).binds,
            "answers": counts.num_tokens,
        }

    def families(self, now: Mapping[str, Any]) -> Iterable[Family]:
        return (
            Family("answers_total", "counter", "Texts, pieces of sound or pictures that were answered.",
                   [("", now["answers"])]),
            Family("answers_per_second", "gauge", "Of the last seconds.", [("", now["answers_per_s"])]),
            Family("answer_seconds", "histogram", "From a request to its end.",
                   buckets(self.service.counts.first_token)),
        )  # fmt: skip


class Job(Generic[T]):
    """What a module makes of one request's inputs. `keep` takes of each answer what is told, in the module's thread;
    `over` is called once, when nothing looks at the inputs any more.
    """

    def __init__(
        self, service: ModuleService, given: Given, keep: Callable[[Answer], T], over: Callable[[], None] = lambda: None
    ) -> None:
        self._service, self._given, self._keep, self._over = service, given, keep, over
        self._told: asyncio.Queue[T | Over] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._number: int | None = None

    def start(self, client: str, within_s: float) -> None:
        """Raises what `ModuleService.submit` raises."""
        self._loop = asyncio.get_running_loop()
        self._number = self._service.submit(self._given, self._hear, client=client, within_s=within_s)

    def stop(self) -> None:
        """Nobody wants what has not been made yet."""
        if self._number is None:
            self._over()
        else:
            self._service.leave(self._number)

    async def made(self) -> AsyncIterator[T]:
        """One thing after the other. Raises TimeUp, Busy for a service that closes, and what went wrong."""
        while True:
            one = await self._told.get()
            if not isinstance(one, Over):
                yield one
            elif one.ended == "end":
                return
            else:
                raise one.error or why_over(one.ended)

    def _hear(self, one: Answer | Over) -> None:
        """In the module's thread."""
        if isinstance(one, Over):
            self._over()
        told = one if isinstance(one, Over) else self._keep(one)
        assert self._loop is not None, "not started"
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)
        except RuntimeError:  # the loop has ended, and nobody listens
            return


class Making(ABC, Generic[T]):
    """An `Exchange` of what a job makes; an endpoint says what is told of that."""

    def __init__(self, job: Job[T], found: Mapping[str, Any]) -> None:
        self.job, self.found = job, found

    @property
    def streams(self) -> bool:
        return bool(self.found.get("stream", False))

    @property
    def user(self) -> str:
        return str(self.found.get("user", ""))

    def start(self, client: str, within_s: float) -> None:
        self.job.start(client, within_s)

    def stop(self) -> None:
        self.job.stop()

    async def whole(self) -> Whole:
        return self.told([one async for one in self.job.made()])

    @abstractmethod
    def told(self, made: list[T]) -> Whole:
        """The answer, of everything that was made."""

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        """None, where an endpoint lets nobody ask for them."""
        for one in tuple[Mapping[str, Any], ...]():
            yield one
