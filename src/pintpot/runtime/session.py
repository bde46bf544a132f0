"""An open pack that somebody talks to: text in, text out, and a line at the end of what was promised and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.machine.spec import Machine
from pintpot.meter.memory import available, peak_bytes, resident_bytes
from pintpot.model.tokens import StopMatcher, TextStream, Tokenizer, conversation, encode_chat, from_folder
from pintpot.packer.manifest import Manifest, read_manifest
from pintpot.packer.packed_model import packed_model
from pintpot.packer.shelf import in_use
from pintpot.planner.assess import rebuild_work, reprice
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.holders import LOADER, PROCESS, TOKENIZER
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.program.layout import lay_out
from pintpot.program.scratch import scratch_bytes
from pintpot.runtime.request import Request, Sampling
from pintpot.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from pintpot.runtime.engine import Engine
    from pintpot.runtime.memory import PackMemory

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """Promised and measured, of the last answer. Speeds in tokens per second; 0 where nothing was measured."""

    promised_memory_bytes: int
    memory_bytes: int
    promised_decode_low: float
    promised_decode_high: float
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    num_prompt_tokens: int
    num_tokens: int
    ended: str

    def __str__(self) -> str:
        return (
            f"memory {format_bytes(self.memory_bytes)} of {format_bytes(self.promised_memory_bytes)} promised; "
            f"first word after {format_seconds(self.first_token_s)}; "
            f"decode {format_rate(self.decode_tokens_per_s, 'tok/s')} "
            f"({self.promised_decode_low:.3g} to {self.promised_decode_high:.3g} promised)"
        )


class Held:
    """Resident memory by holder, as it grew while a pack was opened: each is the growth since the last mark."""

    def __init__(self) -> None:
        self._last = resident_bytes()
        self.by_holder: dict[str, int] = {PROCESS: self._last}

    def mark(self, holder: str) -> None:
        now = resident_bytes()
        self.by_holder[holder] = self.by_holder.get(holder, 0) + now - self._last
        self._last = now


class Session:
    """One conversation over an open pack. A context manager; close it to give its memory back."""

    engine: Engine
    memory: PackMemory
    held: Held

    def __init__(self, folder: Path, plan: Plan, tokenizer: Tokenizer, notes: tuple[str, ...], stack: ExitStack) -> None:
        self.folder, self.plan, self.tokenizer, self.notes = folder, plan, tokenizer, notes
        self._stack = stack
        self._messages: list[dict[str, str]] = []
        self._first_token_s = 0.0
        self._num_tokens = self._num_prompt = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give memory and lock back."""
        self._stack.close()

    def chat(
        self,
        text: str,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """The answer to one more turn of the conversation, piece by piece; the cache of the earlier turns is kept.

        `system` counts on the first turn. Raises UsageError when the conversation no longer fits the context.
        """
        head = [] if self._messages or not system else [{"role": "system", "content": system}]
        messages = conversation(text, None, [*head, *self._messages])
        tokens = tuple(encode_chat(self.tokenizer, messages))
        answer: list[str] = []
        for piece in self._answer(Request(tokens, max_tokens, sampling or Sampling(), stop)):
            answer.append(piece)
            yield piece
        self._messages = [dict(m) for m in messages] + [{"role": "assistant", "content": "".join(answer)}]

    def complete(
        self,
        text: str,
        *,
        sampling: Sampling | None = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
        ignore_end: bool = False,
    ) -> Iterator[str]:
        """What the model writes after a text as it stands, without a chat template."""
        tokens = tuple(self.tokenizer.encode(text))
        yield from self._answer(Request(tokens, max_tokens, sampling or Sampling(), stop, ignore_end))

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages.clear()
        self.engine.reset()

    def cancel(self) -> None:
        """End the answer under way; may be called from a signal handler or another thread."""
        self.engine.cancel()

    def summary(self) -> Summary:
        """Promised and measured, of the last answer."""
        timing, cost = self.engine.timing, self.plan.cost
        promised = cost.stage("decode").tokens_per_s
        return Summary(
            promised_memory_bytes=cost.memory_high,
            memory_bytes=peak_bytes(),
            promised_decode_low=promised.low,
            promised_decode_high=promised.high,
            decode_tokens_per_s=timing.decode_tokens / timing.decode_s if timing.decode_s else 0.0,
            prefill_tokens_per_s=timing.prompt_tokens / timing.prompt_s if timing.prompt_s else 0.0,
            first_token_s=self._first_token_s,
            num_prompt_tokens=self._num_prompt,
            num_tokens=self._num_tokens,
            ended=self.engine.ended,
        )

    def _answer(self, request: Request) -> Iterator[str]:
        started = time.perf_counter()
        stream, stopper = TextStream(self.tokenizer, request.tokens), StopMatcher(request.stop)
        self._num_tokens, self._num_prompt = 0, len(request.tokens)
        for token in self.engine.generate(request, frozenset(self.tokenizer.eos_ids)):
            if self._num_tokens == 0:
                self._first_token_s = time.perf_counter() - started
            self._num_tokens += 1
            piece = stopper.push(stream.push(token))
            if piece:
                yield piece
            if stopper.stopped:
                self.engine.ended = "stop"
                return
        rest = stopper.push(stream.finish()) + stopper.finish()
        if rest:
            yield rest


def open_session(
    folder: Path,
    machine: Machine,
    *,
    threads: int | None = None,
    isa: str = "",
    progress: Progress | None = None,
) -> Session:
    """Open a pack: tokenizer first, then all memory at once, so that what started never runs out.

    A pack made on another machine is priced again, and refused where it does not fit. Raises BadPack, DoesNotFit.
    """
    import pintpot.runtime.everything  # noqa: F401  (all of it before memory is first looked at)

    stack = ExitStack()
    try:
        held = Held()
        stack.enter_context(in_use(folder))
        manifest, _ = read_manifest(folder)
        manifest, notes = _here(manifest, machine, threads)
        _refuse_too_large(manifest.plan)
        held.mark(LOADER)
        tokenizer = Tokenizer.load(from_folder(folder))
        held.mark(TOKENIZER)
        session = Session(folder, manifest.plan, tokenizer, notes, stack)
        session.held = held
        _open_engine(session, manifest, isa, progress)
        return session
    except BaseException:
        stack.close()
        raise


def _open_engine(session: Session, manifest: Manifest, isa: str, progress: Progress | None) -> None:
    # Late, so that a pack that is refused costs no native library.
    from pintpot._native import Pool
    from pintpot.runtime.bound import bind_stages
    from pintpot.runtime.engine import Engine
    from pintpot.runtime.memory import open_memory

    plan = manifest.plan
    work = rebuild_work(plan)
    layout = lay_out(work)
    scratch = max(scratch_bytes(program, plan.threads) for program in work.programs())
    session.held.mark(LOADER)
    memory = open_memory(session.folder, manifest, layout, scratch, session.held.mark, progress)
    session._stack.callback(memory.close)
    session.engine = Engine(plan, work, bind_stages(manifest, work, layout, memory, Pool(plan.threads), isa=isa))
    session.memory = memory
    session.held.mark(LOADER)


def _here(manifest: Manifest, machine: Machine, threads: int | None) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with its plan priced for this machine and this many threads, and what a person should know."""
    plan, notes = manifest.plan, []
    wanted = threads or min(plan.threads, machine.cpu.threads)
    need(wanted >= 1, f"{wanted} threads compute nothing; use 1 or more", UsageError)
    need(wanted <= 4 * machine.cpu.threads, f"{wanted} threads are too many for {machine.cpu.threads} cores", UsageError)
    if plan.machine_fingerprint == machine.fingerprint and wanted == plan.threads:
        return manifest, ()
    if plan.machine_fingerprint != machine.fingerprint:
        notes.append(f"packed for {plan.machine_name}; priced again for {machine.name}")
    budget = replace(plan.budget, threads=wanted)
    question = Question(packed_model(manifest), machine, budget, shipped_priors())
    return replace(manifest, plan=reprice(plan, question)), tuple(notes)


def _refuse_too_large(plan: Plan) -> None:
    room = available().num_bytes
    if plan.cost.memory_high > room:
        raise DoesNotFit(
            f"the pack needs {format_bytes(plan.cost.memory_high)} and {format_bytes(room)} are free; "
            f"free some memory, or plan for less"
        )
