"""Which tensors an exported file has: their names, their encodings, and the order of the rows of q and k."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pintpot.contract.form import WeightForm
from pintpot.errors import UnsupportedModel, need
from pintpot.formats.registry import encoding
from pintpot.model.names import gguf_name, hf_name
from pintpot.packer.export.rope import rope_factors
from pintpot.packer.export.tensor import Order, Tensor
from pintpot.packer.manifest import Manifest

Float = Literal["f32", "f16", "bf16"]
PAIRED = frozenset({"llama", "mistral", "mixtral"})
"""Families that GGUF calls `llama`, and whose heads it keeps with the rows of q and k in pairs."""
_TURNED = ("q", "k", "q_bias", "k_bias")


def hf_tensors(manifest: Manifest, dtype: Float) -> tuple[Tensor, ...]:
    """The tensors of a Hugging Face folder, all of them in `dtype`."""
    config = manifest.plan.config
    order: Order = "pairs to halves" if config["rope_layout"] == "interleaved" else "as it is"
    made: list[Tensor] = []
    for weight in manifest.plan.form.weights:
        if weight.name == "rope_freqs":
            continue  # config.json tells it
        exact = dtype == "f32" or weight.format == dtype
        if weight.experts > 1:
            made += _by_expert(weight, dtype, config, exact)
            continue
        made.append(_tensor(hf_name(weight.name, config["model_type"]), weight, dtype, order, config, exact))
    return (*made, *_missing_biases(manifest, dtype))


def gguf_tensors(manifest: Manifest, other: Float | None = None) -> tuple[Tensor, ...]:
    """The tensors of a GGUF file: in the smallest type that holds them without loss. What none does becomes `other`.

    Where that is None, it becomes Q8_0, or F16 where its rows are no whole blocks of 32 columns.
    """
    config = manifest.plan.config
    paired = config["model_type"] in PAIRED and config["rope_layout"] == "half"
    order: Order = "halves to pairs" if paired else "as it is"
    made = []
    for weight in manifest.plan.form.weights:
        dtype, exact = _gguf_dtype(weight, other)
        name = gguf_name(weight.name, config["model_type"])
        tensor = _tensor(name, weight, dtype, order, config, exact)
        of_experts = (weight.experts, weight.rows, weight.shape[-1])
        made.append(tensor if weight.experts == 1 else replace(tensor, shape=of_experts))
    scaling = config["rope_scaling"] or {}
    if scaling.get("rope_type") == "llama3" and "rope_freqs" not in manifest.plan.form.weights.names:
        factors = rope_factors(scaling, config["rope_theta"], config["head_dim"])
        made.append(Tensor(gguf_name("rope_freqs"), (len(factors),), "f32", values=factors))
    return tuple(made)


def _by_expert(weight: WeightForm, dtype: str, config: Mapping[str, Any], exact: bool) -> Iterator[Tensor]:
    """A tensor for each expert, as published folders have them."""
    for number in range(weight.experts):
        name, shape = hf_name(f"{weight.name}.{number}", config["model_type"]), (weight.rows, weight.shape[1])
        yield Tensor(name, shape, dtype, weight, exact=exact, first_row=number * weight.rows)


def _tensor(name: str, weight: WeightForm, dtype: str, order: Order, config: Mapping[str, Any], exact: bool) -> Tensor:
    turned: Order = order if weight.role in _TURNED else "as it is"
    return Tensor(name, weight.shape, dtype, weight, order=turned, head_dim=config["head_dim"], exact=exact)


def _gguf_dtype(weight: WeightForm, other: Float | None) -> tuple[str, bool]:
    if not weight.is_matrix:
        return "f32", True
    from pintpot.formats.blocks import block_type

    columns = weight.shape[1]
    held = block_type(weight.format, columns)
    if held is not None:
        return held, True
    if other is not None:
        return other, other == "f32"
    return ("f16" if columns % encoding("q8_0").block_columns else "q8_0"), False


def _missing_biases(manifest: Manifest, dtype: Float) -> Iterator[Tensor]:
    """Zeros where Hugging Face's network has a bias on o and GGUF files have none."""
    config, names = manifest.plan.config, manifest.plan.form.weights.names
    family, layers = config["model_type"], range(config["num_hidden_layers"])
    here = [f"layers.{layer}.o_bias" for layer in layers if f"layers.{layer}.o_bias" in names]
    fits = not here or family not in ("qwen2", "mistral", "mixtral")
    need(fits, f"Hugging Face's {family} has no bias on o, and this model has one", UnsupportedModel)
    if config["attention_bias"] and family != "qwen2" and not here:
        zeros = (0.0,) * config["hidden_size"]
        for layer in layers:
            yield Tensor(hf_name(f"layers.{layer}.o_bias"), (len(zeros),), dtype, values=zeros)
