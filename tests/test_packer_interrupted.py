"""Packing that is interrupted: Ctrl-C on a terminal, and signals to either process, leave no draft and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli_process import on_a_terminal

from pintpot.machine.here import this_machine

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


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.parametrize("stopped", ["parent", "child", "both"])
def test_an_interrupted_packing_clears_up_before_it_ends(smollm2: Path, tmp_path: Path, stopped: str) -> None:
    command = [sys.executable, "-c", PACK, str(HERE), str(smollm2), str(tmp_path / "X")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: list(tmp_path.glob(".X.*/weights*")))
        packer = child_of(process.pid)
        for pid in {"parent": [process.pid], "child": [packer], "both": [packer, process.pid]}[stopped]:
            os.kill(pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert list(tmp_path.iterdir()) == []
        assert not Path(f"/proc/{packer}").exists()
        out, said = process.communicate()
    assert out == ""
    assert said == ""


def test_a_packer_that_is_left_alone_clears_up(smollm2: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PACK, str(HERE), str(smollm2), str(tmp_path / "X")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: list(tmp_path.glob(".X.*/weights*")))
        process.kill()
        assert process.communicate(timeout=30) == ("", ""), "read until the packer has ended too"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keyed", [True, False], ids=["terminal", "parent"])
def test_ctrl_c_while_a_run_packs_is_quiet(
    smollm2: Path, pintpot_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    this_machine()
    # A shelf of its own with what is known of this machine.
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path))
    for path in pintpot_home.iterdir():
        if path.name != "packs":
            (tmp_path / path.name).symlink_to(path)
    with on_a_terminal(program("run", smollm2, "--memory", "300MB", "-p", "hi")) as terminal:
        wait_until(lambda: list(tmp_path.glob("packs/.*/weights*")))
        if keyed:
            terminal.type("\x03")
        else:
            os.kill(terminal.pid, signal.SIGINT)
        assert terminal.end() == 130
        assert list((tmp_path / "packs").iterdir()) == []
        assert "Traceback" not in terminal.seen
        assert "Error" not in terminal.seen


def test_one_that_is_never_asked_is_quiet() -> None:
    command = [sys.executable, "-m", "pintpot.packer.apart"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
