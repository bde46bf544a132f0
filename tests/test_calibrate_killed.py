"""Calibrating packs that are killed go on where they were, nothing half-made is a pack, and opening one is plain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from packing import plan_of
from test_calibrate import STEPS, TEXTS, TINY
from tiny import write_hf

from pintpot.cli import cli
from pintpot.errors import BadPack, InUse, UsageError
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.packer.locks import alone
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import WEIGHTS, is_pack
from pintpot.packer.shelf import kept_packs, remove_pack
from pintpot.packer.unfinished import WAITS_S, kept_finding, unfinished
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


OTHER = (RoundToNearest("all", 5), *STEPS[1:])


def test_a_calibration_under_way_is_not_removed_by_another_for_its_pack(model: Model, home: Path) -> None:
    folder = home / "packs" / "model"
    command = [sys.executable, "-c", PACKING, str(HERE), model.source.path, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = unfinished()
        assert (left.name, left.in_use) == ("model", True)
        with pytest.raises(InUse):
            remove_pack("model")
        write_pack(model, plan_of(model, OTHER), folder, texts=TEXTS)
        assert left.folder.is_dir(), "it was removed under the hands of the process that works in it"
        assert remove_pack("model") == folder
        assert [one.folder for one in unfinished()] == [left.folder]
        process.kill()
    assert not unfinished()[0].in_use
    write_pack(model, plan_of(model, OTHER), folder, texts=TEXTS)
    assert unfinished() == (), "nobody works in it any more, and its pack has another plan now"


def test_what_a_kill_leaves_is_shown_and_removed_by_name(model: Model, home: Path) -> None:
    assert kept_finding().ok
    assert kept_finding().what == "nothing yet"
    killed_at([0.6], model, home / "packs" / "model[1]")
    begun = home / "sensitivities" / "0123abcd.begun"
    begun.mkdir(parents=True)
    (begun / "states.npy").write_bytes(bytes(5000))
    assert kept_packs() == ()
    found = {one.name: one for one in unfinished()}
    assert set(found) == {"model[1]", "0123abcd.begun"}
    assert found["0123abcd.begun"].num_bytes == 5000
    assert found["model[1]"].num_bytes == sum(p.stat().st_size for p in found["model[1]"].folder.iterdir()) > 10_000
    assert kept_finding().ok is None
    assert ", sensitivities 5.00 kB; " in kept_finding().what
    listed = CliRunner().invoke(cli, ["list"])
    assert "unfinished calibration of a pack" in listed.stdout
    told = json.loads(CliRunner().invoke(cli, ["list", "--json"]).stdout)["unfinished"]
    assert [one["name"] for one in told] == ["model[1]", "0123abcd.begun"]
    with pytest.raises(UsageError, match=r"there are: model\[1\], 0123abcd"):
        remove_pack("nothing")
    for name in found:
        remove_pack(name)
    assert unfinished() == ()
    assert not any(path.is_dir() for part in home.iterdir() for path in part.iterdir())


def test_a_pack_takes_what_is_unfinished_along(model: Model, home: Path) -> None:
    folder = home / "packs" / "model"
    write_pack(model, plan_of(model, OTHER), folder, texts=TEXTS)
    command = [sys.executable, "-c", PACKING, str(HERE), model.source.path, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert len(unfinished()) == 1
    remove_pack("model")
    assert list(folder.parent.iterdir()) == []


def test_an_old_calibration_that_nobody_wanted_goes(model: Model, home: Path) -> None:
    for name in ("old", "new"):
        killed_at([0.1], model, home / "packs" / name)
    old, new = (one.folder for one in sorted(unfinished(), key=lambda one: one.name == "new"))
    os.utime(old, (time.time() - WAITS_S - 60,) * 2)
    write_pack(model, plan_of(model, OTHER), home / "packs" / "another", texts=TEXTS)
    assert [one.folder for one in unfinished()] == [new]


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
