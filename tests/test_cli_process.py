"""The program as a process: what it imports, pipes that close, terminals that talk, and keys that interrupt."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import DEFAULT, write_gguf

TESTS = Path(__file__).parent
PROGRAM = [sys.executable, "-m", "pintpot"]
FAKED = """
import signal, sys
# Whoever runs the tests in the background may have them ignore Ctrl-C, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
import pintpot
from cli_fakes import FakeSession
session = FakeSession(words={words!r})
pintpot.run = lambda model_or_pack, **asked: session
sys.argv = ["pintpot", *{arguments!r}]
from pintpot.cli import main
main()
"""


def faked(*arguments: str, words: tuple[str, ...] = ("Because", " of", " light.")) -> list[str]:
    """The program with a session behind it that needs no model."""
    return [sys.executable, "-c", FAKED.format(tests=str(TESTS), words=words, arguments=list(arguments))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", DEFAULT, "q4_0")


def test_help_loads_nothing_but_the_parser() -> None:
    code = "import sys\nfrom pintpot.cli import cli\ncli.main(['--help'], standalone_mode=False)\n"
    report = (
        "print('\\nLOADED', *sorted(name for name in sys.modules if '.' not in name or name.startswith('pintpot.')))"
    )
    done = subprocess.run([sys.executable, "-c", code + report], check=True, stdout=subprocess.PIPE, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "click" in loaded
    assert not {"numpy", "rich", "tokenizers", "jinja2", "huggingface_hub", "asyncio", "logging"} & loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("pintpot.")}
    assert rooms == {"cli", "errors"}


def test_help_comes_at_once() -> None:
    # Five times what is promised on an idle machine: this catches an import that crept in, not a busy neighbour.
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([*PROGRAM, "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 1.5


def test_a_run_that_shows_nothing_loads_no_table_library() -> None:
    # Its memory would be part of the process that was promised.
    done = subprocess.run([*faked("run", "m", "-p", "Why?"), "and report"], check=True, capture_output=True, text=True)
    assert done.stdout == "Because of light.\n"
    code = faked("run", "m", "-p", "Why?")[2].replace(
        "main()\n", "\ntry:\n    main()\nfinally:\n    print('rich' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "Because of light.\nFalse\n"


def test_exit_codes_of_the_real_program(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    cases = [
        (["describe", str(model)], 0),
        (["describe", str(tmp_path / "broken.gguf")], 4),
        (["describe"], 2),
        (["rm", "nothing-of-that-name"], 2),
    ]
    for arguments, code in cases:
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_json_is_the_only_thing_on_stdout(model: Path) -> None:
    done = subprocess.run([*PROGRAM, "describe", str(model), "--json", "-vv"], check=True, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["kind"] == "llm"


@pytest.mark.parametrize("answering", [False, True])
def test_a_reader_that_leaves_ends_it_quietly(model: Path, answering: bool) -> None:
    endless = faked("run", "m", "-p", "wait")
    command = endless if answering else [*PROGRAM, "describe", str(model), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    if answering:
        process.stdout.read(4)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert said == b""


@pytest.mark.parametrize("command", ["describe", "plan", "doctor"])
def test_a_reader_that_leaves_a_table_ends_it_quietly(model: Path, command: str) -> None:
    asked = {"describe": [str(model)], "plan": [str(model), "--machine", "h100"], "doctor": []}[command]
    process = subprocess.Popen([*PROGRAM, command, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert (process.wait(timeout=60), said) == (0, b"")


class Terminal:
    """The other end of a terminal that a program runs on."""

    def __init__(self, descriptor: int, pid: int) -> None:
        self._descriptor, self.pid, self.seen = descriptor, pid, ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Everything shown up to and with `text`, which is then forgotten."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come; there is {self.seen!r}"
            self.seen += self._decode(os.read(self._descriptor, 4096))
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def end(self) -> int:
        """What is left to read goes by; the exit code."""
        try:
            while piece := os.read(self._descriptor, 4096):
                self.seen += self._decode(piece)
        except OSError:  # the terminal is gone with its program
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def on_a_terminal(command: list[str]) -> Iterator[Terminal]:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "TERM": "dumb", "COLUMNS": "100"})
    try:
        yield Terminal(descriptor, pid)
    finally:
        os.close(descriptor)


def test_a_conversation() -> None:
    with on_a_terminal(faked("run", "m")) as terminal:
        terminal.wait_for("> ")
        terminal.type("Why is the sky blue?\n")
        terminal.wait_for("Because of light.")
        terminal.wait_for("> ")
        terminal.type("/help\n")
        assert "/reset" in terminal.wait_for("space.")
        terminal.wait_for("> ")
        terminal.type("/reset\n")
        terminal.wait_for("forgotten")
        terminal.wait_for("> ")
        terminal.type("/nonsense\n")
        terminal.wait_for("there is no /nonsense")
        terminal.wait_for("> ")
        terminal.type("too long\n")
        assert "999 tokens" in terminal.wait_for("/reset")
        terminal.wait_for("> ")
        terminal.type("\n")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.end() == 0
        assert "promised" in terminal.seen


def test_ctrl_c_ends_the_answer_and_ctrl_d_the_conversation() -> None:
    with on_a_terminal(faked("run", "m")) as terminal:
        terminal.wait_for("> ")
        terminal.type("wait\n")
        terminal.wait_for("light....")
        terminal.type("\x03")
        terminal.wait_for("> ")
        terminal.type("Why?\n")
        terminal.wait_for("Because of light.")
        terminal.wait_for("> ")
        terminal.type("half a thou")
        terminal.wait_for("half a thou")
        time.sleep(0.3)  # Python's own input() loses a Ctrl-C that comes while it still handles a letter
        terminal.type("\x03")
        terminal.wait_for("Ctrl-D or /quit")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_ctrl_c_ends_a_single_answer_with_130() -> None:
    with on_a_terminal(faked("run", "m", "-p", "wait")) as terminal:
        terminal.wait_for("light....")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "promised" in terminal.seen


def test_a_model_does_not_command_the_terminal() -> None:
    with on_a_terminal(faked("run", "m", "-p", "hello", words=("a\x1b[2J", "b\x07"))) as terminal:
        assert terminal.end() == 0
        assert "\ufffd[2Jb\ufffd" in terminal.seen
    piped = subprocess.run(faked("run", "m", "-p", "hello", words=("a\x1b[2J",)), check=True, stdout=subprocess.PIPE)
    assert piped.stdout == b"a\x1b[2J\n", "a pipe gets what the model said"


def test_a_line_may_go_on() -> None:
    with on_a_terminal(faked("run", "m", words=("yes",))) as terminal:
        terminal.wait_for("> ")
        terminal.type("one\\\n")
        terminal.wait_for("… ")
        terminal.type("two\n")
        terminal.wait_for("yes")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.end() == 0
