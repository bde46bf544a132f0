"""Many requests at once: joins, leaves, deadlines and shared beginnings change no answer, and every page comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from packing import EXACT, INT8, STREAMED, opened, pack_of
from tiny import Tiny, write_hf

from pintpot.contract.step import Step
from pintpot.errors import Busy, DoesNotFit, UsageError
from pintpot.runtime.pages import PagePool, PageTable
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.queue import Entry, Queue
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.scheduler import Drawn, Scheduler
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.service import Over, Service
from pintpot.runtime.waiting import InOrder
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.sink_window import SinkWindow

GREEDY = Sampling(temperature=0.0)
TINY = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=21)
CONTEXT = 160


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("service") / "model", TINY)


@pytest.fixture(scope="module")
def pack(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(source, tmp_path_factory.mktemp("service") / "pack", EXACT, context=CONTEXT, batch=4)


@contextmanager
def serving(pack: Path, **how: int) -> Iterator[Service]:
    with opened(pack) as session:
        service = Service(session.engine, frozenset(), **how).start()
        try:
            yield service
        finally:
            service.close()


class Ear:
    """Hears one answer."""

    def __init__(self) -> None:
        self.told: SimpleQueue[Drawn | Over] = SimpleQueue()

    def whole(self) -> tuple[list[int], str]:
        tokens = []
        while True:
            one = self.told.get(timeout=60)
            if isinstance(one, Over):
                return tokens, one.ended
            tokens.append(one.token)
            if one.ended:
                return tokens, one.ended


def ask(service: Service, request: Request, **how: float) -> tuple[int, Ear]:
    ear = Ear()
    return service.submit(request, ear.told.put, **how), ear  # type: ignore[arg-type]


def mixed(number: int, seed: int = 3) -> list[Request]:
    """Requests of many lengths, half of them with one of two beginnings."""
    draw = np.random.default_rng(seed)
    heads = [draw.integers(3, 700, size).tolist() for size in (70, 40)]
    requests = []
    for index in range(number):
        head = heads[index % 2] if draw.random() < 0.5 else []
        prompt = (*head, *draw.integers(3, 700, int(draw.integers(1, 60))).tolist())
        requests.append(Request(prompt, 1 + int(draw.integers(1, 25)), GREEDY))
    return requests


def alone(pack: Path, asked: list[Request]) -> list[list[int]]:
    answers = []
    with opened(pack) as session:
        for request in asked:
            session.engine.reset()
            answers.append(list(session.engine.generate(request, frozenset())))
    return answers


FORMS: dict[str, tuple[Step, ...]] = {
    "float": EXACT, "int8": INT8, "window": (*EXACT, SinkWindow(window=64, sinks=4)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_requests_alone(form: str, source: Path, tmp_path: Path) -> None:
    """Some leave early; the others get what they get alone, and all pages come back."""
    folder = pack_of(source, tmp_path / "pack", FORMS[form], context=CONTEXT, batch=4)
    asked = mixed(24)
    wanted = alone(folder, asked)
    with serving(folder) as service:
        ears = [ask(service, request, client=str(index % 3)) for index, request in enumerate(asked)]
        for index in (5, 6, 17):
            service.leave(ears[index][0])
        for index, (_, ear) in enumerate(ears):
            tokens, ended = ear.whole()
            assert tokens == (wanted[index] if ended == "length" else wanted[index][: len(tokens)])
            assert ended == "length" or index in (5, 6, 17)
        assert service.audit() == []
        state = service.state()
        assert (state.num_running, state.num_waiting, state.used_pages) == (0, 0, 0)
        assert form == "window" or state.hit_tokens > 0
        assert service.counts.num_accepted == 24 == sum(service.counts.ended.values())


def test_weights_on_disk_are_read_once_for_prompts_and_answers(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack", (*EXACT, STREAMED), context=CONTEXT, batch=4)
    asked = mixed(8)
    with serving(folder) as service:
        ears = [ask(service, request)[1] for request in asked]
        assert [len(ear.whole()[0]) for ear in ears] == [request.max_tokens for request in asked]
        assert service.audit() == []


def test_a_long_prompt_holds_nobody_up_for_longer_than_a_chunk() -> None:
    """A scheduler without a device: between two steps of an answer lies one chunk at most."""
    pool = PagePool(64, 32)
    sequences = tuple(Sequence(seat, PageTable(pool, lambda at: ((0, at),)), 512) for seat in range(2))
    requests = [Request((1, 2, 3), 30), Request(tuple(range(400)), 2)]
    scheduler = Scheduler(InOrder(requests), sequences, 64, 512, frozenset(), turns="in turn")
    stages = []
    while (replay := scheduler.next()) is not None:
        for part in replay.parts:
            part.answer.sequence.num_cached = part.stop
        stages.append((replay.stage, sum(part.stop - part.first for part in replay.parts)))
        scheduler.drew(replay, [7] * sum(part.num_rows for part in replay.parts))
    prompts = [index for index, (stage, _) in enumerate(stages) if stage == "prefill"]
    assert [stages[index][1] for index in prompts] == [64] * 6 + [19]
    assert all(after - before == 2 for before, after in pairwise(prompts))


@pytest.mark.parametrize("seed", range(4))
def test_between_two_words_of_an_answer_lies_one_chunk_at_most(seed: int) -> None:
    """Prompts of any length that arrive at any time: whoever answers is in every second replay at least."""
    draw = np.random.default_rng(seed)
    pool, context, chunk = PagePool(400, 32), 1024, 48
    sequences = tuple(Sequence(seat, PageTable(pool, lambda at: ((0, at),)), context) for seat in range(8))
    queue = Queue[Request]()
    scheduler = Scheduler(queue, sequences, chunk, context, frozenset(), turns="in turn", prefixes=Prefixes(pool))
    waited: dict[int, int] = {}
    number = largest = 0
    while number < 60 or scheduler.live:
        for _ in range(int(draw.integers(3)) if number < 60 else 0):
            prompt = tuple(draw.integers(0, 99, int(draw.choice((5, 50, 900)))).tolist())
            queue.add(Entry(number, Request(prompt, 1 + int(draw.integers(40))), str(number % 5)))
            number += 1
        answering = {answer.index for answer in scheduler.live if answer.num_drawn}
        replay = scheduler.next()
        if replay is None:
            continue
        assert sum(part.stop - part.first for part in replay.parts) <= (chunk if replay.stage == "prefill" else 8)
        for index in answering:
            waited[index] = 0 if index in {part.answer.index for part in replay.parts} else waited.get(index, 0) + 1
            largest = max(largest, waited[index])
        for part in replay.parts:
            part.answer.sequence.table.extend(part.first, part.stop)
            part.answer.sequence.num_cached = part.stop
        scheduler.drew(replay, [7] * sum(part.num_rows for part in replay.parts))
    assert largest == 1


def test_a_beginning_that_was_read_is_not_read_again(pack: Path) -> None:
    head = tuple(range(10, 107))
    with serving(pack) as service:
        for tail in (1, 2, 3):
            ask(service, Request((*head, tail), 2, GREEDY))[1].whole()
        state = service.state()
        assert (state.hit_tokens, state.asked_tokens) == (2 * 96, 3 * 98)
        assert service.engine.timing.prompt_tokens == 3 * 98 - 2 * 96
        assert state.idle_pages == 3


def test_what_cannot_finish_is_refused_at_the_door(pack: Path) -> None:
    with serving(pack, most_waiting=2) as service:
        with pytest.raises(UsageError, match="160"):
            ask(service, Request(tuple(range(160)), 1))
        service.engine.pool.num_pages, whole = 3, service.engine.pool.num_pages
        with pytest.raises(DoesNotFit, match="4 pages of 32 tokens, and the cache has 3"):
            ask(service, Request((1, 2, 3), 100, GREEDY))
        service.engine.pool.num_pages = whole
        with pytest.raises(Busy, match="2 may"):
            for _ in range(40):
                ask(service, Request((1, 2, 3), 150, GREEDY))
        assert service.counts.num_refused == 3
    with pytest.raises(Busy, match="closing"):
        ask(service, Request((1,), 1))


def test_deadlines_and_closing_end_answers(pack: Path) -> None:
    with serving(pack) as service:
        late = ask(service, Request((1, 2, 3), 150, GREEDY), within_s=0.0)[1]
        assert late.whole()[1] == "deadline"
        cut = ask(service, Request((1, 2, 3), 150, GREEDY))[1]
        service.close()
        assert cut.whole()[1] in ("cancelled", "length")
        assert service.engine.audit() == []


def test_log_probabilities_are_those_of_the_logits(pack: Path) -> None:
    with serving(pack) as service:
        ear = ask(service, Request((5, 6, 7), 3, GREEDY, num_likely=4))[1]
        for _ in range(3):
            drawn = ear.told.get(timeout=60)
            assert isinstance(drawn, Drawn)
            assert drawn.likely is not None
            assert drawn.likely.top[0] == (drawn.token, drawn.likely.logprob)
            assert sorted((value for _, value in drawn.likely.top), reverse=True) == [v for _, v in drawn.likely.top]
            assert sum(math.exp(value) for _, value in drawn.likely.top) < 1


def test_clients_take_turns_and_deadlines_decide_within_one() -> None:
    queue = Queue()
    request = Request((1,) * 10, 1)
    for number in range(4):
        queue.add(Entry(number, request, "greedy"))
    queue.add(Entry(4, request, "modest", deadline=9.0))
    queue.add(Entry(5, request, "modest", deadline=3.0))
    order = []
    while (one := queue.take(lambda number, request: True)) is not None:
        order.append(one[0])
    assert order == [5, 0, 4, 1, 2, 3] or order == [0, 5, 1, 4, 2, 3]
    assert queue.take(lambda number, request: True) is None
    for number in order:
        queue.remove(number)
    queue.add(Entry(6, request, "greedy"))
    assert queue.take(lambda number, request: False) is None, "who is next is waited for"
    assert queue.take(lambda number, request: True) == (6, request)


def test_pages_of_beginnings_are_given_up_when_they_are_needed() -> None:
    pool = PagePool(8, 4)
    prefixes = Prefixes(pool)
    sequence = Sequence(0, PageTable(pool, lambda at: ((0, at),)), 32)

    def read(*tokens: int) -> int:
        prompt = memoryview(np.array(tokens, np.int32).data).cast("B").cast("i")
        prefixes.begin(sequence, prompt)
        known = sequence.num_cached
        sequence.tokens[: len(tokens)] = prompt
        sequence.table.extend(known, len(tokens))
        sequence.num_cached = sequence.num_known = len(tokens)
        prefixes.keep(sequence, len(tokens))
        sequence.forget(0)
        assert pool.audit([sequence.table]) == prefixes.audit() == []
        return known

    first, other = tuple(range(1, 18)), tuple(range(50, 67))
    assert read(*first) == 0
    assert read(*first) == 16
    assert read(*other) == 0
    assert (pool.num_idle, pool.num_free) == (7, 1)
    assert read(*first[:8], 99, 98, 97, 96, 95) == 8, "what was used least recently goes first, from its end"
    assert read(*first) == 8
    prefixes.clear()
    assert pool.num_free == 8


def test_idle_service_takes_no_time(pack: Path) -> None:
    with serving(pack) as service:
        ask(service, Request((1, 2), 2, GREEDY))[1].whole()
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.2
        assert service.wait_idle(1)


def test_a_beginning_that_many_have_is_read_once_even_where_they_come_at_once(source: Path, tmp_path: Path) -> None:
    steps = (*EXACT[:1], PrefillChunk(tokens=128))
    folder = pack_of(source, tmp_path / "pack", steps, context=CONTEXT, batch=4)
    asked = [Request((*range(10, 80), tail), 4, GREEDY) for tail in range(4)]
    wanted = alone(folder, asked)
    with serving(folder) as service:
        ears = [ask(service, request)[1] for request in asked]
        assert [ear.whole()[0] for ear in ears] == wanted
        # Two whole pages of 71 tokens are shared; who came in the same moment waited for them.
        assert service.engine.timing.prompt_tokens <= 71 + 3 * 7 + 71
        assert service.audit() == []
