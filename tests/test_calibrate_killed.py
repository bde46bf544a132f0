"""Calibrating packs that are killed go on where they were, nothing half-made is a pack, and opening one is plain."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packing import plan_of
from test_calibrate import STEPS, TEXTS, TINY
from tiny import write_hf

from pintpot.errors import BadPack
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.packer.locks import alone
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import WEIGHTS, is_pack

HERE = Path(__file__).parent
PACKING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from packing import plan_of
from test_calibrate import STEPS, TEXTS
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack

def tell(*what):
    print(*what, flush=True)
    sys.stdin.readline()

model = describe(sys.argv[2])
write_pack(model, plan_of(model, STEPS), Path(sys.argv[3]), lambda done, total: tell(1 + done / total), texts=TEXTS,
           calibrating=lambda share, what: tell(share))
"""
OPENING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pintpot.machine.null import null_machine
from pintpot.runtime.opening import open_session
with open_session(Path(sys.argv[2]), null_machine()) as session:
    assert "".join(session.complete("again and again"))
late = ("pintpot.packer.calibrate", "pintpot.formats.compensation", "pintpot.formats.grid", "numpy")
print([name for name in sys.modules if name.startswith(late)])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(write_hf(tmp_path_factory.mktemp("killed") / "model", TINY)))


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack that nobody disturbed."""
    return write_pack(model, plan_of(model, STEPS), tmp_path_factory.mktemp("whole") / "pack", texts=TEXTS)


def killed_at(shares: list[float], model: Model, folder: Path) -> list[float]:
    """Pack in processes of their own, each killed once it has told of its share; what each told of first."""
    command = [sys.executable, "-c", PACKING, str(HERE), model.source.path, str(folder)]
    first = []
    for share in shares:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            told: list[float] = []
            for line in process.stdout:
                told.append(float(line))
                if told[-1] >= share:
                    process.send_signal(signal.SIGKILL)
                    break
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.wait(timeout=60) == (-signal.SIGKILL if told[-1] >= share else 0)
        first.append(told[0])
        if share < 9:
            assert not is_pack(folder)
            with pytest.raises(BadPack):
                read_manifest(folder)
    return first


def test_killed_again_and_again_it_has_the_same_bytes(model: Model, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    first = killed_at([0.1, 0.3, 0.6, 0.9, 1.2, 1.8, 9.0], model, folder)
    assert first == sorted(first), "each goes on behind what the one before had done"
    assert first[2] >= 0.25
    assert first[4] == 1.0, "what was calibrated is not calibrated again for a packing that was killed"
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    with alone(folder):
        assert read_manifest(folder)[0].same_pack(read_manifest(whole)[0])


def test_a_pack_that_is_there_stays_while_another_is_killed(model: Model, whole: Path, tmp_path: Path) -> None:
    other = write_pack(model, plan_of(model, (*STEPS[:1], *STEPS[2:])), tmp_path / "pack")
    before = (other / WEIGHTS).read_bytes()
    command = [sys.executable, "-c", PACKING, str(HERE), model.source.path, str(other)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert (other / WEIGHTS).read_bytes() == before
    assert read_manifest(other)[0].plan.steps != read_manifest(whole)[0].plan.steps


def test_a_calibrated_pack_opens_without_the_code_that_calibrated(whole: Path) -> None:
    command = [sys.executable, "-c", OPENING, str(HERE), str(whole)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
