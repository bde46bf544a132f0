"""LLaVA 1.5 (Liu et al. 2023, arXiv:2310.03744): a CLIP tower, states of one of its last layers, two linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pintpot.runtime.kinds._pictures import open_picture, prepared
from pintpot.runtime.sights import About, Arrays, Source
from pintpot.runtime.sights._common import examples_of, seen, settings_of

if TYPE_CHECKING:
    import torch

    from pintpot.runtime.kinds import Published

MODEL_TYPES = frozenset({"llava"})


def about(published: Published) -> dict[str, Any]:
    config = published.config
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"]
    whole = config.get("vision_feature_select_strategy") == "full"
    grid = [1, 1, side * side + 1] if whole else [1, side, side]
    settings = settings_of(published, vision["image_size"])
    return seen(config, grid, settings, {"size": [vision["image_size"]] * 2})


def tower(module: torch.nn.Module, about: About) -> torch.nn.Module:
    import torch

    class Tower(torch.nn.Module):
        def __init__(self, vision: Any) -> None:
            super().__init__()
            self.vision = vision

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            found = self.vision.get_image_features(pixel_values=pixel_values).pooler_output
            return {"given": torch.cat(list(found))}

    vision: Any = module.get_submodule("model")
    vision.language_model = torch.nn.Identity()
    return Tower(vision)


def examples(about: About) -> Arrays:
    return examples_of(about)


def read(about: About, source: Source) -> Arrays:
    return {"pixel_values": prepared(open_picture(source), about["pictures"])[None]}
