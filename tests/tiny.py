"""Tiny language models, drawn in code: Hugging Face folders and GGUF files with real tokenizers, for every test.

    folder = write_hf(tmp_path / "m", Tiny(family="qwen3"))      # config.json, model.safetensors, tokenizer.json
    file = write_gguf(tmp_path / "m.gguf", Tiny(), "q4_0")       # rows of q and k permuted, as llama.cpp does for llama
    hf_weights(tiny), gguf_weights(file, tiny)                   # float32 arrays by Hugging Face name
    torch_model(folder), torch_model_of_gguf(file, tiny)         # what transformers makes of the same weights

The same `Tiny` gives the same bytes. Matrices whose columns are no multiple of the format's block fall back to F16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_gguf import (
    GGUF_TYPES,
    deinterleave,
    encode_gguf,
    gguf_name,
    gguf_weights,
    interleave,
    rope_factors,
    write_gguf,
)
from tiny_hf import (
    CHAT_TEMPLATE,
    DEFAULT,
    EXPORTED,
    FAMILIES,
    K_QUANT,
    SPECIAL,
    VOCAB_SIZE,
    Tiny,
    hf_config,
    hf_shapes,
    hf_weights,
    rope_scaling,
    tokenizer_json,
    write_hf,
    write_tokenizer,
)

__all__ = [
    "CHAT_TEMPLATE", "DEFAULT", "EXPORTED", "FAMILIES", "GGUF_TYPES", "K_QUANT", "SPECIAL", "VOCAB_SIZE", "Tiny",
    "deinterleave", "encode_gguf", "gguf_name", "gguf_weights", "hf_config", "hf_shapes", "hf_weights", "interleave",
    "rope_factors", "rope_scaling", "tokenizer_json", "torch_model", "torch_model_of_gguf", "write_gguf", "write_hf",
    "write_tokenizer",
]  # fmt: skip


def torch_model(folder: Path) -> Any:
    """The transformers model of a folder, float32, evaluation mode, eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.train(False)
    return model


def torch_model_of_gguf(path: Path, tiny: Tiny) -> Any:
    """The transformers model with exactly the weights of a GGUF file (dequantized), float32, evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = hf_config(tiny)
    if tiny.family == "gemma3":
        settings["query_pre_attn_scalar"] = tiny.head_dim  # what llama.cpp takes, for GGUF files do not say it
    auto: Any = AutoModelForCausalLM
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model: Any = auto.from_config(config, dtype=torch.float32, attn_implementation="eager")
    state = {name: torch.from_numpy(value) for name, value in gguf_weights(path, tiny).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    model.train(False)
    return model
