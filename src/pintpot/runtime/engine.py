"""Drives the loops over a bound pack: one sequence, its page table, and what is in its cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.slots import Slots
from pintpot.errors import UsageError, need
from pintpot.kernels.native.bind import Replay as BoundReplay
from pintpot.planner.plan import Plan
from pintpot.program.spec import Work
from pintpot.runtime.bound import Stages
from pintpot.runtime.loops import Replay, decode
from pintpot.runtime.pages import NO_PAGE, PagePool, PageTable
from pintpot.runtime.request import Request

if TYPE_CHECKING:
    from pintpot._native import Call


@dataclass
class Timing:
    """What replays took: tokens and seconds of prompts, and of words after the first."""

    prompt_tokens: int = 0
    prompt_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    step_s: list[float] = field(default_factory=list)


class Engine:
    """One sequence over an open pack. `cached` are the tokens whose keys and values the cache holds, in order.

    `progress(done, total)` is told tokens of a prompt that takes more than one chunk. Only `cancel` may be called from
    another thread.
    """

    def __init__(self, plan: Plan, work: Work, stages: Stages) -> None:
        self.plan = plan
        self.context = plan.budget.workload.context
        self.cached: list[int] = []
        self.timing = Timing()
        self.ended = ""
        self.progress: Callable[[int, int], None] | None = None
        slots = Slots()
        for step in plan.steps:
            step.install(slots)
        pages = work.stage("prefill").programs[0].shape("layers.0.k_cache")[0]
        self._table = PageTable(PagePool(pages, plan.form.cache.page_tokens), slots.cache_keep)
        self._cancel = stages.cancel
        self._stages: Stages | None = stages
        self._calls: dict[str, Call] = {stage: stages[stage].call(self.context) for stage in ("prefill", "decode")}
        self._turn = 0

    def generate(self, request: Request, end: frozenset[int]) -> Iterator[int]:
        """Tokens one by one, the end token among them. What of the prompt is cached already is not computed again.

        An answer that was under way is over with this. Raises UsageError for a prompt that leaves no room, DoesNotFit
        and BadPack while it runs; the cache then holds what it held before the replay that failed.
        """
        count = len(request.tokens)
        need(
            count < self.context,
            f"the prompt has {count} tokens and the context holds {self.context}, its answer included; "
            f"shorten it, or plan with a larger --context",
            UsageError,
        )
        self._turn += 1
        self._cancel.clear()
        self.timing, self.ended = Timing(), "cancelled"
        return self._tokens(request, frozenset() if request.ignore_end else end, self._turn)

    def _tokens(self, request: Request, end: frozenset[int], turn: int) -> Iterator[int]:
        self._check_turn(turn)
        known = self._reuse(request.tokens)
        loop = decode(request.tokens[known:], known, self.context, self.plan.form.chunk, request.max_tokens, end)
        history = list(request.tokens)
        try:
            replay = next(loop)
            while True:
                token = self._replay(replay, request, history)
                if token is None:
                    return
                if replay.last:
                    history.append(token)
                    yield token
                    self._check_turn(turn)
                elif self.progress is not None:
                    self.progress(replay.position + len(replay.tokens), len(request.tokens))
                replay = loop.send(token)
        except StopIteration as stop:
            self.ended = str(stop.value)

    def _check_turn(self, turn: int) -> None:
        need(turn == self._turn, "another answer has begun since, or the session was closed", UsageError)

    def close(self) -> None:
        """Let go of the memory; nothing can be generated any more."""
        self._turn += 1
        self._stages = None

    def stage(self, name: str) -> BoundReplay:
        """The bound program of a stage. Raises UsageError once the session is closed."""
        if self._stages is None:
            raise UsageError("the session is closed")
        return self._stages[name]

    def hidden(self, tokens: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
        """States after the last block of a text that fits the context, chunk by chunk: float32 [n, D].

        The cache is lost. Each part is valid until the next one is asked for.
        """
        need(len(tokens) <= self.context, f"{len(tokens)} tokens do not fit a context of {self.context}", UsageError)
        self._turn += 1
        self._cancel.clear()
        self._forget(0)
        bound, call, chunk = self.stage("prefill"), self._calls["prefill"], self.plan.form.chunk
        final = next(str(op.read("x")) for op in bound.program.ops if op.kind == "select")
        for first in range(0, len(tokens), chunk):
            replay = Replay("prefill", tokens[first : first + chunk], first, last=False)
            self._fill(call, replay, self._table.extend(first, first + len(replay.tokens)))
            bound.run(call)
            yield bound.floats(final)[: len(replay.tokens)]
        self._forget(0)

    def cancel(self) -> None:
        """End the answer under way; may be called from a signal handler or another thread."""
        self._cancel.set()

    def reset(self) -> None:
        """Forget everything that is cached."""
        self._forget(0)

    def _reuse(self, tokens: tuple[int, ...]) -> int:
        """Positions at the start of the prompt whose cache can stay; at least one token is always computed."""
        same = 0
        for known, asked in zip(self.cached, tokens[:-1], strict=False):
            if known != asked:
                break
            same += 1
        if same < len(self.cached) and NO_PAGE in self._table.pages:
            # A window let pages go that an earlier position would see.
            same = 0
        self._forget(same)
        return same

    def _forget(self, position: int) -> None:
        self._table.truncate(position)
        del self.cached[position:]

    def _replay(self, replay: Replay, request: Request, history: list[int]) -> int | None:
        """Replay one stage; None when it was cancelled. The cache then holds what it held before."""
        bound, call = self.stage(replay.stage), self._calls[replay.stage]
        count = len(replay.tokens)
        pages = self._table.extend(replay.position, replay.position + count)
        self._fill(call, replay, pages)
        self._fill_sampling(call, request, history, replay.position + count)
        started = time.perf_counter()
        done = False
        try:
            done = bound.run(call)
        finally:
            if done:
                self.cached += replay.tokens
            else:
                self._forget(min(len(self.cached), replay.position))
        self._note(replay, time.perf_counter() - started)
        return self._token(bound) if done else None

    def _fill(self, call: Call, replay: Replay, pages: list[int]) -> None:
        count = len(replay.tokens)
        call.num_tokens, call.num_rows, call.num_sequences = count, int(replay.last), 1
        call.tokens[:count] = replay.tokens
        call.positions[:count] = np.arange(replay.position, replay.position + count, dtype=np.int32)
        call.sequence[:count] = 0
        call.rows[0] = count - 1
        call.pages[0, : len(pages)] = pages

    def _fill_sampling(self, call: Call, request: Request, history: list[int], counter: int) -> None:
        how = request.sampling
        call.temperature[0], call.top_k[0], call.top_p[0] = how.temperature, how.top_k, how.top_p
        call.min_p[0], call.penalty[0] = how.min_p, how.repetition_penalty
        call.seed[0], call.counter[0] = how.seed, counter
        call.history_length[0] = 0
        if how.repetition_penalty != 1.0:
            recent = history[-self.context :]
            call.history[0, : len(recent)] = recent
            call.history_length[0] = len(recent)

    def _note(self, replay: Replay, seconds: float) -> None:
        if replay.stage == "prefill":
            self.timing.prompt_tokens += len(replay.tokens)
            self.timing.prompt_s += seconds
        else:
            self.timing.decode_tokens += 1
            self.timing.decode_s += seconds
            self.timing.step_s.append(seconds)

    @staticmethod
    def _token(bound: BoundReplay) -> int:
        return int(bound.integers("next")[0])
