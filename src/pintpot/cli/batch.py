"""`pintpot run --batch FILE.jsonl`: a file of requests becomes a file of answers, and goes on where it was ended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pintpot.cli.speak import cancelling
from pintpot.cli.terminal import Terminal
from pintpot.errors import Interrupted, UsageError

SIDE_BY_SIDE = 16


def answer_file(terminal: Terminal, model_or_pack: str, asked: dict[str, Any], output: Path | None) -> int:
    """Answer every line that has no answer yet."""
    import pintpot
    from pintpot.packer.raw import is_pack, pack_named
    from pintpot.server.guided import guiding_of
    from pintpot.server.offline import Offline

    source = Path(asked.pop("batch"))
    if not is_pack(pack_named(model_or_pack)):
        asked["batch"] = SIDE_BY_SIDE
    with terminal.progress() as progress:
        opened = pintpot.run(model_or_pack, progress=progress, **asked)
    with opened as session:
        if callable(session):
            raise UsageError(f"{model_or_pack} is no model that writes; give it something: --text or --image")
        into = output or source.with_suffix(".answers.jsonl")
        with cancelling(session) as interrupted, terminal.progress() as progress:
            found = Offline(session, guiding_of(session)).run(source, into, progress)
        if terminal.as_json:
            terminal.data({"answers": str(into), **asdict(found), "summary": session.summary()})
        else:
            before = f", {found.num_before} before" if found.num_before else ""
            refused = f", {found.num_refused} refused" if found.num_refused else ""
            terminal.say(f"{found.num_answered} answers in {into}{before}{refused}; {session.summary()}")
        return Interrupted.exit_code if interrupted() else 0
