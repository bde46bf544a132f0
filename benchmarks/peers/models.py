"""The models that everybody runs, in the forms that a contender may ask for: as they come, and as Q4_0."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench import OUT, drawn_model, smollm2, whisper
from make_model import make
from model_files import Entry, write_gguf
from model_shapes import Shape
from numpy.typing import NDArray
from texts import shipped_text

from pintpot import api
from pintpot.formats.source import decode
from pintpot.model.gguf import GgufArray, open_gguf
from pintpot.model.store import Store, rows_of
from pintpot.model.tokens import Tokenizer
from pintpot.model.tokens.source import from_gguf

TRAINED = "smollm2"
_GROUP = 32
_EXTRA = {"1.7b": Shape("smollm2-1.7b", "llama", 2048, 24, 32, 32, 8192, 49_152, True, 8192, 1.3e5)}


def forms(model: str) -> dict[str, Path]:
    """Files of a model by form. "smollm2" is trained; "0.5b q4_0" is a shape and a format, with drawn weights."""
    if model == TRAINED:
        return {"as is": smollm2(), "q4_0": _requantized(smollm2())}
    shape, _, dtype = model.partition(" ")
    if dtype == "hf":
        return {"as is": drawn_model(shape, "bf16", hf=True)}
    path = _extra(_EXTRA[shape], dtype) if shape in _EXTRA else drawn_model(shape, dtype)
    return {"as is": path} | ({"q4_0": path} if dtype == "q4_0" else {})


def prompt(number: int, turn: int) -> list[int]:
    """A prompt of so many tokens out of a text, begun elsewhere in it each turn; all models share the tokenizer."""
    words = _tokens()
    first = 53 * turn % len(words)
    repeated = words[first:] + words * (number // len(words) + 1)
    return repeated[:number]


def question(text: str) -> list[int]:
    """The tokens of a text."""
    return _tokenizer().encode(text, add_special=False)


def _tokens() -> list[int]:
    return question(shipped_text())


def _tokenizer() -> Tokenizer:
    return Tokenizer.load(from_gguf(open_gguf(smollm2())))


def _extra(shape: Shape, dtype: str) -> Path:
    path = OUT / "models" / f"{shape.name}-{dtype}.gguf"
    return path if path.exists() else make(shape, dtype, path.parent, gguf=True)


def _requantized(source: Path) -> Path:
    """The same model with the matrices of its blocks as Q4_0, which is what llama.cpp's own quantizer makes of it."""
    path = OUT / "models" / f"{source.name.removesuffix('.gguf').removesuffix('.Q4_1')}.Q4_0.gguf"
    if path.exists():
        return path
    whisper(f"writing {path.name} ...")
    gguf = open_gguf(source)
    metadata: dict[str, Any] = {
        key: gguf.read_array(key) if isinstance(value, GgufArray) else value for key, value in gguf.metadata.items()
    }
    metadata["general.file_type"] = 2
    with Store(api.describe(source)) as store:
        entries = [_entry(store, weight) for weight in gguf.tensors]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write_gguf(part, metadata, entries, lambda num_bytes: None)
    part.replace(path)
    return path


def _entry(store: Store, weight: Any) -> Entry:
    rounded = weight.dtype == "q4_1"
    return Entry(weight.name, weight.shape, "q4_0" if rounded else weight.dtype, partial(_rows, store, weight, rounded))


def _rows(store: Store, weight: Any, rounded: bool) -> Iterator[NDArray[np.uint8]]:
    raw = store.read(weight, 0, rows_of(weight))
    yield q4_0(decode(raw, weight.dtype, weight.shape[-1])) if rounded else raw


def q4_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of float32 as blocks of 32: a float16 scale, then codes of 4 bits, first half low, second half high.

    The scale gives the value of the largest magnitude the code 0 (that is, -8), as the format's own quantizer does.
    """
    groups = values.reshape(len(values), -1, _GROUP)
    widest = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)
    scale = widest / np.float32(-8)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.floor(groups * inverse + np.float32(8.5)), 0, 15).astype(np.uint8)
    half = _GROUP // 2
    packed = codes[..., :half] | codes[..., half:] << 4
    scales = scale.astype(np.float16).view(np.uint8)
    return np.concatenate([scales, packed], axis=2).reshape(len(values), -1)
