"""What `make demo` runs: one real language model in three memory budgets, each planned, packed, run and proved.

`python examples/demo.py [MODEL] [--quick]`: quick takes a probe of two seconds and one run for each proof.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo_report import Receipt, summary_table, write_demo_report
from rich.console import Console
from rich.rule import Rule
from smollm2 import model

import pintpot
from pintpot.cli.plan_view import memory
from pintpot.cli.progress import Bar, nothing
from pintpot.cli.proof_view import span
from pintpot.cli.terminal import Progress
from pintpot.errors import PintpotError
from pintpot.meter.home import home
from pintpot.units import format_bytes, format_seconds

COMFORTABLE = 300_000_000
CONTEXT, PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128, 64
PROMPT = "Why is the sky blue? Answer in two sentences."
QUICK = "--quick" in sys.argv
RUNS = 1 if QUICK else 3
WIDTH = 100
NUM_BUDGETS = 7

out = Console(width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def main() -> None:
    """Probe, three budgets, and a table with its report. Ends with the exit code of what went wrong."""
    began = time.perf_counter()
    out.print(Rule("Pintpot: a quart into a pint pot", style="cyan"))
    show_machine()
    name = model()
    # All plans first: a proof teaches the planner, and then the same question may have another answer.
    with progress() as tell:
        plans = three_plans(name)
        speeds = curve(name, plans, tell)
    folders = [show(name, label, plan) for label, plan in plans.items()]
    with progress() as tell:
        proofs = [pintpot.prove(folder, runs=RUNS, progress=tell) for folder in folders]
    receipts = [Receipt(label, plan, proof) for (label, plan), proof in zip(plans.items(), proofs, strict=True)]
    out.print(Rule("promised and measured", style="cyan"))
    out.print(summary_table(receipts))
    report = write_demo_report(home() / "demo" / "report.html", receipts, speeds)
    out.print(f"report with plots: {report}", style="bold", soft_wrap=True)
    out.print(
        f"{format_seconds(time.perf_counter() - began)} in all; packs and reports are in {report.parent}",
        soft_wrap=True,
    )


def show_machine() -> None:
    """Measure this machine for the sharper promises, and say what was found."""
    with progress() as tell:
        machine = pintpot.probe(quick=QUICK, progress=tell)
    read, disk = machine.rate("read", threads=machine.cpu.threads), machine.rate("disk", threads=4)
    rates = [f"{what} {format_bytes(rate.low)} to {format_bytes(rate.high)}/s"
             for what, rate in (("RAM", read), ("disk", disk)) if rate is not None]  # fmt: skip
    out.print(f"{machine.name}, {machine.cpu.threads} threads, {', '.join(rates)}\n")


def three_plans(name: str) -> dict[str, pintpot.Plan]:
    """Comfortable, tight, and the smallest that the plan says is possible."""
    roomy = plan_for(name, COMFORTABLE)
    tight = (roomy.smallest_bytes + roomy.cost.memory_high) // 2
    return {"comfortable": roomy, "tight": plan_for(name, tight), "smallest": plan_for(name, roomy.smallest_bytes)}


def plan_for(name: str, budget: int) -> pintpot.Plan:
    return pintpot.plan(name, memory=budget, context=CONTEXT, prompt=PROMPT_TOKENS, output=OUTPUT_TOKENS)


def show(name: str, label: str, plan: pintpot.Plan) -> Path:
    """One budget: what is promised, and its words. Returns the pack."""
    out.print(Rule(f"{label}: {format_bytes(plan.budget.memory_bytes)}", style="cyan"))
    out.print(memory(plan, out.width))
    decode = plan.cost.stage("decode")
    out.print(f"promised: {span(decode.tokens_per_s.low, decode.tokens_per_s.high, 'tokens/s')}; {decode.binds} binds")
    with progress() as tell:
        started = time.perf_counter()
        folder = pintpot.pack(name, plan, home() / "demo" / label, progress=tell)
    out.print(f"packed in {format_seconds(time.perf_counter() - started)}\n")
    out.print(f"> {PROMPT}", style="bold")
    answer(folder)
    out.print()
    return folder


def answer(folder: Path) -> None:
    """Words in a process of their own, for the budget is a whole process's memory."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "pintpot", "run", str(folder), "-p", PROMPT, "--temperature", "0"]
    subprocess.run([*command, "--max-tokens", str(OUTPUT_TOKENS)], check=True)


def curve(name: str, plans: dict[str, pintpot.Plan], tell: Progress) -> list[tuple[float, float, float]]:
    """Promised decode speed (budget, low, high) at budgets from the smallest to all that the comfortable plan takes."""
    smallest, enough = plans["smallest"].budget.memory_bytes, plans["comfortable"].cost.memory_high
    points = []
    for index in range(NUM_BUDGETS):
        budget = smallest + (enough - smallest) * index // (NUM_BUDGETS - 1)
        tell(index / NUM_BUDGETS, "planning")
        speed = plan_for(name, budget).cost.stage("decode").tokens_per_s
        points.append((float(budget), speed.low, speed.high))
    return points


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar where somebody is watching."""
    if not sys.stderr.isatty():
        yield nothing
        return
    bar = Bar(sys.stderr)
    try:
        yield bar
    finally:
        bar.close()


if __name__ == "__main__":
    try:
        main()
    except PintpotError as error:
        print(f"pintpot: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
