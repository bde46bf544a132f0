"""A model learns and is killed twenty times at drawn moments: what it has learned in the end is the same, bit for bit.

    python benchmarks/kills.py                               # twenty kills of each way to learn
    python benchmarks/kills.py --kills 100 --ways full --seed 7

A run that nobody disturbs comes first. The same is then killed (SIGKILL) while it starts, learns, writes a checkpoint,
or writes what it leaves, and started again each time; where it comes to its end it is compared, and begins anew until
all kills are done. Losses of every step, what was held out, and all files have to be equal. On the way "disk" every
weight learns in the smallest budget: blocks rest on disk with their means, and are written behind all the time. On
the way "together" two processes learn under `torchrun`: killed are all, one of them, or the starter, in turn. These two
ways take a fifth of the steps.

Starts that are killed are forks of one process that has imported everything, or most of the time would go into that
(of `torchrun` PyTorch's own agent is forked, and forks again); the run that nobody disturbs and the last start of each
way are processes of their own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, cli, parser, whisper
from forking import Forks
from killing import KINDS, Run, Together, kill, learned_files, moments, told
from tiny import Tiny, write_hf

from pintpot.errors import PintpotError, need
from pintpot.proof.learning_report import REPORT
from pintpot.trainer.receipt import RECEIPT

WAYS = {
    "lora": ("--method", "lora", "--targets", "q,k,v,o,down"),
    "qlora": ("--method", "qlora", "--arithmetic", "bf16"),
    "full": ("--method", "full"),
    "zeroth": ("--method", "zeroth"),
    "together": ("--method", "full", "--arithmetic", "float32"),
    "disk": ("--method", "full", "--arithmetic", "float32"),
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHOM = ("all", "one", "starter")
MODEL = Tiny(family="qwen2", heads=4, kv_heads=2, layers=4, tied=True)
WIDE = Tiny(family="qwen2", hidden=256, heads=4, kv_heads=2, layers=16, intermediate=1024, tied=True)
"""What rests on disk: blocks that are larger together than those that pass by."""
LONG, FEWER = ("disk", "together"), 5
"""Whose steps take long, and which part of the steps they take."""


def model_and_data(folder: Path, tiny: Tiny) -> tuple[str, str]:
    """A tiny model, and conversations to learn from."""
    model, data = folder / "model", folder / "data.jsonl"
    write_hf(model, tiny)
    talks = (
        [{"role": "user", "content": f"{n} and 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}]
        for n in range(200)
    )
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in talks))
    return str(model), str(data)


def smallest(command: list[str]) -> tuple[str, ...]:
    """The budget that the refusal of a far too small one names."""
    refused = subprocess.run([*command, "--memory", "1MB"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"needs ([\d.]+) (\wB) at least", refused.stdout)
    need(found is not None, f"it was not refused: {refused.stdout[:200]!r}", PintpotError)
    return ("--memory", "".join(found.groups())) if found else ()


def survived(forks: Forks, way: str, number: int, steps: int, seed: int) -> Case:
    """Kill one way to learn so many times, and compare."""
    place = OUT / "kills" / way
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    away, knobs = way == "disk", WAYS[way]
    model, data = model_and_data(place, WIDE if away else MODEL)
    steps = steps // FEWER if way in LONG else steps
    asked = ("--steps", str(steps), "--length", "48", "--checkpoint", "1", "--threads", "1")
    room = smallest(cli("tune", model, data, "-o", str(place / "none"), *knobs, *asked)) if away else ()

    def arguments(folder: Path) -> list[str]:
        return ["tune", model, data, "-o", str(folder), *knobs, *asked, *room, "-q"]

    def command(folder: Path) -> list[str]:
        return [*(TORCHRUN if way == "together" else [sys.executable]), "-m", "pintpot", *arguments(folder)]

    def begin() -> Run:
        if way == "together":
            whom = WHOM[(len(left) + len(left) // len(KINDS)) % len(WHOM)]
            return Together(forks.start(*arguments(folder), together=2), whom)
        return forks.start(*arguments(folder))

    subprocess.run(command(place / "whole"), check=True, stdout=subprocess.DEVNULL)
    due, facts = learned_files(place / "whole"), told(place / "whole")
    passed = json.loads((place / "whole" / RECEIPT).read_text())["promised"]["step_disk_bytes"]
    left, seen, torn, wrong, ends = moments(number, seed), Counter[str](), 0, list[str](), 0
    folder = place / "killed"

    def compare() -> None:
        wrong.extend(name for name in due if learned_files(folder).get(name) != due[name])
        wrong.extend(name for name in learned_files(folder) if name not in due)
        wrong.extend(key for key, value in facts.items() if told(folder)[key] != value)
        wrong.extend([] if (folder / REPORT).exists() else [REPORT])
        shutil.rmtree(folder)

    while left:
        found = kill(begin, folder, left[0], steps)
        if found is None or (found.step < 0 and (folder / RECEIPT).exists()):
            # By itself, or killed when it had said all and was about to go.
            ends += 1
            compare()
            continue
        moment = left.pop(0)
        seen[moment.kind] += 1
        torn += bool(found.torn)
        whisper(f"  {moment.kind}, {moment.after_s:.2f} s: dead at step {found.step} {' '.join(found.torn)}")
    subprocess.run(command(folder), check=True, stdout=subprocess.DEVNULL)
    compare()
    return {"kills": dict(seen), "torn": torn, "ends": ends + 1, "wrong": wrong, "passed": passed}


def judge(record: Record, way: str, number: int, found: Case) -> None:
    """What came of one way, as soon as it is there."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kills"].items())
    record.say(f"{way}: killed {kinds}; {found['torn']} left a file that was not whole; {found['ends']} ends")
    if way == "disk":
        read, written = found["passed"]
        moved = f"{read / 1e6:.0f} and {written / 1e6:.0f}"
        record.verdict("disk: MB read and written a step", moved, "more than none", min(read, written) > 0)
    differ = ", ".join(dict.fromkeys(found["wrong"])) or "nothing"
    record.verdict(f"{way}, {number} kills: what differs", differ, "nothing", not found["wrong"])


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    given = options.parse_args()
    record = Record("kills", fresh=given.fresh)
    with Forks() as forks:
        for way in given.ways:
            key = f"{way} {given.kills} {given.steps} {given.seed}"
            found = record.case(key, lambda way=way: survived(forks, way, given.kills, given.steps, given.seed))
            judge(record, way, given.kills, found)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
