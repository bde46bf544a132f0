"""From nothing to an answer: whole processes timed from outside, from their start to what a person waits for.

    python benchmarks/startup.py [--runs 15] [--imports] [--fresh]

The interpreter and the libraries are in the page cache; a pack's own files are taken out of it before every run, and
that is checked. Commands take turns, so that all of them meet the same moods of the machine. `--imports` shows instead
where the time of each command's imports goes.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import OUT, Case, Record, cli, drawn_model, drop_pages, parser, probed_machine, smollm2, whisper

from pintpot.errors import PintpotError, need
from pintpot.meter.clock import quantile

PROMPT = "Why is the sky blue?"
MEMORY = "300MB"
IMPORTS_SHOWN = 14
_DESCRIBE = """
import sys, time
from pintpot.model.read import describe
times = []
for path in (sys.argv[1], sys.argv[1]):
    start = time.perf_counter()
    model = describe(path)
    times.append(time.perf_counter() - start)
print(*times, model.num_values)
"""


@dataclass(frozen=True)
class Command:
    """Something to time: `run` gives seconds; `most_s` is what its median may be (None: only told)."""

    what: str
    run: Callable[[], float]
    most_s: float | None


def whole(*arguments: str, says: str) -> Callable[[], float]:
    """Seconds of a whole process, whose output must hold `says`."""

    def run() -> float:
        start = time.perf_counter()
        done = subprocess.run(cli(*arguments), capture_output=True, text=True)
        seconds = time.perf_counter() - start
        told = f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-500:]}"
        need(done.returncode == 0 and says in done.stdout, told, PintpotError)
        return seconds

    return run


def first_word(pack: Path) -> Callable[[], float]:
    """Seconds from the start of `pintpot run` to the first byte of its answer, which must always be the same."""
    answers: set[bytes] = set()
    arguments = ["run", str(pack), "-p", PROMPT, "--temperature", "0", "--max-tokens", "8", "-q"]

    def run() -> float:
        drop_pages(path for path in pack.iterdir() if path.is_file())
        start = time.perf_counter()
        with subprocess.Popen(cli(*arguments), stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout is not None
            begun = os.read(process.stdout.fileno(), 1 << 16)
            seconds = time.perf_counter() - start
            rest = process.stdout.read()
        answers.add(begun + rest)
        need(process.returncode == 0 and bool(begun.strip()), f"run ended with {process.returncode}", PintpotError)
        need(len(answers) == 1, f"one question, several answers: {answers}", PintpotError)
        return seconds

    return run


def describing(path: Path, index: int) -> Callable[[], float]:
    """Seconds of `describe` inside a fresh process: the first call (0), imports and all, or the second (1)."""

    def run() -> float:
        done = subprocess.run(
            [sys.executable, "-c", _DESCRIBE, str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
        words = done.stdout.split()
        need(int(words[2]) > 1_000_000, f"{path.name} has {words[2]} values", PintpotError)
        return float(words[index])

    return run


def commands(pack: Path) -> tuple[Command, ...]:
    """Everything that is timed."""
    small, deep = smollm2(), drawn_model("70b", "q4_k", headers=True)
    folder = drawn_model("70b", "bf16", hf=True, headers=True)
    interpreter = [sys.executable, "-c", "pass"]

    def nothing() -> float:
        start = time.perf_counter()
        subprocess.run(interpreter, check=True)
        return time.perf_counter() - start

    return (
        Command("the interpreter alone", nothing, None),
        Command("pintpot --help", whole("--help", says="prove"), 0.15),
        Command("pintpot plan, SmolLM2", whole("plan", str(small), "--memory", MEMORY, says="decode"), 0.5),
        Command("pintpot plan, 80 blocks", whole("plan", str(deep), "--memory", "2GB", says="decode"), 1.0),
        Command("pintpot run, first word", first_word(pack), 0.4),
        Command("pintpot describe, SmolLM2", whole("describe", str(small), says="llama"), None),
        Command("describe, safetensors of 70B", describing(folder, 1), 0.02),
        Command("describe, GGUF of 128k words", describing(deep, 1), 0.15),
        Command("describe, GGUF, first call", describing(deep, 0), None),
    )


def make_pack() -> Path:
    """SmolLM2, packed as anybody would."""
    folder = OUT / "packs" / "startup"
    command = cli("pack", str(smollm2()), "--memory", MEMORY, "-o", str(folder), "-q")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(chosen: tuple[Command, ...], runs: int) -> dict[str, list[float]]:
    """Seconds of every command in every round; a round before them fills the page cache.

    Under "processor of ..." are the seconds that the whole process kept a core busy, which others do not lengthen much.
    """
    for command in chosen:
        command.run()
    found: dict[str, list[float]] = {}
    for index in range(runs):
        whisper(f"round {index + 1} of {runs}")
        for command in chosen:
            before = _processor_s()
            found.setdefault(command.what, []).append(command.run())
            found.setdefault(f"processor of {command.what}", []).append(_processor_s() - before)
    return found


def _processor_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def show_imports(record: Record, pack: Path) -> None:
    """The imports that take longest by themselves, of each command."""
    for name, arguments in (
        ("--help", ["--help"]),
        ("plan", ["plan", str(smollm2()), "--memory", MEMORY]),
        ("run", ["run", str(pack), "-p", PROMPT, "--max-tokens", "1", "-q"]),
    ):
        command = [sys.executable, "-X", "importtime", *cli(*arguments)[1:]]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
        lines = [line.removeprefix("import time:").split("|") for line in told if line.startswith("import time:")]
        rows = [(int(own), int(total), module.strip()) for own, total, module in lines if own.strip().isdigit()]
        record.say(f"pintpot {name}: {len(rows)} modules, {sum(own for own, _, _ in rows) / 1e3:.0f} ms traced")
        for own, total, module in sorted(rows, reverse=True)[:IMPORTS_SHOWN]:
            record.say(f"  {own / 1e3:7.1f} ms alone {total / 1e3:7.1f} ms with what it imports  {module}")
        record.say()


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=15)
    options.add_argument("--imports", action="store_true", help="show what the imports cost, and measure nothing")
    asked = options.parse_args()
    probed_machine()
    record = Record("imports" if asked.imports else "startup", fresh=asked.fresh)
    pack = make_pack()
    if asked.imports:
        show_imports(record, pack)
        return record.finish()
    chosen = commands(pack)
    found: Case = record.case(f"{asked.runs} runs", lambda: {"seconds": measure(chosen, asked.runs)})
    rows = []
    for command in chosen:
        seconds = found["seconds"][command.what]
        spread = [quantile(seconds, share) for share in (0, 0.25, 0.5, 0.75, 1)]
        busy = statistics.median(found["seconds"][f"processor of {command.what}"])
        rows.append((command.what, *(f"{1e3 * value:.0f}" for value in (*spread, busy))))
    record.table(("milliseconds", "least", "25%", "median", "75%", "most", "whole process, processor"), rows)
    record.say()
    for command in chosen:
        if command.most_s is not None:
            middle = statistics.median(found["seconds"][command.what])
            holds = middle <= command.most_s
            record.verdict(command.what, f"{1e3 * middle:.0f} ms", f"{1e3 * command.most_s:.0f} ms", holds)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
