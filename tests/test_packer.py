"""Packing: what lies in the folder, how little memory it takes, and which folders it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import BLOCKS, EXACT, INT8, STREAMED, opened, pack_of, plan_of
from tiny import K_QUANT, Tiny, hf_weights, write_gguf, write_hf

from pintpot.contract.step import Step
from pintpot.errors import DiskTooSmall, PintpotError, UsageError
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.model.read import describe
from pintpot.packer.apart import pack_apart
from pintpot.packer.draft import sweep
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.raw import MANIFEST, WEIGHTS
from pintpot.runtime.request import Sampling
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.normal_float import NormalFloat

FILES = {MANIFEST, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
WIDE = Tiny(hidden=256, intermediate=512, heads=4, kv_heads=2, head_dim=64, layers=3, seed=7)


SOME = (("layers.1.q", "model.layers.1.self_attn.q_proj.weight"), ("head", "lm_head.weight"))
GREEDY = Sampling(temperature=0.0)
TABLES = (NormalFloat("all"), NormalFloat("all", 32), MicroScaling("all"), MicroScaling("all", "nvfp4"))


def packed_values(folder: Path, name: str) -> NDArray[np.float32]:
    """What a pack holds of a weight, from RAM's part and from its slots."""
    from safetensors.numpy import load_file

    tensors, (manifest, _) = load_file(folder / WEIGHTS), read_manifest(folder)
    form = next(w for w in manifest.plan.form.weights if w.name == name)
    strips = [tensors[name]] if name in tensors else []
    for index, (_, _, slot) in enumerate(manifest.slots):
        for piece in slot.pieces:
            if piece.weight == name:
                data = tensors[f"slot.{index:06d}"][piece.offset :][: piece.num_strips * form.strip_bytes]
                strips.append(data.reshape(piece.num_strips, -1))
    return unpack(np.concatenate(strips), form.format, *form.shape)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("source") / "model", WIDE)


@pytest.mark.parametrize("steps", [EXACT, (*EXACT, STREAMED)], ids=["resident", "streamed"])
def test_a_pack_holds_every_weight_as_promised(source: Path, tmp_path: Path, steps: tuple[Step, ...]) -> None:
    folder = pack_of(source, tmp_path / "pack", steps)
    assert {path.name for path in folder.iterdir()} == FILES
    weights = hf_weights(WIDE)
    assert bool(read_manifest(folder)[0].slots) == (STREAMED in steps)
    for name, hf in SOME:
        np.testing.assert_array_equal(packed_values(folder, name), weights[hf])


@pytest.mark.parametrize("step", TABLES, ids=str)
def test_weights_rounded_to_a_table_are_in_the_pack_and_answer(step: Step, source: Path, tmp_path: Path) -> None:
    steps = (step, Int8Activations(), PrefillChunk(tokens=16))
    weights, answers = hf_weights(WIDE), []
    for kind, place in (("resident", ()), ("streamed", (STREAMED,))):
        folder = pack_of(source, tmp_path / kind, (*steps, *place))
        for name, hf in SOME:
            form = next(w for w in read_manifest(folder)[0].plan.form.weights if w.name == name)
            assert form.format == str(step.key).removeprefix("all/")
            wanted = unpack(encode(weights[hf], form.format), form.format, *form.shape)
            np.testing.assert_array_equal(packed_values(folder, name), wanted)
        with opened(folder) as session:
            said = session.complete(
                "Once upon a time", sampling=Sampling(temperature=0.0), max_tokens=12, ignore_end=True
            )
            answers.append("".join(said))
    assert answers[0] == answers[1] != ""


def test_the_same_model_and_plan_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    one, two = pack_of(source, tmp_path / "one"), pack_of(source, tmp_path / "two")
    for name in FILES - {MANIFEST}:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert read_manifest(one)[0].same_pack(read_manifest(two)[0])
    other = pack_of(source, tmp_path / "three", INT8)
    assert not read_manifest(one)[0].same_pack(read_manifest(other)[0])


def test_progress_is_told_from_nothing_to_everything(source: Path, tmp_path: Path) -> None:
    model, told = describe(str(source)), []
    folder = write_pack(model, plan_of(model), tmp_path / "pack", lambda done, total: told.append((done, total)))
    done = [part for part, _ in told]
    assert done == sorted(done)
    assert len(told) > 10
    assert told[-1] == ((folder / WEIGHTS).stat().st_size,) * 2


def test_packing_elsewhere_is_the_same_and_says_what_it_took(source: Path, tmp_path: Path) -> None:
    model, told = describe(str(source)), []
    plan = plan_of(model)
    here = write_pack(model, plan, tmp_path / "here")
    there = pack_apart(model, plan, tmp_path / "there", lambda share, what: told.append(share))
    assert read_manifest(here)[0].same_pack(read_manifest(there)[0])
    assert told[-1] == 1.0
    packing = read_manifest(there)[0].packing
    assert 20_000_000 < packing.peak_bytes < 150_000_000
    assert 0 < packing.seconds < 60
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no folder"):
        pack_apart(model, plan, tmp_path / "file")


MODEL_BYTES = 90_000_000
BUDGET_BYTES = 75_000_000


def test_a_model_larger_than_the_budget_is_packed_inside_it(tmp_path: Path) -> None:
    large = Tiny(hidden=512, intermediate=2048, heads=8, kv_heads=8, head_dim=64, layers=6, seed=3)
    source = write_hf(tmp_path / "large", large)
    model = describe(str(source))
    assert model.num_bytes > MODEL_BYTES
    plan = plan_of(model, (*INT8, STREAMED), memory_bytes=BUDGET_BYTES)
    folder = pack_apart(model, plan, tmp_path / "pack")
    peak = read_manifest(folder)[0].packing.peak_bytes
    assert peak < BUDGET_BYTES, f"packing took {peak} bytes"


@pytest.mark.parametrize("quantization", ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k"])
def test_gguf_files_are_packed_from_their_own_blocks(quantization: str, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", K_QUANT, quantization)
    folder = pack_of(source, tmp_path / "pack", BLOCKS)
    formats = {w.format for w in read_manifest(folder)[0].plan.form.weights if w.name.startswith("layers.0.q")}
    expected = {"q4_0": "sym4", "q8_0": "sym8", "q5_k": "sym8"}.get(quantization, quantization)
    assert formats == {expected}


# --- Folders that are not ours ------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UsageError, match="is no pack"):
        pack_of(source, tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    with pytest.raises(UsageError, match="is no pack"):
        pack_of(source, source)
    assert describe(str(source)).num_bytes > 0


def test_a_pack_with_something_else_inside_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = pack_of(source, tmp_path / "pack")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        pack_of(source, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_pack_is_replaced_and_an_empty_folder_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    folder = pack_of(source, tmp_path / "pack", EXACT)
    before = read_manifest(folder)[1]
    (folder / WEIGHTS).write_bytes(b"broken")
    assert pack_of(source, tmp_path / "pack", INT8) == folder
    assert read_manifest(folder)[1] != before
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_plan_for_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    other = write_hf(tmp_path / "other", Tiny(seed=99, layers=1))
    with pytest.raises(UsageError, match="the plan is for"):
        write_pack(describe(str(other)), plan_of(describe(str(source))), tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_a_source_that_shrank_leaves_nothing(source: Path, tmp_path: Path) -> None:
    copy = write_hf(tmp_path / "model", WIDE)
    model = describe(str(copy))
    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(model.num_bytes // 2)
    with pytest.raises(PintpotError, match="ends inside"):
        write_pack(model, plan_of(model), tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- A full disk --------------------------------------------------------------------------------------------------


def test_room_is_asked_for_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: 1_000_000)
    with pytest.raises(DiskTooSmall, match="free"):
        pack_of(source, tmp_path / "deep" / "pack")
    assert not list((tmp_path / "deep").iterdir())


LIMITED = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from packing import plan_of
from pintpot.errors import DiskTooSmall
from pintpot.model.read import describe
from pintpot.packer.pack import write_pack
model = describe(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    write_pack(model, plan_of(model), Path(sys.argv[2]))
except DiskTooSmall as error:
    print("full:", error)
"""


@pytest.mark.parametrize("limit", [4096, 100_000, 1_000_000])
def test_a_file_that_cannot_grow_is_a_full_disk(source: Path, tmp_path: Path, limit: int) -> None:
    out = _python(LIMITED, source, tmp_path / "pack", Path(__file__).parent, limit)
    assert out.startswith("full:"), out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mebibytes", [1, 3])
def test_a_full_disk_leaves_nothing(
    source: Path, tmp_path: Path, mebibytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "pintpot-test", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        # Nobody but root mounts; the same end without a mount is tested by the limit on a file's size.
        assert "permi" in mounted.stderr.lower() or "superuser" in mounted.stderr.lower(), mounted.stderr
        return
    try:
        monkeypatch.setattr("pintpot.packer.pack.ask_room", lambda path, num_bytes: None)
        with pytest.raises(DiskTooSmall):
            pack_of(source, disk / "pack", EXACT)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- What the dead leave ------------------------------------------------------------------------------------------


def test_only_drafts_of_the_dead_are_swept(tmp_path: Path) -> None:
    dead, living = tmp_path / f".a.pintpot-draft-{'0' * 16}", tmp_path / f".b.pintpot-draft-{'1' * 16}"
    mine = tmp_path / "notes.partial-1"
    for folder in (dead, living, mine):
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(b"half")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, mine.name])
        holder.kill()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]


HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_manifest_is_json_that_says_its_format(source: Path, tmp_path: Path) -> None:
    data = json.loads((pack_of(source, tmp_path / "pack") / MANIFEST).read_text())
    assert data["pintpot_pack"] == 2
    assert data["plan"]["model_name"] == describe(str(source)).name


def _python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
