"""Tiny vision-language models, drawn by transformers: folders as it saves them, inputs, and its own answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import Tiny, write_tokenizer

IMAGE = 383
"""The word that stands for a row of an image."""
_TEXT = {
    "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 384, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
NAMES = ("llava", "smolvlm", "qwen2_5_vl", "qwen3_vl")
GRID = (4, 6)
"""Patches of the images that models of any size are given: height and width."""


@dataclass(frozen=True)
class Vlm:
    """A model of transformers, what to call it with, and where its images stand: grids of rows, in order."""

    name: str
    module: Any
    inputs: dict[str, Any]
    grids: tuple[tuple[int, int, int], ...]

    @property
    def tokens(self) -> list[int]:
        return [int(one) for one in self.inputs["input_ids"][0]]


def make(name: str) -> Vlm:
    """One of NAMES, with weights large enough for its answers to differ."""
    import torch

    torch.manual_seed(NAMES.index(name))
    module, grids, pixels = _MAKERS[name]()
    with torch.no_grad():
        for path, one in module.named_parameters():
            if one.ndim > 1:
                one.normal_(0, 1.2 / one[0].numel() ** 0.5)
            elif path.endswith("bias"):
                one.normal_(0, 0.1)
        if name == "qwen3_vl":
            module.model.visual.pos_embed.weight.normal_(0, 0.5)
    module.train(False)
    words: list[int] = [*range(5, 20)]
    for count, grid in enumerate(grids):
        words += [IMAGE] * (grid[0] * grid[1] * grid[2]) + [*range(40 + 9 * count, 47 + 9 * count)]
    ids = torch.tensor([words])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    if name.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    return Vlm(name, module, inputs, grids)


def sized(vlm: Vlm, edge: int) -> Vlm:
    """The same model with images of this edge where it takes any size: two of them, and fewer for the others too."""
    import torch

    if not vlm.name.startswith("qwen"):
        return vlm
    side, width = edge // 8, vlm.inputs["pixel_values"].shape[1]
    torch.manual_seed(edge)
    words = [*range(5, 20)]
    for count in range(2):
        words += [IMAGE] * side**2 + [*range(40 + 9 * count, 47 + 9 * count)]
    ids = torch.tensor([words])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(2 * 4 * side**2, width),
        "image_grid_thw": torch.tensor([[1, 2 * side, 2 * side]] * 2),
    }  # fmt: skip
    return Vlm(vlm.name, vlm.module, inputs, ((1, side, side),) * 2)


def pixels(vlm: Vlm) -> list[Any]:
    """What the tower is given of each image."""
    values = vlm.inputs["pixel_values"]
    values = values[0] if vlm.name == "smolvlm" else values
    return list(values.split(len(values) // len(vlm.grids)))


def write(vlm: Vlm, folder: Path) -> Path:
    """The folder of a model, as transformers saves it, with a tokenizer."""
    vlm.module.save_pretrained(folder)
    write_tokenizer(folder, Tiny(family="qwen2" if vlm.name.startswith("qwen") else "llama"))
    return folder


def answer(vlm: Vlm, count: int) -> list[int]:
    """The likeliest words after the inputs, as transformers chooses them."""
    import torch

    with torch.no_grad():
        found = vlm.module.generate(**vlm.inputs, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return [int(one) for one in found[0, len(vlm.tokens) :]]


def logits(vlm: Vlm) -> Any:
    """Of every position of the inputs: float64 [T, V]."""
    import torch

    with torch.no_grad():
        return vlm.module(**vlm.inputs).logits[0].double().numpy()


def features(vlm: Vlm) -> Any:
    """What the vision tower and the projector make of the images: [rows, D], and the same for deeper layers."""
    import torch

    kinds = ("pixel_values", "image_grid_thw")
    with torch.no_grad():
        found = vlm.module.model.get_image_features(**{k: vlm.inputs[k] for k in kinds if k in vlm.inputs})
    deeper = getattr(found, "deepstack_features", None) or []
    return torch.cat(list(found.pooler_output)).numpy(), [torch.cat(list(one)).numpy() for one in deeper]


def _llava() -> tuple[Any, tuple[tuple[int, int, int], ...], dict[str, Any]]:
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7
    )
    text = {**_TEXT, "model_type": "llama"}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=16)
    pixels = torch.randn(2, 3, 28, 28)
    return LlavaForConditionalGeneration(config), ((1, 4, 4),) * 2, {"pixel_values": pixels}


def _smolvlm() -> tuple[Any, tuple[tuple[int, int, int], ...], dict[str, Any]]:
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 4,
    }  # fmt: skip
    text = {**_TEXT, "model_type": "llama", "rms_norm_eps": 1e-5}
    config = SmolVLMConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, scale_factor=2)
    pixels = torch.randn(1, 3, 3, 32, 32)
    return SmolVLMForConditionalGeneration(config), ((1, 4, 4),) * 3, {"pixel_values": pixels}


def _qwen2_5_vl() -> tuple[Any, tuple[tuple[int, int, int], ...], dict[str, Any]]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 128,
        "fullatt_block_indexes": [1], "window_size": 16, "patch_size": 4,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE,
        video_token_id=382, vision_start_token_id=380, vision_end_token_id=381,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), *_by_size(2 * 3 * 16)


def _qwen3_vl() -> tuple[Any, tuple[tuple[int, int, int], ...], dict[str, Any]]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 128,
        "patch_size": 4, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64,
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config={**_TEXT, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE,
        video_token_id=382, vision_start_token_id=380, vision_end_token_id=381,
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config), *_by_size(2 * 3 * 16)


def _by_size(patch: int) -> tuple[tuple[tuple[int, int, int], ...], dict[str, Any]]:
    """Two images of one size, in patches."""
    import torch

    height, width = GRID
    grids = torch.tensor([[1, height, width]] * 2)
    pixels = torch.randn(2 * height * width, patch)
    return ((1, height // 2, width // 2),) * 2, {"pixel_values": pixels, "image_grid_thw": grids}


_MAKERS = {"llava": _llava, "smolvlm": _smolvlm, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}
