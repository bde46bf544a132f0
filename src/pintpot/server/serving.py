"""What a server has open: the pack, the service that drives it, and what it may be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from pintpot.errors import PintpotError, need
from pintpot.model.tokens import encode_chat
from pintpot.runtime.request import Guide, Request
from pintpot.runtime.service import Service
from pintpot.runtime.session import Session
from pintpot.server.admit import Bodies, Limits
from pintpot.server.schema import Invalid
from pintpot.server.wire import Asked, Prompt

PREPARING = 2
"""Bodies that are read into tokens at a time."""
Guiding = Callable[[dict[str, object]], Guide]
"""Makes a guide of a JSON schema. Raises Invalid for one that cannot be followed."""


class NoSuchModel(PintpotError):
    """Another model was asked for than is here."""


@dataclass
class Serving:
    """An open pack under a name. `memory_bytes` is what the whole process may take; `stop` ends the server."""

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
        self.session.close()

    def requests(self, asked: Asked) -> list[Request]:
        """The requests for all choices of all prompts, checked. Raises NoSuchModel, Invalid, and what the door says."""
        known = f"there is no model {asked.model!r} here; this server has {self.name!r}"
        need(asked.model == self.name, known, NoSuchModel)
        strange = [token for token, _ in asked.bias if token >= self.num_words]
        if strange:
            raise Invalid(f"logit_bias is for token {strange[0]}, and there are {self.num_words}", "logit_bias")
        found = []
        for prompt in asked.prompts:
            tokens = self._tokens(prompt)
            room = self.session.engine.context - len(tokens)
            first = Request(
                tokens,
                max(1, room if asked.max_tokens is None else min(asked.max_tokens, room)),
                asked.sampling,
                asked.stop,
                bias=asked.bias,
                num_likely=asked.num_likely,
            )
            self.service.check(first)
            for choice in range(asked.num_choices):
                found.append(replace(first, sampling=asked.sampling_of(choice), guide=self._guide(asked)))
        return found

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

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        words = self.num_words
        if isinstance(prompt, str):
            tokens = self.session.tokenizer.encode(prompt)
            need(bool(tokens), "the prompt is empty", Invalid)
            return tuple(tokens)
        if isinstance(prompt[0], dict):
            return tuple(encode_chat(self.session.tokenizer, [one for one in prompt if isinstance(one, dict)]))
        ids = tuple(one for one in prompt if isinstance(one, int))
        need(max(ids) < words, f"token {max(ids)} is not one of {words}", Invalid)
        return ids

    @property
    def num_words(self) -> int:
        """Tokens that the model knows."""
        return int(self.session.plan.config["vocab_size"])

    def _guide(self, asked: Asked) -> Guide | None:
        if asked.grammar is None:
            return None
        need(self.guiding is not None, "answers in JSON are not offered here: pip install pintpot[serve]", Invalid)
        return self.guiding(asked.grammar) if self.guiding is not None else None
