"""`pintpot describe`: a model from its headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pintpot.cli.options import COUNT, MODEL, common, example, with_options
from pintpot.cli.terminal import Terminal

if TYPE_CHECKING:
    from pintpot.model.spec import Model, Weight


_SHAPES = (
    click.option("--batch", **COUNT, help="Texts or pictures side by side, of what has no native family.  [1]"),
    click.option("--image-size", **COUNT, help="Pixels of a picture's edge.  [the model's]"),
    click.option("--context", "tokens", **COUNT, help="Tokens of a text.  [128, or the model's]"),
)


@click.command(
    "describe",
    short_help="A model, read from its headers alone.",
    epilog=example("pintpot describe SmolLM2-135M-Instruct.Q4_1.gguf", "pintpot describe org/dinov2-small --batch 4"),
)
@MODEL
@with_options(*_SHAPES)
@common
def describe_command(terminal: Terminal, model: str, **shapes: int | None) -> None:
    """What a model is: family, shape, formats, tokenizer. Only headers are read, whatever its size.

    One without a native family is built by transformers, without weights, and recorded once for inputs of the shapes
    given here.
    """
    import pintpot

    with terminal.progress() as progress:
        asked: dict[str, Any] = {key: value for key, value in shapes.items() if value is not None}
        found = pintpot.describe(model, progress=progress, **asked)
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
    yield "kind", _kind(model) or f"{model.kind}, family {families}, {num_blocks} blocks"
    yield "size", f"{_count(model.num_values)} values in {format_bytes(model.num_bytes)}, {bits:.3g} bits each"
    if (token := model.tokenizer) is not None:
        yield "context", f"{model.context:,} tokens"
        yield "tokenizer", f"{token.kind}, {token.vocab_size:,} words, {token.num_merges:,} merges"
        yield "chat template", "yes" if model.chat_template else "none"
    if model.ties:
        yield "shared", ", ".join(f"{one} is {other}" for one, other in model.ties)
    num_files = len(model.source.files)
    yield "from", f"{model.source.path} ({model.source.kind}, {num_files} file{'s' if num_files != 1 else ''})"
    if model.source.merged is not None:
        yield "with", str(model.source.merged)
    yield "digest", model.digest


def _kind(model: Model) -> str:
    """Of a module that a kind feeds: which, and for how much at once."""
    about = next((part.config["kind"] for part in model.parts if part.config.get("kind")), None)
    if about is None:
        return ""
    shapes = {"batch": "side by side", "size": "pixels", "tokens": "tokens"}
    told = [f"{' × '.join(map(str, value)) if isinstance(value, list | tuple) else value} {shapes[key]}"
            for key, value in about.items() if key in shapes]  # fmt: skip
    return f"{about['name']} ({about.get('task', '')}), recorded for {', '.join(told)}"


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
