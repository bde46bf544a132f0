"""Which text weights are rounded on: the one asked for, that of the model's table, or the one that comes along."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import known_home
from packing import plan_of
from test_calibrate import STEPS, TINY
from tiny import write_hf

import pintpot
from pintpot.cli import cli
from pintpot.errors import BadInput, UsageError
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.packer.calibrate import sensitivity
from pintpot.packer.calibrate.texts import chosen_texts, remember_text, text_of_table
from pintpot.packer.pack import tokenizer_of, write_pack
from pintpot.packer.place import place_asked, place_of
from pintpot.packer.raw import WEIGHTS
from pintpot.planner import calibrating
from pintpot.planner.sensitivity import table_key
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

TEXT = "A pint of tea for the miller, and a quart for his mare. " * 60


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> object:
    place = known_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(place))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return describe(str(write_hf(tmp_path_factory.mktemp("model") / "model", TINY)))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def weights(model: Model, folder: Path, text: Path | None = None) -> bytes:
    return (write_pack(model, plan_of(model, STEPS), folder, text=text) / WEIGHTS).read_bytes()


def tokens(model: Model, asked: Path | None = None) -> list[list[int]]:
    return chosen_texts(tokenizer_of(model), model.context, asked, table_key(model))


def test_the_text_of_the_table_is_taken_while_its_file_stays(
    model: Model, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, asked = tokens(model), tokens(model, text)
    assert asked != plain
    assert pintpot.calibrate(model, text=text).tokens > 0
    assert text_of_table(table_key(model)) == text
    assert tokens(model) == asked
    assert "and 32768 are usual" in caplog.text
    text.write_text(TEXT.replace("tea", "beer"))
    assert tokens(model) == plain
    assert f"{text}, on which `pintpot calibrate` measured, has changed" in caplog.text
    text.unlink()
    assert tokens(model) == plain
    assert f"{text}, on which `pintpot calibrate` measured, is gone" in caplog.text
    remember_text(table_key(model), None)
    assert text_of_table(table_key(model)) is None


def test_packs_are_rounded_on_the_text_of_the_table(model: Model, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("tea", "beer"))
    asked = weights(model, tmp_path / "asked", text)
    assert asked != weights(model, tmp_path / "other", other)
    remember_text(table_key(model), text)
    assert pintpot.pack(model, plan_of(model, STEPS), tmp_path / "apart").joinpath(WEIGHTS).read_bytes() == asked


def test_where_the_text_moved_it_is_found_again_without_measuring(model: Model, text: Path, tmp_path: Path) -> None:
    table = pintpot.calibrate(model, text=text)
    moved = text.rename(tmp_path / "moved.txt")
    assert pintpot.calibrate(model, text=moved) == table
    assert text_of_table(table_key(model)) == moved


def test_a_remembered_text_that_is_too_short_is_told_and_one_asked_for_refused(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("One pint.")
    with pytest.raises(UsageError, match="too short to calibrate on"):
        tokens(model, short)
    remember_text(table_key(model), short)
    assert sum(map(len, tokens(model))) > 20_000
    assert "is of no use for it" in caplog.text


def test_a_text_that_no_step_looks_at_is_told(
    model: Model, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(model, (RoundToNearest("all", 8), PrefillChunk(tokens=16)))
    write_pack(model, plan, tmp_path / "pack", text=text)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"no step of this plan looks at texts: {text} is not read" in caplog.text


def test_packs_on_two_texts_are_kept_apart(model: Model, text: Path, tmp_path: Path) -> None:
    plan = plan_of(model, STEPS)
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    same.write_text(TEXT)
    other.write_text(TEXT.replace("tea", "beer"))
    first, again, apart, none = (place_of(model, plan, path) for path in (text, same, other, None))
    assert first == again
    assert len({first, apart, none}) == 3
    asked = {"memory": "200MB"}
    questions = [place_asked(model, {**asked, "text": path}) for path in (text, str(same), other, None)]
    assert questions[0] == questions[1]
    assert len(set(questions)) == 3


def test_a_note_of_a_text_that_is_none_is_refused_by_name(own_home: None) -> None:
    from pintpot.meter.home import home

    note = home() / "sensitivities" / "spoiled.text.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text("[]")
    with pytest.raises(BadInput, match="names no text"):
        text_of_table("spoiled")


# --- The command line -------------------------------------------------------------------------------------------------


def test_commands_take_a_text(model: Model, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    command = ["pack", model.source.path, "--memory", "200MB", "--context", "128", "--no-calibrate", "-o", str(folder)]
    done = CliRunner().invoke(cli, [*command, "--text", str(text)])
    assert done.exit_code == 0, done.stderr
    assert f"{text} is not read" in done.stderr
    refused = CliRunner().invoke(cli, ["run", str(folder), "-p", "Why?", "--calibration-text", str(text)])
    assert (refused.exit_code, refused.stdout) == (UsageError.exit_code, "")
    assert "belong to a model" in refused.stderr
    nowhere = ["--calibration-text", str(tmp_path / "nowhere")]
    missing = CliRunner().invoke(cli, ["run", model.source.path, "-p", "Why?", *command[2:6], *nowhere])
    assert missing.exit_code == BadInput.exit_code
    assert "cannot be read as text" in missing.stderr


def test_help_tells_how_many_tokens_are_used_for_what() -> None:
    told = [re.sub(r"\s+", " ", CliRunner().invoke(cli, [name, "--help"]).stdout) for name in ("calibrate", "pack")]
    rounded = f"up to {calibrating.TOKENS} tokens"
    assert f"Up to {sensitivity.TOKENS} tokens are measured on, {sensitivity.LENGTH} at a time" in told[0]
    assert all(rounded in page and f"{calibrating.LENGTH} at a time" in page for page in told)
