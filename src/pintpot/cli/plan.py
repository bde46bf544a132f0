"""`pintpot plan`: what would run, how fast, what binds, and why the others lost."""

from __future__ import annotations

from typing import Any

import click

from pintpot.cli.options import MACHINE, MODEL, common, example, planning
from pintpot.cli.terminal import VERBOSE, Terminal


@click.command(
    "plan",
    short_help="How a model would run in a budget, and why so.",
    epilog=example(
        "pintpot plan model.gguf --memory 300MB",
        "pintpot plan org/name --machine h100 --context 8192 --json",
    ),
)
@MODEL
@planning(MACHINE)
@common
def plan_command(terminal: Terminal, model: str, asked: dict[str, Any]) -> None:
    """The fastest way to run a model inside a budget: memory by holder, speed, what binds, and why the others lost.

    Only headers are read. What is not given takes its default, and the plan says which.
    """
    import pintpot

    with terminal.progress() as progress:
        plan = pintpot.plan(model, progress=progress, **asked)
    if terminal.as_json:
        click.echo(plan.dumps())
        return
    from pintpot.cli.plan_view import show_plan

    show_plan(plan, terminal.console(), everything=terminal.verbosity >= VERBOSE)
