"""Many requests to one open module: a thread computes them one after the other, everybody else talks to that thread.

Who is next is decided as among those who talk with a language model; a request that nobody wants any more, or whose
time is up, ends before its next call. Of a request's inputs only those of one call are in memory at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from pintpot.errors import BadPack, Busy, DoesNotFit, PintpotError, UnsupportedModel, need
from pintpot.runtime.asking import Running, answers, read
from pintpot.runtime.counts import Counts
from pintpot.runtime.kinds import Answer, Arrays, Given, Runs, check_given, kept
from pintpot.runtime.queue import Entry, Queue
from pintpot.runtime.service import Over
from pintpot.units import format_seconds

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession

Heard = Callable[[Answer | Over], None]
"""Told of each answer, and at the end, once and with nothing behind it, that it is over."""


class _Ended(Exception):
    """Out of a request that is not computed any further."""


@dataclass(eq=False, slots=True)
class _Asked:
    """A request. `ended` says why it is to end before its time."""

    number: int
    given: Given
    heard: Heard
    asked_at: float
    deadline: float
    size: float
    ended: str = ""

    def check(self) -> None:
        """Raise _Ended where it is not wanted any more."""
        if time.monotonic() > self.deadline:
            self.ended = self.ended or "deadline"
        if self.ended:
            raise _Ended


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A run that looks before each call whether it is still to go on (`kinds.Runs`)."""

    run: Runs
    check: Callable[[], None]

    def __call__(self, inputs: Arrays, stage: str = "") -> Arrays:
        self.check()
        return self.run(inputs, stage)

    def reset(self) -> None:
        self.run.reset()


class ModuleService:
    """A module and the thread that computes. At most `most_waiting` requests wait at a time."""

    def __init__(self, session: ModuleSession, *, most_waiting: int = 256) -> None:
        """Raises UnsupportedModel for a module that takes tensors alone."""
        found = kept(session.plan.config)
        if found is None:
            raise UnsupportedModel(f"{session.plan.model_name} is a module that takes tensors, and nothing people have")
        self.session, self.counts = session, Counts()
        self.kind, self.about = found
        self.error: PintpotError | None = None
        self._most_waiting = most_waiting
        self._queue = Queue[_Asked]()
        self._asked: dict[int, _Asked] = {}
        self._numbers = count()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._drive, name="module", daemon=True)

    def start(self) -> ModuleService:
        self._thread.start()
        return self

    def submit(self, given: Given, heard: Heard, *, client: str = "", within_s: float = math.inf) -> int:
        """Ask for answers, all of them in so many seconds; returns a number. From any thread.

        Raises UsageError, BadInput, DoesNotFit for what could never be answered in time, Busy while too many wait.
        """
        with self.counts.refusals():
            size = self.check(given, within_s)
            with self._changed:
                need(not self._closing, "the service is closing", Busy)
                waiting = max(0, len(self._asked) - 1)
                full = f"{waiting} requests wait already, and {self._most_waiting} may; try again later"
                need(waiting < self._most_waiting, full, Busy)
                number, now = next(self._numbers), time.monotonic()
                asked = _Asked(number, given, heard, now, now + within_s, size)
                self._asked[number] = asked
                self._queue.add(Entry(number, asked, client, asked.deadline))
                self.counts.num_accepted += 1
                self._changed.notify_all()
        return number

    def check(self, given: Given, within_s: float = math.inf) -> float:
        """How many times the plan's workload it is. Raises as `submit` does for what could never be answered."""
        check_given(self.kind, given, self.session.plan.model_name)
        effort = self.kind.effort(self.about, self.session.folder, given)
        least = effort * self.session.plan.cost.first_token_s.low
        said = f"this takes at least {format_seconds(least)}, and answers may take {format_seconds(within_s)} here"
        need(least <= within_s, said, DoesNotFit)
        return effort

    def leave(self, number: int) -> None:
        """Nobody wants these answers any more. From any thread; nothing happens where they have ended."""
        with self._changed:
            asked = self._asked.get(number)
            if asked is not None:
                asked.ended = asked.ended or "cancelled"
                self._changed.notify_all()

    def running_and_waiting(self) -> tuple[int, int]:
        """From any thread."""
        with self._changed:
            waiting = len(self._queue)
            return len(self._asked) - waiting, waiting

    def wait_idle(self, seconds: float) -> bool:
        """Wait until every answer has ended; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._asked, seconds)

    def close(self) -> None:
        """End all answers and the thread."""
        with self._changed:
            self._closing = True
            for asked in self._asked.values():
                asked.ended = asked.ended or "cancelled"
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _drive(self) -> None:
        try:
            while not self._closing:
                self._end_unwanted()
                asked = self._next()
                if asked is not None:
                    self._work(asked)
        except PintpotError as error:
            self.error = error
        finally:
            self._end_all()

    def _next(self) -> _Asked | None:
        """The next request; None after something else has changed."""
        with self._changed:
            found = self._queue.take(lambda number, asked: True)
            if found is None and not self._closing:
                self._changed.wait()
            return None if found is None else found[1]

    def _work(self, asked: _Asked) -> None:
        session, error = self.session, None

        def check() -> None:
            self._end_unwanted(but=asked)
            asked.check()

        try:
            check()
            batches = read(session.plan.config, session.folder, asked.given, session.plan.model_name)
            for answer in answers(session, batches, _Wanted(Running(session), check)):
                self.counts.rate.add(time.monotonic(), 1)
                self.counts.num_tokens += 1
                asked.heard(answer)
        except _Ended:
            self._end(asked, asked.ended)
            return
        except BadPack as damage:
            from pintpot.packer.shelf import note_damage

            note_damage(session.folder, str(damage))
            raise
        except PintpotError as wrong:
            error = wrong
        self._end(asked, "end" if error is None else "failed", error)

    def _end_unwanted(self, but: _Asked | None = None) -> None:
        """End what waits in vain."""
        now = time.monotonic()
        with self._changed:
            late = [one for one in self._asked.values() if one is not but and (one.ended or one.deadline < now)]
        for asked in late:
            self._end(asked, asked.ended or "deadline")

    def _end_all(self) -> None:
        with self._changed:
            if not self._closing and self.error is None:
                self.error = PintpotError("the thread that computes has stopped")
            self._closing = True
            left = tuple(self._asked.values())
        for asked in left:
            self._end(asked, "cancelled" if self.error is None else "failed", self.error)

    def _end(self, asked: _Asked, ended: str, error: PintpotError | None = None) -> None:
        with self._changed:
            self._queue.remove(asked.number)
            del self._asked[asked.number]
            self.counts.ended[ended] += 1
            self.counts.first_token.add(time.monotonic() - asked.asked_at)
            self._changed.notify_all()
        asked.heard(Over(asked.number, ended, error))
