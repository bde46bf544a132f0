"""Many requests at once over one engine: a thread drives it, everybody else talks to that thread.

Requests are refused at the door when they could not finish. Whoever asks is told of tokens by a function that is called
in the driving thread and must return at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue

from pintpot.errors import Busy, DoesNotFit, PintpotError, need
from pintpot.runtime.counts import Counts
from pintpot.runtime.engine import Engine
from pintpot.runtime.moving import Moves
from pintpot.runtime.queue import Entry, Queue
from pintpot.runtime.request import Request
from pintpot.runtime.scheduler import Drawn, num_positions


@dataclass(frozen=True, slots=True)
class Over:
    """The answer to request `index` ends without a last token: "cancelled", "deadline", or "failed" for `error`."""

    index: int
    ended: str
    error: PintpotError | None = None


Heard = Callable[[Drawn | Over], None]


@dataclass(slots=True)
class _Asked:
    heard: Heard
    asked_at: float
    last_at: float
    deadline: float
    num_prompt: int
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What is going on: requests that run and wait, and pages of the cache in use, kept for others, and in all.

    `num_stops` times an answer was stopped for others; `moves` says how such answers went on.
    """

    num_running: int
    num_waiting: int
    used_pages: int
    idle_pages: int
    num_pages: int
    hit_tokens: int
    asked_tokens: int
    guessed_tokens: int
    right_tokens: int
    num_stops: int
    moves: Moves
    error: str


class Service:
    """An engine and the thread that drives it. At most `most_waiting` requests wait at a time."""

    def __init__(self, engine: Engine, end: frozenset[int], *, most_waiting: int = 256) -> None:
        self.engine, self.counts = engine, Counts()
        self.error: PintpotError | None = None
        self._end, self._most_waiting = end, most_waiting
        self._queue = Queue[Request]()
        self._asked: dict[int, _Asked] = {}
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._numbers = count()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)

    def start(self) -> Service:
        self._thread.start()
        return self

    def submit(self, request: Request, heard: Heard, *, client: str = "", within_s: float = math.inf) -> int:
        """Ask for an answer, whole in so many seconds; returns its number. From any thread.

        Raises UsageError, DoesNotFit for what could never finish, Busy while too many wait.
        """
        with self.counts.refusals():
            self.check(request)
            with self._lock:
                need(not self._closing, "the service is closing", Busy)
                waiting = len(self._asked) - self.engine.num_sequences
                full = f"{max(0, waiting)} requests wait already, and {self._most_waiting} may; try again later"
                need(waiting < self._most_waiting, full, Busy)
                number, now = next(self._numbers), time.monotonic()
                self._asked[number] = _Asked(heard, now, now, now + within_s, len(request.tokens))
        self._orders.put(lambda: self._enter(Entry(number, request, client, now + within_s)))
        self.counts.num_accepted += 1
        return number

    def check(self, request: Request) -> None:
        """Raise UsageError or DoesNotFit, with the number that decides, for what could never be answered."""
        self.engine.check(request)
        pool, context = self.engine.pool, self.engine.context
        pages = pool.num_for(num_positions(request, context))
        need(
            pages <= pool.num_pages,
            f"the prompt and {request.max_tokens} tokens of an answer take {pages} pages of {pool.page_tokens} tokens, "
            f"and the cache has {pool.num_pages}; ask for fewer, or serve with more --memory",
            DoesNotFit,
        )

    def leave(self, number: int) -> None:
        """Nobody wants this answer any more. From any thread; nothing happens where it has ended."""
        self._orders.put(lambda: self._end_early(number, "cancelled"))

    def state(self) -> State:
        """From any thread; numbers of about the same moment."""
        pool, prefixes, num_asked = self.engine.pool, self.engine.prefixes, len(self._asked)
        waiting = min(len(self._queue), num_asked)
        return State(
            num_asked - waiting, waiting, pool.num_used, pool.num_idle, pool.num_pages,
            prefixes.num_hit_tokens if prefixes else 0, prefixes.num_asked_tokens if prefixes else 0,
            self.engine.pace.num_guessed, self.engine.pace.num_right,
            self.engine.num_stops, self.engine.moves, str(self.error or ""),
        )  # fmt: skip

    def running_and_waiting(self) -> tuple[int, int]:
        """How many requests; from any thread."""
        state = self.state()
        return state.num_running, state.num_waiting

    def wait_idle(self, seconds: float) -> bool:
        """Wait until every answer has ended; False when that takes longer."""
        until = time.monotonic() + seconds
        while self._asked and time.monotonic() < until:
            time.sleep(0.01)
        return not self._asked

    def audit(self) -> list[str]:
        """What is wrong with the books of the cache; asked in the driving thread, between two replays."""
        found: SimpleQueue[list[str]] = SimpleQueue()

        def look() -> None:
            prefixes = self.engine.prefixes
            found.put(self.engine.audit() + (prefixes.audit() if prefixes and not self._asked else []))

        need(self._thread.is_alive(), "the service has ended", Busy)
        self._orders.put(look)
        return found.get(timeout=60)

    def close(self) -> None:
        """End all answers and the thread."""
        with self._lock:
            self._closing = True
        self._orders.put(lambda: None)
        self.engine.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _drive(self) -> None:
        try:
            for drawn in self.engine.serve(self._queue, self._end):
                now = time.monotonic()
                for one in drawn or ():
                    self._tell(one, now)
                self._obey(idle=drawn is None)
                if self._closing:
                    return
                self._end_late(time.monotonic())
        except PintpotError as error:
            self.error = error
        finally:
            self._end_all()

    def _end_all(self) -> None:
        with self._lock:
            if not self._closing and self.error is None:
                self.error = PintpotError("the engine has stopped")
            self._closing = True
        for number in tuple(self._asked):
            self._end_early(number, "cancelled" if self.error is None else "failed")
        self._obey(idle=False)

    def _enter(self, entry: Entry[Request]) -> None:
        if entry.number in self._asked:
            self._queue.add(entry)

    def _obey(self, idle: bool) -> None:
        """Do what others have asked for; where there is nothing else to do, wait for it."""
        try:
            if idle and not len(self._queue):
                self._orders.get()()
            while True:
                self._orders.get_nowait()()
        except Empty:
            return

    def _tell(self, one: Drawn, now: float) -> None:
        asked = self._asked.get(one.index)
        if asked is None:
            return
        counts, first = self.counts, asked.num_tokens == 0
        (counts.first_token if first else counts.between_tokens).add(now - asked.last_at)
        counts.rate.add(now, 1)
        counts.num_tokens += 1
        counts.num_prompt_tokens += asked.num_prompt if first else 0
        asked.last_at, asked.num_tokens = now, asked.num_tokens + 1
        self._queue.charge(one.index, 1)
        if one.ended:
            self._forget(one.index, one.ended)
        asked.heard(one)

    def _end_late(self, now: float) -> None:
        with self._lock:
            late = [number for number, asked in self._asked.items() if asked.deadline < now]
        for number in late:
            self._end_early(number, "deadline")

    def _end_early(self, number: int, why: str) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            self.engine.leave(number)
            self._forget(number, why)
            asked.heard(Over(number, why, self.error))

    def _forget(self, number: int, ended: str) -> None:
        self._queue.remove(number)
        with self._lock:
            del self._asked[number]
        self.counts.ended[ended] += 1
