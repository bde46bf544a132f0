"""Options that commands share, and the values they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pintpot.cli.terminal import QUIET, Terminal
from pintpot.errors import PintpotError, UsageError

Function = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Function)
COUNT: dict[str, Any] = {"type": click.IntRange(min=1), "metavar": "N"}


class _Tokens(click.IntRange):
    """A count of tokens, where somebody may have meant the text itself."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = "it is a number of tokens to plan for; `pintpot run` takes the prompt itself with -p TEXT"
            raise click.BadParameter(f"{error.message.rstrip('.')}: {hint}", ctx, param) from error


class _Batch(click.IntRange):
    """Sequences side by side, or, where answers are given, a file of requests."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        asked = ctx is not None and ctx.info_name == "run" and isinstance(value, str) and not value.isdigit()
        return Path(value) if asked else super().convert(value, param, ctx)


def _amount(parse: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Reads bytes or seconds as people write them, by a function of `pintpot.units`."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        from pintpot import units

        if value is None:
            return None
        try:
            amount = getattr(units, parse)(value)
        except UsageError as error:
            raise click.BadParameter(str(error)) from error
        if amount <= 0:
            raise click.BadParameter(f"{value!r} is not more than nothing")
        return amount

    return read


TOKENS: dict[str, Any] = {"type": _Tokens(min=1), "metavar": "N"}
SIZE: dict[str, Any] = {"metavar": "SIZE", "callback": _amount("parse_bytes")}
TIME: dict[str, Any] = {"metavar": "TIME", "callback": _amount("parse_seconds")}
PLANNING = (
    click.option("--memory", **SIZE, help="All memory of the process, like 300MB or 2GiB.  [80% of what is free]"),
    click.option("--context", **COUNT, help="Tokens that a sequence may hold.  [2048, or the model's]"),
    click.option(
        "--batch",
        type=_Batch(min=1),
        metavar="N",
        help="Sequences, texts or pictures side by side.  [1; to serve, what gives most words]",
    ),
    click.option("--images", "num_images", **COUNT, help="Pictures in a prompt, of models that see and write.  [none]"),
    click.option("--image-size", **COUNT, help="Pixels of a picture's edge, of models that see.  [the model's]"),
    click.option("--prompt", "prompt_tokens", **TOKENS, help="Tokens that come in, to plan for."),
    click.option(
        "--output", "--steps", "output_tokens", **COUNT, help="Tokens that go out, or steps of a drawing, to plan for."
    ),
    click.option("--first-token", **TIME, help="At most so long to the first word, like 2 or 500ms."),
    click.option("--per-token", **TIME, help="At most so long for each further word, like 50ms."),
    click.option(
        "--degradation",
        type=click.FloatRange(min=0),
        metavar="NATS",
        help="At most so many nats a token worse.  [0.05]",
    ),
    click.option("--prefer", type=click.Choice(["speed", "quality", "memory"]), help="What is best.  [speed]"),
    click.option("--threads", **COUNT, help="Threads that compute.  [all cores]"),
    click.option("--below-4-bits", is_flag=True, help="Allow under 4 bits before anybody measured the loss."),
    click.option("--windowed", is_flag=True, help="Allow a cache that keeps only the first and the latest words."),
    click.option("--guesses", **COUNT, help="Guessed words that a step may check.  [8 in serve, else none]"),
    click.option("--lending", is_flag=True, help="Allow a cache smaller than --batch whole contexts; some then wait."),
    click.option(
        "--balanced", is_flag=True, help="In rounding, count pictures and words by how much the loss moves with them."
    ),
    click.option(
        "--no-calibrate", "uncalibrated", is_flag=True, help="Round weights without looking at texts before packing."
    ),
)
MACHINE = click.option(
    "--machine", metavar="NAME", help="Plan for a machine of the catalog (like h100), or a TOML file of your own."
)
MODEL = click.argument("model")
ROUNDED_ON: dict[str, Any] = {
    "metavar": "PATH",
    "type": click.Path(path_type=Path),
    "help": "The text that weights are rounded on.  [that of `pintpot calibrate`, or one that comes with Pintpot]",
}
_RENAMED = {"prompt_tokens": "prompt", "output_tokens": "output", "num_images": "images"}
_ASKED = (
    "memory", "context", "batch", "prompt_tokens", "output_tokens", "first_token", "per_token", "degradation", "prefer",
    "threads", "below_4_bits", "windowed", "lending", "guesses", "balanced", "uncalibrated", "machine", "image_size",
    "num_images",
)  # fmt: skip


def with_options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """The options in the order in which --help shows them."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def planning(*more: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """The options of a budget. The command gets those that were given as `asked`, by the names of `pintpot.plan`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            asked = {_RENAMED.get(key, key): given.pop(key) for key in _ASKED if key in given}
            asked = {key: value for key, value in asked.items() if value is not None and value is not False}
            return function(*args, asked=asked, **given)

        return with_options(*PLANNING, *more)(gathered)

    return decorate


def common(function: Function) -> Function:
    """--json, -v and -q. The command gets a `Terminal` as its first argument; errors are in the document, too."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, and nothing else.")
    @click.option("-v", "--verbose", count=True, help="Say more, on stderr; -vv with tracebacks.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors on stderr.")
    @functools.wraps(function)
    def told(as_json: bool, verbose: int, quiet: bool, **given: Any) -> Any:
        if quiet and verbose:
            raise click.UsageError("-q and -v ask for the opposite of each other")
        terminal = Terminal(as_json, QUIET if quiet else verbose)
        terminal.set_up_logging()
        asked = given.get("asked", given)
        if asked.get("threads") and not asked.get("machine"):
            _tell_of_threads(terminal, asked["threads"])
        try:
            return function(terminal, **given)
        except PintpotError as error:
            terminal.failed(error)
            raise

    return told


def _tell_of_threads(terminal: Terminal, threads: int) -> None:
    from pintpot.machine.features import cpu

    cores = cpu().cores
    if threads > cores:
        terminal.say(f"pintpot: {threads} threads share {cores} cores, which is slower than one for each core")


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
