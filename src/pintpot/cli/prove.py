"""`pintpot prove`: promised beside measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pintpot.cli.options import COUNT, common, example
from pintpot.cli.terminal import Terminal
from pintpot.errors import PromiseBroken

_OF_FRONTIERS = ("budgets", "context", "keep", "again")
_OF_PROOFS = ("steps", "profile", "images", "audios", "module")


@click.command(
    "prove",
    short_help="Promised beside measured.",
    epilog=example(
        "pintpot prove packed --html report.html",
        "pintpot prove packed --steps --text held_out.txt --tokens 8192",
        "pintpot prove --frontier model.gguf --context 512",
    ),
)
@click.argument("pack")
@click.option(
    "--text", type=click.Path(path_type=Path), help="A text to judge quality by.  [one that comes with Pintpot]"
)
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture to judge a model that sees by."
)
@click.option(
    "--audio", "audios", multiple=True, type=click.Path(path_type=Path), help="A sound to judge a model that hears by."
)
@click.option("--tokens", **COUNT, help="Judge quality by so many tokens of the text.  [1536]")
@click.option("--html", type=click.Path(path_type=Path), help="Where the report goes.  [beside the pack]")
@click.option("--runs", **COUNT, help="How often it is run; medians are judged.  [5; 3 for a frontier]")
@click.option("--threads", **COUNT, help="Threads that compute.  [those of the plan]")
@click.option("--steps", is_flag=True, help="Also what each step of the plan does to quality.")
@click.option("--profile", is_flag=True, help="Also where the time of a step goes, op by op.")
@click.option("--module", help="What builds a module whose blocks were measured, such as mynets:build.")
@click.option("--frontier", is_flag=True, help="Of a model: quality by bytes and speed, at budgets of many sizes.")
@click.option("--budgets", **COUNT, help="So many budgets for --frontier.  [10]")
@click.option("--context", **COUNT, help="Tokens that a sequence may hold, for --frontier.  [2048, or the model's]")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder in which --frontier leaves its packs.")
@click.option("--again", is_flag=True, help="Measure all points of --frontier again, also those that are known.")
@common
def prove_command(terminal: Terminal, pack: str, frontier: bool, **how: Any) -> None:
    """Measure a pack against its plan: memory, speed, quality, and the share of what the hardware can give.

    PACK is its folder, or the name that `pintpot list` shows.

    Ends with 1 when a promise was not held. A promise of quality is judged by the 95% interval of its mean: where that
    reaches to both sides, nothing is decided, and the proof says how many tokens would do.

    With --frontier, PACK may also be a MODEL: the plans for memory budgets from the smallest on, each the fastest that
    is next to as good as any with all weights in RAM, are packed and measured. What is measured is kept: a start that
    was interrupted goes on where it was.
    """
    given = {key: value for key, value in how.items() if value not in (None, False, ())}
    for name in given:
        if name in (_OF_PROOFS if frontier else _OF_FRONTIERS):
            raise click.UsageError(f"--{name} {'does not go with' if frontier else 'goes with'} --frontier")
    (_draw if frontier else _prove)(terminal, pack, given)


def _prove(terminal: Terminal, pack: str, given: dict[str, Any]) -> None:
    import pintpot

    with terminal.progress() as progress:
        proof = pintpot.prove(pack, progress=progress, **given)
    if terminal.as_json:
        terminal.data(proof.to_json())
    else:
        from pintpot.cli.proof_view import show_proof

        show_proof(proof, terminal)
    if not proof.holds:
        raise PromiseBroken(f"a promise was not held: {'; '.join(proof.shortfalls)}")


def _draw(terminal: Terminal, model: str, given: dict[str, Any]) -> None:
    import pintpot

    with terminal.progress() as progress:
        found = pintpot.frontier(model, progress=progress, **given)
    if terminal.as_json:
        terminal.data(found.to_json())
    else:
        from pintpot.cli.proof_view import show_frontier

        show_frontier(found, terminal)
