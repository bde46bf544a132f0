"""What a Python process that will run a model weighs before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from pintpot.errors import UnsupportedPlatform

RUN_IMPORTS = ("pintpot.cli", "pintpot.api", "pintpot.runtime.opening")
"""What `pintpot run` has imported by the time weights are loaded."""

_SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from pintpot.meter.memory import peak_bytes
print(peak_bytes())
"""


class ProcessSize:
    """Measures in the background: starts a fresh process at once; `num_bytes()` waits for what it says."""

    def __init__(self, imports: tuple[str, ...] = RUN_IMPORTS) -> None:
        self._present = [name for name in imports if _is_there(name)]
        command = [sys.executable, "-c", _SCRIPT, *self._present]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def num_bytes(self) -> int:
        """VmHWM of a process that imported what is there of `imports` and did nothing.

        Raises UnsupportedPlatform when such a process does not start.
        """
        out, err = self._process.communicate()
        if self._process.returncode != 0 or not out.strip().isdigit():
            last = err.strip().splitlines()[-1:] or ["no message"]
            raise UnsupportedPlatform(f"a fresh Python cannot import {', '.join(self._present)}: {last[0]}")
        return int(out)


def process_bytes(imports: tuple[str, ...] = RUN_IMPORTS) -> int:
    """The same at once; takes a few tenths of a second."""
    return ProcessSize(imports).num_bytes()


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
