"""Tiny models as Hugging Face folders: the drawn weights, config.json, and a byte-level tokenizer."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE = 384
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_PATTERN, _LOCAL_BASE, _SCALAR = 2, 100.0, 24
"""Of tiny gemmas every second layer sees everything; what published ones have would show little in so few tokens."""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"llama-bpe": _SPLIT.replace("DIGITS", "{1,3}"), "qwen2": _SPLIT.replace("DIGITS", "")}
_CORPUS = (
    "They say you cannot get a quart into a pint pot. The model is large and the memory is small, so the weights "
    "are written in fewer bits and read from the disk while the machine is computing. Once upon a time there was a "
    "little reader who counted every byte twice: 1, 2, 3, 10, 100 and 2026. It's what they'd call thrift; we'll see. "
    "def main(argument):\n    return argument + 1\n\nÜber die Brücke ging der Müller. 你好，世界。 Привет, мир! "
)


@dataclass(frozen=True)
class Tiny:
    """Shape and options of one drawn model; `pre` is the tokenizer's kind: smollm, llama-bpe or qwen2."""

    family: str = "llama"
    hidden: int = 64
    intermediate: int = 160
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    vocab: int = VOCAB_SIZE
    context: int = 256
    tied: bool = False
    bias: bool = False
    rope: str = "default"  # default | linear | llama3 | yarn | longrope
    rotary: float = 1.0  # the share of each head that is rotated
    rope_theta: float = 10000.0
    window: int | None = None
    experts: int = 6  # of families that have them; a token meets `chosen`
    chosen: int = 2
    sums_to_one: bool = True
    fused: bool = False  # all experts of a layer in one tensor, gate and up side by side
    seed: int = 0
    pre: str | None = None

    @property
    def tokenizer_kind(self) -> str:
        return self.pre or ("qwen2" if self.family.startswith("qwen") else "smollm")

    @property
    def qkv_bias(self) -> bool:
        return self.bias or self.family == "qwen2"

    @property
    def model_type(self) -> str:
        return "gemma3_text" if self.family == "gemma3" else self.family

    @property
    def has_experts(self) -> bool:
        return self.family in ("mixtral", "qwen3_moe")

    @property
    def rope_dim(self) -> int:
        return round(self.head_dim * self.rotary)


DEFAULT = Tiny()
"""A llama with nothing special."""

FAMILIES = (
    DEFAULT,
    Tiny(family="llama", tied=True, rope="llama3", hidden=96, heads=3, intermediate=224, seed=1),
    Tiny(family="mistral", heads=4, kv_heads=2, window=64, seed=2),
    Tiny(family="qwen2", tied=True, heads=4, kv_heads=2, hidden=128, seed=3),
    Tiny(family="qwen3", heads=4, kv_heads=2, seed=4),
    Tiny(family="phi3", heads=4, kv_heads=2, hidden=128, rope="longrope", rotary=0.75, window=100, context=384, seed=5),
    Tiny(family="gemma3", heads=4, rope="linear", window=16, tied=True, seed=6),
    Tiny(family="mixtral", heads=4, kv_heads=2, intermediate=96, window=40, experts=5, chosen=2, seed=7),
    Tiny(family="qwen3_moe", heads=4, kv_heads=2, intermediate=48, experts=8, chosen=3, seed=8),
)
"""One of each family, with different options; enough for a test that walks all."""

_EXPORTED = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
EXPORTED = tuple(tiny for tiny in FAMILIES if tiny.family in _EXPORTED)
"""Those whose packs become files again."""

K_QUANT = Tiny(hidden=256, intermediate=512, heads=4, kv_heads=2, head_dim=64, seed=5)
"""Columns of a multiple of 256, as the formats Q2_K to Q6_K need."""


def rope_scaling(tiny: Tiny) -> dict[str, Any] | None:
    if tiny.rope == "linear":
        return {"rope_type": "linear", "factor": 2.0}
    if tiny.rope == "llama3":
        return {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": tiny.context // 4,
        }  # fmt: skip
    if tiny.rope == "yarn":
        return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": tiny.context // 4}
    if tiny.rope == "longrope":
        short = [1.0 + index / tiny.rope_dim for index in range(tiny.rope_dim // 2)]
        return {"type": "longrope", "short_factor": short, "long_factor": [4 * factor for factor in short]}
    return None


def hf_config(tiny: Tiny) -> dict[str, Any]:
    """What config.json holds."""
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[tiny.family]], "model_type": tiny.model_type, "torch_dtype": "float32",
        "hidden_size": tiny.hidden, "intermediate_size": tiny.intermediate, "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.kv_heads, "head_dim": tiny.head_dim,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": tiny.rope_theta, "vocab_size": tiny.vocab,
        "max_position_embeddings": tiny.context, "tie_word_embeddings": tiny.tied,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    }  # fmt: skip
    if tiny.family in ("llama", "qwen3", "qwen3_moe"):
        config["attention_bias"] = tiny.bias
    if tiny.family in ("mistral", "phi3", "mixtral"):
        config["sliding_window"] = tiny.window
    if tiny.family == "phi3":
        if tiny.heads * tiny.head_dim == tiny.hidden:
            del config["head_dim"]  # as published
        config["partial_rotary_factor"] = tiny.rotary
        config["original_max_position_embeddings"] = tiny.context // 2
    if tiny.family == "mixtral":
        config |= {"num_local_experts": tiny.experts, "num_experts_per_tok": tiny.chosen}
    if tiny.family == "qwen3_moe":
        config |= {
            "num_experts": tiny.experts, "num_experts_per_tok": tiny.chosen, "norm_topk_prob": tiny.sums_to_one,
            "moe_intermediate_size": tiny.intermediate, "intermediate_size": 3 * tiny.intermediate,
            "decoder_sparse_step": 1, "mlp_only_layers": [],
        }  # fmt: skip
    if tiny.family == "gemma3":
        del config["hidden_act"]
        config |= {
            "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": _SCALAR,
            "sliding_window": tiny.window or 8, "sliding_window_pattern": _PATTERN, "rope_local_base_freq": _LOCAL_BASE,
        }  # fmt: skip
    if tiny.rope != "default":
        config["rope_scaling"] = rope_scaling(tiny)
    return config


def hf_shapes(tiny: Tiny) -> dict[str, tuple[int, ...]]:
    """Hugging Face's tensor names and shapes, in file order."""
    queries, keys = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tiny.vocab, tiny.hidden)}
    for layer in range(tiny.layers):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = (tiny.hidden,)
        sides = {"q": queries, "k": keys, "v": keys} if tiny.family != "phi3" else {"qkv": queries + 2 * keys}
        for name, rows in sides.items():
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, tiny.hidden)
            if tiny.qkv_bias:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes[at + "self_attn.o_proj.weight"] = (tiny.hidden, queries)
        if tiny.bias and tiny.family in ("llama", "qwen3", "qwen3_moe"):
            shapes[at + "self_attn.o_proj.bias"] = (tiny.hidden,)
        if tiny.family in ("qwen3", "gemma3", "qwen3_moe"):
            shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (tiny.head_dim,)
        shapes[at + "post_attention_layernorm.weight"] = (tiny.hidden,)
        if tiny.family == "gemma3":
            for name in ("pre", "post"):
                shapes[f"{at}{name}_feedforward_layernorm.weight"] = (tiny.hidden,)
        if tiny.has_experts:
            shapes.update(_expert_shapes(tiny, at))
            continue
        if tiny.family == "phi3":
            shapes[at + "mlp.gate_up_proj.weight"] = (2 * tiny.intermediate, tiny.hidden)
        else:
            shapes[at + "mlp.gate_proj.weight"] = shapes[at + "mlp.up_proj.weight"] = (tiny.intermediate, tiny.hidden)
        shapes[at + "mlp.down_proj.weight"] = (tiny.hidden, tiny.intermediate)
    shapes["model.norm.weight"] = (tiny.hidden,)
    if not tiny.tied:
        shapes["lm_head.weight"] = (tiny.vocab, tiny.hidden)
    return shapes


def _expert_shapes(tiny: Tiny, at: str) -> dict[str, tuple[int, ...]]:
    """Router and experts of a layer, as published files name them; fused as transformers has them in memory."""
    inside, (gate, up, down) = "mlp.", ("gate_proj", "up_proj", "down_proj")
    if tiny.family == "mixtral" and not tiny.fused:
        inside, (gate, up, down) = "block_sparse_moe.", ("w1", "w3", "w2")
    shapes: dict[str, tuple[int, ...]] = {f"{at}{inside}gate.weight": (tiny.experts, tiny.hidden)}
    if tiny.fused:
        shapes[f"{at}mlp.experts.gate_up_proj"] = (tiny.experts, 2 * tiny.intermediate, tiny.hidden)
        shapes[f"{at}mlp.experts.down_proj"] = (tiny.experts, tiny.hidden, tiny.intermediate)
        return shapes
    for number in range(tiny.experts):
        of = f"{at}{inside}experts.{number}."
        shapes[f"{of}{gate}.weight"] = shapes[f"{of}{up}.weight"] = (tiny.intermediate, tiny.hidden)
        shapes[f"{of}{down}.weight"] = (tiny.hidden, tiny.intermediate)
    return shapes


def hf_weights(tiny: Tiny) -> dict[str, np.ndarray]:
    """The drawn weights: float32 arrays that are exact in float16, by Hugging Face name."""
    rng = np.random.default_rng(tiny.seed)
    weights = {}
    for name, shape in hf_shapes(tiny).items():
        drawn = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            drawn = 0.1 * drawn + (0.0 if name.endswith("bias") or tiny.family == "gemma3" else 1.0)
        elif tiny.tied or "embed" not in name:
            drawn *= 1.5 / math.sqrt(shape[-1])
        weights[name] = drawn.astype(np.float16).astype(np.float32)
    return weights


@functools.cache
def tokenizer_json(kind: str = "smollm") -> str:
    """A byte-level BPE of VOCAB_SIZE words, trained on a few sentences; SPECIAL are the ids 0, 1 and 2."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if kind == "smollm":
        first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(_SPLITS[kind]), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator([_CORPUS], trainer)
    return str(tokenizer.to_str())


def write_tokenizer(folder: Path, tiny: Tiny) -> None:
    (folder / "tokenizer.json").write_text(tokenizer_json(tiny.tokenizer_kind), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[1], "eos_token": SPECIAL[2],
        "unk_token": SPECIAL[0], "model_max_length": tiny.context, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}), encoding="utf-8")


def write_hf(folder: Path, tiny: Tiny = DEFAULT, *, dtype: str = "f32", shards: int = 1) -> Path:
    """A Hugging Face folder; `dtype` f32, f16 or bf16; more than one shard comes with an index. Returns the folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch_dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    config = {**hf_config(tiny), "torch_dtype": str(torch_dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder, tiny)
    tensors = {name: torch.from_numpy(value).to(torch_dtype) for name, value in hf_weights(tiny).items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in chosen}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(chosen, file))
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
