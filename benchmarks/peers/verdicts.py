"""What a contest showed: everybody's medians and quarters, Pintpot's ratio to each, and what was wanted of it.

A ratio is of two samples of one round. A pair in which others took more than 3% of the processor is left out; where
fewer than three are left, the ratio of all is told and nothing is held.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quiet import MOST

from pintpot.meter.clock import quantile

if TYPE_CHECKING:
    from bench import Record

OWN = "Pintpot"
PEERS, LIMIT, FLOOR = "the best peer", "the limit", "the floor"
FEWEST_PAIRS = 3
Finals = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Wanted:
    """`at_least` times what `against` reaches: the best peer, a group of them, the limit (decode), the floor (prefill).

    `ram_over`: only where RAM reads so many bytes a second.
    """

    metric: str
    at_least: float
    against: str = PEERS
    ram_over: float = 0.0


@dataclass(frozen=True)
class Ratio:
    """Samples, or Pintpot over another: the median of so many, with its quarters; `quiet` says that they were."""

    middle: float
    low: float
    high: float
    pairs: int
    quiet: bool

    @classmethod
    def of(cls, pairs: list[tuple[float, float]]) -> Ratio:
        """Of figures, each with the share of the processor that others took meanwhile."""
        quiet = [ratio for ratio, foreign in pairs if foreign <= MOST]
        counted = quiet if len(quiet) >= FEWEST_PAIRS else [ratio for ratio, _ in pairs]
        low, high = quantile(counted, 0.25), quantile(counted, 0.75)
        return cls(statistics.median(counted), low, high, len(counted), counted is quiet)

    def __str__(self) -> str:
        marked = "" if self.quiet else ", NEVER QUIET"
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} of them{marked})"


def show(
    record: Record,
    title: str,
    found: dict[str, Any],
    standing: dict[str, str],
    wanted: tuple[Wanted, ...],
    *,
    trained: bool,
    prompt: int,
) -> None:
    """The tables and the verdicts; the ratios are also kept with the case. `standing`: who of ours counts for what."""
    finals: Finals = found["finals"]
    ratios = {
        metric: {label: _beside(finals[own], finals[label], metric) for label in finals}
        for metric, own in standing.items()
    }
    found["ratios"] = {metric: {label: vars(one) for label, one in kind.items()} for metric, kind in ratios.items()}
    record.say(f"\n{title}")
    rows = []
    for label, samples in finals.items():
        cells = []
        for metric in standing:
            cells += [_spread([one[metric] for one in samples]), f"{ratios[metric][label].middle:.2f}"]
        rows.append((label, *cells, *_around(samples)))
    measured = [column for metric, own in standing.items() for column in (f"{metric} tokens/s", _short(own))]
    record.table(("in the rounds", *measured, "quiet", "others' share", "reads GB/s", "barrier us"), rows)
    out = [row for row in found["heats"] if f"{row['group']}, {row['name']}" not in finals]
    record.say("not in the rounds: " + "; ".join(_heat(row, tuple(standing)) for row in out))
    if trained:
        _agreement(record, finals, next(iter(standing.values())))
    for one in wanted:
        _verdict(record, title, found, standing[one.metric], one, prompt)


def _verdict(record: Record, title: str, found: dict[str, Any], label: str, wanted: Wanted, prompt: int) -> None:
    finals: Finals = found["finals"]
    own = finals[label]
    reads = statistics.median(one["machine"]["read"] for one in own)
    if reads < wanted.ram_over:
        record.say(f"not asked  {title}: {wanted.at_least:g} times, as RAM reads {reads / 1e9:.0f} GB/s only")
        return
    if wanted.against in (LIMIT, FLOOR):
        shares = [(_share(one, found["packs"][label], prompt, wanted), one["foreign"]) for one in own]
        ratio, against = Ratio.of(shares), wanted.against
    else:
        best = _best(finals, wanted)
        if best is None:
            record.verdict(f"{title}, {wanted.metric}", f"no {wanted.against} ran", "one", False)
            return
        ratio, against = _beside(own, finals[best], wanted.metric), best
    what = f"{title}: {wanted.metric}, {label}, beside {against}"
    record.verdict(what, str(ratio), f"{wanted.at_least:g}", ratio.quiet and ratio.middle >= wanted.at_least)


def _beside(own: list[dict[str, Any]], other: list[dict[str, Any]], metric: str) -> Ratio:
    pairs = zip(own, other, strict=True)
    return Ratio.of([(a[metric] / b[metric], max(a["foreign"], b["foreign"])) for a, b in pairs])


def _best(finals: Finals, wanted: Wanted) -> str | None:
    def fits(label: str) -> bool:
        return not label.startswith(OWN) and (wanted.against == PEERS or label.startswith(wanted.against))

    known = {label: statistics.median(one[wanted.metric] for one in finals[label]) for label in finals if fits(label)}
    return max(known, key=lambda label: known[label]) if known else None


def _share(one: dict[str, Any], pack: dict[str, float], prompt: int, wanted: Wanted) -> float:
    """Of the limit of decoding (plain reads of the same bytes), or of the floor of a prompt (arithmetic alone)."""
    machine = one["machine"]
    if wanted.against == LIMIT:
        return float(one["decode"] * pack["step_bytes"] / machine["read"])
    floor_s = pack["int8"] / machine["int8"] + pack["float"] / machine["float"]
    return float(one["prefill"] * floor_s / prompt)


def _agreement(record: Record, finals: Finals, own: str) -> None:
    """How far the peers' greedy words are those of Pintpot: only trained weights say something."""
    same = {
        label: statistics.median(_same(a["text"], b["text"]) for a, b in zip(finals[own], samples, strict=True))
        for label, samples in finals.items()
    }
    shares = [f"{label} {count:.0f}" for label, count in same.items() if label != own]
    record.say("characters of an answer before it first differs from Pintpot's, median: " + "; ".join(shares))


def _same(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _around(samples: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the machine did meanwhile."""
    shares = [one["foreign"] for one in samples]
    read, barrier_s = (statistics.median(one["machine"][key] for one in samples) for key in ("read", "barrier_s"))
    quiet = sum(share <= MOST for share in shares)
    return (
        f"{quiet} of {len(samples)}", f"{statistics.median(shares):.1%}", f"{read / 1e9:.1f}", f"{1e6 * barrier_s:.2f}",
    )  # fmt: skip


def _short(own: str) -> str:
    return f"{own.removeprefix(f'{OWN}, ')} over it"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({quantile(values, 0.25):.1f} to {quantile(values, 0.75):.1f})"


def _heat(row: dict[str, Any], metrics: tuple[str, ...]) -> str:
    label = f"{row['group']}, {row['name']}"
    if "failed" in row:
        return f"{label} failed: {row['failed']}"
    return f"{label} " + " and ".join(f"{max(one[metric] for one in row['samples']):.0f}" for metric in metrics)
