"""A language model that is served: what it says of itself, and one request for words on its way through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict, dataclass
from json import dumps
from time import monotonic
from typing import Any

from pintpot.runtime.answers import Answer
from pintpot.runtime.request import Request
from pintpot.runtime.service import Service
from pintpot.runtime.session import Session
from pintpot.server.answering import Answering
from pintpot.server.asking import Guiding, requests_of
from pintpot.server.endpoints import Exchange, Whole
from pintpot.server.served import Family, buckets, labelled
from pintpot.server.told import Teller
from pintpot.server.wire import Asked


@dataclass(frozen=True, slots=True)
class Writing:
    """An open language model, the service that drives it, and what makes answers follow a schema."""

    session: Session
    service: Service
    guiding: Guiding | None = None

    def card(self) -> dict[str, Any]:
        return {"context_length": self.session.engine.context}

    def told(self) -> str:
        engine, plan = self.session.engine, self.session.plan
        gain, drafter = plan.cost.guessing, engine.drafter
        looked_up = "" if gain is None else f", words looked up: {gain.low:.3g} to {gain.high:.3g} times the speed"
        drafted = "" if drafter is None else f", the draft's: 1 to {drafter.gain(plan):.3g}"
        return f"{engine.num_sequences} at once, {engine.context} tokens each{looked_up}{drafted}"

    def gauges(self) -> dict[str, Any]:
        state, counts, plan = self.service.state(), self.service.counts, self.session.plan
        decode = plan.cost.stage("decode")
        return {
            "context": self.session.engine.context,
            "sequences": self.session.engine.num_sequences,
            "tokens_per_s": counts.rate.per_second(monotonic()),
            "promised_tokens_per_s": [decode.tokens_per_s.low, decode.tokens_per_s.high],
            "binds": decode.binds,
            "chunk": {"tokens": plan.form.chunk, "longest_s": self.session.engine.timing.longest_chunk_s},
            "pages": {"used": state.used_pages, "idle": state.idle_pages, "total": state.num_pages},
            "prefix": {"hit_tokens": state.hit_tokens, "asked_tokens": state.asked_tokens},
            "guesses": {"made": state.guessed_tokens, "right": state.right_tokens},
            "stops": {"all": state.num_stops, **asdict(state.moves)},
            "tokens": {"prompt": counts.num_prompt_tokens, "answer": counts.num_tokens},
        }

    def families(self, now: Mapping[str, Any]) -> Iterable[Family]:
        prefix, counts = now["prefix"], self.service.counts
        found = {"asked": prefix["asked_tokens"], "hit": prefix["hit_tokens"]}
        return (
            Family("pages", "gauge", "Pages of the cache: used, kept for others, and all.",
                   labelled("state", now["pages"])),
            Family("tokens_total", "counter", "Tokens of prompts read and of answers given.",
                   labelled("kind", now["tokens"])),
            Family("prefix_tokens_total", "counter", "Tokens of prompts, and those of them that others had read.",
                   labelled("kind", found)),
            Family("guessed_tokens_total", "counter", "Words that were guessed, and those of them that were right.",
                   labelled("kind", now["guesses"])),
            *stopped(now["stops"]),
            Family("chunk_seconds", "gauge", "The longest that a chunk of prompts took: a word may wait for it.",
                   [("", now["chunk"]["longest_s"])]),
            Family("tokens_per_second", "gauge", "Tokens of answers in the last seconds.", [("", now["tokens_per_s"])]),
            Family("first_token_seconds", "histogram", "From a request to its first token.",
                   buckets(counts.first_token)),
            Family("between_tokens_seconds", "histogram", "From a token to the next.", buckets(counts.between_tokens)),
        )  # fmt: skip

    def exchange(self, asked: Asked) -> Exchange:
        """What was asked for, checked. Raises Invalid, and what the service says of what could never be answered."""
        return _Words(self, asked, requests_of(asked, self.session, self.service.check, self.guiding))


def stopped(stops: Mapping[str, Any]) -> tuple[Family, ...]:
    """Answers that were stopped because pages were needed for others, and what going on took."""
    by = {name: stops[f"num_{name}"] for name in ("moved", "computed")}
    taken = {name: stops[f"{name}_s"] for name in by}
    return (
        Family("stopped_total", "counter", "Answers stopped because pages were needed, by how they go on.",
               labelled("by", by)),
        Family("stopped_seconds_total", "counter", "Moving pages to disk and back; computing again, as planned.",
               labelled("by", taken)),
        Family("stopped_tokens_total", "counter", "Tokens that are to be computed again.",
               [("", stops["computed_tokens"])]),
        Family("moved_bytes_total", "counter", "Bytes of pages written to the disk and read back.",
               [("", stops["moved_bytes"])]),
    )  # fmt: skip


class _Words:
    """An `Exchange`."""

    def __init__(self, writing: Writing, asked: Asked, requests: list[Request]) -> None:
        self._writing, self._asked, self._requests = writing, asked, requests
        self._teller = Teller(asked, writing.session.tokenizer)
        self._answering: Answering | None = None

    @property
    def streams(self) -> bool:
        return self._asked.stream

    @property
    def user(self) -> str:
        return self._asked.user

    def start(self, client: str, within_s: float) -> None:
        self._answering = Answering(self._writing.service, self._writing.session.tokenizer, self._requests)
        self._answering.start(client, within_s)

    def stop(self) -> None:
        if self._answering is not None:
            self._answering.stop()

    async def whole(self) -> Whole:
        assert self._answering is not None, "not started"
        said = [one async for one in self._answering.said()]
        return Whole((dumps(self._teller.whole(said), separators=(",", ":"), ensure_ascii=False),))

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        assert self._answering is not None, "not started"
        answers: list[Answer] = []
        async for one in self._answering.said():
            answers += [] if one.answer is None else [one.answer]
            yield self._teller.piece(one)
        if self._asked.stream_usage:
            yield self._teller.last(answers)
