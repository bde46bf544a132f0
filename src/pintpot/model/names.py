"""Tensor names of Hugging Face and of GGUF <-> canonical names, and the order in which a block uses them.

embed    layers.N.{attn_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, attn_post_norm,
                   ffn_norm, router, gate, up, down, ffn_post_norm}
norm     head     rope_freqs (what each rotary frequency is divided by, where the file says so)
Tensors that hold several of them are `layers.N.{qkv, gate_up}` until `pintpot.model.fused` takes them apart; those of
expert E are `layers.N.{gate, up, down}.E` until `pintpot.model.experts` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.spec import Block, Weight

LAYER_ROLES: Final = (
    "attn_norm", "q", "q_bias", "k", "k_bias", "v", "v_bias", "q_norm", "k_norm", "o", "o_bias",
    "attn_post_norm", "ffn_norm", "router", "gate", "up", "down", "ffn_post_norm",
)  # fmt: skip
"""A layer's weights in the order in which they are used."""
POST_NORMS: Final = frozenset({"attn_post_norm", "ffn_post_norm"})
"""Norms between a product and the residual stream."""
_NORMS_FROM_ONE: Final = frozenset({"gemma3"})
"""Families whose files in Hugging Face's form have the gains of norms as their distance from 1."""

_HF: Final = {
    "input_layernorm.weight": "attn_norm", "post_attention_layernorm.weight": "ffn_norm",
    "self_attn.q_proj.weight": "q", "self_attn.k_proj.weight": "k", "self_attn.v_proj.weight": "v",
    "self_attn.o_proj.weight": "o", "self_attn.q_proj.bias": "q_bias", "self_attn.k_proj.bias": "k_bias",
    "self_attn.v_proj.bias": "v_bias", "self_attn.o_proj.bias": "o_bias", "self_attn.q_norm.weight": "q_norm",
    "self_attn.k_norm.weight": "k_norm", "mlp.gate_proj.weight": "gate", "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
}  # fmt: skip
_HF_TOP: Final = {"embed_tokens.weight": "embed", "norm.weight": "norm", "lm_head.weight": "head"}
_GGUF: Final = {
    "attn_norm.weight": "attn_norm", "ffn_norm.weight": "ffn_norm", "attn_q.weight": "q", "attn_k.weight": "k",
    "attn_v.weight": "v", "attn_output.weight": "o", "attn_q.bias": "q_bias", "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias", "attn_output.bias": "o_bias", "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm", "ffn_gate.weight": "gate", "ffn_up.weight": "up", "ffn_down.weight": "down",
}  # fmt: skip
_GGUF_TOP: Final = {
    "token_embd.weight": "embed", "output_norm.weight": "norm", "output.weight": "head",
    "rope_freqs.weight": "rope_freqs",
}  # fmt: skip
_EXPERTS_HF: Final = {
    "mlp.gate.weight": "router", "mlp.experts.gate_up_proj": "gate_up", "mlp.experts.down_proj": "down",
    "mlp.experts.*.gate_proj.weight": "gate.*", "mlp.experts.*.up_proj.weight": "up.*",
    "mlp.experts.*.down_proj.weight": "down.*",
}  # fmt: skip
"""A name's number stands for `*`: that of an expert."""
_EXPERTS_GGUF: Final = {
    "ffn_gate_inp.weight": "router", "ffn_gate_exps.weight": "gate", "ffn_up_exps.weight": "up",
    "ffn_down_exps.weight": "down", "ffn_gate.*.weight": "gate.*", "ffn_up.*.weight": "up.*",
    "ffn_down.*.weight": "down.*",
}  # fmt: skip
_OWN_HF: Final[dict[str, dict[str, str]]] = {
    "mixtral": {
        **_EXPERTS_HF, "block_sparse_moe.gate.weight": "router", "block_sparse_moe.experts.*.w1.weight": "gate.*",
        "block_sparse_moe.experts.*.w3.weight": "up.*", "block_sparse_moe.experts.*.w2.weight": "down.*",
    },
    "qwen3_moe": _EXPERTS_HF,
    "phi3": {"self_attn.qkv_proj.weight": "qkv", "mlp.gate_up_proj.weight": "gate_up"},
    "gemma3": {
        "post_attention_layernorm.weight": "attn_post_norm", "pre_feedforward_layernorm.weight": "ffn_norm",
        "post_feedforward_layernorm.weight": "ffn_post_norm",
    },
}  # fmt: skip
_OWN_GGUF: Final[dict[str, dict[str, str]]] = {
    "mixtral": _EXPERTS_GGUF,
    "qwen3_moe": _EXPERTS_GGUF,
    "phi3": {"attn_qkv.weight": "qkv", "ffn_up.weight": "gate_up"},
    "gemma3": {"post_attention_norm.weight": "attn_post_norm", "post_ffw_norm.weight": "ffn_post_norm"},
}
"""What a family's files call the weights of a layer where it is not what the others call them."""
_OWN_GGUF_TOP: Final[dict[str, dict[str, str]]] = {"phi3": {"rope_factors_short.weight": "rope_freqs"}}
_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,8})\.(.+)")
_GGUF_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,8})\.(.+)")
_NUMBER = re.compile(r"(?<=\.)(0|[1-9]\d{0,5})(?=\.)")
_HF_PREFIX = re.compile(r"(model\.)?((language|text)_model\.)?(model\.)?")
_IGNORED = re.compile(
    r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)|blk\.\d+\.attn_rot_embd\.weight|rope_factors_long\.weight"
)
_OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|connector|image_newline|vision)\b.*"
)


def canonical_hf(name: str, family: str = "") -> str | None:
    """`model.layers.3.mlp.up_proj.weight` -> `layers.3.up`; None for a name that this family's files do not have."""
    roles = {**_HF, **_OWN_HF.get(family, {})}
    return _canonical(_HF_PREFIX.sub("", name, count=1), _HF_TOP, _LAYER, roles)


def canonical_gguf(name: str, family: str = "") -> str | None:
    """`blk.3.ffn_up.weight` -> `layers.3.up`; None for a name that this family's files do not have."""
    top, roles = {**_GGUF_TOP, **_OWN_GGUF_TOP.get(family, {})}, {**_GGUF, **_OWN_GGUF.get(family, {})}
    return _canonical(name, top, _GGUF_LAYER, roles)


def plus_of(family: str) -> Callable[[str], float]:
    """What a family's files in Hugging Face's form leave out of every value of a weight, by its canonical name."""
    left_out = 1.0 if family in _NORMS_FROM_ONE else 0.0
    return lambda name: left_out if name.endswith("norm") else 0.0


def hf_name(name: str, family: str = "") -> str:
    """`layers.3.up` -> `model.layers.3.mlp.up_proj.weight`. Raises UnsupportedModel for what Hugging Face has not."""
    if name == "head":
        return "lm_head.weight"
    return "model." + _foreign(name, _HF_TOP, "layers", {**_HF, **_OWN_HF.get(family, {})})


def gguf_name(name: str, family: str = "") -> str:
    """`layers.3.up` -> `blk.3.ffn_up.weight`. Raises UnsupportedModel for a name that is not canonical."""
    return _foreign(name, _GGUF_TOP, "blk", {**_GGUF, **_OWN_GGUF.get(family, {})})


def _foreign(name: str, top: dict[str, str], layer: str, roles: dict[str, str]) -> str:
    tops, ends = ({value: key for key, value in names.items()} for names in (top, roles))
    match = _LAYER.fullmatch(name)
    role, _, number = match[2].partition(".") if match else ("", "", "")
    role += ".*" if number else ""
    known = name in tops if match is None else role in ends
    need(known, f"the weight {name!r:.60} has no name there", UnsupportedModel)
    return tops[name] if match is None else f"{layer}.{match[1]}.{ends[role].replace('*', number)}"


def _canonical(name: str, top: dict[str, str], layer: re.Pattern[str], roles: dict[str, str]) -> str | None:
    if name in top:
        return top[name]
    match = layer.fullmatch(name)
    if match is None:
        return None
    number = _NUMBER.search(match[2])
    role = roles.get(_NUMBER.sub("*", match[2], count=1) if number else match[2])
    return f"layers.{match[1]}.{role.replace('*', number[0]) if number else role}" if role else None


def canonical_weights(
    tensors: Iterable[Weight],
    canonical: Callable[[str], str | None],
    where: str,
    *,
    other_parts: bool = False,
    plus: Callable[[str], float] = lambda name: 0.0,
) -> dict[str, Weight]:
    """Weights by canonical name; `other_parts` leaves out what belongs to a vision-language model's other networks,
    `plus` says what the file leaves out of a weight's values.

    Raises UnsupportedModel listing a few names that mean nothing here, BadFile where two names mean the same weight.
    """
    weights: dict[str, Weight] = {}
    unknown = []
    for tensor in tensors:
        if _IGNORED.fullmatch(tensor.name) or (other_parts and _OTHER_PARTS.fullmatch(tensor.name)):
            continue
        name = canonical(tensor.name)
        if name is None:
            unknown.append(tensor.name)
            continue
        need(name not in weights, f"{where}: {tensor.name!r} is {name}, which comes twice", BadFile)
        weights[name] = replace(tensor, name=name, plus=plus(name))
    listed = ", ".join(repr(name) for name in unknown[:4]) + (", ..." if len(unknown) > 4 else "")
    need(not unknown, f"{where}: {len(unknown)} tensors mean nothing to this architecture: {listed}", UnsupportedModel)
    return weights


def blocks_of(weights: dict[str, Weight], num_layers: int) -> tuple[Block, ...]:
    """Blocks in the order of use: `embed`, `layers.0` ..., `head` (the final norm, and the head where there is one)."""
    groups: list[tuple[str, tuple[str, ...]]] = [("embed", ("embed", "rope_freqs"))]
    for layer in range(num_layers):
        at = f"layers.{layer}"
        groups.append((at, tuple(f"{at}.{role}" for role in LAYER_ROLES)))
    groups.append(("head", ("norm", "head")))
    return tuple(Block(name, tuple(weights[key] for key in keys if key in weights)) for name, keys in groups)
