"""A proof as people read it: verdicts, quality of the whole and of each step, memory by holder, time by op."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

from pintpot.cli.terminal import safe
from pintpot.units import format_amount, format_span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pintpot.cli.terminal import Terminal
    from pintpot.meter.agreement import Agreement, Interval
    from pintpot.proof.frontier import Frontier
    from pintpot.proof.proof import Proof

# Cells of the bar, and whether the share of the limit has a column: from the most room to the least.
_LAYOUTS = ((18, True), (12, True), (12, False), (0, False))
_MOST_OPS = 24
amount, span = format_amount, format_span


def show_proof(proof: Proof, terminal: Terminal) -> None:
    """Print a proof: verdicts, quality, memory by holder, and what there is to say about it."""
    console = terminal.console()
    console.print(_promises(proof, console))
    for line in _closing(proof):
        console.print(line)
    if proof.answers is not None:
        console.print(_quality(proof))
    if proof.agreements:
        console.print(_agreements(proof))
    if proof.steps:
        console.print(_steps(proof))
    if proof.holders:
        console.print(_holders(proof))
    if proof.profile:
        console.print(_profile(proof))
    for note in proof.notes:
        terminal.say(note)
    if proof.report_path is not None:
        terminal.say(f"report: {proof.report_path}")


def show_frontier(found: Frontier, terminal: Terminal) -> None:
    """Print the points of a frontier, and where its report is."""
    from pintpot.cli.tables import mark, table
    from pintpot.proof.frontier_report import short

    title = f"{found.model_name}: what quality costs, context {found.context}"
    made = table("", "weights", "bits", "memory", *_FIGURES[:2], "alone", "decode", title=title, right=range(1, 8))
    for point in found.points:
        kl, alone = point.answers.kl, point.answers_of_weights.kl
        sizes = (amount(point.weight_bytes, "bytes"), f"{point.bits:.3g}", amount(point.memory_bytes, "bytes"))
        interval = _interval(kl)
        speed = amount(point.decode, "tokens/s")
        made.add_row(mark(not point.shortfalls), *sizes, _nats(kl.mean), interval, _nats(alone.mean), speed)
    made.caption = f"mean KL divergence on {found.points[0].answers.num_tokens} words of answers; alone: the weights"
    made.caption_justify = "left"
    terminal.console().print(made)
    for point in found.points:
        terminal.say(f"{amount(point.weight_bytes, 'bytes')}: {', '.join(map(short, point.steps))}")
        for shortfall in point.shortfalls:
            terminal.say(f"  not held: {shortfall}")
    terminal.say(f"report: {found.report_path}")


def _promises(proof: Proof, console: Console) -> Table:
    """Promised beside measured. Where it is narrow the least important goes first; in the end promises wrap."""
    from pintpot.cli.tables import fits

    for bar, shares in _LAYOUTS:
        made = _promises_table(proof, bar, shares)
        if fits(made, console):
            break
    if not shares:
        told = [f"{row.what} {row.share_of_limit:.0%}" for row in proof.rows if row.share_of_limit is not None]
        made.caption = f"of the limit: {', '.join(told)}" if told else None
        made.caption_justify = "left"
    return made


def _promises_table(proof: Proof, bar: int, shares: bool) -> Table:
    from pintpot.cli.tables import mark, table
    from pintpot.proof.tables import promise_bar

    drawn, last = ["├ promised ┤"] if bar else [], ["of the limit"] if shares else []
    columns = ("", "", "promised", "measured", *drawn, *last)
    title = f"{proof.model_name}: promised and measured, median of {proof.num_runs}; {proof.binds} binds"
    made = table(*columns, title=title, right=(0, *range(3, len(columns))))
    made.columns[2].justify = "right"
    for row in proof.rows:
        cells: list[Text | str] = [mark(row.holds), row.what, span(row.promised_low, row.promised_high, row.unit)]
        cells += [amount(row.measured, row.unit)]
        cells += [promise_bar(row.promised_low, row.promised_high, row.measured, bar)] if bar else []
        cells += ["" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"] if shares else []
        made.add_row(*cells)
    for peak in proof.peaks:
        cells = [mark(peak.holds), f"memory of {peak.process}", f"up to {amount(peak.budget_bytes, 'bytes')}"]
        cells += [amount(peak.peak_bytes, "bytes")]
        cells += [promise_bar(0, peak.budget_bytes, peak.peak_bytes, bar)] if bar else []
        made.add_row(*cells)
    return made


def _closing(proof: Proof) -> Iterator[Text]:
    """How much was read to judge quality, the verdict, and which promises nothing was found out about."""
    from rich.text import Text

    from pintpot.cli.tables import BAD, GOOD, WARN

    broken = [row.what for row in proof.rows if row.holds is False]
    broken += [f"memory of {peak.process}" for peak in proof.peaks if not peak.holds]
    unjudged = [row.what for row in proof.rows if row.verdict == "not judged"]
    if proof.answers is not None and proof.prompts is not None:
        words = f"{proof.answers.num_tokens} words of answers and {proof.prompts.num_tokens} of prompts"
        yield Text(f"degradation: of {words}, {proof.answers.num_sequences} texts")
    for row in proof.undecided:
        needed = proof.tokens_needed(row)
        enough = f"; about {needed} would decide (--text FILE --tokens {needed})" if needed else ""
        yield Text(f"not decided: {row.what}, by {proof.text_tokens} tokens of text{enough}", WARN)
    if unjudged:
        yield Text(f"not judged: {', '.join(unjudged)}", WARN)
    if broken:
        yield Text(f"not held: {', '.join(broken)}", BAD)
    else:
        whole = not unjudged and not proof.undecided
        yield Text("every promise held" if whole else "every promise that was judged held", GOOD)


def _quality(proof: Proof) -> Table:
    """The whole plan: as the pack computes it, and its weights alone in float32 arithmetic."""
    from pintpot.cli.tables import table

    made = table("", *_FIGURES, title="quality against the unpacked model", right=range(1, 7))
    for name in ("answers", "prompts"):
        for what, found in (("", getattr(proof, name)), (", weights alone", getattr(proof, f"{name}_of_weights"))):
            if found is not None:
                made.add_row(f"{name}{what}", *_figures(found))
    found = proof.answers or proof.prompts
    if found is not None and found.perplexity_reference is not None:
        made.caption = f"perplexity of answers, unpacked: {found.perplexity_reference:.2f}"
        made.caption_justify = "left"
    return made


def _steps(proof: Proof) -> Table:
    """What each step did to the words of answers: alone, added to those before it, and with them."""
    from pintpot.cli.tables import table

    made = table("step", "alone", "added", "95% interval", "so far", title="quality, step by step", right=range(1, 5))
    for step in proof.steps:
        alone = "-" if step.alone is None else _nats(step.alone.kl.mean)
        interval = _interval(step.added)
        made.add_row(safe(", ".join(step.steps)), alone, _nats(step.added.mean), interval, _nats(step.after.kl.mean))
    made.caption = "mean KL divergence on the words of answers, in float32 arithmetic"
    made.caption_justify = "left"
    return made


_FIGURES = ("KL, nats", "95% interval", "p99", "max", "same word", "perplexity")


def _figures(found: Agreement) -> tuple[str, ...]:
    interval = _interval(found.kl)
    cost = "-" if found.perplexity_test is None else f"{found.perplexity_test:.2f}"
    return _nats(found.kl.mean), interval, f"{found.kl_p99:.3g}", f"{found.kl_max:.3g}", f"{found.top1:.1%}", cost


def _interval(found: Interval) -> str:
    return f"{_nats(found.low)} to {_nats(found.high)}" if isfinite(found.high) else "too few words"


def _nats(value: float) -> str:
    return f"{value:.3g}"


def _agreements(proof: Proof) -> Table:
    from pintpot.cli.tables import table

    made = table("", "packed and unpacked", "of so many", title="agreement", right=(1, 2))
    for one in proof.agreements:
        made.add_row(one.what, one.told, str(one.count))
    return made


def _holders(proof: Proof) -> Table:
    from pintpot.cli.tables import table

    made = table("", "promised", "measured", title="memory by what holds it", right=(1, 2))
    for one in proof.holders:
        made.add_row(one.name, span(one.promised_low, one.promised_high, "bytes"), amount(one.measured, "bytes"))
    return made


def _profile(proof: Proof) -> Table:
    from pintpot.cli.tables import table

    made = table("op", "took", "at least", title="where the time of a decode step goes", right=(1, 2))
    longest = sorted(proof.profile, key=lambda row: -row[1])[:_MOST_OPS]
    for name, seconds, floor in longest:
        made.add_row(safe(name), amount(seconds, "seconds"), amount(floor, "seconds"))
    rest = sum(seconds for _, seconds, _ in proof.profile) - sum(seconds for _, seconds, _ in longest)
    made.caption = f"all other ops together: {amount(rest, 'seconds')}"
    made.caption_justify = "left"
    return made
