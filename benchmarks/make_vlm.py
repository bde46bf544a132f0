"""Vision-language models with true published shapes and drawn weights, to measure memory and speed alone.

    python benchmarks/make_vlm.py --shape smolvlm-256m -o models       # 0.5 GB of bf16
    python benchmarks/make_vlm.py --shape qwen2.5-vl-3b -o models      # 7.5 GB
    pintpot run models/smolvlm-256m --image picture.png -p "What is this?" --memory 1GB

transformers says which tensors there are, on the meta device; nothing of it is computed. The tokenizer is SmolLM2's,
filled up with unused words; one of its special words stands for an image. Memory stays below 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from drawn_weights import constant_row, drawn_rows
from make_model import progress_to_stderr
from model_files import Entry, padded_tokenizer, write_safetensors

from pintpot.errors import DiskTooSmall, PintpotError, UsageError, need
from pintpot.model.tokens.build import build_tokenizer_json
from pintpot.units import format_bytes

STD = 0.02
IMAGE_WORD = 4
"""A special word of SmolLM2 that no text has."""
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 512, "patch_size": 16,
}  # fmt: skip
_SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_280,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN2_5_3B = {
    "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151_936, "max_position_embeddings": 128_000, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN2_5_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
    "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "patch_size": 14,
}  # fmt: skip
_VICUNA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 49_280, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smolvlm-256m": ("SmolVLM", {"vision_config": _SIGLIP, "text_config": _SMOLLM2, "scale_factor": 4}),
    "qwen2.5-vl-3b": ("Qwen2_5_VL", {"vision_config": _QWEN2_5_VISION, "text_config": _QWEN2_5_3B}),
    "llava-1.5-7b": ("Llava", {"vision_config": _CLIP_L, "text_config": _VICUNA_7B}),
}
"""Classes of transformers and their settings. LLaVA's vocabulary is as large as SmolLM2's here."""


def make(name: str, folder: Path, *, headers: bool = False, seed: int = 0) -> Path:
    """Write one model below `folder` and return its path. Raises DiskTooSmall before anything is written."""
    import torch
    import transformers

    prefix, settings = SHAPES[name]
    vocab = settings["text_config"]["vocab_size"]
    ties = bool(settings["text_config"].get("tie_word_embeddings", False))
    config = getattr(transformers, f"{prefix}Config")(
        **settings, image_token_id=IMAGE_WORD, tie_word_embeddings=ties, dtype="bfloat16"
    )
    with torch.device("meta"):
        module = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    config.architectures = [type(module).__name__]
    tied = set(module.all_tied_weights_keys) if ties else set()
    entries = [
        Entry(key, tuple(one.shape), "bf16", partial(_chunks, key, tuple(one.shape), (seed, index)))
        for index, (key, one) in enumerate(module.state_dict().items())
        if key not in tied and one.is_floating_point()
    ]
    total = sum(entry.num_bytes for entry in entries)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    room = headers or free > total + 50_000_000
    need(room, f"{format_bytes(total)} are to be written, {format_bytes(free)} are free in {folder}", DiskTooSmall)
    path, part = folder / name, folder / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    config.save_pretrained(part)
    _write_tokenizer(part, vocab)
    write_safetensors(part, entries, None if headers else progress_to_stderr(total))
    shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
    return path


def _chunks(name: str, shape: tuple[int, ...], seed: tuple[int, ...]) -> Any:
    rows = 1
    for axis in shape[:-1]:
        rows *= axis
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return constant_row("bf16", shape[0], 1.0)
    return drawn_rows("bf16", rows, shape[-1], STD, seed)


def _write_tokenizer(folder: Path, vocab: int) -> None:
    tokenizer = padded_tokenizer(vocab)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>", "chat_template": tokenizer["tokenizer.chat_template"],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(build_tokenizer_json(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a vision-language model of a published shape, weights drawn.")
    parser.add_argument("--shape", required=True, choices=[*SHAPES], metavar="NAME", help=", ".join(SHAPES))
    parser.add_argument(
        "--headers", action="store_true", help="leave the weights out (holes in the file): to plan with"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        path = make(options.shape, options.out, headers=options.headers, seed=options.seed)
    except (PintpotError, UsageError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
