"""Words as they come, and Ctrl-C that ends the answer and not the program."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING

from pintpot.cli.terminal import Terminal, safe

if TYPE_CHECKING:
    from pintpot.runtime.session import Session


@contextmanager
def reading(session: Session, terminal: Terminal) -> Iterator[None]:
    """While inside, a long prompt that is read in chunks tells how far it is."""
    with terminal.progress() as progress:

        def told(done: int, total: int) -> None:
            progress(done / max(total, 1), "reading the prompt")

        session.engine.progress = told
        try:
            yield
        finally:
            session.engine.progress = None


def first(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces, the first of which has already come."""
    for piece in pieces:
        return chain((piece,), pieces)
    return iter(())


def speak(pieces: Iterable[str]) -> str:
    """Write an answer to stdout piece by piece, end it with a newline, and return it as the model gave it."""
    shown = safe if sys.stdout.isatty() else str
    said = []
    for piece in pieces:
        sys.stdout.write(shown(piece))
        sys.stdout.flush()
        said.append(piece)
    answer = "".join(said)
    if not answer.endswith("\n"):
        sys.stdout.write("\n")
        sys.stdout.flush()
    return answer


@contextmanager
def cancelling(session: Session) -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C ends the answer; a second one raises KeyboardInterrupt. Gives whether it was pressed."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set  # signals belong to the main thread
        return

    def end_the_answer(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        session.cancel()

    before = signal.signal(signal.SIGINT, end_the_answer)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
