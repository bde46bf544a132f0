"""Whisper in two stages: `encode` hears once and keeps keys and values of it, `decode` writes one word piece a call.

The layers are those that transformers built; how they follow each other is written down here, over memory that lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.torch.examples import Example
from pintpot.runtime.kinds.speech import DECODE, ENCODE, WORDS_A_WINDOW


class Whisper(torch.nn.Module):
    """A `WhisperForConditionalGeneration` with its cache: of each layer keys and values [1, heads, places, width]."""

    def __init__(self, whisper: Any) -> None:
        super().__init__()
        self.whisper = whisper
        config = whisper.config
        self.heads, self.layers = config.decoder_attention_heads, len(whisper.model.decoder.layers)
        width = config.d_model // self.heads
        for at in range(self.layers):
            for what, places in (("own", config.max_target_positions), ("heard", config.max_source_positions)):
                for kind in ("keys", "values"):
                    empty = torch.zeros(1, self.heads, places, width)
                    self.register_buffer(f"{what}_{kind}_{at}", empty, persistent=False)
        self.register_buffer("places", torch.arange(config.max_target_positions), persistent=False)

    def encode(self, input_features: torch.Tensor) -> torch.Tensor:
        """Spectrograms [1, mels, frames] -> states [1, places, width], of which keys and values are kept."""
        states: torch.Tensor = self.whisper.model.encoder(input_features).last_hidden_state
        for at, layer in enumerate(self.whisper.model.decoder.layers):
            self._cache("heard_keys", at).copy_(self._heads(layer.encoder_attn.k_proj(states)))
            self._cache("heard_values", at).copy_(self._heads(layer.encoder_attn.v_proj(states)))
        return states

    def decode(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The word piece [1, 1] at the place [1] -> logits [1, words] of the one behind it."""
        decoder = self.whisper.model.decoder
        x = decoder.embed_tokens(ids) + decoder.embed_positions.weight.index_select(0, at)
        seen = (self.get_buffer("places") <= at)[None, None, None]
        for index, layer in enumerate(decoder.layers):
            own, heard = layer.self_attn, layer.encoder_attn
            normed = layer.self_attn_layer_norm(x)
            self._cache("own_keys", index).index_copy_(2, at, self._heads(own.k_proj(normed)))
            self._cache("own_values", index).index_copy_(2, at, self._heads(own.v_proj(normed)))
            x = x + self._attended(own, normed, "own", index, seen)
            x = x + self._attended(heard, layer.encoder_attn_layer_norm(x), "heard", index, None)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        logits: torch.Tensor = self.whisper.proj_out(decoder.layer_norm(x))
        return logits[:, -1]

    def _attended(self, attention: Any, x: torch.Tensor, what: str, at: int, seen: torch.Tensor | None) -> torch.Tensor:
        q = self._heads(attention.q_proj(x) * attention.scaling)
        keys, values = self._cache(f"{what}_keys", at), self._cache(f"{what}_values", at)
        mixed = functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=1.0)
        out: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        apart: torch.Tensor = x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return apart.transpose(1, 2)

    def _cache(self, what: str, at: int) -> torch.Tensor:
        return self.get_buffer(f"{what}_{at}")


def staged(
    module: torch.nn.Module, about: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.nn.Module, str, tuple[Example, ...]]:
    name = type(module).__name__
    need(name == "WhisperForConditionalGeneration", f"speech is written by Whisper, not by {name}", UnsupportedModel)
    word = {"ids": torch.full((1, 1), about["start"]), "at": torch.zeros(1, dtype=torch.int64)}
    return Whisper(module), "whisper.", (
        Example(ENCODE, dict(inputs), ENCODE), Example(DECODE, word, DECODE, WORDS_A_WINDOW),
    )  # fmt: skip
