"""The answers to one request on their way: tokens come from the engine's thread, text goes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from pintpot.errors import Busy, PintpotError
from pintpot.model.tokens import Tokenizer
from pintpot.runtime.answers import Answer, Voice
from pintpot.runtime.request import Request
from pintpot.runtime.scheduler import Drawn, Likely
from pintpot.runtime.service import Over, Service


class TimeUp(PintpotError):
    """An answer that took longer than answers may take."""


@dataclass(frozen=True, slots=True)
class Said:
    """What choice `index` goes on with: text, its tokens with their likelihoods, and at the end the whole answer."""

    index: int
    text: str
    likely: tuple[tuple[int, Likely], ...] = ()
    answer: Answer | None = None


class Answering:
    """Several choices at once. `start` asks for them, `said` gives what they say, `stop` ends what is not over."""

    def __init__(self, service: Service, tokenizer: Tokenizer, requests: Sequence[Request]) -> None:
        self._service, self._requests = service, requests
        self._told: asyncio.Queue[tuple[int, Drawn | Over]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._voices = [Voice(index, tokenizer, request) for index, request in enumerate(requests)]
        self._likely: list[list[tuple[int, Likely]]] = [[] for _ in requests]
        self._numbers: dict[int, int] = {}

    def start(self, client: str, within_s: float) -> None:
        """Ask for all choices. Raises what `Service.submit` raises, and none is then under way."""
        try:
            for index, request in enumerate(self._requests):
                heard = partial(self._hear, index)
                self._numbers[index] = self._service.submit(request, heard, client=client, within_s=within_s)
        except PintpotError:
            self.stop()
            raise

    def stop(self) -> None:
        """Nobody wants what has not been said yet."""
        for number in self._numbers.values():
            self._service.leave(number)
        self._numbers.clear()

    async def said(self) -> AsyncIterator[Said]:
        """What the choices say, as it comes. Raises TimeUp, Busy for a service that closes, and what went wrong."""
        while self._numbers:
            index, one = await self._told.get()
            if index not in self._numbers:
                continue
            if isinstance(one, Over):
                del self._numbers[index]
                raise one.error or why_over(one.ended)
            if one.likely is not None:
                self._likely[index].append((one.token, one.likely))
            piece = self._voices[index].push(one.token, one.ended)
            if piece.answer is not None:
                number = self._numbers.pop(index)
                if not one.ended:
                    self._service.leave(number)
            if piece.text or piece.answer is not None:
                likely, self._likely[index] = tuple(self._likely[index]), []
                yield Said(index, piece.text, likely, piece.answer)

    def _hear(self, index: int, one: Drawn | Over) -> None:
        """In the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, (index, one))
        except RuntimeError:  # the loop has ended, and nobody listens
            return


def why_over(ended: str) -> PintpotError:
    """What is said of an answer that ended before its end."""
    if ended == "deadline":
        return TimeUp("the answer took longer than answers may take here")
    return Busy("the service is closing")
