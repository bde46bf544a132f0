"""What the decoder families share: pre-norm blocks of rotary attention and a gated feed-forward network.

Five ops a block, so that a block costs five barriers: q, k, v side by side; attention; output; gate and up side by
side; down. Norms, gates and the rounding of activations are prologues of the linear ops. Where tokens meet a few of
many experts, scores and a choice come before gate and up, which are products with the chosen (`ops/experts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pintpot.budget import Workload
from pintpot.contract.form import ActivationForm, CacheForm, Form, Weights
from pintpot.errors import need
from pintpot.nets._extents import decode_extents, num_pages, prefill_extents
from pintpot.program.spec import Buffer, Buffers, Extents, Op, Program, Segment, Stage, Table, Work

Roles = tuple[tuple[str, str], ...]
Wire = tuple[str, Roles, Roles]
Attributes = tuple[tuple[str, Any], ...]
GIVEN, ANGLES = "given", "given_angles"
"""Rows of embedding that come from elsewhere, and the rotary angles of the positions that they take."""


@dataclass(frozen=True, slots=True)
class Own:
    """What a family has of its own.

    `local` says of each layer whether it alone sees a window and turns by the table `rope_local`; without it all layers
    see the window that there is. Scores are multiplied by `attend_scale`, by 1 / sqrt(head_dim) where it is None.
    """

    gate: str = "swiglu"
    embed_scale: float = 1.0
    attend_scale: float | None = None
    local: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's numbers. `head` names the weight of the output head (`embed` where they are tied).

    Each layer has its window (0: none) and the buffer with its rotary table. `given` rows of embedding may come from
    elsewhere (images), with angles of their own where positions have several `sections`; after each of the first
    `given_layers` more of them are added.
    """

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    rope: str
    rope_dim: int
    windows: tuple[int, ...]
    tables: tuple[str, ...]
    gate: str
    embed_scale: float
    attend_scale: float
    head: str
    biases: tuple[str, ...]
    qk_norm: bool
    post_norms: bool
    given: int
    sections: bool
    given_layers: int
    experts: int
    chosen: int
    shares_normed: bool


def decoder_work(config: Mapping[str, Any], form: Form, workload: Workload, own: Own = Own()) -> Work:
    """The work of a decoder: prefill in chunks that sequences share, decode of `workload.batch` sequences.

    `config` has the key names of Hugging Face's config.json; which biases and norms exist is read from the form.
    """
    shape = _shape(config, form.weights.names, own, workload.batch * workload.given)
    pages = num_pages(form.cache, workload, form.chunk)
    batch = workload.batch
    fixed = (("sequences", batch), ("context", workload.context), ("pages", pages))

    def stage(name: str, tokens: int, extents: Extents) -> Stage:
        ops, buffers = _parts(shape, form.weights, form.cache, form.activation, name == "prefill")
        bounds = (("tokens", tokens), ("rows", min(tokens, batch) if name == "prefill" else tokens), *fixed)
        program = Program(name, bounds, buffers, ops, (Segment(0, len(ops)),))
        return Stage(name, "language", (program,), extents)

    prefill = stage("prefill", form.chunk, prefill_extents(workload, form.chunk))
    decode = stage("decode", batch + workload.guesses, decode_extents(workload))
    return Work((prefill, decode), key=(shape, form.cache, pages, form.chunk, workload))


def check_decoder(config: Mapping[str, Any], form: Form) -> None:
    """Raises BadInput for a configuration that no decoder of these weights has."""
    for key in _SIZES:
        value = config.get(key)
        need(type(value) is int and 0 < value < MOST, f"{key} is {value!r:.60}")
    experts, chosen = config.get("num_experts", 1), config.get("num_experts_per_tok", 1)
    number = type(experts) is int and type(chosen) is int and 0 < chosen <= experts < MOST
    need(number, f"{chosen!r:.60} of {experts!r:.60} experts")
    embed, wanted = [w.shape for w in form.weights if w.name == "embed"], (config["vocab_size"], config["hidden_size"])
    need(embed == [wanted], f"an embedding of {embed}, not {wanted}")
    layers = len({weight.name.split(".")[1] for weight in form.weights if weight.name.startswith("layers.")})
    need(config["num_hidden_layers"] == layers, f"{config['num_hidden_layers']} layers, and weights of {layers}")


_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "num_hidden_layers")
MOST = 1 << 28


def _shape(config: Mapping[str, Any], names: frozenset[str], own: Own, given: int) -> Shape:
    layers, window = config["num_hidden_layers"], config.get("sliding_window") or 0
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        hidden=config["hidden_size"],
        ffn=config["intermediate_size"],
        layers=layers,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab=config["vocab_size"],
        eps=config["rms_norm_eps"],
        rope=config.get("rope_layout", "half"),
        rope_dim=round(head_dim * config.get("partial_rotary_factor", 1.0)),
        windows=tuple(window if one else 0 for one in own.local) or (window,) * layers,
        tables=tuple("rope_local" if one else "rope" for one in own.local) or ("rope",) * layers,
        gate=own.gate,
        embed_scale=own.embed_scale,
        attend_scale=own.attend_scale or head_dim**-0.5,
        head="head" if "head" in names else "embed",
        biases=tuple(r for r in ("q", "k", "v", "o", "gate", "up", "down") if f"layers.0.{r}_bias" in names),
        qk_norm="layers.0.q_norm" in names,
        post_norms="layers.0.attn_post_norm" in names,
        given=given,
        sections="mrope_section" in config,
        given_layers=config.get("given_layers", 0) if given else 0,
        experts=config.get("num_experts", 1),
        chosen=config.get("num_experts_per_tok", 1),
        shares_normed=config.get("norm_topk_prob", True),
    )


@lru_cache(maxsize=512)
def _parts(
    shape: Shape, weights: Weights, cache: CacheForm, activation: ActivationForm, prefill: bool
) -> tuple[Table[Op], Buffers]:
    """What programs of every width have in common."""
    rows = activation.prefill if prefill else activation.decode
    ops = _ops(shape, rows, activation.decode, cache.window, cache.sinks, prefill)
    return ops, _joined(weights, _buffers(shape, cache.format, cache.page_tokens, prefill))


@lru_cache(maxsize=256)
def _joined(weights: Weights, others: Buffers) -> Buffers:
    return Buffers.join(_weight_buffers(weights), others)


@lru_cache(maxsize=64)
def _weight_buffers(weights: Weights) -> Buffers:
    return Buffers(_weight_buffer(w.name, w.shape, w.format) for w in weights)


@lru_cache(maxsize=1 << 14)
def _weight_buffer(name: str, shape: tuple[int, ...], encoded: str) -> Buffer:
    """One for all forms that keep a weight in this format."""
    return Buffer(name, shape, encoded, "weights", "pack")


@lru_cache(maxsize=64)
def _ops(shape: Shape, rows: str, head_rows: str, window: int, sinks: int, prefill: bool) -> Table[Op]:
    """`rows` says how activations meet the weights of blocks, `head_rows` those of the head."""

    def linear(prologue: str, rounding: str) -> Attributes:
        return (("prologue", prologue), ("activation", rounding), ("eps", shape.eps))

    rounded = {"int8": "integers", "bfloat16": "bfloat16"}.get(rows, "none") if prefill else "none"

    def attend(layer: int) -> Attributes:
        return (
            ("heads", shape.heads), ("kv_heads", shape.kv_heads), ("head_dim", shape.head_dim), ("rope", shape.rope),
            ("scale", shape.attend_scale), ("eps", shape.eps), ("window", window or shape.windows[layer]),
            ("sinks", sinks), ("rounded", rounded),
        )  # fmt: skip

    normed, plain, gated = (linear(prologue, rows) for prologue in ("rmsnorm", "none", shape.gate))
    count, choosing = ("experts", shape.experts), (linear("rmsnorm", "float32"), (("normed", shape.shares_normed),))
    routed: tuple[Attributes, ...] = (*choosing, (*normed, count), (*gated, count, ("gathers", True)))
    ffn: tuple[Attributes, ...] = (normed, gated) if shape.experts == 1 else routed
    scaled = () if shape.embed_scale == 1.0 else (("scale", shape.embed_scale),)
    given = (("given", GIVEN),) if shape.given else ()
    ops = [Op("embed", (("tokens", "tokens"), ("weight", "embed"), *given), (("out", "x.0"),), scaled)]
    for layer in range(shape.layers):
        wires, attributes = _block(shape, layer), (normed, attend(layer), plain, *ffn)
        ops += [Op(kind, reads, writes, knobs) for (kind, reads, writes), knobs in zip(wires, attributes, strict=True)]
        if layer < shape.given_layers:
            ops.append(Op("give", (("x", x := f"x.{2 * layer + 2}"), ("given", f"{GIVEN}.{layer}")), (("out", x),)))
    final = f"x.{2 * shape.layers}"
    # Rows whose logits are wanted are few in prefill too, and the first word of an answer is drawn from them.
    head = linear("rmsnorm", head_rows)
    if prefill:
        ops.append(Op("select", (("x", final),), (("out", "last"),)))
        final = "last"
    ops.append(Op("linear", (("x", final), ("weight", shape.head), ("norm", "norm")), (("out", "logits"),), head))
    ops.append(Op("sample", (("logits", "logits"),), (("next", "next"),)))
    return Table(ops)


@lru_cache(maxsize=1024)
def _block(shape: Shape, layer: int) -> tuple[Wire, ...]:
    """The kinds of a block's ops, and what they read and write."""
    at = f"layers.{layer}."
    x, middle, out = f"x.{2 * layer}", f"x.{2 * layer + 1}", f"x.{2 * layer + 2}"

    def weights(*roles: str) -> Roles:
        found = tuple(("weight", at + role) for role in roles)
        return found + tuple(("bias", f"{at}{role}_bias") for role in roles if role in shape.biases)

    norms = (("q_norm", at + "q_norm"), ("k_norm", at + "k_norm")) if shape.qk_norm else ()
    pages, angles = (("k", at + "k_cache"), ("v", at + "v_cache")), (("angles", ANGLES),)
    table = (("rope", shape.tables[layer]), *angles * (shape.given > 0 and shape.sections))
    attn_after, ffn_after = ((("post_norm", f"{at}{of}_post_norm"),) * shape.post_norms for of in ("attn", "ffn"))
    attn_norm, ffn_norm = ("norm", at + "attn_norm"), ("norm", at + "ffn_norm")
    attention: tuple[Wire, ...] = (
        ("linear", (("x", x), *weights("q", "k", "v"), attn_norm), (("out", at + "qkv"),)),
        ("attend", (("qkv", at + "qkv"), *table, *norms, *pages), (("out", at + "attended"), *pages)),
        ("linear", (("x", at + "attended"), *weights("o"), *attn_after, ("residual", x)), (("out", middle),)),
    )
    gate_up, down = (("x", middle), *weights("gate", "up"), ffn_norm), (("x", at + "gated"), *weights("down"))
    if shape.experts == 1:
        return (
            *attention,
            ("linear", gate_up, (("out", at + "gated"),)),
            ("linear", (*down, *ffn_after, ("residual", middle)), (("out", out),)),
        )
    chosen, shares = ("chosen", at + "chosen"), ("shares", at + "shares")
    return (
        *attention,
        ("linear", (("x", middle), ("weight", at + "router"), ffn_norm), (("out", at + "scores"),)),
        ("route", (("scores", at + "scores"),), (chosen, shares)),
        ("experts", (*gate_up, chosen), (("out", at + "gated"),)),
        ("experts", (*down, chosen, shares, ("residual", middle)), (("out", out), ("products", at + "products"))),
    )


@lru_cache(maxsize=64)
def _buffers(shape: Shape, cache_format: str, page_tokens: int, prefill: bool) -> Buffers:
    pages = ("pages", shape.kv_heads, page_tokens, shape.head_dim)
    qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    buffers = [
        Buffer("tokens", ("tokens",), "int32", "buffers", "session"),
        Buffer("next", ("rows",), "int32", "buffers", "session"),
        *(Buffer(t, ("context", shape.rope_dim), "f32", "tables", "session") for t in sorted({"rope", *shape.tables})),
        Buffer("logits", ("rows", shape.vocab), "f32", "buffers", "step"),
    ]
    given = (GIVEN, *(f"{GIVEN}.{layer}" for layer in range(shape.given_layers))) if shape.given else ()
    buffers += [Buffer(name, (shape.given, shape.hidden), "f32", "buffers", "session") for name in given]
    if shape.given and shape.sections:
        buffers.append(Buffer(ANGLES, (shape.given, shape.rope_dim), "f32", "buffers", "session"))
    if prefill:
        buffers.append(Buffer("last", ("rows", shape.hidden), "f32", "buffers", "step"))
    for index in range(2 * shape.layers + 1):
        buffers.append(Buffer(f"x.{index}", ("tokens", shape.hidden), "f32", "buffers", "step"))
    for layer in range(shape.layers):
        at = f"layers.{layer}."
        buffers += [
            Buffer(at + "qkv", ("tokens", qkv), "f32", "buffers", "step"),
            Buffer(at + "attended", ("tokens", shape.heads * shape.head_dim), "f32", "buffers", "step"),
            Buffer(at + "gated", ("tokens", 2 * shape.chosen * shape.ffn), "f32", "buffers", "step"),
            Buffer(at + "k_cache", pages, cache_format, "cache", "session"),
            Buffer(at + "v_cache", pages, cache_format, "cache", "session"),
            *_of_experts(shape, at),
        ]
    return Buffers(buffers)


def _of_experts(shape: Shape, at: str) -> tuple[Buffer, ...]:
    """What a layer with experts has beside."""
    columns = {"scores": shape.experts, "chosen": shape.chosen, "shares": shape.chosen}
    columns["products"] = shape.chosen * shape.hidden
    formats = {"chosen": "int32"}
    made = (Buffer(at + n, ("tokens", k), formats.get(n, "f32"), "buffers", "step") for n, k in columns.items())
    return tuple(made) if shape.experts > 1 else ()
