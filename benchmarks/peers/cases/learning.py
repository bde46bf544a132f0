"""Adapters beside q and v of SmolLM2, and all of its weights, 4 x 256 tokens a step, beside peft and transformers."""

from __future__ import annotations

from learning_together import Learning

ORDER = 4

CASES = (
    Learning("LoRA, SmolLM2, bf16", "learning bf16", "lora", "bf16", quick=True),
    Learning("LoRA, SmolLM2, float32", "learning float32", "lora", "float32"),
    Learning("QLoRA, SmolLM2", "learning nf4", "qlora", "bf16", compared=False),
    Learning("Every weight, SmolLM2, float32", "learning full", "full", "float32", rate=5e-5),
    Learning(
        "Every weight, SmolLM2, products in bf16 beside float32", "learning full", "full", "bf16", rate=5e-5, quick=True
    ),
)
