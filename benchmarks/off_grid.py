"""A model whose weights lie on no grid, that computes what a model out of a low-bit file computes.

    python benchmarks/off_grid.py                               # out/models/smollm2-off-grid-f32, from SmolLM2's Q4_1
    python benchmarks/off_grid.py --mixing pairs --dtype bf16   # outlying channels stay, 2 bytes a value
    python benchmarks/off_grid.py --mixing pairs --gains kept   # and norms have their gains: nearest to a trained model
    python benchmarks/off_grid.py MODEL --out FOLDER

Weights that were rounded once round again without loss, so a low-bit file cannot show what rounding costs. Here the
gains of the norms go into the matrices that follow, the residual stream is turned by an orthogonal matrix, and so are
the values of each key-value head against the columns of the output projection (as in QuaRot, Ashkboos et al. 2024,
arXiv:2404.00456). `dense` turns the stream by a random orthogonal matrix, which also spreads outlying channels evenly
and so flatters plain rounding; `pairs` turns random pairs of channels by random angles, and a channel that stood out
still does. `--gains kept` gives each norm the gains of the channels that were turned together: columns then differ as
little as in a trained model, and rounding errs as much as in trained ones (LOG.md). Everything is computed in float64
and rounded once.

The final norm's gain leaves the output head and the embedding different: a tied head is tied no longer, which costs
as many bytes again as the embedding takes. At the end logits of both models, on real text and in float32, are compared
through the reference; exit code 1 where they differ by more than 1e-4 of the largest (with --dtype f32).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench import OUT, smollm2, whisper
from model_files import Entry, write_safetensors
from numpy.typing import NDArray
from texts import shipped_text

from pintpot.errors import PintpotError, UnsupportedModel, need
from pintpot.formats.source import decode
from pintpot.meter.agreement import kl_divergence
from pintpot.model.gguf import open_gguf
from pintpot.model.names import LAYER_ROLES
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store, rows_of
from pintpot.model.tokens import Tokenizer, from_folder, from_gguf
from pintpot.proof.reference import head_rows, hidden_states
from pintpot.units import format_bytes

Floats = NDArray[np.float64]
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
MIXINGS = ("dense", "pairs")
GAINS = ("folded", "kept")
LARGEST_DIFFERENCE = 1e-4
"""Of two models' logits in float32, relative to the largest logit."""
_TEXT_TOKENS = 128
_ROWS = 4096
_ARCHITECTURES = {family: f"{family.capitalize()}ForCausalLM" for family in ("llama", "mistral", "qwen2", "qwen3")}
_HF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
_HF_TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
_NORM_OF = {"q": "attn_norm", "k": "attn_norm", "v": "attn_norm", "gate": "ffn_norm", "up": "ffn_norm"}


def orthogonal(size: int, mixing: str, rng: np.random.Generator) -> Floats:
    """A random orthogonal matrix [size, size]: uniformly drawn, or rotations of pairs of coordinates."""
    if mixing == "dense":
        basis, upper = np.linalg.qr(rng.standard_normal((size, size)))
        return np.asarray(basis * np.sign(np.diag(upper)))
    order, angles = rng.permutation(size), rng.uniform(np.pi / 16, np.pi / 8, size // 2)
    first, second = order[0 : 2 * len(angles) : 2], order[1 : 2 * len(angles) : 2]
    matrix = np.eye(size)
    matrix[first, first] = matrix[second, second] = np.cos(angles)
    matrix[first, second], matrix[second, first] = np.sin(angles), -np.sin(angles)
    return matrix


@dataclass(frozen=True)
class Turned:
    """The weights of a model after turning, by canonical name and some rows at a time.

    `stream` [D, D] and `values` [layer, key-value head, head_dim, head_dim] are orthogonal; x becomes x @ matrix.
    Where `gains` are kept, norms have those of the channels that were turned into each, as root mean squares.
    """

    model: Model
    store: Store
    stream: Floats
    values: Floats
    gains: str = "folded"

    @property
    def config(self) -> dict[str, Any]:
        return self.model.part("language").config

    def rows(self, name: str) -> Iterator[Floats]:
        """Float64 rows in order; a vector is one row."""
        layer, role = (int(name.split(".")[1]), name.rsplit(".", 1)[1]) if name.startswith("layers.") else (-1, name)
        if role in ("attn_norm", "ffn_norm", "norm"):
            yield self._gain(name)
        elif role in ("embed", "head"):
            yield from self._vocabulary(role)
        elif role in ("q_norm", "k_norm"):
            yield self._halves(self._read(name).T).T
        elif role in ("o", "o_bias", "down"):
            yield self._writer(name, layer, role)
        else:
            yield self._reader(name, layer, role)

    def _vocabulary(self, role: str) -> Iterator[Floats]:
        """The embedding writes the stream, the head reads it."""
        source = "embed" if role == "head" and self.model.ties else role
        head = role == "head"
        gain, over = (self._read("norm"), self._gain("norm")) if head else (np.ones(1), np.ones(1))
        for first in range(0, self.config["vocab_size"], _ROWS):
            count = min(_ROWS, self.config["vocab_size"] - first)
            yield (self._read(source, first, count) * gain) @ self.stream / over

    def _reader(self, name: str, layer: int, role: str) -> Floats:
        matrix = self._read(name)
        if role.endswith("_bias"):
            matrix = matrix.T
        else:
            norm = f"layers.{layer}.{_NORM_OF[role]}"
            matrix = (matrix * self._read(norm)) @ self.stream / self._gain(norm)
        kind = role.removesuffix("_bias")
        if kind in ("q", "k"):
            matrix = self._halves(matrix)
        elif kind == "v":
            heads = matrix.reshape(self.config["num_key_value_heads"], self.config["head_dim"], -1)
            matrix = (self.values[layer].transpose(0, 2, 1) @ heads).reshape(matrix.shape)
        return matrix.T if role.endswith("_bias") else matrix

    def _gain(self, norm: str) -> Floats:
        """What the turned norm multiplies each channel with, [1, D]."""
        if self.gains == "folded":
            return np.ones((1, self.config["hidden_size"]))
        return np.sqrt(self._read(norm).reshape(1, -1) ** 2 @ self.stream**2)

    def _writer(self, name: str, layer: int, role: str) -> Floats:
        matrix = self._read(name)
        if role == "o_bias":
            return matrix @ self.stream
        if role == "o":
            shared = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
            heads = matrix.reshape(len(matrix), -1, self.config["head_dim"]).transpose(1, 0, 2)
            turned = heads @ np.repeat(self.values[layer], shared, axis=0)
            matrix = turned.transpose(1, 0, 2).reshape(matrix.shape)
        return self.stream.T @ matrix

    def _halves(self, matrix: Floats) -> Floats:
        """Rows of whole heads in Hugging Face's order: the rotated pairs' first halves, then their second ones."""
        if self.config["rope_layout"] == "half":
            return matrix
        heads = matrix.reshape(-1, self.config["head_dim"] // 2, 2, matrix.shape[1])
        return heads.transpose(0, 2, 1, 3).reshape(matrix.shape)

    def _read(self, name: str, first: int = 0, count: int | None = None) -> Floats:
        weight = next(w for w in self.model.part("language").weights() if w.name == name)
        rows = rows_of(weight) - first if count is None else count
        return decode(self.store.read(weight, first, rows), weight.dtype, weight.shape[-1]).astype(np.float64)


def hf_name(name: str) -> str:
    """`layers.3.up` -> `model.layers.3.mlp.up_proj.weight`."""
    if name in _HF_TOP:
        return _HF_TOP[name]
    _, layer, role = name.split(".")
    kind = "bias" if role.endswith("_bias") else "weight"
    return f"model.layers.{layer}.{_HF_NAMES[role.removesuffix('_bias')]}.{kind}"


def hf_config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """config.json of the turned model; no head is tied."""
    kept = {key: value for key, value in config.items() if key not in ("rope_layout", "rope_scaling")}
    if config["rope_scaling"] is not None:
        kept["rope_scaling"] = config["rope_scaling"]
    return kept | {
        "architectures": [_ARCHITECTURES[config["model_type"]]], "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": DTYPES[dtype], "bos_token_id": next(iter(config["bos_token_id"]), None),
    }  # fmt: skip


def rounded(values: Floats, dtype: str) -> NDArray[np.uint8]:
    """Values as the bytes of a float format, rounded to the nearest, ties to even."""
    if dtype == "f16":
        return np.ascontiguousarray(values.astype(np.float16)).view(np.uint8)
    single = np.ascontiguousarray(values.astype(np.float32))
    if dtype == "f32":
        return single.view(np.uint8)
    words = single.view(np.uint32)
    return ((words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16).astype(np.uint16).view(np.uint8)


def entries(turned: Turned, dtype: str) -> list[Entry]:
    """Every tensor of the file, its values computed while it is written."""
    config = turned.config
    weights = {weight.name: weight.shape for weight in turned.model.part("language").weights()}
    shapes = {**weights, "head": (config["vocab_size"], config["hidden_size"])}
    names = ["embed", *(f"layers.{i}.{role}" for i in range(config["num_hidden_layers"]) for role in LAYER_ROLES)]

    def chunks(name: str) -> Callable[[], Iterator[NDArray[np.uint8]]]:
        return lambda: (rounded(rows, dtype) for rows in turned.rows(name))

    return [Entry(hf_name(n), shapes[n], dtype, chunks(n)) for n in [*names, "norm", "head"] if n in shapes]


def turn(
    model: Model, folder: Path, *, dtype: str = "f32", mixing: str = "dense", gains: str = "folded", seed: int = 0
) -> Path:
    """Write the turned model as a Hugging Face folder and return its path.

    Raises UnsupportedModel for what the family's config.json cannot say.
    """
    config = model.part("language").config
    known = {weight.name for weight in model.part("language").weights()}
    need("rope_freqs" not in known, "a table of rotary frequencies has no place in config.json", UnsupportedModel)
    sliding = config["sliding_window"] is not None and config["model_type"].startswith("qwen")
    need(not sliding, "a sliding window of this family is not written", UnsupportedModel)
    rng = np.random.default_rng(seed)
    layers, kv_heads, head_dim = (
        config[key] for key in ("num_hidden_layers", "num_key_value_heads", "head_dim")
    )  # fmt: skip
    stream = orthogonal(config["hidden_size"], mixing, rng)
    drawn = [orthogonal(head_dim, mixing, rng) for _ in range(layers * kv_heads)]
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(hf_config(config, dtype), indent=1), encoding="utf-8")
    gguf = model.source.kind == "gguf"
    source = from_gguf(open_gguf(Path(model.source.path))) if gguf else from_folder(Path(model.source.path))
    source.save(part)
    with Store(model) as store:
        turned = Turned(model, store, stream, np.reshape(drawn, (layers, kv_heads, head_dim, head_dim)), gains)
        write_safetensors(part, entries(turned, dtype), lambda _: None)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return folder


def logits(model: Model, texts: list[list[int]]) -> NDArray[np.float32]:
    """Of all positions, float32 [tokens, V], through the reference."""
    states = np.concatenate(hidden_states(model, texts))
    with Store(model) as store:
        return np.concatenate([states @ rows.T for _, rows in head_rows(model, store)], axis=1)


def compare(model: Model, folder: Path, num_texts: int) -> tuple[float, float, float]:
    """Largest difference of two models' logits, the largest logit, and the mean KL in nats."""
    tokens = Tokenizer.load(from_folder(folder)).encode(shipped_text(), add_special=False)
    texts = [tokens[i * _TEXT_TOKENS : (i + 1) * _TEXT_TOKENS] for i in range(num_texts)]
    one, other = logits(model, texts), logits(describe(str(folder)), texts)
    return float(np.abs(one - other).max()), float(np.abs(one).max()), float(kl_divergence(one, other).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file or a folder (default: SmolLM2-135M-Instruct, Q4_1)")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of the result's weights")
    parser.add_argument("--mixing", choices=MIXINGS, default="dense", help="how channels are turned into each other")
    parser.add_argument("--gains", choices=GAINS, default="folded", help="of norms: into the matrices, or still there")
    parser.add_argument("--out", type=Path, help="the folder to write (default: below out/models)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=2, help=f"how many texts of {_TEXT_TOKENS} tokens are compared")
    options = parser.parse_args()
    try:
        model = describe(options.model or str(smollm2()))
        name = "smollm2" if options.model is None else Path(options.model).stem
        told = "" if options.gains == "folded" else "-gains"
        kind = "off-grid" if options.mixing == "dense" else "off-grid-pairs"
        folder = options.out or OUT / "models" / f"{name}-{kind}{told}-{options.dtype}"
        turn(model, folder, dtype=options.dtype, mixing=options.mixing, gains=options.gains, seed=options.seed)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        head = rounded(np.zeros(1), options.dtype).nbytes * model.part("language").config["vocab_size"]
        head *= model.part("language").config["hidden_size"]
        untied = f", {format_bytes(head)} of it the head, which was tied" if model.ties else ""
        whisper(f"{format_bytes(size)}{untied}")
        difference, largest, kl = compare(model, folder, options.texts)
    except PintpotError as error:
        whisper(str(error))
        return error.exit_code
    whisper(f"logits differ by {difference:.1e} at most, the largest is {largest:.1f}; mean KL {kl:.1e} nats")
    sys.stdout.write(f"{folder}\n")
    equal = difference <= LARGEST_DIFFERENCE * largest
    if options.dtype == "f32":
        whisper(f"{'equal' if equal else 'NOT equal'} (wanted: {LARGEST_DIFFERENCE:g} of the largest)")
    return 0 if equal or options.dtype != "f32" else 1


if __name__ == "__main__":
    sys.exit(main())
