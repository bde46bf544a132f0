"""What commands print with: data to stdout, everything else to stderr, and one JSON document where it was asked for."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from pintpot.errors import DoesNotFit, EndedElsewhere, PintpotError

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[float, str], None]
QUIET, NORMAL, VERBOSE, DEBUG = -1, 0, 1, 2
# Everything that moves the cursor or changes the terminal; a file's own words may hold it.
_UNSAFE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


@dataclass(slots=True)
class Terminal:
    """How this command was asked to speak: as JSON or for people, and how much (-1 quiet .. 2 with tracebacks)."""

    as_json: bool = False
    verbosity: int = NORMAL
    has_told: bool = False

    def set_up_logging(self) -> None:
        """Log records of `pintpot` go to stderr from the level that -v and -q choose."""
        import logging

        levels = {QUIET: logging.ERROR, NORMAL: logging.WARNING, VERBOSE: logging.INFO}
        logger = logging.getLogger("pintpot")
        logger.setLevel(levels.get(self.verbosity, logging.DEBUG))
        for old in list(logger.handlers):
            logger.removeHandler(old)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("pintpot: %(message)s"))
        logger.addHandler(handler)

    def say(self, text: str) -> None:
        """A line for people, on stderr, unless they asked for quiet."""
        if self.verbosity > QUIET:
            click.echo(safe(text), err=True)

    def data(self, document: Any) -> None:
        """The one JSON document of this command."""
        self.has_told = True
        click.echo(json.dumps(plain(document), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False))

    def failed(self, error: PintpotError) -> None:
        """The document of a command that found no answer; the words for people go to stderr as always."""
        if not self.as_json or self.has_told or isinstance(error, EndedElsewhere):
            return
        told: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        if isinstance(error, DoesNotFit):
            told["smallest_bytes"] = error.smallest_bytes
        self.data({"error": told})

    def console(self) -> Console:
        """Where tables go: stdout, coloured on a terminal, 100 columns wide where nobody says how wide it is."""
        from rich.console import Console

        class Piped(Console):
            """A reader that leaves is told to whoever prints; rich itself would end the process with 1."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
        return Piped(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Tells how far something is and when it will be done: a bar where stderr is a terminal, lines elsewhere.

        With -v a line comes more often.
        """
        from pintpot.cli.progress import LINE_S, OFTEN_S, Bar, Lines, nothing

        if self.verbosity > QUIET and sys.stderr.isatty():
            bar = Bar(sys.stderr)
            try:
                yield bar
            finally:
                bar.close()
        else:
            often = OFTEN_S if self.verbosity >= VERBOSE else LINE_S
            yield nothing if self.verbosity == QUIET else Lines(self.say, often)


def safe(text: str) -> str:
    """Text out of files and models, with what would command the terminal replaced."""
    return text.translate(_UNSAFE)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON knows them; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
