"""GGUF headers: metadata and tensor table, without reading what is large.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every length, count
and offset is held against the file's size before anything is allocated. Arrays stay in the file until asked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, BadInput, UnsupportedModel, need
from pintpot.formats import Encoding, encoding_of_ggml
from pintpot.model.gguf_cursor import Cursor
from pintpot.model.source import ByteSource, LocalFile
from pintpot.model.spec import Weight

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_NAME_BYTES = 2**16 - 1
_MAX_STRING_BYTES = 2**24
_MAX_COUNT = 2**20
_MIN_PAIR_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_GGML_NAMES: Final = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array that was left in the file: `count` items of GGUF's value type `item_type` from `offset` on."""

    item_type: int
    count: int
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """A parsed header. `metadata` holds numbers, strings and GgufArray; `tensors` are Weights under their GGUF names,
    shapes as (rows, columns); `sources` are the file or its splits, in the order of the tensors' `file`. `spans` are
    where each pair of the metadata, key and value type included, begins and ends in the first source."""

    sources: tuple[ByteSource, ...]
    metadata: Mapping[str, Any]
    tensors: tuple[Weight, ...]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    def read_array(self, key: str) -> list[Any]:
        """The items of one array: str, int, float or bool. Raises BadFile where the key is missing or no array."""
        found = self.metadata.get(key)
        if not isinstance(found, GgufArray):
            raise BadFile(f"{self.sources[0].name}: no array {key!r} in the metadata")
        return _read_items(Cursor(self.sources[0], found.offset), found, key)

    def tokenizer_metadata(self) -> dict[str, Any]:
        """Everything under `tokenizer.`, arrays as lists. Raises BadFile as `read_array` does."""
        wanted = {key: value for key, value in self.metadata.items() if key.startswith("tokenizer.")}
        return {key: self.read_array(key) if isinstance(value, GgufArray) else value for key, value in wanted.items()}


def _read_value(cursor: Cursor, key: str) -> Any:
    kind = cursor.number("I")
    if kind == _STRING:
        return cursor.string(f"the value of {key!r}", _MAX_STRING_BYTES)
    if kind == _ARRAY:
        return _skip_array(cursor, key)
    if kind not in _SCALARS:
        raise cursor.fail(f"{key!r} has value type {kind}; GGUF knows 0 to 12")
    value = cursor.number(_SCALARS[kind])
    return _checked_bool(cursor, value, key) if kind == _BOOL else value


def _checked_bool(cursor: Cursor, value: int, key: str) -> bool:
    if value > 1:
        raise cursor.fail(f"{key!r} is a truth value of {value}; 0 and 1 exist")
    return value == 1


def _skip_array(cursor: Cursor, key: str) -> GgufArray:
    item_type, count = cursor.number("I"), cursor.number("Q")
    start = cursor.position
    if item_type != _STRING and item_type not in _SCALARS:
        raise cursor.fail(f"{key!r} is an array of value type {item_type}; numbers and strings are read here")
    item_bytes = 8 if item_type == _STRING else struct.calcsize("<" + _SCALARS[item_type])
    if count * item_bytes > cursor.remaining:
        raise cursor.fail(f"{key!r} claims {count} items; {cursor.remaining} bytes are left in the file")
    if item_type == _STRING:
        cursor.skip_strings(count)
    else:
        cursor.skip(count * item_bytes)
    return GgufArray(item_type, count, start, cursor.position - start)


def _read_items(cursor: Cursor, array: GgufArray, key: str) -> list[Any]:
    if array.item_type == _STRING:
        return cursor.strings(array.count, key)
    values = list(struct.unpack(f"<{array.count}{_SCALARS[array.item_type]}", cursor.take(array.num_bytes)))
    return [_checked_bool(cursor, value, key) for value in values] if array.item_type == _BOOL else values


def _check_start(cursor: Cursor) -> None:
    magic = cursor.take(4) if cursor.remaining >= 4 else b""
    if magic != MAGIC:
        raise cursor.fail(f"is no GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version = cursor.number("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "is big-endian GGUF" if swapped in (1, 2, 3) else f"has GGUF version {version}"
        raise UnsupportedModel(f"{cursor.source.name}: {kind}; versions 2 and 3, little-endian, are read here")


def _checked_count(cursor: Cursor, what: str, min_bytes: int) -> int:
    count: int = cursor.number("Q")
    limit = min(_MAX_COUNT, cursor.remaining // min_bytes)
    if count > limit:
        raise cursor.fail(f"claims {count} {what}; {limit} could fit at most")
    return count


def _encoding(cursor: Cursor, name: str, ggml_type: int) -> Encoding:
    if ggml_type in _GGML_NAMES:
        raise UnsupportedModel(
            f"{cursor.source.name}: {name!r} is written as {_GGML_NAMES[ggml_type]}, which is not read here; "
            "take a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K"
        )
    try:
        return encoding_of_ggml(ggml_type)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{cursor.source.name}: {name!r}: {error}") from error


def _read_tensor(cursor: Cursor, file: int) -> Weight:
    """One row of the tensor table; the offset still counts from the beginning of the data."""
    name = cursor.string("a tensor's name", _MAX_NAME_BYTES)
    num_axes = cursor.number("I")
    if not 1 <= num_axes <= 4:
        raise cursor.fail(f"{name!r} has {num_axes} axes; 1 to 4 exist")
    axes = [int(cursor.number("Q")) for _ in range(num_axes)]
    found = _encoding(cursor, name, cursor.number("I"))
    offset = cursor.number("Q")
    num_values = 1
    for axis in axes:
        num_values *= axis
    if not 0 < num_values <= cursor.source.size * 8:
        raise cursor.fail(f"{name!r} has the shape {axes}; a file of {cursor.source.size} bytes cannot hold it")
    if axes[0] % found.block_columns:
        raise cursor.fail(f"{name!r} has {axes[0]} columns, no whole blocks of {found.block_columns} ({found.name})")
    num_bytes = num_values // found.block_columns * found.block_bytes
    return Weight(name, tuple(reversed(axes)), found.name, file, offset, num_bytes)


def _place(cursor: Cursor, tensors: list[Weight], alignment: int) -> tuple[Weight, ...]:
    """The tensors with offsets in the file, checked: aligned, inside, apart, each name once."""
    start = -(-cursor.position // alignment) * alignment
    size = cursor.source.size
    if len({tensor.name for tensor in tensors}) != len(tensors):
        names = sorted(tensor.name for tensor in tensors)
        raise cursor.fail(f"{next(a for a, b in pairwise(names) if a == b)!r} comes twice")
    for tensor in tensors:
        if tensor.offset % alignment:
            raise cursor.fail(f"{tensor.name!r} lies at {tensor.offset}, no multiple of the alignment {alignment}")
        if start + tensor.offset + tensor.num_bytes > size:
            end = start + tensor.offset + tensor.num_bytes
            raise cursor.fail(f"{tensor.name!r} would end at byte {end}; the file has {size}")
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for first, second in pairwise(ordered):
        if first.offset + first.num_bytes > second.offset:
            raise cursor.fail(f"{first.name!r} ends at {first.offset + first.num_bytes}, inside {second.name!r}")
    return tuple(
        Weight(tensor.name, tensor.shape, tensor.dtype, tensor.file, start + tensor.offset, tensor.num_bytes)
        for tensor in tensors
    )


def parse_gguf(source: ByteSource, file: int = 0) -> Gguf:
    """The header of one file. Raises BadFile where it contradicts itself or the file's size, UnsupportedModel for
    versions and tensor types that are not read here."""
    cursor = Cursor(source)
    _check_start(cursor)
    num_tensors = _checked_count(cursor, "tensors", _MIN_TENSOR_BYTES)
    num_pairs = _checked_count(cursor, "metadata entries", _MIN_PAIR_BYTES)
    metadata: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(num_pairs):
        start = cursor.position
        key = cursor.string("a metadata key", _MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.fail(f"the metadata key {key!r} comes twice")
        metadata[key] = _read_value(cursor, key)
        spans[key] = start, cursor.position
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 65536):
        raise cursor.fail(f"an alignment of {alignment!r}; a power of two from 8 to 65536 is needed")
    tensors = [_read_tensor(cursor, file) for _ in range(num_tensors)]
    return Gguf((source,), metadata, _place(cursor, tensors, alignment), spans)


def split_names(name: str) -> tuple[str, ...]:
    """The names of all splits that `name` is one of; itself alone where it is not split."""
    match = _SPLIT_NAME.fullmatch(name)
    if match is None:
        return (name,)
    count = int(match[3])
    need(1 <= int(match[2]) <= count, f"{name}: a split's number is 1 to {count}", BadInput)
    return tuple(f"{match[1]}-{number + 1:05d}-of-{match[3]}.gguf" for number in range(count))


def join_splits(parts: tuple[Gguf, ...]) -> Gguf:
    """One header from all splits, metadata from the first. Raises BadFile where they do not belong together."""
    first = parts[0]
    for number, part in enumerate(parts):
        name = part.sources[0].name
        found = (part.metadata.get("split.no"), part.metadata.get("split.count"))
        need(
            found == (number, len(parts)),
            f"{name}: says split {found[0]} of {found[1]}, not {number} of {len(parts)}",
            BadFile,
        )
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    claimed = first.metadata.get("split.tensors.count", len(tensors))
    need(
        claimed == len(tensors),
        f"{first.sources[0].name}: {claimed} tensors in all splits, but found {len(tensors)}",
        BadFile,
    )
    names = {tensor.name for tensor in tensors}
    need(len(names) == len(tensors), f"{first.sources[0].name}: the splits hold a tensor twice", BadFile)
    return Gguf(tuple(part.sources[0] for part in parts), first.metadata, tensors, first.spans)


def open_gguf(path: Path) -> Gguf:
    """The header of a GGUF file; of all its splits where it is one of several. Raises as `parse_gguf`, and BadInput
    naming the splits that are not there."""
    names = split_names(path.name)
    missing = [name for name in names if not path.with_name(name).is_file()]
    need(not missing, f"{path}: not there: {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}", BadInput)
    parts = tuple(parse_gguf(LocalFile(path.with_name(name)), file) for file, name in enumerate(names))
    return parts[0] if len(parts) == 1 else join_splits(parts)
