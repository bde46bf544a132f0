"""Every example runs as it stands, on a tiny model given as argument, and two on the real one they take by default."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import known_home
from tiny import Tiny, write_gguf
from tree import ROOT

EXAMPLES = ROOT / "examples"
VERBS = {
    "describe": "family llama, 4 blocks",
    "probe": "billion a second",
    "plan": "the smallest budget is",
    "pack": "manifest.json",
    "run": "promised",
    "serve": "MB are allowed",
    "prove": "degradation: promised",
    "export": "model.gguf: gguf,",
    "calibrate": "weights measured over",
    "frontier": "MB of weights",
    "adapt": "of cosine",
    "pipeline": "vae.decode",
    "tune": "nats a word",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", Tiny(context=1024), "q8_0")


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = known_home(tmp_path_factory.mktemp("examples-home"), torch=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINTPOT_HOME", str(place))
        yield


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_an_example_runs(verb: str, model: Path) -> None:
    assert VERBS[verb] in run(verb, model)


@pytest.mark.parametrize("verb", ["describe", "plan"])
def test_an_example_finds_the_real_model_by_itself(verb: str, smollm2: Path) -> None:
    assert smollm2.exists()
    assert "135M" in run(verb)


def test_the_demo_tells_promised_and_measured_in_three_budgets(model: Path) -> None:
    shown = run("demo", model, "--quick")
    for expected in (
        "comfortable: ",
        "tight: ",
        "smallest: ",
        "memory promised",
        "decode measured",
        "report with plots: ",
    ):
        assert expected in shown
    path = Path(shown.split("report with plots: ")[1].splitlines()[0])
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") > 5
    assert "What a budget brings" in page


def test_there_is_an_example_for_every_verb() -> None:
    import pintpot

    verbs = {name for name in pintpot.__all__ if name.islower()}
    assert verbs == set(VERBS)
