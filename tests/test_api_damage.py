"""Kept packs that were damaged: packed again, with a warning, while their source is there; refused where named."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packing import BLOCKS, STREAMED, pack_of
from tiny import Tiny, write_gguf

import pintpot
from pintpot.errors import BadInput, BadPack, InUse, NewerPack, UsageError
from pintpot.machine.here import this_machine
from pintpot.machine.remember import remember
from pintpot.packer.locks import in_use
from pintpot.packer.manifest import read_manifest
from pintpot.packer.places import place_of_question
from pintpot.packer.raw import MANIFEST, WEIGHTS
from pintpot.packer.shelf import kept_packs, remove_pack
from pintpot.runtime.request import Sampling
from pintpot.runtime.session import Session

ASKED = {"memory": "300MB", "context": 128}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = Tiny(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2, vocab=768, seed=71)
    return write_gguf(tmp_path_factory.mktemp("damage") / "model.gguf", tiny, "q8_0")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = this_machine()
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    remember(known)
    return tmp_path / "home"


def answer(session: Session) -> str:
    with session:
        return "".join(session.complete("Once", sampling=Sampling(0.0), max_tokens=5, ignore_end=True))


def change(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def change_weights(folder: Path) -> None:
    manifest, _ = read_manifest(folder)
    change(folder / WEIGHTS, manifest.resident_offset + manifest.residents[0].offset + 5)


def cut_weights(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(4096)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights changed": change_weights,
    "weights cut": cut_weights,
    "manifest changed": lambda folder: change(folder / MANIFEST, 400),
    "manifest missing": lambda folder: (folder / MANIFEST).unlink(),
    "tokenizer changed": lambda folder: change(folder / "tokenizer.json", 50),
    "tokenizer missing": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_kept_pack_is_packed_again(source: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first = answer(pintpot.run(source, **ASKED))
    (kept,) = kept_packs()
    good = (kept.folder / WEIGHTS).read_bytes()
    DAMAGE[kind](kept.folder)
    with caplog.at_level(logging.WARNING, "pintpot"):
        assert answer(pintpot.run(source, **ASKED)) == first
    (warning,) = caplog.messages
    assert str(kept.folder) in warning
    assert "packed again" in warning
    assert (kept.folder / WEIGHTS).read_bytes() == good
    caplog.clear()
    assert answer(pintpot.run(source, **ASKED)) == first
    assert caplog.messages == []


def test_a_damaged_pack_that_was_named_is_refused(source: Path) -> None:
    answer(pintpot.run(source, **ASKED))
    (kept,) = kept_packs()
    change_weights(kept.folder)
    damaged = (kept.folder / WEIGHTS).read_bytes()
    with pytest.raises(BadPack, match="changed after packing"):
        pintpot.run(kept.folder)
    assert (kept.folder / WEIGHTS).read_bytes() == damaged


def test_without_its_source_it_is_not_packed_again(source: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.gguf"
    gone.write_bytes(source.read_bytes())
    answer(pintpot.run(gone, **ASKED))
    change_weights(kept_packs()[0].folder)
    gone.unlink()
    with pytest.raises(BadInput, match="no such file"):
        pintpot.run(gone, **ASKED)


def test_what_is_no_damage_stays(source: Path) -> None:
    answer(pintpot.run(source, **ASKED))
    (kept,) = kept_packs()
    (kept.folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt, which would be lost"):
        pintpot.run(source, **ASKED)
    (kept.folder / "mine.txt").unlink()
    change_weights(kept.folder)
    with in_use(kept.folder), pytest.raises(InUse):
        pintpot.run(source, **ASKED)
    data = json.loads((kept.folder / MANIFEST).read_text())
    (kept.folder / MANIFEST).write_text(json.dumps({**data, "pintpot_pack": 7}))
    with pytest.raises(NewerPack, match=r"format 7.*update"):
        pintpot.run(source, **ASKED)


@pytest.fixture
def streamed(source: Path) -> Path:
    """A kept pack one of whose slots, read in every pass, was changed."""
    folder = pack_of(source, place_of_question(pintpot.describe(source), ASKED), (*BLOCKS, STREAMED))
    offset, _, slot = read_manifest(folder)[0].slots[0]
    change(folder / WEIGHTS, offset + slot.num_bytes // 2)
    return folder


def test_damage_found_while_answering_is_remembered(
    source: Path, streamed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadPack, match="slot"):
        answer(pintpot.run(source, **ASKED))
    assert caplog.messages == []
    assert answer(pintpot.run(source, **ASKED))
    assert "slot" in caplog.messages[0]
    assert "packed again" in caplog.messages[0]
    assert read_manifest(streamed)[0].plan.steps != (*BLOCKS, STREAMED)
    assert [path.name for path in streamed.parent.iterdir()] == [streamed.name]


def test_the_program_answers_all_the_same(source: Path, streamed: Path) -> None:
    command = [sys.executable, "-m", "pintpot", "run", str(source), "--memory", "300MB", "--context", "128"]
    command += ["-p", "Once", "--raw", "--max-tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.count("packed again") == 1
    named = subprocess.run([*command[:4], str(streamed), *command[9:]], capture_output=True, text=True, check=False)
    assert named.returncode == 0, named.stderr


def test_a_note_goes_with_its_pack(source: Path, streamed: Path) -> None:
    with pytest.raises(BadPack):
        answer(pintpot.run(source, **ASKED))
    remove_pack(streamed.name)
    assert list(streamed.parent.iterdir()) == []
