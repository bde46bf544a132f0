"""`pintpot doctor`: what is here and what is not."""

from __future__ import annotations

import click

from pintpot.cli.options import common, example
from pintpot.cli.terminal import Terminal


@click.command("doctor", short_help="What is here, what is not, and what to do.", epilog=example("pintpot doctor"))
@common
def doctor_command(terminal: Terminal) -> None:
    """What is here and what is not, and what to do about it. Ends with 2 when something stands in the way."""
    from pintpot.errors import UnsupportedPlatform
    from pintpot.machine.doctor import doctor

    found = doctor()
    if found[0].ok:
        from pintpot.packer.unfinished import kept_finding

        found = (*found, kept_finding())
    wrong = [one.name for one in found if one.ok is False]
    if terminal.as_json:
        terminal.data({"ready": not wrong, "findings": found})
    else:
        from pintpot.cli.tables import mark, table
        from pintpot.cli.terminal import safe

        made = table("", "", "", wide=2)
        made.show_header = False
        for one in found:
            told = safe(one.what) + (f"\n→ {safe(one.advice)}" if one.advice else "")
            made.add_row(mark(one.ok), one.name, told)
        terminal.console().print(made)
    if wrong:
        raise UnsupportedPlatform(f"in the way: {', '.join(wrong)}")
