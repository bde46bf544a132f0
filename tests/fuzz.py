"""Damaged model files from a seed, and what describing them may do: give a valid description or one of our errors."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tiny import FAMILIES, Tiny, write_gguf, write_hf

from pintpot.errors import PintpotError
from pintpot.model.gguf import parse_gguf
from pintpot.model.read import describe_folder, describe_gguf
from pintpot.model.spec import Model, Source

Field = tuple[int, int]
"""Where a length, offset or count lies: first byte and number of bytes."""

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Memory:
    """A file in memory, as the readers see one. It refuses what no file could give."""

    name: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        if not 0 <= offset <= offset + count <= self.size:
            raise AssertionError(f"read of {count} bytes at {offset} in a file of {self.size}")
        return self.data[offset : offset + count]


@dataclass(frozen=True)
class MemoryFolder:
    """A folder of texts with one safetensors file."""

    name: str
    files: dict[str, bytes]

    def names(self) -> frozenset[str]:
        return frozenset(self.files)

    def text(self, name: str) -> str | None:
        return self.files[name].decode() if name in self.files else None

    def open(self, name: str) -> Memory:
        return Memory(name, self.files[name])


@dataclass(frozen=True)
class Original:
    """A sound file: `kind` is gguf or safetensors; `end` is where its header ends; `folder` are the files beside it."""

    kind: str
    data: bytes
    fields: tuple[Field, ...]
    end: int
    folder: dict[str, bytes]


def originals(place: Path) -> list[Original]:
    """Two files of each kind, small, written below `place`."""
    found = []
    for number, tiny in enumerate((FAMILIES[1], Tiny(family="qwen2", layers=1))):
        data = write_gguf(place / f"{number}.gguf", tiny, ("q8_0", "q4_1")[number]).read_bytes()
        fields, end = gguf_fields(data)
        found.append(Original("gguf", data, tuple(fields), end, {}))
        folder = write_hf(place / str(number), tiny, dtype=("f16", "bf16")[number])
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        data = files.pop("model.safetensors")
        fields, end = safetensors_fields(data)
        found.append(Original("safetensors", data, tuple(fields), end, files))
    return found


def gguf_fields(data: bytes) -> tuple[list[Field], int]:
    """Every length, count, type, axis and offset of a sound GGUF header, and where the header ends."""
    fields: list[Field] = []
    at = 8

    def number(width: int) -> int:
        nonlocal at
        fields.append((at, width))
        at += width
        return int.from_bytes(data[at - width : at], "little")

    def string() -> None:
        nonlocal at
        length = number(8)
        at += length

    num_tensors, num_pairs = number(8), number(8)
    for _ in range(num_pairs):
        string()
        kind = number(4)
        if kind == 8:
            string()
        elif kind == 9:
            item, count = number(4), number(8)
            for _ in range(count if item == 8 else 0):
                string()
            at += 0 if item == 8 else count * _SIZES[item]
        else:
            number(_SIZES[kind])
    for _ in range(num_tensors):
        string()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    # Lengths inside the vocabulary outnumber all others a hundred to one; a few of them are enough.
    words = [field for field in fields if field[1] == 8]
    step = max(1, len(words) // 100)
    return [field for field in fields if field[1] != 8] + words[::step] + fields[:2] + fields[-40:], at


def safetensors_fields(data: bytes) -> tuple[list[Field], int]:
    """The header's length and every number in it, and where the header ends."""
    end = 8 + struct.unpack_from("<Q", data)[0]
    numbers = [(8 + match.start(), match.end() - match.start()) for match in re.finditer(rb"\d+", data[8:end])]
    return [(0, 8)] * (1 + len(numbers) // 10) + numbers, end


def _value(old: int, size: int, rng: random.Random) -> int:
    power = 1 << rng.randrange(65)
    near = old + rng.choice((-2, -1, 1, 2, 8, 32))
    drawn = rng.choice(
        (0, 1, near, near, old * 2, old // 2, power, power - 1, power + 1, size, size - 1, rng.getrandbits(64))
    )
    return max(0, drawn)


def _change_field(original: Original, data: bytearray, field: Field, rng: random.Random) -> None:
    at, width = field
    if original.kind == "gguf" or at == 0:
        value = _value(int.from_bytes(original.data[at : at + width], "little"), len(data), rng)
        data[at : at + width] = (value % 256**width).to_bytes(width, "little")
        return
    text = str(_value(int(original.data[at : at + width]), len(data), rng)).encode()
    if rng.random() < 0.5:
        text = text[:width].rjust(width, b" ")
    data[at : at + width] = text
    if rng.random() < 0.7:
        data[:8] = struct.pack("<Q", original.end - 8 + len(text) - width)


def damaged(original: Original, seed: int) -> bytes:
    """The file with damage of its own: for even seeds in lengths, offsets and counts, for odd ones flips or a cut."""
    rng = random.Random(seed)
    data = bytearray(original.data)
    if seed % 2 == 0:
        # From the back, so that a number that grows moves no field that is still to be changed.
        for field in sorted(rng.sample(original.fields, rng.choice((1, 1, 1, 2, 3))), reverse=True):
            _change_field(original, data, field, rng)
        return bytes(data)
    if rng.random() < 0.3:
        return bytes(data[: rng.choice((rng.randrange(original.end), rng.randrange(len(data))))])
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(original.end if rng.random() < 0.8 else len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def outcome(original: Original, data: bytes) -> str:
    """What describing `data` gives: `ok` and a digest, or an error of ours. Anything else is raised."""
    try:
        if original.kind == "gguf":
            gguf = parse_gguf(Memory("m.gguf", data))
            gguf.tokenizer_metadata()
            model = describe_gguf(gguf, Source("gguf", "m.gguf", ("m.gguf",)))
        else:
            files = {**original.folder, "model.safetensors": data}
            model = describe_folder(MemoryFolder("m", files), Source("hub", "m", ()), "m")
    except PintpotError as error:
        return f"{type(error).__name__}: {error}"
    check_places(model, len(data))
    return f"ok {model.digest}"


def check_places(model: Model, size: int) -> None:
    """Raise AssertionError unless every weight lies inside the file and apart from the others."""
    weights = sorted((weight for part in model.parts for weight in part.weights()), key=lambda weight: weight.offset)
    if any(weight.offset < 0 or weight.num_bytes < 1 or weight.offset + weight.num_bytes > size for weight in weights):
        raise AssertionError(f"a weight outside the file: {weights}")
    if any(first.offset + first.num_bytes > second.offset for first, second in pairwise(weights)):
        raise AssertionError(f"weights that overlap: {weights}")
