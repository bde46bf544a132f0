"""SmolVLM and Idefics 3 (Marafioti et al. 2025, arXiv:2504.05299): a SigLIP tower, and squares of its rows made one.

A picture is seen whole, as these models do where images are not split into tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pintpot.runtime.kinds._pictures import open_picture, prepared
from pintpot.runtime.sights import About, Arrays, Source
from pintpot.runtime.sights._common import examples_of, seen, square

if TYPE_CHECKING:
    import torch

    from pintpot.runtime.kinds import Published

MODEL_TYPES = frozenset({"smolvlm", "idefics3"})
_LANCZOS = 1


def about(published: Published) -> dict[str, Any]:
    config = published.config
    vision = config["vision_config"]
    edge = vision["image_size"]
    side = edge // vision["patch_size"] // config["scale_factor"]
    around = "<fake_token_around_image>"
    more = {"size": [edge, edge], "before": f"{around}<global-img>", "after": around}
    return seen(config, [1, side, side], square(edge, [0.5] * 3, [0.5] * 3, _LANCZOS), more)


def tower(module: torch.nn.Module, about: About) -> torch.nn.Module:
    import torch

    class Tower(torch.nn.Module):
        def __init__(self, vision: Any) -> None:
            super().__init__()
            self.vision = vision

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            # All of a square is picture, so a patch's position is its place.
            seeing = self.vision.vision_model
            patches = seeing.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            states = patches + seeing.embeddings.position_embedding.weight
            states = seeing.encoder(inputs_embeds=states).last_hidden_state
            return {"given": self.vision.connector(seeing.post_layernorm(states))[0]}

    vision: Any = module.get_submodule("model")
    vision.text_model = torch.nn.Identity()
    return Tower(vision)


def examples(about: About) -> Arrays:
    return examples_of(about)


def read(about: About, source: Source) -> Arrays:
    return {"pixel_values": np.ascontiguousarray(prepared(open_picture(source), about["pictures"])[None])}
