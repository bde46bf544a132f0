"""The alternating runner: heats that pick each group's best configuration, then rounds in which all take turns.

A sample is a second of answers by one contender. One during which others took more than 3% of the processor is
repeated, as long as the contest's repeats last; after that the quietest try is kept, and stays marked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from bench import whisper
from contenders import Config
from models import prompt, question
from process import Process
from quiet import MOST, Watch

from pintpot.errors import PintpotError, need

SAMPLE_S, SETTLE_S, TRIES = 1.0, 0.05, 3
REPEATED = 3
WARM_PROMPT, WARM = 256, 8
LEFT_BEHIND = 0.75
"""A configuration that reaches no more of the best of its group in its first heat has no second one."""
KNOWN = {
    "1, 2, 3, 4, 5, 6,": "7, 8",
    "The sun rises in the east and sets in the": "west",
    "a, b, c, d, e, f,": "g, h",
    "January, February, March, April,": "May",
}
ASKED = 12
Sample = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A configuration and what opens it."""

    config: Config
    knobs: dict[str, Any]

    @property
    def label(self) -> str:
        return self.config.label

    def start(self) -> Process:
        return Process(self.config.module, self.knobs)


@dataclass(frozen=True)
class Task:
    """What everybody is asked: so many prompts at once, their tokens, and the tokens of each answer."""

    prompt: int
    output: int
    sequences: int
    metrics: tuple[str, ...]
    trained: bool

    def prompts(self, turn: int) -> list[list[int]]:
        """Others in each turn."""
        return [prompt(self.prompt, self.sequences * turn + index) for index in range(self.sequences)]


def check(process: Process, task: Task) -> list[str]:
    """Every sequence goes on with what any trained model knows, even one of coarse weights; the first few answers.

    Drawn weights say nothing, so of them only as many tokens as asked are wanted.
    """
    asked = [list(KNOWN)[index % len(KNOWN)] for index in range(max(task.sequences, len(KNOWN)))]
    texts: list[str] = []
    for first in range(0, len(asked), task.sequences):
        batch = [question(text) for text in asked[first : first + task.sequences]]
        texts += process.answers(batch, ASKED)["texts"]
    for begun, text in zip(asked, texts, strict=True):
        right = not task.trained or text.strip().startswith(KNOWN[begun])
        need(right, f"{begun!r} was answered with {text!r}", PintpotError)
    return texts[: len(KNOWN)]


def sample(process: Process, task: Task, turn: int) -> Sample:
    """A second of answers: the medians of their rates, and the share of the processor that others took."""
    prompts = task.prompts(turn)
    found: list[dict[str, Any]] = []
    with Watch([process.pid]) as watch:
        started = time.perf_counter()
        while not found or time.perf_counter() - started < SAMPLE_S:
            found.append(process.answers(prompts, task.output))
    rates = {
        "decode": [(one["number"] - one["first_number"]) / one["rest_s"] for one in found],
        "prefill": [task.sequences * task.prompt / one["first_s"] for one in found],
        "load": [one["number"] / (one["first_s"] + one["rest_s"]) for one in found],
    }
    medians = {metric: statistics.median(rates[metric]) for metric in task.metrics}
    return {**medians, "foreign": watch.foreign, "answers": len(found), "text": found[0]["texts"][0]}


class Patience:
    """How often samples may still be repeated: without an end a machine that is never quiet would hold one for ever."""

    def __init__(self, repeats: int) -> None:
        self._left = repeats

    def quiet_sample(self, process: Process, task: Task, turn: int) -> Sample:
        """The first quiet sample of a few, or the quietest of them."""
        tries = [self._settled(process, task, turn)]
        while tries[-1]["foreign"] > MOST and len(tries) < TRIES and self._left > 0:
            self._left -= 1
            tries.append(self._settled(process, task, turn))
        return min(tries, key=lambda one: float(one["foreign"])) | {"tries": len(tries)}

    @staticmethod
    def _settled(process: Process, task: Task, turn: int) -> Sample:
        time.sleep(SETTLE_S)
        return sample(process, task, turn)


def heats(entrants: Sequence[Entrant], task: Task, number: int) -> tuple[list[Entrant], list[dict[str, Any]]]:
    """Every configuration by itself: those that are best of their group at something, and what all of them did."""
    rows: list[dict[str, Any]] = []
    patience = Patience(number * len(entrants) // REPEATED)
    for entrant in entrants:
        whisper(f"  heat: {entrant.label}")
        row: dict[str, Any] = {"group": entrant.config.group, "name": entrant.config.name}
        rows.append(row)
        try:
            with entrant.start() as process:
                row |= {"open_s": process.open_s, "versions": process.versions}
                row["answers"] = check(process, task)
                process.answers([tokens[:WARM_PROMPT] for tokens in task.prompts(0)], WARM)
                row["samples"] = [patience.quiet_sample(process, task, 1)]
                if not _left_behind(row, rows, task):
                    row["samples"] += [patience.quiet_sample(process, task, 1 + turn) for turn in range(1, number)]
        except PintpotError as error:
            row["failed"] = str(error)
    chosen: set[int] = set()
    for group in {row["group"] for row in rows}:
        inside = [i for i, row in enumerate(rows) if row["group"] == group and "samples" in row]
        for metric in task.metrics if inside else ():
            chosen.add(max(inside, key=lambda i: max(float(one[metric]) for one in rows[i]["samples"])))
        chosen.update(i for i in inside if entrants[i].config.stands_for)
    return [entrants[i] for i in sorted(chosen)], rows


def _left_behind(row: dict[str, Any], rows: list[dict[str, Any]], task: Task) -> bool:
    """Whether others of its group are far ahead in everything."""
    group = [one for one in rows if one["group"] == row["group"] and "samples" in one]
    best = {metric: max(one["samples"][0][metric] for one in group) for metric in task.metrics}
    return all(row["samples"][0][metric] < LEFT_BEHIND * best[metric] for metric in task.metrics)


def rounds(
    finalists: list[Entrant], limits: dict[str, Any], task: Task, number: int, together: bool
) -> dict[str, list[Sample]]:
    """In each round every finalist gives one sample in turn, with a look at the machine before it.

    `together`: all stay open between their turns; otherwise each is opened for its turn, one at a time.
    """
    found: dict[str, list[Sample]] = {entrant.label: [] for entrant in finalists}
    patience = Patience(number * len(finalists) // REPEATED)
    with ExitStack() as stack:
        machine = stack.enter_context(Process("limits", limits))
        open_ones = {one.label: stack.enter_context(one.start()) for one in finalists if together}
        for process in open_ones.values():
            check(process, task)
        for turn in range(number):
            whisper(f"  round {turn + 1} of {number}")
            for one in finalists[turn % len(finalists) :] + finalists[: turn % len(finalists)]:
                rates = machine.ask("sample")
                taken: AbstractContextManager[Process] = nullcontext(open_ones[one.label]) if together else one.start()
                with taken as process:
                    if not together:
                        check(process, task)
                    found[one.label].append(patience.quiet_sample(process, task, 100 + turn) | {"machine": rates})
    return found
