"""Guessed words: they change no answer, greedy or drawn, are made where they pay, and leave no page behind."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from packing import EXACT, INT8, opened, pack_of
from test_service import CONTEXT, TINY, ask, serving
from tiny import write_hf

from pintpot.contract.step import Step
from pintpot.runtime.drafter import Drafter
from pintpot.runtime.guesses import Luck, Pace, looked_up, may_guess
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.service import Service
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
    assert Pace().share_of_token(4) == 0.15


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
