"""The native replay beside this machine's limits, measured interleaved in the same run.

    python benchmarks/replay.py [decode | stream | overhead] [--threads 2] [--rounds 30] [--folder /tmp]

decode: a step of a network shaped like SmolLM2-135M (4-bit layers, 8-bit head, drawn weights, 256 positions in the
cache) beside a plain loop that reads as many bytes with as many threads. stream: a step of three blocks of an 8B shape
that rest on disk, beside direct reads of the same file with as many in flight and blocks of the same size.
overhead: a step of a network so small that only phases are left. Medians and best values.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from replaying import Decoder, Rig, fill_call, make
from test_kernels import strips_of

from pintpot._native import measure
from pintpot.stream.arena import open_arena
from pintpot.stream.reader import disk_rate
from pintpot.stream.ring import ring_stats

SMOL = Decoder(hidden=576, ffn=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=512, sequences=1)
LARGE = Decoder(
    hidden=4096, ffn=14336, layers=3, heads=32, kv_heads=8, head_dim=128, vocab=8000, context=512, sequences=1
)
TINY = Decoder(hidden=32, ffn=32, layers=30, heads=1, kv_heads=1, head_dim=32, vocab=64, context=64, sequences=1)
SLOT_BYTES, NUM_BUFFERS, IN_FLIGHT = 4 << 20, 6, 4


def rig_of(decoder: Decoder, threads: int, **options: Any) -> Rig:
    """Drawn strips; equal shapes share theirs."""
    drawn = {shape: strips_of(shape[2], *shape[:2]) for shape in set(decoder.matrices().values())}
    strips = {name: drawn[shape] for name, shape in decoder.matrices().items()}
    vectors = {name: np.full(size, 0.02, np.float32) for name, size in decoder.vectors().items()}
    vectors["rope"] = np.ones((decoder.context, decoder.head_dim), np.float32)
    programs = {"decode": decoder.program("decode", 1, 1, False)}
    return make(decoder, programs, threads=threads, packed=(strips, vectors), **options)


def step_of(rig: Rig, position: int) -> Callable[[], object]:
    replay = rig.replays["decode"]
    call = replay.call()
    fill_call(call, {0: (position, [5])}, rig.decoder.num_pages())
    return lambda: replay.run(call)


def seconds(work: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def decode(threads: int, rounds: int) -> None:
    rig = rig_of(SMOL, threads)
    step = step_of(rig, 256)
    num_bytes = sum(strips.nbytes for strips in rig.packed.values())
    with_cache = num_bytes + SMOL.layers * 2 * 257 * SMOL.kv_heads * SMOL.head_dim * 2
    arena = open_arena(with_cache)
    memoryview(arena)[:] = b"<" * arena.nbytes
    steps, loops, ratios = [], [], []
    for _ in range(rounds):
        steps.append(seconds(step, 8))
        loops.append(measure.read(rig.pool, arena, with_cache, 8) / 8)
        ratios.append(loops[-1] / steps[-1])
    print(f"{with_cache / 1e6:.1f} MB a step, {threads} threads")
    for name, values in (("step", steps), ("read loop", loops)):
        print(f"{name}: median {median(values) * 1e3:.2f} ms, best {min(values) * 1e3:.2f} ms")
    print(f"share of the read loop: median {median(ratios):.0%}, best of both {min(loops) / min(steps):.0%}")
    best = profile(rig, step, 20 * rounds)
    print("best of each op: " + ", ".join(f"{kind} {time * 1e6:.0f} µs" for kind, time in best.items()))


def profile(rig: Rig, step: Callable[[], object], times: int) -> dict[str, float]:
    """The best time of every op over many steps, summed by kind."""
    replay, best = rig.replays["decode"], None
    for _ in range(times):
        replay.profile(True)
        step()
        found = np.array(replay.stats().seconds)
        best = found if best is None else np.minimum(best, found)
    sums: dict[str, float] = {}
    for op, value in zip(replay.program.ops, best if best is not None else (), strict=True):
        name = op.kind if op.kind != "linear" else f"linear {op.read_all('weight')[0].split('.')[-1]}"
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def stream(threads: int, rounds: int, folder: Path) -> None:
    nothing = {name: 0 for name in LARGE.matrices() if name != "embed"}
    with TemporaryDirectory(dir=folder) as held:
        file = Path(held) / "pack"
        rig = rig_of(
            LARGE, threads, ram_rows=nothing, file=file, slot_bytes=SLOT_BYTES, num_buffers=NUM_BUFFERS,
            in_flight=IN_FLIGHT,
        )  # fmt: skip
        step, size, ratios, busy = step_of(rig, 5), file.stat().st_size, [], []
        assert rig.ring is not None
        step()
        for _ in range(rounds):
            rig.ring.reset_stats()
            taken = seconds(step, 4) * 4
            stats = ring_stats(rig.ring)
            # What the ring reads ahead now must not be measured below.
            time.sleep(0.05)
            disk = disk_rate(file, 0, size, in_flight=IN_FLIGHT, block=SLOT_BYTES, seconds=0.5)
            ratios.append(stats.bytes_read / taken / disk.bytes_per_s)
            busy.append(stats.more_in_flight_s / (stats.idle_s + stats.one_in_flight_s + stats.more_in_flight_s))
            print(f"{stats.bytes_read / taken / 1e9:.2f} GB/s beside {disk.bytes_per_s / 1e9:.2f}")
        print(
            f"share of direct reads: median {median(ratios):.0%}; two or more in flight {median(busy):.1%} of the time"
        )
        rig.close()


def overhead(threads: int, rounds: int) -> None:
    rig = rig_of(TINY, threads)
    step = step_of(rig, 5)
    found = [seconds(step, 100) for _ in range(rounds)]
    num_phases = 5 * TINY.layers + 1
    print(f"{num_phases} phases: median {median(found) * 1e6:.1f} µs, best {min(found) * 1e6:.1f} µs")
    phase, run = rig.pool.barrier_seconds(50_000), rig.pool.run_seconds(5_000)
    print(f"an empty phase {phase * 1e9:.0f} ns, an empty job {run * 1e6:.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("decode", "stream", "overhead"), default="decode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    asked = parser.parse_args()
    if asked.what == "stream":
        stream(asked.threads, asked.rounds, asked.folder)
    else:
        {"decode": decode, "overhead": overhead}[asked.what](asked.threads, asked.rounds)


if __name__ == "__main__":
    main()
