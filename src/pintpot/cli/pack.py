"""`pintpot pack`: a model in the form that its plan promises, as a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import MACHINE, MODEL, ROUNDED_ON, common, example, planning
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.planner.plan import Plan

OUTPUT = click.option(
    "-o", "--folder", type=click.Path(path_type=Path), help="The pack's folder.  [kept under PINTPOT_HOME]"
)
PICTURES = click.option(
    "--pictures",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A folder of pictures that weights are rounded on, too, of models that see; cat.txt is said of cat.png.",
)
TEXT = click.option("--text", "--calibration-text", "text", **ROUNDED_ON)


@click.command(
    "pack",
    short_help="Write a model in the form that its plan promises.",
    epilog=example(
        "pintpot pack model.gguf --memory 300MB -o packed",
        "pintpot pack model.gguf+learned --memory 300MB -o packed",
        "pintpot pack org/SmolVLM-256M-Instruct --images 1 --pictures photos --balanced",
    ),
)
@MODEL
@planning(OUTPUT, TEXT, PICTURES, MACHINE)
@common
def pack_command(
    terminal: Terminal,
    model: str,
    folder: Path | None,
    text: Path | None,
    pictures: Path | None,
    asked: dict[str, Any],
) -> None:
    """Plan, and write the weights in the plan's form. Never above the budget; the folder appears whole or not at all.

    A folder of adapters (of `pintpot tune`, or of peft) is a MODEL with them merged into its weights before these are
    rounded; MODEL+FOLDER names another one that they are merged into. `pintpot prove` measures the pack against both
    in float.

    Where a plan rounds weights by what meets them, up to 32768 tokens of a text go through the model, 512 at a time.
    With --pictures half of them are prompts that begin with a picture; --balanced then weighs both by gradients.
    Prints the folder.
    """
    import pintpot

    with terminal.progress() as progress:
        made = pintpot.pack(model, folder=folder, text=text, pictures=pictures, progress=progress, **asked)
    from pintpot.packer.manifest import read_manifest

    manifest, digest = read_manifest(made)
    plan = manifest.plan
    num_bytes = sum(path.stat().st_size for path in made.iterdir())
    if terminal.as_json:
        with_ = manifest.source.merged
        merged = {} if with_ is None else {"merged": asdict(with_)}
        terminal.data({"folder": made, "digest": digest, "num_bytes": num_bytes, **merged, "plan": plan.to_json()})
        return
    from pintpot.cli.proof_view import span
    from pintpot.units import format_bytes

    click.echo(made)
    if "machine" in asked:
        _warn_elsewhere(terminal, plan)
    if manifest.source.merged is not None:
        terminal.say(str(manifest.source.merged))
    speed, unit = plan.cost.stages[-1].tokens_per_s, plan.budget.workload.rate_unit
    terminal.say(
        f"{format_bytes(num_bytes)} on disk; promised: {format_bytes(plan.cost.memory_high)} of memory, "
        f"{span(speed.low, speed.high, unit)}; `pintpot prove {made}` measures it"
    )


def _warn_elsewhere(terminal: Terminal, plan: Plan) -> None:
    """A pack is planned for one machine, and this may be another."""
    from pintpot.machine.features import fingerprint
    from pintpot.meter.home import home

    if plan.machine_fingerprint != fingerprint(home()):
        terminal.say(
            f"pintpot: planned for {plan.machine_name} and not for this machine; opened here it is priced again"
        )
