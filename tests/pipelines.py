"""Tiny pipelines of diffusers for tests, written as folders, and stages in this process, on the null machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from modules import planned
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack
from pintpot.planner.plan import Plan
from pintpot.runtime.module import open_module
from pintpot.runtime.pipelines.keeper import Makers
from pintpot.runtime.pipelines.pipeline import open_pipeline
from pintpot.runtime.pipelines.recording import record_here
from pintpot.techniques.quantize.as_stored import AsStored

MB = 1_000_000
PROCESS_BYTES = 400 * MB


def drawn(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With weights of a size that lets every part of it matter."""
    torch.manual_seed(seed)
    for one in module.parameters():
        torch.nn.init.normal_(one, std=0.08)
    return module.eval()


def tiny_decoder() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    made = AutoencoderKL(**blocks, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, shift_factor=0.1)
    return drawn(made, 1)


def dit_folder(folder: Path, *, width: int = 64, layers: int = 2) -> DiTPipeline:
    """A class-conditional transformer over latents, and a decoder."""
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=width // 4, in_channels=4, out_channels=8, num_layers=layers,
        sample_size=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    made = DiTPipeline(transformer=drawn(net), vae=tiny_decoder(), scheduler=DDIMScheduler())
    made.save_pretrained(folder)
    return made


def makers(folder: Path, *steps: Any) -> Makers:
    """Packs lie in `folder`, by the names of their recordings."""
    chosen = steps or (AsStored(),)

    def plan(recording: Path, memory: int) -> Plan:
        return planned(describe(str(recording)), *chosen, memory=memory)

    def pack(recording: Path, made: Plan, memory: int) -> Path:
        place = folder / recording.name
        return place if place.exists() else write_pack(describe(str(recording)), made, place)

    return Makers(plan, pack, lambda place: open_module(place, null_machine()))


def staged(folder: Path, packs: Path, *steps: Any, memory: int = 4000 * MB, **given: Any) -> Any:
    return open_pipeline(folder, memory, makers(packs, *steps), PROCESS_BYTES, record_here, **given)


def sd_folder(folder: Path) -> StableDiffusionPipeline:
    """Text, a convolutional network with attention, and a decoder."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    texts = folder.parent / "words"
    texts.mkdir()
    (texts / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (texts / "merges.txt").write_text("#version: 0.2\n")
    (texts / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = CLIPTextModel(CLIPTextConfig(**shape, vocab_size=len(words), **ends))
    made = StableDiffusionPipeline(
        unet=drawn(unet), vae=tiny_decoder(), scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=drawn(text, 2), tokenizer=CLIPTokenizer.from_pretrained(texts), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def flux_folder(folder: Path) -> FluxPipeline:
    """The transformer of a flow, its text given as numbers, and a decoder."""
    torch.manual_seed(0)
    net = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    made = FluxPipeline(
        transformer=drawn(net), vae=tiny_decoder(), scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def pixart_folder(folder: Path) -> PixArtSigmaPipeline:
    """A transformer that attends to text, given as numbers, and a decoder."""
    torch.manual_seed(0)
    net = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        cross_attention_dim=32, caption_channels=32, patch_size=2,
    )  # fmt: skip
    made = PixArtSigmaPipeline(
        transformer=drawn(net), vae=tiny_decoder(), scheduler=DDIMScheduler(), text_encoder=None, tokenizer=None
    )
    made.save_pretrained(folder)
    return made
