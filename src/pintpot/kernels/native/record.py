"""The ops of a program as the records that the native engine replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pintpot._native import Builder, Weight
from pintpot.errors import UsageError
from pintpot.program.ops.attend import ROUNDED
from pintpot.program.ops.experts import gathers_of, num_chosen
from pintpot.program.ops.linear import PLANES, gathered, over_rows
from pintpot.program.spec import Op, Program

Addresses = Mapping[str, int]
Weights = Mapping[str, Weight | None]


def record(builder: Builder, program: Program, addresses: Addresses, weights: Weights) -> None:
    """Append every op of a program. Raises UsageError for an op without a home here, ValueError for a wrong record."""
    for op in program.ops:
        if op.lane != "compute":
            builder.elsewhere()
            continue
        if op.kind not in _RECORDERS:
            raise UsageError(f"{program.name}: the native backend has no op {op.kind!r}")
        try:
            _RECORDERS[op.kind](builder, op, program, addresses, weights)
        except KeyError as error:
            raise UsageError(f"{program.name}: {op.kind} needs {error}, which nobody placed") from error


def _embed(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    ids, given = op.read("ids"), op.read("given")
    builder.embed(
        _weight(weights, _name(op.read("weight"))),
        op.get("scale", 1.0),
        addresses[_name(op.write("out"))],
        ids=0 if ids is None else addresses[ids],
        num_ids=op.get("rows", 0),
        given=0 if given is None else addresses[given],
        num_given=0 if given is None else program.shape(given)[0],
    )


def _linear(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    norm, residual, x, out = op.read("norm"), op.read("residual"), _name(op.read("x")), _name(op.write("out"))
    post_norm = op.read("post_norm")
    of_rows, gather = over_rows(op, program), gathered(op)
    builder.linear(
        over_rows=of_rows,
        selected=of_rows and program.by_name[x].shape[0] == "rows",
        rows=op.get("rows", 0),
        x=addresses[x],
        out=addresses[out],
        weights=[_weight(weights, name) for name in op.read_all("weight")],
        prologue=op.get("prologue", "none"),
        norm=0 if norm is None else addresses[norm],
        eps=op.get("eps", 0.0),
        rotate=op.get("rotate", 0),
        planes=PLANES[op.get("activation", "float32")],
        biases=[addresses[name] for name in op.read_all("bias")],
        post_norm=0 if post_norm is None else addresses[post_norm],
        residual=0 if residual is None else addresses[residual],
        gather=None if gather is None else (gather[:4], gather.axes),
        passes_on=program.by_name[out].life == "step" and program.num_readers[out] == 1,
    )


def _route(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    scores, chosen = _name(op.read("scores")), _name(op.write("chosen"))
    builder.route(
        over_rows=over_rows(op, program),
        experts=program.shape(scores)[-1],
        chosen=program.shape(chosen)[-1],
        normed=op.get("normed", True),
        scores=addresses[scores],
        choice=addresses[chosen],
        shares=addresses[_name(op.write("shares"))],
    )


def _experts(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    norm, residual, shares, products = op.read("norm"), op.read("residual"), op.read("shares"), op.write("products")
    builder.experts(
        over_rows=over_rows(op, program),
        experts=op.get("experts"),
        chosen=num_chosen(op, program),
        gathers=gathers_of(op),
        x=addresses[_name(op.read("x"))],
        out=addresses[_name(op.write("out"))],
        weights=[_weight(weights, name) for name in op.read_all("weight")],
        prologue=op.get("prologue", "none"),
        norm=0 if norm is None else addresses[norm],
        eps=op.get("eps", 0.0),
        planes=PLANES[op.get("activation", "float32")],
        choice=addresses[_name(op.read("chosen"))],
        shares=0 if shares is None else addresses[shares],
        residual=0 if residual is None else addresses[residual],
        products=0 if products is None else addresses[products],
    )


def _attend(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    k, v, table = _name(op.read("k")), _name(op.read("v")), _name(op.read("rope"))
    q_norm, k_norm, angles = op.read("q_norm"), op.read("k_norm"), op.read("angles")
    pages = program.shape(k)
    head_dim, kv_heads = op.get("head_dim"), op.get("kv_heads")
    if pages != (pages[0], kv_heads, 32, head_dim) or program.shape(v) != pages:
        wanted = f"[pages, {kv_heads}, 32, {head_dim}]"
        raise UsageError(f"{program.name}: pages of shape {pages}; the native backend has {wanted}")
    builder.attend(
        qkv=addresses[_name(op.read("qkv"))],
        out=addresses[_name(op.write("out"))],
        k=addresses[k],
        v=addresses[v],
        cache_format=program.by_name[k].format,
        num_pages=pages[0],
        table=addresses[table],
        given=0 if angles is None else addresses[angles],
        num_given=0 if angles is None else program.shape(angles)[0],
        rope_dim=program.shape(table)[1],
        rope=op.get("rope", "half"),
        q_norm=0 if q_norm is None else addresses[q_norm],
        k_norm=0 if k_norm is None else addresses[k_norm],
        eps=op.get("eps", 0.0),
        heads=op.get("heads"),
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=op.get("scale"),
        window=op.get("window", 0),
        sinks=op.get("sinks", 0),
        rounded=ROUNDED.index(op.get("rounded", "none")),
    )


def _aten(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    """Whoever replays the program computes it between two ranges."""
    builder.elsewhere()


def _give(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    x, given = _name(op.read("x")), _name(op.read("given"))
    builder.give(addresses[x], program.shape(x)[1], addresses[given], program.shape(given)[0])


def _select(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    x = _name(op.read("x"))
    builder.select(addresses[x], program.shape(x)[1], addresses[_name(op.write("out"))])


def _sample(builder: Builder, op: Op, program: Program, addresses: Addresses, weights: Weights) -> None:
    logits, logprob = _name(op.read("logits")), op.write("logprob")
    builder.sample(
        addresses[logits],
        program.shape(logits)[1],
        addresses[_name(op.write("next"))],
        0 if logprob is None else addresses[logprob],
    )


_RECORDERS: Mapping[str, Callable[[Builder, Op, Program, Addresses, Weights], None]] = {
    "embed": _embed, "linear": _linear, "attend": _attend, "select": _select, "sample": _sample,
    "give": _give, "aten": _aten, "measured": _aten, "route": _route, "experts": _experts,
}  # fmt: skip


def _name(name: str | None) -> str:
    if name is None:
        raise UsageError("an op lacks a buffer that it reads or writes")
    return name


def _weight(weights: Weights, name: str) -> Weight:
    weight = weights[name]
    if weight is None:
        raise UsageError(f"{name} is no matrix")
    return weight
