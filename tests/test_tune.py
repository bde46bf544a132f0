"""`pintpot tune`: what it leaves, what peft makes of that, kills that cost nothing, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Tiny, torch_model, torch_model_of_gguf, write_gguf, write_hf

import pintpot
from pintpot.errors import DiskTooSmall, Diverged, DoesNotFit, InUse, UsageError
from pintpot.model.read import describe
from pintpot.model.tokens import Tokenizer, from_folder
from pintpot.trainer.checkpoint import held
from pintpot.trainer.loop import Event
from pintpot.trainer.reading import read_sequences
from pintpot.trainer.tune import Settings

PEFT = Path(sys.prefix) / "data" / "peft"
COMMAND = [sys.executable, "-m", "pintpot", "tune"]
TINY = Tiny(family="qwen2", heads=4, kv_heads=2, tied=True)
SHORT = ("--length", "48", "--steps", "6", "--rank", "4", "--targets", "q,k,v,o,down", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("tune")
    write_hf(at / "m", TINY)
    lines = (
        {"messages": [{"role": "user", "content": f"{n} and 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}]}
        for n in range(60)
    )
    (at / "d.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return at


def tune(at: Path, *more: str, model: str = "m") -> dict[str, Any]:
    done = subprocess.run([*COMMAND, str(at / model), str(at / "d.jsonl"), *more, "--json"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def tuned(at: Path, out: str, **more: Any) -> pintpot.Tuned:
    """The same in this process."""
    short = {"length": 48, "steps": 6, "rank": 4, "targets": "q,k,v,o,down", "threads": 1}
    model = more.pop("model", "m")
    return pintpot.tune(at / model, at / "d.jsonl", output=at / out, **{**short, **more})


WATCHED = """
import sys, pintpot, pintpot.trainer.planned as module
made = module.planned
def planned(*asked):
    made(*asked)
    sys.exit("torch" in sys.modules)
module.planned = planned
pintpot.tune(sys.argv[1], sys.argv[2], output=sys.argv[3])
"""


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    """A run that nobody disturbs."""
    return tune(place, *SHORT, "-o", str(place / "whole"), "--learning-rate", "0.01")


def test_it_learns_and_says_what_was_promised(place: Path, whole: dict[str, Any]) -> None:
    assert len(whole["losses"]) == 6
    (first, before), *_, (last, after) = whole["asked"]
    assert (first, last) == (0, 6)
    assert after < before - 0.1
    assert whole["measured"]["peak_bytes"] <= whole["promised"]["memory_bytes"][1]
    assert whole["plan"]["budget"]["workload"]["train"]["steps"] == 6
    holders = {one["name"] for one in whole["plan"]["cost"]["holders"]}
    assert holders >= {"gradients", "optimizer states", "kept activations", "adapters", "weights in RAM", "buffers"}
    assert sorted(path.name for path in (place / "whole").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "tuning.html", "tuning.json",
    ]  # fmt: skip


def test_plans_are_weighed_elsewhere_before_pytorch_is_here(place: Path) -> None:
    command = [sys.executable, "-c", WATCHED, str(place / "m"), str(place / "d.jsonl"), str(place / "planned")]
    assert subprocess.run(command).returncode == 0


def test_a_finished_folder_is_not_begun_again(place: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="holds what was learned already"):
        tuned(place, "whole")


def test_another_run_in_the_same_folder_is_refused(place: Path) -> None:
    class Enough(Exception):
        """Whoever watches has seen enough."""

    def stop(event: Event) -> None:
        if event.step == 2:
            raise Enough

    def started(seed: int) -> None:
        tuned(place, "other", settings=Settings(checkpoint=1, seed=seed), happened=stop)

    with pytest.raises(Enough):
        started(seed=0)
    with pytest.raises(UsageError, match="another seed"):
        started(seed=5)
    assert [path.name for path in (place / "other").iterdir()] == ["checkpoint"]


ASKED = """
import sys, json, torch
sys.path.insert(0, sys.argv[1])
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[3])
print(json.dumps(model(torch.tensor([json.loads(sys.argv[4])])).logits[0, -1].tolist()))
"""


@pytest.mark.skipif(not PEFT.exists(), reason="peft is not here; `make test` installs it")
def test_peft_reads_what_was_learned(place: Path, whole: dict[str, Any]) -> None:
    ids = Tokenizer.load(from_folder(place / "m")).encode("It is 12 and 1?")
    command = [sys.executable, "-c", ASKED, str(PEFT), str(place / "m"), str(place / "whole"), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.allclose(theirs, logits(torch_model(place / "m"), place / "whole", ids), atol=1e-4)
    base = torch_model(place / "m")(torch.tensor([ids])).logits[0, -1].detach().numpy()
    assert np.abs(theirs - base).max() > 0.05


def logits(model: Any, adapters: Path, ids: list[int]) -> Any:
    """Of the last word, with adapters merged into the weights of transformers' model by hand."""
    from safetensors.torch import load_file

    settings, found = (
        json.loads((adapters / "adapter_config.json").read_text()),
        load_file(adapters / "adapter_model.safetensors"),
    )
    for name, a in found.items():
        if ".lora_A" in name:
            b = found[name.replace(".lora_A", ".lora_B")]
            weight = model.get_parameter(name.removeprefix("base_model.model.").replace(".lora_A", ""))
            with torch.no_grad():
                weight += b @ a * (settings["lora_alpha"] / settings["r"])
    return model(torch.tensor([ids])).logits[0, -1].detach().numpy()


def test_adapters_of_a_gguf_file_stand_in_transformers_order(place: Path) -> None:
    """A llama's file has the rows of q and k in pairs; the loss after learning says that they were put in order."""
    tiny = Tiny(tied=True)
    file = write_gguf(place / "llama.gguf", tiny, "f16")
    found = tuned(place, "llama", model=file.name, arithmetic="float32", settings=Settings(learning_rate=0.01))
    _, held = read_sequences(describe(str(file)), place / "d.jsonl", 48, seed=0)
    model = torch_model_of_gguf(file, tiny)
    logits(model, place / "llama", [1, 2])
    row = held.targets[0] >= 0
    first = int(np.flatnonzero(np.diff(held.starts[0], append=-1))[0]) + 1
    words = np.flatnonzero(row[:first])
    given = model(torch.from_numpy(held.tokens[:1, :first]).long()).logits[0][words]
    losses = torch.nn.functional.cross_entropy(given, torch.from_numpy(held.targets[0, words]).long())
    (_, before), *_, (_, after) = found.asked
    assert abs(losses.item() - after) < abs(before - after) / 2


def test_a_budget_that_is_too_small_is_refused_with_the_smallest(place: Path) -> None:
    for memory, why in (("100MB", r"learning needs \d+ MB at least"), ("900TB", "are free here")):
        with pytest.raises(DoesNotFit, match=why):
            tuned(place, "none", memory=memory)
    assert not (place / "none").exists()


def test_a_full_disk_is_seen_before_the_first_step(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: 10_000)
    with pytest.raises(DiskTooSmall, match="its disk has"):
        tuned(place, "full-disk")
    assert not (place / "full-disk").exists()


def test_a_disk_that_fills_up_meanwhile_is_seen_before_a_checkpoint_is_cut_short(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(event: Event) -> None:
        if event.step == 3:
            monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: 10_000)

    out = place / "filled"
    with pytest.raises(DiskTooSmall, match="its disk has"):
        tuned(place, "filled", settings=Settings(checkpoint=2), happened=fill)
    assert sorted(path.name for path in (out / "checkpoint").iterdir()) == ["state.json", "step-2.safetensors"]
    monkeypatch.undo()
    assert tuned(place, "filled", settings=Settings(checkpoint=2)).began_at == 2


def test_one_process_learns_into_a_folder_at_a_time(place: Path) -> None:
    with held(place / "held"), pytest.raises(InUse, match="in use by another process"):
        tuned(place, "held")
    assert not (place / "held").exists()


def test_an_end_without_a_receipt_comes_again(
    place: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after the receipt, before the checkpoint was gone: the same command ends it, and tells it again."""
    told: list[pintpot.Tuned] = []
    with monkeypatch.context() as patched:
        patched.setattr("pintpot.trainer.teaching.Checkpoints.clear", lambda self: None)
        first = tuned(place, "twice", settings=Settings(learning_rate=0.01), left=told.append)
    again = tuned(place, "twice", settings=Settings(learning_rate=0.01), left=told.append)
    assert told == [first, again]
    assert (again.began_at, again.losses, again.asked) == (6, first.losses, first.asked)
    assert again.tokens_per_s == 0
    assert not (place / "twice" / "checkpoint").exists()


def test_values_that_are_no_numbers_end_it_with_the_step_and_the_block(place: Path) -> None:
    with pytest.raises(Diverged) as raised:
        tuned(place, "nan", settings=Settings(learning_rate=1e30, warmup=0))
    assert re.search("step 2: the loss is (nan|inf)", str(raised.value))
    assert re.search(r"(layers\.\d|head)", str(raised.value))
    assert "try a lower learning rate" in str(raised.value)


def test_what_cannot_be_is_refused_by_name(place: Path) -> None:
    with pytest.raises(UsageError, match="no method 'telepathy'"):
        tuned(place, "telepathy", method="telepathy")
    with pytest.raises(UsageError, match="no weights x in its layers"):
        tuned(place, "x", targets="x", method="lora")
    with pytest.raises(UsageError, match="context is 256"):
        tuned(place, "long", length=500)
    with pytest.raises(UsageError, match="say the same"):
        tuned(place, "both", epochs=2)


def test_four_bits_learn_too(place: Path) -> None:
    short = Settings(learning_rate=0.01, checkpoint=1)
    found = tuned(place, "q", method="qlora", settings=short)
    assert {"Mixed", "Gptq"} <= {step.name for step in found.plan.steps}
    assert found.asked[-1][1] < found.asked[0][1]
    assert not list((place / "q").glob(".*"))

    class Enough(Exception):
        """Whoever watches has seen enough."""

    def stop(event: Event) -> None:
        if event.step == 2:
            raise Enough

    with pytest.raises(Enough):
        tuned(place, "q2", method="qlora", settings=short, happened=stop)
    (waits,) = (place / "q2").glob(".rounded.*")
    changed = [path.stat().st_mtime_ns for path in sorted(waits.iterdir())]
    again: list[list[int]] = []
    told = tuned(
        place, "q2", method="qlora", settings=short,
        happened=lambda event: again.append([path.stat().st_mtime_ns for path in sorted(waits.iterdir())]),
    )  # fmt: skip
    assert told.losses == found.losses
    assert all(one == changed for one in again)
    assert not waits.exists()


def test_every_weight_learns_and_the_folder_is_a_model(place: Path) -> None:
    found = tuned(place, "full", method="full", arithmetic="float32", settings=Settings(learning_rate=1e-3))
    assert found.asked[-1][1] < found.asked[0][1]
    names = [str(step) for step in found.plan.steps]
    assert names[:2] == ["EveryWeight()", "FusedUpdate()"]
    model, described = torch_model(place / "full"), describe(str(place / "full"))
    assert described.part("language").family == TINY.family
    _, held = read_sequences(described, place / "d.jsonl", 48, seed=0)
    total, count = 0.0, 0
    for tokens, targets, starts in zip(held.tokens, held.targets, held.starts, strict=True):
        for first in np.unique(starts):
            own = np.flatnonzero((starts == first) & (targets >= 0))
            if len(own):
                given = model(torch.from_numpy(tokens[None, first : own[-1] + 1]).long()).logits[0, own - first]
                wanted = torch.from_numpy(targets[own]).long()
                total += torch.nn.functional.cross_entropy(given, wanted, reduction="sum").item()
                count += len(own)
    assert total / count == pytest.approx(found.asked[-1][1], rel=1e-4)
