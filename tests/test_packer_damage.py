"""Packs that were changed, cut, or made by somebody with bad intentions: refused by name, and never a crash."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packing import EXACT, INT8, STREAMED, opened, pack_of, plan_of
from tiny import Tiny, write_hf

from pintpot.errors import BadInput, BadPack, DoesNotFit
from pintpot.model.read import describe
from pintpot.packer.manifest import read_manifest, with_digest
from pintpot.packer.pack import is_pack, write_pack
from pintpot.packer.raw import MANIFEST, WEIGHTS
from pintpot.runtime.request import Sampling
from pintpot.techniques.quantize.outlier_columns import OutlierColumns

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with resident weights, slots that pass, columns kept apart, and an embedding that is looked up."""
    base = tmp_path_factory.mktemp("damage")
    model = describe(str(write_hf(base / "model", Tiny(hidden=128, vocab=2048, seed=8))))
    plan = plan_of(model, (*INT8, OutlierColumns(columns=5), STREAMED))
    return write_pack(model, plan, base / "pack", texts=[list(range(3, 60))])


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "pack"))


def answer(pack: Path) -> str:
    with opened(pack) as session:
        return "".join(session.complete("Once upon a time there was", sampling=GREEDY, max_tokens=6, ignore_end=True))


def change(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_an_unchanged_copy_answers(pack: Path, original: Path) -> None:
    assert answer(pack) == answer(original) != ""


@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_changed_small_file_is_named(pack: Path, name: str) -> None:
    size = (pack / name).stat().st_size
    for offset in (size // 3, size // 2, size - 2):
        change(pack / name, offset)
        with pytest.raises(BadPack, match=name):
            answer(pack)
        change(pack / name, offset)
    assert answer(pack)


def test_changed_weights_in_ram_are_named_when_the_pack_is_opened(pack: Path) -> None:
    manifest, _ = read_manifest(pack)
    item = next(item for item in manifest.residents if item.name == "norm")
    change(pack / WEIGHTS, manifest.resident_offset + item.offset + 5)
    with pytest.raises(BadPack, match=r"resident weights .*were changed"):
        answer(pack)


def test_a_changed_slot_is_found_when_it_is_first_read(pack: Path) -> None:
    manifest, _ = read_manifest(pack)
    passing, looked_up = manifest.slots[manifest.num_passing - 1], manifest.slots[manifest.num_passing]
    for offset, _, slot in (passing, looked_up):
        change(pack / WEIGHTS, offset + slot.num_bytes // 2)
        with pytest.raises(BadPack, match="slot"):
            answer(pack)
        change(pack / WEIGHTS, offset + slot.num_bytes // 2)
    assert answer(pack)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, "tokenizer.json"])
def test_a_missing_or_cut_file_is_named(pack: Path, name: str) -> None:
    data = (pack / name).read_bytes()
    for kept in (len(data) // 2, len(data) - 1, 0):
        (pack / name).write_bytes(data[:kept])
        with pytest.raises(BadPack, match=name):
            answer(pack)
    (pack / name).unlink()
    with pytest.raises(BadPack, match=name):
        answer(pack)


def test_a_file_put_into_a_pack_is_named(pack: Path) -> None:
    (pack / "chat_template.jinja").write_text("{{ 'something else' }}")
    with pytest.raises(BadPack, match=r"chat_template\.jinja"):
        answer(pack)


def test_a_newer_pack_is_refused_by_its_format(pack: Path) -> None:
    data = json.loads((pack / MANIFEST).read_text())
    (pack / MANIFEST).write_text(json.dumps({**data, "pintpot_pack": 7, "something": "new"}))
    with pytest.raises(BadPack, match=r"format 7.*update"):
        answer(pack)
    assert is_pack(pack)


def test_an_older_pack_is_refused_by_its_format(pack: Path) -> None:
    data = json.loads((pack / MANIFEST).read_text())
    (pack / MANIFEST).write_text(json.dumps({**data, "pintpot_pack": 1}))
    with pytest.raises(BadPack, match=r"format 1, .*pack the model again"):
        answer(pack)
    assert is_pack(pack)


def test_folders_of_something_else_are_no_packs(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"name": "a web extension", "manifest_version": 3}')
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / MANIFEST):
        assert not is_pack(path)
        with pytest.raises(BadPack, match="no pack"):
            opened(path)


# --- A manifest with a digest that is right and numbers that are not ------------------------------------------------


def rewrite(pack: Path, edit: Any) -> None:
    data = json.loads((pack / MANIFEST).read_text())
    del data["digest"]
    edit(data)
    (pack / MANIFEST).write_text(with_digest(data))


HOSTILE: dict[str, Any] = {
    "a weight beyond the region": lambda d: d["residents"][0].__setitem__(1, d["resident_bytes"]),
    "two weights in one place": lambda d: d["residents"][1].__setitem__(1, d["residents"][0][1]),
    "a slot beyond the file": lambda d: d["slots"][-1].__setitem__(0, d["file_bytes"]),
    "a piece beyond its slot": lambda d: d["slots"][0][3][0].__setitem__(3, d["slots"][0][2] - 64),
    "strips that do not exist": lambda d: d["slots"][0][3][0].__setitem__(2, 10**6),
    "an unknown weight": lambda d: d["slots"][0][3][0].__setitem__(0, "layers.9.q"),
    "a slot left out": lambda d: d["slots"].pop(0),
    "a huge file": lambda d: d.update(file_bytes=1 << 49),
    "a huge region": lambda d: d.update(resident_bytes=1 << 48),
    "a negative region": lambda d: d.update(resident_bytes=-4096),
    "true for a number": lambda d: d.update(num_passing=True),
    "a text for a number": lambda d: d["plan"]["form"].update(chunk="16"),
    "a context without end": lambda d: d["plan"]["budget"]["workload"].update(context=1 << 60),
    "layers without end": lambda d: d["plan"]["parts"][0]["config"].update(num_hidden_layers=1 << 27),
    "a giant vocabulary": lambda d: d["plan"]["parts"][0]["config"].update(vocab_size=1 << 27),
    "a giant width": lambda d: d["plan"]["parts"][0]["config"].update(hidden_size=1 << 27),
    "a ring of terabytes": lambda d: d["plan"]["form"]["ring"].update(num_slots=1 << 26, slot_bytes=1 << 40),
    "many threads": lambda d: d["plan"].update(threads=1 << 30),
    "no weights": lambda d: d["plan"]["form"].update(weights=[]),
    "a format nobody has": lambda d: d["plan"]["form"]["weights"][1].update(format="q9_9"),
    "superblocks of 128 columns": lambda d: d["plan"]["form"]["weights"][1].update(format="q4_k"),
    "a name out of the folder": lambda d: d["files"][0].__setitem__(0, "../../etc/passwd"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_cannot_be_is_refused(pack: Path, name: str) -> None:
    rewrite(pack, HOSTILE[name])
    with pytest.raises((BadInput, DoesNotFit)):
        answer(pack)


def test_a_rewritten_manifest_that_says_the_same_is_taken(pack: Path) -> None:
    rewrite(pack, lambda data: data["packing"].update(seconds=1.0))
    assert answer(pack)


NUM_MUTATIONS = 200
FUZZ = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from packing import opened
from pintpot.errors import PintpotError
from pintpot.meter.memory import peak_bytes
from pintpot.runtime.request import Sampling
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
good = bad = 0
for line in sys.stdin:
    (Path(sys.argv[1]) / "manifest.json").write_text(line)
    try:
        with opened(Path(sys.argv[1])) as session:
            for piece in session.complete("Once upon", sampling=Sampling(temperature=0.0), max_tokens=3):
                pass
        good += 1
    except PintpotError:
        bad += 1
print(good, bad, peak_bytes())
"""


def test_mutated_manifests_never_crash_a_process(pack: Path) -> None:
    """Each with a digest that is right, so that only the numbers inside can be refused."""
    data = json.loads((pack / MANIFEST).read_text())
    del data["digest"]
    rng, lines = random.Random(5), []
    for _ in range(NUM_MUTATIONS):
        changed = json.loads(json.dumps(data))
        for _ in range(rng.choice((1, 1, 2, 3))):
            mutate(changed, rng)
        lines.append(with_digest(changed))
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(pack), str(Path(__file__).parent)],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"exit {done.returncode}"
    good, bad, peak = map(int, done.stdout.split())
    assert good + bad == NUM_MUTATIONS
    assert bad > NUM_MUTATIONS // 3
    assert peak < 600_000_000, f"{peak} bytes for a pack of {(pack / WEIGHTS).stat().st_size}"


VALUES = (
    0,
    1,
    -1,
    2,
    3,
    16,
    4096,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    1 << 62,
    1 << 70,
    0.5,
    1e300,
    "",
    "x",
    None,
)


def mutate(data: Any, rng: random.Random) -> None:
    """Change one value somewhere, or take it away."""
    spots = [spot for spot in _spots(data) if rng.random() < 0.5 or not isinstance(spot[0][spot[1]], str)]
    holder, key = rng.choice(spots)
    value = holder[key]
    choice = rng.random()
    if choice < 0.1 and isinstance(holder, dict):
        del holder[key]
    elif choice < 0.5 and isinstance(value, int) and not isinstance(value, bool):
        holder[key] = value + rng.choice((-4096, -64, -16, -1, 1, 16, 64, 4096, value))
    else:
        holder[key] = rng.choice((*VALUES, [], {}, True, [1, 2, 3]))


def _spots(data: Any) -> Iterator[tuple[Any, Any]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield data, key
        if isinstance(value, (dict, list)):
            yield from _spots(value)


def test_a_resident_pack_is_checked_the_same(tmp_path: Path) -> None:
    folder = pack_of(write_hf(tmp_path / "model", Tiny(seed=9)), tmp_path / "pack", EXACT)
    assert answer(folder)
    change(folder / WEIGHTS, read_manifest(folder)[0].resident_offset + 100_000)
    with pytest.raises(BadPack, match="changed after packing"):
        answer(folder)
