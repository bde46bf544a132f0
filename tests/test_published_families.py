"""Families of transformers, tiny: what a pack gives with weights as published is what transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from published import WORDS, recorded, save, save_tokenizer, unpacked

from pintpot.model.spec import Model
from pintpot.runtime.kinds import Batch, kind

LABELS: dict[str, Any] = {"id2label": {0: "cat", 1: "dog", 2: "mat"}}
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
SEEING: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8, "intermediate_size": 64}
READING: dict[str, Any] = {
    **SIZES, "intermediate_size": 64, "vocab_size": len(WORDS), "max_position_embeddings": 24, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MOBILE: dict[str, Any] = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]}
GPT2: dict[str, Any] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEBERTA: dict[str, Any] = {
    "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "conv_kernel_size": 3,
}  # fmt: skip


def rt_detr() -> tf.PreTrainedModel:
    backbone = tf.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = tf.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16, 24, 32], encoder_ffn_dim=32,
        encoder_attention_heads=2, num_queries=12, d_model=32, decoder_in_channels=[32] * 3, decoder_ffn_dim=32,
        decoder_layers=1, decoder_attention_heads=2, num_denoising=0, decoder_n_points=2, **LABELS,
    )  # fmt: skip
    return tf.RTDetrForObjectDetection(config)


VISION: dict[str, tuple[Callable[[], tf.PreTrainedModel], int | None]] = {
    "vit": (lambda: tf.ViTModel(tf.ViTConfig(**SEEING)), None),
    "dinov2, another size": (lambda: tf.Dinov2Model(tf.Dinov2Config(**SEEING)), 48),
    "dinov2, weights in one": (
        lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**SEEING, use_swiglu_ffn=True, **LABELS)), None,
    ),
    "efficientnet": (
        lambda: tf.EfficientNetForImageClassification(
            tf.EfficientNetConfig(
                image_size=64, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, **LABELS
            )
        ), None,
    ),
    "mobilevit": (
        lambda: tf.MobileViTForImageClassification(
            tf.MobileViTConfig(image_size=64, num_attention_heads=2, **MOBILE, **LABELS)
        ), None,
    ),
    "swin": (
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(
                image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, **LABELS
            )
        ), None,
    ),
    "levit": (
        lambda: tf.LevitForImageClassificationWithTeacher(
            tf.LevitConfig(
                image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 3], depths=[1, 1, 1],
                key_dim=[8] * 3, **LABELS,
            )
        ), None,
    ),
    "poolformer": (
        lambda: tf.PoolFormerForImageClassification(
            tf.PoolFormerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], **LABELS)
        ), 64,
    ),
    "resnet": (
        lambda: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **LABELS)
        ), 32,
    ),
}  # fmt: skip
TEXT: dict[str, Callable[[], tf.PreTrainedModel]] = {
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**READING, **LABELS)),
    "distilbert": lambda: tf.DistilBertModel(
        tf.DistilBertConfig(
            vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=24
        )
    ),
    "deberta-v2": lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**READING, **DEBERTA, **LABELS)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=len(WORDS), pad_token_id=0, **GPT2)),
}


def compared(module: tf.PreTrainedModel, model: Model, folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    module.config.use_cache = False
    given = unpacked(model, folder, inputs)
    with torch.inference_mode():
        wanted = module(**inputs)
    assert given.keys() <= set(wanted.keys())
    assert given
    for name, one in given.items():
        torch.testing.assert_close(one, wanted[name], atol=2e-5, rtol=1e-4)


def example(model: Model) -> dict[str, torch.Tensor]:
    about = model.parts[0].config["kind"]
    return {name: torch.from_numpy(one) for name, one in kind(about["name"]).examples(about).items()}


@pytest.mark.parametrize("name", VISION)
def test_what_sees_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    make, size = VISION[name]
    folder = save(make(), tmp_path / "published")
    model = recorded(folder, tmp_path / "recorded", batch=2, **({} if size is None else {"image_size": size}))
    inputs = example(model)
    # As the folder has it: what is saved is not always what a parameter is called.
    module = getattr(tf, type(make()).__name__).from_pretrained(folder)
    compared(module, model, tmp_path, inputs)


@pytest.mark.parametrize("name", TEXT)
def test_what_reads_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    module = TEXT[name]()
    folder = save(module, tmp_path / "published")
    save_tokenizer(folder)
    model = recorded(folder, tmp_path / "recorded", batch=2, tokens=12)
    compared(module, model, tmp_path, example(model))


def test_a_detector_finds_what_transformers_finds(tmp_path: Path) -> None:
    module = rt_detr()
    model = recorded(save(module, tmp_path / "published"), tmp_path / "recorded", image_size=64)
    about, inputs = model.parts[0].config["kind"], example(model)
    with torch.inference_mode():
        wanted = {name: module(**inputs)[name].numpy() for name in ("logits", "pred_boxes")}
    given = {name: np.asarray(one) for name, one in unpacked(model, tmp_path, inputs).items() if name in wanted}
    (overlap,) = kind("vision").agreement(about, tmp_path, Batch({}, ("picture",)), wanted, given)
    assert overlap.what == "overlap of boxes"
    assert overlap.mean > 0.999


def test_pictures_are_compared_with_texts(tmp_path: Path) -> None:
    config = tf.CLIPConfig(text_config=READING, vision_config=SEEING, projection_dim=16)
    module = tf.CLIPModel(config)
    folder = save(module, tmp_path / "published")
    save_tokenizer(folder)
    model = recorded(folder, tmp_path / "recorded", batch=3, tokens=12)
    assert model.parts[0].config["kind"]["name"] == "paired"
    compared(module, model, tmp_path, example(model))
