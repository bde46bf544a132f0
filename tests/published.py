"""Published models for tests: tiny ones that transformers saves with drawn weights, recorded here, as folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from modules import opened
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pintpot.model.adapted import describe_adapted
from pintpot.model.spec import Model
from pintpot.runtime.building import record_published
from pintpot.techniques.quantize.as_stored import AsStored

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"{a}{b}" for a in "abcdefgh" for b in "aeiouy"), "cat", "mat"]
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32},
    "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}  # fmt: skip


def save(module: transformers.PreTrainedModel, folder: Path, processor: Mapping[str, Any] | None = None) -> Path:
    """A folder as publishers make it, with all weights drawn once more so that no two are alike."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, one in module.named_parameters():
            spread = (one.shape[0] / one.numel()) ** 0.5 if one.dim() > 1 else 0.1
            one.copy_(torch.randn(one.shape) * spread + (1.0 if "norm.weight" in name else 0.0))
        for name, one in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                one.copy_(torch.rand(one.shape) + 0.5)
    module.eval().save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """A tokenizer of whole words that puts one in front and one behind."""
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(word, words.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    made.save(str(folder / "tokenizer.json"))


def recorded(folder: Path, place: Path, **shapes: int) -> Model:
    """As the process apart records it, here."""
    record_published(folder, shapes, place, lambda share, what: None)
    return describe_adapted(place)


def unpacked(model: Model, folder: Path, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a pack with weights as the files have them gives for these inputs."""
    with opened(model, folder, AsStored()) as session:
        given: dict[str, torch.Tensor] = session(**inputs)
    return given
