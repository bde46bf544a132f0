"""Random programs on the native backend: op by op beside the reference; the same bits in every other way of running.

`outcome(seed, folder)` runs a case and gives a line about it; a Disagreement is shrunk by `report`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from drawing import HISTORY, PAGE, Case, Run, Turn, draw
from filling import Filled, Values, fill, values_of
from judging import Disagreement, Found, as_values, check
from numpy.typing import NDArray
from replaying import Rig, make

from pintpot._native import available_isas
from pintpot.kernels import reference
from pintpot.kernels.native.bind import scratch_bytes
from pintpot.kernels.reference.linear import apart
from pintpot.program.ops import check as check_shapes
from pintpot.program.ops.linear import over_rows
from pintpot.program.scratch import scratch_bytes as planned_scratch
from pintpot.program.spec import Op, Program

ISAS: list[str] = available_isas()
POISON = 0xFF


@dataclass(frozen=True)
class Way:
    """One way of running a case."""

    isa: str
    threads: int
    streams: bool

    def __str__(self) -> str:
        return f"{self.isa}, {self.threads} threads, {'streamed' if self.streams else 'resident'}"


def ways(case: Case) -> list[Way]:
    """Every instruction set, one and two threads, resident and streamed; the first is held against the reference."""
    turn, first = divmod(case.seed, len(ISAS))
    found = [Way(ISAS[first], 1 + turn % 2, turn // 2 % 2 == 1)]
    for index in range(len(ISAS)):
        isa = ISAS[(first + index) % len(ISAS)]
        other = (turn + index) % 2 == 0
        found.append(Way(isa, 2 if other else 1, index % 2 == 0))
    return [*found, Way(ISAS[0], 2, not found[0].streams)]


class Bound:
    """A case bound in one way."""

    def __init__(self, case: Case, way: Way, values: Values, folder: Path) -> None:
        self.case, self.way, self.values = case, way, values
        ram = {name: m.ram_rows for name, m in case.all_matrices().items()}
        self.rig: Rig = make(
            case,  # type: ignore[arg-type]
            case.programs(), threads=way.threads, isa=way.isa, ram_rows=ram if way.streams else None,
            file=folder / "pack", slot_bytes=case.slot_bytes, num_buffers=case.num_buffers, in_flight=case.in_flight,
            packed=(values.strips, values.vectors),
        )  # fmt: skip
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.rig.arena, np.uint8)
        self.calls = {name: replay.call(HISTORY) for name, replay in self.rig.replays.items()}
        laid_out = {f"holder.{holder}" for holder in self.rig.sizes}
        self.packed_parts = [at for name, at in self.rig.places.items() if name not in laid_out]
        self.packed_digest = self._digest(self._packed())

    def close(self) -> None:
        self.bytes = np.zeros(0, np.uint8)
        self.rig.close()

    def holder(self, name: str) -> NDArray[np.uint8]:
        """The bytes of what is laid out for one holder."""
        at = self.rig.places.get(f"holder.{name}", 0)
        return self.bytes[at : at + self.rig.sizes.get(name, 0)]

    def start(self, filled: Filled) -> tuple[Program, Any]:
        """A replay about to run; nothing of the one before it is left but caches."""
        self.holder("buffers")[:] = POISON
        filled.into(self.calls[filled.program])
        return self.rig.replays[filled.program].program, self.calls[filled.program]

    def run(self, filled: Filled, first: int = 0, stop: int | None = None) -> None:
        if not self.rig.replays[filled.program].run(self.calls[filled.program], first, stop):
            raise Disagreement("a replay was cancelled by nobody")

    def state(self) -> str:
        """Everything that a replay leaves behind."""
        return self._digest([self.holder("buffers"), self.holder("cache")])

    def check_packed(self) -> None:
        """Raise Disagreement when something has written over weights or tables."""
        if self._digest(self._packed()) != self.packed_digest:
            raise Disagreement(f"{self.way}: weights or tables were written over")

    def _packed(self) -> list[NDArray[np.uint8]]:
        ends = [*sorted(self.rig.places.values()), self.rig.scratch[0] - self.rig.arena.address]
        return [self.bytes[at : ends[ends.index(at) + 1]] for at in self.packed_parts]

    @staticmethod
    def _digest(parts: list[NDArray[np.uint8]]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            digest.update(part.tobytes())
        return digest.hexdigest()

    def array(self, program: Program, name: str, rows: int) -> NDArray[Any]:
        """The first rows of a buffer, copied."""
        replay = self.rig.replays[program.name]
        view = np.asarray(replay.integers(name)) if program.by_name[name].format == "int32" else replay.floats(name)
        return view[:rows].copy()

    def cache(self, program: Program, name: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """A cache as it lies there, by token: values [pages, KV, 32, hd], or codes and scales [pages, KV, 32, hd / 32].

        Keys lie transposed in their pages, columns before tokens.
        """
        pages, heads, _, dim = program.shape(name)
        form, at = program.by_name[name].format, self.rig.addresses[program.name][name] - self.rig.arena.address
        size = PAGE * dim * {"f16": 2, "f32": 4, "sym8c": 1}[form] + (PAGE * dim // 32 * 2 if form == "sym8c" else 0)
        raw = self.bytes[at : at + pages * heads * size].reshape(pages, heads, size)
        keys = any(op.kind == "attend" and op.read("k") == name for op in program.ops)

        def by_token(part: NDArray[Any]) -> NDArray[Any]:
            if keys:
                return part.reshape(pages, heads, -1, PAGE).swapaxes(2, 3).copy()
            return part.reshape(pages, heads, PAGE, -1).copy()

        if form != "sym8c":
            return by_token(raw.view(np.float16 if form == "f16" else np.float32)), None
        return by_token(raw[..., : PAGE * dim].view(np.int8)), by_token(raw[..., PAGE * dim :].copy().view(np.float16))


# --- One op ----------------------------------------------------------------------------------------------------------


def num_rows(op: Op, program: Program, filled: Filled) -> int:
    """Rows that an op writes in this replay."""
    return len(filled.rows) if over_rows(op, program) else len(filled.tokens)


def memory_of(bound: Bound, program: Program, op: Op, filled: Filled) -> reference.Memory:
    """What an op reads, as the native memory holds it now, in float64."""
    memory: reference.Memory = {}
    for _, name in op.reads:
        if name in bound.values.matrices:
            memory[name] = bound.values.matrices[name]
            if name in bound.values.apart:
                memory[apart(name)] = bound.values.apart[name]
        elif name in bound.values.vectors:
            memory[name] = bound.values.vectors[name].astype(np.float64)
        elif program.by_name[name].holder == "cache":
            memory[name] = as_values(*bound.cache(program, name))
        elif name != "tokens":
            count = len(filled.rows) if program.by_name[name].shape[0] == "rows" else len(filled.tokens)
            memory[name] = bound.array(program, name, count).astype(np.float64)
    return memory


def step(bound: Bound, program: Program, index: int, filled: Filled) -> Found | None:
    """Run one op alone; None where it has nothing to do. Raises Disagreement when it writes where it may not."""
    op = program.ops[index]
    count = num_rows(op, program, filled) if op.lane == "compute" else 0
    before, caches_before = bound.holder("buffers").copy(), bound.holder("cache").copy()
    bound.run(filled, index, index + 1)
    changed, base = before != bound.holder("buffers"), bound.rig.arena.address + bound.rig.places["holder.buffers"]
    for _, name in op.writes if count else ():
        if program.by_name[name].holder == "buffers":
            at = bound.rig.addresses[program.name][name] - base
            changed[at : at + 4 * count * int(np.prod(program.shape(name)[1:]))] = False
    q = None
    if op.kind == "attend":
        q = _queries(bound, program, op, count)
        at = bound.rig.addresses[program.name][str(op.read("qkv"))] - base
        width = program.shape(str(op.read("qkv")))[1]
        changed[at : at + 4 * count * width].reshape(count, -1)[:, : 4 * q.shape[1] * q.shape[2]] = False
    elif (caches_before != bound.holder("cache")).any():
        raise Disagreement(f"{op.kind} writes into a cache")
    if changed.any():
        raise Disagreement(f"{op.kind} writes {int(changed.sum())} bytes that are not its own")
    if count == 0:
        return None
    found = Found(bound.array(program, op.writes[0][1], count), None, q)
    if op.kind == "sample" and len(op.writes) == 2:
        found.second = bound.array(program, op.writes[1][1], count)
    if op.kind == "attend":
        found.caches = {name: bound.cache(program, name) for name in (str(op.read("k")), str(op.read("v")))}
    return found


def _queries(bound: Bound, program: Program, op: Op, count: int) -> NDArray[Any]:
    qkv = bound.array(program, str(op.read("qkv")), count)
    heads, dim = op.get("heads"), op.get("head_dim")
    return qkv[:, : heads * dim].reshape(count, heads, dim)


def check_untouched(op: Op, memory: reference.Memory, found: Found, call: reference.Call) -> None:
    """Raise Disagreement when an attend changed a position of its cache that is not new."""
    assert found.caches is not None
    places = [(call.page_tables[s][p // PAGE], p % PAGE) for s, p in zip(call.sequences, call.positions, strict=True)]
    pages, slots = np.array(places).T
    for name, cache in found.caches.items():
        before, after = memory[name].copy(), as_values(*cache)
        before[pages, :, slots] = after[pages, :, slots] = 0
        if not np.array_equal(before, after, equal_nan=True):
            raise Disagreement(f"attend writes other positions of {name}")


# --- One case --------------------------------------------------------------------------------------------------------


def beside_reference(bound: Bound, turns: list[Filled]) -> tuple[list[str], list[list[str]]]:
    """Every op of every replay against the reference; what each replay left behind, and each op's output."""
    states, traces = [], []
    for number, filled in enumerate(turns):
        program, _ = bound.start(filled)
        call, trace = filled.reference(), []
        for index, op in enumerate(program.ops):
            memory = memory_of(bound, program, op, filled) if op.lane == "compute" else {}
            try:
                found = step(bound, program, index, filled)
                if found is not None:
                    if op.kind == "attend":
                        check_untouched(op, memory, found, call)
                    check(op, program, memory, call, bound.values, found)
            except Disagreement as error:
                raise Disagreement(f"{bound.way}: replay {number}, op {index}: {error}") from error
            trace.append("" if found is None else Bound._digest([np.ascontiguousarray(found.out).view(np.uint8)]))
        states.append(bound.state())
        traces.append([one for one, op in zip(trace, program.ops, strict=True) if op.lane == "compute"])
    return states, traces


def in_one_piece(bound: Bound, turns: list[Filled]) -> Iterator[str]:
    """What each replay leaves behind, run as a whole."""
    for filled in turns:
        bound.start(filled)
        bound.run(filled)
        yield bound.state()


def run_case(case: Case, folder: Path) -> str:
    """Run a case in all ways; a digest of its results. Raises Disagreement."""
    values, turns = values_of(case), fill(case)
    for program in case.programs().values():
        check_shapes(program)
    states: list[str] = []
    for index, way in enumerate(ways(case)):
        bound = Bound(case, way, values, folder)
        try:
            for replay in bound.rig.replays.values():
                if scratch_bytes(replay.program, way.threads) != planned_scratch(replay.program, way.threads):
                    raise Disagreement(f"{replay.program.name}: the plan knows another size of its scratch memory")
            if index == 0:
                states, traces = beside_reference(bound, turns)
                bound.check_packed()
                continue
            found = list(in_one_piece(bound, turns))
            bound.check_packed()
        finally:
            bound.close()
        if found != states:
            number = next(i for i, (one, other) in enumerate(zip(found, states, strict=True)) if one != other)
            where = _first_difference(case, way, values, folder, turns, traces, number)
            raise Disagreement(f"{way}: replay {number} leaves other bits than {ways(case)[0]}; {where}")
    return hashlib.blake2b("".join(states).encode(), digest_size=8).hexdigest()


def _first_difference(
    case: Case, way: Way, values: Values, folder: Path, turns: list[Filled], traces: list[list[str]], number: int
) -> str:
    """The first op whose output differs when it runs alone in that way."""
    bound = Bound(case, way, values, folder)
    try:
        _, others = beside_reference(bound, turns[: number + 1])
    except Disagreement as error:
        return str(error)
    finally:
        bound.close()
    for one, other in zip(traces, others, strict=False):
        for index, pair in enumerate(zip(one, other, strict=True)):
            if pair[0] != pair[1]:
                return f"the first is op {index}"
    return "op by op it is the same"


# --- Saying and shrinking --------------------------------------------------------------------------------------------


def describe(case: Case) -> str:
    """A case in a few lines."""
    lines = [
        f"up to {case.tokens} tokens (or {case.narrow}), {case.rows} rows, {case.sequences} sequences, context "
        f"{case.context}{', no select' if case.every_row else ''}; {case.num_buffers} slots of {case.slot_bytes}"
    ]
    matrices = case.all_matrices()
    shapes = {b.name: b for one in case.steps for b in one.buffers}
    for index, one in enumerate(case.steps):
        reads = " ".join(f"{role}={name}" for role, name in one.op.reads)
        writes = " ".join(f"{name}{list(shapes[name].shape)}" for _, name in one.op.writes)
        knobs = " ".join(f"{key}={value}" for key, value in one.op.attributes)
        lines.append(f"  {index} {one.op.kind} {reads} -> {writes}  {knobs}")
        for name in one.op.read_all("weight"):
            m = matrices[name]
            lines.append(f"      {name}: {m.rows} x {m.columns} {m.format}, {m.ram_rows} rows in memory")
        lines += [f"      {b.name}: {b.format}" for b in one.buffers if b.holder == "cache"]
    for filled in fill(case):
        runs = ", ".join(
            f"{s}: {filled.positions[filled.sequence == s][0]}+{np.count_nonzero(filled.sequence == s)}"
            for s in dict.fromkeys(filled.sequence.tolist())
        )
        lines.append(f"  replay of {filled.program}: sequences {{{runs}}}, {len(filled.rows)} rows")
    return "\n".join(lines)


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A smaller case that fails too: fewer ops and replays from the end, fewer tokens, everything resident."""
    for cut in (_fewer_ops, _fewer_turns, _fewer_tokens):
        for _ in range(12):
            smaller = next((one for one in cut(case) if fails(one)), None)
            if smaller is None:
                break
            case = smaller
    return case


def _fewer_ops(case: Case) -> Iterator[Case]:
    count = len(case.steps)
    for kept in sorted({count // 2, count * 3 // 4, count - 1} - {0, count}):
        yield replace(case, steps=case.steps[:kept])


def _fewer_turns(case: Case) -> Iterator[Case]:
    count = len(case.turns)
    for kept in sorted({count // 2, count - 1} - {0, count}):
        yield replace(case, turns=case.turns[:kept])
        yield replace(case, turns=case.turns[count - kept :])


def _fewer_tokens(case: Case) -> Iterator[Case]:
    if all(run.count == 1 for turn in case.turns for run in turn.runs):
        return
    for part in (4, 2):
        turns = [
            Turn(tuple(Run(r.sequence, r.back, -(-r.count // part)) for r in t.runs), t.rows, t.wide, t.drops_pages)
            for t in case.turns
        ]
        yield replace(case, turns=tuple(turns))


def report(case: Case, error: BaseException, folder: Path) -> str:
    """What to tell about a case that failed: its seed, the error, and the least program that shows one."""
    last = [error]

    def fails(smaller: Case) -> bool:
        try:
            run_case(smaller, folder)
        except (Disagreement, ValueError, RuntimeError) as found:
            last[0] = found
            return True
        return False

    small = shrunk(case, fails)
    return f"seed {case.seed}: {error}\nshrunk: {last[0]}\n{describe(small)}"


def outcome(seed: int, folder: Path) -> str:
    """Run the case of a seed and say what it gave. Raises Disagreement, with a report."""
    case = draw(seed)
    try:
        digest = run_case(case, folder)
    except (Disagreement, ValueError, RuntimeError) as error:
        raise Disagreement(report(case, error, folder)) from error
    kinds = " ".join(step.op.kind for step in case.steps)
    return f"{digest} {len(case.turns)} replays of {kinds}"
