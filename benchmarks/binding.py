"""The resource that a plan names as the one that it waits for: slow that one down, and only then does the time move.

    python benchmarks/binding.py [--rounds 9] [--only TEXT] [--fresh]

Plans for one thread, which runs on one processor. In turn they run as they are and with one thing slowed:

- RAM: a process on another processor reads memory as fast as it can; beside it the same with one that only computes,
  to see what a busy neighbour alone does;
- arithmetic: the same program on another instruction set (PINTPOT_ISA);
- disk: a control group with half of the rate that it just had (version 1, blkio).

How much each slowing takes from each resource is measured in the same minute by plain loops: reading memory, int8
products in registers, direct reads; and what another instruction set takes from the plan's own kernels, by their rates
out of the caches. Barriers and calls cannot be slowed alone, so no plan that waits for them is here.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bench import OUT, Case, Record, drawn_model, parser, probed_machine, remove, smollm2, whisper
from driven import Driven
from slowing import READ, SPIN, Neighbour, Share
from texts import shipped_text

from pintpot import api
from pintpot.errors import PintpotError, need
from pintpot.machine.spec import Machine, Rate
from pintpot.packer.manifest import read_manifest
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.assess import reprice
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.price import ARITHMETIC, DISK, RAM
from pintpot.planner.question import Question

STEPS, STREAMED_STEPS, AHEAD = 16, 6, 2
LIMIT_BYTES, DISK_S, SAMPLES = 256_000_000, 0.3, 3
LEAST, MOVED, STILL, HALF = 1.15, 0.5, 0.1, 0.5
NOTHING, COMPUTING = "nothing", "a neighbour that computes"
SLOWED = (NOTHING, RAM, COMPUTING, ARITHMETIC, DISK)


@dataclass(frozen=True)
class Setting:
    """A plan and one stage of it. `isa` is the instruction set that arithmetic is slowed by."""

    what: str
    stage: str
    model: str
    memory: str
    prompt: int = 32
    prefer: Literal["speed", "quality"] = "speed"
    isa: str = "avx2"

    def plan(self, machine: Machine) -> tuple[Any, Plan]:
        shape, _, dtype = self.model.partition(" ")
        model = api.describe(drawn_model(shape, dtype) if dtype else smollm2())
        asked = {"context": 1024, "prompt": self.prompt, "output": 64}
        return model, api.plan(model, machine=machine, memory=self.memory, threads=1, prefer=self.prefer, **asked)


SETTINGS = (
    Setting("SmolLM2, answer", "decode", "smollm2", "1GB"),
    Setting("SmolLM2, prompt of 512", "prefill", "smollm2", "1GB", 512),
    Setting("0.5B, 4 bits, answer", "decode", "0.5b q4_0", "2GB"),
    Setting("0.5B, 8 bits, answer", "decode", "0.5b q8_0", "2GB", prefer="quality"),
    Setting("0.5B, 4 bits, prompt of 512", "prefill", "0.5b q4_0", "2GB", 512),
    Setting("0.5B, 4 bits, 200 MB, answer", "decode", "0.5b q4_0", "200MB"),
    Setting("1.5B, 4 bits, 500 MB, answer", "decode", "1.5b q4_0", "500MB"),
)


class Stand:
    """A packed plan on one processor, everything beside it, and the loops that tell what a slowing takes."""

    def __init__(self, setting: Setting, plan: Plan, folder: Path, stack: ExitStack) -> None:
        here, there = sorted(os.sched_getaffinity(0))[:2]
        self.setting, self.weights = setting, folder / WEIGHTS
        self.share = stack.enter_context(Share("blkio"))
        self.neighbours = {
            RAM: stack.enter_context(Neighbour(READ, there)), COMPUTING: stack.enter_context(Neighbour(SPIN, there)),
        }  # fmt: skip
        self.packs, self.limits = {}, {}
        for isa in ("", setting.isa):
            self.packs[isa] = stack.enter_context(Driven("pack", str(folder), "1", cap=self.share, isa=isa))
            self.limits[isa] = stack.enter_context(Driven("limit", str(LIMIT_BYTES), "1", isa=isa))
        self.disk = stack.enter_context(Driven("disk", str(self.weights), cap=self.share))
        for process in (*self.packs.values(), *self.limits.values(), self.disk):
            process.ask("pin", cpu=here)
        manifest, _ = read_manifest(folder)
        passing, ring = manifest.slots[: manifest.num_passing], plan.form.ring
        self.region: dict[str, int] = {}
        if ring is not None and passing:
            size = sum(slot.num_bytes for _, _, slot in passing)
            knobs = {"block": ring.slot_bytes, "in_flight": ring.in_flight}
            self.region = {"offset": passing[0][0], "num_bytes": size, **knobs}
        self.disk_rate = self._disk_rate() or 1e8

    @contextmanager
    def slowed(self, what: str) -> Iterator[str]:
        """A block during which something is slower; gives the instruction set to use."""
        neighbour: AbstractContextManager[None] = nullcontext()
        throttle: AbstractContextManager[None] = nullcontext()
        if what in self.neighbours:
            neighbour = self.neighbours[what].at_work()
        if what == DISK:
            throttle = self.share.reading(self.weights, self.disk_rate * HALF)
        with neighbour, throttle:
            yield self.setting.isa if what == ARITHMETIC else ""

    def sample(self, what: str) -> Case:
        """Seconds of the stage, and the limits."""
        with self.slowed(what) as isa:
            limit = self.limits[isa].ask("sample")
            pack = self.packs[isa]
            begun = pack.ask("start", text=shipped_text(), prompt=self.setting.prompt, output=STEPS + AHEAD + 1)
            if self.setting.stage == "prefill":
                seconds = begun["prompt_s"]
            else:
                # What was read ahead before the slowing began is used up first.
                pack.ask("steps", number=AHEAD)
                number = STREAMED_STEPS if self.region else STEPS
                seconds = statistics.median(pack.ask("steps", number=number)["step_s"])
            rate = self._disk_rate()
        if what == NOTHING and rate:
            self.disk_rate = rate
        each = {RAM: limit["read_s"], ARITHMETIC: 1 / limit["int8_per_s"], DISK: 1 / rate if rate else 0.0}
        return {"seconds": seconds, "each": each}

    def _disk_rate(self) -> float:
        return float(self.disk.ask("read", **self.region, seconds=DISK_S)["rate"]) if self.region else 0.0


def measure(setting: Setting, machine: Machine, rounds: int) -> Case:
    """Plan, pack, and run everything in turn."""
    model, plan = setting.plan(machine)
    folder = OUT / "packs" / "binding"
    if folder.exists():
        remove(folder)
    api.pack(model, plan, folder)
    found: dict[str, list[Case]] = {what: [] for what in SLOWED}
    kernels = _arithmetic_s(setting, model, plan, machine)
    with ExitStack() as stack:
        stand = Stand(setting, plan, folder, stack)
        for what in SLOWED:
            stand.sample(what)
        for index in range(rounds):
            whisper(f"  round {index + 1} of {rounds}")
            for what in SLOWED:
                found[what].append(stand.sample(what))
    remove(folder)
    stage = plan.cost.stage(setting.stage)
    times = stage.replays if setting.stage == "decode" else 1
    alone = {what: seconds / times for what, seconds in stage.bound_s}
    promised_s = stage.seconds.mid / times
    return {"binds": stage.binds, "alone": alone, "promised_s": promised_s, "kernels": kernels, "found": found}


def _arithmetic_s(setting: Setting, model: Any, plan: Plan, machine: Machine) -> dict[str, float]:
    """The plan's arithmetic alone, priced anew with the rates of the kernels of both instruction sets, in turn."""
    formats = ",".join(sorted({form.format for form in plan.form.weights if form.is_matrix} | {"f32"}))
    with ExitStack() as stack:
        loops = {isa: stack.enter_context(Driven("rates", "1", formats, isa=isa)) for isa in ("", setting.isa)}
        samples = [{isa: one.ask("sample") for isa, one in loops.items()} for _ in range(SAMPLES)]
    disk = tuple(rate for rate in machine.rates if rate.what in ("disk", "lookup"))
    found = {}
    for isa in loops:
        rates = []
        for same in zip(*(sample[isa] for sample in samples), strict=True):
            speed = statistics.median(one["rate"] for one in same)
            rates.append(Rate(same[0]["what"], speed, speed, speed, same[0]["threads"], same[0]["size"]))
        question = Question(model, replace(machine, rates=(*rates, *disk)), plan.budget, shipped_priors())
        found[isa or "best"] = dict(reprice(plan, question).cost.stage(setting.stage).bound_s)[ARITHMETIC]
    return found


def moved(case: Case, what: str) -> float:
    """How much longer the stage took with something slowed, round by round, as a share."""
    pairs = zip(case["found"][what], case["found"][NOTHING], strict=True)
    return statistics.median(slow["seconds"] / quick["seconds"] for slow, quick in pairs) - 1


def factor(case: Case, what: str, resource: str) -> float:
    """How many times as long the loops of a resource took with something slowed."""
    if what == resource == ARITHMETIC:
        quick, slow = case["kernels"].values()
        return float(slow / quick)
    pairs = zip(case["found"][what], case["found"][NOTHING], strict=True)
    ratios = [slow["each"][resource] / quick["each"][resource] for slow, quick in pairs if quick["each"][resource]]
    return statistics.median(ratios) if ratios else 1.0


def show(record: Record, setting: Setting, case: Case) -> None:
    """What was slowed, what that took from each resource, what it should have cost, and what it did."""
    binds, alone, promised = case["binds"], case["alone"], case["promised_s"]
    now = statistics.median(one["seconds"] for one in case["found"][NOTHING])
    told = ", ".join(f"{what} {1e3 * seconds:.2f}" for what, seconds in alone.items())
    record.say(
        f"{setting.what}: waits for {binds}; {1e3 * now:.2f} ms, promised {1e3 * promised:.2f}; each alone: {told}"
    )
    rows, verdicts = [], []
    for what in SLOWED[1:]:
        took = {resource: factor(case, what, resource) for resource in (RAM, ARITHMETIC, DISK)}
        by, share = moved(case, what), 0.0
        if what in took:
            share = (took[what] - 1) * alone[what] / promised
        rows.append((
            what, *(f"{value:.2f}" for value in took.values()), f"{share:+.0%}" if what in took else "",
            f"{by:+.0%}",
        ))  # fmt: skip
        if what == COMPUTING:
            continue
        if what == binds:
            if took[what] < LEAST:
                record.say(f"  {what} could not be slowed: {took[what]:.2f}")
                continue
            verdicts.append(
                (f"{what} slowed, and it binds", f"{by:+.0%}", f"{MOVED * share:+.0%} at least", by >= MOVED * share)
            )
        elif took[what] * alone[what] < alone[binds]:
            verdicts.append(
                (f"{what} slowed, which does not bind", f"{by:+.0%}", f"under {STILL:.0%}", abs(by) < STILL)
            )
        else:
            record.say(f"  {what} slowed so much ({took[what]:.2f}) would bind itself: no verdict")
    record.table(("  slowed", "RAM", "arithmetic", "disk", "should move", "moved"), [("  " + a, *b) for a, *b in rows])
    for verdict in verdicts:
        record.verdict(f"{setting.what}: {verdict[0]}", *verdict[1:])
    record.say()


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--only", default="", help="cases with this text in their name")
    asked = options.parse_args()
    need(len(os.sched_getaffinity(0)) >= 2, "a neighbour needs a second processor", PintpotError)
    machine = probed_machine()
    record = Record("binding", fresh=asked.fresh)
    for setting in SETTINGS:
        if asked.only in setting.what:
            show(record, setting, record.case(setting.what, partial(measure, setting, machine, asked.rounds)))
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
