"""What the replays of a random program are given: packed weights, tokens, positions, pages, settings of sampling."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from byte_scales import draw_byte_scales
from drawing import FLOATS, HISTORY, PAGE, Case, Matrix, Run
from numpy.typing import NDArray
from two_of_four import draw_kept

from pintpot._native import uniform
from pintpot.formats.columns_apart import joined, separated
from pintpot.formats.registry import encoding, num_strips
from pintpot.formats.tiles import unpack
from pintpot.kernels import reference

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "penalty", "seed", "counter", "history_length")


@dataclass(frozen=True)
class Values:
    """Everything packed of a case: strips, what they stand for, and what is left of that where all codes are 0."""

    strips: dict[str, Bytes]
    vectors: dict[str, Floats]
    matrices: dict[str, Wide]
    minima: dict[str, Wide]
    apart: dict[str, NDArray[np.int64]]
    """The columns of a weight that are kept apart, where any are."""


def values_of(case: Case) -> Values:
    """Drawn by name, so that a case that was cut short keeps its weights."""
    strips, vectors, matrices, low, apart = {}, {}, {}, {}, {}
    for name, m in case.all_matrices().items():
        strips[name] = _strips(_rng(case, name), replace(m, format=encoding(m.format).grid))
        if count := encoding(m.format).num_apart:
            # The same columns for all weights of one input.
            apart[name] = np.sort(_rng(case, m.columns, count).choice(m.columns, count, replace=False))
            kept = _rng(case, name, "apart").standard_normal((m.rows, m.columns)) * m.size / m.columns**0.5
            strips[name] = joined(strips[name], kept.astype(np.float32), m.format, apart[name])
        matrices[name] = unpack(strips[name], m.format, m.rows, m.columns).astype(np.float64)
        least = minima(strips[name], m.format, m.rows, m.columns)
        if least is not None:
            low[name] = least
    for name, shape in case.vectors().items():
        vectors[name] = _vector(_rng(case, name), name, shape)
    return Values(strips, vectors, matrices, low, apart)


def minima(strips: Bytes, form: str, rows: int, columns: int) -> Wide | None:
    """What is left of a weight where all its codes are 0; None for formats in which that is nothing."""
    if encoding(form).kind != "aff" and form != "q4_k":
        return None
    if encoding(form).num_apart:
        return minima(separated(strips, form, rows, columns)[0], encoding(form).grid, rows, columns)
    blank = strips.copy()
    blank[:, encoding(form).scale_bytes(columns) :] = 0
    return unpack(blank, form, rows, columns).astype(np.float64)


def _rng(case: Case, *names: object) -> np.random.Generator:
    return np.random.default_rng([case.seed, *(zlib.crc32(str(name).encode()) for name in names)])


def _strips(rng: np.random.Generator, m: Matrix) -> Bytes:
    """Any bits in the codes, and in the padding of groups; scales such that products have the wanted size."""
    found, count = encoding(m.format), num_strips(m.rows)
    size = m.size / m.columns**0.5
    if m.format in FLOATS:
        return _float_strips(rng, m, size)
    strips = rng.integers(0, 256, (count, found.strip_bytes(m.columns)), np.uint8)
    if found.kind == "table":
        draw_byte_scales(rng, strips, found, m.columns, size)
        return strips
    groups, stride = found.num_groups(m.columns), found.group_scale_bytes
    area = strips[:, : groups * stride].reshape(count, groups, stride)
    # The spread of uniform codes, times that of the scales' own integers in a superblock.
    spread = 2.0**found.code_bits / 12**0.5 * {"q4_k": 36, "q6_k": 74}.get(m.format, 1)
    d = rng.uniform(0.3, 1.5, (count, groups, 16)) * size / spread
    if found.kind != "super":
        d *= rng.choice((-1, 1), d.shape)
    area[:, :, :32] = d.astype(np.float16).view(np.uint8).reshape(count, groups, 32)
    if found.kind == "aff" or m.format == "q4_k":
        # A minimum that leaves values around zero.
        middle = -d * (2**found.code_bits - 1) / 2 if found.kind == "aff" else d * 7.5
        minima = (middle * rng.uniform(0.7, 1.3, d.shape)).astype(np.float16)
        area[:, :, 32:64] = minima.view(np.uint8).reshape(count, groups, 32)
    if found.kind == "two_four":
        draw_kept(rng, strips, found, m.columns)
    return strips


def _float_strips(rng: np.random.Generator, m: Matrix, size: float) -> Bytes:
    word = {"f32": np.float32, "f16": np.float16, "bf16": np.float32}[m.format]
    values = np.zeros((num_strips(m.rows), -(-m.columns // 4) * 4, 16), word)
    values[:, : m.columns] = rng.standard_normal((len(values), m.columns, 16)) * size
    if m.format == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(len(values), -1)
    return values.view(np.uint8).reshape(len(values), -1)


def _vector(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Floats:
    if len(shape) == 2:
        angles = rng.uniform(0, 2, shape[1] // 2) ** 4 * np.arange(shape[0])[:, None]
        return np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    return (rng.standard_normal(shape) * 0.2 + (0 if name.startswith("bias") else 1)).astype(np.float32)


# --- What each replay is given ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """Arguments of one replay of the program `program`, for every backend."""

    program: str
    tokens: NDArray[Any]
    positions: NDArray[Any]
    sequence: NDArray[Any]
    rows: NDArray[Any]
    pages: NDArray[Any]
    sampling: dict[str, NDArray[Any]]
    history: NDArray[Any]

    def into(self, call: Any) -> None:
        """Fill in a native call."""
        call.num_tokens, call.num_rows, call.num_sequences = len(self.tokens), len(self.rows), len(self.pages)
        for name in ("tokens", "positions", "sequence", "rows"):
            array = getattr(self, name)
            getattr(call, name)[: len(array)] = array
        call.turns[: len(self.positions)] = self.positions
        call.pages[: len(self.pages), :] = self.pages
        for name in SAMPLING:
            getattr(call, name)[: len(self.pages)] = self.sampling[name]
        call.history[: len(self.pages)] = self.history

    def reference(self) -> reference.Call:
        """The same for the reference."""
        how = {name: self.sampling[name].tolist() for name in SAMPLING}
        settings = tuple(
            reference.Sampling(*map(float, cuts[:1]), int(cuts[1]), *map(float, cuts[2:]))
            for cuts in zip(*(how[name] for name in SAMPLING[:5]), strict=True)
        )
        earlier = [np.count_nonzero(self.sequence[self.rows[:i]] == self.sequence[r]) for i, r in enumerate(self.rows)]
        owners = self.sequence[self.rows]
        return reference.Call(
            self.tokens, self.positions, self.sequence, tuple(int(row) for row in self.rows),
            tuple(tuple(map(int, table)) for table in self.pages), settings,
            tuple(uniform(how["seed"][s], how["counter"][s] + int(n)) for s, n in zip(owners, earlier, strict=True)),
            tuple(tuple(map(int, past[:n])) for past, n in zip(self.history, how["history_length"], strict=True)),
        )  # fmt: skip


def fill(case: Case) -> list[Filled]:
    """The replays of a case in their order. Sequences grow, go back, and own scattered pages."""
    free = list(_rng(case, "pages").permutation(case.num_pages))
    tables: dict[int, list[int]] = {sequence: [] for sequence in range(case.sequences)}
    lengths = dict.fromkeys(tables, 0)
    found = []
    for index, turn in enumerate(case.turns):
        rng = _rng(case, "turn", index)
        spans = [span for run in turn.runs if (span := _span(case, run, lengths)) is not None]
        for sequence, first, count in spans:
            while len(tables[sequence]) * PAGE < first + count:
                tables[sequence].append(int(free.pop()))
            lengths[sequence] = first + count
        if spans:
            found.append(_filled(case, rng, spans, tables, turn.rows, turn.wide, turn.drops_pages))
    return found


def _span(case: Case, run: Run, lengths: dict[int, int]) -> tuple[int, int, int] | None:
    first = max(0, lengths[run.sequence] - run.back)
    count = min(run.count, case.context - first)
    return (run.sequence, first, count) if count > 0 else None


def _filled(
    case: Case,
    rng: np.random.Generator,
    spans: list[tuple[int, int, int]],
    tables: dict[int, list[int]],
    rows: str,
    wide: bool,
    drops_pages: bool,
) -> Filled:
    num_tokens, words = sum(count for _, _, count in spans), case.vocabulary
    positions = np.concatenate([np.arange(first, first + count) for _, first, count in spans])
    sequence = np.repeat([owner for owner, _, _ in spans], [count for _, _, count in spans])
    program = "wide" if wide or num_tokens > case.narrow else "narrow"
    num_sequences = max(sequence) + 1
    pages = np.full((num_sequences, -(-case.context // PAGE)), -1)
    for owner, first, _ in spans:
        pages[owner, : len(tables[owner])] = tables[owner]
        if drops_pages:
            pages[owner, [i for i in range(len(tables[owner])) if not _seen(case, first, i)]] = -1
    most = case.programs()[program].bound("rows")
    sampling: dict[str, NDArray[Any]] = {
        "temperature": rng.choice(np.array([0, 0, 0.3, 0.9, 2], np.float32), num_sequences),
        "top_k": rng.choice([0, 0, 1, 5, 1000], num_sequences),
        "top_p": rng.choice(np.array([1, 1, 0.2, 0.9], np.float32), num_sequences),
        "min_p": rng.choice(np.array([0, 0, 0.05, 1], np.float32), num_sequences),
        "penalty": rng.choice(np.array([1, 1, 1.3, 0.8], np.float32), num_sequences),
        "seed": rng.integers(0, 2**63, num_sequences),
        "counter": rng.integers(0, 2**40, num_sequences),
        "history_length": rng.integers(0, HISTORY + 1, num_sequences),
    }
    return Filled(
        program, rng.integers(0, words, num_tokens), positions, sequence, _rows(case, rng, sequence, rows, most), pages,
        sampling, rng.integers(0, words, (num_sequences, HISTORY)),
    )  # fmt: skip


def _rows(case: Case, rng: np.random.Generator, sequence: NDArray[Any], which: str, most: int) -> NDArray[Any]:
    everything = np.arange(len(sequence))
    if case.every_row or which == "all":
        return everything[:0] if which == "none" else everything[:most]
    if which == "last":
        return np.flatnonzero(np.append(sequence[1:] != sequence[:-1], True))[:most]
    return rng.choice(everything, 0 if which == "none" else int(rng.integers(1, most + 1)))


def _seen(case: Case, first: int, page: int) -> bool:
    """Whether a run from position `first` on sees or writes anything in this page of its sequence."""
    for step in case.steps:
        window, sinks = step.op.get("window", 0), step.op.get("sinks", 0)
        oldest = first + 1 - window
        if step.op.kind == "attend" and (window == 0 or (page + 1) * PAGE > oldest or page * PAGE < sinks):
            return True
    return (page + 1) * PAGE > first
