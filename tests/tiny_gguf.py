"""Tiny models as GGUF files, through the `gguf` package."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_hf import CHAT_TEMPLATE, DEFAULT, SPECIAL, Tiny, hf_shapes, hf_weights, rope_scaling, tokenizer_json

GGUF_TYPES = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp", "experts.w1": "ffn_gate_exps", "experts.w3": "ffn_up_exps",
    "experts.w2": "ffn_down_exps", "experts.gate_proj": "ffn_gate_exps", "experts.up_proj": "ffn_up_exps",
    "experts.down_proj": "ffn_down_exps",
}  # fmt: skip
_GGUF_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.\d+\.(\w+)")
_ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}


def gguf_name(hf_name: str, family: str = "") -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`; the same for all experts of a layer."""
    if hf_name in _GGUF_TOP:
        return _GGUF_TOP[hf_name]
    _, _, layer, rest = hf_name.split(".", 3)
    stem, end = rest.rsplit(".", 1)
    if family == "gemma3" and stem == "post_attention_layernorm":
        return f"blk.{layer}.post_attention_norm.{end}"
    return f"blk.{layer}.{_GGUF_NAMES[_EXPERT.sub(lambda found: 'experts.' + found[1], stem)]}.{end}"


def left_out(tiny: Tiny, value: np.ndarray) -> float:
    """What Hugging Face's files leave out of a tensor and GGUF files have: the 1 of gemma's norms."""
    return 1.0 if tiny.family == "gemma3" and value.ndim == 1 else 0.0


def _heads_to_permute(tiny: Tiny, hf_name: str) -> int:
    """How many heads of rows llama.cpp interleaves in this tensor; 0 for none."""
    if _ARCHITECTURES.get(tiny.family, tiny.family) != "llama":
        return 0
    return tiny.heads if ".q_proj." in hf_name else tiny.kv_heads if ".k_proj." in hf_name else 0


def interleave(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves (HF) to pairs (GGUF of llama)."""
    return value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def deinterleave(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from pairs (GGUF of llama) to halves (HF)."""
    return value.reshape(heads, -1, 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def rope_factors(tiny: Tiny) -> np.ndarray:
    """`rope_freqs.weight` of a llama3-scaled GGUF: what each of head_dim/2 frequencies is divided by."""
    scaling = rope_scaling(tiny) or {}
    original, low, high = (
        scaling[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    waves = 2 * math.pi * tiny.rope_theta ** (np.arange(0, tiny.head_dim, 2) / tiny.head_dim)
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    factors: np.ndarray = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return factors.astype(np.float32)


def extra_tensors(tiny: Tiny) -> dict[str, np.ndarray]:
    """What divides the rotary frequencies, where a GGUF file says so with tensors."""
    scaling = rope_scaling(tiny) or {}
    if tiny.rope == "llama3":
        return {"rope_freqs.weight": rope_factors(tiny)}
    return {
        f"rope_factors_{name}.weight": np.array(scaling[f"{name}_factor"], np.float32)
        for name in (("short", "long") if tiny.rope == "longrope" else ())
    }


def encode_gguf(value: np.ndarray, quantization: str, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Bytes and type of one tensor. K-quants, which `gguf` cannot make, are drawn blocks of about the same spread."""
    import gguf

    if value.ndim == 3:
        data, found = encode_gguf(value.reshape(-1, value.shape[2]), quantization, rng)
        return data.reshape(*value.shape[:2], -1), found

    kind = gguf.GGMLQuantizationType[quantization.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if value.ndim == 1 or quantization == "f32":
        return value.astype(np.float32), gguf.GGMLQuantizationType.F32
    if value.shape[1] % block:
        return value.astype(np.float16), gguf.GGMLQuantizationType.F16
    if not quantization.endswith("_k"):
        return gguf.quants.quantize(value, kind), kind
    blocks = rng.integers(0, 256, (value.shape[0], value.shape[1] // block, block_bytes), dtype=np.uint8)
    scale_at, min_at, middle = {
        "q2_k": (80, 82, 1.5), "q3_k": (108, None, 0), "q4_k": (0, 2, 7.5), "q5_k": (0, 2, 15.5),
        "q6_k": (208, None, 0),
    }[quantization]  # fmt: skip
    for scale in (1.0, None):
        if scale is None:
            scale = float(np.std(value) / np.std(gguf.quants.dequantize(blocks.reshape(value.shape[0], -1), kind)))
        blocks[..., scale_at : scale_at + 2] = np.array([scale], np.float16).view(np.uint8)
        if min_at is not None:
            blocks[..., min_at : min_at + 2] = np.array([scale * middle], np.float16).view(np.uint8)
    return blocks.reshape(value.shape[0], -1), kind


def add_metadata(writer: Any, tiny: Tiny) -> None:
    """Everything but the tokenizer and the tensors."""
    import gguf

    writer.add_name(f"tiny {tiny.family}")
    writer.add_block_count(tiny.layers)
    writer.add_context_length(tiny.context)
    writer.add_embedding_length(tiny.hidden)
    writer.add_feed_forward_length(tiny.intermediate)
    writer.add_head_count(tiny.heads)
    writer.add_head_count_kv(tiny.kv_heads)
    writer.add_key_length(tiny.head_dim)
    writer.add_value_length(tiny.head_dim)
    writer.add_rope_dimension_count(tiny.rope_dim)
    writer.add_rope_freq_base(tiny.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tiny.vocab)
    if tiny.has_experts:
        writer.add_expert_count(tiny.experts)
        writer.add_expert_used_count(tiny.chosen)
    if tiny.family == "qwen3_moe":
        writer.add_expert_feed_forward_length(tiny.intermediate)
    if tiny.window is not None or tiny.family == "gemma3":
        writer.add_sliding_window(tiny.window or 8)
    if tiny.family == "gemma3":
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
        writer.add_float32("gemma3.rope.freq_base_swa", 100.0)
    scaling = rope_scaling(tiny)
    if tiny.rope == "longrope":
        original = tiny.context // 2
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(tiny.context / original) / math.log(original)))
    elif scaling is not None and tiny.rope != "llama3":
        writer.add_rope_scaling_type(gguf.RopeScalingType(tiny.rope))
        writer.add_rope_scaling_factor(scaling["factor"])
        if tiny.rope == "yarn":
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _add_tokenizer(writer: Any, tiny: Tiny) -> None:
    tokenizer = json.loads(tokenizer_json(tiny.tokenizer_kind))
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    padding = [f"[PAD{index}]" for index in range(len(words), tiny.vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tiny.tokenizer_kind)
    writer.add_token_list(words + padding)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(words) - len(SPECIAL)) + [5] * len(padding))
    writer.add_token_merges(
        [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["model"]["merges"]]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(
    path: Path, tiny: Tiny = DEFAULT, quantization: str = "q8_0", *, embed: str | None = None, splits: int = 1
) -> Path:
    """A GGUF file with tokenizer; `embed` is the format of the embedding and the head where it differs.

    With more than one split the files are called NAME-00001-of-0000N.gguf. Returns the (first) file.
    """
    import gguf

    architecture = _ARCHITECTURES.get(tiny.family, tiny.family)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = _stacked(hf_weights(tiny), tiny)
    factors = extra_tensors(tiny)
    per_file = math.ceil((len(weights) + len(factors)) / splits) if splits > 1 else 0
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=per_file)
    add_metadata(writer, tiny)
    _add_tokenizer(writer, tiny)
    rng = np.random.default_rng(tiny.seed + 1000)
    for name, value in weights.items():
        heads = _heads_to_permute(tiny, name)
        wanted = (
            embed if embed is not None and name in ("model.embed_tokens.weight", "lm_head.weight") else quantization
        )
        wanted = "f32" if "ffn_gate_inp" in gguf_name(name, tiny.family) else wanted
        whole = value + np.float32(left_out(tiny, value))
        data, kind = encode_gguf(interleave(whole, heads) if heads else whole, wanted, rng)
        writer.add_tensor(gguf_name(name, tiny.family), data, raw_dtype=kind)
    for name, value in factors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if splits == 1 else path.with_name(f"{path.stem}-00001-of-{splits:05d}.gguf")


def _stacked(weights: dict[str, np.ndarray], tiny: Tiny) -> dict[str, np.ndarray]:
    """The same with the experts of a layer in one tensor, under the name of the first."""
    found: dict[str, list[np.ndarray]] = {}
    for name, value in weights.items():
        found.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.0.", name), []).append(value)
    return {name: np.stack(parts) if ".experts." in name else parts[0] for name, parts in found.items()}


def gguf_weights(path: Path, tiny: Tiny) -> dict[str, np.ndarray]:
    """float32 arrays by Hugging Face name, in Hugging Face's row order, as `gguf` dequantizes them; all splits."""
    import gguf

    files = [path]
    if "-of-" in path.stem:
        files = sorted(path.parent.glob(path.stem.split("-00001-of-")[0] + "-*-of-*.gguf"))
    tensors = {tensor.name: tensor for file in files for tensor in gguf.GGUFReader(file).tensors}
    weights = {}
    for name, shape in hf_shapes(replace(tiny, fused=tiny.has_experts)).items():
        if ".experts." in name:
            at = f"blk.{name.split('.')[2]}.ffn_"
            sides = ("gate", "up") if "gate_up" in name else ("down",)
            found = [tensors[f"{at}{side}_exps.weight"] for side in sides]
            parts = [gguf.quants.dequantize(one.data, one.tensor_type).astype(np.float32) for one in found]
            weights[name] = np.concatenate([part.reshape(shape[0], -1, shape[2]) for part in parts], axis=1)
            continue
        tensor = tensors[gguf_name(name, tiny.family)]
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        value = value - np.float32(left_out(tiny, value))
        heads = _heads_to_permute(tiny, name)
        weights[name] = deinterleave(value, heads) if heads else value
    return weights
