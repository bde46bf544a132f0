"""From GGUF metadata to the JSON that the `tokenizers` library loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pintpot.errors import BadFile, need
from pintpot.model.tokens.bpe import byte_level_sections
from pintpot.model.tokens.pretokenizers import byte_level_kind
from pintpot.model.tokens.spm import sentencepiece_sections
from pintpot.model.tokens.vocabulary import PREFIX, TokenType, Vocabulary, flag, name, read_vocabulary


def build_tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """The tokenizer of a GGUF file as compact tokenizer.json text.

    `metadata` maps keys such as `tokenizer.ggml.tokens` to plain values and lists; others are ignored. Raises
    UnsupportedModel, naming it, for a tokenizer or pre-tokenizer that is not known, and BadFile for what disagrees.
    """
    return build_with(metadata, read_vocabulary(metadata))


def build_with(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> str:
    """`build_tokenizer_json` where the vocabulary was read before."""
    if vocabulary.kind == "gpt2":
        kind = byte_level_kind(name(metadata, "pre"))
        sections, add_bos = byte_level_sections(metadata, vocabulary, kind), kind.add_bos
    else:
        sections, add_bos = sentencepiece_sections(metadata, vocabulary), True
    before = [_required(vocabulary.bos, "bos")] if flag(metadata, "add_bos_token", add_bos) else []
    after = [_required(vocabulary.eos, "eos")] if flag(metadata, "add_eos_token", False) else []
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": _added_tokens(vocabulary),
        "normalizer": sections["normalizer"], "pre_tokenizer": sections["pre_tokenizer"],
        "post_processor": _template(vocabulary, before, after), "decoder": sections["decoder"],
        "model": sections["model"],
    }  # fmt: skip
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadFile("the vocabulary holds words that are not valid UTF-8") from error
    return text


def _required(index: int | None, what: str) -> int:
    need(index is not None, f"{PREFIX}add_{what}_token is set, and {PREFIX}{what}_token_id is missing", BadFile)
    return int(index or 0)


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Words cut out of the text before anything else happens to it: control tokens are special, user-defined not."""
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    return [
        {
            "id": index, "content": vocabulary.tokens[index], "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": vocabulary.types[index] in special,
        }
        for index in vocabulary.of_type(TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
        if vocabulary.tokens[index]
    ]  # fmt: skip


def _template(vocabulary: Vocabulary, before: list[int], after: list[int]) -> dict[str, Any] | None:
    """The post-processor that puts these ids before and after a text; None when there are none."""
    if not before and not after:
        return None

    def marks(ids: list[int], type_id: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": vocabulary.tokens[index], "type_id": type_id}} for index in ids]

    def sequence(text: str, type_id: int) -> list[dict[str, Any]]:
        return [*marks(before, type_id), {"Sequence": {"id": text, "type_id": type_id}}, *marks(after, type_id)]

    used = {vocabulary.tokens[index]: index for index in [*before, *after]}
    return {
        "type": "TemplateProcessing", "single": sequence("A", 0), "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in used.items()},
    }  # fmt: skip
