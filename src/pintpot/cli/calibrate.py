"""`pintpot calibrate`: what each weight of a model costs in quality in each format, for the plans to come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pintpot.cli.options import MODEL, common, example
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.planner.sensitivity import Sensitivities

_MOST_WEIGHTS = 8


@click.command(
    "calibrate",
    short_help="Measure what each weight loses in each format.",
    epilog=example("pintpot calibrate model.gguf", "pintpot calibrate org/name --text letters.txt"),
)
@MODEL
@click.option("--text", type=click.Path(path_type=Path), help="The text to measure on.  [one that comes with Pintpot]")
@click.option("--again", is_flag=True, help="Measure anew where it was done before.")
@common
def calibrate_command(terminal: Terminal, model: str, text: Path | None, again: bool) -> None:
    """Measure, once a model, what keeping each weight in each format costs in quality.

    Plans then choose a format for each weight, and know better what they lose. Up to 4096 tokens are measured on, 128
    at a time, evenly from all of the text. `pintpot pack` and `pintpot run` round on the same text while its file stays
    as it is, on up to 32768 tokens, 512 at a time. Stopped, it goes on where it was.
    """
    import pintpot

    with terminal.progress() as progress:
        table = pintpot.calibrate(model, text=text, again=again, progress=progress)
    if terminal.as_json:
        terminal.data({"tokens": table.tokens, "weights": table.weights})
        return
    _show(table, terminal)


def _show(table: Sensitivities, terminal: Terminal) -> None:
    """What one format for all weights would cost, and which weights lose most of it."""
    from pintpot.cli.tables import table as made_table
    from pintpot.cli.terminal import safe
    from pintpot.formats import encoding

    everywhere = [kept for kept in table.formats if all(kept in found for found in table.weights.values())]
    everywhere.sort(key=lambda kept: -encoding(kept).bits)
    console = terminal.console()
    made = made_table("all weights in", "bits", "nats a token", "of it most in", right=(1, 2), wide=3)
    for kept in everywhere:
        spans = {name: found[kept] for name, found in table.weights.items()}
        low, high = (sum(span[end] for span in spans.values()) for end in (0, 1))
        worst = sorted(spans, key=lambda name: -spans[name][1])[:_MOST_WEIGHTS]
        told = ", ".join(f"{name} {spans[name][1] / high:.0%}" for name in worst if spans[name][1] > 0.02 * high)
        made.add_row(kept, f"{encoding(kept).bits:.3g}", f"{low:.2g} to {high:.2g}", safe(told))
    console.print(made)
    terminal.say(f"measured over {table.tokens} tokens; `pintpot plan` chooses formats weight by weight from now on")
