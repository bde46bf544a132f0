"""Memory budgets held for real: plan, pack and run in processes that the kernel kills above the budget.

    python benchmarks/budgets.py [--quick] [--only smollm2|8b] [--keep] [--fresh]

SmolLM2 with a context of 512 at ten budgets, eight of them between the smallest possible and 240 MB, and a model with
the shape of Llama 3.1 8B in 4 bits at 1.5 GB and 3 GB (`--quick`: SmolLM2 at three). Every run fills the whole context
(the 8B shape: a few tokens). A run holds when nothing was killed, its peak (VmHWM) is within the budget, and within 5%
or 8 MB, whichever is more, of what the plan promised. Each holder of memory is then shown beside its promise.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench import OUT, Case, Record, capped, caps_work, cli, drawn_model, parser, probed_machine, remove, smollm2
from driven import Driven
from texts import shipped_text

from pintpot.errors import DoesNotFit, PintpotError, need
from pintpot.meter.cap import Cap

CONTEXT = 512
LARGEST_TIGHT = 240_000_000
SMALLEST_DUE = 128_000_000
SHARE, SLACK_BYTES = 0.05, 8_000_000
QUESTION = "Why is the sky blue?"


def plan_json(model: Path, memory: int, extra: tuple[str, ...], limit: int | None) -> tuple[dict[str, Any], int]:
    """The plan as the command prints it, and the peak of the process that made it."""
    command = cli("plan", str(model), "--memory", str(memory), "--context", str(CONTEXT), "--json", "-q", *extra)
    done = capped(command, limit).needed("planning")
    return json.loads(done.out), done.peak_bytes


def tight_budgets(smallest: int, number: int) -> list[int]:
    """Evenly from the smallest possible to the largest of the tight ones."""
    step = (LARGEST_TIGHT - smallest) / (number - 1)
    return [smallest + round(index * step) for index in range(number)]


def one_budget(
    model: Path, memory: int, tokens: tuple[int, int], extra: tuple[str, ...], cap: bool, keep: bool
) -> Case:
    """Plan, pack and run inside one budget; `tokens` are those of prompt and answer."""
    limit = memory if cap else None
    folder = OUT / "packs" / f"budgets-{model.stem}-{memory}"
    try:
        plan, plan_peak = plan_json(model, memory, extra, limit)
        request = json.dumps({"model": str(model), "plan": plan, "folder": str(folder)}) + "\n"
        packing = capped([sys.executable, "-m", "pintpot.packer.apart"], limit, request).needed("packing")
        last = json.loads(packing.out.splitlines()[-1])
        need("folder" in last, f"packing: {last}", PintpotError)
        found = _run(folder, tokens, limit)
        told = _told(folder, limit)
    except DoesNotFit as error:
        return {"memory": memory, "killed": str(error)}
    finally:
        if not keep and folder.exists():
            remove(folder)
    return {
        "memory": memory,
        "killed": "",
        "promised": sum(holder["high"] for holder in plan["cost"]["holders"]),
        "holders": {holder["name"]: [holder["low"], holder["high"]] for holder in plan["cost"]["holders"]},
        "steps": [_step_in_words(step) for step in plan["steps"]],
        "streamed_bytes": plan["cost"]["stages"][1]["disk_bytes"] / plan["cost"]["stages"][1]["replays"],
        "plan_peak": plan_peak,
        "pack_peak": packing.peak_bytes,
        "pack_s": packing.seconds,
        "command_peak": told,
        **found,
    }


def _run(folder: Path, tokens: tuple[int, int], limit: int | None) -> Case:
    """The pack opened and driven through its whole context, with memory by holder."""
    cap = None if limit is None else Cap(limit)
    if cap is not None:
        cap.__enter__()
    try:
        with Driven("pack", str(folder), cap=cap) as pack:
            opened = pack.ask("opened")
            pack.ask("start", text=shipped_text(), prompt=tokens[0], output=tokens[1])
            done = pack.ask("steps", number=tokens[1] - 1)
    finally:
        if cap is not None:
            cap.__exit__(None, None, None)
    killed = cap is not None and cap.report.killed
    need(not killed, "the run was killed by its cap", DoesNotFit)
    charged = None if cap is None else cap.report.peak_bytes
    speed = len(done["step_s"]) / sum(done["step_s"])
    return {
        "peak": done["peak_bytes"], "held": opened["held"], "charged": charged, "tokens_per_s": speed,
        "opened_peak": opened["peak_bytes"],
    }  # fmt: skip


def _told(folder: Path, limit: int | None) -> int:
    """The peak of `pintpot run` itself, asked for one short answer."""
    command = cli("run", str(folder), "-p", QUESTION, "--max-tokens", "4", "--temperature", "0", "--json", "-q")
    done = capped(command, limit).needed("pintpot run")
    answer = json.loads(done.out)
    need(bool(answer["text"].strip()), "pintpot run gave no answer", PintpotError)
    return max(done.peak_bytes, answer["summary"]["memory_bytes"])


def _step_in_words(step: dict[str, Any]) -> str:
    knobs = [str(value) for key, value in step.items() if key not in ("name", "target") and value is not False]
    target = "" if step["target"] == "all" else f" {step['target']}"
    return f"{step['name']}{target} {' '.join(knobs)}".strip()


def show(record: Record, name: str, cases: list[Case]) -> None:
    """The table of one model, the verdict of each budget, and its memory by holder."""
    columns = ("budget", "promised", "VmHWM", "apart", "pintpot run", "planning", "packing", "charged", "tok/s", "read")
    rows = []
    for case in cases:
        if case["killed"]:
            rows.append((_mb(case["memory"]), case["killed"], *[""] * (len(columns) - 2)))
            continue
        apart = f"{(case['peak'] - case['promised']) / 1e6:+.1f}"
        sizes = [case[key] for key in ("command_peak", "plan_peak", "pack_peak")]
        charged = "-" if case["charged"] is None else _mb(case["charged"])
        rows.append((
            _mb(case["memory"]), _mb(case["promised"]), _mb(case["peak"]), apart, *map(_mb, sizes), charged,
            f"{case['tokens_per_s']:.1f}", _mb(case["streamed_bytes"]),
        ))  # fmt: skip
    record.say(f"{name}, context {CONTEXT}; megabytes")
    record.table(columns, rows)
    record.say()
    for case in cases:
        _judge(record, f"{name} at {_mb(case['memory'])} MB", case)
    record.say()
    _holders(record, [case for case in cases if not case["killed"]])


def _judge(record: Record, what: str, case: Case) -> None:
    if case["killed"]:
        record.verdict(what, case["killed"], "no kill", False)
        return
    peaks = [case[key] for key in ("peak", "command_peak", "plan_peak", "pack_peak")]
    record.verdict(f"{what}, peak of every process", _mb(max(peaks)), _mb(case["memory"]), max(peaks) <= case["memory"])
    room = max(SHARE * case["promised"], SLACK_BYTES)
    apart = abs(case["peak"] - case["promised"])
    record.verdict(f"{what}, apart from the promise", _mb(apart), f"{_mb(room)} at most", apart <= room)


def _holders(record: Record, cases: list[Case]) -> None:
    """Memory by holder: promised low to high, and what the process grew by."""
    for case in cases:
        record.say(f"{_mb(case['memory'])} MB: {'; '.join(case['steps'])}")
        rows = []
        for name, (low, high) in case["holders"].items():
            held = case["held"].get(name, 0)
            rows.append((f"  {name}", _mb(low), _mb(high), _mb(held), f"{(held - high) / 1e6:+.1f}"))
        rows.append(("  while running", "", "", _mb(case["peak"] - sum(case["held"].values())), ""))
        record.table(("  holder", "low", "high", "held", "apart"), rows)
        record.say()


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.1f}"


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="SmolLM2 at three budgets")
    options.add_argument("--only", choices=("smollm2", "8b"), help="one of the two models")
    options.add_argument("--keep", action="store_true", help="leave the packs there")
    asked = options.parse_args()
    probed_machine()
    record = Record("budgets-quick" if asked.quick else "budgets", fresh=asked.fresh)
    cap = caps_work(record)
    if asked.only != "8b":
        plan, _ = plan_json(smollm2(), 1_000_000_000, (), None)
        smallest = plan["smallest_bytes"]
        holds = smallest <= SMALLEST_DUE
        record.verdict("smallest budget of SmolLM2", _mb(smallest), f"{_mb(SMALLEST_DUE)} at most", holds)
        chosen = tight_budgets(smallest, 2) if asked.quick else tight_budgets(smallest, 8)
        chosen += [400_000_000] if asked.quick else [400_000_000, 1_000_000_000]
        tokens = (CONTEXT - 64, 64)
        cases = [
            record.case(f"smollm2 {index}", partial(one_budget, smollm2(), memory, tokens, (), cap, asked.keep))
            for index, memory in enumerate(chosen)
        ]
        show(record, "SmolLM2", cases)
    if asked.only != "smollm2" and not asked.quick:
        model, extra = drawn_model("8b", "q4_0"), ("--prompt", "16", "--output", "4")
        cases = [
            record.case(f"8b {memory}", partial(one_budget, model, memory, (16, 4), extra, cap, asked.keep))
            for memory in (1_500_000_000, 3_000_000_000)
        ]
        show(record, "8B shape", cases)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
