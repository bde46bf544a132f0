"""Pages that run out: who stops goes on later and says the same, nobody starves, and nothing is left on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packing import FREE, MACHINE, opened, pack_of
from test_service import CONTEXT, GREEDY, TINY, alone, ask, mixed
from tiny import write_hf

from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit
from pintpot.hosting.ahead import BATCHES, best_batch
from pintpot.model.read import describe
from pintpot.planner.assess import assess
from pintpot.planner.cost import Span
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.lending import Lending
from pintpot.runtime.moving import Moving
from pintpot.runtime.pages import PagePool, PageTable
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.queue import Entry, Queue
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.scheduler import Replay, Scheduler
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.service import Service
from pintpot.runtime.session import Session
from pintpot.server.writing import Writing
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.lent_pages import LentPages
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

LENT = LentPages(tokens=64)
FORMS: dict[str, tuple[Step, ...]] = {
    "float": (AsStored("all"), PrefillChunk(tokens=16), LENT),
    "two planes": (RoundToNearest("all", 8), Int8Activations(), PrefillChunk(tokens=16), LENT),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("lending") / "model", TINY)


@pytest.fixture(scope="module")
def packs(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {
        name: pack_of(source, folder / name, steps, context=CONTEXT, batch=6, output=8) for name, steps in FORMS.items()
    }


@contextmanager
def served(session: Session) -> Iterator[Service]:
    service = Service(session.engine, frozenset()).start()
    try:
        yield service
    finally:
        service.close()


def moving(session: Session, page_s: float) -> Moving:
    """The session's own, to which a page takes so long."""
    mover = session.engine.mover
    assert mover is not None
    mover.moves.page_s = page_s
    return mover


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("page_s", [0.0, 1e-12], ids=["computed again", "moved"])
def test_who_stopped_says_what_it_says_alone(
    form: str, page_s: float, packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six sequences want 30 pages of which there are 12: many stop, and answers are those of each request alone."""
    monkeypatch.setattr(Lending, "learn", lambda self, answer: None)
    asked = [replace(one, max_tokens=80 + index % 12) for index, one in enumerate(mixed(18)) if len(one.tokens) < 70]
    asked += [replace(one, sampling=Sampling(1.0, seed=index)) for index, one in enumerate(asked[:4])]
    wanted = alone(packs[form], asked)
    with opened(packs[form]) as session:
        assert session.engine.pool.num_pages == 12
        mover = moving(session, page_s)
        with served(session) as service:
            ears = [ask(service, request, client=str(index % 3)) for index, request in enumerate(asked)]
            service.leave(ears[3][0])
            for index, (_, ear) in enumerate(ears):
                tokens, ended = ear.whole()
                assert tokens == (wanted[index] if ended == "length" else wanted[index][: len(tokens)]), index
                assert ended == "length" or index == 3, service.error
            assert service.audit() == []
            state, moves = service.state(), mover.moves
            assert state.used_pages == 0
            assert state.num_stops == moves.num_moved + moves.num_computed > 2
            writing = Writing(session, service)
            told = {family.name: dict(family.samples) for family in writing.families(writing.gauges())}
            assert told["stopped_total"] == {'{by="moved"}': moves.num_moved, '{by="computed"}': moves.num_computed}
            assert (moves.num_moved > 0) == (moves.moved_bytes > 0) == (page_s > 0)
        assert service.engine.audit() == []
        stray = [path for path in packs[form].iterdir() if path.name.startswith(".")]
        assert not stray


def test_several_answers_of_a_session_share_its_pages(packs: dict[str, Path]) -> None:
    asked = [Request(tuple(range(3 + index, 40 + index)), 100, GREEDY) for index in range(8)]
    wanted = alone(packs["float"], asked)
    with opened(packs["float"]) as session:
        said: list[list[int]] = [[] for _ in asked]
        for drawn in session.engine.generate_many(asked, frozenset()):
            said[drawn.index].append(drawn.token)
        assert said == wanted
        assert session.engine.num_stops > 0
        assert session.engine.audit() == []


def test_pages_that_cannot_be_read_back_are_computed_again(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Request(tuple(range(3 + index, 40 + index)), 100, GREEDY) for index in range(6)]
    wanted = alone(packs["float"], asked)
    with opened(packs["float"]) as session:
        mover = moving(session, 1e-12)
        monkeypatch.setattr("os.preadv", lambda *given: (_ for _ in ()).throw(OSError("broken")))
        with served(session) as service:
            ears = [ask(service, request)[1] for request in asked]
            assert [ear.whole()[0] for ear in ears] == wanted
        assert mover.moves.num_moved > 0


def test_a_folder_that_takes_no_file_means_computing_again(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> int:
        raise PermissionError("read-only")

    monkeypatch.setattr("pintpot.runtime.moving._nameless", refused)
    asked = [Request(tuple(range(3 + index, 40 + index)), 100, GREEDY) for index in range(6)]
    with opened(packs["float"]) as session:
        mover = moving(session, 1e-12)
        with served(session) as service:
            ears = [ask(service, request)[1] for request in asked]
            assert [len(ear.whole()[0]) for ear in ears] == [100] * 6
        assert (mover.moves.num_moved, mover.moves.moved_bytes) == (0, 0)
        assert mover.moves.num_computed > 0


KILLED = """
import os, signal, sys
from pathlib import Path
from array import array
from packing import opened
with opened(Path(sys.argv[1])) as session:
    mover, sequence = session.engine.mover, session.engine.sequences[0]
    mover.moves.page_s = 1e-12
    sequence.begin(array("i", range(1, 100)))
    sequence.table.extend(0, 99)
    sequence.num_cached = 99
    assert mover.save(sequence, 99) is not None
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_where_the_process_is_killed(packs: dict[str, Path]) -> None:
    before = sorted(os.listdir(packs["float"]))
    done = subprocess.run([sys.executable, "-c", KILLED, str(packs["float"])], cwd=Path(__file__).parent)
    assert done.returncode == -signal.SIGKILL
    assert sorted(os.listdir(packs["float"])) == before


def test_what_is_moved_comes_back_to_the_bit(packs: dict[str, Path]) -> None:
    with opened(packs["float"]) as session:
        mover, (one, other, *_) = moving(session, 1e-12), session.engine.sequences
        bound = session.engine.stage("decode")
        drawn = np.random.default_rng(5)
        for name, _ in mover._page_bytes:
            cache = bound.bytes(name)
            cache[:] = drawn.bytes(len(cache))
        one.begin(array("i", range(1, 100)))
        one.table.extend(0, 99)
        one.num_cached = 99
        size = dict(mover._page_bytes)

        def lying(name: str, sequence: Sequence) -> list[bytes]:
            return [bytes(bound.bytes(name)[page * size[name] :][: size[name]]) for page in sequence.table.pages]

        before = {name: lying(name, one) for name in size}
        kept = mover.save(one, 99)
        assert kept is not None
        one.forget(0)
        session.engine.pool.take()
        other.begin(array("i", range(1, 101)))
        other.table.extend(0, 99)
        mover.load(kept, other)
        assert other.num_cached == 99
        assert other.table.pages != list(range(len(other.table.pages)))
        assert {name: lying(name, other) for name in size} == before
        mover.drop(kept)
        assert sorted(mover._unused) == sorted(kept.records)


def walked(scheduler: Scheduler, sequences: tuple[Sequence, ...]) -> Iterator[Replay]:
    """Replays without a device; the next word is the sum of all that is known."""
    pool = sequences[0].table.pool
    while (replay := scheduler.next()) is not None:
        tokens = []
        for part in replay.parts:
            sequence = part.answer.sequence
            assert part.first == sequence.num_cached
            sequence.table.extend(part.first, part.stop)
            sequence.num_cached = part.stop
            tokens += [-1] * part.told
            if part.last:
                tokens.append(sum(sequence.tokens[: sequence.num_known]) % 50)
        yield replay
        scheduler.drew(replay, tokens)
        assert pool.audit([one.table for one in sequences]) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shared", [True, False])
def test_whoever_is_stopped_goes_on(seed: int, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random requests of three clients over far too few pages: all end, and nobody stops again while others could."""
    monkeypatch.setattr(Lending, "learn", lambda self, answer: None)
    draw = np.random.default_rng(seed)
    pool, context = PagePool(20, 4), 64
    sequences = tuple(Sequence(seat, PageTable(pool, lambda at: ((0, at),)), context) for seat in range(7))
    queue, asked = Queue(), []
    for number in range(40):
        prompt = tuple(draw.integers(0, 3, int(draw.integers(1, 30))).tolist())
        asked.append(Request(prompt, 1 + int(draw.integers(1, 30)), GREEDY))
        queue.add(Entry(number, asked[-1], str(draw.integers(3)), deadline=float(draw.integers(5))))
    prefixes = Prefixes(pool) if shared else None
    scheduler = Scheduler(
        queue, sequences, 16, context, frozenset(), turns="in turn", prefixes=prefixes, step_tokens=7, output=2
    )
    said: dict[int, list[int]] = {number: [] for number in range(40)}
    most = 0
    for replay in walked(scheduler, sequences):
        assert sum(part.stop - part.first for part in replay.parts) <= (16 if replay.stage == "prefill" else 7)
        most = max(most, *(part.answer.num_stops for part in replay.parts))
        for part in replay.parts:
            words = (part.first, part.stop)
            assert part.stop <= part.answer.num_prompt or replay.stage == "decode", words
            assert part.first >= part.answer.num_prompt or replay.stage == "prefill", words
            known = part.answer.sequence
            if part.last:
                said[part.answer.index].append(sum(known.tokens[: known.num_known]) % 50)
                queue.charge(part.answer.index, 1)
    for number, request in enumerate(asked):
        known = list(request.tokens)
        for word in said[number]:
            assert word == sum(known) % 50
            known.append(word)
        assert len(said[number]) == request.max_tokens or len(known) == context + 1
    assert scheduler.lending.num_stops > 2
    assert most <= 2, "who was stopped is the last to stop again"
    assert not scheduler.lending.stopped


def test_the_latest_deadline_and_the_client_that_had_most_stop_first() -> None:
    queue = Queue()
    request = Request((1,) * 10, 1)
    for number, (client, deadline) in enumerate((("a", 9.0), ("a", 3.0), ("b", 99.0))):
        queue.add(Entry(number, request, client, deadline))
    while queue.take(lambda number, request: True) is not None:
        pass
    assert max(range(3), key=queue.right) == 0, "a was served twice as much, and 9 is later than 3"
    for _ in range(30):
        queue.charge(2, 1)
    assert max(range(3), key=queue.right) == 2
    queue.stop(2, request)
    assert len(queue) == 1
    assert queue.take(lambda number, request: True) == (2, request)
    assert queue._served["b"] == 40, "nobody pays for a prompt twice"


def planned(source: Path, lending: bool, memory: int = 4_000_000_000) -> Plan:
    budget = Budget(memory, Workload(context=CONTEXT, batch=6, prompt=20, output=20), 1e9, lending=lending, threads=1)
    steps = [step for step in FORMS["float"] if lending or not isinstance(step, LentPages)]
    return assess(Question(describe(str(source)), MACHINE, budget, FREE), steps)


def test_plans_say_what_a_lent_cache_saves_and_what_moving_costs(source: Path) -> None:
    whole, lent = planned(source, False), planned(source, True)
    sizes = [next(h.high for h in plan.cost.holders if h.name == "cache") for plan in (whole, lent)]
    assert sizes[0] * 2 == sizes[1] * 5, "5 pages each, and 2"
    assert (whole.cost.page_s.mid, lent.cost.page_s.mid > 0) == (0.0, True)
    assert Plan.from_json(lent.to_json()) == lent
    with pytest.raises(DoesNotFit):
        planned(source, False, lent.cost.memory_high)


def test_techniques_offer_it_where_it_is_allowed(source: Path) -> None:
    model = describe(str(source))

    def offered(**how: object) -> tuple[Step, ...]:
        work = Workload(context=CONTEXT, prompt=20, output=20, batch=int(str(how.pop("batch", 6))))
        return LentPages.offers(model, MACHINE, Budget(10**9, work, **how))  # type: ignore[arg-type]

    assert offered(lending=True) == (LentPages(tokens=96),)
    assert offered() == offered(lending=True, batch=1) == ()


def test_a_server_lends_pages_where_whole_contexts_do_not_fit(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan takes and gives is made up; more memory than it takes refuses it."""
    asked: list[tuple[int, bool]] = []

    def plan(model: object, *, batch: int, lending: bool, memory: int) -> Plan:
        asked.append((batch, lending))
        made = planned(source, lending)
        need = batch * (2 if lending else 5) * 1000
        if need > memory:
            raise DoesNotFit(f"needs {need}")
        stage = replace(made.cost.stage("decode"), tokens=batch * 1000, seconds=Span(1.0, 1.0, 1.0))
        holders = (replace(made.cost.holders[0], high=need),)
        cost = replace(made.cost, stages=(made.cost.stages[0], stage), holders=holders)
        return replace(made, cost=cost, budget=replace(made.budget, memory_bytes=memory))

    monkeypatch.setattr("pintpot.api.plan", plan)
    model = describe(str(source))
    assert best_batch(model, {"memory": 1_000_000}) == {"batch": 32, "lending": False}
    assert len(asked) == len(BATCHES), "where everything fits nothing else is weighed"
    assert best_batch(model, {"memory": 64_000}) == {"batch": 32, "lending": True}
    assert best_batch(model, {"memory": 5_000}) == {"batch": 2, "lending": True}
    with pytest.raises(DoesNotFit, match="needs"):
        best_batch(model, {"memory": 1_000})
