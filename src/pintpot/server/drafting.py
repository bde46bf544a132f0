"""The draft of a server: another open pack that guesses, inside the same budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.meter.memory import attainable_bytes
from pintpot.packer.manifest import read_manifest
from pintpot.packer.raw import pack_named
from pintpot.runtime.drafter import Drafter
from pintpot.runtime.session import Session
from pintpot.server.asking import num_words
from pintpot.units import format_bytes

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession

SAMPLE = 'A pint pot holds 1 pint; Größe, 東京, \N{SLIGHTLY SMILING FACE} {"a": [1, 2]}\n\tdef f(x): return x'
"""What two models that share their words read alike."""


def draft_bytes(draft: str | Path | None) -> int:
    """What a draft's pack promises to take."""
    return 0 if draft is None else read_manifest(pack_named(draft))[0].plan.cost.memory_high


def refuse_beside(folder: Path, draft: str | Path | None) -> None:
    """Raise DoesNotFit where a pack and its draft do not fit what is free."""
    if draft is not None:
        due, beside, room = read_manifest(folder)[0].plan.cost.memory_high, draft_bytes(draft), attainable_bytes()
        both = f"the pack takes {format_bytes(due)} and its draft {format_bytes(beside)}"
        need(due + beside <= room, f"{both}, and {format_bytes(room)} are free", DoesNotFit)


def drafter_of(draft: str | Path, session: Session, opened: Session | ModuleSession) -> Drafter:
    """What guesses for a session by the open pack of a draft. Raises UsageError for one that reads words otherwise."""
    if not isinstance(opened, Session):
        raise UsageError(f"{draft} writes no words")
    same = session.tokenizer.encode(SAMPLE) == opened.tokenizer.encode(SAMPLE)
    said = f"{draft} reads words otherwise than the model that it is to guess for"
    need(same and num_words(opened) <= num_words(session), said, UsageError)
    return Drafter(opened.engine)
