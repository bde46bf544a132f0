"""Tokenizers built from metadata and folders: what is unknown is named, what is damaged or hostile is refused."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import pytest
from tokens_data import mistral_models

from pintpot.errors import BadFile, PintpotError, UnsupportedModel
from pintpot.model.tokens import Tokenizer, build_tokenizer_json, from_metadata
from pintpot.model.tokens.protobuf import sentencepiece_metadata

KEY = "tokenizer.ggml."


@functools.cache
def _alphabet() -> tuple[str, ...]:
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return tuple([chr(byte) for byte in letters] + [chr(256 + index) for index in range(256 - len(letters))])


def _bpe(**changes: Any) -> dict[str, Any]:
    words = [*_alphabet(), "ab", "abc", "<eos>", "<think>"]
    good = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": words,
        "merges": ["a b", "ab c"],
        "token_type": [1] * 258 + [3, 4],
        "eos_token_id": 258,
        "bos_token_id": 258,
    }
    return {KEY + name: value for name, value in {**good, **changes}.items() if value is not None}


def _spm(**changes: Any) -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    good = {
        "model": "llama",
        "tokens": pieces,
        "token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
        "scores": [0.0] * 259 + [-3.0, -4.0, -5.0, -1.0, -2.0],
    }
    return {KEY + name: value for name, value in {**good, **changes}.items() if value is not None}


def test_byte_level_by_hand() -> None:
    tokenizer = Tokenizer.load(from_metadata(_bpe(add_bos_token=True, add_eos_token=True)))
    assert tokenizer.encode("abca", add_special=False) == [257, _alphabet().index("a")]
    assert tokenizer.encode("ab") == [258, 256, 258]
    assert tokenizer.encode("abc<think>abc<eos>", add_special=False) == [257, 259, 257, 258]
    assert tokenizer.decode([257, 259, 258]) == "abc<think>"
    assert tokenizer.eos_ids == (258,)


def test_sentencepiece_by_hand() -> None:
    tokenizer = Tokenizer.load(from_metadata(_spm()))
    assert tokenizer.encode("ab ab") == [1, 263, 263]
    assert tokenizer.encode("aé") == [1, 259, 260, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode(" ab\né")) == " ab\né"
    bare = Tokenizer.load(from_metadata(_spm(add_space_prefix=False, add_bos_token=False)))
    assert bare.encode("ab ab") == [262, 263]
    assert bare.decode(bare.encode(" ab")) == " ab"


def test_control_tokens_that_end_a_turn_end_an_answer() -> None:
    words = [*_alphabet(), "ab", "abc", "<|endoftext|>", "<|im_end|>"]
    assert from_metadata(_bpe(tokens=words, token_type=[1] * 258 + [3, 3])).eos_ids == (258, 259)
    assert from_metadata(_bpe(tokens=words, token_type=[1] * 258 + [3, 4])).eos_ids == (258,)
    assert from_metadata(_bpe(eot_token_id=3, eom_token_id=5)).eos_ids == (3, 5, 258)


@pytest.mark.parametrize("name", ["bert", "t5", "rwkv", "gemma4", ""])
def test_an_unknown_tokenizer_is_named(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"tokenizer {name!r}"):
        build_tokenizer_json(_bpe(model=name))


@pytest.mark.parametrize("name", ["default", "tekken", "gpt-4o", "deepseek-v3", "QWEN2", ""])
def test_an_unknown_pre_tokenizer_is_named_and_never_guessed(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"pre-tokenizer {name!r}"):
        build_tokenizer_json(_bpe(pre=name))
    with pytest.raises(UnsupportedModel, match="does not name"):
        build_tokenizer_json(_bpe(pre=None))


WORDS = [*_alphabet(), "ab", "abc", "<eos>", "<think>"]
BAD_BPE: tuple[dict[str, Any], ...] = (
    {"model": None},
    {"model": 7},
    {"pre": 7},
    {"pre": ["gpt-2"]},
    {"tokens": None},
    {"tokens": "abc"},
    {"tokens": []},
    {"tokens": [1, 2]},
    {"tokens": [*WORDS[:-1], b"x"]},
    {"tokens": [*WORDS[:-1], None]},
    {"tokens": [*WORDS[:-1], "ab"]},
    {"tokens": [*WORDS[:-1], "\ud800"]},
    {"tokens": WORDS[:-1]},
    {"merges": None},
    {"merges": "a b"},
    {"merges": [("a", "b")]},
    {"merges": ["ab"]},
    {"merges": ["a  b"]},
    {"merges": ["a b c"]},
    {"merges": ["a zz"]},
    {"merges": ["zz a"]},
    {"merges": ["b a"]},
    {"merges": [" "]},
    {"merges": [""]},
    {"merges": ["a b"] * 3000},
    {"token_type": [1]},
    {"token_type": [1] * 259 + [9]},
    {"token_type": [1] * 259 + [1.5]},
    {"token_type": "x"},
    {"token_type": [1] * 259 + ["x"]},
    {"token_type": 3},
    {"token_type": [1] * 259 + [float("nan")]},
    {"token_type": [1] * 259 + [float("inf")]},
    {"eos_token_id": 260},
    {"eos_token_id": -1},
    {"eos_token_id": "0"},
    {"eos_token_id": True},
    {"bos_token_id": 10**30},
    {"eot_token_id": 260},
    {"add_bos_token": 1},
    {"add_bos_token": True, "bos_token_id": None},
    {"unknown_token_id": 999},
    {"add_eos_token": True, "eos_token_id": None},
)


@pytest.mark.parametrize("changes", BAD_BPE, ids=range(len(BAD_BPE)))
def test_inconsistent_byte_level_metadata_is_a_bad_file(changes: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        from_metadata(_bpe(**changes))


PIECES = _spm()[KEY + "tokens"]
BAD_SPM: tuple[dict[str, Any], ...] = (
    {"scores": None},
    {"scores": [0.0]},
    {"scores": [0.0] * 263 + [float("nan")]},
    {"scores": [0.0] * 263 + [float("inf")]},
    {"scores": ["x"] * 264},
    {"tokens": [*PIECES[:-1], "a b"]},
    {"tokens": [*PIECES[:-1], "x" * 5000]},
    {"add_space_prefix": "yes"},
    {"token_type": [2, 3, 3] + [6] * 255 + [1] * 6},
    {"token_type": [2, 3, 3] + [6] * 257 + [1] * 4},
)


@pytest.mark.parametrize("changes", BAD_SPM, ids=range(len(BAD_SPM)))
def test_inconsistent_sentencepiece_metadata_is_a_bad_file(changes: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        from_metadata(_spm(**changes))


def test_a_damaged_sentencepiece_file_is_refused_or_read_never_worse() -> None:
    data = mistral_models()[0].read_bytes()
    draws = random.Random(0)
    head, tail = data[:3000], data[-4000:]
    refused = 0
    for _ in range(300):
        damaged = bytearray(head + tail if draws.random() < 0.5 else head)
        for _ in range(draws.randint(1, 4)):
            damaged[draws.randrange(len(damaged))] = draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))
        try:
            sentencepiece_metadata(bytes(damaged[: draws.randint(1, len(damaged))]))
        except PintpotError:
            refused += 1
    assert refused > 100
    for wrong in (
        b"",
        b"\x00",
        b"{}",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80" * 50,
        json.dumps({"a": 1}).encode(),
    ):
        with pytest.raises(BadFile):
            sentencepiece_metadata(wrong)


def test_other_sentencepiece_models_are_named() -> None:
    piece = b"\x0a\x03\x0a\x01a"
    with pytest.raises(UnsupportedModel, match="unigram"):
        sentencepiece_metadata(piece)
    bpe = b"\x12\x02\x18\x02"
    with pytest.raises(UnsupportedModel, match="removes extra spaces"):
        sentencepiece_metadata(piece + bpe)
    with pytest.raises(UnsupportedModel, match="normalizes the text"):
        sentencepiece_metadata(piece + bpe + b"\x1a\x05\x12\x01x\x20\x00")
    assert sentencepiece_metadata(piece + bpe + b"\x1a\x02\x20\x00")[KEY + "tokens"] == ["a"]
