"""What a Python process that will run a model weighs before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec

from pintpot import __version__
from pintpot.errors import UnsupportedPlatform, UsageError, need
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record

RUN_IMPORTS = ("pintpot.cli", "pintpot.api", "pintpot.runtime.alone")
"""What `pintpot run` has imported by the time weights are loaded."""
MODULE_IMPORTS = (*RUN_IMPORTS[:2], "pintpot.runtime.module_alone")
"""The same where a module of PyTorch is run."""
_INSTALLED = ("pintpot", "pintpot._native", "tokenizers", "jinja2", "click")
"""Whose installing anew may change what such a process weighs: all that a run imports from outside Python itself."""

_SCRIPT = """
import importlib, os, sys
def take():
    for name in sys.argv[1:]:
        importlib.import_module(name)
if os.fork() == 0:
    try:
        take()
    finally:
        os._exit(0)
os.wait()
take()
from pintpot.meter.memory import peak_bytes
print(peak_bytes())
"""
"""A child imports everything first: compiling modules that were just installed takes memory that no later run takes."""


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


def module_process_bytes(needed: bool = True) -> int:
    """What a process weighs that runs modules of PyTorch: measured once for each version of it, in seconds, and kept.

    0 for a model that has none. Raises UsageError where PyTorch is not installed.
    """
    if not needed:
        return 0
    need(_is_there("torch"), "modules are run by PyTorch, which is not here: pip install pintpot[torch]", UsageError)
    mark = program_mark((*_INSTALLED, "torch"))
    with locked(home() / "processes.json") as path:
        known = json.loads(path.read_text()) if path.exists() else {}
        if mark not in known:
            known = {mark: process_bytes(MODULE_IMPORTS)}
            write_record(path, known)
    return int(known[mark])


def program_mark(modules: tuple[str, ...] = _INSTALLED) -> str:
    """Tells whether this is the program whose process was measured, in less than a millisecond, for nothing is read.

    Versions of Python and Pintpot, those of the libraries by the names of their `.dist-info` folders, and size and time
    of a file of each, which an installer writes.
    """
    parts, folders = [sys.version, __version__], set()
    for name in modules:
        spec = find_spec(name) if _is_there(name) else None
        if spec is not None and spec.origin is not None:
            about = os.stat(spec.origin)
            parts.append(f"{name} {about.st_size} {about.st_mtime_ns}")
            folders.add(os.path.dirname(os.path.dirname(spec.origin)))
    names = sorted(name for folder in folders for name in os.listdir(folder) if name.endswith(".dist-info"))
    parts += [name for name in names if name.partition("-")[0] in modules]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
