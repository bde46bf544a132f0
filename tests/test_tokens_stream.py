"""Text as it streams: whole characters, nothing lost, and stop strings whatever the pieces."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokens_data import HOSTILE, smollm2, vocabulary, wikipedia

from pintpot.errors import UsageError
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import StopMatcher, TextStream, Tokenizer, from_gguf


@functools.cache
def _tokenizer(name: str) -> Tokenizer:
    return Tokenizer.load(from_gguf(open_gguf(smollm2() if name == "smollm" else vocabulary(name))))


@pytest.mark.parametrize("name", ["smollm", "llama-spm", "llama-bpe"])
def test_the_pieces_are_the_text(name: str) -> None:
    tokenizer = _tokenizer(name)
    for text in (*wikipedia(2000)[::20], *HOSTILE):
        ids = tokenizer.encode(text)
        stream = TextStream(tokenizer)
        pieces = [stream.push(index) for index in ids]
        last = stream.finish()
        assert "".join(pieces) + last == tokenizer.decode(ids)
        assert last == "" or text.endswith("\ufffd")
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", ["smollm", "llama-spm"])
def test_a_character_comes_when_it_is_whole(name: str) -> None:
    tokenizer = _tokenizer(name)
    for letter in "\U0001d573\U0001f9d1ಠ":
        ids = tokenizer.encode(letter, add_special=False)
        assert len(ids) > 1
        stream = TextStream(tokenizer)
        pieces = [stream.push(index) for index in ids]
        assert [piece for piece in pieces if piece] == [letter]
        assert pieces[-1] == letter


@pytest.mark.parametrize("name", ["smollm", "llama-spm"])
def test_what_never_becomes_a_character_is_shown_in_the_end(name: str) -> None:
    tokenizer = _tokenizer(name)
    first = tokenizer.encode("\U0001d573", add_special=False)[-4:][:1]
    stream = TextStream(tokenizer)
    assert stream.push(first[0]) == ""
    assert "\ufffd" in stream.finish()
    for _ in range(200):
        stream.push(first[0])
    assert len(stream.finish()) <= 16


def test_the_space_before_a_first_sentencepiece_word() -> None:
    tokenizer = _tokenizer("llama-spm")
    before, word = tokenizer.encode("Once upon a"), tokenizer.encode("time", add_special=False)
    assert TextStream(tokenizer).push(word[0]) == "time"
    assert TextStream(tokenizer, before).push(word[0]) == " time"
    assert TextStream(tokenizer, tokenizer.encode("ಠ")).push(word[0]) == " time"
    stream = TextStream(tokenizer)
    assert [stream.push(index) for index in (*word, 2, 1, *word)] == ["time", "", "", " time"]


def test_special_tokens_are_not_shown() -> None:
    tokenizer = _tokenizer("smollm")
    stream = TextStream(tokenizer)
    assert "".join(stream.push(index) for index in tokenizer.encode("<|im_start|>a<|im_end|>b<|endoftext|>")) == "ab"


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(st.lists(st.text("ab\n", max_size=5), max_size=8), STOPS)
def test_stops_do_not_depend_on_the_pieces(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        assert expected.startswith(shown)
    assert shown + matcher.finish() == expected
    assert matcher.stopped == bool(ends)


def test_only_what_could_be_a_stop_is_held_back() -> None:
    matcher = StopMatcher(["</s>", "User:"])
    assert matcher.push("a<") == "a"
    assert matcher.push("/") == ""
    assert matcher.push("b U") == "</b "
    assert matcher.push("ser: x") == ""
    assert matcher.stopped
    assert matcher.push("more") == ""
    assert matcher.finish() == ""
    with pytest.raises(UsageError, match="empty"):
        StopMatcher(["x", ""])
