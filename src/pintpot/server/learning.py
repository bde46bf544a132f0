"""What a server saw of guessed words, kept for the plans to come."""

from __future__ import annotations

import logging
from pathlib import Path

from pintpot.errors import PintpotError
from pintpot.packer.manifest import read_manifest
from pintpot.planner.memory import remember
from pintpot.runtime.session import Session

_log = logging.getLogger(__name__)


def learn(folder: Path, session: Session) -> None:
    """Keep how often words that were looked up were right; nothing where there were too few to say."""
    shares, (manifest, _) = session.engine.pace.shares, read_manifest(folder)
    if shares is None or not manifest.sample_digest:
        return
    try:
        remember(manifest.sample_digest, session.plan.machine_fingerprint, session.plan, guesses=shares)
    except PintpotError as error:
        _log.warning("what was seen of guessed words is not kept: %s", error)
