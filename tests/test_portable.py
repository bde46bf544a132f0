"""The path for every CPU, run on one without AVX: packed there, answered there, the same tokens as here."""

from __future__ import annotations

from pathlib import Path

from conftest import Emulator
from packing import BLOCKS, STREAMED, opened, pack_of
from tiny import Tiny, write_gguf

from pintpot.runtime.request import Request, Sampling

PROMPT, LENGTH = tuple(range(5, 30)), 8
CODE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from packing import BLOCKS, opened, pack_of
from pintpot._native import available_isas
from pintpot.runtime.request import Request, Sampling
assert available_isas() == ["portable"], available_isas()
answers = []
for folder in ({pack!r}, pack_of(Path({source!r}), Path({again!r}), BLOCKS)):
    with opened(Path(folder), threads=2) as session:
        request = Request({prompt!r}, {length!r}, Sampling(temperature=0.0), (), True)
        answers.append(list(session.engine.generate(request, frozenset())))
print(json.dumps(answers))
"""


def test_a_cpu_without_avx_draws_the_same_tokens(emulator: Emulator, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", Tiny(heads=4, kv_heads=2, seed=41), "q4_0", embed="q8_0")
    pack = pack_of(source, tmp_path / "pack", (*BLOCKS, STREAMED))
    with opened(pack) as session:
        request = Request(PROMPT, LENGTH, Sampling(temperature=0.0), (), True)
        expected = list(session.engine.generate(request, frozenset()))
    paths = {"tests": Path(__file__).parent, "pack": pack, "source": source, "again": tmp_path / "again"}
    named = {name: str(path) for name, path in paths.items()}
    code = CODE.format(**named, prompt=PROMPT, length=LENGTH)
    assert emulator.run(code).splitlines()[-1] == str([expected, expected])
    assert (tmp_path / "again" / "weights.safetensors").exists()
