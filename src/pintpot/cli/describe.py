"""`pintpot describe`: a model from its headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pintpot.cli.options import MODEL, common, example
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.model.spec import Model, Weight


@click.command(
    "describe",
    short_help="A model, read from its headers alone.",
    epilog=example("pintpot describe SmolLM2-135M-Instruct.Q4_1.gguf"),
)
@MODEL
@common
def describe_command(terminal: Terminal, model: str) -> None:
    """What a model is: family, shape, formats, tokenizer. Only headers are read, whatever its size."""
    import pintpot

    found = pintpot.describe(model)
    if terminal.as_json:
        terminal.data({"num_values": found.num_values, "num_bytes": found.num_bytes, **_document(found)})
        return
    from pintpot.cli.tables import pairs

    console = terminal.console()
    console.print(pairs(_facts(found), title=found.name))
    for title, weights in _groups(found):
        console.print(_weights_table(title, weights))


def _document(model: Model) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(model)


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    from pintpot.units import format_bytes

    families = ", ".join(dict.fromkeys(part.family for part in model.parts))
    num_blocks = sum(block.name.startswith("layers.") for part in model.parts for block in part.blocks)
    bits = 8 * model.num_bytes / max(model.num_values, 1)
    yield "kind", f"{model.kind}, family {families}, {num_blocks} blocks"
    yield "size", f"{_count(model.num_values)} values in {format_bytes(model.num_bytes)}, {bits:.3g} bits each"
    if (token := model.tokenizer) is not None:
        yield "context", f"{model.context:,} tokens"
        yield "tokenizer", f"{token.kind}, {token.vocab_size:,} words, {token.num_merges:,} merges"
        yield "chat template", "yes" if model.chat_template else "none"
    if model.ties:
        yield "shared", ", ".join(f"{one} is {other}" for one, other in model.ties)
    num_files = len(model.source.files)
    yield "from", f"{model.source.path} ({model.source.kind}, {num_files} file{'s' if num_files != 1 else ''})"
    yield "digest", model.digest


def _groups(model: Model) -> Iterator[tuple[str, list[Weight]]]:
    for part in model.parts:
        yield ("weights" if len(model.parts) == 1 else f"weights of {part.name}"), list(part.weights())


def _weights_table(title: str, weights: list[Weight]) -> object:
    from pintpot.cli.tables import table
    from pintpot.units import format_bytes

    made = table("role", "shape", "format", "count", "values", "bytes", title=title, right=(3, 4, 5))
    rows: dict[tuple[str, tuple[int, ...], str], list[Weight]] = {}
    for weight in weights:
        rows.setdefault((weight.name.rpartition(".")[2], weight.shape, weight.dtype), []).append(weight)
    for (role, shape, dtype), found in rows.items():
        values, size = sum(one.num_values for one in found), sum(one.num_bytes for one in found)
        axes = " × ".join(f"{axis:,}" for axis in shape)
        made.add_row(role, axes, dtype, str(len(found)), _count(values), format_bytes(size))
    return made


def _count(number: float) -> str:
    for unit, factor in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:,.0f}"
