"""SmolLM2 learns to be 2:4: what is lost on held-out text by pruning, and what equal steps bring back, each way.

    python benchmarks/sparse_tuning.py                  # 50 steps of 4 x 128 tokens, all weights, products in bf16
    python benchmarks/sparse_tuning.py --paragraphs 360 --steps 40     # where no example is seen twice
    python benchmarks/sparse_tuning.py --ways dense s-ste s-ste-mvue "s-ste, taught"

Without more being asked only pruned once (2:4), with a teacher (SquareHead) and without: that is the question that its
paper answers, for models pruned once that learn on from few examples that they see several times. A start that was
ended goes on at its last checkpoint, --fresh begins anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, cli, parser, remove, smollm2
from tuning import examples

WAYS: dict[str, tuple[str, ...]] = {
    "dense": (),
    "2:4": ("--sparse", "2:4"),
    "2:4, taught": ("--sparse", "2:4", "--distill"),
    "s-ste": ("--sparse", "s-ste"),
    "s-ste-mvue": ("--sparse", "s-ste-mvue"),
    "s-ste, taught": ("--sparse", "s-ste", "--distill"),
}


def learned(way: str, steps: int, rate: float, data: Path, fresh: bool) -> Case:
    """`pintpot tune` in a process of its own."""
    folder = OUT / f"sparse-{way}-{steps}-{rate:g}-{data.stem}".replace(", ", "-")
    if fresh:
        remove(folder)
    command = cli(
        "tune", str(smollm2()), str(data), "-o", str(folder), "--memory", "4GB", "--method", "full", *WAYS[way],
        "--steps", str(steps), "--length", "128", "--sequences", "4", "--arithmetic", "bf16", "--threads", "2",
        "--checkpoint", "15", "--learning-rate", str(rate), "--json",
    )  # fmt: skip
    done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    measured, promised = done["measured"], done["promised"]
    return {
        "asked": done["asked"], "losses": done["losses"], "step_s": measured["step_s"],
        "peak_bytes": measured["peak_bytes"], "promised_bytes": promised["memory_bytes"][1],
        "promised_step_s": promised["step_s"],
    }  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--paragraphs", type=int, default=36, help="of the text; 36 are some 40 sequences")
    options.add_argument("--rate", type=float, default=2e-4)
    options.add_argument("--ways", nargs="+", choices=WAYS, default=["2:4", "2:4, taught"])
    given = options.parse_args()
    record, data = Record("sparse_tuning", fresh=given.fresh), examples(given.paragraphs)
    found = {}
    for way in given.ways:
        name = f"{way}, {given.steps} steps at {given.rate:g} over {given.paragraphs} paragraphs"
        one = found[way] = record.case(name, lambda way=way: learned(way, given.steps, given.rate, data, given.fresh))
        told = " -> ".join(f"{loss:.4f}" for _, loss in one["asked"])
        peak, most = one["peak_bytes"] / 1e6, one["promised_bytes"] / 1e6
        record.verdict(f"{way}: held out; a step {one['step_s']:.2f} s", told, "", True)
        record.verdict(f"{way}: peak", f"{peak:.0f} MB", f"at most {most:.0f} MB", peak <= most)
    for way in ("2:4", "s-ste"):
        if way in found and f"{way}, taught" in found:
            plain, taught = (found[name]["asked"][-1][1] for name in (way, f"{way}, taught"))
            record.verdict(f"{way}: taught beside not", f"{taught:.4f}, {plain:.4f}", "less", taught < plain)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
