"""Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923): attention within windows, now and then over all; merged patches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pintpot.runtime.sights import About, Arrays, Source
from pintpot.runtime.sights._patches import about_patches, examples_of, read_patches

if TYPE_CHECKING:
    import torch

    from pintpot.runtime.kinds import Published

MODEL_TYPES = frozenset({"qwen2_5_vl"})
_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
_STD: Final = [0.26862954, 0.26130258, 0.27577711]


def about(published: Published) -> dict[str, Any]:
    return about_patches(published, _MEAN, _STD)


def tower(module: torch.nn.Module, about: About) -> torch.nn.Module:
    """What depends on the size of a picture alone is worked out here, once: windows, their order, rotary angles."""
    import numpy as np
    import torch

    qwen: Any = import_module("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")

    class Tower(torch.nn.Module):
        def __init__(self, vision: Any) -> None:
            super().__init__()
            self.vision = vision
            grid, self.unit = torch.tensor([about["patches"]]), vision.spatial_merge_unit
            order, cuts = qwen.get_vision_window_index(
                grid, spatial_merge_size=vision.spatial_merge_size, window_size=vision.window_size,
                patch_size=vision.patch_size, kwargs={},
            )  # fmt: skip
            whole, _ = qwen.get_vision_attention_seqlens(grid, vision.config, kwargs={})
            positions = qwen.get_vision_position_ids(grid, vision.spatial_merge_size, kwargs={})
            # Lengths of plain numbers, for a recording holds no choice that depends on a tensor.
            self.whole, self.windows = np.array(whole.tolist()), np.array(cuts.tolist())
            vision.register_buffer("order", order, persistent=False)
            vision.register_buffer("back", torch.argsort(order), persistent=False)
            for name, angles in zip(
                ("cosines", "sines"), vision.rotary_pos_emb(torch.zeros(1), positions), strict=True
            ):
                vision.register_buffer(name, self._ordered(angles), persistent=False)

        def _ordered(self, rows: torch.Tensor) -> torch.Tensor:
            return rows.reshape(-1, self.unit, rows.shape[-1])[self.vision.order].reshape(rows.shape)

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            vision = self.vision
            states = self._ordered(vision.patch_embed(pixel_values))
            for index, block in enumerate(vision.blocks):
                cuts = self.whole if index in vision.fullatt_block_indexes else self.windows
                angles = (vision.cosines, vision.sines)
                states = block(states, cu_seqlens=cuts, max_seqlen=None, position_embeddings=angles)
            return {"given": vision.merger(states)[vision.back]}

    return Tower(module.get_submodule("model.visual"))


def examples(about: About) -> Arrays:
    return examples_of(about)


def read(about: About, source: Source) -> Arrays:
    return read_patches(about, source)
