"""A model learns and is killed twenty times at drawn moments: what it has learned in the end is the same, bit for bit.

    python benchmarks/kills.py                               # twenty kills of each way to learn
    python benchmarks/kills.py --kills 100 --ways full --seed 7

A run that nobody disturbs comes first. The same is then killed (SIGKILL) while it starts, learns, writes a checkpoint,
or writes what it leaves, and started again each time; where it comes to its end it is compared, and begins anew until
all kills are done. Losses of every step, what was held out, and all files have to be equal.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, cli, parser, whisper
from killing import kill, learned_files, moments, told
from tiny import Tiny, write_hf

WAYS = {
    "lora": ("--method", "lora", "--targets", "q,k,v,o,down"),
    "qlora": ("--method", "qlora", "--arithmetic", "bf16"),
    "full": ("--method", "full"),
    "zeroth": ("--method", "zeroth"),
}
MODEL = Tiny(family="qwen2", heads=4, kv_heads=2, layers=4, tied=True)


def model_and_data(folder: Path) -> tuple[str, str]:
    """A tiny model, and conversations to learn from."""
    model, data = folder / "model", folder / "data.jsonl"
    write_hf(model, MODEL)
    talks = (
        [{"role": "user", "content": f"{n} and 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}]
        for n in range(200)
    )
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in talks))
    return str(model), str(data)


def survived(way: str, knobs: tuple[str, ...], number: int, steps: int, seed: int) -> Case:
    """Kill one way to learn so many times, and compare."""
    place = OUT / "kills" / way
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    model, data = model_and_data(place)

    def command(folder: Path) -> list[str]:
        asked = ("--steps", str(steps), "--length", "48", "--checkpoint", "1", "--threads", "1", "-q")
        return cli("tune", model, data, "-o", str(folder), *knobs, *asked)

    subprocess.run(command(place / "whole"), check=True, stdout=subprocess.DEVNULL)
    due, facts = learned_files(place / "whole"), told(place / "whole")
    left, seen, torn, wrong, ends = moments(number, seed), Counter[str](), 0, list[str](), 0
    folder = place / "killed"

    def compare() -> None:
        wrong.extend(name for name in due if learned_files(folder).get(name) != due[name])
        wrong.extend(name for name in learned_files(folder) if name not in due)
        wrong.extend(key for key, value in facts.items() if told(folder)[key] != value)
        shutil.rmtree(folder)

    while left:
        found = kill(command(folder), folder, left[0])
        if found is None:
            ends += 1
            compare()
            continue
        moment = left.pop(0)
        seen[moment.kind] += 1
        torn += bool(found.torn)
        whisper(f"  {moment.kind}, {moment.after_s:.2f} s: dead at step {found.step} {' '.join(found.torn)}")
    subprocess.run(command(folder), check=True, stdout=subprocess.DEVNULL)
    compare()
    return {"kills": dict(seen), "torn": torn, "ends": ends + 1, "wrong": wrong, "steps": steps}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    given = options.parse_args()
    record = Record("kills", fresh=given.fresh)
    for way in given.ways:
        key = f"{way} {given.kills} {given.steps} {given.seed}"
        found = record.case(key, lambda way=way: survived(way, WAYS[way], given.kills, given.steps, given.seed))
        kinds = ", ".join(f"{count} {kind}" for kind, count in found["kills"].items())
        record.say(f"{way}: killed {kinds}; {found['torn']} left a file that was not whole; {found['ends']} ends")
        differ = ", ".join(dict.fromkeys(found["wrong"])) or "nothing"
        record.verdict(f"{way}, {given.kills} kills: what differs", differ, "nothing", not found["wrong"])
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
