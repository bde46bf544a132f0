"""A conversation at the terminal: line editing, a few commands, and the cache of earlier turns kept by the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pintpot.cli.speak import cancelling, first, reading, speak
from pintpot.cli.terminal import Terminal
from pintpot.errors import PintpotError

if TYPE_CHECKING:
    from pintpot.runtime.session import Session

PROMPT, MORE = "> ", "… "
HELP = """/help   this
/reset  forget the conversation and begin another
/quit   end (also Ctrl-D)
Ctrl-C ends an answer. A line that ends with \\ goes on in the next. A message may begin with / after a space."""


def converse(session: Session, terminal: Terminal, answer: Callable[[Session, str], Iterator[str]]) -> None:
    """Ask, answer, and so on, until /quit or the end of input; then one line of what was promised and measured."""
    import readline  # noqa: F401  # lends its line editing to input()

    terminal.say("a conversation; /help tells the commands, /quit or Ctrl-D ends it")
    asked = False
    while (message := _message(terminal)) is not None:
        match message.rstrip():
            case "":
                continue
            case "/quit" | "/exit":
                break
            case "/help":
                terminal.say(HELP)
            case "/reset":
                session.reset()
                terminal.say("forgotten")
            case command if command.startswith("/"):
                terminal.say(f"there is no {command.split()[0]}; /help tells what there is")
            case text:
                asked = _turn(session, terminal, answer, text.strip()) or asked
    if asked:
        terminal.say(str(session.summary()))


def _turn(session: Session, terminal: Terminal, answer: Callable[[Session, str], Iterator[str]], text: str) -> bool:
    """One answer. What is wrong with a message is told, and the conversation goes on."""
    try:
        with cancelling(session):
            with reading(session, terminal):
                begun = first(answer(session, text))
            speak(begun)
        if cut_off := session.summary().cut_off:
            terminal.say(f"pintpot: {cut_off}")
        return True
    except PintpotError as error:
        terminal.say(f"pintpot: {error} (/reset forgets what was said)")
        return False


def _message(terminal: Terminal) -> str | None:
    """What the person typed; None at the end of input. Ctrl-C drops the line."""
    lines: list[str] = []
    while True:
        try:
            line = input(MORE if lines else PROMPT)
        except EOFError:
            terminal.say("")
            return None
        except KeyboardInterrupt:
            terminal.say("\n(Ctrl-D or /quit ends the conversation)")
            return ""
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines)
