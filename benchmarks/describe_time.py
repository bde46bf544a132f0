"""How long describing a model takes: a GGUF file with 152k words, and 70 billion weights in 30 safetensors files.

    python benchmarks/describe_time.py [--repeats 20]

The weights are holes in sparse files; only headers are read. The targets are 150 ms and 20 ms, pages in the cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pintpot.model.read import describe

_HIDDEN, _FFN, _LAYERS, _KEYS, _VOCAB, _SHARDS = 8192, 28672, 80, 1024, 128256, 30
_NUM_WORDS = 151_936


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCAB, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = (_HIDDEN,)
        for name, rows in (("q", _HIDDEN), ("k", _KEYS), ("v", _KEYS), ("o", _HIDDEN)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, _HIDDEN)
        for name, shape in (("gate", (_FFN, _HIDDEN)), ("up", (_FFN, _HIDDEN)), ("down", (_HIDDEN, _FFN))):
            shapes[f"{at}mlp.{name}_proj.weight"] = shape
    return shapes


def _write_folder(folder: Path) -> Path:
    folder.mkdir()
    config = {
        "model_type": "llama", "hidden_size": _HIDDEN, "intermediate_size": _FFN, "num_hidden_layers": _LAYERS,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": _VOCAB, "max_position_embeddings": 131072,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    items = list(_shapes().items())
    weight_map = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        header: dict[str, Any] = {}
        end = 0
        for name, shape in items[shard * len(items) // _SHARDS : (shard + 1) * len(items) // _SHARDS]:
            start, end = end, end + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _write_gguf(path: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import gguf
    from tiny import Tiny, gguf_name, hf_shapes
    from tiny_gguf import add_metadata

    tiny = Tiny(family="qwen2", vocab=_NUM_WORDS, tied=True)
    writer = gguf.GGUFWriter(path, "qwen2")
    add_metadata(writer, tiny)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"{index:x}{'x' * (index % 6)}" for index in range(_NUM_WORDS)])
    writer.add_token_types([1] * _NUM_WORDS)
    writer.add_token_merges([f"{index:x} {index * 7:x}" for index in range(_NUM_WORDS)])
    for name, shape in hf_shapes(tiny).items():
        writer.add_tensor(gguf_name(name), np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as place:
        sources = ((_write_gguf(Path(place) / "m.gguf"), 150), (_write_folder(Path(place) / "m"), 20))
        for path, target_ms in sources:
            taken = []
            for _ in range(repeats):
                start = time.perf_counter()
                describe(str(path))
                taken.append(1e3 * (time.perf_counter() - start))
            kind = "safetensors, 70B in 30 files" if path.is_dir() else f"GGUF, {_NUM_WORDS} words"
            middle, worst = statistics.median(taken), max(taken)
            print(f"{kind:30} median {middle:6.1f} ms, slowest {worst:6.1f} ms (target {target_ms} ms)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
