"""Qwen3-VL (Bai et al. 2025, arXiv:2511.21631): positions stretched to the picture, and rows for deeper layers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pintpot.runtime.sights import About, Arrays, Source
from pintpot.runtime.sights._patches import about_patches, examples_of, read_patches

if TYPE_CHECKING:
    import torch

    from pintpot.runtime.kinds import Published

MODEL_TYPES = frozenset({"qwen3_vl"})
_HALF: Final = [0.5, 0.5, 0.5]


def about(published: Published) -> dict[str, Any]:
    return about_patches(published, _HALF, _HALF)


def tower(module: torch.nn.Module, about: About) -> torch.nn.Module:
    """What depends on the size of a picture alone is worked out here, once: places among positions, rotary angles."""
    import numpy as np
    import torch

    qwen: Any = import_module("transformers.models.qwen3_vl.modeling_qwen3_vl")

    class Tower(torch.nn.Module):
        def __init__(self, vision: Any) -> None:
            super().__init__()
            self.vision = vision
            grid, merge = torch.tensor([about["patches"]]), vision.spatial_merge_size
            near, shares = qwen.get_vision_interpolation_indices_and_weights(
                grid, num_grid_per_side=vision.num_grid_per_side, mode=vision.interpolation_mode,
                align_corners=vision.interpolation_align_corners, spatial_merge_size=merge, kwargs={},
            )  # fmt: skip
            whole, _ = qwen.get_vision_attention_seqlens(grid, vision.config, kwargs={})
            positions = qwen.get_vision_position_ids(grid, merge, kwargs={})
            # Lengths of plain numbers, for a recording holds no choice that depends on a tensor.
            self.whole = np.array(whole.tolist())
            vision.register_buffer("near", near, persistent=False)
            vision.register_buffer("shares", shares.float(), persistent=False)
            for name, angles in zip(
                ("cosines", "sines"), vision.rotary_pos_emb(torch.zeros(1), positions), strict=True
            ):
                vision.register_buffer(name, angles, persistent=False)

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            vision, angles = self.vision, (self.vision.cosines, self.vision.sines)
            placed = (vision.pos_embed(vision.near) * vision.shares[:, :, None]).sum(1)
            states = vision.patch_embed(pixel_values) + placed
            found: dict[str, torch.Tensor] = {}
            for index, block in enumerate(vision.blocks):
                states = block(states, cu_seqlens=self.whole, max_seqlen=None, position_embeddings=angles)
                if index in vision.deepstack_visual_indexes:
                    at = list(vision.deepstack_visual_indexes).index(index)
                    found[f"given.{at}"] = vision.deepstack_merger_list[at](states)
            return {"given": vision.merger(states), **found}

    return Tower(module.get_submodule("model.visual"))


def examples(about: About) -> Arrays:
    return examples_of(about)


def read(about: About, source: Source) -> Arrays:
    return read_patches(about, source)
