"""Mean KL divergence from float32 over SmolLM2's own weights, of prompts and of answers, with llama.cpp beside.

    python benchmarks/quality.py [--texts 12] [--length 256]

Texts are read as prompts, and of each the second half is decoded word by word after the first half as its prompt: in
the default way (one int8 plane in prefill, two in decode) and in the others, and by llama.cpp over the same file. The
reference is the proofs' own, in float32. Both sides keep keys and values as 16-bit floats. Without the peers'
environment (`python benchmarks/peers`) llama.cpp is left out. Three minutes on 2 cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import numpy as np
from bench import Record, parser, smollm2
from environment import PYTHON, environment, has_native
from numpy.typing import NDArray
from packing import opened, pack_of
from texts import token_texts

from pintpot.meter.agreement import TokenScores, compare, mean_interval
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.manifest import read_manifest
from pintpot.proof.head import PackedHead
from pintpot.proof.reference import head_rows, hidden_states
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations

Floats = NDArray[np.float32]
Texts = list[list[int]]
Logits = Callable[[Texts, int], Iterator[Floats]]
"""Of each text: logits [T, V] of its last words, decoded; of all of it, as a prompt, where the number is 0."""
CONTEXT = 512
MOST_OF_ANSWERS, MOST_OF_PROMPTS = 0.001, 0.004
WAYS = {
    "by default": Int8Activations(),
    "one plane": Int8Activations(prefill=1, decode=1),
    "two planes": Int8Activations(prefill=2, decode=2),
}


def ours(pack: Path) -> Logits:
    """Logits of a pack."""

    def made(texts: Texts, num_words: int) -> Iterator[Floats]:
        manifest, _ = read_manifest(pack)
        with opened(pack, every_row=True) as session:
            for text in texts:
                parts = [part.copy() for part in session.engine.hidden(tuple(text), num_words)]
                states = np.concatenate(parts)[-num_words:]
                head = PackedHead(pack, manifest)
                yield np.concatenate([part for _, part in head.logits(np.ascontiguousarray(states))], axis=1)

    return made


def theirs(model: Path, folder: Path) -> Logits:
    """Logits of llama.cpp, compiled for this machine, over a model's file."""

    def made(texts: Texts, num_words: int) -> Iterator[Floats]:
        (folder / "texts.json").write_text(json.dumps(texts))
        script = [str(PYTHON), str(Path(__file__).parent / "peers" / "logits.py")]
        subprocess.run(
            [*script, str(model), str(folder / "texts.json"), str(num_words), str(folder)],
            check=True, env=environment(),
        )  # fmt: skip
        for number in range(len(texts)):
            yield np.load(folder / f"{number}.npy")

    return made


def reference(model: Model, texts: Texts) -> list[Floats]:
    """Logits of the unpacked model in float32, of all words."""
    states = hidden_states(model, texts)
    with Store(model) as store:
        head = np.concatenate([rows for _, rows in head_rows(model, store)])
    return [one @ head.T for one in states]


def scores(known: list[Floats], texts: Texts, logits: Logits, num_words: int) -> list[TokenScores]:
    found = logits(texts, num_words)
    return [compare(one[-num_words:], other) for one, other in zip(known, found, strict=True)]


def told(found: list[TokenScores]) -> str:
    """The mean with its 95% interval over texts, and how often both prefer the same word."""
    kl = mean_interval([one.kl for one in found], floor=0.0)
    same = np.concatenate([one.same_top1 for one in found])
    return f"{kl.mean:.5f} ({kl.low:.5f} to {kl.high:.5f}), same word {same.mean():.1%}, {same.size} words"


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--texts", type=int, default=12)
    options.add_argument("--length", type=int, default=256, help="tokens of a text")
    asked = options.parse_args()
    record, source = Record("quality", fresh=True), smollm2()
    model, most = describe(str(source)), {"answers": MOST_OF_ANSWERS, "prompts": MOST_OF_PROMPTS}
    with tempfile.TemporaryDirectory(prefix="pintpot-") as folder:
        ways: dict[str, Logits] = {}
        for name, rows in WAYS.items():
            steps = (AsStored("all"), rows, PrefillChunk(tokens=CONTEXT))
            ways[name] = ours(pack_of(source, Path(folder) / name, steps, context=CONTEXT, threads=2))
        with opened(Path(folder) / "by default") as session:
            texts = token_texts(session.tokenizer, asked.texts, asked.length)
        if has_native():
            ways["llama.cpp"] = theirs(source, Path(folder))
        known = reference(model, texts)
        for stage, num_words in (("answers", asked.length // 2), ("prompts", 0)):
            found = {name: scores(known, texts, logits, num_words) for name, logits in ways.items()}
            for name, one in found.items():
                record.say(f"{stage}, {name}: {told(one)}")
            mean = mean_interval([one.kl for one in found["by default"]]).mean
            record.verdict(f"{stage} by default", f"{mean:.5f}", f"{most[stage]:g}", mean <= most[stage])
            if "llama.cpp" in found:
                pairs = zip(found["by default"], found["llama.cpp"], strict=True)
                more = mean_interval([own.kl - other.kl for own, other in pairs])
                text = f"{more.mean:+.5f} ({more.low:+.5f} to {more.high:+.5f})"
                record.verdict(f"{stage} by default, more than llama.cpp", text, "at most 0", more.mean <= 0)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
