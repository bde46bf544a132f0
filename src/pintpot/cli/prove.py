"""`pintpot prove`: promised beside measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import COUNT, common, example
from pintpot.cli.terminal import Terminal
from pintpot.errors import PromiseBroken

if TYPE_CHECKING:
    from pintpot.proof.proof import Proof


@click.command(
    "prove", short_help="Promised beside measured.", epilog=example("pintpot prove packed --html report.html")
)
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--text", type=click.Path(path_type=Path), help="A text to judge quality by.  [one that comes with Pintpot]"
)
@click.option("--html", type=click.Path(path_type=Path), help="Where the report goes.  [into the pack's folder]")
@click.option("--runs", **COUNT, help="How often it is run; medians are judged.  [5]")
@click.option("--profile", is_flag=True, help="Also where the time of a step goes, op by op.")
@common
def prove_command(terminal: Terminal, pack: Path, **how: Any) -> None:
    """Measure a pack against its plan: memory, speed, quality, and the share of what the hardware can give.

    Ends with 1 when a promise was not held.
    """
    import pintpot

    given = {key: value for key, value in how.items() if value is not None and value is not False}
    with terminal.progress() as progress:
        proof = pintpot.prove(pack, progress=progress, **given)
    if terminal.as_json:
        terminal.data(proof.to_json())
    else:
        _show(proof, terminal)
    if not proof.holds:
        raise PromiseBroken(f"a promise was not held: {'; '.join(proof.shortfalls)}")


def _show(proof: Proof, terminal: Terminal) -> None:
    from pintpot.cli.tables import mark, table
    from pintpot.proof.tables import promise_bar

    made = table("what", "promised", "", "measured", "", title="promised and measured", right=(1, 3))
    for row in proof.rows:
        low, high = row.promised_low, row.promised_high
        if low is None or high is None:
            made.add_row(row.what, "", "", amount(row.measured, row.unit), mark(row.holds))
            continue
        promised = amount(high, row.unit) if low == high else f"{amount(low, row.unit)} to {amount(high, row.unit)}"
        bar = promise_bar(low, high, row.measured)
        made.add_row(row.what, promised, bar, amount(row.measured, row.unit), mark(row.holds))
    console = terminal.console()
    console.print(made)
    if proof.report_path is not None:
        terminal.say(f"report: {proof.report_path}")


def amount(value: float | None, unit: str) -> str:
    """A quantity as people read it: bytes and seconds in the size that fits, shares in percent."""
    from pintpot.units import format_bytes, format_rate, format_seconds

    if value is None:
        return "-"
    match unit:
        case "bytes":
            return format_bytes(value)
        case "s":
            return format_seconds(value)
        case "share":
            return f"{value:.1%}"
    return format_rate(value, unit)
