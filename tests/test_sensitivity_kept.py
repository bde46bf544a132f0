"""Whose table it is, who measures it, and what becomes of texts and disks that are no good."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from tiny import Tiny, write_hf

import pintpot
from pintpot.cli import cli
from pintpot.errors import BadInput, DiskTooSmall, UsageError
from pintpot.formats.registry import DENSE_FORMATS, GRIDS, encoding
from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.packer.calibrate import texts as of_texts
from pintpot.packer.calibrate.begun import Begun
from pintpot.packer.calibrate.fisher import rounded
from pintpot.packer.calibrate.sensitivity import measure_sensitivities
from pintpot.packer.calibrate.texts import read_text
from pintpot.planner.sensitivity import Sensitivities, keep_sensitivities, recall_sensitivities, table_key

TEXT = "A pint of tea for the miller, and a quart for his mare. " * 90
OWN = np.random.default_rng(7).integers(3, 300, (4, 16)).tolist()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables of other tests are of the same drawn models."""
    monkeypatch.setenv("PINTPOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "model", Tiny(layers=1))


# --- Whose it is ------------------------------------------------------------------------------------------------------


def test_two_trainings_of_a_network_have_a_table_each(model: Path, tmp_path: Path) -> None:
    other = write_hf(tmp_path / "other", Tiny(layers=1))
    weights = load_file(other / "model.safetensors")
    trained = {name: (values * 1.25).astype(values.dtype) for name, values in weights.items()}
    save_file(trained, other / "model.safetensors", {"format": "pt"})
    one, two = describe(str(model)), describe(str(other))
    assert one.digest == two.digest, "the headers say the same"
    assert table_key(one) != table_key(two)
    table = measure_sensitivities(one, OWN)
    assert recall_sensitivities(table_key(one)) == table
    assert recall_sensitivities(table_key(two)) is None
    plans = [
        pintpot.plan(source, memory="200MB", context=128, degradation=1.0, machine=null_machine())
        for source in (model, other)
    ]
    assert [plan.degradation.summed for plan in plans] == [True, False]


def test_a_model_of_the_hub_has_no_table_until_it_is_here() -> None:
    assert recall_sensitivities("") is None


ERRORS = {
    "f16": 0.000207, "bf16": 0.00165, "sym8": 0.00504, "sym6": 0.0201, "sym5": 0.0406, "sym4": 0.0813, "sym3": 0.162,
    "sym2": 0.329, "aff6": 0.0178, "aff5": 0.0361, "aff4": 0.0728, "aff3": 0.149, "aff2": 0.302, "nf4": 0.0856,
    "nf4_32": 0.08, "mxfp4": 0.111, "nvfp4": 0.082,
}  # fmt: skip
"""Root mean square error of a Gaussian in the formats as `GRIDS` numbers them."""


def test_grids_that_round_otherwise_have_another_number() -> None:
    assert GRIDS == 1, "then these are other figures"
    values = np.random.default_rng(3).normal(size=(128, 512)).astype(np.float32)
    for name in DENSE_FORMATS:
        if encoding(name).kind != "super" and name != "f32":
            error = float(np.sqrt(np.square(rounded(values, name) - values).mean()))
            assert error == pytest.approx(ERRORS[name], rel=0.01), name


def test_what_was_begun_for_other_grids_is_not_gone_on_with(tmp_path: Path) -> None:
    with Begun(tmp_path / "begun", {"grids": 1}) as begun:
        begun.put("states", np.ones(3))
        (begun.folder / "left.part").write_bytes(b"half")
    with Begun(tmp_path / "begun", {"grids": 1}) as begun:
        assert begun.has("states")
        assert not list(begun.folder.glob("*.part"))
    with Begun(tmp_path / "begun", {"grids": 2}) as begun:
        assert not begun.has("states")


@pytest.mark.parametrize("values", [np.array("words"), np.ones((2, 3), np.float32)[:, ::2], np.zeros((0, 4))])
def test_arrays_come_back_as_they_were_put(values: np.ndarray, tmp_path: Path) -> None:
    with Begun(tmp_path / "begun", {}) as begun:
        begun.put("it", values)
        found = begun.get("it")
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


# --- Two at a time ----------------------------------------------------------------------------------------------------


def test_who_comes_second_waits_and_takes_the_table_of_the_first(model: Path, own_home: Path, tmp_path: Path) -> None:
    described = describe(str(model))
    key, told = table_key(described), list[str]()
    found: list[Sensitivities] = []

    def second() -> None:
        found.append(measure_sensitivities(described, OWN, lambda share, what: told.append(what), again=False))

    with Begun(own_home / "sensitivities" / f"{key}.begun", {"of": "the first"}):
        thread = threading.Thread(target=second)
        thread.start()
        while not told and thread.is_alive():
            time.sleep(0.01)
        table = measure_sensitivities(described, OWN, folder=tmp_path / "first")
        keep_sensitivities(key, table)
    thread.join()
    assert told == ["waiting for another process that measures this model"]
    assert found == [table]
    assert measure_sensitivities(described, [OWN[0]], again=False).tokens == 16, "another text is measured"


# --- Disks and texts --------------------------------------------------------------------------------------------------


def test_room_is_asked_for_first(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: 1000)
    with pytest.raises(DiskTooSmall, match="free"):
        measure_sensitivities(describe(str(model)), OWN)


def test_a_disk_that_fills_up_is_told_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*places: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Begun(tmp_path / "begun", {}) as begun:
        begun.put("done", np.ones(3))
        monkeypatch.setattr("pintpot.packer.calibrate.begun.os.replace", full)
        with pytest.raises(DiskTooSmall, match="is full; make room"):
            begun.put("more", np.ones(3))
        monkeypatch.undo()
        assert sorted(path.name for path in begun.folder.iterdir()) == ["asked.json", "done.npy"]


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (None, BadInput, "cannot be read as text"),
        (b"", UsageError, "0 tokens is too short"),
        (b"One pint.", UsageError, "is too short"),
        (bytes(range(256)) * 40, BadInput, "cannot be read as text"),
    ],
    ids=["missing", "empty", "short", "binary"],
)
def test_texts_that_are_none_are_refused_in_a_word(
    data: bytes | None, error: type[BadInput | UsageError], why: str, model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    if data is not None:
        text.write_bytes(data)
    done = CliRunner().invoke(cli, ["calibrate", str(model), "--text", str(text), "--json"])
    assert done.exit_code == error.exit_code
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or "error" in json.loads(done.stdout)
    assert recall_sensitivities(table_key(describe(str(model)))) is None


def test_of_a_long_text_whole_characters_are_read_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "".join(chr(code) for code in (*range(0x4E00, 0x9000), *range(0x1F400, 0x1F500)))
    (tmp_path / "text").write_text(words, encoding="utf-8")
    monkeypatch.setattr(of_texts, "MOST_BYTES", 3200)
    found = read_text(tmp_path / "text").split("\n\n")
    assert len(found) == of_texts.PIECES
    assert all(piece in words and len(piece.encode()) > 90 for piece in found)
    starts = [words.index(piece) for piece in found]
    assert starts[0] == 0
    assert words.endswith(found[-1])
    gaps = np.diff(starts)
    assert gaps.max() - gaps.min() < 100
    (tmp_path / "text").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(BadInput, match="cannot be read as text"):
        read_text(tmp_path / "text")


def test_few_tokens_are_told_and_another_text_replaces_the_table(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    table = pintpot.calibrate(model, text=text)
    assert table.tokens < 4096
    assert "tokens could be measured on" in caplog.text
    again = pintpot.calibrate(model, text=text)
    assert again == table
    text.write_text(TEXT.replace("tea", "beer"))
    assert pintpot.calibrate(model, text=text).text != table.text


def test_told_to_stop_it_stops_and_goes_on_later(own_home: Path, tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "model", Tiny(layers=8))
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    command = [sys.executable, "-m", "pintpot", "calibrate", str(folder), "--text", str(text), "-v"]
    begun = own_home / "sensitivities" / f"{table_key(describe(str(folder)))}.begun"
    # Tests that run in the background of a shell inherit that this signal is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True, preexec_fn=heard) as child:
        while child.poll() is None and not (begun / "states.1.npy").exists():
            time.sleep(0.005)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    assert (child.returncode, out) == (130, "")
    assert (begun / "states.0.npy").exists()
    assert not list(begun.glob("*.part"))
    assert pintpot.calibrate(folder, text=text).tokens > 500
    assert not begun.exists()
