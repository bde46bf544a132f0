"""The native replay: every op against the reference in float64, one answer everywhere, cancelling, refusing."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from comparing import check_untouched
from filling import Values, minima
from judging import Found, as_values, check
from replaying import PAGE, Decoder, Rig, drawn, fill_call, make

from pintpot import _native
from pintpot.errors import BadPack, UsageError
from pintpot.kernels import reference
from pintpot.kernels.native.bind import BoundWeight, Piece, bind, scratch_bytes
from pintpot.kernels.reference import attend
from pintpot.program.ops.linear import over_rows
from pintpot.program.scratch import scratch_bytes as planned
from pintpot.program.spec import Op, Program
from pintpot.stream.ring import ring_stats

ISAS: list[str] = _native.available_isas()
VARIANTS = {
    "plain": Decoder(),
    "float": Decoder(activation="float32", weights="f16", head="f32", cache="sym8c"),
    "two planes": Decoder(activation="int8x2", weights="aff5", head="sym6", qk_norm=True),
    "biased": Decoder(biased=True, rope="interleaved", weights="sym8", tied=False, cache="sym8c"),
    "windowed": Decoder(window=7, sinks=3, weights="f32", logprob=True),
    "superblocks": Decoder(hidden=256, heads=8, ffn=256, weights="q4_k", head="q6_k"),
}


def programs(decoder: Decoder, tokens: int = 24) -> dict[str, Program]:
    return {
        "prefill": decoder.program("prefill", tokens, 2, True),
        "decode": decoder.program("decode", decoder.sequences, decoder.sequences, False),
    }


def packed_q(decoder: Decoder) -> Any:
    """Superblocks have no encoder: random codes, scales of a sane size."""
    from test_kernels import strips_of

    strips, vectors = drawn(dataclasses.replace(decoder, weights="sym4", head="sym8"))
    for seed, (name, (rows, columns, form)) in enumerate(decoder.matrices().items()):
        strips[name] = strips_of(form, rows, columns, seed)
    # Such weights are large; small norms bring their products back to the size that a softmax can tell apart.
    return strips, {name: value * np.float32(0.002 if name.endswith("norm") else 1) for name, value in vectors.items()}


def rig_of(decoder: Decoder, **options: Any) -> Rig:
    packed = packed_q(decoder) if decoder.weights == "q4_k" else None
    return make(decoder, programs(decoder, options.pop("tokens", 24)), packed=packed, **options)


# --- Every op against the reference ----------------------------------------------------------------------------------


def cache_of(rig: Rig, name: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """A cache by token, read from its bytes: values [pages, KV, 32, hd], or codes and scales. Keys lie transposed."""
    d = rig.decoder
    pages, heads, width = d.num_pages(), d.kv_heads, PAGE * d.head_dim
    size = width * 2 if d.cache == "f16" else width + width // 16
    at = rig.addresses["prefill"][name] - rig.arena.address
    raw = np.frombuffer(rig.arena, np.uint8, pages * heads * size, at).reshape(pages, heads, size)
    keys = name.endswith("k_cache")

    def by_token(part: NDArray[Any]) -> NDArray[Any]:
        if keys:
            return part.reshape(pages, heads, -1, PAGE).swapaxes(2, 3).copy()
        return part.reshape(pages, heads, PAGE, -1).copy()

    if d.cache == "f16":
        return by_token(raw.view(np.float16)), None
    return by_token(raw[..., :width].view(np.int8)), by_token(raw[..., width:].copy().view(np.float16))


def memory_of(rig: Rig, program: Program, op: Op, tokens: int, rows: int) -> reference.Memory:
    """What the op reads, as the native memory holds it now, in float64."""
    replay, memory = rig.replays[program.name], {}
    for _, name in op.reads:
        if name in rig.packed:
            memory[name] = rig.unpacked(name).astype(np.float64)
        elif name in rig.vectors:
            memory[name] = rig.vectors[name].astype(np.float64)
        elif name.endswith("_cache"):
            memory[name] = as_values(*cache_of(rig, name))
        elif name != "tokens":
            count = rows if program.by_name[name].shape[0] == "rows" else tokens
            memory[name] = replay.floats(name)[:count].astype(np.float64)
    return memory


def reference_call(call: Any) -> reference.Call:
    tokens, rows, sequences = call.num_tokens, call.num_rows, call.num_sequences
    return reference.Call(
        call.tokens[:tokens].copy(), call.positions[:tokens].copy(), call.sequence[:tokens].copy(),
        tuple(int(row) for row in call.rows[:rows]), tuple(tuple(map(int, table)) for table in call.pages),
        (reference.Sampling(),) * sequences, (0.0,) * rows, ((),) * sequences,
    )  # fmt: skip


def rig_minima(rig: Rig) -> dict[str, NDArray[np.float64]]:
    """What is left of each weight where all its codes are 0."""
    shapes = rig.decoder.matrices().items()
    found = {name: minima(rig.packed[name], form, rows, columns) for name, (rows, columns, form) in shapes}
    return {name: least for name, least in found.items() if least is not None}


def found_of(rig: Rig, program: Program, op: Op, call: Any) -> Found:
    """What the native memory holds after an op."""
    replay, d = rig.replays[program.name], rig.decoder
    if op.kind == "sample":
        chances = replay.floats(str(op.write("logprob")))[: call.num_rows].copy() if op.write("logprob") else None
        return Found(np.array(replay.integers(str(op.write("next")))[: call.num_rows]), chances)
    count = call.num_rows if over_rows(op, program) else call.num_tokens
    found = Found(replay.floats(str(op.write("out")))[:count].copy())
    if op.kind == "attend":
        turned = replay.floats(str(op.read("qkv")))[:count, : d.heads * d.head_dim]
        found.q = turned.reshape(count, d.heads, d.head_dim).copy()
        found.caches = {name: cache_of(rig, name) for name in (str(op.read("k")), str(op.read("v")))}
    return found


def check_ops(rig: Rig, program: Program, call: Any) -> None:
    """Replay op by op; each is held against the reference in float64, over the same memory, by judging's bounds."""
    replay, told, values = rig.replays[program.name], reference_call(call), Values({}, {}, {}, rig_minima(rig), {})
    for index, op in enumerate(program.ops):
        memory = memory_of(rig, program, op, call.num_tokens, call.num_rows)
        assert replay.run(call, index, index + 1)
        found = found_of(rig, program, op, call)
        if op.kind == "attend":
            check_untouched(op, memory, found, told)
        check(op, program, memory, told, values, found)
        if op.kind == "attend":
            check_attention(op, memory, told, found)


def check_attention(op: Op, memory: reference.Memory, told: reference.Call, found: Found) -> None:
    """A closer look than judging's worst case, over native queries and caches (`memory`, since it was judged).

    A sum of n terms loses about sqrt(n) u where the worst case says n u: sqrt(128 + 32) u is 8e-7, and this is 5 of it.
    """
    assert found.q is not None
    expected = attend.attend(op, memory, told, found.q.astype(np.float64)).reshape(found.out.shape)
    assert np.abs(found.out - expected).max() <= 4e-6 * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_op_is_the_reference(variant: str) -> None:
    decoder = VARIANTS[variant]
    rig = rig_of(decoder)
    prefill, decode = rig.replays["prefill"], rig.replays["decode"]
    call = prefill.call()
    rng = np.random.default_rng(1)
    fill_call(call, {0: (0, rng.integers(0, 200, 19).tolist()), 1: (0, [7, 8, 9])}, decoder.num_pages(), rows=[18, 21])
    check_ops(rig, prefill.program, call)
    fill_call(call, {0: (19, rng.integers(0, 200, 20).tolist())}, decoder.num_pages(), rows=[19])
    check_ops(rig, prefill.program, call)
    call = decode.call()
    for step in range(3):
        fill_call(call, {0: (39 + step, [11 * step]), 1: (3 + step, [199 - step])}, decoder.num_pages())
        check_ops(rig, decode.program, call)


def test_a_long_cache_is_shared_among_threads_and_gives_the_same_bits() -> None:
    decoder = Decoder(context=1312, sequences=1, layers=1, heads=2, kv_heads=1)
    outputs = []
    for threads in (1, 2, 3):
        rig = rig_of(decoder, threads=threads, tokens=650)
        call = rig.replays["prefill"].call()
        for first in (0, 650):
            fill_call(
                call, {0: (first, [(i * 7) % 200 for i in range(first, first + 650)])}, decoder.num_pages(), rows=[649]
            )
            assert rig.replays["prefill"].run(call)
        one = rig.replays["decode"].call()
        fill_call(one, {0: (1300, [3])}, decoder.num_pages())
        check_ops(rig, rig.replays["decode"].program, one)
        outputs.append(rig.replays["decode"].floats("logits").tobytes())
    assert len(set(outputs)) == 1


# --- One result ------------------------------------------------------------------------------------------------------


def answer(rig: Rig, chunks: tuple[int, ...], num_steps: int = 6) -> tuple[list[int], bytes]:
    """Greedy tokens after a prompt read in chunks, and the last logits."""
    decoder, prompt = rig.decoder, [(i * 13) % 200 for i in range(sum(chunks))]
    prefill, decode = rig.replays["prefill"], rig.replays["decode"]
    call, at = prefill.call(), 0
    for size in chunks:
        last = at + size == len(prompt)
        fill_call(call, {0: (at, prompt[at : at + size])}, decoder.num_pages(), rows=[size - 1] if last else [])
        assert prefill.run(call)
        at += size
    tokens = [int(prefill.integers("next")[0])]
    one = decode.call()
    for _ in range(num_steps):
        fill_call(one, {0: (at, [tokens[-1]])}, decoder.num_pages())
        assert decode.run(one)
        tokens.append(int(decode.integers("next")[0]))
        at += 1
    return tokens, decode.floats("logits")[0].tobytes()


HALF_STREAMED = {
    "embed": 96, "layers.0.q": 0, "layers.0.k": 32, "layers.0.gate": 64, "layers.0.down": 16, "layers.1.o": 0,
    "layers.1.up": 16, "head": 48,
}  # fmt: skip


@pytest.mark.parametrize("variant", ["plain", "float", "two planes", "biased", "windowed"])
def test_one_answer_for_threads_instruction_sets_places_and_chunks(variant: str, tmp_path: Path) -> None:
    decoder = VARIANTS[variant]
    first = answer(rig_of(decoder, threads=1), (21,))
    for isa in ISAS:
        assert answer(rig_of(decoder, threads=2, isa=isa), (21,)) == first
    assert answer(rig_of(decoder, threads=3), (1, 4, 5, 11)) == first
    for threads in (1, 2):
        rig = rig_of(decoder, threads=threads, ram_rows=HALF_STREAMED, file=tmp_path / "pack", slot_bytes=12288)
        assert answer(rig, (9, 12)) == first
        rig.close()


def test_everything_streamed_through_the_smallest_ring(tmp_path: Path) -> None:
    decoder = VARIANTS["plain"]
    nothing = dict.fromkeys(decoder.matrices(), 0)
    rig = rig_of(decoder, ram_rows=nothing, file=tmp_path / "pack", slot_bytes=4096, num_buffers=2, in_flight=3)
    assert answer(rig, (21,)) == answer(rig_of(decoder), (21,))
    rig.close()


def test_without_rows_the_head_is_not_read(tmp_path: Path) -> None:
    decoder = dataclasses.replace(VARIANTS["plain"], vocab=3000, tied=False)
    rig = rig_of(decoder, ram_rows={"head": 0, "layers.1.down": 0}, file=tmp_path / "pack", num_buffers=2)
    assert rig.ring is not None
    prefill = rig.replays["prefill"]
    call = prefill.call()
    fill_call(call, {0: (0, [1, 2, 3])}, decoder.num_pages(), rows=[])
    for _ in range(5):
        assert prefill.run(call)
    time.sleep(0.05)
    head_bytes = rig.weights["head"].rows * 96
    assert ring_stats(rig.ring).bytes_read < head_bytes
    fill_call(call, {0: (0, [1, 2, 3])}, decoder.num_pages(), rows=[2])
    assert prefill.run(call)
    assert ring_stats(rig.ring).bytes_read > head_bytes
    assert np.isfinite(prefill.floats("logits")[0]).all()
    rig.close()


def test_a_range_of_ops_is_part_of_a_pass(tmp_path: Path) -> None:
    rig = rig_of(VARIANTS["plain"], ram_rows=HALF_STREAMED, file=tmp_path / "pack", slot_bytes=8192)
    decode = rig.replays["decode"]
    call = decode.call()
    fill_call(call, {0: (0, [5])}, rig.decoder.num_pages())
    with pytest.raises(UsageError, match="begins at its first op"):
        decode.run(call, 3)
    assert decode.run(call)
    whole = decode.floats("logits")[0].copy()
    assert decode.run(call, 0, 4)  # left in the middle: the next pass starts afresh
    for first, stop in ((0, 3), (3, 3), (3, 8), (8, len(decode.program.ops))):
        assert decode.run(call, first, stop)
    assert np.array_equal(decode.floats("logits")[0], whole)
    rig.close()


# --- Cancelling and failing ------------------------------------------------------------------------------------------


def long_call(rig: Rig) -> Any:
    call = rig.replays["prefill"].call()
    fill_call(call, {0: (0, [i % 200 for i in range(2000)])}, rig.decoder.num_pages(), rows=[1999])
    return call


LONG = Decoder(context=2016, hidden=256, heads=8, ffn=1024, layers=8, sequences=1)


def test_cancelling_leaves_between_two_chunks(tmp_path: Path) -> None:
    rig = rig_of(LONG, tokens=2000, ram_rows={"layers.2.up": 0}, file=tmp_path / "pack")
    prefill, call = rig.replays["prefill"], long_call(rig)
    rig.cancel.set()
    assert not prefill.run(call)
    assert prefill.progress == 0
    rig.cancel.clear()
    timer = threading.Timer(0.03, rig.cancel.set)
    timer.start()
    start = time.perf_counter()
    assert not prefill.run(call)
    assert time.perf_counter() - start < 5
    assert 0 < prefill.progress < len(prefill.program.ops)
    timer.join()
    rig.cancel.clear()
    one = rig.replays["decode"].call()
    fill_call(one, {0: (0, [3])}, rig.decoder.num_pages())
    assert rig.replays["decode"].run(one)
    assert np.isfinite(rig.replays["decode"].floats("logits")).all()
    rig.close()


def test_a_signal_handler_runs_inside_a_replay() -> None:
    rig = rig_of(LONG, tokens=2000)
    prefill, call = rig.replays["prefill"], long_call(rig)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    try:
        with pytest.raises(KeyboardInterrupt):
            prefill.run(call)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 < prefill.progress < len(prefill.program.ops)


def test_a_changed_slot_is_an_error_that_names_it_and_never_a_hang(tmp_path: Path) -> None:
    file = tmp_path / "pack"
    rig = rig_of(VARIANTS["plain"], ram_rows={"layers.1.up": 0}, file=file, slot_bytes=4096)
    content = file.read_bytes()
    rig.close()
    for at in (0, 4096 + 17, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 4
        rig = rig_of(VARIANTS["plain"], ram_rows={"layers.1.up": 0}, file=file, slot_bytes=4096)
        rig.close()
        file.write_bytes(changed)
        rig = rebound(rig, file)
        decode = rig.replays["decode"]
        call = decode.call()
        fill_call(call, {0: (0, [5])}, rig.decoder.num_pages())
        for _ in range(2):
            with pytest.raises(BadPack, match=f"slot {at // 4096} .*checksum"):
                decode.run(call)
        file.write_bytes(content)
        assert decode.run(call)
        rig.close()


def rebound(rig: Rig, file: Path) -> Rig:
    """The same memory with a new ring over the file as it is now."""
    from pintpot._native import crc32c
    from pintpot.stream.ring import RingSlot, open_ring

    strips = rig.packed["layers.1.up"]
    raw, table, pieces = strips.tobytes(), [], []
    per_slot = 4096 // strips.shape[1]
    for index, first in enumerate(range(0, len(strips), per_slot)):
        part = raw[first * strips.shape[1] : (first + per_slot) * strips.shape[1]].ljust(4096, b"\0")
        table.append(RingSlot(index * 4096, 4096, crc32c(part)))
        pieces.append(Piece(index, 0, first * 16, min(per_slot, len(strips) - first) * 16))
    at = rig.scratch[0] + rig.scratch[1]
    offset = -(-(at - rig.arena.address) // 4096) * 4096
    rig.ring = open_ring(file, table, rig.arena, offset=offset, num_buffers=3, slot_bytes=4096, in_flight=2)
    rig.weights["layers.1.up"] = dataclasses.replace(rig.weights["layers.1.up"], pieces=tuple(pieces))
    for name, program in programs(rig.decoder).items():
        rig.replays[name] = bound(rig, program)
    return rig


def test_a_looked_up_row_of_a_changed_slot_is_an_error(tmp_path: Path) -> None:
    decoder, file = VARIANTS["biased"], tmp_path / "pack"
    rig = rig_of(decoder, ram_rows={"embed": 64}, file=file, slot_bytes=8192)
    decode = rig.replays["decode"]
    call = decode.call()
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    fill_call(call, {0: (0, [70])}, decoder.num_pages())
    for _ in range(2):
        with pytest.raises(BadPack, match=r"slot 0 .*checksum"):
            decode.run(call)
    fill_call(call, {0: (0, [199])}, decoder.num_pages())
    assert decode.run(call)
    content[100] ^= 1
    file.write_bytes(content)
    fill_call(call, {0: (0, [70])}, decoder.num_pages())
    assert decode.run(call)
    rig.close()


def test_two_callers_take_turns(tmp_path: Path) -> None:
    rig = rig_of(VARIANTS["plain"], ram_rows=HALF_STREAMED, file=tmp_path / "pack", slot_bytes=8192)
    decode = rig.replays["decode"]
    calls = [decode.call() for _ in range(2)]
    for call in calls:
        fill_call(call, {0: (0, [5])}, rig.decoder.num_pages())
    assert decode.run(calls[0])
    wanted, found = decode.floats("logits")[0].copy(), []
    workers = [threading.Thread(target=lambda c=c: found.extend(decode.run(c) for _ in range(50))) for c in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert found == [True] * 100
    assert np.array_equal(decode.floats("logits")[0], wanted)
    rig.close()


# --- What cannot be --------------------------------------------------------------------------------------------------


def bound(rig: Rig, program: Program, **changes: Any) -> Any:
    addresses = {**rig.addresses[program.name], **changes.pop("addresses", {})}
    weights = {**rig.weights, **changes.pop("weights", {})}
    options = {
        "scratch": rig.scratch[0],
        "scratch_size": rig.scratch[1],
        "ring": rig.ring,
        "arenas": [rig.arena],
        **changes,
    }
    return bind(program, addresses, weights, rig.pool, **options)


def test_binding_refuses_what_does_not_fit(tmp_path: Path) -> None:
    rig = rig_of(VARIANTS["plain"], ram_rows={"layers.0.q": 0}, file=tmp_path / "pack", slot_bytes=4096)
    program, end = rig.replays["decode"].program, rig.arena.address + rig.arena.nbytes
    q, k, x = rig.weights["layers.0.q"], rig.weights["layers.0.k"], rig.addresses["decode"]["x.0"]
    assert bound(rig, program) is not None

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(BadPack, match=match):
            bound(rig, program, **changes)

    for name in ("x.0", "norm", "rope", "layers.1.v_cache", "logits", "next"):
        refused("none of the arenas", addresses={name: end - 4})
        refused("multiple of", addresses={name: rig.addresses["decode"][name] + 1})
    refused("own input", addresses={"x.1": x})
    refused("none of the arenas", weights={"layers.0.k": dataclasses.replace(k, address=end - 64)})
    refused("none of the arenas", scratch=end)
    refused("scratch region", scratch_size=0)
    for change, match in (
        ({"format": "sym9"}, "no packed format"),
        ({"rows": 0}, "rows and columns"),
        ({"columns": 64}, "same columns"),
        ({"resident_rows": 8}, "whole strips"),
        ({"pieces": ()}, "nowhere"),
        ({"pieces": (dataclasses.replace(q.pieces[0], slot=99),)}, "no slot 99"),
        ({"pieces": (dataclasses.replace(q.pieces[0], offset=4032),)}, "do not fit"),
        ({"pieces": (dataclasses.replace(q.pieces[0], first_row=16),)}, "begins at strip"),
        ({"pieces": tuple(reversed(q.pieces))}, "begins at strip"),
    ):
        refused(match, weights={"layers.0.q": dataclasses.replace(q, **change)})
    refused("there is no ring", ring=None)
    # The same slots wanted by a later op too: they would have to be there twice.
    again = BoundWeight("layers.1.q", "sym4", 128, 96, 0, 0, q.pieces)
    refused("order in which ops need them", weights={"layers.1.q": again})
    with pytest.raises(UsageError, match="no op 'conv'"):
        bound(rig, dataclasses.replace(program, ops=(Op("conv", (), ()),)))
    rig.close()


def test_what_is_put_into_a_call_is_there_and_nothing_lies_outside() -> None:
    rig = rig_of(VARIANTS["plain"])
    call = rig.replays["prefill"].call(history=4)
    words = array("i", range(10, 20))
    call.put(2, 1, 7, memoryview(words)[3:6])
    assert call.tokens[2:5].tolist() == [13, 14, 15]
    assert call.positions[2:5].tolist() == [7, 8, 9]
    assert call.sequence[2:5].tolist() == [1, 1, 1]
    call.put_pages(1, [3, -1])
    assert call.pages[1].tolist() == [3, -1, -1, -1]
    call.put_sampling(1, 0.5, 40, 0.25, 0.125, 2.0, 2**64 - 1)
    drawn = (call.temperature[1], call.top_k[1], call.top_p[1], call.min_p[1], call.penalty[1], call.seed[1])
    assert drawn == (0.5, 40, 0.25, 0.125, 2.0, 2**64 - 1)
    call.put_history(1, 9, words[:3])
    assert (call.counter[1], call.history_length[1], call.history[1].tolist()) == (9, 3, [10, 11, 12, 0])
    call.put_row(0, 4)
    assert call.rows[0] == 4
    most = len(call.tokens)
    for wrong in (
        lambda: call.put(most - 9, 0, 0, words),
        lambda: call.put(most + 1, 0, 0, words[:0]),
        lambda: call.put(0, 2, 0, words),
        lambda: call.put(0, -1, 0, words),
        lambda: call.put(0, 0, 0, b"123"),
        lambda: call.put_pages(0, [0] * 5),
        lambda: call.put_pages(2, [0]),
        lambda: call.put_sampling(2, 0, 0, 1, 0, 1, 0),
        lambda: call.put_history(0, 0, words[:5]),
        lambda: call.put_row(len(call.rows), 0),
    ):
        with pytest.raises(ValueError, match=r"recorded|no sequence|no row|whole int32|have room"):
            wrong()


def test_a_call_that_cannot_be_is_refused() -> None:
    rig = rig_of(VARIANTS["plain"])
    prefill = rig.replays["prefill"]

    def refused(match: str, **changes: Any) -> None:
        call = prefill.call(history=4)
        fill_call(call, {0: (0, [1, 2, 3]), 1: (5, [4])}, rig.decoder.num_pages(), rows=[2])
        assert call.pages.shape == (2, 4)
        for name, value in changes.items():
            if name.startswith("num_"):
                setattr(call, name, value)
            else:
                index, new = value
                getattr(call, name)[index] = new
        with pytest.raises(UsageError, match=match):
            prefill.run(call)

    for name in ("num_tokens", "num_rows", "num_sequences"):
        refused("were recorded", **{name: 1000})
        refused("were recorded", **{name: -1})
    refused("token 200 is not one", tokens=(0, 200))
    refused("token -1 is not one", tokens=(0, -1))
    refused("position 128 is not one", positions=(3, 128))
    refused("position -1 is not one", positions=(0, -1))
    refused("goes from position", positions=(1, 7))
    refused("sequence 2 is not one", sequence=(3, 2))
    refused("side by side", sequence=(1, 1))
    refused("wants token", rows=(0, 4))
    refused("page 0 of sequence 1", pages=((1, 0), -1))
    refused("the cache has 8", pages=((0, 0), 8))
    refused("temperature", temperature=(1, np.nan))
    refused("top-p", top_p=(0, 0))
    refused("min-p", min_p=(0, 2))
    refused("top-k", top_k=(0, -1))
    refused("penalty", penalty=(0, 0))
    refused("history", history_length=(0, 5))
    wide = _native.Call(48, 2, 2, 128, 0)
    with pytest.raises(UsageError, match="larger bounds"):
        prefill.run(wide)
    one = rig.replays["decode"].call()
    fill_call(one, {0: (0, [1]), 1: (0, [2])}, rig.decoder.num_pages(), rows=[1])
    with pytest.raises(UsageError, match="no select"):
        rig.replays["decode"].run(one)


def test_scratch_is_known_beforehand_and_planned(tmp_path: Path) -> None:
    for variant, decoder in VARIANTS.items():
        for program in programs(dataclasses.replace(decoder, context=2048)).values():
            for threads in (1, 2, 4):
                assert scratch_bytes(program, threads) == planned(program, threads), variant
    rig = rig_of(VARIANTS["plain"], ram_rows={"embed": 32}, file=tmp_path / "pack")
    for program in [replay.program for replay in rig.replays.values()]:
        exact = scratch_bytes(program, rig.pool.size)
        assert exact == planned(program, rig.pool.size)
        assert bound(rig, program, scratch_size=exact) is not None
        with pytest.raises(BadPack, match="scratch region"):
            bound(rig, program, scratch_size=exact - 1)
    rig.close()


def test_memory_stays_while_it_is_used() -> None:
    rig = rig_of(VARIANTS["plain"])
    with pytest.raises(BufferError):
        rig.arena.close()
    rig.close()
    rig.arena.close()
    assert not rig.arena.is_open
    with pytest.raises(BadPack, match="none of the arenas"):
        bound(rig, programs(rig.decoder)["decode"])


# --- Profile ---------------------------------------------------------------------------------------------------------


def test_seconds_of_each_op() -> None:
    rig = rig_of(VARIANTS["plain"])
    decode = rig.replays["decode"]
    call = decode.call()
    fill_call(call, {0: (0, [5])}, rig.decoder.num_pages())
    shares = []
    for _ in range(5):
        decode.profile(True)
        start = time.perf_counter()
        for _ in range(20):
            assert decode.run(call)
        elapsed = time.perf_counter() - start
        stats = decode.stats()
        assert stats.calls == 20
        assert stats.kinds == tuple(op.kind for op in decode.program.ops)
        assert all(seconds > 0 for seconds in stats.seconds)
        shares.append(sum(stats.seconds) / elapsed)
    # A busy machine may keep the caller waiting between two calls, but not each time.
    assert 0.1 < max(shares) < 1
    assert decode.progress == len(decode.program.ops)
