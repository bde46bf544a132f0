"""What a token costs, counted without the planner: from a model's shapes and from the bytes of its packed file.

Legend: D width, F width of the feed-forward network, H heads, G key heads, d columns of a head, V words, N rows and K
columns of a matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintpot.packer.manifest import Manifest
from pintpot.packer.raw import WEIGHTS

CACHE_BYTES = {"f16": 2.0, "sym8c": 1.0 + 2.0 / 32}
"""Bytes that one value of a key or value takes: a float16, or a byte and its share of a scale for 32."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder, out of its configuration."""

    layers: int
    d_model: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        return cls(
            config["num_hidden_layers"],
            width,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or width // heads,
            config["vocab_size"],
        )

    @property
    def block_values(self) -> int:
        """Weights of the matrices of one block: q, k, v, o, gate, up, down."""
        attention = 2 * self.heads * self.head_dim + 2 * self.kv_heads * self.head_dim
        return self.d_model * (attention + 3 * self.ffn)

    def multiply_adds(self, tokens: int, rows: int, seen: float) -> float:
        """Of a replay of so many tokens, with logits of some rows, where all tokens together see `seen` positions.

        Behind the last attention only those rows go on.
        """
        attention = 2.0 * self.heads * self.head_dim * seen * self.layers
        behind = self.d_model * (self.heads * self.head_dim + 3 * self.ffn)
        before = self.layers * self.block_values - behind
        return tokens * before + rows * (behind + self.vocab * self.d_model) + attention

    def cache_bytes(self, positions: float, name: str) -> float:
        """Keys and values of so many positions, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * CACHE_BYTES[name] * positions

    def activation_bytes(self) -> float:
        """What the ops of one decode step read and write of rows, in float32."""
        qkv, out = (self.heads + 2 * self.kv_heads) * self.head_dim, self.heads * self.head_dim
        into = self.d_model + qkv
        attend = qkv + out
        back = out + 2 * self.d_model
        gated = self.d_model + 2 * self.ffn
        down = 2 * self.ffn + 2 * self.d_model
        block = into + attend + back + gated + down
        logits = self.d_model + self.vocab
        sampling = 3 * self.vocab
        return 4.0 * (self.layers * block + self.d_model + logits + sampling)


def seen_positions(first: int, number: int, window: int, sinks: int) -> float:
    """Positions that `number` tokens see together, the first of them at position `first`, itself included."""
    most = window + sinks if window else first + number
    return float(sum(min(position + 1, most) for position in range(first, first + number)))


def packed_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor of a pack's file, by the file's own header."""
    with (folder / WEIGHTS).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found = {name: item["data_offsets"] for name, item in header.items() if name != "__metadata__"}
    return {name: stop - start for name, (start, stop) in found.items()}


def weight_bytes(folder: Path, manifest: Manifest) -> tuple[float, float]:
    """Bytes of matrices that each step of decoding reads out of RAM, and bytes that it has come from the disk.

    An embedding that is not also the head gives one strip of rows.
    """
    sizes = packed_sizes(folder)
    forms = {form.name: form for form in manifest.plan.form.weights if form.is_matrix}
    lookup = "embed" if "head" in forms else None
    resident = sum(size for name, size in sizes.items() if name in forms and name != lookup)
    streamed = sum(sizes[f"slot.{index:06d}"] for index in range(manifest.num_passing))
    held = sum(
        piece.num_strips * forms[piece.weight].strip_bytes
        for _, _, slot in manifest.slots[: manifest.num_passing]
        for piece in slot.pieces
    )
    # What streams is written into the ring and then read out of it.
    return float(resident + held + streamed), float(streamed)
