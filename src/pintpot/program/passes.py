"""What the ops of a network ask for when PyTorch computes them to learn: forward, and back.

An op goes over all tokens of a step, `rows` of them at a time. Formulas count what PyTorch does: products, passes over
values between them, and calls. `fitted` constants are told from benchmarks/tuning.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pintpot.program.demand import Demand, Work
from pintpot.program.ops import aten
from pintpot.program.ops.attend import positions_seen
from pintpot.program.spec import Extent, Op, Program

VALUES_OF = {"rmsnorm": 1.0, "swiglu": 1.5, "geglu": 2.0, "none": 0.0}
"""Passes over the rows that a prologue takes, forward."""
ROTATING, ROTATING_NATIVELY = 10.0, 2.0
"""The same of positions: norms, turns, transposes and copies of heads; in bfloat16 all of it is one native pass."""
ESTIMATING = 24.0
"""The same of a gradient's values of which two of four are drawn: magnitudes, chances, their sums, what is kept."""
BACK = 2.0
"""What a pass over values costs back, over what it costs forward."""
ATTENTION_BACK = 2.5
FAR = 1 << 22
"""Values of a pass as if they came from memory: buffers are many, and each is another one."""
CALLS = {"embed": 6.0, "linear": 12.0, "attend": 30.0, "mixture": 40.0, "call": 4.0}
PRODUCTS = ("product", "convolution", "grouped", "attention")
"""Of the rates of calls those that count multiply-adds."""
EXPERT_CALLS, EXPERT_VALUES = 25.0, 10.0
"""Of an expert beside that; passes over the values of a token with each of its experts."""


def suffix(program: Program, op: Op) -> str:
    """What follows the name of a product's rate: nothing for float32."""
    computed_in = op.get("computed_in", "f32")
    return "" if computed_in == "f32" else f"_{computed_in}"


def forward(op: Op, program: Program, extent: Extent) -> Demand:
    """One op forward, over all tokens of the extent."""
    if op.get("of") == "call":
        passed, calls = (float(op.get(name, 0.0)) for name in ("passed", "calls"))
        return _of_call(op, program, extent, products=1.0, values=1.0, passed=passed, calls=calls)
    return _demand(op, program, extent, products=1.0, values=1.0, attention=1.0)


def backward(op: Op, program: Program, extent: Extent) -> Demand:
    """The gradients of one op: of its rows, and of its weights where they learn."""
    products = 2.0 if op.get("trained", False) else 1.0
    if op.get("of") == "call":
        ways = op.get("trained", False) + op.get("through", False)
        back = ATTENTION_BACK if "attention" in str(op.get("call")) else ways * float(op.get("left", 1.0))
        return _of_call(op, program, extent, back, BACK)
    found = _demand(op, program, extent, products, BACK, ATTENTION_BACK)
    if not op.get("estimated", False):
        return found
    drawn = float(extent.tokens * sum(program.shape(name)[0] for name in op.read_all("weight")))
    more = Work("aten/values", ESTIMATING * drawn, FAR)
    return replace(found, work=(*found.work, more), ram_bytes=found.ram_bytes + 8.0 * ESTIMATING * drawn)


def _of_call(
    op: Op, program: Program, extent: Extent, products: float, values: float, passed: float = 0.0, calls: float = 0.0
) -> Demand:
    """A call of a recording for as many pictures as it takes, so often that all have had their turn.

    It goes over so many values more as have `passed`, in so many more `calls`.
    """
    times, one = float(-(-extent.tokens // max(1, extent.rows))), aten.demand(op, program, extent)
    moved, work = times * values, list[Work]()
    for item in one.work:
        known = item.what.partition("/")[2].removesuffix("_bf16")
        by = CALLS["call"] * moved if not known else times * products if known in PRODUCTS else moved
        work.append(replace(item, amount=item.amount * by))
    work += [Work("aten/values", passed * times, FAR), Work("aten", calls * times)] if passed else []
    return replace(one, work=tuple(work), multiply_adds=times * products * one.multiply_adds,
                   ram_bytes=moved * one.ram_bytes)  # fmt: skip


def _demand(op: Op, program: Program, extent: Extent, products: float, values: float, attention: float) -> Demand:
    times, end, tokens = -(-extent.tokens // max(1, extent.rows)), suffix(program, op), float(extent.tokens)
    kind = str(op.get("of"))
    if kind == "embed":
        adds, moved, work = 0.0, 3 * tokens * program.shape(str(op.write("out")))[-1], []
    elif kind == "attend":
        width = (op.get("heads") + 2 * op.get("kv_heads")) * op.get("head_dim")
        seen = positions_seen(op, Extent(extent.tokens, sequences=extent.sequences))
        adds = 2.0 * op.get("heads") * op.get("head_dim") * seen * tokens * attention
        work = [Work(f"aten/attention{end}", adds)]
        moved = (ROTATING_NATIVELY if end else ROTATING) * values * tokens * width
    else:
        shapes = [program.shape(name) for name in op.read_all("weight")]
        adds = tokens * sum(rows * columns for rows, columns in shapes) * products
        work = [Work(f"aten/product{end}", adds, extent.rows)]
        outputs, inputs = sum(shape[0] for shape in shapes), shapes[0][1]
        moved = tokens * values * (VALUES_OF[op.get("prologue", "none")] * inputs + outputs)
        rank = int(op.get("rank", 0))
        if rank:
            ways = 1.0 if values == 1.0 else 3.0
            adapted, more = (_experts if kind == "mixture" else _adapters)(op, shapes, tokens, times)
            work.append(Work("aten/product", ways * adapted, rank))
            adds += ways * adapted
            moved += values * more
    calls = CALLS[kind] + EXPERT_CALLS * op.get("experts", 0)
    work += [Work("aten/values", moved, FAR), Work("aten", calls * times * values)]
    return Demand(tuple(work), multiply_adds=adds, ram_bytes=8.0 * moved)


def _adapters(op: Op, shapes: Sequence[tuple[int, ...]], tokens: float, times: int) -> tuple[float, float]:
    """Multiply-adds of adapters forward, and values that are passed over: of several a mean is made each time."""
    rank, several = int(op.get("rank")), int(op.get("adapters", 1))
    sides, outputs = sum(shape[0] + shape[1] for shape in shapes), sum(shape[0] for shape in shapes)
    means = 2.0 * several * rank * sides * times if several > 1 else 0.0
    return tokens * rank * sides + means / 2, tokens * outputs + means


def _experts(op: Op, shapes: Sequence[tuple[int, ...]], tokens: float, times: int) -> tuple[float, float]:
    """The same of experts: their scores and the A of all for gate and up, all else of those that a token chose."""
    rank, count, chosen = int(op.get("rank")), int(op.get("experts")), int(op.get("chosen"))
    wide, inputs = shapes[0]
    adds = tokens * (count * inputs * (1 + 2 * rank) + chosen * rank * (3 * wide + inputs))
    # What is summed for the tokens of an expert is copied for each of them.
    return adds, tokens * (chosen * EXPERT_VALUES * wide + 2 * count * rank + count * (wide + inputs))
