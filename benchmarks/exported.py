"""Greedy answers of Pintpot from a pack, and of llama.cpp from the GGUF file that the pack was exported to.

    python benchmarks/exported.py [--words 32]

SmolLM2: its own Q4_1 blocks; as float32 after a way through a Hugging Face folder, where the rows of every head change
their order twice; and rounded anew to formats that GGUF has, or holds in a larger type. Twenty prompts each, equal
until the end of the answer or the first word whose two likeliest logits differ by under 0.05.

llama.cpp runs each file twice: as it is, where it rounds activations to 8 bits (which moves its logits by more than
that), and after its own tool has written every block out as float32, so that only the values in the file count, as
llama.cpp reads them. Pintpot keeps activations in float32. Needs the peers' environment (`python benchmarks/peers`) and
compiles llama.cpp's tools once. Ten minutes.
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
RUNS = ("as it is", "written out")
Answer = tuple[list[int], list[float]]
"""Tokens, and by how much the likeliest logit of each lies above the second."""


def ours(pack: Path, number: int) -> Iterator[Answer]:
    """Answers up to the word that ends them, which llama.cpp is told not to draw."""
    with opened(pack, threads=2) as session:
        ends = frozenset(session.tokenizer.eos_ids)
        for text in PROMPTS:
            prompt = tuple(session.tokenizer.encode(text)[:NUM_TOKENS])
            session.engine.reset()
            tokens, gaps = [], []
            for token in session.engine.generate(Request(prompt, number, GREEDY, (), True), frozenset()):
                if token in ends:
                    break
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


def partings(mine: list[Answer], other: list[Answer]) -> list[tuple[int, float, float]]:
    """Of the answers that are not the same: the word where they part, and the gap of either side there."""
    found = []
    for (tokens, gaps), (their_tokens, their_gaps) in zip(mine, other, strict=True):
        at = next((at for at, token in enumerate(tokens) if token != their_tokens[at]), None)
        if at is not None:
            found.append((at, gaps[at], their_gaps[at]))
    return found


def case(folder: Path, name: str, number: int) -> Case:
    through, step = WAYS[name]
    source = floats(folder) if through else smollm2()
    pack = pack_of(source, folder / name, (step, PrefillChunk(tokens=16)), threads=2)
    made = write_export(pack, folder / f"{name}.gguf", Wish("gguf"))
    written_out = folder / f"{name}.f32.gguf"
    command = [
        str(environment.tools() / "llama-quantize"),
        "--allow-requantize",
        str(made.path),
        str(written_out),
        "F32",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with opened(pack) as session:
        prompts = [session.tokenizer.encode(text)[:NUM_TOKENS] for text in PROMPTS]
    mine = list(ours(pack, number))
    found: Case = {
        "types": ", ".join(f"{share.num_tensors} {share.dtype.upper()}" for share in made.types),
        "bits": made.bits,
        "words": sum(len(tokens) for tokens, _ in mine),
        **{
            run: partings(mine, list(theirs(file, prompts, number)))
            for run, file in (("as it is", made.path), ("written out", written_out))
        },
    }
    made.path.unlink()
    written_out.unlink()
    return found


def floats(folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder in float32, exported once."""
    place = folder / "floats"
    if not place.exists():
        write_export(pack_of(smollm2(), folder / "stored"), place, Wish("safetensors"))
    return place


def least(parting: tuple[int, float, float]) -> float:
    """The smaller of the two gaps."""
    return min(parting[1:])


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("--words", type=int, default=32)
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
        for run in RUNS:
            parted = found[run]
            same = len(PROMPTS) - len(parted)
            gaps = " ".join(f"{at}:{least((at, mine, other)):.3f}" for at, mine, other in parted)
            rows.append([name, run, found["types"], f"{found['bits']:.2f}", f"{same} of {len(PROMPTS)}", gaps])
    record.table(
        ["weights", "llama.cpp", "tensors", "bits", "same answers", "word:gap where others part"], rows, left=3
    )
    record.say()
    for name, found in cases.items():
        widest = max((least(one) for one in found["written out"]), default=0.0)
        what = f"{name}, {found['words']} words: gap where answers part"
        record.verdict(what, f"at most {widest:.3f}", f"under {NEAR}", widest < NEAR)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
