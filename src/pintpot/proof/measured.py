"""The measured run of a proof: opens the pack as anybody would, and replays its workload as often as it is asked."""

from __future__ import annotations

import time
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pintpot.errors import UsageError, need
from pintpot.machine.here import this_machine
from pintpot.meter.clock import median
from pintpot.meter.disk import traffic
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.nets._extents import lengths
from pintpot.packer.raw import read_raw
from pintpot.runtime.begun import sees
from pintpot.runtime.opening import open_session
from pintpot.runtime.pictures import Picture
from pintpot.runtime.request import Request, Sampling

COMMAND = "pintpot.cli.run"
"""What `pintpot run` has in memory before it opens a pack; by its name, for no room knows those after it."""
SPOKEN_TOKENS = 8
"""Of an answer in words."""
NPY_BYTES, NPY_PREFIX_BYTES = 64, 10
"""What a header's size is a multiple of, and what comes before its text (version 1.0 of the format)."""
STEADY_STEPS = 2
"""Decode steps at the start of a run that are not counted: the readers run ahead of the first."""


class Answerer:
    """Requests: `opened`, `speak`, `run`, `hidden`, `see`, `profile`."""

    def __init__(self, pack: Path, threads: str, every_row: str = "") -> None:
        import_module(COMMAND)
        if sees(read_raw(pack)):
            import_module("pintpot.runtime.eyes").warm_up()
        started = time.perf_counter()
        self._session = open_session(pack, this_machine(), threads=int(threads), every_row=bool(every_row))
        self._open_s = time.perf_counter() - started
        self._resident, self._peak = resident_bytes(), peak_bytes()
        workload = self._session.plan.budget.workload
        prompt, output = lengths(workload)
        # The first word comes with the prompt; without a second one no step would be measured.
        self._output, self._seed = max(2, output), 0
        self._prompt = min(prompt, workload.context - self._output)

    def opened(self) -> dict[str, Any]:
        """Seconds and memory of the opening, by holder."""
        session = self._session
        direct = session.ring is None or session.ring.direct
        return {"open_s": self._open_s, "held": session.held, "notes": session.notes, "direct": direct}

    def speak(self, tokens: list[int]) -> dict[str, Any]:
        """One answer in words, as `pintpot run` gives it: its template, tokenizer and text take memory that stays."""
        text = self._session.tokenizer.decode(tokens[: self._prompt // 2])
        # Many, for a text that with its template does not fit a small context is then refused and nothing else.
        said = [piece.text for piece in self._session.chat_many((text,), max_tokens=SPOKEN_TOKENS)]
        return {"text": "".join(said), "memory_bytes": self._session.summary().memory_bytes}

    def run(self, tokens: list[int]) -> dict[str, Any]:
        """All prompts and answers of the plan's workload, side by side: seconds, bytes from disk, and the peak so far.

        `first_token_s` is when every answer has its first word; a step makes `step_tokens` words in `step_s`.
        """
        session, ring = self._session, self._session.ring
        session.engine.reset()
        requests = self._requests(tokens)
        if ring is not None:
            ring.reset_stats()
        seen = session.eyes.seconds if session.eyes else 0.0
        disk, started, first = 0, time.perf_counter(), 0.0
        for number, _ in enumerate(session.engine.generate_many(requests, frozenset()), 1):
            # All prompts are read before the first step.
            if number == len(requests):
                first = time.perf_counter() - started
                disk = traffic().read_bytes
        read_bytes = traffic().read_bytes - disk
        timing = session.engine.timing
        steady = timing.step_s[STEADY_STEPS:] or timing.step_s
        return {
            "first_token_s": first,
            "see_s": session.eyes.seconds - seen if session.eyes else 0.0,
            "prompt_tokens": sum(len(request.tokens) for request in requests),
            "step_s": sum(steady) / len(steady),
            "step_tokens": timing.decode_tokens / len(timing.step_s),
            "median_step_s": median(steady),
            "disk_bytes_per_step": read_bytes / len(timing.step_s),
            "ring": None if ring is None else ring.stats(),
            "peak_bytes": peak_bytes(),
            "grown_bytes": self._grown_bytes(),
        }

    def _grown_bytes(self) -> int:
        """What came since the opening: up to the peak, where that was not the opening's own."""
        peak = peak_bytes()
        return (peak if peak > self._peak else resident_bytes()) - self._resident

    def _requests(self, tokens: list[int]) -> tuple[Request, ...]:
        """As many as the plan has sequences; their prompts begin at even distances in the tokens, which go round."""
        num_sequences = self._session.plan.budget.workload.batch
        begins = (index * len(tokens) // num_sequences for index in range(num_sequences))
        shown = self._pictures()
        rows = tuple(token for picture in shown for token in picture.tokens)
        prompts = (rows + tuple(islice(cycle(tokens), begin, begin + self._prompt - len(rows))) for begin in begins)
        greedy = Sampling(temperature=0.0)
        return tuple(Request(prompt, self._output, greedy, (), ignore_end=True, pictures=shown) for prompt in prompts)

    def _pictures(self) -> tuple[Picture, ...]:
        """As many as a prompt of the plan has, drawn anew each time; all sequences see the same ones."""
        workload, eyes = self._session.plan.budget.workload, self._session.eyes
        if eyes is None:
            return ()
        self._seed += 1
        return tuple(eyes.drawn(64 * self._seed + at) for at in range(workload.pictures // workload.batch))

    def see(self, path: str) -> dict[str, Any]:
        """What a drawn picture becomes, into a .npz file by output."""
        import numpy as np

        eyes = self._session.eyes
        need(eyes is not None, "this pack sees nothing", UsageError)
        if eyes is not None:
            np.savez(path, **eyes(eyes.drawn(0)))  # type: ignore[arg-type]
        return {"peak_bytes": peak_bytes()}

    def hidden(self, texts: list[list[int]], path: str, num_words: int = 0) -> dict[str, Any]:
        """States after the last block, before the final norm, of every text: float32 [tokens, D], into a .npy file.

        With `num_words` those of the last words of every text only, read one by one after the rest as their prompt.
        """
        width = self._session.plan.config["hidden_size"]
        num_states = [num_words or len(text) for text in texts]
        with Path(path).open("wb") as file:
            file.write(_npy_header(sum(num_states), width))
            for text, wanted in zip(texts, num_states, strict=True):
                left = len(text)
                for states in self._session.engine.hidden(tuple(text), num_words):
                    if left <= wanted:
                        file.write(states)
                    left -= len(states)
        return {"peak_bytes": peak_bytes()}

    def profile(self, tokens: list[int]) -> dict[str, Any]:
        """Seconds of each op of a decode step, mean over a run."""
        replay = self._session.engine.stage("decode")
        replay.profile(True)
        self.run(tokens)
        stats = replay.stats()
        replay.profile(False)
        return {"kinds": stats.kinds, "seconds": [s / max(1, stats.calls) for s in stats.seconds], "calls": stats.calls}


def _npy_header(num_rows: int, width: int) -> bytes:
    """Of a .npy file of float32 [num_rows, width]. Without numpy, for a run has none, and its memory was promised."""
    about = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {width}), }}".encode()
    room = -(-(len(about) + NPY_PREFIX_BYTES + 1) // NPY_BYTES) * NPY_BYTES - NPY_PREFIX_BYTES
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + about.ljust(room - 1) + b"\n"
