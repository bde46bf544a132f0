"""The words of a tokenizer as GGUF metadata tells them, checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pintpot.errors import BadFile, UnsupportedModel, need

PREFIX = "tokenizer.ggml."
MAX_TOKENS = 2**22
"""No published vocabulary has a tenth of this; more is a damaged count."""

_TURN_ENDERS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
)
"""Control tokens that end an answer by their very name; many files list only one of those they use."""


class TokenType(IntEnum):
    """What a word is for; the numbers are those of the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words by id and back, their types, and the ids with a meaning. `bos`, `eos`, `unknown` are None where unsaid."""

    kind: str
    tokens: Sequence[str]
    ids: Mapping[str, int]
    types: Sequence[int]
    bos: int | None
    eos: int | None
    unknown: int | None

    def of_type(self, *wanted: TokenType) -> list[int]:
        """Ids of the words of these types, ascending."""
        return [index for index, kind in enumerate(self.types) if kind in wanted]


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in `metadata`. Raises UnsupportedModel for an unknown kind, BadFile for what is inconsistent."""
    kind = name(metadata, "model")
    if kind is None:
        raise BadFile("there is no tokenizer in the file (tokenizer.ggml.model is missing)")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"tokenizer {kind!r} is not known; known are gpt2 (byte-level) and llama (SentencePiece)"
        )
    tokens = string_list(metadata, "tokens")
    need(0 < len(tokens) <= MAX_TOKENS, f"a vocabulary of {len(tokens)} words cannot be meant", BadFile)
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        double = next(token for index, token in enumerate(tokens) if ids[token] != index)
        raise BadFile(f"the vocabulary has {double[:60]!r} more than once ({len(tokens) - len(ids)} words too many)")
    spm = kind == "llama"
    return Vocabulary(
        kind, tokens, ids, _types(metadata, len(tokens)),
        bos=token_id(metadata, "bos_token_id", len(tokens), 1 if spm else None),
        eos=token_id(metadata, "eos_token_id", len(tokens), 2 if spm else None),
        unknown=token_id(metadata, "unknown_token_id", len(tokens), 0 if spm else None),
    )  # fmt: skip


def string_list(metadata: Mapping[str, Any], key: str) -> Sequence[str]:
    """The list of strings under `tokenizer.ggml.<key>`. Raises BadFile when it is missing or something else."""
    values = metadata.get(PREFIX + key)
    if not isinstance(values, (list, tuple)):
        raise BadFile(f"{PREFIX}{key} is missing or not a list")
    need(all(isinstance(value, str) for value in values), f"{PREFIX}{key} holds something else than strings", BadFile)
    return values


def number_list(metadata: Mapping[str, Any], key: str, length: int) -> list[float]:
    """The numbers under `tokenizer.ggml.<key>`, one for each word. Raises BadFile when their number differs."""
    values = metadata.get(PREFIX + key)
    if values is None or isinstance(values, (str, bytes, Mapping)):
        raise BadFile(f"{PREFIX}{key} is missing or not a list")
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadFile(f"{PREFIX}{key} holds something else than numbers") from error
    need(len(numbers) == length, f"{PREFIX}{key} has {len(numbers)} entries for {length} words", BadFile)
    return numbers


def token_id(metadata: Mapping[str, Any], key: str, num_tokens: int, default: int | None = None) -> int | None:
    """The id under `tokenizer.ggml.<key>`; `default` where unsaid and in range. Raises BadFile when out of range."""
    given = _get(metadata, key, int)
    if given is None:
        return default if default is not None and default < num_tokens else None
    need(0 <= given < num_tokens, f"{PREFIX}{key} is {given}, the vocabulary has {num_tokens} words", BadFile)
    return int(given)


def name(metadata: Mapping[str, Any], key: str) -> str | None:
    """The text under `tokenizer.ggml.<key>`, None where unsaid. Raises BadFile when it is something else."""
    given = _get(metadata, key, str)
    return None if given is None else str(given)


def flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    """The yes or no under `tokenizer.ggml.<key>`. Raises BadFile when it is something else."""
    given = _get(metadata, key, bool)
    return default if given is None else bool(given)


def end_ids(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Ids that end an answer: those the file names, and control tokens that end a turn by their name; ascending."""
    size = len(vocabulary.tokens)
    named = [vocabulary.eos, token_id(metadata, "eot_token_id", size), token_id(metadata, "eom_token_id", size)]
    known = [vocabulary.ids.get(text) for text in _TURN_ENDERS]
    control = [index for index in known if index is not None and vocabulary.types[index] == TokenType.CONTROL]
    return tuple(sorted({index for index in named if index is not None}.union(control)))


def _types(metadata: Mapping[str, Any], length: int) -> Sequence[int]:
    if PREFIX + "token_type" not in metadata:
        return [int(TokenType.NORMAL)] * length
    types = [int(number) for number in number_list(metadata, "token_type", length) if number == number // 1]
    known = {int(kind) for kind in TokenType}
    need(len(types) == length and known.issuperset(types), f"{PREFIX}token_type holds an unknown type", BadFile)
    return types


def _get(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    value = metadata.get(PREFIX + key)
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    need(value is None or good, f"{PREFIX}{key} is {value!r:.60}, not {kind.__name__}", BadFile)
    return value
