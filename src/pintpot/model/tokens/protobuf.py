"""SentencePiece's tokenizer.model read without its library: only the fields that decide the ids.

The file is one protocol buffer message (sentencepiece_model.proto): pieces, the trainer's settings, the normalizer's.
They are handed on under the keys of GGUF, whose word types have the same numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.tokens.vocabulary import MAX_TOKENS, PREFIX

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2

_Field = int | bytes | float


def sentencepiece_metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a tokenizer.model, as a GGUF file would have it.

    Raises BadFile for what is not such a file, and UnsupportedModel for a model other than plain BPE (a unigram model,
    or one that normalizes the text).
    """
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, _Field] = {}
    normalizer: dict[int, _Field] = {}
    for number, value in _fields(memoryview(data)):
        if number == 1:
            piece = dict(_fields(_message(value)))
            tokens.append(_text(piece.get(1, b"")))
            scores.append(_float(piece.get(2, 0.0)))
            types.append(_integer(piece.get(3, 1)))
            need(len(tokens) <= MAX_TOKENS, f"more than {MAX_TOKENS} pieces cannot be meant", BadFile)
        elif number == 2:
            trainer.update(_fields(_message(value)))
        elif number == 3:
            normalizer.update(_fields(_message(value)))
    need(bool(tokens), "tokenizer.model holds no pieces", BadFile)
    _check_plain(trainer, normalizer)
    metadata: dict[str, Any] = {
        PREFIX + "model": "llama", PREFIX + "tokens": tokens, PREFIX + "scores": scores, PREFIX + "token_type": types,
        PREFIX + "add_space_prefix": bool(_integer(normalizer.get(3, 1))),
    }  # fmt: skip
    for field, default, name in ((40, 0, "unknown"), (41, 1, "bos"), (42, 2, "eos")):
        index = _integer(trainer.get(field, default))
        if index >= 0:
            metadata[f"{PREFIX}{name}_token_id"] = index
    return metadata


def _check_plain(trainer: dict[int, _Field], normalizer: dict[int, _Field]) -> None:
    kind = _integer(trainer.get(3, 1))
    names = {1: "unigram", 3: "word", 4: "char"}
    need(kind == _BPE, f"a SentencePiece {names.get(kind, kind)} model; only BPE is known", UnsupportedModel)
    unusual = {
        "normalizes the text": bool(normalizer.get(2, b"")),
        "removes extra spaces": bool(_integer(normalizer.get(4, 1))),
        "leaves spaces as they are": not _integer(normalizer.get(5, 1)),
        "puts the space behind the word": bool(_integer(trainer.get(24, 0))),
    }
    found = [name for name, present in unusual.items() if present]
    need(not found, f"a SentencePiece model that {' and '.join(found)} is not known", UnsupportedModel)


def _fields(data: memoryview) -> Iterator[tuple[int, _Field]]:
    """Number and value of each field of a message. Raises BadFile when it is cut off or not a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            length, position = _varint(data, position)
        if length is None or number == 0:
            raise BadFile(f"tokenizer.model is damaged near byte {position}")
        need(length <= len(data) - position, f"tokenizer.model ends within a field of {length} bytes", BadFile)
        chunk = data[position : position + length]
        position += length
        yield number, struct.unpack("<f", chunk)[0] if wire == _FIXED32 else bytes(chunk)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, position + count + 1
    raise BadFile("tokenizer.model ends within a number")


def _message(value: _Field) -> memoryview:
    if not isinstance(value, bytes):
        raise BadFile("tokenizer.model has a number where a message belongs")
    return memoryview(value)


def _text(value: _Field) -> str:
    try:
        return str(_message(value), "utf-8")
    except UnicodeDecodeError as error:
        raise BadFile("tokenizer.model holds a piece that is not valid UTF-8") from error


def _float(value: _Field) -> float:
    if not isinstance(value, float):
        raise BadFile("tokenizer.model has a score that is not a number")
    return value


def _integer(value: _Field) -> int:
    """A 64-bit varint as the signed number it stands for."""
    if not isinstance(value, int):
        raise BadFile("tokenizer.model has something else where a number belongs")
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
