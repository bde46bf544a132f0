"""docs/papers.md as text: one table, a row for each technique and what it was tried in, out of what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pintpot.contract.step import Step
from pintpot.techniques import classes

COLUMNS = (
    "technique", "paper", "file", "tried", "bits of blocks", "nats without", "nats with", "ratio", "decode", "plans",
)  # fmt: skip
HEAD = """# Papers

What each technique does here, to trained weights and at equal bits. `python benchmarks/papers.py` writes this page out
of a run, and a test demands a row for every technique in `src/pintpot/techniques`.

"Without" is the same plan without the technique: for a format, rounding to nearest in a mixture of two formats of as
many bytes; for what rounds or transforms weights, the same format rounded to nearest; for what changes how a network is
computed, weights of 8 bits without it. Embedding and head are kept in 8 bits. Nats are the mean KL divergence from the
float model on held-out Wikipedia text, with its 95% interval: weights in float32 arithmetic, or, where the computation
is what changes, as it runs. "Decode" is the speed with it over the speed without, both packs taking turns. "Plans" says
in how many of the budgets of that run a plan had it, or why the first one had not.

No model's weights lie on a grid here: a file of 4 bits would flatter rounding to 4 bits. "{dense}" is SmolLM2-135M with
its norms folded and its channels turned by a random orthogonal matrix, which also spreads outlying channels; "{pairs}"
turns random pairs of channels by random angles, so that a channel that stood out still does.
"""
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
_MEASURED = re.compile(r"^Measured: (?!nothing)(.+)\.$", re.MULTILINE)

REMARKS = {
    "IntegerVit": "none is offered it: integers take 1.3 of the time of float vectors for softmax and 2.4 for GELU "
    "(`python benchmarks/integer_functions.py`)",
    "SlicedAttention": "by price, where scores in memory do not fit: activations of a ViT-S/14 of 257 tokens are 5.54 "
    "MB whole, 3.95 in 2 slices, 2.76 in 8, nothing computed twice (`python benchmarks/working_memory.py`)",
    "LeftInFloat": "by price, among convolutions: both ways in turn are in `python benchmarks/leaves.py`",
    "Mbq": "with --balanced alone: no vision-language model with trained weights was measured; that its statistics and "
    "ratios are what they should be: tests/test_modalities.py",
    "SparseBackward": "with --learn alone, and named where nothing else fits: time and memory by what learns in "
    "tests/test_part_learns.py",
    "TwoFour": "with --sparse 2:4 or kept alone: steps as plain PyTorch takes them, in tests/test_sparse_learning.py",
    "DeepOptimizerStates": "where a card stands beside the processor: bits as plain steps leave them, in "
    "tests/test_turns.py; no card was at hand to run it on",
    "TwoOfFour": "by price, where every matrix inside blocks is 2:4: tests/test_two_of_four.py",
    "SSte": "with --sparse s-ste alone: the same; `TwoOfFour` packs what is left",
    "SquareHead": "with --distill alone: gradients as plain PyTorch has them, in tests/test_sparse_learning.py",
    "Kept": "of models that tell pictures apart, wherever it fits: gradients as their publishers' modules have them, "
    "in tests/test_classifiers.py",
    "GradientFilter": "with --filter alone: gradients as plain convolutions have them of means, in "
    "tests/test_filtering.py; accuracy, seconds and bytes with and without (`python benchmarks/filtering.py`)",
    "SlimFit": "with --freeze alone: which blocks rest, and what they save, in tests/test_part_learns.py",
    "SsdTrain": "by price, where not all insides of blocks fit and the disk is faster than computing again, or with "
    "--activations written: bits as in memory, in tests/test_aside.py",
    "PatchStage": "by price, where early activations do not fit: those of MobileNetV2 0.25 are 5.66 MB whole, 1.55 in "
    "2 by 2 patches for 1.01 of the multiply-adds, 0.61 in 4 by 4 for 1.17 (`python benchmarks/working_memory.py`)",
}
"""Of techniques for modules and for learning, which the runs of this page do not ask about."""


def page(cases: Mapping[str, Mapping[str, Any]], models: Mapping[str, str], before: str = "") -> str:
    """The whole document. Of techniques that `cases` tell nothing about, the page `before` keeps its rows."""
    rows = [row for name, cls in classes().items() for row in _rows_of(name, cls, cases, models, before)]
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS), *map(_line, rows)]
    marks = {case["mark"] for key, case in cases.items() if key.startswith("trial: ")}
    kept = {mark for line in _MEASURED.findall(before) for mark in line.split("; ")}
    measured = "; ".join(sorted(marks | kept)) or "nothing"
    return HEAD.format(**models) + f"\nMeasured: {measured}.\n\n" + "\n".join(lines) + "\n"


def _rows_of(
    name: str, cls: type[Step], cases: Mapping[str, Mapping[str, Any]], models: Mapping[str, str], before: str
) -> Iterable[tuple[str, ...]]:
    """Every trial of a technique; where there is none, what the page said before, or one row."""
    known = (f"`{name}`", paper(cls), f"`{cls.__module__.replace('.', '/')}.py`")
    trials = [case for key, case in cases.items() if key.startswith("trial: ") and case["technique"] == name]
    # Of a trial that was measured more than once, over more or fewer tokens, the last one counts.
    found = list({(case["model"], case["name"]): case for case in trials}.values())
    for case in found:
        before, after = case["without"], case["with"]
        tried = f"{_short(case['name'], name)}; {models[case['model']]}" + ("; as it runs" if case["computed"] else "")
        speed = cases.get(f"speed: {case['model']}, {name}, {case['name']}")
        yield (
            *known, tried, f"{after['bits']:.2f}", _nats(before), _nats(after), f"{after['mean'] / before['mean']:.2f}",
            "not measured" if speed is None else f"{speed['ratio']['middle']:.2f}", _plans(name, case["model"], cases),
        )  # fmt: skip
    if found:
        return
    plans = "; ".join(_plans(name, model, cases) for model in models if f"plans: {model}" in cases)
    plans = REMARKS.get(name, plans)
    kept = [] if plans else [row[len(known) :] for row in rows(before) if row[0] == known[0]]
    for rest in kept or [["not measured", "", "", "", "", "", plans]]:
        yield (*known, *rest)


def rows(text: str) -> list[list[str]]:
    """The cells of a page's rows."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def paper(cls: type[Step]) -> str:
    """The paper, its arXiv number as a link."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", cls.paper)


def _plans(name: str, model: str, cases: Mapping[str, Mapping[str, Any]]) -> str:
    found = cases.get(f"plans: {model}", {}).get(name)
    if found is None:
        return "not asked"
    return f"in {found['chosen']} of {found['of']}" if found["chosen"] else f"in none of {found['of']}: {found['why']}"


def _short(trial: str, name: str) -> str:
    """A step's knobs without its name and without what is as usual."""
    return (
        trial.replace(name, "", 1).replace("()", "").replace(" on blocks", "").replace("|", "/").strip() or "as it is"
    )


def _nats(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.4g} ({found['low']:.3g} to {found['high']:.3g})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
