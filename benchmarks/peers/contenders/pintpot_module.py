"""Pintpot over packs of a recorded module: inside the cap, and with as much memory as there is."""

from __future__ import annotations

import time
from typing import Any

from contenders import Config

CONFIGS = (
    Config("pintpot_module", "Pintpot", "the same weights", task="vision", knobs={"chosen": False}),
    Config("pintpot_module", "Pintpot", "resident", task="vision", knobs={"chosen": False, "resident": True}),
    Config("pintpot_module", "Pintpot", "as planned", task="vision", knobs={"chosen": True}),
)


class Open:
    """An open pack."""

    def __init__(self, model: str) -> None:
        import pintpot
        from pintpot import api

        self._session: Any = api.run(model)
        self.versions = {"pintpot": pintpot.__version__}

    def forward(self, batch: int, times: int, answer: str) -> dict[str, Any]:
        """Seconds of each of so many calls on the same pictures; the last hidden state goes to the file `answer`."""
        import numpy as np
        from pixels import picture

        pixels, seconds = picture(batch), []
        for _ in range(times):
            started = time.perf_counter()
            given = self._session(pixel_values=pixels)
            seconds.append(time.perf_counter() - started)
        np.save(answer, given["last_hidden_state"].numpy(), allow_pickle=False)
        return {"seconds": seconds}


def open_peer(model: str) -> Open:
    """Open a pack; see `Open`."""
    return Open(model)
