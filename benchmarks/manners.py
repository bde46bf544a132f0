"""Beside others: decoding next to a busy neighbour, nothing taken while nothing is asked, and a container of one core.

    python benchmarks/manners.py [--rounds 20] [--fresh]

SmolLM2 decodes with two threads and with one, in turn, alone and beside a process that takes a whole core: pinned to
one, or wherever the scheduler puts it. Then processor time is counted of a session that waits for a person, and of one
whose weights come from a throttled disk; and a plan is made where only one core may be used.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from bench import OUT, Case, Record, code_digest, drawn_model, parser, probed_machine, remove, smollm2, whisper
from driven import Driven
from slowing import SPIN, Neighbour, Share
from texts import shipped_text

from pintpot import api
from pintpot.errors import PintpotError, UnsupportedPlatform, need
from pintpot.meter.clock import quantile

PROMPT, STEPS, THREADS = 128, 24, ("2", "1")
ALONE = "alone"
LOADS: dict[str, tuple[int | None, ...]] = {
    ALONE: (), "a neighbour pinned to core 0": (0,), "a neighbour anywhere": (None,), "two neighbours": (None, None),
}  # fmt: skip
ONE_TAKEN = 1
"""So many neighbours a promise is made for."""
BESIDE, IDLE_S, IDLE_CPU_S = 0.85, 3.0, 0.005
THROTTLED, WAITING_SHARE = 5.0, 0.02
_THREADS = "import sys; from pintpot import api; print(api.plan(sys.argv[1], memory='1GB', context=512).threads)"


def packed(name: str, model: Path, memory: str) -> Path:
    """A pack of these sources, made where it is missing."""
    folder = OUT / "packs" / f"manners-{name}-{code_digest()}"
    if not folder.exists():
        plan = api.plan(model, machine=probed_machine(), memory=memory, context=2048, prompt=PROMPT, output=32)
        api.pack(model, plan, folder)
    return folder


def beside(folder: Path, cpus: tuple[int | None, ...], rounds: int) -> Case:
    """Seconds of a step with two threads and with one, in turn and in turned order; each the median of a round."""
    need(len(os.sched_getaffinity(0)) >= 2, "two threads need two cores", PintpotError)
    found: dict[str, list[float]] = {threads: [] for threads in THREADS}
    with ExitStack() as stack:
        neighbours = [stack.enter_context(Neighbour(SPIN, cpu)) for cpu in cpus]
        packs = {threads: stack.enter_context(Driven("pack", str(folder), threads)) for threads in THREADS}
        for pack in packs.values():
            pack.ask("start", text=shipped_text(), prompt=PROMPT, output=STEPS * (rounds + 2))
            pack.ask("steps", number=STEPS)
        answers = set()
        for index in range(rounds):
            whisper(f"round {index + 1} of {rounds}")
            with ExitStack() as work:
                for neighbour in neighbours:
                    work.enter_context(neighbour.at_work())
                for threads in THREADS[:: 1 if index % 2 else -1]:
                    steps = packs[threads].ask("steps", number=STEPS)
                    found[threads].append(sum(steps["step_s"]) / STEPS)
                    answers.add((index, tuple(steps["tokens"])))
        need(len(answers) == rounds, "the answers differ with the number of threads", PintpotError)
    return {"step_s": found}


def idle(folder: Path) -> Case:
    """Processor time of a session that was asked something before, and now waits."""
    with Driven("pack", str(folder)) as pack:
        pack.ask("start", text=shipped_text(), prompt=PROMPT, output=8)
        pack.ask("steps", number=6)
        before = pack.ask("cpu_seconds")
        sleep(IDLE_S)
        return {"cpu_s": pack.ask("cpu_seconds") - before}


def throttled(folder: Path) -> Case:
    """Wall and processor seconds of steps as they are, and where the disk gives a fraction of its rate."""
    found: Case = {}
    with Share("blkio") as share, Driven("pack", str(folder), cap=share) as pack:
        pack.ask("start", text=shipped_text(), prompt=8, output=64)
        pack.ask("steps", number=3)
        quick = _timed(pack, 10)
        rate = quick["read_bytes"] / quick["wall_s"] / THROTTLED
        with share.reading(folder, rate):
            pack.ask("steps", number=1)
            slow = _timed(pack, 10)
        found = {"quick": quick, "slow": slow, "rate": rate}
    return found


def _timed(pack: Driven, number: int) -> Case:
    before, started = pack.ask("cpu_seconds"), perf_counter()
    steps = pack.ask("steps", number=number)
    wall_s = perf_counter() - started
    return {"wall_s": wall_s, "cpu_s": pack.ask("cpu_seconds") - before, "read_bytes": steps["read_bytes"]}


def one_core(model: Path) -> Case:
    """Threads of a plan that is made in a group with the time of one core, and of one made on one processor."""
    found: Case = {}
    with TemporaryDirectory() as home:
        command = [sys.executable, "-c", _THREADS, str(model)]
        environment = {**os.environ, "PINTPOT_HOME": home}
        try:
            with Share("cpu") as share:
                share.cores(1.0)
                process = share.popen(command, env=environment, stdout=subprocess.PIPE, text=True)
                found["a group with the time of one core"] = int(process.communicate()[0])
        except UnsupportedPlatform as error:
            found["why"] = str(error)
        pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command]
        done = subprocess.run(pinned, env=environment, check=True, capture_output=True, text=True)
        found["one processor allowed"] = int(done.stdout)
    return found


def show_beside(record: Record, load: str, case: Case) -> tuple[str, ...]:
    """The row of a load, and its verdict."""
    two, one = (case["step_s"][threads] for threads in THREADS)
    ratios = [b / a for a, b in zip(two, one, strict=True)]
    middle = statistics.median(ratios)
    if len(LOADS[load]) == ONE_TAKEN:
        record.verdict(f"two threads over one, {load}", f"{middle:.2f}", f"{BESIDE} at least", middle >= BESIDE)
    quarters = f"{quantile(ratios, 0.25):.2f} to {quantile(ratios, 0.75):.2f}"
    sums = sum(one) / sum(two)
    return (
        load, f"{1e3 * statistics.median(two):.2f}", f"{1e3 * statistics.median(one):.2f}", f"{middle:.2f}", quarters,
        f"{sums:.2f}", str(len(ratios)),
    )  # fmt: skip


def show_waiting(record: Record, case: Case) -> None:
    """What waiting for the disk took."""
    quick, slow = case["quick"], case["slow"]
    share = (slow["cpu_s"] - quick["cpu_s"]) / (slow["wall_s"] - quick["wall_s"])
    record.say(
        f"ten steps: {quick['wall_s']:.2f} s, {quick['cpu_s']:.2f} s of processor time; "
        f"at {case['rate'] / 1e6:.0f} MB/s {slow['wall_s']:.2f} s, {slow['cpu_s']:.2f} s of processor time"
    )
    record.verdict(
        "processor time of waiting for the disk", f"{share:.1%}", f"{WAITING_SHARE:.0%}", share <= WAITING_SHARE
    )


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    asked = options.parse_args()
    probed_machine()
    record = Record("manners", fresh=asked.fresh)
    folder = packed("smollm2", smollm2(), "1GB")
    streamed = packed("streamed", drawn_model("0.5b", "q4_0"), "200MB")
    cases = {load: record.case(load, partial(beside, folder, cpus, asked.rounds)) for load, cpus in LOADS.items()}
    rows = [show_beside(record, load, case) for load, case in cases.items()]
    record.table(("load", "2 threads ms", "1 thread ms", "ratio", "quarters", "of sums", "rounds"), rows)
    waited = record.case("waiting for a person", partial(idle, folder))["cpu_s"]
    text, wanted = f"{1e3 * waited:.2f} ms in {IDLE_S:g} s", f"{1e3 * IDLE_CPU_S:g} ms"
    record.verdict("processor time while waiting for a person", text, wanted, waited <= IDLE_CPU_S)
    try:
        show_waiting(record, record.case("waiting for the disk", partial(throttled, streamed)))
    except UnsupportedPlatform as error:
        record.say(f"waiting for the disk was not measured: {error}")
    for what, threads in record.case("one core", partial(one_core, smollm2())).items():
        if what not in ("date", "code", "why"):
            record.verdict(f"threads of a plan, {what}", str(threads), "1", threads == 1)
    for pack in (folder, streamed):
        remove(pack)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
