"""tokenizer.json -> the tokenizer's keys of GGUF: the way back of `pintpot.model.tokens.build`.

A byte-level tokenizer is told by its words, its merges and the name of its cut; a SentencePiece one by its words and
their scores, of which tokenizer.json has only the order of the merges: the earlier, the higher. For a cut without a
name there is no way, and it is refused, for llama.cpp would guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import BadPack, UnsupportedModel, need
from pintpot.model.gguf_write import Value
from pintpot.model.source import parse_json
from pintpot.model.tokens import Tokenizer, TokenizerSource
from pintpot.model.tokens.pretokenizers import KINDS
from pintpot.model.tokens.spm import SPACE
from pintpot.model.tokens.vocabulary import PREFIX, TokenType

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SILENT = ("trim_offsets",)
"""What of a cut changes no token."""
_PREFIXES = (("prepend", SPACE), ("prepend_scheme", "always"), ("prepend_scheme", "first"))
_PADDING_SCORE = -10000.0


def tokenizer_keys(source: TokenizerSource, config: Mapping[str, Any], num_words: int) -> dict[str, Value]:
    """The keys for a vocabulary of `num_words` rows; those beyond the tokenizer's words are unused.

    Raises UnsupportedModel for a tokenizer that GGUF cannot tell, BadPack for one that contradicts itself.
    """
    document = parse_json(source.text(), "tokenizer.json")
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UnsupportedModel("only byte-level and SentencePiece BPE tokenizers are exported as GGUF")
    added = [entry for entry in document.get("added_tokens") or [] if isinstance(entry, dict)]
    words = _words(model, added, num_words)
    sentencepiece = bool(model.get("byte_fallback"))
    types = _types(words, added, model.get("unk_token"), sentencepiece)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    keys: dict[str, Value] = {"tokens": [word or f"[PAD{index}]" for index, word in enumerate(words)]}
    keys["token_type"] = types
    if sentencepiece:
        keys.update(model="llama", scores=_scores(words, merges), add_space_prefix=_has_prefix(document))
    else:
        keys.update(model="gpt2", pre=_cut(document), merges=merges)
    keys.update(_special(source, config, model, words))
    if source.chat_template:
        return {**_prefixed(keys), "tokenizer.chat_template": source.chat_template}
    return _prefixed(keys)


def _prefixed(keys: Mapping[str, Value]) -> dict[str, Value]:
    return {PREFIX + key: value for key, value in keys.items()}


def _words(model: Mapping[str, Any], added: Sequence[Mapping[str, Any]], num_words: int) -> list[str]:
    """The word of every id, "" where there is none."""
    vocabulary = model.get("vocab")
    need(isinstance(vocabulary, dict), "tokenizer.json has no vocabulary", BadPack)
    words = [""] * num_words
    pairs = [*(vocabulary or {}).items(), *((entry.get("content"), entry.get("id")) for entry in added)]
    for word, index in pairs:
        good = isinstance(word, str) and type(index) is int and 0 <= index < num_words
        need(good, f"tokenizer.json has {word!r:.60} as word {index!r:.20} of {num_words}", BadPack)
        need(words[index] in ("", word), f"tokenizer.json has two words {index}", BadPack)
        words[index] = word
    return words


def _types(words: Sequence[str], added: Sequence[Mapping[str, Any]], unknown: object, has_bytes: bool) -> list[int]:
    types = [int(TokenType.NORMAL if word else TokenType.UNUSED) for word in words]
    if has_bytes:
        for index, word in enumerate(words):
            if _BYTE.fullmatch(word):
                types[index] = int(TokenType.BYTE)
    for entry in added:
        types[entry["id"]] = int(TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED)
    if has_bytes and unknown in words:
        types[words.index(str(unknown))] = int(TokenType.UNKNOWN)
    return types


def _scores(words: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Words by the rank of the first merge that makes them; what no merge makes is never compared."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks[word]) if word in ranks else _PADDING_SCORE for word in words]


def _has_prefix(document: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    text = f"{document.get('normalizer')}{document.get('pre_tokenizer')}"
    return any(f"'{key}': '{value}'" in text for key, value in _PREFIXES)


def _cut(document: Mapping[str, Any]) -> str:
    """The name of a byte-level tokenizer's cut. Raises UnsupportedModel where it has none."""
    found, normalizer = _plain(document.get("pre_tokenizer")), _plain(document.get("normalizer"))
    for name, kind in KINDS.items():
        # llama.cpp composes no characters, whatever the file says.
        if found == _plain(kind.pre_tokenizer) and normalizer in (None, {"type": "NFC"}):
            return name
    raise UnsupportedModel(
        f"this tokenizer cuts words in a way that has no name in GGUF; named are {', '.join(KINDS)}; "
        "`--as safetensors` needs no name"
    )


def _plain(value: Any) -> Any:
    """A cut without what changes no token; a sequence of one is that one."""
    if isinstance(value, dict):
        plain = {key: _plain(item) for key, item in value.items() if key not in _SILENT}
        parts = plain.get("pretokenizers", plain.get("normalizers"))
        return parts[0] if isinstance(parts, list) and len(parts) == 1 else plain
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _special(
    source: TokenizerSource, config: Mapping[str, Any], model: Mapping[str, Any], words: Sequence[str]
) -> dict[str, Value]:
    """Ids with a meaning, and what is put around a text."""
    ids = {"bos": source.bos, "eos": source.eos, "unknown": model.get("unk_token")}
    keys: dict[str, Value] = {
        f"{name}_token_id": words.index(word) for name, word in ids.items() if word and word in words
    }
    ends = [index for index in source.eos_ids if index < len(words)]
    if ends:
        keys.setdefault("eos_token_id", ends[0])
        others = [index for index in ends if index != keys["eos_token_id"]]
        if others:
            keys["eot_token_id"] = others[0]
    if config["bos_token_id"]:
        keys.setdefault("bos_token_id", config["bos_token_id"][0])
    before, after = _around(source)
    for name, put, key in (("add_bos_token", before, "bos_token_id"), ("add_eos_token", after, "eos_token_id")):
        good = not put or put == [keys.get(key)]
        need(good, f"the ids {put} that this tokenizer puts around a text have no key in GGUF", UnsupportedModel)
        keys[name] = bool(put)
    return keys


def _around(source: TokenizerSource) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text."""
    tokenizer = Tokenizer.load(source)
    bare, whole = tokenizer.encode("a", add_special=False), tokenizer.encode("a", add_special=True)
    starts = [at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare]
    need(bool(bare and starts), "the tokenizer's post-processing changes the text itself", UnsupportedModel)
    return whole[: starts[0]], whole[starts[0] + len(bare) :]
