"""Packing that is interrupted: Ctrl-C on a terminal, and signals to either process, leave no draft and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from test_cli_process import on_a_terminal

from pintpot.machine.here import this_machine
from pintpot.packer.manifest import read_manifest

HERE = Path(__file__).parent
# Whoever runs the tests in the background may have them ignore Ctrl-C, and their children with them.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pintpot.cli import main
main()
"""
# As `pintpot pack` does it, without the second that its plan takes.
PACK = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from packing import BLOCKS, plan_of
from pintpot.errors import Interrupted
from pintpot.model.read import describe
from pintpot.packer.apart import pack_apart
model = describe(sys.argv[2])
made, folder = plan_of(model, BLOCKS), Path(sys.argv[3])
try:
    pack_apart(model, made, folder)
except (KeyboardInterrupt, Interrupted):
    sys.exit(130)
"""


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *map(str, arguments)]


def wait_until(there: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end, "it never came to pack"
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def caught_packing(folder: Path, packs: str, stopped: Callable[[Path], None]) -> Path:
    """Where packing was stopped: a folder of its own each time, until it came before the pack was ready.

    One that was ready already is whole, and stays.
    """
    for attempt in range(5):
        tried = folder / str(attempt)
        tried.mkdir()
        stopped(tried)
        left = [path for path in (tried / packs).iterdir() if not path.name.startswith(".")]
        if not left:
            return tried
        for whole in left:
            read_manifest(whole)
    raise AssertionError("each was ready before it could be stopped")


@pytest.mark.parametrize("stopped", ["parent", "child", "both"])
def test_an_interrupted_packing_clears_up_before_it_ends(smollm2: Path, tmp_path: Path, stopped: str) -> None:
    ended: list[object] = []

    def stop(folder: Path) -> None:
        command = [sys.executable, "-c", PACK, str(HERE), str(smollm2), str(folder / "X")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            packer = begun_to_pack(process, folder)
            for pid in {"parent": [process.pid], "child": [packer], "both": [packer, process.pid]}[stopped]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            code = process.wait(timeout=30)
            there = Path(f"/proc/{packer}").exists()
            ended[:] = [code, there, *process.communicate()]

    assert list(caught_packing(tmp_path, "", stop).iterdir()) == []
    assert ended == [130, False, "", ""]


def begun_to_pack(process: subprocess.Popen[str], folder: Path) -> int:
    """The process that packs, once there is a draft."""
    wait_until(lambda: children_of(process.pid))
    packer = children_of(process.pid)[0]
    wait_until(lambda: list(folder.glob("*/weights*")))
    return packer


def test_a_packer_that_is_left_alone_clears_up(smollm2: Path, tmp_path: Path) -> None:
    ended: list[object] = []

    def stop(folder: Path) -> None:
        command = [sys.executable, "-c", PACK, str(HERE), str(smollm2), str(folder / "X")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            begun_to_pack(process, folder)
            process.kill()
            ended[:] = process.communicate(timeout=30)  # read until the packer has ended too

    assert list(caught_packing(tmp_path, "", stop).iterdir()) == []
    assert ended == ["", ""]


@pytest.mark.parametrize("keyed", [True, False], ids=["terminal", "parent"])
def test_ctrl_c_while_a_run_packs_is_quiet(
    smollm2: Path, pintpot_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    this_machine()
    ended: list[object] = []

    def stop(home: Path) -> None:
        # A shelf of its own with what is known of this machine.
        monkeypatch.setenv("PINTPOT_HOME", str(home))
        for path in pintpot_home.iterdir():
            if path.name != "packs":
                (home / path.name).symlink_to(path)
        with on_a_terminal(program("run", smollm2, "--memory", "300MB", "-p", "hi")) as terminal:
            wait_until(lambda: list(home.glob("packs/*/weights*")))
            if keyed:
                terminal.type("\x03")
            else:
                os.kill(terminal.pid, signal.SIGINT)
            ended[:] = [terminal.end(), "Traceback" in terminal.seen, "Error" in terminal.seen]

    assert list((caught_packing(tmp_path, "packs", stop) / "packs").iterdir()) == []
    assert ended == [130, False, False]


def test_one_that_is_never_asked_is_quiet() -> None:
    command = [sys.executable, "-m", "pintpot.packer.apart"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
