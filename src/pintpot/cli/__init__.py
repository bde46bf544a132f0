"""The verbs as commands: they parse and print, and nothing else. Before a command runs, only click is imported.

Exit codes: 0 ok, 1 a promise was not held, 2 usage, 3 does not fit, 4 bad input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import pintpot
from pintpot.errors import EndedElsewhere, Interrupted, PintpotError

_HOMES = {
    "describe": "describe", "probe": "probe", "calibrate": "calibrate", "plan": "plan", "pack": "pack", "run": "run",
    "prove": "prove", "serve": "serve", "export": "export", "tune": "tune", "list": "shelf", "rm": "shelf",
    "doctor": "doctor",
}  # fmt: skip


class Commands(click.Group):
    """The commands, each imported when it is asked for, and the one place where errors become words and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _HOMES:
            return None
        module = importlib.import_module(f"pintpot.cli.{_HOMES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # here, for further out click makes an exit code of its own of it
            _forget_stdout()
            return 0

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        sys.exit(self._exit_code(args, prog_name, complete_var, **extra))

    def _exit_code(
        self, args: Sequence[str] | None, prog_name: str | None, complete_var: str | None, **extra: Any
    ) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except PintpotError as error:
            _tell(error)
            return error.exit_code
        except (KeyboardInterrupt, click.Abort):
            return Interrupted.exit_code
        except BrokenPipeError:
            _forget_stdout()
            return 0


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n"
    "  pintpot plan model.gguf --memory 300MB\n"
    '  pintpot run model.gguf --memory 300MB -p "Why is the sky blue?"\n'
    "\n\b\nExit codes: 0 ok, 1 a promise was not held, 2 usage, 3 does not fit,\n"
    "4 bad input, 130 interrupted.",
)
@click.version_option(pintpot.__version__, "-V", "--version", prog_name="pintpot")
def cli() -> None:
    """A quart into a pint pot: plan, pack, run and prove a neural model inside the memory you can spare.

    MODEL is a .gguf file, a Hugging Face folder, or a hub id such as org/name. `pintpot COMMAND --help` tells more.
    """


def main() -> NoReturn:
    """The program `pintpot`."""
    cli.main(prog_name="pintpot")
    raise SystemExit(0)


def _tell(error: PintpotError) -> None:
    """The error in one line; with -vv also where it came from. Another process says its own."""
    if isinstance(error, EndedElsewhere) and not _debugging():
        return
    if _debugging():
        import traceback

        traceback.print_exception(error)
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"pintpot: {str(error) or type(error).__name__}", err=True)


def _debugging() -> bool:
    # Whoever never set up logging did not ask for it, and need not pay for the import.
    logging = sys.modules.get("logging")
    return logging is not None and logging.getLogger("pintpot").isEnabledFor(logging.DEBUG)


def _forget_stdout() -> None:
    """Nobody reads on: what is still buffered goes nowhere, and the interpreter's last flush finds no closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
