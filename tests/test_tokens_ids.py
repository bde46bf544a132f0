"""Ids equal to those of the implementations that the authors published, on wiki markup and on hostile Unicode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokens_data import HOSTILE, fixture, mistral_models, smollm2, vocabulary, wikipedia

from pintpot.errors import BadInput
from pintpot.model.gguf import open_gguf
from pintpot.model.tokens import Tokenizer, from_gguf, from_metadata
from pintpot.model.tokens.protobuf import sentencepiece_metadata

NUM_LINES = 2000


@functools.cache
def _metadata(path: Path) -> dict[str, Any]:
    return open_gguf(path).tokenizer_metadata()


@functools.cache
def _ours(path: Path) -> Tokenizer:
    return Tokenizer.load(from_gguf(open_gguf(path)))


def _equal(tokenizer: Tokenizer, reference: Callable[[str], Iterable[int]], texts: Iterable[str]) -> None:
    for text in texts:
        assert tokenizer.encode(text, add_special=False) == list(reference(text)), text[:200]


def _vocab_and_merges(path: Path) -> dict[str, Any]:
    metadata = _metadata(path)
    words = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    return {"vocab": {word: index for index, word in enumerate(words)}, "merges": merges}


def test_smollm2_gives_the_ids_of_transformers() -> None:
    """transformers' own reading of a GGUF file knows no pre-tokenizer "smollm" and does not part digits, so its GPT-2
    class is given the one of the published tokenizer.json (single digits, then byte level)."""
    from tokenizers import pre_tokenizers
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer(**_vocab_and_merges(smollm2()))
    theirs.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]})
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    specials = (
        "<|im_start|>user\nhi<|im_end|>\n",
        "a<|endoftext|>b <|im_end|>",
        "<|im_start",
        "<|im_end|><|im_end|>  x",
    )
    texts = (*wikipedia(NUM_LINES), *HOSTILE, *specials)
    _equal(_ours(smollm2()), lambda text: theirs.encode(text, add_special_tokens=False), texts)


def test_qwen2_gives_the_ids_of_transformers() -> None:
    from transformers import Qwen2Tokenizer

    theirs = Qwen2Tokenizer(**_vocab_and_merges(vocabulary("qwen2")))
    texts = (*wikipedia(NUM_LINES), *HOSTILE, "a<|endoftext|>b")
    _equal(_ours(vocabulary("qwen2")), lambda text: theirs.encode(text, add_special_tokens=False), texts)


def test_gpt2_gives_the_ids_of_transformers() -> None:
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer(**_vocab_and_merges(vocabulary("gpt-2")))
    texts = (*wikipedia(NUM_LINES), *HOSTILE)
    _equal(_ours(vocabulary("gpt-2")), lambda text: theirs.encode(text, add_special_tokens=False), texts)


def test_llama_bpe_gives_the_ids_of_its_authors_algorithm() -> None:
    """Llama 3 was published for tiktoken: a word of the vocabulary is taken whole, and otherwise the neighbours whose
    union has the smallest id are joined; written here in plain Python over the `regex` package."""
    import regex

    words = _metadata(vocabulary("llama-bpe"))["tokenizer.ggml.tokens"][:128000]
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in letters]
    byte_of = {chr(byte): byte for byte in letters} | {chr(256 + index): byte for index, byte in enumerate(rest)}
    ranks = {bytes(byte_of[letter] for letter in word): index for index, word in enumerate(words)}
    cut = regex.compile(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    @functools.cache
    def joined(word: bytes) -> list[int]:
        if word in ranks:
            return [ranks[word]]
        parts = [word[index : index + 1] for index in range(len(word))]
        while True:
            unions = [(ranks.get(left + right), place) for place, (left, right) in enumerate(pairwise(parts))]
            known = [(rank, place) for rank, place in unions if rank is not None]
            if not known:
                return [ranks[part] for part in parts]
            _, place = min(known)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]

    def reference(text: str) -> list[int]:
        return [index for word in cut.findall(text) for index in joined(word.encode())]

    _equal(_ours(vocabulary("llama-bpe")), reference, (*wikipedia(NUM_LINES), *HOSTILE))


def test_llama_spm_gives_the_ids_of_sentencepiece() -> None:
    """SentencePiece itself, given the pieces of the GGUF file. transformers' reading of such a file puts the prefix
    space only where the text does not begin with one; neither SentencePiece nor llama.cpp does."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    metadata = _metadata(vocabulary("llama-spm"))
    model = sentencepiece_model_pb2.ModelProto()
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for piece, score, kind in zip(*columns, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
    model.normalizer_spec.name, model.normalizer_spec.remove_extra_whitespaces = "identity", False
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    _equal(_ours(vocabulary("llama-spm")), theirs.encode, (*wikipedia(NUM_LINES), *HOSTILE))


def test_mistrals_sentencepiece_models_give_the_ids_and_texts_of_sentencepiece() -> None:
    import sentencepiece

    paths = mistral_models()
    assert paths
    for path in paths:
        theirs = sentencepiece.SentencePieceProcessor(str(path))
        ours = Tokenizer.load(from_metadata(sentencepiece_metadata(path.read_bytes())))
        assert ours.vocab_size == theirs.vocab_size()
        assert ours.encode("x") == [theirs.bos_id(), *theirs.encode("x")]
        texts = (*wikipedia(NUM_LINES)[:: len(paths)], *HOSTILE)
        _equal(ours, theirs.encode, texts)
        for text in texts:
            assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "qwen2", "gpt-2"])
def test_llama_cpps_fixtures(name: str) -> None:
    cases = fixture(name)
    assert len(cases) >= 40
    tokenizer = _ours(vocabulary(name))
    for text, ids in cases:
        assert tokenizer.encode(text, add_special=False) == ids, text


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "qwen2", "gpt-2"])
def test_text_survives_the_way_there_and_back(name: str) -> None:
    import unicodedata

    tokenizer = _ours(vocabulary(name))
    for text in (*wikipedia(NUM_LINES)[::10], *HOSTILE):
        expected = unicodedata.normalize("NFC", text) if name == "qwen2" else text
        if name == "llama-spm":
            expected = expected.replace("\u2581", " ")
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == expected


def test_special_tokens_are_added_where_the_model_wants_them() -> None:
    assert _ours(vocabulary("llama-spm")).encode("x")[0] == 1
    assert _ours(vocabulary("llama-bpe")).encode("x")[0] == 128000
    assert _ours(vocabulary("qwen2")).encode("x") == _ours(vocabulary("qwen2")).encode("x", add_special=False)
    tokenizer = _ours(smollm2())
    assert (tokenizer.vocab_size, tokenizer.bos, tokenizer.eos, tokenizer.eos_ids) == (
        49152,
        "<|im_start|>",
        "<|im_end|>",
        (0, 2),
    )
    ids = tokenizer.encode("<|im_start|>a<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>a<|im_end|>"
    assert tokenizer.token_id("<|im_end|>") == 2
    assert tokenizer.token_id("no such word") is None


def test_lone_surrogates_and_wild_ids_are_refused_cleanly() -> None:
    tokenizer = _ours(smollm2())
    for text in ("\ud800", "a\udfffb", "\udcff" * 5):
        with pytest.raises(BadInput, match="surrogate"):
            tokenizer.encode(text)
    assert tokenizer.decode([10**6]) == ""
    for index in (-1, 2**32):
        with pytest.raises(BadInput, match="token id"):
            tokenizer.decode([index])
