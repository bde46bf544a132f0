"""Models with true published shapes and drawn weights, to measure what does not depend on values.

    python benchmarks/make_model.py --shape 8b --format q4_0 -o models           # models/llama-3.1-8b-q4_0.gguf
    python benchmarks/make_model.py --shape llama-16gb-bf16 --hf -o models       # a folder with bf16 shards of 4 GB
    python benchmarks/make_model.py --shape 70b --format q4_k --headers -o models    # holes for weights: to plan with

The tokenizer is SmolLM2's, filled up with unused words. Memory stays below 200 MB whatever the shape; the path that was
written is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from drawn_weights import Bytes, constant_row, drawn_rows
from model_files import Entry, Progress, padded_tokenizer, write_gguf, write_safetensors
from model_shapes import ALIASES, SHAPES, Shape, Tensor, gguf_metadata, hf_config, rope_factors, tensors

from pintpot.errors import DiskTooSmall, PintpotError, UsageError, need
from pintpot.formats import SOURCE_FORMATS, encoding
from pintpot.model.tokens.build import build_tokenizer_json
from pintpot.units import format_bytes, format_seconds

FLOATS = ("f32", "f16", "bf16")
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15,
    "q5_k": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip


def entries(shape: Shape, dtype: str, *, gguf: bool, seed: int) -> list[Entry]:
    """Every tensor of the file; vectors are f32 in GGUF and `dtype` in a folder, as the usual converters have it."""
    found = []
    for index, tensor in enumerate(tensors(shape)):
        name = tensor.gguf_name if gguf else tensor.hf_name
        if not name:
            continue
        chosen = _fitting(dtype, tensor.shape[-1]) if len(tensor.shape) > 1 else "f32" if gguf else dtype
        chosen = "f32" if "ffn_gate_inp" in name else chosen
        found.append(Entry(name, tensor.shape, chosen, partial(_chunks, tensor, chosen, (seed, index))))
    if gguf and shape.llama3_rope:
        factors = np.array([rope_factors(shape)], np.float32).view(np.uint8)
        found.append(Entry("rope_freqs.weight", (shape.head_dim // 2,), "f32", lambda: [factors]))
    return found


def _fitting(dtype: str, columns: int) -> str:
    """Rows that are not whole superblocks become Q8_0, as llama.cpp falls back to smaller blocks."""
    return dtype if columns % encoding(dtype).block_columns == 0 else "q8_0"


def _chunks(tensor: Tensor, dtype: str, seed: tuple[int, int]) -> Iterator[Bytes]:
    columns = tensor.shape[-1]
    if tensor.is_norm:
        return constant_row(dtype, columns, 1.0)
    return drawn_rows(dtype, math.prod(tensor.shape[:-1]), columns, tensor.std, seed)


def progress_to_stderr(total: int) -> Progress:
    """Says every second how far it is."""
    start = time.monotonic()
    state = {"done": 0, "said": start}

    def advance(num_bytes: int) -> None:
        state["done"] += num_bytes
        now = time.monotonic()
        if now - state["said"] >= 1:
            state["said"] = now
            left = (now - start) / state["done"] * (total - state["done"])
            done = f"{format_bytes(state['done'])} of {format_bytes(total)}, {format_seconds(left)} left"
            sys.stderr.write(f"\r{done:<50}")

    return advance


def make(shape: Shape, dtype: str, folder: Path, *, gguf: bool, headers: bool = False, seed: int = 0) -> Path:
    """Write one model below `folder` and return its path: a .gguf file, or a Hugging Face folder.

    Raises UsageError for a format that such a file cannot hold, DiskTooSmall before anything is written.
    """
    known = SOURCE_FORMATS if gguf else FLOATS
    need(dtype in known, f"such a file holds {', '.join(known)}, not {dtype}", UsageError)
    found = entries(shape, dtype, gguf=gguf, seed=seed)
    total = sum(entry.num_bytes for entry in found)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    room = headers or free > total + 50_000_000
    need(room, f"{format_bytes(total)} are to be written, {format_bytes(free)} are free in {folder}", DiskTooSmall)
    path = folder / (f"{shape.name}-{dtype}.gguf" if gguf else f"{shape.name}-{dtype}")
    part = path.with_name(path.name + ".part")
    progress = None if headers else progress_to_stderr(total)
    tokenizer = padded_tokenizer(shape.vocab)
    if gguf:
        own = gguf_metadata(shape) | {"general.file_type": _FILE_TYPES[dtype], "general.quantization_version": 2}
        write_gguf(part, own | tokenizer, found, progress)
    else:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _write_texts(part, shape, dtype, tokenizer)
        write_safetensors(part, found, progress)
        shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
    return path


def _write_texts(folder: Path, shape: Shape, dtype: str, tokenizer: dict[str, object]) -> None:
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>", "model_max_length": shape.context,
        "chat_template": tokenizer["tokenizer.chat_template"],
    }  # fmt: skip
    texts = {
        "config.json": json.dumps(hf_config(shape, dtype), indent=1),
        "generation_config.json": json.dumps({"bos_token_id": 1, "eos_token_id": 2}),
        "tokenizer.json": build_tokenizer_json(tokenizer),
        "tokenizer_config.json": json.dumps(settings, indent=1),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> int:
    names = [*SHAPES, *ALIASES]
    parser = argparse.ArgumentParser(description="Write a model with a published shape and drawn weights.")
    parser.add_argument("--shape", required=True, choices=names, help="which model's shape", metavar="NAME")
    parser.add_argument("--format", default=None, help=f"{', '.join(SOURCE_FORMATS)} (default: q4_0, with --hf bf16)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--gguf", action="store_true", help="a GGUF file (the default)")
    kind.add_argument("--hf", action="store_true", help="a Hugging Face folder")
    parser.add_argument("--headers", action="store_true", help="leave the weights out (holes in the file)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = SHAPES[ALIASES.get(options.shape, options.shape)]
    default = "bf16" if options.hf or options.shape.endswith("bf16") else "q4_0"
    try:
        path = make(
            shape, options.format or default, options.out,
            gguf=not options.hf, headers=options.headers, seed=options.seed,
        )  # fmt: skip
    except PintpotError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
