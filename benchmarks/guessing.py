"""Guessed words: answers with words looked up beside answers without, on text that is edited and on prose.

    python benchmarks/guessing.py [--rounds 5] [--words 192] [--guesses 8] [--threads 2]

SmolLM2, greedy, one sequence; two packs that differ in nothing but the room that a step has for guesses take turns. To
be edited is a text with the order to say it again with one name changed, which a small model follows well enough to
repeat most of it; prose goes on from the middle of a Wikipedia article. First of all the answers have to be equal. Then
medians and quartiles of tokens a second, the share of guesses that were right, and beside them what a plan says before
anything was seen, and what it says knowing it.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

from bench import OUT, Case, Record, parser, probed_machine, smollm2, whisper
from held_out import held_out_tokens

from pintpot import api
from pintpot.budget import Budget, Workload
from pintpot.errors import PintpotError, need
from pintpot.model.spec import Model
from pintpot.planner.assess import assess
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.opening import open_session
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.session import Session
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations

CONTEXT = 1024
STEPS = (AsStored("all"), Int8Activations(), PrefillChunk(tokens=256))
STORY = (
    "Anna took the early train to the coast. She had packed two books, a blue coat and a map of the harbour. The train "
    "was late, and the man beside her slept. At noon she saw the sea for the first time. She walked along the pier to "
    "the lighthouse, where a boy sold oranges out of a basket. She bought three oranges and sat down on the wall. The "
    "wind was cold, but the light on the water was so bright that she stayed until the boats came home."
)
ORDER = f"Here is a text:\n\n{STORY}\n\nThe same text, with the name Anna replaced by Maria:\n\nMaria took"


def planned(model: Model, asked: Any, guesses: int, seen: tuple[tuple[float, float], ...] = ()) -> Plan:
    """The model as its file has it, with room for so many guesses."""
    workload = Workload(context=CONTEXT, prompt=CONTEXT // 4, output=asked.words, guesses=guesses)
    budget = Budget(4_000_000_000, workload, degradation=10.0, threads=asked.threads)
    question = Question(model, probed_machine(), budget, shipped_priors(), guesses=seen)
    return assess(question, STEPS)


def answer(session: Session, prompt: list[int], words: int) -> tuple[list[int], float]:
    """Tokens, and how many of them a second after the first."""
    engine = session.engine
    engine.reset()
    request = Request(tuple(prompt), words, Sampling(temperature=0.0), ignore_end=True)
    tokens = list(engine.generate(request, frozenset()))
    return tokens, (len(tokens) - 1) / sum(engine.timing.step_s)


def measure(kind: str, asked: Any) -> Case:
    """Both packs in turn over the same prompts."""
    model, machine = api.describe(smollm2()), probed_machine()
    folders = []
    for guesses in (0, asked.guesses):
        folder = OUT / "packs" / f"guessing-{guesses}"
        if not folder.exists():
            api.pack(model, planned(model, asked, guesses), folder)
        folders.append(folder)
    speeds: list[list[float]] = [[], []]
    with open_session(folders[0], machine) as plain, open_session(folders[1], machine) as guessing:
        prompt = plain.tokenizer.encode(ORDER)
        if kind == "prose":
            (prompt,) = held_out_tokens(plain.tokenizer, 1, CONTEXT // 4)
        for turn in range(asked.rounds):
            whisper(f"  {kind}, round {turn + 1}")
            (one, slow), (other, fast) = (answer(session, prompt, asked.words) for session in (plain, guessing))
            need(one == other, f"{kind}: the answers differ", PintpotError)
            speeds[0].append(slow)
            speeds[1].append(fast)
        pace = guessing.engine.pace
        shares = pace.shares
        found = {"made": pace.num_guessed, "right": pace.num_right, "text": plain.tokenizer.decode(one)[:80]}
    before = planned(model, asked, asked.guesses).cost.guessing
    after = None if shares is None else planned(model, asked, asked.guesses, (shares,)).cost.guessing
    told = [None if gain is None else [gain.low, gain.high] for gain in (before, after)]
    return {**found, "speeds": speeds, "shares": shares, "planned": told}


def show(record: Record, cases: dict[str, Case]) -> None:
    """One row for each kind of text."""
    rows = []
    for kind, case in cases.items():
        ratios = sorted(fast / slow for slow, fast in zip(*case["speeds"], strict=True))
        medians = [statistics.median(some) for some in case["speeds"]]
        spread = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        (low, high), after = case["planned"]
        right = f"{case['right']} of {case['made']}"
        knowing = "-" if after is None else f"{after[0]:.2f}"
        row = (*(f"{one:.0f}" for one in medians), f"{spread[1]:.2f} ({spread[0]:.2f} to {spread[2]:.2f})")
        rows.append((kind, *row, right, f"{low:.2f} to {high:.2f}", knowing))
        record.verdict(f"{kind}: guessing costs", f"{spread[1]:.2f}", "0.97 at least", spread[1] >= 0.97)
    record.table(("text", "without", "with", "ratio", "right", "planned, unseen", "planned, knowing"), rows)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--words", type=int, default=192)
    options.add_argument("--guesses", type=int, default=8)
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    record = Record("guessing", fresh=asked.fresh)
    record.say(f"SmolLM2, {asked.words} words of an answer, room for {asked.guesses} guesses in a step\n")
    key = f"{asked.words}, {asked.guesses}, {asked.threads}"
    cases = {kind: record.case(f"{kind}, {key}", partial(measure, kind, asked)) for kind in ("edited", "prose")}
    show(record, cases)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
