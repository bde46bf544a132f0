"""A model larger than its memory: reading never stops while computing, and decoding keeps up with plain reads.

    python benchmarks/streaming.py [--memory 2250MB 1130MB 450MB] [--pairs 20] [--keep] [--fresh]

The shape of Llama 3.1 8B in 4 bits, drawn weights, run inside a real memory cap of a half, a quarter and a tenth of its
size. Steps of decoding take turns with a second process that only reads the same bytes of the same file: direct reads
of the same size, as many in flight. Bytes are those that the kernel fetched from the disk for the process
(/proc/self/io), not the page cache's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench import OUT, Case, Record, caps_work, cli, code_digest, drawn_model, parser, probed_machine, remove, whisper
from driven import Driven
from texts import shipped_text

from pintpot.errors import PintpotError, need
from pintpot.meter.cap import Cap
from pintpot.meter.clock import quantile
from pintpot.packer.manifest import read_manifest
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.plan import Plan
from pintpot.units import parse_bytes

PROMPT, SHOWN, STEPS = 16, 3, 2
IN_FLIGHT_SHARE, RATE_SHARE, BYTES_SHARE = 0.97, 0.9, 0.01


def pack_folder(memory: int) -> Path:
    """Where the pack for so much memory lies: the same for the same sources."""
    return OUT / "packs" / f"streaming-{memory}-{code_digest()}"


def make_pack(memory: int) -> Path:
    """The 8B shape packed for so much memory; what an earlier start of the same sources left is used."""
    folder = pack_folder(memory)
    if not folder.exists():
        asked = ["--memory", str(memory), "--context", "512", "--prompt", str(PROMPT), "--output", "32"]
        command = cli("pack", str(drawn_model("8b", "q4_0")), *asked, "-o", str(folder), "-q")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def region(folder: Path) -> tuple[Plan, int, int]:
    """The plan, and where in the file the bytes lie that every step reads: offset and number."""
    manifest, _ = read_manifest(folder)
    passing = manifest.slots[: manifest.num_passing]
    need(bool(passing), "this plan streams nothing", PintpotError)
    last_offset, _, last = passing[-1]
    return manifest.plan, passing[0][0], last_offset + last.num_bytes - passing[0][0]


def measure(folder: Path, memory: int, pairs: int, cap: bool) -> Case:
    """Pairs of plain reads and decoding, in turn."""
    plan, offset, num_bytes = region(folder)
    ring = plan.form.ring
    need(ring is not None, "this plan has no ring", PintpotError)
    reads: dict[str, Any] = {
        "offset": offset, "num_bytes": num_bytes, "block": ring.slot_bytes, "in_flight": ring.in_flight,
    }  # fmt: skip
    with ExitStack() as stack:
        limit = stack.enter_context(Cap(memory)) if cap else None
        pack = stack.enter_context(Driven("pack", str(folder), cap=limit))
        disk = stack.enter_context(Driven("disk", str(folder / WEIGHTS)))
        first = disk.ask("read", **reads, seconds=0.5)
        need(first["direct"], "the disk takes no direct reads here", PintpotError)
        answers = [_few_words(pack) for _ in range(2)]
        need(answers[0] == answers[1], f"one question, two answers: {answers}", PintpotError)
        pack.ask("start", text=shipped_text(), prompt=PROMPT, output=STEPS * (pairs + 1) + 2)
        pack.ask("steps", number=1)
        found, plain = [], [disk.ask("read", **reads, seconds=num_bytes / first["rate"])["rate"]]
        for index in range(pairs):
            whisper(f"pair {index + 1} of {pairs}")
            found.append(pack.ask("steps", number=STEPS))
            plain.append(disk.ask("read", **reads, seconds=num_bytes / plain[-1])["rate"])
        peak = pack.ask("memory")["peak_bytes"]
    return {"steps": found, "plain": plain, "peak": peak, "killed": limit is not None and limit.report.killed}


def _few_words(pack: Driven) -> list[int]:
    begun = pack.ask("start", text=shipped_text(), prompt=PROMPT, output=SHOWN + 1)
    return [begun["token"], *pack.ask("steps", number=SHOWN)["tokens"]]


def show(record: Record, case: Case, plan: Plan, memory: int) -> None:
    """The table of pairs, and the verdicts."""
    rows, ratios, shares, sizes = [], [], [], []
    for index, found in enumerate(case["steps"]):
        seconds, ring = sum(found["step_s"]), found["ring"]
        plain = (case["plain"][index] + case["plain"][index + 1]) / 2
        rate = found["read_bytes"] / seconds
        in_flight = [ring[key] for key in ("idle_s", "one_in_flight_s", "more_in_flight_s")]
        ratios.append(rate / plain)
        shares.append(in_flight[2] / sum(in_flight))
        sizes.append(found["read_bytes"] / len(found["step_s"]))
        rows.append((
            str(index + 1), f"{seconds / len(found['step_s']):.3f}", f"{rate / 1e9:.3f}", f"{plain / 1e9:.3f}",
            f"{ratios[-1]:.3f}", f"{shares[-1]:.4f}", f"{in_flight[0]:.4f}", f"{sizes[-1] / 1e6:.2f}",
        ))  # fmt: skip
    columns = ("pair", "s a token", "GB/s", "plain GB/s", "ratio", "two or more", "idle s", "MB a token")
    record.table(columns, rows)
    record.say()
    decode = plan.cost.stage("decode")
    promised = decode.disk_bytes / decode.replays
    apart = statistics.median(sizes) / promised - 1
    record.verdict("peak of memory", f"{case['peak'] / 1e6:.0f} MB", f"{memory / 1e6:.0f} MB", case["peak"] <= memory)
    record.verdict("killed by the cap", str(case["killed"]), "False", not case["killed"])
    share = statistics.median(shares)
    record.verdict("two or more reads in flight", f"{share:.2%}", f"{IN_FLIGHT_SHARE:.0%}", share >= IN_FLIGHT_SHARE)
    text = f"{statistics.median(sizes) / 1e6:.2f} MB, {apart:+.2%} of the promise"
    record.verdict("bytes a token", text, f"{BYTES_SHARE:.0%}", abs(apart) <= BYTES_SHARE)
    middle = statistics.median(ratios)
    spread = (
        f"{middle:.3f} (quarters {quantile(ratios, 0.25):.3f} to {quantile(ratios, 0.75):.3f}, {len(ratios)} pairs)"
    )
    record.verdict("decoding beside plain reads", spread, f"{RATE_SHARE}", middle >= RATE_SHARE)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--memory", nargs="+", default=["2250MB", "1130MB", "450MB"])
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--keep", action="store_true", help="leave the pack there")
    asked = options.parse_args()
    probed_machine()
    record = Record("streaming", fresh=asked.fresh)
    cap = caps_work(record)
    for memory in map(parse_bytes, asked.memory):
        in_so_much(record, memory, asked.pairs, cap)
        if not asked.keep:
            remove(pack_folder(memory))
    return record.finish()


def in_so_much(record: Record, memory: int, pairs: int, cap: bool) -> None:
    """Pack for a memory, measure, show."""
    folder = make_pack(memory)
    plan, _, num_bytes = region(folder)
    ring = plan.form.ring
    record.say(
        f"\n{plan.model_name} in {memory / 1e6:.0f} MB: {plan.form.ram_bytes / 1e6:.0f} MB in RAM, "
        f"{num_bytes / 1e6:.0f} MB read by each step"
    )
    record.say(f"ring: {ring}; threads {plan.threads}; {'; '.join(map(str, plan.steps))}\n")
    case = record.case(f"{memory} {pairs} pairs", partial(measure, folder, memory, pairs, cap))
    show(record, case, plan, memory)


if __name__ == "__main__":
    sys.exit(main())
