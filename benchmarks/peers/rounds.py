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
HEATS, REPEATED = 2, 3
METRICS = ("decode", "prefill")
FACT, WORD, ASKED, ALIKE = "The capital of France is", "Paris", 24, 8
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
    """What everybody is asked: prompt tokens and answer tokens.

    `known` has what Pintpot answers to a fact with each form of a trained model; nothing for drawn weights.
    """

    prompt: int
    output: int
    known: dict[str, str]


def fact(process: Process) -> str:
    """What is answered to a fact, in as many tokens as asked for."""
    found = process.ask("answer", tokens=question(FACT), number=ASKED)
    need(found["number"] == ASKED, f"{ASKED} tokens were asked for, {found['number']} came", PintpotError)
    return str(found["text"])


def check(process: Process, task: Task, source: str) -> str:
    """The answer to a fact: the fact itself, or begun in the words of Pintpot over the same form of the model.

    Q4_0 made of Q4_1 is too coarse for this small model to know its capitals, so the words must be the same instead.
    """
    text = fact(process)
    known = task.known.get(source)
    alike = known is None or WORD in text or text[:ALIKE] == known[:ALIKE]
    need(alike, f"{FACT!r} was answered with {text!r}, by Pintpot with {known!r}", PintpotError)
    return text


def sample(process: Process, task: Task, turn: int) -> Sample:
    """A second of answers: the medians of their rates, and the share of the processor that others took."""
    tokens = prompt(task.prompt, turn)
    found: list[dict[str, Any]] = []
    with Watch([process.pid]) as watch:
        started = time.perf_counter()
        while not found or time.perf_counter() - started < SAMPLE_S:
            found.append(process.ask("answer", tokens=tokens, number=task.output))
    counts = {one["number"] for one in found}
    need(counts == {task.output}, f"{task.output} tokens were asked for, {counts} came", PintpotError)
    decode = [(one["number"] - one["first_number"]) / one["rest_s"] for one in found]
    prefill = [task.prompt / one["first_s"] for one in found]
    return {
        "decode": statistics.median(decode), "prefill": statistics.median(prefill), "foreign": watch.foreign,
        "answers": len(found), "text": found[0]["text"],
    }  # fmt: skip


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


def heats(entrants: Sequence[Entrant], task: Task) -> tuple[list[Entrant], list[dict[str, Any]]]:
    """Every configuration by itself: those that are best of their group at something, and what all of them did."""
    rows: list[dict[str, Any]] = []
    for entrant in entrants:
        whisper(f"  heat: {entrant.label}")
        row: dict[str, Any] = {"group": entrant.config.group, "name": entrant.config.name}
        rows.append(row)
        try:
            with entrant.start() as process:
                row |= {"answer": check(process, task, entrant.config.source), "open_s": process.open_s, "versions": process.versions}
                sample(process, task, 0)
                row["samples"] = [sample(process, task, 1 + turn) for turn in range(HEATS)]
        except PintpotError as error:
            row["failed"] = str(error)
    chosen: set[int] = set()
    for group in {row["group"] for row in rows}:
        inside = [i for i, row in enumerate(rows) if row["group"] == group and "samples" in row]
        for metric in METRICS if inside else ():
            chosen.add(max(inside, key=lambda i: max(float(one[metric]) for one in rows[i]["samples"])))
        chosen.update(i for i in inside if entrants[i].config.stands_for)
    return [entrants[i] for i in sorted(chosen)], rows


def rounds(finalists: list[Entrant], limits: dict[str, Any], task: Task, number: int, together: bool) -> dict[str, Any]:
    """In each round every finalist gives one sample in turn, with a look at the machine before it.

    `together`: all stay open between their turns; otherwise each is opened for its turn, one at a time.
    """
    found: dict[str, list[Sample]] = {entrant.label: [] for entrant in finalists}
    patience = Patience(number * len(finalists) // REPEATED)
    with ExitStack() as stack:
        machine = stack.enter_context(Process("limits", limits))
        open_ones = {one.label: stack.enter_context(one.start()) for one in finalists if together}
        for one in finalists if together else ():
            check(open_ones[one.label], task, one.config.source)
        for turn in range(number):
            whisper(f"  round {turn + 1} of {number}")
            for one in finalists[turn % len(finalists) :] + finalists[: turn % len(finalists)]:
                rates = machine.ask("sample")
                taken: AbstractContextManager[Process] = nullcontext(open_ones[one.label]) if together else one.start()
                with taken as process:
                    if not together:
                        check(process, task, one.config.source)
                    found[one.label].append(patience.quiet_sample(process, task, 100 + turn) | {"machine": rates})
    return {"finals": found}
