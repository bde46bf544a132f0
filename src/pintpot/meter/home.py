"""Where everything that is kept lives: packs and measurements under one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """PINTPOT_HOME, else `pintpot` in XDG_DATA_HOME, else ~/.local/share/pintpot. The folder may not exist yet."""
    chosen = environment.get("PINTPOT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data = environment.get("XDG_DATA_HOME")
    base = Path(data) if data and Path(data).is_absolute() else Path("~/.local/share").expanduser()
    return base / "pintpot"
