"""What lasts of an op that is computed forward until it is gone back through, and what passes within its calls."""

from __future__ import annotations

from pintpot.contract.routing import HEADS
from pintpot.contract.training import TrainingForm
from pintpot.contract.weights import WeightForm, Weights
from pintpot.program.blocks import BlockOps
from pintpot.program.spec import Op

MIXED_VALUES = 6
"""Values of its inside that autograd keeps of a token with an expert: both sides, the gate's slope, what they give."""

THREAD_COLUMN, THREAD_KEY = 4, 192
"""Values that a thread of bfloat16 attention holds of each key and its column, and of each key beside: scores and
shares of 64 queries. One thread at most works on a key-value head of a sequence, so that more of them hold no more."""


def made_in(op: Op, how: TrainingForm) -> str:
    """The format in which an op within a block makes its rows; what joins the states or is normed is in float32."""
    joins = op.kind == "mixture" or op.read("residual") or op.read("post_norm")
    return "f32" if joins else how.computed_in


def made_columns(op: Op, weights: Weights) -> int:
    """Of rows that an op makes of its input before weights meet them."""
    return 0 if op.get("prologue", "none") == "none" else weights.by_name[op.read_all("weight")[0]].shape[1]


def passing_values(op: Op, block: BlockOps, weights: Weights, how: TrainingForm, again: bool) -> int:
    """Float32 values for each row that pass within an op's way back, beside what it was given and gives."""
    begun = not again and how.kept_in != "f32" and op.read("x") == block.x
    forms = [weights.by_name[name] for name in op.read_all("weight")]
    routed = sum(sum(one.shape) for one in forms if _routed(one, how))
    return _passing(op, weights, how) + routed + (forms[0].shape[1] if begun else 0)


def _routed(weight: WeightForm, how: TrainingForm) -> bool:
    """Whether beside a weight stand adapters that each have their own heads: rows meet them in float32."""
    return how.routing is not None and how.routing.kind == HEADS and how.adapts(weight)


def _passing(op: Op, weights: Weights, how: TrainingForm) -> int:
    half = how.computed_in == "bf16"
    if op.kind == "attend":
        columns, heads, kv_heads = (int(op.get(name)) for name in ("head_dim", "heads", "kv_heads"))
        width, computed = columns * (heads + 2 * kv_heads), 4 * heads * columns
        passing = width + kv_heads * (THREAD_COLUMN * columns + THREAD_KEY) if half else 0
        return max(2 * width + computed // (1 + half), passing)
    outputs, inputs = weights.by_name[op.read_all("weight")[0]].shape
    if op.kind == "mixture":
        each = MIXED_VALUES * op.get("chosen") + 4 + half
        return int(inputs * (2 + half) + outputs * each)
    # Rows as the weights meet them are made again, and gradients by them joined.
    made = {"rmsnorm": 2, "swiglu": 2, "geglu": 3}.get(str(op.get("prologue", "none")), 0)
    return int(inputs * max(1, made)) if half else int(inputs * made)


def saved_bytes(op: Op, block: BlockOps, weights: Weights, how: TrainingForm, again: bool) -> int:
    """Bytes for each row that an op of a block holds until its way back, as its function in PyTorch saves them.

    Each op holds what it began with, in the dtype of products unless that is the stream of states; of rows that it
    made of that nothing. The states that the block begins with are held beside its inside, and where it is computed
    `again` in float32, too.
    """
    begun = again and how.kept_in != "f32" and op.read("x") == block.x
    forms = [weights.by_name[name] for name in op.read_all("weight")]
    routed = 4 * sum(one.shape[1] for one in forms if _routed(one, how))
    return _saved(op, block, weights, how) + routed + (4 * forms[0].shape[1] if begun else 0)


def _saved(op: Op, block: BlockOps, weights: Weights, how: TrainingForm) -> int:
    near = 2 if how.computed_in == "bf16" else 4
    if op.kind == "attend":
        queries, keys = op.get("head_dim") * op.get("heads"), op.get("head_dim") * op.get("kv_heads")
        normed = (queries if op.read("q_norm") else 0) + (keys if op.read("k_norm") else 0)
        return int(near * (queries + 2 * keys + normed))
    forms = [weights.by_name[name] for name in op.read_all("weight")]
    columns, prologue = forms[0].shape[1], op.get("prologue", "none")
    inner = 4 * sum(how.rank for one in forms if how.adapts(one))
    after = near * sum(one.shape[0] for one in forms) if op.read("post_norm") else 0
    if prologue == "rmsnorm":
        return inner + after + (0 if op.read("x") == block.x else 4 * columns)
    if prologue == "none":
        return inner + after + (near * columns if any(how.trained(one) for one in forms) else 0)
    return inner + after + 2 * near * columns
