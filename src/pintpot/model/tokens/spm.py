"""SentencePiece BPE: the sections of tokenizer.json for `tokenizer.ggml.model` llama.

SentencePiece joins the neighbours whose union has the highest score, the leftmost of them where several have (Kudo and
Richardson, 2018); the merges that the `tokenizers` library wants are therefore all ways to cut each piece in two, best
score first. The library knows no leftmost among different merges; the longest left half first comes to the same in
runs of one character, which is where equal scores occur (Mistral's runs of spaces share one score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import BadFile, need
from pintpot.model.tokens.bpe import bpe_model
from pintpot.model.tokens.vocabulary import PREFIX, TokenType, Vocabulary, flag, number_list

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_MAX_PIECE = 1024


def sentencepiece_sections(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model. Raises BadFile when scores, bytes and words disagree.

    The prefix space is put before every stretch of text between control tokens, as SentencePiece and llama.cpp do.
    """
    need(vocabulary.unknown is not None, f"{PREFIX}unknown_token_id is missing", BadFile)
    scores = number_list(metadata, "scores", len(vocabulary.tokens))
    need(all(map(math.isfinite, scores)), f"{PREFIX}scores holds infinite or undefined numbers", BadFile)
    prefix = flag(metadata, "add_space_prefix", True)
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    steps = [{"type": "Prepend", "prepend": SPACE}, escape] if prefix else [escape]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe_model(
            vocabulary.ids,
            _merges(vocabulary, scores),
            unknown=vocabulary.tokens[vocabulary.unknown or 0],
            byte_fallback=_has_bytes(vocabulary),
        ),
    }


def _has_bytes(vocabulary: Vocabulary) -> bool:
    ids = vocabulary.of_type(TokenType.BYTE)
    expected = {f"<0x{byte:02X}>" for byte in range(256)}
    if ids:
        found = {vocabulary.tokens[index] for index in ids}
        need(found == expected, f"{len(ids)} byte pieces: not one for each of the 256 bytes", BadFile)
    return bool(ids)


def _merges(vocabulary: Vocabulary, scores: Sequence[float]) -> list[str]:
    """Every cut of every normal piece into two normal pieces: best score first, then the longest left half."""
    joinable = [kind == TokenType.NORMAL for kind in vocabulary.types]
    ids = vocabulary.ids
    cuts: list[tuple[float, int, int, int]] = []
    for index, piece in enumerate(vocabulary.tokens):
        if not joinable[index]:
            continue
        need(len(piece) <= _MAX_PIECE, f"word {index} has {len(piece)} characters, no more than {_MAX_PIECE}", BadFile)
        need(" " not in piece, f"word {index} has a bare space, SentencePiece writes {SPACE}", BadFile)
        score = -scores[index]
        for cut in range(1, len(piece)):
            left = ids.get(piece[:cut])
            if left is None or not joinable[left]:
                continue
            right = ids.get(piece[cut:])
            if right is not None and joinable[right]:
                cuts.append((score, -cut, left, right))
    cuts.sort()
    return [f"{vocabulary.tokens[left]} {vocabulary.tokens[right]}" for _, _, left, right in cuts]
