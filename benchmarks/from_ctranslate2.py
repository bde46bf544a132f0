"""A Whisper of CTranslate2 as the folder that transformers reads: its model.bin read by its documented layout.

    python benchmarks/from_ctranslate2.py SOURCE FOLDER

SOURCE holds model.bin, config.json and tokenizer.json. Nothing of the file is run; every number in it is held against
the file's size before it is used.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[Any]
DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
MOST_TENSORS, MOST_RANK = 100_000, 8
WINDOW_S, HOP, FRAME, RATE = 30, 160, 400, 16000


def read_model(path: Path) -> tuple[str, dict[str, Array]]:
    """The name of a model's specification, and its tensors by name, aliases among them. Raises ValueError."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def number(kind: str) -> int:
            data = file.read(struct.calcsize(kind))
            if len(data) != struct.calcsize(kind):
                raise ValueError(f"{path} ends in the middle of a number")
            return int(struct.unpack(f"<{kind}", data)[0])

        def text() -> str:
            return _exactly(file, number("H"), size).rstrip(b"\0").decode()

        version, name, _ = number("I"), text(), number("I")
        if version < 5:
            raise ValueError(f"{path} has version {version}; 5 and later are read")
        tensors: dict[str, Array] = {}
        for _ in range(_below(number("I"), MOST_TENSORS)):
            called = text()
            shape = tuple(number("I") for _ in range(_below(number("B"), MOST_RANK)))
            kind, num_bytes = number("B"), number("I")
            if kind not in DTYPES:
                raise ValueError(f"{called} has a type {kind}, which is not known here")
            values = np.frombuffer(_exactly(file, num_bytes, size), DTYPES[kind])
            tensors[called] = values.reshape(shape)
        for _ in range(_below(number("I"), MOST_TENSORS)):
            alias, called = text(), text()
            tensors[alias] = tensors[called]
    return name, tensors


def _exactly(file: BinaryIO, num_bytes: int, size: int) -> bytes:
    if num_bytes > size - file.tell():
        raise ValueError(f"{num_bytes} bytes are said to follow at {file.tell()} of {size}")
    return file.read(num_bytes)


def _below(count: int, most: int) -> int:
    if count > most:
        raise ValueError(f"{count} where at most {most} are expected")
    return count


def renamed(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The same weights under the names that transformers has for them."""
    found = {
        "model.encoder.conv1.weight": tensors["encoder/conv1/weight"],
        "model.encoder.conv1.bias": tensors["encoder/conv1/bias"],
        "model.encoder.conv2.weight": tensors["encoder/conv2/weight"],
        "model.encoder.conv2.bias": tensors["encoder/conv2/bias"],
        "model.decoder.embed_tokens.weight": tensors["decoder/embeddings/weight"],
    }
    for side in ("encoder", "decoder"):
        found[f"model.{side}.embed_positions.weight"] = tensors[f"{side}/position_encodings/encodings"]
        found |= _norm(f"model.{side}.layer_norm", tensors, f"{side}/layer_norm")
        for layer in range(num_layers(tensors, side)):
            ours, theirs = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            found |= _attention(f"{ours}.self_attn", tensors, f"{theirs}/self_attention", ("qkv", "out"))
            if side == "decoder":
                found |= _attention(f"{ours}.encoder_attn", tensors, f"{theirs}/attention", ("q", "kv", "out"))
            found |= _norm(f"{ours}.final_layer_norm", tensors, f"{theirs}/ffn/layer_norm")
            for at, name in enumerate(("fc1", "fc2")):
                for kind in ("weight", "bias"):
                    found[f"{ours}.{name}.{kind}"] = tensors[f"{theirs}/ffn/linear_{at}/{kind}"]
    return {name: np.ascontiguousarray(one) for name, one in found.items()}


def num_layers(tensors: Mapping[str, Array], side: str) -> int:
    return len({name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _norm(ours: str, tensors: Mapping[str, Array], theirs: str) -> dict[str, Array]:
    return {f"{ours}.weight": tensors[f"{theirs}/gamma"], f"{ours}.bias": tensors[f"{theirs}/beta"]}


def _attention(ours: str, tensors: Mapping[str, Array], theirs: str, order: tuple[str, ...]) -> dict[str, Array]:
    """Layers that are stored as one become those that they were made of; keys have no bias."""
    found = _norm(f"{ours}_layer_norm", tensors, f"{theirs}/layer_norm")
    for at, parts in enumerate(order):
        weight, bias = (tensors[f"{theirs}/linear_{at}/{kind}"] for kind in ("weight", "bias"))
        names = ("out",) if parts == "out" else tuple(parts)
        for name, rows, values in zip(names, np.split(weight, len(names)), np.split(bias, len(names)), strict=True):
            found[f"{ours}.{name}_proj.weight"] = rows
            if name != "k":
                found[f"{ours}.{name}_proj.bias"] = values
            elif np.any(values):
                raise ValueError(f"{theirs}: keys have a bias, for which transformers has no place")
    return found


def configs(tensors: Mapping[str, Array], settings: Mapping[str, Any], words: Mapping[str, int]) -> dict[str, Any]:
    """config.json, generation_config.json and preprocessor_config.json by their names."""
    width, mels = tensors["encoder/conv1/weight"].shape[:2]
    vocabulary = tensors["decoder/embeddings/weight"].shape[0]
    end, start, silent = (words[f"<|{name}|>"] for name in ("endoftext", "startoftranscript", "notimestamps"))
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    sizes = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (
            ("layers", num_layers(tensors, side)),
            ("attention_heads", int(tensors[f"{side}/num_heads"])),
            ("ffn_dim", tensors[f"{side}/layer_0/ffn/linear_0/weight"].shape[0]),
        )
    }
    places = {side: tensors[f"{side}/position_encodings/encodings"].shape[0] for side in ("encoder", "decoder")}
    config = {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": width,
        "num_mel_bins": mels, "vocab_size": vocabulary, "is_encoder_decoder": True, "torch_dtype": "float16",
        "max_source_positions": places["encoder"], "max_target_positions": places["decoder"], **sizes, **ids,
    }  # fmt: skip
    generation = {
        **ids, "suppress_tokens": settings["suppress_ids"], "begin_suppress_tokens": settings["suppress_ids_begin"],
        "no_timestamps_token_id": silent, "max_length": places["decoder"], "return_timestamps": False,
        "is_multilingual": False, "alignment_heads": settings["alignment_heads"],
        "prev_sot_token_id": words["<|startofprev|>"],
    }  # fmt: skip
    hearing = {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": mels, "sampling_rate": RATE,
        "hop_length": HOP, "n_fft": FRAME, "chunk_length": WINDOW_S,
    }  # fmt: skip
    return {"config.json": config, "generation_config.json": generation, "preprocessor_config.json": hearing}


def write_folder(source: Path, folder: Path) -> Path:
    """Make the folder. Raises ValueError for another model than an English Whisper."""
    name, tensors = read_model(source / "model.bin")
    if name != "WhisperSpec":
        raise ValueError(f"{source} holds a {name}, no Whisper")
    words = {one["content"]: one["id"] for one in json.loads((source / "tokenizer.json").read_text())["added_tokens"]}
    if tensors["decoder/embeddings/weight"].shape[0] != 51864:
        raise ValueError(f"{source} knows many languages; only the English ones are made here")
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in configs(tensors, json.loads((source / "config.json").read_text()), words).items():
        (folder / file).write_text(json.dumps(data, indent=1))
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    save_file(renamed(tensors), folder / "model.safetensors", {"format": "pt"})
    return folder


if __name__ == "__main__":
    print(write_folder(Path(sys.argv[1]), Path(sys.argv[2])))
