"""Small decoders bound to the native engine, for tests and benchmarks: weights drawn, packed, resident or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot._native import Arena, CancelFlag, Pool, Ring, crc32c
from pintpot.formats import encoding
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.kernels.native.bind import BoundWeight, Piece, Replay, bind, scratch_bytes
from pintpot.program.fetch import lay_slots
from pintpot.program.layout import lay_out
from pintpot.program.spec import Buffer, Op, Program, Segment, Stage, Work
from pintpot.stream.arena import open_arena
from pintpot.stream.ring import RingSlot, open_ring
from pintpot.stream.writer import Writer

Floats = NDArray[np.float32]
PAGE = 32


@dataclass(frozen=True)
class Decoder:
    """A decoder's numbers and the choices that a test walks over."""

    hidden: int = 96
    ffn: int = 160
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 200
    context: int = 128
    activation: str = "int8"
    weights: str = "sym4"
    head: str = "sym8"
    cache: str = "f16"
    rope: str = "half"
    qk_norm: bool = False
    biased: bool = False
    tied: bool = True
    window: int = 0
    sinks: int = 0
    sequences: int = 2
    logprob: bool = False

    def program(self, name: str, tokens: int, rows: int, select: bool) -> Program:
        bounds = (("tokens", tokens), ("rows", rows), ("sequences", self.sequences), ("context", self.context))
        ops = [Op("embed", (("tokens", "tokens"), ("weight", "embed")), (("out", "x.0"),))]
        for layer in range(self.layers):
            ops += self._block(layer)
        final = f"x.{2 * self.layers}"
        if select:
            ops.append(Op("select", (("x", final),), (("out", "last"),)))
            final = "last"
        head = (("x", final), ("weight", "embed" if self.tied else "head"), ("norm", "norm"))
        ops.append(Op("linear", head, (("out", "logits"),), self._linear("rmsnorm")))
        drawn = (("next", "next"), ("logprob", "logprob")) if self.logprob else (("next", "next"),)
        ops.append(Op("sample", (("logits", "logits"),), drawn))
        return Program(name, bounds, tuple(self._buffers()), tuple(ops), (Segment(0, len(ops)),))

    def _linear(self, prologue: str) -> tuple[tuple[str, Any], ...]:
        return (("prologue", prologue), ("activation", self.activation), ("eps", 1e-5))

    def _block(self, layer: int) -> list[Op]:
        at, x, middle, out = f"layers.{layer}.", f"x.{2 * layer}", f"x.{2 * layer + 1}", f"x.{2 * layer + 2}"
        bias = tuple(("bias", f"{at}{role}_bias") for role in "qkv") if self.biased else ()
        norms = (("q_norm", at + "q_norm"), ("k_norm", at + "k_norm")) if self.qk_norm else ()
        pages = (("k", at + "k_cache"), ("v", at + "v_cache"))
        attributes = (
            ("heads", self.heads), ("kv_heads", self.kv_heads), ("head_dim", self.head_dim), ("rope", self.rope),
            ("scale", self.head_dim**-0.5), ("eps", 1e-5), ("window", self.window), ("sinks", self.sinks),
        )  # fmt: skip
        qkv = (("x", x), *(("weight", at + role) for role in "qkv"), *bias, ("norm", at + "attn_norm"))
        attended = (("qkv", at + "qkv"), ("rope", "rope"), *norms, *pages)
        output = (("x", at + "att"), ("weight", at + "o"), ("residual", x))
        gated = (("x", middle), ("weight", at + "gate"), ("weight", at + "up"), ("norm", at + "ffn_norm"))
        return [
            Op("linear", qkv, (("out", at + "qkv"),), self._linear("rmsnorm")),
            Op("attend", attended, (("out", at + "att"), *pages), attributes),
            Op("linear", output, (("out", middle),), self._linear("none")),
            Op("linear", gated, (("out", at + "gated"),), self._linear("rmsnorm")),
            Op(
                "linear", (("x", at + "gated"), ("weight", at + "down"), ("residual", middle)), (("out", out),),
                self._linear("swiglu"),
            ),
        ]  # fmt: skip

    def matrices(self) -> dict[str, tuple[int, int, str]]:
        """Rows, columns and format by name, in the order of use."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found = {"embed": (self.vocab, self.hidden, self.head)}
        for layer in range(self.layers):
            shapes = {
                "q": (q, self.hidden), "k": (kv, self.hidden), "v": (kv, self.hidden), "o": (self.hidden, q),
                "gate": (self.ffn, self.hidden), "up": (self.ffn, self.hidden), "down": (self.hidden, self.ffn),
            }  # fmt: skip
            found |= {f"layers.{layer}.{role}": (*shape, self.weights) for role, shape in shapes.items()}
        return found if self.tied else found | {"head": (self.vocab, self.hidden, self.head)}

    def vectors(self) -> dict[str, int]:
        found = {"norm": self.hidden}
        for layer in range(self.layers):
            at = f"layers.{layer}."
            found |= {at + "attn_norm": self.hidden, at + "ffn_norm": self.hidden}
            if self.qk_norm:
                found |= {at + "q_norm": self.head_dim, at + "k_norm": self.head_dim}
            if self.biased:
                found |= {f"{at}{role}_bias": self.matrices()[at + role][0] for role in "qkv"}
        return found

    def num_pages(self) -> int:
        return self.sequences * -(-self.context // PAGE)

    def _buffers(self) -> list[Buffer]:
        weights = [Buffer(name, shape[:2], shape[2], "weights", "pack") for name, shape in self.matrices().items()]
        weights += [Buffer(name, (size,), "f32", "weights", "pack") for name, size in self.vectors().items()]
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        found = [
            Buffer("tokens", ("tokens",), "int32", "buffers", "session"),
            Buffer("next", ("rows",), "int32", "buffers", "session"),
            Buffer("logprob", ("rows",), "f32", "buffers", "session"),
            Buffer("rope", ("context", self.head_dim), "f32", "tables", "session"),
            Buffer("logits", ("rows", self.vocab), "f32", "buffers", "session"),
            Buffer("last", ("rows", self.hidden), "f32", "buffers", "step"),
        ]
        found += [
            Buffer(f"x.{i}", ("tokens", self.hidden), "f32", "buffers", "step") for i in range(2 * self.layers + 1)
        ]
        pages = (self.num_pages(), self.kv_heads, PAGE, self.head_dim)
        for layer in range(self.layers):
            at = f"layers.{layer}."
            found += [
                Buffer(at + "qkv", ("tokens", width), "f32", "buffers", "step"),
                Buffer(at + "att", ("tokens", self.heads * self.head_dim), "f32", "buffers", "step"),
                Buffer(at + "gated", ("tokens", 2 * self.ffn), "f32", "buffers", "step"),
                Buffer(at + "k_cache", pages, self.cache, "cache", "session"),
                Buffer(at + "v_cache", pages, self.cache, "cache", "session"),
            ]
        return weights + found


def drawn(decoder: Decoder, seed: int = 0) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Packed strips of every matrix, and vectors."""
    rng = np.random.default_rng(seed)
    packed = {}
    for name, (rows, columns, form) in decoder.matrices().items():
        values = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        packed[name] = encode(values * (8 if name in ("embed", "head") else 1), form, search=False)
    vectors = {
        name: (rng.standard_normal(size) * 0.1 + (0 if name.endswith("bias") else 1)).astype(np.float32)
        for name, size in decoder.vectors().items()
    }
    angles = np.arange(decoder.context)[:, None] * 10000.0 ** (
        -np.arange(decoder.head_dim // 2) / (decoder.head_dim // 2)
    )
    vectors["rope"] = np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    return packed, vectors


@dataclass
class Rig:
    """Programs bound over one memory, with everything they use."""

    decoder: Decoder
    packed: dict[str, Any]
    vectors: dict[str, Floats]
    arena: Arena
    pool: Pool
    ring: Ring | None
    cancel: CancelFlag
    addresses: dict[str, dict[str, int]]
    weights: dict[str, BoundWeight]
    replays: dict[str, Replay] = field(default_factory=dict)
    scratch: tuple[int, int] = (0, 0)
    places: Mapping[str, int] = field(default_factory=dict)
    """Offsets in the arena, of weights by name and of buffers as `holder.NAME`."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of what is laid out, by holder."""

    def unpacked(self, name: str) -> Floats:
        rows, columns, form = self.decoder.matrices()[name]
        return unpack(self.packed[name], form, rows, columns)

    def close(self) -> None:
        self.replays.clear()
        if self.ring is not None:
            self.ring.close()
        self.ring = None


def make(
    decoder: Decoder,
    programs: Mapping[str, Program],
    *,
    threads: int = 2,
    isa: str = "",
    seed: int = 0,
    ram_rows: Mapping[str, int] | None = None,
    file: Path | None = None,
    slot_bytes: int = 16384,
    num_buffers: int = 3,
    in_flight: int = 2,
    packed: tuple[dict[str, Any], dict[str, Floats]] | None = None,
) -> Rig:
    """Bind programs. `ram_rows` says how many rows of a weight rest in memory; the others go to `file`.

    Every byte that nobody has written yet is NaN.
    """
    strips, vectors = drawn(decoder, seed) if packed is None else packed
    ram = {name: min(rows, (ram_rows or {}).get(name, rows)) for name, (rows, _, _) in decoder.matrices().items()}
    on_disk = {name for name, (rows, _, _) in decoder.matrices().items() if ram[name] < rows}
    programs = {name: _with_fetches(program, on_disk) for name, program in programs.items()}
    layout = lay_out(Work(tuple(Stage(name, "language", (program,)) for name, program in programs.items()), key=0))
    at, end = _places(decoder, strips, vectors, ram, layout.sizes)
    need = max(scratch_bytes(program, threads) for program in programs.values())
    scratch = -(-end // 4096) * 4096
    ring_at = -(-(scratch + need) // 4096) * 4096
    arena = open_arena(ring_at + num_buffers * slot_bytes + 4096)
    np.frombuffer(arena, np.uint8)[:] = 0xFF
    _fill(arena, at, strips, vectors, ram)
    ring, weights = None, _resident(decoder, arena, at, ram)
    if on_disk:
        assert file is not None
        slots, passing, weights = _stream(decoder, strips, ram, weights, file, slot_bytes)
        ring = open_ring(
            file, slots, arena, offset=ring_at, num_buffers=num_buffers, slot_bytes=slot_bytes, in_flight=in_flight,
            order=range(passing),
        )  # fmt: skip
    session = {
        name: arena.address + at[f"holder.{holder}"] + offset for name, (holder, offset) in layout.session.items()
    }
    addresses = {
        name: {**session, **{n: arena.address + at[n] for n in vectors},
               **{n: arena.address + at["holder.buffers"] + o for n, o in layout.steps[name].items()}}
        for name in programs
    }  # fmt: skip
    rig = Rig(decoder, strips, vectors, arena, Pool(threads), ring, CancelFlag(), addresses, weights)
    rig.scratch, rig.places, rig.sizes = (arena.address + scratch, need), at, layout.sizes
    for name, program in programs.items():
        rig.replays[name] = bind(
            program, addresses[name], weights, rig.pool, arenas=[arena], scratch=rig.scratch[0], scratch_size=need,
            ring=ring, cancel=rig.cancel, isa=isa,
        )  # fmt: skip
    return rig


def _with_fetches(program: Program, on_disk: set[str]) -> Program:
    ops: list[Op] = []
    for op in program.ops:
        looked_up = (("per_token", op.kind == "embed"),)
        ops += [
            Op("fetch", (("weight", n),), (), looked_up, lane="read") for n in op.read_all("weight") if n in on_disk
        ]
        ops.append(op)
    return replace(program, ops=tuple(ops), segments=(Segment(0, len(ops)),))


def _places(
    decoder: Decoder, strips: dict[str, Any], vectors: dict[str, Floats], ram: dict[str, int], sizes: Mapping[str, int]
) -> tuple[dict[str, int], int]:
    at, end = {}, 0
    wanted = {name: -(-ram[name] // 16) * packed.shape[1] for name, packed in strips.items()}
    wanted |= {name: vector.nbytes for name, vector in vectors.items()}
    wanted |= {f"holder.{holder}": size for holder, size in sizes.items()}
    for name, size in wanted.items():
        at[name] = end
        end += -(-size // 64) * 64
    return at, end


def _fill(
    arena: Arena, at: dict[str, int], strips: dict[str, Any], vectors: dict[str, Floats], ram: dict[str, int]
) -> None:
    memory = np.frombuffer(arena, np.uint8)
    for name, packed in strips.items():
        raw = packed[: -(-ram[name] // 16)].reshape(-1)
        memory[at[name] : at[name] + raw.size] = raw
    for name, vector in vectors.items():
        raw = vector.reshape(-1).view(np.uint8)
        memory[at[name] : at[name] + raw.size] = raw


def _resident(decoder: Decoder, arena: Arena, at: dict[str, int], ram: dict[str, int]) -> dict[str, BoundWeight]:
    return {
        name: BoundWeight(name, form, rows, columns, arena.address + at[name], ram[name])
        for name, (rows, columns, form) in decoder.matrices().items()
    }


def _stream(
    decoder: Decoder,
    strips: dict[str, Any],
    ram: dict[str, int],
    weights: dict[str, BoundWeight],
    file: Path,
    size: int,
) -> tuple[list[RingSlot], int, dict[str, BoundWeight]]:
    """Writes what does not rest in memory; returns its slots, how many of them a pass takes, and where weights lie.

    An untied embedding comes last, in slots that no pass takes.
    """

    def part(name: str) -> tuple[str, int, int, int]:
        rows, columns, form = decoder.matrices()[name]
        first = -(-ram[name] // 16)
        return name, first, -(-rows // 16) - first, encoding(form).strip_bytes(columns)

    multiplied = [name for name in decoder.matrices() if name != "embed"] + ["embed"] * decoder.tied
    passing = lay_slots([part(name) for name in multiplied], size)
    slots = passing + (() if decoder.tied else lay_slots([part("embed")], size))
    table: list[RingSlot] = []
    pieces: dict[str, list[Piece]] = {name: [] for name in weights}
    with Writer(file, 65536) as writer:
        for index, slot in enumerate(slots):
            raw = bytearray(slot.num_bytes)
            for piece in slot.pieces:
                packed = strips[piece.weight][piece.first_strip : piece.first_strip + piece.num_strips].tobytes()
                raw[piece.offset : piece.offset + len(packed)] = packed
                first, rows = piece.first_strip * 16, decoder.matrices()[piece.weight][0]
                pieces[piece.weight].append(Piece(index, piece.offset, first, min(piece.num_strips * 16, rows - first)))
            table.append(RingSlot(writer.position, len(raw), crc32c(raw)))
            writer.write(raw)
    return table, len(passing), {name: replace(weight, pieces=tuple(pieces[name])) for name, weight in weights.items()}


def fill_call(
    call: Any, sequences: Mapping[int, tuple[int, list[int]]], pages: int, rows: list[int] | None = None
) -> None:
    """New tokens of each sequence from a position on; every sequence has pages of its own, handed out backwards."""
    index = 0
    for sequence, (position, tokens) in sequences.items():
        for offset, token in enumerate(tokens):
            call.tokens[index], call.sequence[index] = token, sequence
            call.positions[index] = call.turns[index] = position + offset
            index += 1
    call.num_tokens = index
    call.num_sequences = max(sequences) + 1
    wanted = list(range(index)) if rows is None else rows
    call.num_rows = len(wanted)
    call.rows[: len(wanted)] = wanted
    per_sequence = call.pages.shape[1]
    for sequence in range(call.pages.shape[0]):
        call.pages[sequence] = pages - 1 - sequence * per_sequence - np.arange(per_sequence)
