"""Greedy answers of Pintpot from a pack, and of llama.cpp from the GGUF file that the pack was exported to.

    python benchmarks/exported.py [--words 64]

SmolLM2: its own Q4_1 blocks; as float32 after a way through a Hugging Face folder, where the rows of every head change
their order twice; and rounded anew to formats that GGUF has, or holds in a larger type. Twenty prompts each, equal
until the first word whose two likeliest logits differ by under 0.05. Pintpot keeps activations in float32; llama.cpp
rounds them to 8 bits wherever a weight has blocks. Needs the peers' environment (`python benchmarks/peers`). Five
minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import environment
import numpy as np
from bench import Case, Record, parser, smollm2
from equal_tokens_data import NUM_TOKENS, PROMPTS
from packing import opened, pack_of

from pintpot.contract.step import Step
from pintpot.packer.export.export import Wish, write_export
from pintpot.runtime.request import Request, Sampling
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

NEAR = 0.05
GREEDY = Sampling(temperature=0.0)
STORED = AsStored("all")
WAYS: dict[str, tuple[bool, Step]] = {
    "its own blocks": (False, STORED),
    "float32, through a folder": (True, STORED),
    "8 bits": (True, RoundToNearest("all", 8)),
    "6 bits": (True, RoundToNearest("all", 6)),
    "5 bits with a minimum": (True, RoundToNearest("all", 5, True)),
    "4 bits": (True, RoundToNearest("all", 4)),
}
"""Whether the weights go through a folder of floats first, and what is then done with them."""
Answer = tuple[list[int], list[float]]
"""Tokens, and by how much the likeliest logit of each lies above the second."""


def ours(pack: Path, number: int) -> Iterator[Answer]:
    with opened(pack, threads=2) as session:
        for text in PROMPTS:
            prompt = tuple(session.tokenizer.encode(text)[:NUM_TOKENS])
            session.engine.reset()
            tokens, gaps = [], []
            for token in session.engine.generate(Request(prompt, number, GREEDY, (), True), frozenset()):
                logits = session.engine.stage("decode" if tokens else "prefill").floats("logits")[0]
                second, first = np.partition(logits, -2)[-2:]
                tokens.append(token)
                gaps.append(float(first - second))
            yield tokens, gaps


def theirs(file: Path, prompts: list[list[int]], number: int) -> Iterator[Answer]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as asked:
        json.dump(prompts, asked)
        asked.flush()
        script = Path(__file__).parent / "peers" / "greedy.py"
        command = [str(environment.PYTHON), str(script), str(file), asked.name, str(number)]
        done = subprocess.run(
            command, env=environment.environment(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    for line in done.stdout.splitlines():
        found: dict[str, Any] = json.loads(line)
        yield found["tokens"], found["gaps"]


def compared(pack: Path, file: Path, number: int) -> Case:
    """How many answers are the same, and of the others the two gaps where they part."""
    with opened(pack) as session:
        prompts = [session.tokenizer.encode(text)[:NUM_TOKENS] for text in PROMPTS]
    partings = []
    pairs = zip(ours(pack, number), theirs(file, prompts, number), strict=True)
    for (mine, my_gaps), (other, other_gaps) in pairs:
        at = next((at for at in range(number) if mine[at] != other[at]), None)
        if at is not None:
            partings.append((at, my_gaps[at], other_gaps[at]))
    return {"same": len(PROMPTS) - len(partings), "partings": partings}


def case(folder: Path, name: str, number: int) -> Case:
    through, step = WAYS[name]
    source = floats(folder) if through else smollm2()
    pack = pack_of(source, folder / name, (step, PrefillChunk(tokens=16)), threads=2)
    made = write_export(pack, folder / f"{name}.gguf", Wish("gguf"))
    types = ", ".join(f"{share.num_tensors} {share.dtype.upper()}" for share in made.types)
    found = {"types": types, "bits": made.bits, "notes": made.notes, **compared(pack, made.path, number)}
    made.path.unlink()
    return found


def floats(folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder in float32, exported once."""
    place = folder / "floats"
    if not place.exists():
        write_export(pack_of(smollm2(), folder / "stored"), place, Wish("safetensors"))
    return place


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("--words", type=int, default=64)
    asked = parse.parse_args()
    environment.set_up(native=False)
    record = Record("exported", fresh=asked.fresh)
    with tempfile.TemporaryDirectory(prefix="pintpot-") as folder:
        cases = {
            name: record.case(f"{name}, {asked.words}", lambda name=name: case(Path(folder), name, asked.words))
            for name in WAYS
        }
    rows = []
    for name, found in cases.items():
        partings = [f"{at}: {min(mine, other):.3f}" for at, mine, other in found["partings"]]
        rows.append(
            [name, found["types"], f"{found['bits']:.2f}", f"{found['same']} of {len(PROMPTS)}", "  ".join(partings)]
        )
    record.table(["weights", "tensors", "bits", "same answers", "word and gap where others part"], rows, left=2)
    record.say()
    for name, found in cases.items():
        widest = max((min(mine, other) for _, mine, other in found["partings"]), default=0.0)
        record.verdict(f"{name}: gap where answers part", f"at most {widest:.3f}", f"under {NEAR} nats", widest < NEAR)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
