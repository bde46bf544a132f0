"""An open pack: conversations, limits, sampling, interruptions, and memory that is given back."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import EXACT, INT8, MACHINE, STREAMED, opened, pack_of
from tiny import Tiny, write_hf

from pintpot.budget import Budget, Workload
from pintpot.errors import DoesNotFit, UsageError
from pintpot.machine.null import null_machine
from pintpot.meter.memory import resident_bytes
from pintpot.model.read import describe
from pintpot.planner.make import make_plan
from pintpot.runtime.opening import BUFFERED, open_session
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session, Summary
from pintpot.techniques.quantize.int8_activations import Int8Activations

GREEDY = Sampling(temperature=0.0)
TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21)
CONTEXT = 192


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("runtime") / "model", TINY)


@pytest.fixture(scope="module")
def pack(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(source, tmp_path_factory.mktemp("runtime") / "pack", INT8, context=CONTEXT)


@pytest.fixture
def session(pack: Path) -> Iterator[Session]:
    with opened(pack) as session:
        yield session


def tokens(session: Session, prompt: tuple[int, ...], count: int, sampling: Sampling = GREEDY) -> list[int]:
    return list(session.engine.generate(Request(prompt, count, sampling, (), True), frozenset()))


def test_words_are_read_one_by_one_as_answers_are(source: Path, pack: Path, tmp_path: Path) -> None:
    text = tuple(range(5, 65))
    others, found = [step for step in INT8 if not isinstance(step, Int8Activations)], {}
    folders = {"one": pack}
    for name, rows in {"two": Int8Activations(), "both": Int8Activations(prefill=2, decode=2)}.items():
        folders[name] = pack_of(source, tmp_path / name, (*others, rows), context=CONTEXT)
    for name, folder in folders.items():
        with opened(folder, every_row=True) as session:
            for num_words in (0, 20):
                parts = [np.array(part) for part in session.engine.hidden(text, num_words)]
                assert [len(part) for part in parts] == ([16, 16, 8, *[1] * 20] if num_words else [16, 16, 16, 12])
                found[name, num_words] = np.concatenate(parts)
    assert np.array_equal(found["both", 0], found["both", 20]), "the same arithmetic, one way or the other"
    assert np.array_equal(found["one", 0], found["two", 0]), "prompts are read in one plane"
    assert np.array_equal(found["two", 20][:40], found["two", 0][:40])
    differs = np.abs(found["two", 20][40:] - found["two", 0][40:])
    assert 0 < differs.max() < 0.1 * np.abs(found["two", 0]).max()


def test_states_of_every_token_are_there_for_whoever_opened_the_pack_for_them(session: Session, pack: Path) -> None:
    with pytest.raises(UsageError, match="every_row"):
        next(session.engine.hidden(tuple(range(5, 40))))
    with opened(pack, every_row=True) as every:
        prompt = tuple(range(5, 45))
        assert tokens(every, prompt, 8) == tokens(session, prompt, 8), "either way the answers are the same"


class Counting:
    """A native replay that counts how often it is called, and what of it."""

    def __init__(self, native: Any) -> None:
        self.native, self.runs, self.others = native, 0, 0

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        return self.native.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        self.others += 1
        return getattr(self.native, name)


def counted(session: Session, stage: str) -> Counting:
    replay = session.engine.stage(stage)
    counting = Counting(replay._native)
    replay._native = counting  # type: ignore[assignment]
    return counting


def test_a_decode_step_is_one_native_call(session: Session) -> None:
    prefill, decode = counted(session, "prefill"), counted(session, "decode")
    assert len(tokens(session, (5, 6, 7), 10)) == 10
    assert (prefill.runs, decode.runs, prefill.others, decode.others) == (1, 9, 0, 0)


def test_a_long_prompt_comes_in_chunks_and_tells_how_far_it_is(session: Session) -> None:
    prefill, told = counted(session, "prefill"), []
    session.engine.progress = lambda done, total: told.append((done, total))
    tokens(session, tuple(range(3, 103)), 2)
    assert prefill.runs == 7
    assert told == [(16 * n, 100) for n in range(1, 7)]


def test_the_cache_of_earlier_turns_is_kept(session: Session) -> None:
    first = "".join(session.chat("What is a pint?", sampling=GREEDY, max_tokens=8))
    assert session.engine.timing.prompt_tokens == session.summary().num_prompt_tokens
    cached = list(session.engine.sequences[0].cached)
    "".join(session.chat("And a quart?", sampling=GREEDY, max_tokens=8))
    summary = session.summary()
    same = session.engine.timing.prompt_tokens
    assert same < summary.num_prompt_tokens - len(cached) // 2
    kept = summary.num_prompt_tokens - same
    assert session.engine.sequences[0].cached[:kept] == cached[:kept]
    session.reset()
    assert "".join(session.chat("What is a pint?", sampling=GREEDY, max_tokens=8)) == first
    assert session.engine.timing.prompt_tokens == session.summary().num_prompt_tokens


def test_what_is_cached_changes_no_token(session: Session) -> None:
    prompt, other = tuple(range(10, 60)), (*range(10, 40), 99, 98, 97)
    alone = {}
    for name, asked in (("prompt", prompt), ("other", other)):
        session.engine.reset()
        alone[name] = tokens(session, asked, 12)
    assert tokens(session, prompt, 12) == alone["prompt"]
    assert session.engine.timing.prompt_tokens == 20
    assert tokens(session, other, 12) == alone["other"]
    assert session.engine.timing.prompt_tokens == 3
    assert tokens(session, other, 12) == alone["other"]
    assert session.engine.timing.prompt_tokens == 1


def test_limits_are_told_with_their_numbers(session: Session, source: Path) -> None:
    with pytest.raises(UsageError, match=rf"{CONTEXT} tokens and the context holds {CONTEXT}"):
        tokens(session, (5,) * CONTEXT, 1)
    assert len(tokens(session, (5,) * (CONTEXT - 1), 9)) == 2
    assert session.engine.ended == "context"
    with pytest.raises(UsageError, match="context of 300 is beyond the model's 256"):
        make_plan(describe(str(source)), MACHINE, Budget(10**9, Workload(context=300)))
    with pytest.raises(UsageError, match="prompt is empty"):
        session.complete("")


def test_answers_end_as_asked(session: Session) -> None:
    assert len(tokens(session, (5, 6, 7), 5)) == 5
    assert session.engine.ended == "length"
    drawn = tokens(session, (5, 6, 7), 30)
    end = drawn[4]
    found = list(session.engine.generate(Request((5, 6, 7), 30, GREEDY), frozenset({end})))
    assert found == drawn[: drawn.index(end) + 1]
    assert session.engine.ended == "end"
    assert len(list(session.engine.generate(Request((5, 6, 7), 30, GREEDY, (), True), frozenset()))) == 30


def test_a_stop_string_cuts_the_answer(session: Session) -> None:
    whole = "".join(session.complete("Once upon a time", sampling=GREEDY, max_tokens=24, ignore_end=True))
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    cut = "".join(session.complete("Once upon a time", sampling=GREEDY, max_tokens=24, stop=(middle,), ignore_end=True))
    assert cut == whole[: whole.index(middle)]
    assert session.summary().ended == "stop"


def test_seeds_repeat_and_differ(session: Session) -> None:
    hot = Sampling(temperature=2.0, seed=7)
    one = tokens(session, (5, 6, 7), 16, hot)
    assert tokens(session, (5, 6, 7), 16, hot) == one
    assert tokens(session, (5, 6, 7), 16, replace(hot, seed=8)) != one
    assert tokens(session, (5, 6, 7), 16, replace(hot, top_k=1)) == tokens(session, (5, 6, 7), 16)
    assert tokens(session, (5, 6, 7), 16, replace(hot, min_p=1.0)) == tokens(session, (5, 6, 7), 16)
    assert len(set(tokens(session, (5, 6, 7), 16, Sampling(0.0, repetition_penalty=10.0)))) > 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5},
        {"min_p": -0.1}, {"repetition_penalty": 0}, {"repetition_penalty": float("nan")}, {"seed": -1}, {"seed": 2**64},
    ],
)  # fmt: skip
def test_sampling_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)


def test_requests_are_checked(session: Session) -> None:
    with pytest.raises(UsageError, match="no answer"):
        Request((1,), 0)
    with pytest.raises(UsageError, match="stop string"):
        Request((1,), 1, stop=("",))
    with pytest.raises(UsageError, match="token"):
        tokens(session, (5, TINY.vocab), 2)
    with pytest.raises(UsageError, match="token"):
        tokens(session, (5, -1), 2)
    assert len(tokens(session, (5, 6), 2)) == 2


# --- Interruptions ------------------------------------------------------------------------------------------------


def test_cancelling_ends_the_answer_and_not_the_session(session: Session) -> None:
    whole = tokens(session, (5, 6, 7), 100)
    found = []
    for token in session.engine.generate(Request((5, 6, 7), 100, GREEDY, (), True), frozenset()):
        found.append(token)
        if len(found) == 5:
            threading.Thread(target=session.cancel).start()
            time.sleep(0.05)
    assert found == whole[:5]
    assert session.engine.ended == "cancelled"
    assert tokens(session, (5, 6, 7), 100) == whole


def test_cancelling_in_the_middle_of_a_prompt(session: Session) -> None:
    prompt = tuple(range(3, 163))
    whole = tokens(session, prompt, 8)
    session.engine.reset()

    def told(done: int, total: int) -> None:
        if done >= 64:
            session.cancel()

    session.engine.progress = told
    assert tokens(session, prompt, 8) == []
    session.engine.progress = None
    assert len(session.engine.sequences[0].cached) == 64
    assert tokens(session, prompt, 8) == whole
    assert session.engine.timing.prompt_tokens == 160 - 64


def test_a_keyboard_interrupt_leaves_the_session_usable(session: Session) -> None:
    whole = tokens(session, (5, 6, 7), 150)
    answers = session.engine.generate(Request((5, 6, 7), 150, GREEDY, (), True), frozenset())
    next(answers)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            answer_for_ever(session)
    finally:
        signal.signal(signal.SIGINT, before)
    assert tokens(session, (5, 6, 7), 150) == whole


def answer_for_ever(session: Session) -> None:
    while True:
        tokens(session, (5, 6, 7), 150)


def test_an_answer_that_was_left_alone_is_over_when_another_begins(session: Session) -> None:
    first = session.engine.generate(Request((5, 6, 7), 50, GREEDY, (), True), frozenset())
    next(first)
    whole = tokens(session, (8, 9, 10), 12)
    with pytest.raises(UsageError, match="another answer"):
        next(first)
    session.engine.reset()
    assert tokens(session, (8, 9, 10), 12) == whole


def test_a_conversation_keeps_what_a_cancelled_answer_said(session: Session) -> None:
    pieces = session.chat("Tell me all", sampling=GREEDY, max_tokens=100)
    said = ""
    for piece in pieces:
        said += piece
        session.cancel()
    assert said
    "".join(session.chat("Go on", sampling=GREEDY, max_tokens=4))
    assert session.engine.timing.prompt_tokens < session.summary().num_prompt_tokens


# --- Memory -------------------------------------------------------------------------------------------------------


def test_a_closed_session_gives_its_memory_back(tmp_path: Path) -> None:
    large = Tiny(hidden=512, intermediate=1024, layers=4, heads=8, kv_heads=8, head_dim=64, context=4096, seed=1)
    folder = pack_of(write_hf(tmp_path / "large", large), tmp_path / "pack", EXACT, context=4096)
    gc.collect()
    # What packing left to the allocator would else be given back in between, by the loading of the tokenizer.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes()
    session = opened(folder)
    answers = session.complete("Once upon a time", max_tokens=20, ignore_end=True)
    next(answers)
    held = resident_bytes() - before
    assert held > 60_000_000
    session.close()
    assert resident_bytes() - before < 0.2 * held
    with pytest.raises(UsageError, match="closed"):
        list(answers)
    with pytest.raises(UsageError, match="closed"):
        list(session.complete("Once", max_tokens=2))
    session.close()


def test_a_session_that_does_not_open_leaves_nothing(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pintpot.packer.locks import alone

    monkeypatch.setattr("pintpot.runtime.opening.attainable_bytes", lambda: 1_000_000)
    with pytest.raises(DoesNotFit, match=r"1\.00 MB are free"):
        opened(pack)
    with alone(pack):
        pass


def test_a_summary_says_where_more_memory_was_taken_than_was_promised() -> None:
    kept = Summary(80_000_000, 79_000_000, 10.0, 20.0, 15.0, 100.0, 0.1, 8, 8, "end")
    assert kept.holds
    assert str(kept).startswith("memory 79.0 MB of 80.0 MB promised; ")
    broken = replace(kept, memory_bytes=81_500_000)
    assert not broken.holds
    assert str(broken).startswith("memory 81.5 MB of 80.0 MB promised, 1.50 MB too much; ")


HELD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from packing import opened
with opened(Path(sys.argv[1])) as session:
    print(json.dumps([session.held, {holder.name: holder.high for holder in session.plan.cost.holders}]))
"""


def test_holders_are_measured_each(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack", (*INT8, STREAMED))
    command = [sys.executable, "-c", HELD, str(folder), str(Path(__file__).parent)]
    held, promised = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert set(held) == set(promised)
    for name in ("cache", "buffers", "tables", "weights in RAM", "ring for streamed weights"):
        assert 0 <= held[name] <= promised[name] + 400_000, name


NO_NUMPY = """
import sys
from pathlib import Path
from pintpot.machine.null import null_machine
from pintpot.runtime.opening import open_session
with open_session(Path(sys.argv[1]), null_machine()) as session:
    assert "".join(session.complete("Once", max_tokens=8, ignore_end=True))
print("numpy" in sys.modules)
"""


def test_a_run_needs_no_numpy(pack: Path) -> None:
    # It would be sixteen megabytes of every budget, and a fifth of the time to the first word.
    done = subprocess.run([sys.executable, "-c", NO_NUMPY, str(pack)], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("fits", [True, False])
def test_weights_are_under_way_before_the_runtime_is_imported_if_the_pack_fits(pack: Path, fits: bool) -> None:
    from pintpot.runtime.begun import begin, find

    with find(pack) as found:
        weights = found.raw["resident_bytes"]
        assert weights > 0
        if not fits:
            found.raw["plan"]["cost"]["holders"][0]["high"] = 1 << 50
        loader = begin(found).loader
        deadline = time.monotonic() + (5.0 if fits else 0.1)
        while loader.beside(lambda: 0) > -weights and time.monotonic() < deadline:
            time.sleep(0.001)
        assert loader.beside(lambda: 0) == (-weights if fits else 0)


# --- Other machines, other disks ----------------------------------------------------------------------------------


def test_a_pack_of_another_machine_says_so_and_is_priced_again(pack: Path) -> None:
    here = replace(null_machine(ram_bw=5e9), name="a slower one", fingerprint="other")
    with opened(pack) as same, open_session(pack, here) as session:
        assert same.notes == ()
        assert session.notes == ("packed for null; priced again for a slower one",)
        assert session.plan.cost.stage("decode").seconds.mid > same.plan.cost.stage("decode").seconds.mid
        assert session.plan.machine_fingerprint == "other"
        assert tokens(session, (5, 6, 7), 12) == tokens(same, (5, 6, 7), 12)


def test_a_pack_that_does_not_fit_another_machine_is_refused(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fat = replace(null_machine(process_bytes=50_000_000_000), fingerprint="other")
    monkeypatch.setattr("pintpot.runtime.opening.attainable_bytes", lambda: 8 * 10**9)
    with pytest.raises(DoesNotFit, match=r"8\.00 GB are free"):
        open_session(pack, fat)


def test_one_core_gets_one_thread(source: Path, tmp_path: Path) -> None:
    """In a plan that is made there, and in one that was made for two."""
    alone = replace(null_machine(threads=1), fingerprint="other")
    budget = Budget(1 << 30, Workload(CONTEXT, 1, 32, 16))
    assert [make_plan(describe(source), here, budget).threads for here in (MACHINE, alone)] == [2, 1]
    pack = pack_of(source, tmp_path / "pack", INT8, context=CONTEXT, threads=2)
    with opened(pack) as two, open_session(pack, alone) as one:
        assert (two.plan.threads, one.plan.threads) == (2, 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_session_that_waits_for_a_person_takes_no_time(source: Path, tmp_path: Path, streamed: bool) -> None:
    made = pack_of(source, tmp_path / "pack", (*INT8, STREAMED) if streamed else INT8, context=CONTEXT)
    with opened(made, threads=2) as session:
        assert (session.ring is not None) == streamed
        assert len(tokens(session, (5, 6, 7), 12)) == 12
        time.sleep(0.05)  # the ring is full again
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.02


@pytest.mark.parametrize("threads", [0, -1, 100])
def test_threads_that_make_no_sense(pack: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="threads"):
        opened(pack, threads=threads)


def test_a_disk_that_refuses_direct_reads(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pack_of(source, tmp_path / "pack", (*INT8, STREAMED))
    with opened(folder) as session:
        expected = tokens(session, (5, 6, 7), 12)
        assert BUFFERED not in session.notes
    monkeypatch.setenv("PINTPOT_NO_DIRECT", "1")
    with opened(folder) as session:
        assert tokens(session, (5, 6, 7), 12) == expected
        assert BUFFERED in session.notes


def test_threads_asked_for_are_threads_used(pack: Path) -> None:
    with opened(pack, threads=2) as session:
        assert session.plan.threads == 2
        assert session.notes == ()
