"""safetensors headers: names, shapes and places of tensors, without a byte of data.

Format: https://huggingface.co/docs/safetensors/index#format. An 8-byte length, a JSON header, and data that the tensors
cover without gap or overlap.
"""

from __future__ import annotations

from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.source import ByteSource, decode_text, parse_json
from pintpot.model.spec import Weight

_MAX_HEADER_BYTES = 100_000_000
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_MAX_AXES = 8


def parse_safetensors(source: ByteSource, file: int = 0) -> tuple[Weight, ...]:
    """The tensors of one file under their own names, in data order; `dtype` is lower case (`f16`, `i32`).

    Raises BadFile where the header contradicts itself or the file's size, UnsupportedModel for an unknown dtype.
    """
    name = source.name
    need(source.size >= 8, f"{name}: {source.size} bytes hold no safetensors header", BadFile)
    length = int.from_bytes(source.read(0, 8), "little")
    limit = min(_MAX_HEADER_BYTES, source.size - 8)
    need(length <= limit, f"{name}: claims a header of {length} bytes; at most {limit} are possible", BadFile)
    text = decode_text(source.read(8, length), name)
    need(text.startswith("{"), f"{name}: the header is no JSON object: it begins with {text[:8]!r}", BadFile)
    header = parse_json(text, f"{name}: the header")
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = [_tensor(name, key, entry, file, start, source.size) for key, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))
    end = start
    for tensor in tensors:
        need(tensor.offset == end, f"{name}: {tensor.name!r} begins at byte {tensor.offset}, not at {end}", BadFile)
        end += tensor.num_bytes
    need(end == source.size, f"{name}: the tensors end at byte {end}, the file at {source.size}", BadFile)
    return tuple(tensors)


def _numbers(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(item) is int and item >= 0 for item in value)


def _tensor(where: str, name: str, entry: Any, file: int, start: int, size: int) -> Weight:
    need(isinstance(entry, dict), f"{where}: {name!r} is described by {type(entry).__name__}, not an object", BadFile)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _numbers(shape, _MAX_AXES):
        raise BadFile(f"{where}: {name!r} has the shape {_short(shape)}")
    if not (_numbers(offsets, 2) and len(offsets) == 2 and offsets[0] <= offsets[1] <= size - start):
        raise BadFile(f"{where}: {name!r} lies at {_short(offsets)} of {size - start} bytes")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise UnsupportedModel(f"{where}: {name!r} has the dtype {_short(dtype)}; F32, F16 and BF16 are read here")
    num_bits = _BITS[dtype]
    for axis in shape:
        num_bits *= axis
    have = offsets[1] - offsets[0]
    if num_bits != 8 * have:
        wanted = f"{-(-num_bits // 8)}" if num_bits.bit_length() < 128 else "far more"
        raise BadFile(f"{where}: {name!r} has {have} bytes; {_short(shape)} of {dtype} takes {wanted}")
    return Weight(name, tuple(shape), dtype.lower(), file, start + offsets[0], have)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 1000 else "a number of over 300 digits"
    return text if len(text) <= 80 else text[:77] + "..."


def read_index(text: str, where: str) -> dict[str, str]:
    """Tensor name -> file name of a `model.safetensors.index.json`. Raises BadFile for files elsewhere."""
    weight_map = parse_json(text, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadFile(f"{where}: no weight_map in it")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and file.endswith(".safetensors") and "/" not in file and "\0" not in file
        need(plain, f"{where}: {name!r} lies in {_short(file)}, which is no safetensors file of this folder", BadFile)
    return weight_map
