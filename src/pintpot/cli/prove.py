"""`pintpot prove`: promised beside measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pintpot.cli.options import COUNT, common, example
from pintpot.cli.terminal import Terminal
from pintpot.errors import PromiseBroken


@click.command(
    "prove",
    short_help="Promised beside measured.",
    epilog=example(
        "pintpot prove packed --html report.html", "pintpot prove packed --steps --text held_out.txt --tokens 8192"
    ),
)
@click.argument("pack")
@click.option(
    "--text", type=click.Path(path_type=Path), help="A text to judge quality by.  [one that comes with Pintpot]"
)
@click.option("--html", type=click.Path(path_type=Path), help="Where the report goes.  [beside the pack]")
@click.option("--runs", **COUNT, help="How often it is run; medians are judged.  [5]")
@click.option("--threads", **COUNT, help="Threads that compute.  [those of the plan]")
@click.option("--tokens", **COUNT, help="Judge quality by so many tokens of the text.  [1536]")
@click.option("--steps", is_flag=True, help="Also what each step of the plan does to quality.")
@click.option("--profile", is_flag=True, help="Also where the time of a step goes, op by op.")
@common
def prove_command(terminal: Terminal, pack: str, **how: Any) -> None:
    """Measure a pack against its plan: memory, speed, quality, and the share of what the hardware can give.

    PACK is its folder, or the name that `pintpot list` shows.

    Ends with 1 when a promise was not held.
    """
    import pintpot

    given = {key: value for key, value in how.items() if value is not None and value is not False}
    with terminal.progress() as progress:
        proof = pintpot.prove(pack, progress=progress, **given)
    if terminal.as_json:
        terminal.data(proof.to_json())
    else:
        from pintpot.cli.proof_view import show_proof

        show_proof(proof, terminal)
    if not proof.holds:
        raise PromiseBroken(f"a promise was not held: {'; '.join(proof.shortfalls)}")
