"""An export appears whole or not at all: full disks, killed processes, changed packs, and places that are taken."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packing import EXACT, STREAMED, pack_of
from test_packer_interrupted import children_of, wait_until
from tiny import Tiny, write_gguf, write_hf

from pintpot.cli import cli
from pintpot.errors import BadPack, DiskTooSmall, UnsupportedModel, UsageError
from pintpot.model.gguf_write import header, pair
from pintpot.packer.checks import crc32c_of_file
from pintpot.packer.export.export import Wish, place_for_export, write_export
from pintpot.packer.manifest import read_manifest, with_digest
from pintpot.packer.raw import MANIFEST, METADATA, WEIGHTS

GGUF, FOLDER = Wish("gguf"), Wish("safetensors")
BOTH = pytest.mark.parametrize("wish", [GGUF, FOLDER], ids=["gguf", "safetensors"])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a GGUF file with resident and with streamed weights."""
    base = tmp_path_factory.mktemp("export")
    tiny = Tiny(hidden=128, intermediate=256, heads=4, kv_heads=2, seed=8)
    return pack_of(write_gguf(base / "m.gguf", tiny, "q8_0"), base / "pack", (*EXACT, STREAMED))


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "in" / "pack"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def change_manifest(pack: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((pack / MANIFEST).read_text())
    data.pop("digest")
    change(data)
    (pack / MANIFEST).write_text(with_digest(data))


# --- Packs that were changed ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("where", ["resident", "slot"])
def test_a_changed_weight_is_refused(pack: Path, out: Path, wish: Wish, where: str) -> None:
    manifest, _ = read_manifest(pack)
    # The beginning of a vector, and the middle of a slot.
    offset, _, slot = manifest.slots[0]
    at = manifest.resident_offset if where == "resident" else offset + slot.num_bytes // 4
    with (pack / WEIGHTS).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))
    with pytest.raises(BadPack, match="changed after packing"):
        write_export(pack, out / "x", wish)
    assert list(out.iterdir()) == []


@BOTH
def test_a_cut_weight_file_is_refused(pack: Path, out: Path, wish: Wish) -> None:
    os.truncate(pack / WEIGHTS, (pack / WEIGHTS).stat().st_size - 4096)
    with pytest.raises(BadPack, match="the manifest says"):
        write_export(pack, out / "x", wish)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", [METADATA, "tokenizer.json"])
def test_a_changed_small_file_is_refused(pack: Path, out: Path, name: str) -> None:
    data = bytearray((pack / name).read_bytes())
    data[len(data) // 2] ^= 1
    (pack / name).write_bytes(data)
    with pytest.raises(BadPack, match=name):
        write_export(pack, out / "x", GGUF)
    assert list(out.iterdir()) == []


def put_metadata(pack: Path, data: bytes) -> None:
    """As somebody with bad intentions would, checksums and all."""
    (pack / METADATA).write_bytes(data)
    line = [METADATA, len(data), crc32c_of_file(pack / METADATA)]
    change_manifest(pack, lambda manifest: manifest["files"].__setitem__(-1, line))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "GGUF"),
        (b"GGUF" + bytes(3), "ends at byte 7"),
        (header([pair("general.architecture", "llama")]), "missing"),
        (header([]), "architecture"),
    ],
)
def test_metadata_that_make_no_model_are_refused(pack: Path, out: Path, data: bytes, why: str) -> None:
    put_metadata(pack, data)
    with pytest.raises(BadPack, match=why):
        write_export(pack, out / "x.gguf", GGUF)
    assert list(out.iterdir()) == []


def test_metadata_of_another_model_are_refused(pack: Path, out: Path) -> None:
    raw = (pack / METADATA).read_bytes()
    theta, other = (pair("llama.rope.freq_base", value) for value in (10000.0, 500.0))
    assert theta in raw
    put_metadata(pack, raw.replace(theta, other))
    with pytest.raises(BadPack, match="rope_theta differ"):
        write_export(pack, out / "x.gguf", GGUF)
    assert list(out.iterdir()) == []


def test_a_family_that_nobody_named_is_refused(pack: Path, out: Path) -> None:
    change_manifest(pack, lambda data: data["plan"]["parts"][0]["config"].__setitem__("model_type", "mamba"))
    with pytest.raises(UnsupportedModel, match="mamba"):
        write_export(pack, out / "x", GGUF)
    assert list(out.iterdir()) == []


def test_what_only_we_compute_is_refused(pack: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.packer.export.check._PROLOGUES", frozenset({"none", "rmsnorm"}))
    with pytest.raises(UnsupportedModel, match="no other program"):
        write_export(pack, out / "x", GGUF)


# --- Places -----------------------------------------------------------------------------------------------------------


@BOTH
def test_nothing_is_written_over(pack: Path, out: Path, wish: Wish) -> None:
    (out / "file").write_text("mine")
    (out / "empty").mkdir()
    (out / "link").symlink_to(out / "nowhere")
    for name in ("file", "empty", "link"):
        with pytest.raises(UsageError, match="is there already"):
            write_export(pack, out / name, wish)
    assert sorted(path.name for path in out.iterdir()) == ["empty", "file", "link"]
    assert (out / "file").read_text() == "mine"


@BOTH
def test_somebody_who_was_faster_keeps_the_place(
    pack: Path, out: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pintpot.packer.export.export.read_back", lambda path, manifest: (out / "x").write_text("mine"))
    with pytest.raises(UsageError, match="is there already"):
        write_export(pack, out / "x", wish)
    assert (out / "x").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["x"]


@BOTH
def test_nothing_is_put_into_the_pack(pack: Path, wish: Wish) -> None:
    with pytest.raises(UsageError, match="would lie in the pack"):
        write_export(pack, pack / "x", wish)
    assert not (pack / "x").exists()


def test_a_folder_is_not_called_gguf(pack: Path, out: Path) -> None:
    with pytest.raises(UsageError, match=r"without \.gguf"):
        write_export(pack, out / "x.gguf", FOLDER)


@BOTH
def test_room_is_asked_for_first(pack: Path, out: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: 1_000_000)
    with pytest.raises(DiskTooSmall, match="free"):
        write_export(pack, out / "x", wish)
    assert list(out.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
from pintpot.errors import DiskTooSmall
from pintpot.packer.export.export import Wish, write_export
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    write_export(Path(sys.argv[1]), Path(sys.argv[2]), Wish(sys.argv[3]))
except DiskTooSmall as error:
    print("full:", error)
"""


@BOTH
@pytest.mark.parametrize("limit", [100, 4096, 100_000])
def test_a_full_disk_leaves_nothing(pack: Path, out: Path, wish: Wish, limit: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(pack), str(out / "x"), wish.kind, str(limit)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    assert said.startswith("full:"), said
    assert list(out.iterdir()) == []


# --- Killed -----------------------------------------------------------------------------------------------------------

EXPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import pintpot
from pintpot.errors import PintpotError
try:
    pintpot.export(sys.argv[1], sys.argv[2])
except KeyboardInterrupt:
    sys.exit(130)
except PintpotError as error:
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def large(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(smollm2, tmp_path_factory.mktemp("large") / "pack")


@pytest.mark.parametrize("name", ["x.gguf", "x"])
@pytest.mark.parametrize(("number", "killed"), [(signal.SIGINT, "parent"), (signal.SIGKILL, "child")])
def test_killed_in_the_middle_it_leaves_nothing(
    large: Path, out: Path, name: str, number: signal.Signals, killed: str
) -> None:
    command = [sys.executable, "-c", EXPORT, str(large), str(out / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: list(out.glob(".x*/x*")))
        os.kill(process.pid if killed == "parent" else children_of(process.pid)[0], number)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == (130 if killed == "parent" else 3)
    assert list(out.iterdir()) == []


def test_one_that_is_left_alone_clears_up(large: Path, out: Path) -> None:
    command = [sys.executable, "-c", EXPORT, str(large), str(out / "x.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: list(out.glob(".x*/x*")))
        process.kill()
        assert process.communicate(timeout=60) == ("", ""), "read until the other process has ended too"
    assert list(out.iterdir()) == []


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_where_it_is(pack: Path, out: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(pack), "--to", str(out / "model.gguf")])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [str(out / "model.gguf")]
    assert "8.50 bits a weight" in done.stderr
    done = CliRunner().invoke(cli, ["export", str(pack), "--to", str(out / "folder"), "--float", "bf16", "--json"])
    told = json.loads(done.stdout)
    assert (told["kind"], told["bits"], told["path"]) == ("safetensors", 16.0, str(out / "folder"))
    assert "rounded to BF16" in told["notes"][0]


def test_the_command_ends_with_the_exit_code_of_its_error(pack: Path, out: Path) -> None:
    (out / "there").mkdir()
    for arguments, code in (
        ([str(pack), "--to", str(out / "there")], 2),
        ([str(out), "--to", str(out / "x")], 4),
        ([str(pack), "--to", str(out / "x.gguf"), "--as", "safetensors"], 2),
        ([str(pack), "--as", "onnx"], 2),
    ):
        done = CliRunner().invoke(cli, ["export", *arguments], standalone_mode=True)
        assert done.exit_code == code, (arguments, done.output)


@BOTH
def test_without_a_place_it_is_named_after_the_model(
    tmp_path: Path, out: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of(write_hf(tmp_path / "My Model! 2"), tmp_path / "pack")
    monkeypatch.chdir(out)
    name = "My-Model-2" + ".gguf" * (wish is GGUF)
    assert write_export(pack, place_for_export(pack, wish.kind), wish).path == out / name
    assert [path.name for path in out.iterdir()] == [name]
