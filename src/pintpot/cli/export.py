"""`pintpot export`: a pack as a file that llama.cpp reads, or a folder that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pintpot.cli.options import common, example, with_options
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.packer.export.exported import Exported

_OPTIONS = (
    click.option(
        "--to",
        type=click.Path(path_type=Path),
        metavar="FOLDER_OR_FILE",
        help="Where to, and nothing may be there.  [the model's name, here]",
    ),
    click.option("--as", "kind", type=click.Choice(["safetensors", "gguf"]), help="Which of the two.  [as --to ends]"),
    click.option(
        "--float",
        "dtype",
        type=click.Choice(["f32", "f16", "bf16"]),
        help="All floats of a folder [f32]; in GGUF, what no block type holds without loss.  [Q8_0]",
    ),
)


@click.command(
    "export",
    short_help="Write a pack as GGUF or as safetensors.",
    epilog=example("pintpot export packed --to model.gguf", "pintpot export packed --to folder --as safetensors"),
)
@click.argument("pack")
@with_options(*_OPTIONS)
@common
def export_command(
    terminal: Terminal,
    pack: str,
    to: Path | None,
    kind: Literal["gguf", "safetensors"] | None,
    dtype: Literal["f32", "f16", "bf16"] | None,
) -> None:
    """Write the weights of PACK as others read them: a GGUF file for llama.cpp, or a folder for transformers.

    PACK is a folder, or a name that `pintpot list` shows. In GGUF every weight keeps its codes wherever GGUF has a type
    that holds them; what was rounded is said. It appears whole or not at all, and never over something that is there.
    Prints the path.
    """
    import pintpot

    with terminal.progress() as progress:
        made = pintpot.export(pack, to, kind=kind, dtype=dtype, progress=progress)
    if terminal.as_json:
        terminal.data(made)
        return
    click.echo(made.path)
    _tell(terminal, made)


def _tell(terminal: Terminal, made: Exported) -> None:
    from pintpot.units import format_bytes

    types = ", ".join(f"{share.num_tensors} {share.dtype.upper()}" for share in made.types)
    terminal.say(f"{format_bytes(made.num_bytes)}, {made.bits:.2f} bits a weight; tensors: {types}")
    for note in made.notes:
        terminal.say(f"pintpot: {note}")
