"""Tokenizers on their way into GGUF: from tokenizer.json back to keys that give the same ids, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokens_data import HOSTILE, vocabulary, wikipedia

from pintpot.errors import BadPack, UnsupportedModel
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, TokenizerSource, from_gguf, from_metadata
from pintpot.packer.export.vocabulary import tokenizer_keys

NUM_LINES = 100
CONFIG: dict[str, Any] = {"bos_token_id": []}
PREFIX = "tokenizer.ggml."


def there_and_back(source: TokenizerSource, num_words: int) -> tuple[Tokenizer, Tokenizer]:
    keys = tokenizer_keys(source, CONFIG, num_words)
    return Tokenizer.load(source), Tokenizer.load(from_metadata(keys))


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "gpt-2", "llama-spm"])
def test_a_tokenizer_gives_the_same_ids_there_and_back(name: str) -> None:
    source = from_gguf(open_gguf(vocabulary(name)))
    size = Tokenizer.load(source).vocab_size
    one, other = there_and_back(source, size)
    for text in (*wikipedia(NUM_LINES), *HOSTILE):
        assert one.encode(text) == other.encode(text), text[:60]
    assert (one.bos, one.eos) == (other.bos, other.eos)
    assert one.special_ids == other.special_ids


def test_the_keys_are_those_of_the_file_that_it_came_from(smollm2: Path) -> None:
    gguf = open_gguf(smollm2)
    keys = tokenizer_keys(from_gguf(gguf), CONFIG, 49152)
    came = gguf.tokenizer_metadata()
    for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
        assert keys[PREFIX + key] == came[PREFIX + key], key
    assert keys["tokenizer.chat_template"] == came["tokenizer.chat_template"]


def added(index: int, word: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": word, "special": special, **flags}


def byte_level(**changes: Any) -> TokenizerSource:
    document = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}, "normalizer": None,
        "version": "1.0", "added_tokens": [added(3, "<end>", True), added(4, "<mine>", False)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
        **changes,
    }  # fmt: skip
    return TokenizerSource(json.dumps(document), "", "<end>", (3,))


def test_rows_without_a_word_are_unused_and_added_words_are_told_apart() -> None:
    keys = tokenizer_keys(byte_level(), CONFIG, 7)
    assert keys[PREFIX + "tokens"] == ["a", "b", "ab", "<end>", "<mine>", "[PAD5]", "[PAD6]"]
    assert keys[PREFIX + "token_type"] == [1, 1, 1, 3, 4, 5, 5]
    assert (keys[PREFIX + "pre"], keys[PREFIX + "merges"]) == ("gpt-2", ["a b"])
    assert (keys[PREFIX + "eos_token_id"], keys[PREFIX + "add_bos_token"]) == (3, False)


def test_what_gguf_cannot_tell_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no name in GGUF"):
        tokenizer_keys(byte_level(pre_tokenizer={"type": "Whitespace"}), CONFIG, 7)
    with pytest.raises(UnsupportedModel, match="no name in GGUF"):
        tokenizer_keys(byte_level(normalizer={"type": "Lowercase"}), CONFIG, 7)
    with pytest.raises(UnsupportedModel, match="BPE"):
        tokenizer_keys(byte_level(model={"type": "Unigram", "vocab": []}), CONFIG, 7)


def test_a_vocabulary_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(BadPack, match="as word 4 of 4"):
        tokenizer_keys(byte_level(), CONFIG, 4)
    with pytest.raises(BadPack, match="two words 2"):
        tokenizer_keys(byte_level(added_tokens=[added(2, "other", False)]), CONFIG, 7)
