"""How far an op of the native backend may be from the reference in float64, and where not at all.

u = 2^-24 is what one rounded operation loses at most. No bound depends on a result that looked good:

- embed, select: nothing is lost. The scale of an embed is one correctly rounded product.
- linear in float32: 32 products in turn, then the sums of K / 32 groups: (32 + K / 32 + 2) u of the sum of |w x|; of C
  columns that are kept apart C / 32 more.
- linear in int8: integer sums are exact. Scales and sums of groups: (K / 32 + 12) u of what the groups add up to, codes
  and minima counted apart since they may cancel, and one u more for each column kept apart. An x within rounding errors
  of the middle between two codes may go either way: one step of its group, or 1/254 of one with two planes.
- prologues: (K / 32 + 10) u relative for an RMS norm (16 lanes, square root, quotient, two products); 10 u for
  SwiGLU, whose exponential is good to 4 u; GeGLU's exponent z loses 6 u of itself, and what it is the exponent of |z|
  times that. Where a gate's values are all rounded to bfloat16 next, they lose 2e-5 before. A norm after a product
  loses the same, and hands on what was lost before, of the value and of the mean that it is divided by. A rotated
  value is a sum of `size` values over sqrt(size) after log2(size) sums and a product: (log2(size) + 2) u, and what
  was lost before, of the sum of their sizes over sqrt(size). Bias and residual: 2 u of all that is added.
- attend: rotations 4 u of the pair's length, and of a head norm what is said above. A key in the cache was rounded from
  within that of the reference's: f16 and int8 steps are monotonic, so that two ends say what may be there. A value
  meets no arithmetic before it is stored: exactly the reference's. From there on the reference reads native queries and
  caches. Scores are sums in turn: (hd + 8) u |q| |k|; shares lose twice that for themselves and for the largest, and
  (128 + 32 + 6 segments) u for sums over a segment's 128 keys, exponentials and merging; all of the sum of shares |v|.
- sample: a penalty is one rounded operation, so numpy's float32 gives the very logits. Likelihoods are taken from the
  native kernel and lose (3 |z| + 4) u for a difference, two products or quotients and an exponential of z; cuts and the
  draw are the reference's over those likelihoods, in float64 on both sides: 1e-12 for other orders of sums. Which
  likelihoods float32 makes equal decides what a cut keeps, so that a draw from exact ones may well be another.
  logprob: (V / 16 + 16) u, and the rounding of its own parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from filling import Values, Wide
from numpy.typing import NDArray

from pintpot._native import kernels
from pintpot.formats import encoding
from pintpot.kernels import reference
from pintpot.kernels.reference import attend, linear, sample
from pintpot.program.ops.linear import FLOAT_FORMATS, GATES, PLANES
from pintpot.program.spec import Op, Program

U = 2.0**-24
TINY = 1e-28
"""Scales below 1e-30 count as 0, and exponentials below e^-87."""
ROUGH_GATE = 2e-5


class Disagreement(AssertionError):
    """Two backends, or two ways of running one, that give different answers."""


@dataclass
class Found:
    """What the native backend left behind: output rows and, of an attend, its queries and caches as values and scales.

    A cache is [pages, KV, 32, hd] values, or int8 codes with [pages, KV, 32, hd / 32] scales.
    """

    out: NDArray[Any]
    second: NDArray[Any] | None = None
    q: NDArray[Any] | None = None
    caches: dict[str, tuple[NDArray[Any], NDArray[Any] | None]] | None = None


def check(
    op: Op, program: Program, memory: reference.Memory, call: reference.Call, values: Values, found: Found
) -> None:
    """Raise Disagreement unless `found` is what the op makes of `memory` (float64, from the native memory)."""
    if op.kind == "attend":
        return _attend(op, program, memory, call, found)
    if op.kind == "sample":
        return _sample(op, memory, call, found)
    reference.run(replace(program, ops=(op,)), memory, call)
    expected = memory[op.writes[0][1]]
    bound: Any = 0.0
    if op.kind == "linear":
        bound = _linear_bound(op, program, memory, values)
    else:
        expected = expected.astype(np.float32)
    _near(found.out, expected, bound, op.kind)
    return None


def _near(found: NDArray[Any], expected: NDArray[Any], bound: Any, what: str) -> None:
    if found.shape != expected.shape:
        raise Disagreement(f"{what}: {found.shape} where the reference has {expected.shape}")
    away = np.abs(found.astype(np.float64) - expected)
    wrong = ~(away <= bound)
    if wrong.any():
        at = np.unravel_index(int(np.argmax(np.where(wrong, away / (bound + TINY), 0))), away.shape)
        limit = float(np.broadcast_to(bound, away.shape)[at])
        raise Disagreement(
            f"{what}: {int(wrong.sum())} of {wrong.size} values, the worst at {tuple(map(int, at))}: {found[at]!r} "
            f"where the reference has {expected[at]!r} +- {limit:.3g}"
        )


# --- linear ----------------------------------------------------------------------------------------------------------


def _linear_bound(op: Op, program: Program, memory: reference.Memory, values: Values) -> Wide:
    x, planes = linear.prologue(op, memory), PLANES[op.get("activation", "float32")]
    columns, lost = x.shape[-1], _lost(op, memory, _rough(op, program, memory))
    parts = []
    for name in op.read_all("weight"):
        weight = np.abs(memory[name])
        size = np.abs(x) @ weight.T
        if planes == 0 or program.by_name[name].format in FLOAT_FORMATS:
            num_apart = len(memory.get(linear.apart(name), ()))
            error = lost @ weight.T + (32 + columns / 32 + num_apart / 32 + 2) * U * size
        else:
            if name in values.minima:
                weight = np.abs(values.minima[name]) + np.abs(memory[name] - values.minima[name])
            exact = memory.get(linear.apart(name), np.zeros(0, np.int64))
            rounded, met = np.abs(linear.round_rows(x, planes, exact)), x.copy()
            inexact = lost.copy()
            met[:, exact] = inexact[:, exact] = 0
            if planes == PLANES["bfloat16"]:
                table = encoding(program.by_name[name].format).kind == "table"
                loose = 2 * U * weight + 256 * U * _unit(memory[name], values.minima.get(name), table)
                error = _brain_bound(met, inexact, memory[name], loose) + (len(exact) + 4) * U * size
                parts.append(
                    error + lost[:, exact] @ np.abs(memory[name][:, exact]).T + TINY * (1 + weight.sum(axis=1))
                )
                continue
            error = (rounded * (_of_peaks(met, inexact) + (columns / 32 + 12 + len(exact)) * U)) @ weight.T
            error += lost[:, exact] @ np.abs(memory[name][:, exact]).T
            error += _steps(met, planes, inexact) @ np.abs(memory[name]).T
        parts.append(error + 4 * U * size + TINY * (1 + weight.sum(axis=1)))
    bound = np.concatenate(parts, axis=-1)
    if op.read_all("bias"):
        bound = bound + 4 * U * np.abs(np.concatenate([memory[name] for name in op.read_all("bias")]))
    if op.read("post_norm"):
        bound = _normed_bound(op, linear.multiplied(op, program, memory), memory, bound)
    residual = op.read("residual")
    return np.asarray(bound if residual is None else bound + 4 * U * np.abs(memory[residual]))


def _brain_bound(x: Wide, lost: Wide, weight: Wide, loose: Wide) -> Wide:
    """Products in bfloat16 of rows and a weight, each of whose values may be rounded from as much away."""
    rows, columns = (np.abs(linear.brain(values)) for values in (x, weight))
    crossed = _crossed(x, lost) @ columns.T + (rows + _crossed(x, lost)) @ _crossed(weight, loose).T
    return np.asarray(crossed + (x.shape[-1] / 32 + 36) * U * (rows @ columns.T))


def _unit(weight: Wide, minima: Wide | None, table: bool) -> Wide | float:
    """What one unit of a code is worth, or more, where a hundred or so of them are no number of float32."""
    if minima is not None:
        return np.asarray(np.abs(weight - minima).max(axis=1, keepdims=True))
    return np.asarray(np.abs(weight).max(axis=1, keepdims=True) / 16) if table else 0.0


def _crossed(x: Wide, lost: Wide) -> Wide:
    """How far a rounding to bfloat16 goes where x is that near to the middle between two."""
    near = lost + 2 * U * np.abs(x)
    return np.asarray(np.abs(linear.brain(x + near) - linear.brain(x - near)))


def _normed_bound(op: Op, out: Wide, memory: reference.Memory, lost: Wide) -> Wide:
    """What a norm makes of products `out` [T, N] that may be off by `lost`, and what it loses itself."""
    eps, off = op.get("eps"), np.sqrt(np.mean(lost * lost, axis=-1, keepdims=True))
    length = np.sqrt(np.mean(out * out, axis=-1, keepdims=True) + eps)
    least = np.maximum(length - off, np.sqrt(eps))
    own = (out.shape[-1] / 32 + 10) * U * (np.abs(out) + lost) / least
    handed_on = lost / least + np.abs(out) * off / (length * least)
    return np.asarray((handed_on + own) * np.abs(memory[str(op.read("post_norm"))]))


def _rough(op: Op, program: Program, memory: reference.Memory) -> bool:
    """Whether every value behind a gate is rounded to bfloat16 next."""
    names = op.read_all("weight")
    kept = any(program.by_name[name].format in FLOAT_FORMATS or linear.apart(name) in memory for name in names)
    return op.get("activation") == "bfloat16" and not kept


def _lost(op: Op, memory: reference.Memory, rough: bool) -> Wide:
    """What prologue and rotation may have lost of each x [T, K] that meets the weights."""
    size, before = op.get("rotate", 0), np.abs(linear.prologue(replace(op, attributes=_unrotated(op)), memory))
    lost = _lost_before(op, memory, before)
    if rough and op.get("prologue") in GATES:
        lost = lost + ROUGH_GATE * before
    if not size:
        return lost
    sums, inside = (x.reshape(-1, size).sum(axis=1, keepdims=True) / size**0.5 for x in (before, lost))
    return np.broadcast_to(inside + (np.log2(size) + 2) * U * sums, (len(sums), size)).reshape(before.shape)


def _lost_before(op: Op, memory: reference.Memory, before: Wide) -> Wide:
    """What the prologue alone may have lost of its results, whose sizes are `before`."""
    kind = op.get("prologue")
    if kind == "geglu":
        gate = np.split(memory[str(op.read("x"))], 2, axis=-1)[0]
        return np.asarray((10 + 6 * np.minimum(np.abs(linear.opened(gate, kind)), 87)) * U * before)
    relative = {"none": 0.0, "rmsnorm": (before.shape[-1] / 32 + 10) * U, "swiglu": 10 * U}[kind]
    return np.asarray(relative * before)


def _unrotated(op: Op) -> tuple[tuple[str, Any], ...]:
    return tuple((key, value) for key, value in op.attributes if key != "rotate")


def _by_group(x: Wide) -> Wide:
    padded = np.zeros((len(x), -(-x.shape[1] // 32) * 32))
    padded[:, : x.shape[1]] = x
    return padded.reshape(len(x), padded.shape[1] // 32, 32)


def _of_peaks(x: Wide, lost: Wide) -> Wide:
    """How far the scale of each x may be off, relative to it: [T, K]."""
    peaks = np.abs(_by_group(x)).max(axis=-1, keepdims=True)
    found = np.divide(_by_group(lost).max(axis=-1, keepdims=True), peaks, out=np.zeros_like(peaks), where=peaks > 0)
    return np.repeat(found[..., 0], 32, axis=1)[:, : x.shape[1]]


def _steps(x: Wide, planes: int, lost: Wide) -> Wide:
    """For each x that may be rounded either way the step between the two, 0 for the others."""
    groups = _by_group(x)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 127
    units = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
    unsure = np.divide(_by_group(lost), scale, out=np.zeros_like(groups), where=scale > 0)
    unsure += np.abs(units) * (_by_group(_of_peaks(x, lost)) + 4 * U)
    close = _between(units, unsure)
    if planes == 2:
        rest = (units - np.rint(units)) * 254
        close |= _between(rest, 254 * unsure + 1e-4)
    steps = close * scale / (254 if planes == 2 else 1)
    return np.asarray(steps.reshape(len(x), -1)[:, : x.shape[1]])


def _between(x: Wide, unsure: Any) -> NDArray[np.bool_]:
    """Whether x is that near to the middle between two whole numbers."""
    return np.asarray(np.abs(x - np.floor(x) - 0.5) <= unsure)


# --- attend ----------------------------------------------------------------------------------------------------------


def _attend(op: Op, program: Program, memory: reference.Memory, call: reference.Call, found: Found) -> None:
    assert found.q is not None
    assert found.caches is not None
    q, k, v = attend.rotated(op, memory, call)
    _near(found.q, q, _rotated_bound(op, memory, call, q, "q_norm"), "attend, queries")
    stored = {"k": (k, _rotated_bound(op, memory, call, k, "k_norm")), "v": (v, np.zeros_like(v))}
    for role, (wanted, bound) in stored.items():
        name = str(op.read(role))
        codes, scales = found.caches[name]
        places = [(call.page_tables[s][p // 32], p % 32) for s, p in zip(call.sequences, call.positions, strict=True)]
        pages, slots = np.array(places).T
        new = (codes[pages, :, slots], None if scales is None else scales[pages, :, slots])
        _stored(f"attend, {role} in the cache", wanted, bound, *new)
        if role == "v":
            single = attend.as_stored(v.astype(np.float32).reshape(-1, v.shape[-1]), program.by_name[name].format)
            _near(as_values(*new).reshape(single.shape), single, 0.0, "attend, v as the reference stores it")
        memory[name] = as_values(codes, scales)
    native = found.q.astype(np.float64)
    expected = attend.attend(op, memory, call, native)
    sizes = dict(memory)
    sizes[str(op.read("v"))] = np.abs(memory[str(op.read("v"))])
    share = attend.attend(op, sizes, call, native)
    bound = _share_bound(op, memory, call, native)[..., None] * share + TINY
    if op.get("rounded") != "none":
        bound = bound + _unit_bound(op, memory, call, native, share)
    count = len(call.tokens)
    _near(found.out, expected.reshape(count, -1), bound.reshape(count, -1), "attend")


def _unit_bound(op: Op, memory: reference.Memory, call: reference.Call, q: Wide, share: Wide) -> Wide:
    """What [T, heads, 1] may be off where every number that is rounded went the other way, by one unit."""
    keys = memory[str(op.read("k"))]
    known = np.where(np.isfinite(keys), np.abs(keys), 0)
    floating = op.get("rounded") == "bfloat16"
    unit, sizes = 2.0**-8 if floating else 1 / attend.MOST_ROUNDED, np.abs(q)
    crossed = sizes.sum(-1) * known.max() + sizes.max(-1) * known.sum(-1).max()
    scores = np.expm1(np.minimum(2 * op.get("scale") * crossed * unit, 99))
    weights = 2 * unit if floating else (float(call.positions.max()) + 2) * unit
    return np.asarray((scores + weights) * share.max(-1) + unit * share.sum(-1))[..., None]


def _rotated_bound(op: Op, memory: reference.Memory, call: reference.Call, x: Wide, norm: str) -> Wide:
    """`x` is rotated already; a rotation keeps the length of each pair."""
    dim, rope_dim = x.shape[-1], memory[str(op.read("rope"))].shape[1]
    lost = (dim / 32 + 10) * U if op.read(norm) else 0.0
    mate = np.arange(dim)
    if op.get("rope") == "interleaved":
        mate[:rope_dim] ^= 1
    else:
        mate[:rope_dim] = np.roll(mate[:rope_dim], rope_dim // 2)
    turned = np.hypot(x, x[..., mate]) * (lost + 4 * U)
    turned[..., rope_dim:] = np.abs(x[..., rope_dim:]) * lost
    return np.asarray(turned + TINY * (turned > 0))


def _stored(what: str, wanted: Wide, bound: Wide, found: NDArray[Any], scales: NDArray[Any] | None) -> None:
    """Check new positions [T, KV, hd] of a cache: each must come from a value within `bound` of `wanted`."""
    if scales is None:
        ends = [(wanted + sign * bound).astype(np.float32) for sign in (-1, 1)]
        most = attend.MOST_HALF if found.dtype == np.float16 else np.inf
        low, high = (np.clip(end, -most, most).astype(found.dtype) for end in ends)
        if not ((low <= found) & (found <= high)).all():
            raise Disagreement(f"{what}: {int((~((low <= found) & (found <= high))).sum())} of {found.size} values")
        return
    groups, limit = (part.reshape(*scales.shape, 32) for part in (wanted, bound))
    peaks = np.abs(groups)
    ends = [np.clip((peaks + sign * limit).max(-1) / 127 * (1 + sign * 2 * U), 0, attend.MOST_HALF) for sign in (-1, 1)]
    low, high = (end.astype(np.float32).astype(np.float16) for end in ends)
    if not ((low <= scales) & (scales <= high)).all():
        raise Disagreement(f"{what}: {int((~((low <= scales) & (scales <= high))).sum())} of {scales.size} scales")
    s = scales.astype(np.float64)[..., None]
    units = np.divide(groups, s, out=np.zeros_like(groups), where=s > 0)
    unsure = np.divide(limit, s, out=np.zeros_like(groups), where=s > 0) + np.abs(units) * 2 * U
    low, high = (np.clip(np.rint(units + sign * unsure), -127, 127) for sign in (-1, 1))
    codes = found.reshape(units.shape)
    if not ((low <= codes) & (codes <= high)).all():
        raise Disagreement(f"{what}: {int((~((low <= codes) & (codes <= high))).sum())} of {codes.size} codes")


def as_values(codes: NDArray[Any], scales: NDArray[Any] | None) -> Wide:
    """A cache in float64."""
    if scales is None:
        return codes.astype(np.float64)
    groups = codes.reshape(*scales.shape, 32).astype(np.float64) * scales.astype(np.float64)[..., None]
    return groups.reshape(codes.shape)


def _share_bound(op: Op, memory: reference.Memory, call: reference.Call, q: Wide) -> Wide:
    """Relative loss of what each query and head sees, [T, heads]."""
    keys = memory[str(op.read("k"))]
    known = np.where(np.isfinite(keys), keys, 0)
    longest = np.sqrt((known**2).sum(-1)).max()
    segments = float(call.positions.max()) // 128 + 1
    scores = (q.shape[-1] + 8) * U * op.get("scale") * np.linalg.norm(q, axis=-1) * longest
    return np.asarray(np.expm1(np.minimum(4 * scores + (160 + 6 * segments) * U, 99)))


# --- sample ----------------------------------------------------------------------------------------------------------


def _sample(op: Op, memory: reference.Memory, call: reference.Call, found: Found) -> None:
    logits = memory[str(op.read("logits"))]
    for row, token in enumerate(found.out.tolist()):
        sequence = int(call.sequences[call.rows[row]])
        how, past, draw = call.sampling[sequence], call.history[sequence], call.uniform[row]
        possible = _possible(_penalized(logits[row], how, past), replace(how, repetition_penalty=1.0), draw)
        if token not in possible:
            raise Disagreement(
                f"sample: row {row} gives {token}, the reference {sorted(possible)}; {how}, draw {draw}, past {past}"
            )
        if found.second is not None:
            exact = sample.logprob(logits[row], token)
            parts = abs(exact) + abs(float(logits[row].max() - logits[row][token]))
            bound = (logits.shape[1] / 16 + 16 + 4 * parts) * U
            if not abs(float(found.second[row]) - exact) <= bound:
                raise Disagreement(
                    f"sample: log probability {found.second[row]!r} of row {row}, the reference has {exact}"
                )


def _penalized(logits: Wide, how: reference.Sampling, past: tuple[int, ...]) -> NDArray[np.float32]:
    """The reference's penalty in float32: one rounding of an exact quotient or product, as in the native backend."""
    return np.asarray(sample.penalized(logits, how, past).astype(np.float32))


def _possible(logits: NDArray[np.float32], how: reference.Sampling, draw: float) -> set[int]:
    """Tokens that the reference draws from native likelihoods of penalized logits: several where sums are that near."""
    if how.temperature == 0.0:
        return {sample.draw(logits.astype(np.float64), how, draw)}
    values = _log_likelihoods(_largest(logits, how.top_k), how.temperature) * how.temperature
    found, moved = set(), (-1e-12, 0.0, 1e-12)
    tops, leasts = moved if how.top_p < 1 else (0.0,), moved if how.min_p > 0 else (0.0,)
    for shift, top, least in product(moved, tops, leasts):
        cuts = replace(how, top_k=0, top_p=how.top_p + top, min_p=min(1.0, how.min_p * (1 + least)))
        found.add(sample.draw(values, cuts, min(1 - 1e-15, max(0.0, draw + shift))))
    return found


def _log_likelihoods(logits: NDArray[np.float32], temperature: float) -> Wide:
    """Logarithms of native likelihoods, the largest 0. Raises Disagreement where one is too far from the exact one."""
    found, top = np.empty_like(logits), float(logits.max())
    kernels.exp_sum(kernels.chosen(), logits, top, float(1 / np.float32(temperature)), found)
    z = (logits.astype(np.float64) - top) / temperature
    finite = np.where(np.isfinite(z), z, 0.0)
    bound = (3 * np.abs(finite) + 4) * U * np.exp(finite) + 2e-38
    _near(found, np.exp(z), bound, "sample, likelihoods")
    with np.errstate(divide="ignore"):
        return np.log(found.astype(np.float64))


def _largest(values: NDArray[np.float32], top_k: int) -> NDArray[np.float32]:
    """Values with those below the `top_k` largest made -inf."""
    if not 0 < top_k < len(values):
        return values
    return np.where(values >= np.sort(values)[-top_k], values, np.float32(-np.inf))
