"""config.json in its many forms -> one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from tiny import FAMILIES, hf_config

from pintpot.errors import BadFile, PintpotError, UnsupportedModel
from pintpot.model.config import normalize
from pintpot.model.config_sections import axes_of


def _raw(**changes: Any) -> dict[str, Any]:
    config = {**hf_config(FAMILIES[0]), **changes}
    return {key: value for key, value in config.items() if value != "REMOVE"}


def test_rope_parameters_in_both_forms() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = normalize(_raw(rope_theta=5e5, rope_scaling={"type": "llama3", **scaling}), "c")
    new = normalize(
        _raw(rope_theta="REMOVE", rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", **scaling}), "c"
    )
    assert old == new
    assert old["rope_scaling"] == {"rope_type": "llama3", **scaling}
    plain = normalize(_raw(rope_parameters={"rope_theta": 5e5, "rope_type": "default"}), "c")
    assert (plain["rope_theta"], plain["rope_scaling"]) == (5e5, None)
    yarn = normalize(_raw(rope_scaling={"rope_type": "yarn", "factor": 4.0, "beta_fast": 24}), "c")["rope_scaling"]
    assert yarn == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 24.0}


def test_longrope_in_all_its_spellings() -> None:
    short = [1.5] * 16
    phi = {
        "model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "head_dim": "REMOVE",
    }  # fmt: skip
    rope: Callable[..., Any] = lambda **scaling: normalize(  # noqa: E731
        _raw(**phi, rope_scaling={"short_factor": short, "long_factor": short, **scaling}), "c"
    )["rope_scaling"]
    found = rope(type="longrope")
    assert found.pop("attention_factor") == pytest.approx((1 + math.log(32) / math.log(4096)) ** 0.5)
    assert found == {"rope_type": "longrope", "original_max_position_embeddings": 4096, "short_factor": short}
    assert rope(type="su") == rope(rope_type="longrope")
    assert rope(rope_type="longrope", attention_factor=1.25)["attention_factor"] == 1.25
    assert rope(rope_type="longrope", factor=1)["attention_factor"] == 1.0
    with pytest.raises(BadFile, match=r"short_factor is .*; a list of 16 numbers is needed"):
        rope(type="longrope", short_factor=short[1:])
    with pytest.raises(BadFile, match="short_factor is 0"):
        rope(type="longrope", short_factor=[0, *short[1:]])
    with pytest.raises(UnsupportedModel, match="'linear' does not run here; longrope does"):
        rope(type="linear", factor=2.0)


def test_the_part_of_a_head_that_is_rotated() -> None:
    partial = normalize(_raw(model_type="phi3", partial_rotary_factor=0.75), "c")
    assert partial["partial_rotary_factor"] == 0.75
    assert "partial_rotary_factor" not in normalize(_raw(model_type="phi3", partial_rotary_factor=1.0), "c")
    with pytest.raises(BadFile, match="9 of a head's 32 columns cannot be rotated in pairs"):
        normalize(_raw(model_type="phi3", partial_rotary_factor=0.3), "c")


GEMMA = {
    "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 13,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
}  # fmt: skip
"""What the language part of a published vision-language model says, and no more."""


def test_gemma_is_read_from_few_words() -> None:
    found = normalize({"model_type": "gemma3", "text_config": GEMMA, "eos_token_id": [1, 106]}, "c")
    due = {
        "model_type": "gemma3", "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262208, "sliding_window": 1024, "tie_word_embeddings": True, "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": 256.0, "max_position_embeddings": 131072, "eos_token_id": [1, 106],
    }  # fmt: skip
    assert {key: found[key] for key in due} == due
    sees_everything = [index for index, kind in enumerate(found["layer_types"]) if kind == "full_attention"]
    assert sees_everything == [5, 11]


def test_gemma_in_the_form_that_tells_each_kind_of_layer() -> None:
    own = {key: value for key, value in GEMMA.items() if key != "rope_scaling"}
    new = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    assert normalize({**own, "rope_parameters": new}, "c") == normalize(GEMMA, "c")
    assert normalize({**own, "num_hidden_layers": 6, "layer_types": kinds}, "c")["layer_types"] == kinds


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"final_logit_softcapping": 30.0}, UnsupportedModel, "final_logit_softcapping 30.0 does not run"),
        ({"attn_logit_softcapping": 50.0}, UnsupportedModel, "attn_logit_softcapping 50.0"),
        ({"use_bidirectional_attention": True}, UnsupportedModel, "use_bidirectional_attention True"),
        ({"hidden_activation": "gelu"}, UnsupportedModel, "'gelu' does not run here; gelu_pytorch_tanh does"),
        ({"layer_types": ["full_attention"]}, BadFile, "13 of sliding_attention and full_attention are needed"),
        ({"layer_types": ["chunked"] * 13}, BadFile, "layer_types"),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "yarn"}}},
            UnsupportedModel,
            "'yarn' of windows",
        ),
        ({"query_pre_attn_scalar": 0}, BadFile, "query_pre_attn_scalar is 0"),
    ],
)
def test_gemmas_that_do_not_run(changes: dict[str, Any], kind: type[PintpotError], words: str) -> None:
    with pytest.raises(kind, match=words):
        normalize({**GEMMA, **changes}, "c")


QWEN_VL = {
    "model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vision_config": {"hidden_size": 1280},
    "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 70,
}  # fmt: skip
"""A vision-language model as its authors first published it, in one level."""


def test_positions_of_three_numbers() -> None:
    found = normalize(QWEN_VL, "c")
    assert (found["model_type"], found["rope_scaling"], found["attention_bias"]) == ("qwen2", None, True)
    assert (found["mrope_section"], found["mrope_interleaved"]) == ([16, 24, 24], False)
    assert axes_of(found, 64) == [0] * 16 + [1] * 24 + [2] * 24
    inner = {key: value for key, value in QWEN_VL.items() if not key.startswith("rope")}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    new = normalize({"text_config": {**inner, "model_type": "qwen3_vl_text", "rope_parameters": rope}}, "c")
    assert (new["model_type"], new["mrope_interleaved"]) == ("qwen3", True)
    axes = axes_of(new, 64)
    assert (axes[:6], axes[57:]) == ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0, 0])
    assert "mrope_section" not in normalize({**QWEN_VL, "model_type": "qwen2", "rope_scaling": None}, "c")
    for sections in ([16, 24], [16, 24, 25], [16, 24, -1], "no"):
        with pytest.raises(BadFile, match="mrope_section"):
            normalize({**QWEN_VL, "rope_scaling": {"type": "mrope", "mrope_section": sections}}, "c")


def test_sizes_that_a_published_vision_language_model_leaves_out() -> None:
    vicuna = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064}
    found = normalize({"model_type": "llava", "text_config": vicuna, "vision_config": {}}, "c")
    assert (found["hidden_size"], found["intermediate_size"], found["num_hidden_layers"]) == (4096, 11008, 32)
    assert (found["num_attention_heads"], found["vocab_size"], found["rms_norm_eps"]) == (32, 32064, 1e-5)
    with pytest.raises(BadFile, match="hidden_size is missing"):
        normalize(vicuna, "c")


def test_sliding_windows() -> None:
    window: Callable[..., Any] = lambda **changes: normalize(_raw(**changes), "c")["sliding_window"]  # noqa: E731
    assert window(model_type="mistral", sliding_window="REMOVE") == 4096
    assert window(model_type="mistral", sliding_window=None) is None
    assert window(model_type="llama", sliding_window=64) is None
    assert window(model_type="qwen2", sliding_window=64) is None
    assert window(model_type="qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=0) == 64
    assert window(model_type="qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=2) is None
    with pytest.raises(UnsupportedModel, match="1 of 2 layers"):
        window(model_type="qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=1)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (
            {"model_type": "qwen2_moe"},
            UnsupportedModel,
            "'qwen2_moe' does not run here; the nearest .* is qwen2",
        ),
        ({"model_type": "mistral4"}, UnsupportedModel, "the nearest that does is mistral"),
        ({"model_type": "REMOVE"}, BadFile, "model_type is missing"),
        ({"hidden_size": "REMOVE"}, BadFile, "hidden_size is missing"),
        ({"hidden_size": 64.0}, BadFile, "hidden_size is 64.0"),
        ({"num_hidden_layers": -1}, BadFile, "num_hidden_layers is -1"),
        ({"num_hidden_layers": 10**300}, BadFile, "over 60 digits"),
        ({"num_attention_heads": True}, BadFile, "num_attention_heads is True"),
        ({"num_key_value_heads": 3, "num_attention_heads": 4}, BadFile, "4 heads cannot share 3"),
        ({"head_dim": 31}, BadFile, "even head_dim, not 31"),
        ({"rms_norm_eps": float("nan")}, BadFile, "rms_norm_eps is nan"),
        ({"rope_scaling": {"rope_type": "longrope"}}, UnsupportedModel, "'longrope' does not run here"),
        ({"rope_scaling": {"rope_type": "linear"}}, BadFile, "factor is missing"),
        ({"rope_scaling": [1]}, BadFile, "rope parameters"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, UnsupportedModel, "'full_attention' alone"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, "quantized by 'gptq'"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act 'gelu'"),
        ({"mlp_bias": True}, UnsupportedModel, "mlp_bias"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModel, "partial_rotary_factor"),
    ],
)
def test_configurations_that_do_not_run(changes: dict[str, Any], kind: type[PintpotError], words: str) -> None:
    with pytest.raises(kind, match=words):
        normalize(_raw(**changes), "c")
