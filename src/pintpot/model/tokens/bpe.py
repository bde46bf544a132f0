"""Byte-level BPE: the sections of tokenizer.json for `tokenizer.ggml.model` gpt2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import BadFile, need
from pintpot.model.tokens.pretokenizers import ByteLevelKind
from pintpot.model.tokens.vocabulary import Vocabulary, string_list


def byte_level_sections(metadata: Mapping[str, Any], vocabulary: Vocabulary, kind: ByteLevelKind) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model. Raises BadFile when the merges and the words disagree."""
    merges = string_list(metadata, "merges")
    _check_merges(merges, vocabulary.ids)
    return {
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": bpe_model(vocabulary.ids, merges, ignore_merges=kind.ignore_merges),
    }


def bpe_model(
    ids: Mapping[str, int],
    merges: Sequence[str],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """The model section. Merges are "left right" strings: lists of two cost twice the memory when loaded."""
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": unknown is not None, "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges, "vocab": ids, "merges": merges,
    }  # fmt: skip


def _check_merges(merges: Sequence[str], ids: Mapping[str, int]) -> None:
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids or " " in right:
            raise BadFile(f"merge {rank} is {merge[:60]!r}: not two words whose union is a word of the vocabulary")
    need(len(merges) <= 8 * len(ids), f"{len(merges)} merges for {len(ids)} words cannot be meant", BadFile)
