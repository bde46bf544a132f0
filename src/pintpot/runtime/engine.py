"""Drives the scheduler's replays over a bound pack: sequences side by side, their pages, and what they have cached."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pintpot.contract.slots import Slots
from pintpot.errors import UsageError, need
from pintpot.kernels.native.bind import Replay as BoundReplay
from pintpot.planner.plan import Plan
from pintpot.program.spec import Program, Work
from pintpot.runtime.arguments import Arguments
from pintpot.runtime.bound import Stages
from pintpot.runtime.given import Given, Look
from pintpot.runtime.guessing import Guesser, Guessing, pace_of
from pintpot.runtime.likely import likely_of
from pintpot.runtime.moving import NO_MOVES, Moves, Moving
from pintpot.runtime.pages import PagePool, PageTable
from pintpot.runtime.pictures import Picture
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.scheduler import Answer, Drawn, Part, Replay, Scheduler, Turns
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.timing import Timing as Timing
from pintpot.runtime.waiting import InOrder, Waiting

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


class Engine:
    """As many sequences over an open pack as its plan has in its batch; one is the same with a batch of 1.

    `progress(done, total)` is told tokens of prompts that take more than one replay. Only `cancel` may be called from
    another thread.
    """

    def __init__(self, plan: Plan, work: Work, stages: Stages) -> None:
        self.plan = plan
        self.context = plan.budget.workload.context
        self.timing = Timing()
        self.ended = ""
        self.progress: Callable[[int, int], None] | None = None
        slots = Slots()
        for step in plan.steps:
            step.install(slots)
        program = work.stage("prefill").programs[0]
        num_pages, cache = program.shape("layers.0.k_cache")[0], plan.form.cache
        most = num_pages // program.bound("sequences") if cache.window else None
        self.pool = PagePool(num_pages, cache.page_tokens, most)
        self.prefixes: Prefixes | None = None
        self.drafter: Guesser | None = None
        self.mover: Moving | None = None
        tables = [PageTable(self.pool, slots.cache_keep) for _ in range(program.bound("sequences"))]
        self.sequences = tuple(Sequence(seat, table, self.context) for seat, table in enumerate(tables))
        self.pace = pace_of(plan)
        self._given = Given(program, plan.config)
        for sequence in self.sequences:
            sequence.first_row = sequence.seat * self._given.num_rows
        self.look: Look = _sees_nothing
        self._cancel = stages.cancel
        self._stages: Stages | None = stages
        self._arguments = {stage: Arguments(stages[stage], self.context) for stage in ("prefill", "decode")}
        self._scheduler: Scheduler | None = None
        self._turn = 0

    def generate(self, request: Request, end: frozenset[int]) -> Iterator[int]:
        """The tokens of one answer, one by one, the end token among them: `generate_many` of one request."""
        self.check(request)
        return (drawn.token for drawn in self.generate_many((request,), end))

    def generate_many(self, requests: Iterable[Request], end: frozenset[int]) -> Iterator[Drawn]:
        """Tokens of all answers as they come; `Drawn.index` numbers the requests.

        Prompts are read first, several of them in one replay where it has room; then all that answer take a step
        together. Of more requests than there are sequences each waits until one is free, and is asked for only then.
        What of a prompt is cached already is not computed again: words of earlier answers keep the keys and values that
        decode gave them, which may have more planes. An answer that was under way is over with this. Raises
        UsageError for a prompt that leaves no room (`check` tells before), DoesNotFit and BadPack while it runs; the
        cache then holds what it held before the replay that failed.
        """
        self._turn += 1
        self._cancel.clear()
        self.timing, self.ended = Timing(), "cancelled"
        self._scheduler = Scheduler(
            InOrder(map(self._checked, requests)),
            self.sequences,
            self.plan.form.chunk,
            self.context,
            end,
            sections=self._given.sections,
            output=self.plan.budget.workload.output,
            mover=self.mover,
            guessing=self._guessing() if self.plan.budget.workload.guesses else None,
            step_tokens=self.stage("decode").program.bound("tokens"),
        )
        return self._drawn(self._scheduler, self._turn)

    def serve(self, waiting: Waiting, end: frozenset[int], turns: Turns = "in turn") -> Iterator[list[Drawn] | None]:
        """Answer requests that come and go, for as long as somebody asks: the tokens of one replay after the other.

        Where weights come from disk, prompts are read together with steps of those that answer, else by `turns`.
        Beginnings that were read are kept while there is room, and shared. None says that there is nothing to do.
        Between two of them `leave` may be called; `waiting` is asked there, too. Ends when it was cancelled. Raises
        BadPack.
        """
        self._turn += 1
        turn = self._turn
        self._cancel.clear()
        self.reset()
        self.timing, self.ended = Timing(), ""
        form = self.plan.form
        self.pace = pace_of(self.plan)
        self.prefixes = Prefixes(self.pool, shared=not form.cache.window)
        scheduler = self._scheduler = Scheduler(
            waiting, self.sequences, form.chunk, self.context, end,
            turns=turns if form.ring is None else "together", prefixes=self.prefixes, sections=self._given.sections,
            guessing=self._guessing(), step_tokens=self.stage("decode").program.bound("tokens"),
            output=self.plan.budget.workload.output, mover=self.mover,
        )  # fmt: skip
        try:
            while turn == self._turn:
                replay = scheduler.next()
                drawn = None if replay is None else self._step(replay, scheduler)
                if drawn is None and replay is not None:
                    return
                yield drawn
        finally:
            self._forget_prefixes(scheduler)

    @property
    def num_sequences(self) -> int:
        return len(self.sequences)

    @property
    def num_stops(self) -> int:
        """How often an answer was stopped because pages were needed for others, since serving began."""
        return 0 if self._scheduler is None else self._scheduler.lending.num_stops

    @property
    def moves(self) -> Moves:
        """How such answers went on."""
        return NO_MOVES if self.mover is None else self.mover.moves

    def audit(self) -> list[str]:
        """What is wrong with the books of the cache; nothing where every page is where it should be."""
        return self.pool.audit(sequence.table for sequence in self.sequences)

    def _guessing(self) -> Guessing:
        return Guessing(self.pace, self.stage("decode").program.bound("tokens"), self.context, self.drafter)

    def _forget_prefixes(self, scheduler: Scheduler) -> None:
        for index in (*(answer.index for answer in scheduler.live), *scheduler.lending.stopped):
            scheduler.leave(index)
        if self.prefixes is not None:
            self.prefixes.clear()
            self.pool.reclaim = None
        self.prefixes = None
        self.reset()

    def check(self, request: Request) -> None:
        """Raise UsageError for a prompt that leaves no room for an answer."""
        count = len(request.tokens)
        need(
            count < self.context,
            f"the prompt has {count} tokens and the context holds {self.context}, its answer included; "
            f"shorten it, or plan with a larger --context",
            UsageError,
        )
        self._given.check(request)

    def leave(self, index: int) -> None:
        """End the answer to request `index` early, between two tokens; its place goes to the next request."""
        if self._scheduler is not None:
            self._scheduler.leave(index)

    def _checked(self, request: Request) -> Request:
        self.check(request)
        return request

    def _drawn(self, scheduler: Scheduler, turn: int) -> Iterator[Drawn]:
        self._check_turn(turn)
        while (replay := scheduler.next()) is not None:
            drawn = self._step(replay, scheduler)
            if drawn is None:
                self.ended = "cancelled"
                return
            for one in drawn:
                self.ended = one.ended or self.ended
                yield one
                self._check_turn(turn)

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

    def hidden(self, tokens: tuple[int, ...], num_words: int = 0) -> Iterator[memoryview[float]]:
        """States after the last block of a text that fits the context, replay by replay: views of float32 [n, D].

        The last `num_words` tokens are read one by one as words of an answer are, those before them as a prompt. The
        cache is lost. Each part is valid until the next one is asked for. Raises UsageError for a session that was not
        opened for the states of every row.
        """
        need(len(tokens) <= self.context, f"{len(tokens)} tokens do not fit a context of {self.context}", UsageError)
        self._turn += 1
        self._cancel.clear()
        self.reset()
        sequence, prompt = self.sequences[0], len(tokens) - num_words
        sequence.begin(array("i", tokens))
        text = Answer(0, sequence, Request(tokens, 1, Sampling()), len(tokens), frozenset())
        chunk = self.plan.form.chunk
        chunks = [(first, min(prompt, first + chunk)) for first in range(0, prompt, chunk)]
        words = [(first, first + 1) for first in range(prompt, len(tokens))]
        for stage, places in (("prefill", chunks), ("decode", words)):
            bound, arguments = self.stage(stage), self._arguments[stage]
            final = _final_states(bound.program)
            every = bound.program.by_name[final].shape[0] == "tokens"
            need(every, "this session reads prompts for their last words; open it with every_row", UsageError)
            for first, stop in places:
                sequence.table.extend(first, stop)
                arguments.fill((Part(text, first, stop, last=stage == "decode"),))
                bound.run(arguments.call)
                yield bound.rows(final, stop - first)
        self.reset()

    def cancel(self) -> None:
        """End the answers under way; may be called from a signal handler or another thread."""
        self._cancel.set()

    def reset(self) -> None:
        """Forget everything that is cached."""
        for sequence in self.sequences:
            sequence.forget(0)

    def _step(self, replay: Replay, scheduler: Scheduler) -> list[Drawn] | None:
        """Replay one stage and take its tokens; None when it was cancelled: the cache holds what it held before."""
        tokens = self.replay(replay.stage, replay.parts)
        if tokens is None:
            return None
        if replay.stage == "prefill" and self.progress is not None:
            read, total = scheduler.progress()
            if read < total:
                self.progress(read, total)
        drawn = scheduler.drew(replay, tokens, likely_of(self.stage(replay.stage), replay.parts, tokens))
        self.timing.decode_tokens += len(drawn) if replay.stage == "decode" else 0
        return drawn

    def replay(self, stage: str, parts: tuple[Part, ...]) -> list[int] | None:
        """The tokens that the parts' rows give, which are cached then; None when it was cancelled."""
        bound, arguments = self.stage(stage), self._arguments[stage]
        done = False
        try:
            for part in parts:
                sequence = part.answer.sequence
                sequence.table.extend(part.first, part.stop)
                if sequence.placed.pictures:
                    self._given.fill(bound, sequence, part.first, part.stop, self.look)
            num_rows = arguments.fill(parts)
            started = time.perf_counter()
            done = bound.run(arguments.call)
            seconds = time.perf_counter() - started
        finally:
            for part in parts:
                if done:
                    part.answer.sequence.num_cached = part.stop
                else:
                    part.answer.sequence.forget(part.first)
        self.timing.note(stage, arguments.call.num_tokens, seconds)
        if stage == "decode":
            self.pace.took(arguments.call.num_tokens, seconds)
        return bound.integers("next")[:num_rows].tolist() if done else None


def _sees_nothing(picture: Picture) -> Mapping[str, NDArray[float32]]:
    raise UsageError("nobody here turns images into rows of embedding")


def _final_states(program: Program) -> str:
    """The buffer of the states that logits are made of: what the head reads, or what its rows are selected from."""
    found = [op for op in program.ops if op.kind == "linear"][-1].read("x")
    selecting = (op.read("x") for op in program.ops if op.kind == "select" and op.write("out") == found)
    return str(next(selecting, found))
