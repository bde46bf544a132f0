"""What stands beside the tensors: a folder's config.json and tokenizer, a GGUF file's metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pintpot.model.gguf_write import Value, pair
from pintpot.model.tokens import TokenizerSource, from_folder
from pintpot.packer.export.config import gguf_keys
from pintpot.packer.export.containers import write_text
from pintpot.packer.export.tensor import Tensor
from pintpot.packer.export.vocabulary import tokenizer_keys
from pintpot.packer.manifest import Manifest
from pintpot.packer.metadata import kept_metadata, raw_pairs

_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 15, "q6_k": 18, "bf16": 32,
    "mxfp4": 38,
}  # fmt: skip
"""GGUF's number for a file that is mostly of one type (`general.file_type`)."""
_GUESSED = 1024


def write_beside(folder: Path, source: TokenizerSource, config: Mapping[str, Any]) -> None:
    """config.json, and the tokenizer's files, with what transformers wants to know."""
    _write(folder / "config.json", config)
    write_text(folder / "tokenizer.json", source.text())
    _write(folder / "tokenizer_config.json", _settings(source, config))
    ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": list(source.eos_ids)}
    _write(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})


def gguf_metadata(pack: Path, manifest: Manifest, tensors: Sequence[Tensor]) -> list[bytes]:
    """The pairs of a GGUF file: those that came with the source, bit for bit, or what the pack knows."""
    mostly: Counter[str] = Counter()
    for tensor in tensors:
        mostly[tensor.dtype] += tensor.num_bytes
    own: dict[str, Value] = {
        "general.file_type": _FILE_TYPES.get(mostly.most_common(1)[0][0], _GUESSED),
        "general.quantization_version": 2,
    }
    kept = kept_metadata(pack)
    if kept is not None:
        came = [data for key, data in raw_pairs(kept) if key not in own]
        return came + [pair(key, value) for key, value in own.items()]
    config = manifest.plan.config
    named: dict[str, Value] = {"general.type": "model", "general.name": manifest.plan.model_name}
    tokenizer = tokenizer_keys(from_folder(pack), config, config["vocab_size"])
    keys = {**gguf_keys(config), **named, **own, **tokenizer}
    return [pair(key, value) for key, value in keys.items()]


def _settings(source: TokenizerSource, config: Mapping[str, Any]) -> dict[str, Any]:
    # Named, for transformers would otherwise make a tokenizer of its own for the model's type.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": source.bos, "eos_token": source.eos,
        "model_max_length": config["max_position_embeddings"], "chat_template": source.chat_template,
    }  # fmt: skip
    return {key: value for key, value in settings.items() if value}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))
