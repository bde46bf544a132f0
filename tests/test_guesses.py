"""Guessed words: they change no answer, greedy or drawn, are made where they pay, and leave no page behind."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from packing import EXACT, FREE, INT8, MACHINE, opened, pack_of, plan_of
from test_service import CONTEXT, TINY, ask, serving
from tiny import write_hf

from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit
from pintpot.hosting import serve
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.explain import explain
from pintpot.planner.guessing import best
from pintpot.planner.memory import recall, remember
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.sensitivity import table_key
from pintpot.runtime.drafter import Drafter
from pintpot.runtime.guesses import Luck, Pace, looked_up, may_guess
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.service import Service
from pintpot.server.drafting import refuse_beside
from pintpot.server.learning import learn
from pintpot.techniques.cache.sink_window import SinkWindow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("guesses") / "model", TINY)


FORMS: dict[str, tuple[Step, ...]] = {
    "float": EXACT, "int8": INT8, "window": (*EXACT, SinkWindow(window=64, sinks=4)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_guesses_change_no_word(form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with as many guesses as there is room for, beside those of a session that never guesses."""
    folder = pack_of(source, tmp_path / "pack", FORMS[form], context=CONTEXT, batch=8)
    # Few words may come, so that they repeat. The same seed gives the same ones.
    few = tuple((word, 40.0) for word in (5, 60, 600))
    asked = [
        Request(tuple(range(9 + seed, 30)), 40, Sampling(heat, seed=seed), bias=few)
        for seed, heat in enumerate((0.0, 0.3, 1.0, 3.0))
    ]
    asked.append(Request((5, 60, 600) * 9, 7, Sampling(temperature=0.0), bias=few, num_likely=2))
    wanted = []
    with opened(folder) as session:
        for request in asked:
            session.engine.reset()
            wanted.append([one.token for one in session.engine.generate_many((request,), frozenset())])
        assert session.engine.pace.num_guessed == 0
    monkeypatch.setattr(Pace, "most", lambda self, luck, number, making=0.0: 64)
    with serving(folder) as service:
        found = [ask(service, request)[1].whole()[0] for request in asked]
        assert found == wanted
        ears = [ask(service, request)[1] for request in asked]
        assert [ear.whole()[0] for ear in ears] == wanted
        assert service.audit() == []
        state = service.state()
        assert state.guessed_tokens > state.right_tokens > 0, "some were right, and some were wrong"
        assert state.used_pages == 0


def test_words_that_came_before_are_looked_up() -> None:
    def after(*tokens: int, most: int = 4) -> tuple[int, ...]:
        return looked_up(memoryview(array("i", tokens)), most)

    assert after(1, 2, 3, 4, 5, 1, 2, 3) == (4, 5, 1, 2)
    assert after(1, 2, 3, 4, 9, 1, 2, 3, 7, 8, 1, 2, 3, most=2) == (7, 8), "the latest place counts"
    assert after(5, 2, 3, 4, 6, 2, 3) == (4, 6, 2, 3), "two words, where three did not come before"
    assert after(1, 2, 3, 4) == after(1) == after() == ()
    # Bytes that lie across two words are none.
    assert after(0x01000000, 0x02000000, 7, 1, 2) == ()


def test_who_may_guess() -> None:
    assert may_guess(Request((1,), 1))
    assert not may_guess(Request((1,), 1, Sampling(repetition_penalty=1.1)))
    assert not may_guess(Request((1,), 1, Sampling(presence_penalty=0.5)))


def test_guesses_stop_where_they_do_not_pay() -> None:
    cheap, dear = Pace(), Pace()
    for tokens in (1, 2, 4, 1, 8):
        cheap.took(tokens, 0.010 + 0.0005 * tokens)
        dear.took(tokens, 0.010 * tokens)
    right, wrong = Luck(), Luck()
    for _ in range(40):
        right.learn(2, 2)
        wrong.learn(0, 2)
    assert cheap.share_of_token(1) == pytest.approx(0.0005 / 0.0105, rel=1e-6)
    assert cheap.most(right, 1) >= 8
    assert cheap.most(Luck(), 1) < cheap.most(right, 1)
    assert sum(cheap.most(wrong, 1) for _ in range(100)) == 2, "now and then one guess, to see whether luck has turned"
    assert sum(dear.most(right, 1) for _ in range(100)) <= 2, "where a token costs a step, none pays"
    planned = Pace(0.1, 4)
    assert planned.share_of_token(4) == pytest.approx(0.1), "as planned, until steps of several widths were taken"
    assert planned.share_of_token(1) == pytest.approx(1 / 7), "fewer words share the same fixed part"
    full, fresh = Pace(0.05, 16), Luck()
    assert sum(full.most(fresh, 16) for _ in range(49)) == 0, "where arithmetic binds a full batch guesses nothing"
    assert full.most(Luck(), 1) == 3, "and one sequence by itself does"


@pytest.mark.parametrize("other", [21, 22], ids=["the same model", "another model"])
def test_a_draft_changes_no_word(other: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft of the same weights is right whenever the likeliest word is drawn, another one hardly ever."""
    folder = pack_of(source, tmp_path / "pack", EXACT, context=CONTEXT, batch=8)
    smaller = write_hf(tmp_path / "smaller", replace(TINY, seed=other))
    draft = pack_of(smaller, tmp_path / "draft", EXACT, context=CONTEXT - 32, batch=4)
    asked = [
        Request(tuple(range(5 + seed, 60)), 30 + 20 * seed, Sampling(heat, seed=seed))
        for seed, heat in enumerate((0.0, 0.0, 0.3))
    ]
    with opened(folder) as session:
        wanted = [list(session.engine.generate(request, frozenset())) for request in asked]
    monkeypatch.setattr(Pace, "most", lambda self, luck, number, making=0.0: 3)
    with opened(folder) as session, opened(draft) as drafting:
        session.engine.drafter = Drafter(drafting.engine)
        service = Service(session.engine, frozenset()).start()
        try:
            assert [ask(service, request)[1].whole()[0] for request in asked] == wanted
            ears = [ask(service, request)[1] for request in asked]
            assert [ear.whole()[0] for ear in ears] == wanted
            assert service.audit() == drafting.engine.audit() == []
            state = service.state()
        finally:
            service.close()
    assert state.guessed_tokens > 60
    assert (state.right_tokens > 0.3 * state.guessed_tokens) == (other == TINY.seed)


def test_one_sequence_has_room_for_guesses_where_its_plan_says_so(source: Path, tmp_path: Path) -> None:
    """`pintpot run --guesses`: the same words, and some steps give several."""
    model = describe(str(source))
    plan = plan_of(model, EXACT, context=CONTEXT, guesses=6)
    folder = write_pack(model, plan, tmp_path / "pack")
    few = tuple((word, 40.0) for word in (5, 60, 600))
    request = Request(tuple(range(9, 30)), 60, Sampling(temperature=0.0), bias=few)
    with opened(pack_of(source, tmp_path / "plain", EXACT, context=CONTEXT)) as session:
        wanted = list(session.engine.generate(request, frozenset()))
        assert len(session.engine.timing.step_s) == 59
    with opened(folder) as session:
        session.engine.pace.most = lambda luck, number, making=0.0: 6  # type: ignore[method-assign]
        assert list(session.engine.generate(request, frozenset())) == wanted
        assert len(session.engine.timing.step_s) < 50
        assert session.engine.pace.num_right > 10


def test_what_guesses_bring_by_hand() -> None:
    assert best(0.0, 1.0, 0.1, 8) == 1.0, "what is never right is not guessed"
    assert best(1.0, 1.0, 0.0, 7) == pytest.approx(8.0)
    assert best(0.5, 1.0, 0.1, 1) == pytest.approx(1.5 / 1.1)
    assert best(0.5, 0.5, 0.1, 1) == pytest.approx(1.25 / 1.05), "in half of the steps there is nothing to guess"
    assert best(0.9, 1.0, 1.0, 8) == 1.0, "where a token costs a step, none pays"
    assert best(0.9, 1.0, 0.05, 8, making=0.2) < best(0.9, 1.0, 0.05, 8)


def test_a_plan_tells_what_guesses_would_bring_and_knows_what_was_seen(source: Path, tmp_path: Path) -> None:
    model = describe(str(source))
    plan = plan_of(model, EXACT, context=CONTEXT, guesses=6)
    unknown = plan.cost.guessing
    assert unknown is not None
    assert (unknown.low, unknown.measured) == (1.0, False)
    assert unknown.high == pytest.approx(best(0.93, 1.0, unknown.token_share, 6))
    assert Plan.from_json(plan.to_json()).cost.guessing == unknown
    remember("abc", "here", plan, guesses=(0.5, 0.25), folder=tmp_path)
    remember("abc", "here", plan, guesses=(0.7, 0.5), folder=tmp_path)
    seen = recall("abc", "here", folder=tmp_path).guesses
    assert seen == ((0.5, 0.25), (0.7, 0.5))
    known = assess(replace(Question(model, MACHINE, plan.budget, FREE), guesses=seen), EXACT).cost.guessing
    assert known is not None
    assert known.measured
    assert known.low == pytest.approx(best(0.5, 0.25, known.token_share, 6))
    assert known.high == pytest.approx(best(0.7, 0.5, known.token_share, 6))
    told = next(row for row in explain(plan).speed if row.what.startswith("guessed"))
    assert (told.slow, told.binds) == ("1 times", "how often they are right was not measured")


def test_shares_are_known_from_enough_guesses_alone() -> None:
    pace, luck = Pace(), Luck()
    for _ in range(10):
        pace.tried(found=True)
        pace.tried(found=False)
        pace.learn(luck, 2, 4)
    assert pace.shares is None
    for _ in range(20):
        pace.learn(luck, 2, 4)
    pace.learn(luck, 3, 3, drafted=True)
    assert pace.shares == (pytest.approx(2 / 3), 0.5)


def test_a_server_keeps_what_it_saw_for_the_next_plan(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path))
    folder = pack_of(source, tmp_path / "pack", EXACT, context=CONTEXT, batch=4)
    monkeypatch.setattr(Pace, "shares", (0.5, 0.25))
    with opened(folder) as session:
        learn(folder, session)
        assert recall(table_key(describe(str(source))), session.plan.machine_fingerprint).guesses == ((0.5, 0.25),)


def test_a_draft_that_does_not_fit_is_refused_with_the_numbers(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pack_of(source, tmp_path / "pack", EXACT, context=CONTEXT)
    monkeypatch.setattr("pintpot.server.drafting.attainable_bytes", lambda: 90_000_000)
    with pytest.raises(DoesNotFit, match=r"the pack takes .* and its draft .*, and 90.0 MB are free"):
        refuse_beside(folder, folder)
    with pytest.raises(
        DoesNotFit, match=r"of 100 MB nothing is left.* the server itself takes 96.0 MB, the draft .* MB"
    ):
        serve(source, memory="100MB", draft=folder, port=0)
