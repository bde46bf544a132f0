"""What lasts of an op that is computed forward until it is gone back through, and what passes within its calls."""

from __future__ import annotations

from pintpot.contract.training import TrainingForm
from pintpot.contract.weights import Weights
from pintpot.program.blocks import BlockOps
from pintpot.program.spec import Op

MIXED_VALUES = 6
"""Values of its inside that autograd keeps of a token with an expert: both sides, the gate's slope, what they give."""


def saved_values(op: Op, weights: Weights, how: TrainingForm) -> int:
    """Float32 values for each row that autograd keeps of an op beside its input and output, and that pass within."""
    half = how.computed_in == "bf16"
    if op.kind == "attend":
        width = op.get("head_dim") * (op.get("heads") + 2 * op.get("kv_heads"))
        computed = 4 * op.get("heads") * op.get("head_dim")
        return 2 * int(width) + int(computed) // (1 + half)
    outputs, inputs = weights.by_name[op.read_all("weight")[0]].shape
    if op.kind == "mixture":
        each = MIXED_VALUES * op.get("chosen") + 4 + half
        return int(inputs * (2 + half) + outputs * each)
    normed = {"rmsnorm": 2, "swiglu": 2, "geglu": 3}.get(str(op.get("prologue", "none")), 0)
    return int(inputs * (normed + (1 if half else 0)))


def staying_bytes(op: Op, block: BlockOps, weights: Weights, how: TrainingForm) -> int:
    """Bytes for each row that an op of a block holds whose inside stays, as its function in PyTorch saves them.

    Each op holds what it began with, in the dtype of products unless that is the stream of states; of rows that it
    made of that nothing. The states that the block begins with are held beside its inside.
    """
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
