"""A file of requests, answered as fast as the machine can: one JSON line in, one JSON line out, in any order.

Of so many lines at a time those whose prompts begin alike are answered side by side, so that a beginning is read once
(BatchLLM, Zheng et al. 2024, arXiv:2412.03594), and prompts come before steps, so that every place is taken. A line
that has its answer is not asked again, so a start that was ended goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pintpot.errors import BadInput, PintpotError, need
from pintpot.runtime.answers import Voice
from pintpot.runtime.request import Request
from pintpot.runtime.session import Session
from pintpot.runtime.waiting import Fits
from pintpot.server.answering import Said
from pintpot.server.asking import Guiding, requests_of
from pintpot.server.told import Teller
from pintpot.server.wire import Asked, error_of, parse, read_chat, read_completion

AT_A_TIME = 1024
"""Lines that are ordered among each other, and whose prompts are in memory."""
CHAT_URL = "/v1/chat/completions"
Progress = Callable[[float, str], None]


@dataclass
class _Line:
    """A line under way: what was asked, and what its choices have said."""

    name: str
    asked: Asked
    requests: list[Request]
    said: list[Said] = field(default_factory=list)
    num_over: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What became of a file: lines answered now, before, and refused; tokens of answers; whether it was cut short."""

    num_answered: int
    num_before: int
    num_refused: int
    num_tokens: int
    cancelled: bool


class Offline:
    """Answers the lines of a file into another. `run` once."""

    def __init__(self, session: Session, guiding: Guiding | None = None) -> None:
        self._session, self._guiding = session, guiding
        self._lines: list[_Line] = []
        self._begun: dict[int, tuple[_Line, int, Voice]] = {}
        self._order: list[tuple[_Line, int]] = []
        self._next = 0
        self._stopped: set[int] = set()
        self._answered = self._refused = self._tokens = 0

    def run(self, source: Path, into: Path, progress: Progress) -> Totals:
        """Answer what has no answer yet. Raises BadInput for a file that is none of requests, BadPack."""
        total, known = _num_lines(source), _answered(into)
        with source.open("rb") as lines, into.open("ab") as out:
            left = (one for one in _named(lines) if one[0] not in known)
            cancelled = False
            while not cancelled and (some := list(islice(left, AT_A_TIME))):
                self._take(some, out)
                cancelled = not self._answer(out, lambda: progress(self._done(len(known)) / max(1, total), "answering"))
        return Totals(self._answered, len(known), self._refused, self._tokens, cancelled)

    def take(self, fits: Fits) -> tuple[int, Request] | None:
        """The next request, by what its prompt begins with."""
        number = min(self._stopped, default=self._next)
        if number == len(self._order):
            return None
        line, choice = self._order[number]
        request = line.requests[choice]
        if not fits(number, request):
            return None
        if number in self._stopped:
            self._stopped.remove(number)
        else:
            self._next += 1
            self._begun[number] = (line, choice, Voice(choice, self._session.tokenizer, request))
        return number, request

    def stop(self, number: int, request: Request) -> None:
        """See `Waiting`."""
        self._stopped.add(number)

    def right(self, number: int) -> tuple[float, ...]:
        """See `Waiting`: who began first."""
        return (number,)

    def _done(self, num_before: int) -> int:
        return num_before + self._answered + self._refused

    def _take(self, lines: list[tuple[str, bytes]], out: BinaryIO) -> None:
        self._lines, self._begun, self._next, self._stopped = [], {}, 0, set()
        for name, text in lines:
            try:
                asked = _asked(text, self._session.plan.model_name)
                requests = requests_of(asked, self._session, self._session.engine.check, self._guiding)
            except PintpotError as error:
                status, body = error_of(error)
                self._refused += 1
                _write(out, name, status, body)
                continue
            self._lines.append(_Line(name, asked, requests))
        every = [(line, choice) for line in self._lines for choice in range(len(line.requests))]
        self._order = sorted(every, key=lambda one: one[0].requests[one[1]].tokens)

    def _answer(self, out: BinaryIO, tell: Callable[[], None]) -> bool:
        """Answer what was taken. False when it was cancelled."""
        engine = self._session.engine
        for drawn in engine.serve(self, frozenset(self._session.tokenizer.eos_ids), "prompts first"):
            if drawn is None:
                return True
            for one in drawn:
                if one.index not in self._begun:
                    continue
                line, choice, voice = self._begun[one.index]
                piece = voice.push(one.token, one.ended)
                likely = () if one.likely is None else ((one.token, one.likely),)
                line.said.append(Said(choice, piece.text, likely, piece.answer))
                if piece.answer is not None:
                    del self._begun[one.index]
                    engine.leave(one.index)
                    self._tokens += piece.answer.num_tokens
                    self._over(line, out)
            tell()
        return False

    def _over(self, line: _Line, out: BinaryIO) -> None:
        line.num_over += 1
        if line.num_over == len(line.requests):
            body = Teller(line.asked, self._session.tokenizer).whole(line.said)
            _write(out, line.name, 200, body)
            line.said.clear()
            self._answered += 1


def _asked(text: bytes, model: str) -> Asked:
    """A line as OpenAI's batches have it, or the body alone: with `messages`, or with `prompt`."""
    line = parse(text)
    body = line.get("body", line) if isinstance(line, dict) else line
    if isinstance(body, dict):
        body = {"model": model, **body}
    chat = isinstance(body, dict) and ("messages" in body or line.get("url") == CHAT_URL)
    return read_chat(body) if chat else read_completion(body)


def _named(lines: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Lines with their names: `custom_id`, or the number of the line."""
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            found = json.loads(text)
            name = found.get("custom_id") if isinstance(found, dict) else None
        except (ValueError, RecursionError):
            name = None
        yield (name if isinstance(name, str) else f"line-{number}"), text


def _num_lines(source: Path) -> int:
    try:
        with source.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise BadInput(f"{source} cannot be read: {error.strerror}") from error


def _answered(into: Path) -> set[str]:
    """Names that have their answer. A last line that was cut short is taken off. Raises BadInput for another file."""
    if not into.exists():
        return set()
    data = into.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    names = set()
    for line in whole.splitlines():
        try:
            found = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{into} is there and holds no answers; name another file with -o") from error
        need(isinstance(found, dict) and "custom_id" in found, f"{into} is there and holds no answers", BadInput)
        names.add(str(found["custom_id"]))
    if len(whole) < len(data):
        with into.open("r+b") as file:
            file.truncate(len(whole))
    return names


def _write(out: BinaryIO, name: str, status: int, body: dict[str, Any]) -> None:
    error = body.get("error")
    line = {"custom_id": name, "response": {"status_code": status, "body": body}, "error": error}
    out.write(json.dumps(line).encode() + b"\n")
    out.flush()
