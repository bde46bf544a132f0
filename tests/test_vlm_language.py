"""The language half of vision-language models: rows that are given, their positions, and the words that follow them."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
import vlms
from packing import EXACT, f32_cache, opened, plan_of
from reference_model import ReferenceModel

from pintpot.errors import UsageError
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack
from pintpot.runtime.pictures import Picture
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session

GREEDY = Sampling(temperature=0.0)
COUNT = 12
NAMES = vlms.NAMES


def pictures_of(vlm: vlms.Vlm, first: int = 1000) -> tuple[Picture, ...]:
    found = []
    for grid in vlm.grids:
        found.append(Picture(first, grid))
        first += found[-1].num_rows
    return tuple(found)


def prompt_of(vlm: vlms.Vlm, pictures: tuple[Picture, ...]) -> tuple[int, ...]:
    """Its tokens, with those of pictures where it has the word that stands for them."""
    rows = iter([token for picture in pictures for token in picture.tokens])
    return tuple(next(rows) if token == vlms.IMAGE else token for token in vlm.tokens)


class Eyes:
    """Gives each picture its rows of what transformers made of the images, and counts."""

    def __init__(self, vlm: vlms.Vlm, pictures: tuple[Picture, ...]) -> None:
        self.rows, self.deeper = vlms.features(vlm)
        self.starts, self.seen = {}, []
        at = 0
        for picture in pictures:
            self.starts[picture.first] = slice(at, at + picture.num_rows)
            at += picture.num_rows

    def __call__(self, picture: Picture) -> dict[str, np.ndarray]:
        self.seen.append(picture.first)
        rows = self.starts[picture.first]
        return {"given": self.rows[rows]} | {f"given.{at}": one[rows] for at, one in enumerate(self.deeper)}


def pack_of(vlm: vlms.Vlm, folder: Path, given: int, **how: object) -> Path:
    model = describe(str(vlms.write(vlm, folder / "model")))
    plan = plan_of(model, EXACT, context=250, given=given, change=f32_cache, **how)  # type: ignore[arg-type]
    return write_pack(model, plan, folder / "pack")


def words(session: Session, prompt: tuple[int, ...], pictures: tuple[Picture, ...], count: int = COUNT) -> list[int]:
    request = Request(prompt, count, GREEDY, (), True, pictures=pictures)
    return list(session.engine.generate(request, frozenset()))


@pytest.mark.parametrize("name", NAMES)
def test_answers_after_images_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    vlm = vlms.make(name)
    pictures = pictures_of(vlm)
    rows = sum(picture.num_rows for picture in pictures)
    with opened(pack_of(vlm, tmp_path, rows)) as session:
        eyes = session.engine.look = Eyes(vlm, pictures)
        prompt = prompt_of(vlm, pictures)
        theirs = vlms.answer(vlm, COUNT)
        assert words(session, prompt, pictures) == theirs
        assert eyes.seen == [picture.first for picture in pictures], "once for each, in order"
        assert words(session, prompt, pictures) == theirs, "over what is cached"
        session.reset()
        assert words(session, prompt, pictures) == theirs
        assert len(eyes.seen) == len(pictures), "rows that are there are kept"
        plain = tuple(token for token in vlm.tokens if token != vlms.IMAGE)
        assert words(session, plain, ()) != theirs
        with pytest.raises(UsageError, match="do not stand where its tokens say"):
            words(session, prompt[:-9], pictures[:-1])
        more = pictures_of(vlm, 9000)
        with pytest.raises(UsageError, match=f"images of {2 * rows} positions where the plan has room for {rows}"):
            words(session, prompt + prompt_of(vlm, more), pictures + more)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    vlm = vlms.make(name)
    pictures = pictures_of(vlm, 0)
    eyes = Eyes(vlm, pictures)
    model = ReferenceModel(describe(str(vlms.write(vlm, tmp_path / "m"))), given=len(eyes.rows))
    for picture in pictures:
        model.show(picture, eyes(picture))
    ours, theirs = model.logits(list(prompt_of(vlm, pictures))), vlms.logits(vlm)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_sequences_side_by_side_keep_their_images_apart(tmp_path: Path) -> None:
    vlm = vlms.make("qwen2_5_vl")
    one, other = pictures_of(vlm), pictures_of(vlm, 5000)
    rows = sum(picture.num_rows for picture in one)
    mirrored = Eyes(vlm, other)
    mirrored.rows = mirrored.rows[::-1]
    eyes = Eyes(vlm, one)
    requests = [
        Request(prompt_of(vlm, one), COUNT, GREEDY, (), True, pictures=one),
        Request(prompt_of(vlm, other)[3:], COUNT, GREEDY, (), True, pictures=other),
        Request(tuple(range(5, 30)), COUNT, GREEDY, (), True),
    ]
    with opened(pack_of(vlm, tmp_path, rows, batch=3)) as session:
        session.engine.look = lambda picture: (eyes if picture.first in eyes.starts else mirrored)(picture)
        alone = []
        for request in requests:
            session.reset()
            alone.append(list(session.engine.generate(request, frozenset())))
        session.reset()
        together: list[list[int]] = [[], [], []]
        for drawn in session.engine.generate_many(requests, frozenset()):
            together[drawn.index].append(drawn.token)
        assert together == alone
        assert alone[0] == vlms.answer(vlm, COUNT)
        assert alone[1] != alone[0]


def test_rows_and_turns_that_nobody_gave_are_refused(tmp_path: Path) -> None:
    vlm = vlms.make("qwen3_vl")
    with opened(pack_of(vlm, tmp_path, 12)) as session:
        bound = session.engine.stage("prefill")
        call = bound.call()
        call.num_tokens, call.num_rows, call.num_sequences = 2, 0, 1
        call.put_pages(0, [0])
        for token in (~12, -(2**31), 384):
            call.put(0, 0, 0, array("i", [5, token]))
            with pytest.raises(UsageError, match=f"token {token} is not one of 384, nor of 12 rows given"):
                bound.run(call)
        for turn in (~12, -(2**31), 250):
            call.put(0, 0, 0, array("i", [5, ~11]))
            call.put_turns(1, array("i", [turn]))
            with pytest.raises(UsageError, match=f"turn {turn} is not one of 250, nor of 12 given"):
                bound.run(call)
        call.put_turns(1, array("i", [~11]))
        assert bound.run(call)
        with pytest.raises(ValueError, match="3 turns at 15"):
            call.put_turns(15, array("i", [1, 2, 3]))


def test_a_pack_without_room_for_images_says_so(tmp_path: Path) -> None:
    vlm = vlms.make("llava")
    pictures = pictures_of(vlm)
    with opened(pack_of(vlm, tmp_path, 0)) as session, pytest.raises(UsageError, match="plan with --images"):
        words(session, prompt_of(vlm, pictures), pictures)
    with (
        opened(pack_of(vlm, tmp_path / "b", 32)) as session,
        pytest.raises(UsageError, match="nobody here turns"),
    ):
        words(session, prompt_of(vlm, pictures), pictures)
