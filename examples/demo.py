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
from pintpot.cli.terminal import Progress
from pintpot.errors import PintpotError
from pintpot.meter.home import home
from pintpot.units import format_bytes, format_rate, format_seconds

COMFORTABLE = 300_000_000
CONTEXT, PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128, 64
PROMPT = "Why is the sky blue? Answer in two sentences."
QUICK = "--quick" in sys.argv
RUNS = 1 if QUICK else 3
WIDTH = 100

out = Console(width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def main() -> None:
    """Probe, three budgets, and a table with its report. Ends with the exit code of what went wrong."""
    began = time.perf_counter()
    out.print(Rule("Pintpot: a quart into a pint pot", style="cyan"))
    show_machine()
    name = model()
    receipts = [receipt(name, label, budget) for label, budget in budgets(name)]
    out.print(Rule("promised and measured", style="cyan"))
    out.print(summary_table(receipts))
    with progress() as tell:
        report = write_demo_report(home() / "demo" / "report.html", receipts, curve(name, receipts, tell))
    out.print(f"report with plots: {report}", style="bold")
    out.print(f"{format_seconds(time.perf_counter() - began)} in all; packs and reports are in {report.parent}")


def show_machine() -> None:
    """Measure this machine for the sharper promises, and say what was found."""
    with progress() as tell:
        machine = pintpot.probe(quick=QUICK, progress=tell)
    read, disk = machine.rate("read", threads=machine.cpu.threads), machine.rate("disk", threads=4)
    rates = [f"{what} {format_bytes(rate.low)} to {format_bytes(rate.high)}/s"
             for what, rate in (("RAM", read), ("disk", disk)) if rate is not None]  # fmt: skip
    out.print(f"{machine.name}, {machine.cpu.threads} threads, {', '.join(rates)}\n")


def budgets(name: str) -> Iterator[tuple[str, int]]:
    """Comfortable, tight, and the smallest that the plan says is possible."""
    roomy = plan_for(name, COMFORTABLE)
    smallest = roomy.smallest_bytes
    yield "comfortable", COMFORTABLE
    yield "tight", (smallest + roomy.cost.memory_high) // 2
    yield "smallest", smallest


def plan_for(name: str, budget: int) -> pintpot.Plan:
    return pintpot.plan(name, memory=budget, context=CONTEXT, prompt=PROMPT_TOKENS, output=OUTPUT_TOKENS)


def receipt(name: str, label: str, budget: int) -> Receipt:
    """One budget, from its plan to its proof."""
    out.print(Rule(f"{label}: {format_bytes(budget)}", style="cyan"))
    plan = plan_for(name, budget)
    out.print(memory(plan, out.width))
    decode = plan.cost.stage("decode").tokens_per_s
    speed = f"{format_rate(decode.low, '')}to {format_rate(decode.high, 'tokens a second')}"
    out.print(f"promised: {speed}; {plan.cost.stage('decode').binds} binds")
    with progress() as tell:
        started = time.perf_counter()
        folder = pintpot.pack(name, plan, home() / "demo" / label, progress=tell)
    out.print(f"packed in {format_seconds(time.perf_counter() - started)}\n")
    out.print(f"> {PROMPT}", style="bold")
    answer(folder)
    with progress() as tell:
        proof = pintpot.prove(folder, runs=RUNS, progress=tell)
    out.print()
    return Receipt(label, plan, proof)


def answer(folder: Path) -> None:
    """Words in a process of their own, for the budget is a whole process's memory."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "pintpot", "run", str(folder), "-p", PROMPT, "--temperature", "0"]
    subprocess.run([*command, "--max-tokens", str(OUTPUT_TOKENS)], check=True)


def curve(name: str, receipts: list[Receipt], tell: Progress) -> list[tuple[float, float, float]]:
    """Promised decode speed (budget, low, high) at budgets between the smallest and the comfortable one."""
    smallest, enough = receipts[-1].plan.budget.memory_bytes, receipts[0].plan.cost.memory_high
    points = []
    for index in range(7):
        budget = smallest + (enough - smallest) * index // 6
        tell(index / 7, "budgets between")
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
