"""`pintpot list` and `pintpot rm`: the packs that are kept under PINTPOT_HOME."""

from __future__ import annotations

import click

from pintpot.cli.options import common, example
from pintpot.cli.terminal import Terminal


@click.command("list", short_help="The packs that are kept.", epilog=example("pintpot list --json"))
@common
def list_command(terminal: Terminal) -> None:
    """The packs that are kept, with the memory that each needs and the tokens that a sequence may hold in it.

    What packing and calibrating left unfinished is listed too.
    """
    from pintpot.packer.shelf import kept_packs, shelf
    from pintpot.packer.unfinished import unfinished

    packs, waiting = kept_packs(), unfinished()
    if terminal.as_json:
        terminal.data({"folder": shelf(), "packs": packs, "unfinished": waiting})
        return
    if not packs and not waiting:
        terminal.say(f"no pack is kept in {shelf()}; `pintpot run MODEL` makes one")
        return
    from pintpot.cli.tables import shortened, show_whole, table
    from pintpot.cli.terminal import safe
    from pintpot.units import format_bytes

    made = table("name", "disk", "memory", "context", "steps", right=(1, 2, 3), whole=(0,))
    for one in packs:
        sizes = format_bytes(one.num_bytes), format_bytes(one.memory_bytes), f"{one.context:,}"
        made.add_row(safe(one.folder.name), *sizes, shortened(", ".join(dict.fromkeys(one.steps))))
    for left in waiting:
        what = f"unfinished {left.what}" + (", under way" if left.in_use else "")
        made.add_row(safe(left.name), format_bytes(left.num_bytes), "", "", what)
    show_whole(made, terminal.console())
    total = sum(one.num_bytes for one in packs) + sum(left.num_bytes for left in waiting)
    terminal.say(f"{format_bytes(total)} in {shelf().parent}")


@click.command("rm", short_help="Remove kept packs.", epilog=example("pintpot rm SmolLM2-135M-Instruct-0123456789ab"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@common
def rm_command(terminal: Terminal, names: tuple[str, ...]) -> None:
    """Remove kept packs, and what is unfinished, by name, as `pintpot list` shows them. What is in use stays."""
    from pintpot.packer.shelf import remove_pack

    removed = []
    for name in names:
        removed.append(remove_pack(name))
        if not terminal.as_json:
            terminal.say(f"removed {name}")
    if terminal.as_json:
        terminal.data({"removed": removed})
