"""Formats chosen weight by weight beside the best single format, at budgets of ten sizes: KL and speed, both measured.

    python benchmarks/allocations.py                 # off-grid SmolLM2; 8,192 tokens of held-out text
    python benchmarks/allocations.py --tokens 2048 --without-speed --rounding gptq

At each budget of bytes for all matrices the single format that answers nearest to the float model stands on one side.
The other is chosen as a plan chooses it: the least sum of the model's table of sensitivities, in no more bytes than the
budget and no more seconds a token than the single format takes by this machine's rates. Both are rounded in the same
way. Everything found is kept in out/allocations.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import Case, Record, parser, probed_machine
from by_bytes import choices, mixed, packed, plan_of
from divergence import Judge
from frontier import FAST, LENGTH, off_grid
from held_out import held_out_tokens
from in_turn import decode_in_turn, own, ratio_of

from pintpot import api
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.model.tokens import Tokenizer
from pintpot.packer.calibrate.texts import cut, read_text
from pintpot.packer.pack import tokenizer_of
from pintpot.planner.bits import Choices, Limits, allocate
from pintpot.planner.sensitivity import table_key
from pintpot.techniques.quantize.gptq import Gptq

NUM_BUDGETS, CONTEXT, ROUNDS = 10, 512, 8
NEAR = 0.98
"""Of the single format's speed: two packs of one format differ by as much from round to round."""
ROUNDINGS: dict[str, tuple[Step, ...]] = {"nearest": (), "gptq": (Gptq("all"),)}


@dataclass(frozen=True)
class Sides:
    """The choices of one model, and how packs of them are made and judged."""

    model: Model
    machine: Machine
    judge: Judge
    found: Choices
    texts: list[list[int]]
    rounding: str

    @property
    def single(self) -> dict[str, float]:
        """Formats that every matrix may be kept in, and the bytes of all."""
        names = set.intersection(*({one.format for one in kept} for kept in self.found.values()))
        names = {name for name in names if encoding(name).kind != "float"}
        return {name: sum(self._kept(weight, name).num_bytes for weight in self.found) for name in sorted(names)}

    def chosen(self, num_bytes: float, beside: str) -> dict[str, str]:
        """A format for each weight in so many bytes, and in no more time than a single format takes."""
        seconds = sum(self._kept(weight, beside).token_s for weight in self.found)
        found = allocate(self.found, "nats", Limits(num_bytes=num_bytes, token_s=seconds))
        return dict.fromkeys(self.found, beside) if found is None else found.formats

    def pack(self, formats: dict[str, str]) -> Path:
        step = mixed(formats)
        plan = plan_of(self.model, (step, *ROUNDINGS[self.rounding], *FAST), context=CONTEXT, machine=self.machine)
        return packed(self.model, plan, self.texts)

    def measured(self, formats: dict[str, str]) -> Case:
        folder = self.pack(formats)
        num_bytes = sum(self._kept(weight, kept).num_bytes for weight, kept in formats.items())
        return {"formats": str(mixed(formats)), "num_bytes": num_bytes, "weights": self.judge.of_pack(folder)}

    def _kept(self, weight: str, name: str) -> Any:
        return next(one for one in self.found[weight] if one.format == name)


def budgets(single: dict[str, float]) -> list[float]:
    """Bytes from the smallest single format to the largest, each as many times the one before."""
    low, high = log(min(single.values())), log(max(single.values()))
    return [exp(low + (high - low) * index / (NUM_BUDGETS - 1)) * (1 + 1e-9) for index in range(NUM_BUDGETS)]


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("folder", type=Path, nargs="?", help="a model in float; off-grid SmolLM2 otherwise")
    parse.add_argument("--tokens", type=int, default=8192, help="of held-out text")
    parse.add_argument("--calibrated", type=int, default=32768, help="tokens for rounding by GPTQ")
    parse.add_argument("--rounding", choices=ROUNDINGS, default="nearest")
    parse.add_argument("--without-speed", action="store_true", help="no speeds: the machine is not quiet")
    asked = parse.parse_args()
    machine = probed_machine()
    model = api.describe(str(asked.folder or off_grid()))
    source = tokenizer_of(model)
    judge = Judge(model, held_out_tokens(Tokenizer.load(source), asked.tokens // LENGTH, LENGTH))
    texts = cut(source, read_text(), model.context, asked.calibrated)
    found = choices(model, api.calibrate(model), machine=machine)
    sides = Sides(model, machine, judge, found, texts, asked.rounding)
    record = Record("allocations", fresh=asked.fresh)
    mark = (
        f"{model.name}-{table_key(model)[:8]}, {asked.rounding}, {asked.tokens} tokens, {asked.calibrated} calibrated"
    )
    sizes = sides.single
    alone = {
        name: record.case(f"{name}, {mark}", lambda name=name: sides.measured(dict.fromkeys(found, name)))
        for name in sizes
    }
    rows = []
    for number, most in enumerate(budgets(sizes), 1):
        fitting = [name for name, size in sizes.items() if size <= most]
        best = min(fitting, key=lambda name: alone[name]["weights"]["mean"])
        formats = sides.chosen(most, best)
        chosen = record.case(f"budget {number}, {mark}", lambda formats=formats: sides.measured(formats))
        ours, theirs = chosen["weights"], alone[best]["weights"]
        speed = "-"
        if not asked.without_speed:
            packs = [own("chosen", sides.pack(formats)), own(best, sides.pack(dict.fromkeys(found, best)))]
            turns = record.case(f"budget {number}, speed, {mark}",
                                lambda packs=packs, most=most: decode_in_turn(packs, round(most), ROUNDS))  # fmt: skip
            ratio = ratio_of(turns, *turns["finals"])
            speed = f"{ratio.middle:.3f}"
            record.verdict(f"{most / 1e6:.1f} MB: decode over {best}", str(ratio), f"{NEAR}", ratio.middle >= NEAR)
        what = f"{most / 1e6:.1f} MB: KL beside {best}"
        record.verdict(what, f"{ours['mean']:.5f}", f"at most {theirs['mean']:.5f}", ours["mean"] <= theirs["mean"])
        rows.append([f"{most / 1e6:.1f}", best, f"{alone[best]['num_bytes'] / 1e6:.1f}", f"{theirs['mean']:.5f}",
                     f"{chosen['num_bytes'] / 1e6:.1f}", f"{ours['mean']:.5f}", f"{ours['mean'] / theirs['mean']:.2f}",
                     speed, chosen["formats"]])  # fmt: skip
    record.say()
    columns = ["budget MB", "single", "MB", "nats", "chosen MB", "nats", "ratio", "speed", "formats"]
    record.table(columns, rows)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
