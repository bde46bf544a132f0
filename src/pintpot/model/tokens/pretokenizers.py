"""The byte-level kinds we know: how each cuts text into words before its merges are applied.

A kind is here only when the tokenizer that its authors published was compared with it; any other name is refused,
because a wrong cut gives plausible but wrong ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pintpot.errors import UnsupportedModel

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class ByteLevelKind:
    """One byte-level tokenizer: its cut, and what its metadata leaves unsaid.

    `ignore_merges`: a word that is in the vocabulary is taken whole. `add_bos`: the default where the file is silent.
    """

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    add_bos: bool = False


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}


_GPT2 = ByteLevelKind(_byte_level(True))
_SMOLLM = ByteLevelKind(
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)]}
)
_LLAMA3 = ByteLevelKind(_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), ignore_merges=True, add_bos=True)
_QWEN2 = ByteLevelKind(_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), normalizer={"type": "NFC"})

KINDS: dict[str, ByteLevelKind] = {
    "gpt-2": _GPT2,
    "smollm": _SMOLLM,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
}


def byte_level_kind(pre: str | None) -> ByteLevelKind:
    """The kind that `tokenizer.ggml.pre` names. Raises UnsupportedModel for a name we have not compared."""
    if pre is None:
        raise UnsupportedModel("the file does not name its pre-tokenizer (tokenizer.ggml.pre); convert it again")
    if pre not in KINDS:
        raise UnsupportedModel(f"pre-tokenizer {pre!r} is not known; known are {', '.join(KINDS)}")
    return KINDS[pre]
