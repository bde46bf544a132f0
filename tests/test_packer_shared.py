"""Several processes and one folder: killed while packing, packing the same, listing and removing what is in use."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packing import EXACT, INT8, opened, pack_of, plan_of
from tiny import Tiny, write_hf

from pintpot.errors import BadPack, InUse, UsageError
from pintpot.model.read import describe
from pintpot.packer.draft import draft_of, is_draft, settle, sweep
from pintpot.packer.locks import alone, in_use
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.shelf import kept_packs, place_for, remove_pack, shelf

HERE = Path(__file__).parent
TINY = Tiny(hidden=256, intermediate=512, layers=3, heads=4, kv_heads=2, head_dim=64, seed=11)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("shared") / "model", TINY)


PACK = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import packing
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack
import pintpot.packer.pack as pack
model = describe(sys.argv[1])
plan = packing.plan_of(model, packing.INT8)
stop = float(sys.argv[4])
def wait(done, total):
    if done >= stop * total:
        print("there", flush=True)
        time.sleep(60)
settle = pack.settle
def late(draft, folder):
    if stop == 2:
        print("there", flush=True)
        time.sleep(60)
    settle(draft, folder)
pack.settle = late
print("ready", flush=True)
write_pack(model, plan, Path(sys.argv[2]), wait if stop <= 1 else None)
print("packed", flush=True)
"""


@contextmanager
def packing(source: Path, folder: Path, stop: float) -> Iterator[subprocess.Popen[str]]:
    """A process that packs and halts after this share of the bytes; 2 is just before the folder appears, inf never."""
    command = [sys.executable, "-c", PACK, str(source), str(folder), str(HERE), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("stop", [0.0, 0.3, 0.9, 2.0])
@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_a_kill_leaves_nothing_that_a_second_start_does_not_sweep(
    source: Path, tmp_path: Path, stop: float, there: bool
) -> None:
    folder = tmp_path / "pack"
    before = read_manifest(pack_of(source, folder, EXACT))[1] if there else None
    with packing(source, folder, stop) as process:
        assert (line(process), line(process)) == ("ready", "there")
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [path for path in tmp_path.iterdir() if path != folder]
    assert len(left) == 1
    assert is_draft(left[0])
    assert (read_manifest(folder)[1] if folder.exists() else None) == before
    pack_of(source, folder, INT8)
    assert list(tmp_path.iterdir()) == [folder]
    with opened(folder) as session:
        assert "".join(session.complete("Once", max_tokens=2, ignore_end=True)) is not None


def test_a_kill_at_any_other_moment_is_as_harmless(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    for number in range(4):
        with packing(source, folder, float("inf")) as process:
            assert line(process) == "ready"
            time.sleep(0.01 + 0.03 * number)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if folder.exists():
            read_manifest(folder)
        assert all(is_draft(path) for path in tmp_path.iterdir() if path != folder)
    pack_of(source, folder, EXACT)
    assert list(tmp_path.iterdir()) == [folder]


def test_two_processes_pack_the_same_at_once(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    with packing(source, folder, float("inf")) as one, packing(source, folder, float("inf")) as two:
        assert [line(one), line(two)] == ["ready", "ready"]
        assert [line(one), line(two)] == ["packed", "packed"]
    assert list(tmp_path.iterdir()) == [folder]
    with opened(folder) as session:
        assert len(list(session.engine.sequences[0].cached)) == 0


def test_a_pack_in_use_is_not_replaced_by_another_and_kept_for_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pack_of(source, tmp_path / "pack", EXACT)
    inode = folder.stat().st_ino
    with opened(folder):
        assert pack_of(source, folder, EXACT) == folder
        assert folder.stat().st_ino == inode
        with monkeypatch.context() as before, pytest.raises(InUse, match="in use"):
            before.setattr("pintpot.packer.pack._fill", lambda *given: pytest.fail("it was packed in vain"))
            pack_of(source, folder, INT8)
        assert list(tmp_path.iterdir()) == [folder]
    pack_of(source, folder, INT8)
    assert folder.stat().st_ino != inode


def test_a_draft_settles_over_another_that_came_first(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    with draft_of(folder) as one, draft_of(folder) as two:
        (one / "a").write_text("one")
        (two / "a").write_text("two")
        settle(one, folder)
        assert (folder / "a").read_text() == "one"
    with draft_of(folder) as three:
        (three / "a").write_text("three")
        settle(three, folder)
    assert (folder / "a").read_text() == "three"
    assert list(tmp_path.iterdir()) == [folder]


SETTLING = """
import os, signal, sys
from pathlib import Path
from pintpot.packer import draft
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
die = lambda *given, **more: os.kill(os.getpid(), signal.SIGKILL)
draft._EXCHANGE = 1 << 30  # of a filesystem that cannot swap two folders
rename, renamed = os.rename, []
def counted(one, other):
    if len(renamed) == stop:
        die()
    renamed.append(one)
    rename(one, other)
with draft.draft_of(folder) as made:
    (made / "a").write_text("new")
    draft.os.rename, draft.shutil.rmtree = counted, die
    draft.settle(made, folder)
"""


@pytest.mark.parametrize(("stop", "there", "kept"), [(1, True, "old"), (2, False, "old"), (3, True, "new")])
def test_a_pack_that_stepped_aside_is_not_lost(tmp_path: Path, stop: int, there: bool, kept: str) -> None:
    """Killed before it stepped aside, between the two renames, and before what it was went."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", SETTLING, str(folder), str(stop)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert folder.exists() == there
    assert all(is_draft(path) for path in tmp_path.iterdir() if path != folder)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "a").read_text() == kept


def test_what_steps_aside_for_a_living_process_stays_there(tmp_path: Path) -> None:
    aside = tmp_path / f".pack.pintpot-aside-{0:016x}"
    aside.mkdir()
    with alone(aside):
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [aside]
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "pack"]


def test_readers_share_and_who_would_move_it_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    with in_use(folder), in_use(folder), pytest.raises(InUse), alone(folder):
        pass
    with alone(folder), pytest.raises(InUse), alone(folder):
        pass
    with pytest.raises(BadPack, match="no pack"), in_use(tmp_path / "nowhere"):
        pass


# --- The shelf under PINTPOT_HOME ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keep(source: Path, **asked: object) -> Path:
    model = describe(str(source))
    return write_pack(model, plan_of(model, INT8), place_for(model.name, asked))


def test_packs_are_listed_and_removed(home: Path, source: Path) -> None:
    assert kept_packs() == ()
    one, two = keep(source, memory=1), keep(source, memory=2)
    assert {kept.folder for kept in kept_packs()} == {one, two}
    kept = kept_packs()[0]
    assert kept.num_bytes > 1_000_000
    assert kept.memory_bytes == read_manifest(kept.folder)[0].plan.cost.memory_high
    assert kept.steps == ("RoundToNearest", "Int8Activations", "PrefillChunk")
    assert remove_pack(one.name) == one
    assert [kept.folder for kept in kept_packs()] == [two]
    assert list(shelf().iterdir()) == [two]


def test_a_pack_in_use_is_listed_and_stays(home: Path, source: Path) -> None:
    folder = keep(source)
    with opened(folder) as session:
        assert [kept.folder for kept in kept_packs()] == [folder]
        with pytest.raises(InUse, match="in use"):
            remove_pack(folder.name)
        assert "".join(session.complete("Once", max_tokens=2, ignore_end=True)) is not None
    assert remove_pack(folder.name) == folder
    assert not folder.exists()


@pytest.mark.parametrize("name", ["nothing", "../home", "", "..", "packs/x"])
def test_only_names_of_packs_are_removed(home: Path, source: Path, name: str) -> None:
    keep(source)
    with pytest.raises(UsageError):
        remove_pack(name)
    assert len(kept_packs()) == 1


def test_the_same_question_finds_the_same_folder(home: Path) -> None:
    assert place_for("a/b c", {"memory": 1}) == place_for("a/b c", {"memory": 1})
    assert place_for("a/b c", {"memory": 1}) != place_for("a/b c", {"memory": 2})
    assert place_for("a/b c", {}).parent == shelf()
    assert place_for("../..", {}).parent == shelf()


def test_what_is_no_pack_is_passed_over(home: Path, source: Path) -> None:
    folder = keep(source)
    (shelf() / "stray").mkdir()
    (shelf() / "file").write_text("")
    (shelf() / "broken").mkdir()
    (shelf() / "broken" / "manifest.json").write_text("{")
    assert [kept.folder for kept in kept_packs()] == [folder]
