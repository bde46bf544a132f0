"""A session that answers without a model, for tests of what the command line does with one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pintpot.errors import UsageError
from pintpot.runtime.session import Summary

SUMMARY = Summary(300_000_000, 250_000_000, 40.0, 60.0, 50.0, 900.0, 0.25, 12, 3, "end")


@dataclass
class FakeSession:
    """Answers with its words, one piece each; remembers what it was asked. "wait" waits until it is cancelled."""

    words: tuple[str, ...] = ("Because", " of", " light.")
    notes: tuple[str, ...] = ()
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    resets: int = 0
    cancelled: bool = False
    closed: bool = False
    engine: Any = field(default_factory=lambda: SimpleNamespace(progress=None))
    summed: Summary = SUMMARY
    plan: Any = field(default_factory=lambda: SimpleNamespace(to_json=lambda: {"pintpot_plan": 1}))

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *what: object) -> None:
        self.closed = True

    def chat(self, text: str, **how: Any) -> Iterator[str]:
        yield from self._answer("chat", text, how)

    def complete(self, text: str, **how: Any) -> Iterator[str]:
        yield from self._answer("complete", text, how)

    def _answer(self, kind: str, text: str, how: dict[str, Any]) -> Iterator[str]:
        self.asked.append((kind, text, how))
        self.cancelled = False
        if text == "too long":
            raise UsageError("the prompt takes 999 tokens")
        yield from self.words
        if text == "wait":
            while not self.cancelled:
                yield "."
                time.sleep(0.01)

    def reset(self) -> None:
        self.resets += 1

    def cancel(self) -> None:
        self.cancelled = True

    def summary(self) -> Summary:
        return self.summed
