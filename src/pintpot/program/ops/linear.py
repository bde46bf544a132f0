"""out = residual + post_norm(bias + W prologue(x)), for one or several weights whose outputs lie side by side.

x is [T, K] ([T, 2K] before a gate), each weight [N_i, K], out [T, sum N_i]. The prologue (nothing, RMS norm, or a gate:
SwiGLU is silu(gate) * up, GeGLU gelu(gate) * up with the tanh form of gelu), a Hadamard rotation of each `rotate`
columns of what it gives (0: none; formats/hadamard.py), the rounding of activations, and an RMS norm of all that was
multiplied (where `post_norm` [sum N_i] is read) run inside the op, so that a block costs few barriers.

T are the call's tokens, or its rows; an op with an attribute `rows` always has so many, and its buffers are flat. Where
it has a `gather` (`program.gather`), x is what that looks at, and the rows are what it makes of it: a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pintpot.errors import UsageError, need
from pintpot.formats import Encoding, encoding
from pintpot.program.demand import Demand, Work
from pintpot.program.gather import Gather, gather_of
from pintpot.program.spec import Extent, Op, Program

FLOAT_FORMATS = ("f32", "f16", "bf16")
GATES = ("swiglu", "geglu")
PROLOGUES = ("none", "rmsnorm", *GATES)
FEW_ROWS = 4
"""Up to so many, what comes before a product is the work of one thread and no phase of its own."""
PLANES = {"float32": 0, "int8": 1, "int8x2": 2, "bfloat16": 3}
"""Int8 planes of rows, and the numbers that stand for rows in floating point."""
SUFFIXES = ("x0", "", "x2", "xb")
"""What follows a format in a rate's name, by planes."""


def check(op: Op, program: Program) -> None:
    weights = [program.shape(name) for name in op.read_all("weight")]
    x, out = op.read("x"), op.write("out")
    need(bool(weights) and x is not None and out is not None, "linear reads x and weights, and writes out", UsageError)
    need(op.get("prologue", "none") in PROLOGUES, f"no prologue {op.get('prologue')!r}", UsageError)
    need(op.get("activation", "float32") in PLANES, f"no activation {op.get('activation')!r}", UsageError)
    width = _width(op, program, str(x))
    size = op.get("rotate", 0)
    fits = size == 0 or (size > 1 and size & (size - 1) == 0 and width % size == 0)
    need(fits, f"linear: {width} columns cannot be rotated in blocks of {size}", UsageError)
    for shape in weights:
        need(shape[1] == width, f"linear: a weight of {shape[1]} columns meets an input of {width}", UsageError)
    total = sum(shape[0] for shape in weights)
    columns = row_values(op, program, str(out))
    need(columns == total, f"linear writes {total} columns, its output has another", UsageError)
    after = op.read("post_norm")
    need(after is None or program.shape(after) == (total,), f"a norm after {total} columns has as many", UsageError)
    normed = op.get("prologue") == "rmsnorm"
    need(normed == (op.read("norm") is not None), "rmsnorm and its weight come together", UsageError)
    need(len(op.read_all("bias")) in (0, len(weights)), "linear has one bias for each weight, or none", UsageError)
    apart = {found.num_apart for found in _encodings(op, program) if found.kind != "float"}
    need(len(apart) <= 1, f"low-bit weights of a linear keep the same columns apart, not {sorted(apart)}", UsageError)
    need(max(apart, default=0) <= width, f"of {width} columns {max(apart, default=0)} cannot be kept apart", UsageError)


def _width(op: Op, program: Program, x: str) -> int:
    """Columns of the rows that meet the weights."""
    gather = gathered(op)
    if gather is None:
        return row_values(op, program, x) // (2 if gated(op) else 1)
    plain = gather.rows == op.get("rows") and op.get("prologue", "none") == "none"
    need(plain, f"a linear of {op.get('rows')} rows gathers {gather.rows}", UsageError)
    need(gather.values <= prod(program.shape(x)), f"linear gathers beyond {x}", UsageError)
    return gather.columns


def gathered(op: Op) -> Gather | None:
    """What makes the rows of a linear op out of its input; None where they lie there."""
    return gather_of(op.get("gather"))


def num_apart(op: Op, program: Program) -> int:
    """Columns of the low-bit weights that are kept apart; they meet floats, and the others rows that are zero there."""
    return max(found.num_apart for found in _encodings(op, program))


def _encodings(op: Op, program: Program) -> list[Encoding]:
    return [encoding(program.by_name[name].format) for name in op.read_all("weight")]


def depends(op: Op, program: Program, extent: Extent) -> int:
    return num_rows(op, program, extent)


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    rows = num_rows(op, program, extent)
    if rows == 0:
        return Demand()
    planes = PLANES[op.get("activation", "float32")]
    amounts: dict[str, float] = {}
    ram_bytes = 0.0
    for name in op.read_all("weight"):
        weight = program.by_name[name]
        num_outputs, width = program.shape(name)
        found, kind = encoding(weight.format), "matvec" if rows == 1 else "matmul"
        columns = {f"{kind}/{found.grid}{suffix(found.grid, planes)}": width}
        if found.num_apart:
            columns[f"{kind}/f16"] = found.num_apart
        for key, count in columns.items():
            amounts[key] = amounts.get(key, 0.0) + float(rows) * num_outputs * count
        ram_bytes += found.packed_bytes(num_outputs, width)
    for _, name in (*op.reads, *op.writes):
        if program.by_name[name].life == "step":
            ram_bytes += 4.0 * moved_values(op, program, name, rows)
    products = (Work(key, amount, rows) for key, amount in amounts.items())
    work = (*_before(op, program, rows), *products, *_after(op, program, rows))
    if op.get("rows"):
        # The native engine is called for it alone, from between two calls of PyTorch.
        outputs = Work("leaf/outputs", float(rows) * row_values(op, program, str(op.write("out"))))
        return Demand((*work, Work("leaf", 1.0), outputs), multiply_adds=sum(amounts.values()), ram_bytes=ram_bytes)
    phases = 1 if rows <= FEW_ROWS else 2 + (op.read("post_norm") is not None)
    return Demand(work, multiply_adds=sum(amounts.values()), ram_bytes=ram_bytes, phases=phases)


def _before(op: Op, program: Program, rows: int) -> Iterator[Work]:
    """The prologue, rotation and rounding of rows; the thread that begins the op does them where the rows are few."""
    formats = {program.by_name[name].format for name in op.read_all("weight")}
    values = float(rows) * program.shape(op.read_all("weight")[0])[1]
    size = 1 if rows <= FEW_ROWS else rows
    if op.get("prologue", "none") != "none":
        yield Work(f"prologue/{op.get('prologue')}", values, size)
    if op.get("gather") is not None:
        yield Work("prologue/gather", values, size)
    if op.get("rotate"):
        yield Work("prologue/rotate", values, size)
    if PLANES[op.get("activation", "float32")] and not formats <= set(FLOAT_FORMATS):
        yield Work(f"prologue/{op.get('activation')}", values, size)


def _after(op: Op, program: Program, rows: int) -> Iterator[Work]:
    """The norm of what was multiplied, and the sum with many rows of the residual.

    The thread that ends the op norms few rows.
    """
    values = float(rows) * program.shape(str(op.write("out")))[-1]
    if op.read("post_norm") is not None:
        yield Work("prologue/rmsnorm", values, 1 if rows <= FEW_ROWS else rows)
    if rows > FEW_ROWS and op.read("residual") is not None:
        yield Work("read", 4.0 * values)


def gated(op: Op) -> bool:
    """Whether the rows that meet the weights are made of two halves, gate and up."""
    return op.get("prologue", "none") in GATES


def prepares(op: Op) -> bool:
    """Whether rows are changed in floating point before they meet the weights."""
    return bool(op.get("prologue", "none") != "none" or op.get("rotate", 0) or op.get("gather") is not None)


def suffix(name: str, planes: int) -> str:
    """What follows a format in a rate's name: low-bit weights meet int8 rows in one plane unless it says otherwise."""
    return "" if name in FLOAT_FORMATS else SUFFIXES[planes]


def split_suffix(name: str) -> tuple[str, str]:
    """Of a format's name in a rate the format, and what says how its rows are."""
    own = next((one for one in SUFFIXES if one and name.endswith(one)), "")
    return name.removesuffix(own), own


def num_rows(op: Op, program: Program, extent: Extent) -> int:
    """Activation rows of this op: its own number, else all new tokens, or only those whose logits are wanted."""
    return int(op.get("rows", 0)) or (extent.rows if over_rows(op, program) else extent.tokens)


def row_values(op: Op, program: Program, name: str) -> int:
    """Values in each row of a buffer that this op reads or writes row by row."""
    rows, shape = int(op.get("rows", 0)), program.shape(name)
    if not rows:
        return shape[-1]
    values = prod(shape)
    need(values % rows == 0, f"linear: {name} has {values} values, which are no {rows} rows", UsageError)
    return values // rows


def moved_values(op: Op, program: Program, name: str, rows: int) -> int:
    """Values of a buffer that so many rows of this op are read from or written to."""
    gather = gathered(op) if name == op.read("x") else None
    return rows * row_values(op, program, name) if gather is None else gather.values


def over_rows(op: Op, program: Program) -> bool:
    """Whether this op computes only the rows whose logits are wanted."""
    return program.by_name[op.writes[0][1]].shape[0] == "rows"
