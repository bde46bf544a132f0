"""Calls of PyTorch's own library (ATen) that a recording may hold: what each costs beyond its memory, and what it is.

Only operators whose result depends on their arguments alone, whose memory is what they are given and give back, and
whose price follows from shapes, stand here; whatever else a module calls is refused by name when it is recorded, and
so is a stranger's recording when work is made of it. Names are without overload, and without the `_` of a change in
place. What PyTorch leaves unchecked inside an operator that its public functions check before, `fits` checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final, Literal

Meaning = Literal["product", "lookup", "sort", "values"]
"""Sums of products, counted when they are recorded; some rows of a table; values in order; a pass over all values."""
ATTENTION: Final = "_scaled_dot_product_flash_attention_for_cpu"

_PRODUCTS = f"mm addmm bmm baddbmm convolution {ATTENTION}"
_LOOKUPS = "embedding gather index index_select take"
_SORTS = "argsort kthvalue median nanmedian sort topk"
_BY_VALUE = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min copysign cos cosh div elu eq erf erfc erfinv exp exp2
expm1 floor floor_divide fmax fmin fmod frac ge gelu gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isinf
isnan isneginf isposinf le leaky_relu lerp lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not
logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg pow _prelu_kernel reciprocal relu
remainder round rsqrt rsub sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt sub tan tanh threshold
trunc where xlogy
"""
_VALUES = """
bucketize glu log_sigmoid_forward

all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum dot linalg_cross linalg_vector_norm
logcumsumexp logsumexp max mean min mv nansum norm prod std std_mean sum var var_mean

_fused_rms_norm _log_softmax _native_batch_norm_legit_no_training _safe_softmax _softmax _weight_norm_interface
native_batch_norm native_group_norm native_layer_norm

_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d
col2im grid_sampler_2d im2col max_pool2d_with_indices max_pool3d_with_indices pixel_shuffle pixel_unshuffle
channel_shuffle native_channel_shuffle _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d

_to_copy arange cat clone constant_pad_nd copy diag_embed diagonal_scatter eye fill flip full full_like index_add
index_copy index_fill index_put linspace masked_scatter new_full new_ones new_zeros ones ones_like reflection_pad1d
reflection_pad2d reflection_pad3d repeat replication_pad1d replication_pad2d replication_pad3d roll rot90 scalar_tensor
scatter scatter_add scatter_reduce select_scatter slice_scatter stack tril triu zero zeros zeros_like
"""
MEANINGS: Final[Mapping[str, Meaning]] = {
    **dict.fromkeys(_PRODUCTS.split(), "product"),
    **dict.fromkeys(_LOOKUPS.split(), "lookup"),
    **dict.fromkeys(_SORTS.split(), "sort"),
    **dict.fromkeys((_BY_VALUE + _VALUES).split(), "values"),
}

_CURVES = """
acos acosh asin asinh atan atan2 atanh cos cosh elu erf erfc erfinv exp exp2 expm1 gelu glu hypot lgamma log log10 log1p
log2 logaddexp logaddexp2 log_sigmoid_forward logit mish pow sigmoid silu sin sinc sinh softplus tan tanh xlogy
"""
_REDUCTIONS = """
all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum dot linalg_cross linalg_vector_norm
logcumsumexp logsumexp max mean min mv nansum norm prod std std_mean sum var var_mean _fused_rms_norm _log_softmax
_native_batch_norm_legit_no_training _safe_softmax _softmax _weight_norm_interface native_batch_norm native_group_norm
native_layer_norm
"""
_WINDOWS = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d
col2im grid_sampler_2d im2col max_pool2d_with_indices max_pool3d_with_indices _upsample_nearest_exact1d
_upsample_nearest_exact2d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
PACES: Final[Mapping[str, str]] = {
    **dict.fromkeys(MEANINGS, "values"),
    **dict.fromkeys(_CURVES.split(), "curve"),
    **dict.fromkeys(_REDUCTIONS.split(), "reduction"),
    **dict.fromkeys(_WINDOWS.split(), "window"),
    **dict.fromkeys(_SORTS.split(), "sort"),
    **dict.fromkeys(_PRODUCTS.split(), "product"),
    "convolution": "convolution",
    ATTENTION: "attention",
}
"""At which of the rates `aten/...` of a machine (`machine.spec`) a call runs."""

BY_VALUE: Final = frozenset(_BY_VALUE.split()) | {"clone", "_to_copy"}
"""Calls of which each value follows from the values in the same place; axes of length 1 serve all places."""

_PUT = frozenset({"index_copy_", "index_put_", "scatter_", "index_fill_"})

Sizes = tuple[int, ...]


def meaning(call: str) -> Meaning | None:
    """What a call does, by its name and overload; None for one that no recording may hold."""
    name = call.partition(".")[0]
    return MEANINGS.get(name) or MEANINGS.get(name.removesuffix("_"))


def pace(call: str, args: str) -> str:
    """The rate at which a known call runs: convolutions of groups have one of their own."""
    name = call.partition(".")[0]
    found = PACES.get(name) or PACES[name.removesuffix("_")]
    return "grouped" if found == "convolution" and json.loads(args)[-1] != 1 else found


def puts(call: str) -> bool:
    """Whether a call writes what it is given in some places of its first tensor, and leaves the others alone."""
    return call.partition(".")[0] in _PUT


def fits(call: str, args: str, kwargs: str, sizes: list[Sizes]) -> bool:
    """Whether tensors of these sizes fit together, and its arguments are JSON, as `program.ops.aten` has them."""
    found = _CHECKED.get(call.partition(".")[0])
    try:
        placed = [_sizes_of(item, sizes) for item in json.loads(args)]
        named = {key: _sizes_of(item, sizes) for key, item in json.loads(kwargs).items()}
        return found is None or found(placed, named)
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError):
        return False


def _sizes_of(item: Any, sizes: list[Sizes]) -> Any:
    """An argument, a tensor by its sizes as a tuple."""
    if isinstance(item, dict) and "t" in item:
        return tuple(sizes[item["t"]])
    return item


def _attention(args: list[Any], named: dict[str, Any]) -> bool:
    (batch, heads, num_queries, width), keys, values = args[:3]
    mask = named.get("attn_mask") or ()
    return (
        keys == values and keys[0] == batch and heads % keys[1] == 0 and keys[3] == width and width > 0
        and all(one in (1, due) for one, due in zip(mask[::-1], (keys[2], num_queries, heads, batch), strict=False))
        and len(mask) in (0, 2, 4)
    )  # fmt: skip


def _batch_norm(args: list[Any], _: dict[str, Any]) -> bool:
    """Each vector has a value for each channel; statistics that are kept are not changed."""
    kept = [one for one in args[3:5] if isinstance(one, tuple)]
    return all(one is None or one == (args[0][1],) for one in args[1:5]) and not (args[5] is True and kept)


def _statistics(args: list[Any], _: dict[str, Any]) -> bool:
    return all(one is None or one == (args[0][1],) for one in args[1:5])


def _weight_norm(args: list[Any], _: dict[str, Any]) -> bool:
    values, gains, dim = args[0], args[1], args[2] if len(args) > 2 else 0
    return dim in (0, len(values) - 1) and prod(gains) == values[dim]


def _resized(args: list[Any], named: dict[str, Any]) -> bool:
    """Scales, where they are given, that no index overflows by."""
    return all(1e-3 < one < 1e3 for one in (*args, *named.values()) if isinstance(one, float))


_CHECKED: Final[Mapping[str, Callable[[list[Any], dict[str, Any]], bool]]] = {
    ATTENTION: _attention,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _statistics,
    "_weight_norm_interface": _weight_norm,
    **{name: _resized for name in MEANINGS if "upsample" in name},
}
