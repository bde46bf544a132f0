"""Small random programs from a seed: ops, shapes, formats, places, and the replays that fill and read a cache."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pintpot.formats.registry import KERNEL_FORMATS, apart, can_keep_apart, encoding, num_strips
from pintpot.program.ops.linear import GATES
from pintpot.program.spec import Buffer, Op, Program, Segment

PAGE = 32
HISTORY = 12
"""Earlier tokens that a repetition penalty may look at."""

CHAIN = ("linear", "linear", "linear", "attend", "attend", "swiglu")
FLOATS, SUPER = ("f32", "f16", "bf16"), ("q4_k", "q6_k")
GROUPS = tuple(name for name in KERNEL_FORMATS if name not in FLOATS + SUPER)


@dataclass(frozen=True)
class Matrix:
    """`size` is the size of a product with inputs of size 1; rows from `ram_rows` on may rest on disk."""

    name: str
    rows: int
    columns: int
    format: str
    ram_rows: int
    size: float


@dataclass(frozen=True)
class Step:
    """One op, the buffers that come with it, and what it reads that is packed."""

    op: Op
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...] = ()
    vectors: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Run:
    """`count` new tokens of a sequence, after its last one; `back` of those before are forgotten first."""

    sequence: int
    back: int
    count: int


@dataclass(frozen=True)
class Turn:
    """One replay. `rows`: which tokens have logits (none, last of each run, some, all)."""

    runs: tuple[Run, ...]
    rows: str
    wide: bool
    drops_pages: bool


@dataclass(frozen=True)
class Case:
    """A program of `steps` in two recordings, up to `tokens` and up to `narrow` tokens, and its replays.

    With `every_row` no select stands between tokens and rows: all tokens have logits, or none has.
    """

    seed: int
    steps: tuple[Step, ...]
    turns: tuple[Turn, ...]
    tokens: int
    narrow: int
    rows: int
    sequences: int
    context: int
    every_row: bool
    slot_blocks: int
    num_buffers: int
    in_flight: int

    @property
    def tied(self) -> bool:
        """Whether the embedding is also multiplied with."""
        return any("embed" in step.op.read_all("weight") for step in self.steps[1:])

    def all_matrices(self) -> dict[str, Matrix]:
        return {matrix.name: matrix for step in self.steps for matrix in step.matrices}

    def matrices(self) -> dict[str, tuple[int, int, str]]:
        """Rows, columns and format by name, in the order of use."""
        return {name: (m.rows, m.columns, m.format) for name, m in self.all_matrices().items()}

    def vectors(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for step in self.steps for name, shape in step.vectors}

    @property
    def slot_bytes(self) -> int:
        strips = [encoding(m.format).strip_bytes(m.columns) for m in self.all_matrices().values()]
        return 4096 * (-(-max(strips) // 4096) + self.slot_blocks)

    @property
    def num_pages(self) -> int:
        return self.sequences * -(-self.context // PAGE) + 2

    @property
    def vocabulary(self) -> int:
        """Tokens that every op knows."""
        shapes = {buffer.name: buffer.shape[-1] for step in self.steps for buffer in step.buffers}
        words = [int(shapes[str(step.op.read("logits"))]) for step in self.steps if step.op.kind == "sample"]
        return min([*words, self.all_matrices()["embed"].rows])

    def programs(self) -> dict[str, Program]:
        ops = tuple(step.op for step in self.steps)
        buffers = (
            Buffer("tokens", ("tokens",), "int32", "buffers", "session"),
            *(Buffer(m.name, (m.rows, m.columns), m.format, "weights", "pack") for m in self.all_matrices().values()),
            *(buffer for step in self.steps for buffer in step.buffers),
        )
        found = {}
        for name, tokens in (("wide", self.tokens), ("narrow", self.narrow)):
            rows = tokens if self.every_row else min(self.rows, tokens)
            bounds = (("tokens", tokens), ("rows", rows), ("sequences", self.sequences), ("context", self.context))
            found[name] = Program(name, bounds, buffers, ops, (Segment(0, len(ops)),))
        return found


@dataclass
class Pool:
    """What later ops may read: (name, columns) over tokens, or over rows."""

    rng: random.Random
    apart: random.Random
    """Of its own, for what came later: what a seed draws beside it stays what it was."""
    steps: list[Step]
    tokens: list[tuple[str, int]]
    rows: list[tuple[str, int]]
    num_names: int = 0

    def name(self, prefix: str) -> str:
        self.num_names += 1
        return f"{prefix}{self.num_names}"

    def of(self, axis: str) -> list[tuple[str, int]]:
        return self.rows if axis == "rows" else self.tokens

    def pick(self, axis: str) -> tuple[str, int]:
        """A buffer, rather a late one."""
        found = self.of(axis)
        return found[-1] if self.rng.random() < 0.6 else self.rng.choice(found)

    def out(self, axis: str, columns: int) -> Buffer:
        life = "session" if self.rng.random() < 0.2 else "step"
        return Buffer(self.name("x"), (axis, columns), "f32", "buffers", life)  # type: ignore[arg-type]


ROUNDINGS = ("none", "none", "integers", "bfloat16")


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(seed)
    long = rng.random() < 0.04
    context = rng.randint(560, 1200) if long else rng.randint(1, 200)
    tokens = rng.randint(200, 600) if long else rng.choice((1, 2, rng.randint(3, 8), rng.randint(9, 40), 80))
    tokens = min(tokens, 3 * context)
    sequences = 1 if long else rng.choice((1, 1, 2, 3, 5))
    every_row = rng.random() < 0.2
    pool = Pool(rng, random.Random(f"apart {seed}"), [], [], [])
    _embed(pool)
    for _ in range(rng.choice((0, 1, 2, 4, 6)) if not long else 3):
        kind = "attend" if long else rng.choice(CHAIN)
        if kind == "attend":
            _attend(pool, context, sequences, small=long)
        else:
            _linear(pool, "tokens", "tokens", swiglu=kind == "swiglu")
    if rng.random() < 0.8:
        _head(pool, every_row)
    turned = random.Random(f"rotations of {seed}")
    pool.steps = [_rotated(turned, step) for step in pool.steps]
    later = random.Random(f"gates and norms of {seed}")
    pool.steps = [_normed(later, _other_gate(later, step)) for step in pool.steps]
    narrow = rng.randint(1, min(tokens, rng.choice((1, 4, 80))))
    rows = tokens if every_row else rng.randint(1, min(tokens, 8))
    return Case(
        seed, tuple(pool.steps), tuple(_turns(rng, tokens, sequences)), tokens, narrow, rows, sequences, context,
        every_row, rng.choice((0, 0, 1, 8)), rng.choice((2, 2, 3, 5)), rng.randint(1, 4),
    )  # fmt: skip


def _rotated(rng: random.Random, step: Step) -> Step:
    """Some linears rotate what meets their weights, in blocks of any size that divides it."""
    columns = [b.shape[-1] for b in step.buffers if b.name == step.op.read("norm")]
    columns += [matrix.columns for matrix in step.matrices]
    if step.op.kind != "linear" or not columns or rng.random() < 0.6:
        return step
    sizes = [2**power for power in range(1, 10) if int(columns[0]) % 2**power == 0]
    chosen = rng.choice((0, *sizes))
    return replace(step, op=replace(step.op, attributes=(*step.op.attributes, ("rotate", chosen))))


def _other_gate(rng: random.Random, step: Step) -> Step:
    """Half of the gates are those of the other family."""
    chosen = rng.choice(GATES)
    knobs = ((key, chosen if key == "prologue" and value in GATES else value) for key, value in step.op.attributes)
    return replace(step, op=replace(step.op, attributes=tuple(knobs)))


def _normed(rng: random.Random, step: Step) -> Step:
    """Some linears norm what they have multiplied."""
    if step.op.kind != "linear" or rng.random() < 0.7:
        return step
    width = next(b.shape[-1] for b in step.buffers if b.name == step.op.write("out"))
    name = f"post_norm of {step.op.write('out')}"
    op = replace(step.op, reads=(*step.op.reads, ("post_norm", name)))
    flat = Buffer(name, (width,), "f32", "weights", "pack")
    return replace(step, op=op, buffers=(*step.buffers, flat), vectors=(*step.vectors, (name, (int(width),))))


def _turns(rng: random.Random, tokens: int, sequences: int) -> list[Turn]:
    turns = []
    for _ in range(rng.randint(1, 5)):
        left = rng.choice((tokens, tokens, rng.randint(1, tokens), 1))
        runs = []
        for sequence in rng.sample(range(sequences), rng.randint(1, sequences)):
            if left > 0:
                count = rng.choice((1, left, rng.randint(1, left)))
                runs.append(Run(sequence, rng.choice((0, 0, 0, rng.randint(1, 40))), count))
                left -= count
        rows = rng.choice(("none", "last", "some", "all"))
        turns.append(Turn(tuple(runs), rows, rng.random() < 0.3, rng.random() < 0.5))
    return turns


def _columns(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.3:
        return 32 * rng.randint(1, 8)
    if kind < 0.5:
        return rng.choice((256, 256, 512))
    return rng.randint(1, 40) if kind < 0.7 else rng.randint(33, 300)


def _embed(pool: Pool) -> None:
    rng, columns = pool.rng, _columns(pool.rng)
    scale = rng.choice((1.0, 1.0, 0.5, 11.25))
    matrix = _matrix(rng, "embed", rng.choice((1, 7, 50, 64, 201)), columns, 10.0 ** rng.choice((-3, 0, 0, 0, 1)))
    out = Buffer("x0", ("tokens", columns), "f32", "buffers", "step")
    op = Op("embed", (("tokens", "tokens"), ("weight", "embed")), (("out", "x0"),), (("scale", scale),))
    pool.steps.append(Step(op, (out,), (replace(matrix, size=matrix.size * columns**0.5),)))
    pool.tokens.append(("x0", columns))


def _matrix(rng: random.Random, name: str, rows: int, columns: int, size: float = 1.0, form: str = "") -> Matrix:
    if form == "" or (form in SUPER and columns % 256 != 0):
        superblock = columns % 256 == 0 and rng.random() < 0.5
        form = rng.choice(SUPER if superblock else FLOATS if rng.random() < 0.25 else GROUPS)
    place = rng.random()
    strips = num_strips(rows)
    kept = 0 if place < 0.35 else strips if place < 0.6 else rng.randint(0, strips)
    return Matrix(name, rows, columns, form, min(rows, 16 * kept), size)


def _linear(
    pool: Pool, axis_in: str, axis: str, *, swiglu: bool = False, widths: Sequence[int] | None = None, last: str = ""
) -> str:
    """Append a linear and return what it writes; `last` names a matrix that is there already and comes last."""
    rng = pool.rng
    x, columns = pool.pick(axis_in)
    if last:
        x, columns = rng.choice([item for item in pool.of(axis_in) if item[1] == pool.steps[0].matrices[0].columns])
    prologue = "swiglu" if swiglu and columns % 2 == 0 else rng.choice(("none", "rmsnorm"))
    columns //= 2 if prologue == "swiglu" else 1
    residual = rng.choice(pool.of(axis)) if pool.of(axis) and rng.random() < 0.4 and widths is None else None
    counts = list(widths) if widths is not None else _split(rng, residual[1] if residual else 0)
    form = rng.choice(KERNEL_FORMATS) if rng.random() < 0.5 else ""
    matrices = [_matrix(rng, pool.name("w"), count, columns, 1.0, form) for count in counts]
    if not last:
        matrices = _with_columns_apart(pool.apart, matrices)
    reads, vectors = [("x", x)], []
    reads += [("weight", matrix.name) for matrix in matrices]
    counts += [pool.steps[0].matrices[0].rows] if last else []
    reads += [("weight", last)] if last else []
    if prologue == "rmsnorm":
        vectors.append((pool.name("norm"), (columns,)))
        reads.append(("norm", vectors[-1][0]))
    if rng.random() < 0.3:
        biases = [(pool.name("bias"), (count,)) for count in counts]
        vectors += biases
        reads += [("bias", bias[0]) for bias in biases]
    reads += [("residual", residual[0])] if residual else []
    out = pool.out(axis, sum(counts))
    activation = rng.choice(("float32", "float32", "int8", "int8x2", "bfloat16"))
    attributes = (("prologue", prologue), ("activation", activation), ("eps", rng.choice((1e-6, 1e-5, 1e-3))))
    op = Op("linear", tuple(reads), (("out", out.name),), attributes)
    flat = tuple(Buffer(name, shape, "f32", "weights", "pack") for name, shape in vectors)
    pool.steps.append(Step(op, (out, *flat), tuple(matrices), tuple(vectors)))
    pool.of(axis).append((out.name, sum(counts)))
    return out.name


def _with_columns_apart(rng: random.Random, matrices: list[Matrix]) -> list[Matrix]:
    """All matrices in groups keep as many columns apart, where the others are floats."""
    count = rng.choice((0, 0, 1, rng.randint(1, 8), rng.randint(1, 40)))
    whole = any(m.format not in FLOATS and not can_keep_apart(m.format) for m in matrices)
    if whole or any(m.columns < count for m in matrices):
        return matrices
    return [m if m.format in FLOATS else replace(m, format=apart(m.format, count)) for m in matrices]


def _split(rng: random.Random, total: int) -> list[int]:
    """Rows of one to four matrices that lie side by side, together `total` where that is not 0."""
    if total == 0:
        total = _columns(rng)
    cuts = sorted(rng.sample(range(1, total), min(total - 1, rng.choice((0, 0, 0, 1, 2, 3)))))
    return [stop - first for first, stop in zip([0, *cuts], [*cuts, total], strict=True)]


def _attend(pool: Pool, context: int, sequences: int, *, small: bool) -> None:
    rng = pool.rng
    kv_heads = rng.choice((1, 1, 2, 3, 4))
    group = rng.choice((1, 1, 2, 3, 5, 8, 33)) if not small else rng.choice((1, 2))
    head_dim = 32 * rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8) if not small else (1, 2))
    while (group + 2) * kv_heads * head_dim > 1300:
        group, kv_heads = max(1, group // 2), max(1, kv_heads - 1)
        head_dim = max(32, head_dim - 32)
    heads = group * kv_heads
    sides = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    qkv = _linear(pool, "tokens", "tokens", widths=sides if rng.random() < 0.6 else [sum(sides)])
    pool.tokens.pop()  # spent by the attend
    rope_dim = head_dim if rng.random() < 0.6 else 2 * rng.randint(1, head_dim // 2)
    vectors: list[tuple[str, tuple[int, ...]]] = [(pool.name("rope"), (context, rope_dim))]
    reads = [("qkv", qkv), ("rope", vectors[0][0])]
    for role in rng.choice(((), (), ("q_norm", "k_norm"), ("q_norm", "k_norm"), ("q_norm",), ("k_norm",))):
        vectors.append((pool.name("norm"), (head_dim,)))
        reads.append((role, vectors[-1][0]))
    shape = (sequences * -(-context // PAGE) + 2, kv_heads, PAGE, head_dim)
    form = rng.choice(("f16", "f16", "sym8c", "sym8c", "f32"))
    caches = [Buffer(pool.name("cache"), shape, form, "cache", "session") for _ in "kv"]
    pages = tuple((role, cache.name) for role, cache in zip("kv", caches, strict=True))
    window = rng.choice((0, 0, rng.randint(1, 70)))
    attributes: tuple[tuple[str, Any], ...] = (
        ("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim), ("rope", rng.choice(("half", "interleaved"))),
        ("scale", head_dim**-0.5 * rng.choice((1, 1, 1, 0.1, 4))), ("eps", 1e-5),
        ("window", window), ("sinks", rng.choice((0, rng.randint(1, 40)))), ("rounded", rng.choice(ROUNDINGS)),
    )  # fmt: skip
    out = pool.out("tokens", heads * head_dim)
    op = Op("attend", (*reads, *pages), (("out", out.name), *pages), attributes)
    flat = [Buffer(name, shape, "f32", "tables" if len(shape) > 1 else "weights", "pack") for name, shape in vectors]
    pool.steps.append(Step(op, (out, *caches, *flat), (), tuple(vectors)))
    pool.tokens.append((out.name, heads * head_dim))


def _head(pool: Pool, every_row: bool) -> None:
    """What is computed only where logits are wanted: a select, linears, a draw, and some of them left out."""
    rng = pool.rng
    tied = rng.random() < 0.4
    columns = pool.steps[0].matrices[0].columns
    if not every_row:
        fitting = [item for item in pool.tokens if item[1] == columns]
        x, width = rng.choice(fitting) if tied else pool.pick("tokens")
        out = pool.out("rows", width)
        pool.steps.append(Step(Op("select", (("x", x),), (("out", out.name),)), (out,)))
        pool.rows.append((out.name, width))
    axis_in = "tokens" if every_row else "rows"
    for _ in range(rng.choice((0, 1, 1, 2))):
        _linear(pool, axis_in, "rows", swiglu=rng.random() < 0.3)
        axis_in = rng.choice(("tokens", "rows")) if every_row else "rows"
    if tied and any(width == columns for _, width in pool.of(axis_in)):
        _linear(pool, axis_in, "rows", widths=[rng.randint(1, 20)] if rng.random() < 0.2 else [], last="embed")
    if pool.rows and rng.random() < 0.8:
        logits = pool.rows[-1][0]
        drawn = [Buffer(pool.name("next"), ("rows",), "int32", "buffers", "session")]
        writes = [("next", drawn[0].name)]
        if rng.random() < 0.5:
            drawn.append(Buffer(pool.name("logprob"), ("rows",), "f32", "buffers", "session"))
            writes.append(("logprob", drawn[1].name))
        pool.steps.append(Step(Op("sample", (("logits", logits),), tuple(writes)), tuple(drawn)))
