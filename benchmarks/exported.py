"""What a pack computes beside what others compute from the GGUF file that it was exported to.

    python benchmarks/exported.py [--words 32]

SmolLM2: its own Q4_1 blocks, and its weights in float32 rounded anew to formats that GGUF has, or holds in a larger
type. Twenty prompts, greedy answers, nothing rounded on our side but weights: activations and cache are float32.

The file is read by the `gguf` package into the network of transformers, whose logits along our answers have to be ours.
llama.cpp runs it twice. Written out as float32 by its own tool, so that only the values in the file count, as it reads
them: its answers have to be ours until the end of the answer or the first word whose two likeliest logits differ by
under 0.05. And as it is, where it rounds what meets a block to 8 bits, and has no way of not doing so: one product
later every rounding falls differently for the last bit of a float, so no two programs give the same logits, and what
can be asked is that words and logits are moved by no more than the same rounding moves them in transformers' network.

Needs the peers' environment (`python benchmarks/peers`) and compiles llama.cpp's tools once. Half an hour.
"""

from __future__ import annotations

import json
import shutil
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
import torch
from bench import Case, Record, parser, smollm2
from equal_tokens_data import NUM_TOKENS, PROMPTS
from numpy.typing import NDArray
from packing import f32_cache, opened, pack_of
from read_by_gguf import Network

from pintpot.contract.step import Step
from pintpot.model.read import describe
from pintpot.packer.export.export import Wish, write_export
from pintpot.runtime.request import Request, Sampling
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.mixed import Mixed, write_formats
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

NEAR = 0.05
CLOSE = 0.001
"""What floats of 32 bits may differ by, of logits around 20."""
GREEDY = Sampling(temperature=0.0)
STORED = AsStored("all")
MIXTURE = ("sym4", "aff4", "sym6", "aff5", "mxfp4", "sym8", "sym5", "aff3", "sym3")
WAYS: dict[str, tuple[bool, Step | None]] = {
    "its own blocks": (False, STORED),
    "float32, through a folder": (True, STORED),
    "8 bits": (True, RoundToNearest("all", 8)),
    "6 bits": (True, RoundToNearest("all", 6)),
    "5 bits with a minimum": (True, RoundToNearest("all", 5, True)),
    "4 bits": (True, RoundToNearest("all", 4)),
    "MXFP4": (True, MicroScaling("all")),
    "NF4, as float32": (True, NormalFloat("all")),
    "a format for each weight": (True, None),
}
"""Whether the weights go through a folder of floats first, and what is done with them; None: `MIXTURE` by turns."""
Floats = NDArray[np.float32]
Answers = list[list[int]]
Answered = tuple[list[int], list[int], Floats]
"""A prompt, the answer to it, and the logits of each word of that."""


def ours(pack: Path, prompts: Answers, number: int, ends: frozenset[int]) -> Iterator[tuple[list[int], Floats]]:
    """Answers up to the word that ends them, which llama.cpp is told not to draw, and the logits of each word."""
    with opened(pack, threads=2) as session:
        for prompt in prompts:
            session.engine.reset()
            tokens, logits = [], []
            for token in session.engine.generate(Request(tuple(prompt), number, GREEDY, (), True), frozenset()):
                if token in ends:
                    break
                logits.append(session.engine.stage("decode" if tokens else "prefill").floats("logits")[0].copy())
                tokens.append(token)
            yield tokens, np.array(logits)


def theirs(file: Path, prompts: Answers, number: int, ends: frozenset[int]) -> Iterator[tuple[list[int], list[float]]]:
    """llama.cpp's answers, with the gap of each word to the next likely one; no number where it tells none."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as asked:
        json.dump({"prompts": prompts, "ends": sorted(ends)}, asked)
        asked.flush()
        script = Path(__file__).parent / "peers" / "greedy.py"
        command = [str(environment.PYTHON), str(script), str(file), asked.name, str(number)]
        done = subprocess.run(
            command, env=environment.environment(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    for line in done.stdout.splitlines():
        found: dict[str, Any] = json.loads(line)
        yield found["tokens"], [np.nan if gap is None else gap for gap in found["gaps"]]


def lead(logits: Floats, tokens: list[int], ends: frozenset[int]) -> Floats:
    """By how much the logit of each token lies above that of the likeliest other one that is no end."""
    others, rows = logits.copy(), np.arange(len(tokens))
    others[:, sorted(ends)] = others[rows, tokens] = -np.inf
    return logits[rows, tokens] - others.max(1)  # type: ignore[no-any-return]


def along(network: Network, prompt: list[int], tokens: list[int], *, rounded: bool = False) -> Floats:
    """The network's logits for each word of an answer."""
    return network.logits(prompt + tokens[:-1], rounded=rounded)[len(prompt) - 1 :]


def case(folder: Path, name: str, number: int) -> Case:
    through, step = WAYS[name]
    source = floats(folder) if through else smollm2()
    steps = (step or mixture(source), PrefillChunk(tokens=16))
    pack = pack_of(source, folder / name, steps, threads=2, change=f32_cache)
    made = write_export(pack, folder / f"{name}.gguf", Wish("gguf", "f32"))
    with opened(pack) as session:
        ends = frozenset(session.tokenizer.eos_ids)
        prompts = [list(session.tokenizer.encode(text)[:NUM_TOKENS]) for text in PROMPTS]
    mine, network = list(ours(pack, prompts, number, ends)), Network(made.path)
    answered = [(prompt, *answer) for prompt, answer in zip(prompts, mine, strict=True) if answer[0]]
    found: Case = {
        "types": ", ".join(f"{share.num_tensors} {share.dtype.upper()}" for share in made.types),
        "bits": made.bits,
        "words": sum(len(tokens) for _, tokens, _ in answered),
        "off": max(float(np.abs(along(network, p, tokens) - logits).max()) for p, tokens, logits in answered),
        "written out": written_out(made.path, answered, number, ends),
        "as it is": as_it_is(made.path, network, prompts, number, ends),
    }
    made.path.unlink()
    shutil.rmtree(pack)
    return found


def written_out(
    file: Path, answered: list[tuple[list[int], list[int], Floats]], number: int, ends: frozenset[int]
) -> Case:
    """Where answers part, with the smaller of the two gaps there, and how far gaps are apart before that."""
    place = file.with_suffix(".f32.gguf")
    tool = [str(environment.tools() / "llama-quantize"), "--allow-requantize", str(file), str(place), "F32"]
    subprocess.run(tool, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    others = theirs(place, [prompt for prompt, _, _ in answered], number, ends)
    parted, apart = [], [0.0]
    for (_, tokens, logits), (their_tokens, their_gaps) in zip(answered, others, strict=True):
        gaps = np.abs(lead(logits, tokens, ends))
        at = next((at for at, token in enumerate(tokens) if token != their_tokens[at]), None)
        if at is not None:
            parted.append((at, float(np.fmin(gaps[at], their_gaps[at]))))
        told = np.abs(gaps - their_gaps[: len(gaps)])[:at]
        apart += told[~np.isnan(told)].tolist()
    place.unlink()
    return {"parted": parted, "apart": max(apart)}


def as_it_is(file: Path, network: Network, prompts: Answers, number: int, ends: frozenset[int]) -> Case:
    """How far rounded activations move the lead of llama.cpp's words over others, in it and in the network."""
    moved: list[Floats] = []
    imitated: list[Floats] = []
    behind = 0.0
    for prompt, (tokens, gaps) in zip(prompts, theirs(file, prompts, number, ends), strict=True):
        exact = lead(along(network, prompt, tokens), tokens, ends)
        rounded = lead(along(network, prompt, tokens, rounded=True), tokens, ends)
        told = ~np.isnan(gaps)
        moved.append((np.array(gaps) - exact)[told])
        imitated.append((rounded - exact)[told])
        behind = max(behind, -float(exact.min()))
    one, other = np.concatenate(moved), np.concatenate(imitated)
    return {
        "words": len(one), "behind": behind, "moved": float(np.sqrt(np.square(one).mean())),
        "imitated": float(np.sqrt(np.square(other).mean())), "most imitated": float(np.abs(other).max()),
    }  # fmt: skip


def mixture(source: Path) -> Mixed:
    """Another format for each weight."""
    names = [weight.name for weight in describe(str(source)).part("language").weights() if len(weight.shape) == 2]
    return Mixed("all", write_formats({name: MIXTURE[at % len(MIXTURE)] for at, name in enumerate(names)}))


def floats(folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder in float32, exported once."""
    place = folder / "floats"
    if not place.exists():
        write_export(pack_of(smollm2(), folder / "stored"), place, Wish("safetensors"))
    return place


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("--words", type=int, default=32)
    asked = parse.parse_args()
    environment.set_up(native=False)
    torch.set_num_threads(1)
    record = Record("exported", fresh=asked.fresh)
    with tempfile.TemporaryDirectory(prefix="pintpot-") as folder:
        cases = {
            name: record.case(f"{name}, {asked.words}", lambda name=name: case(Path(folder), name, asked.words))
            for name in WAYS
        }
    rows = []
    for name, found in cases.items():
        out, so = found["written out"], found["as it is"]
        same = f"{len(PROMPTS) - len(out['parted'])} of {len(PROMPTS)}"
        gaps = " ".join(f"{at}:{gap:.3f}" for at, gap in out["parted"])
        moves = [f"{so[key]:.2g}" for key in ("moved", "imitated", "behind", "most imitated")]
        rows.append([name, found["types"], f"{found['bits']:.2f}", f"{found['off']:.1e}", same, gaps, *moves])
    columns = ["weights", "tensors", "bits", "gguf + transformers: logits off", "written out: same", "word:gap"]
    columns += ["as it is: leads moved (rms)", "imitated", "furthest behind", "most imitated"]
    record.table(columns, rows, left=2)
    record.say()
    for name, found in cases.items():
        verdicts(record, name, found)
    return record.finish()


def verdicts(record: Record, name: str, found: Case) -> None:
    out, so = found["written out"], found["as it is"]
    what = f"{name}, {found['words']} words"
    record.verdict(f"{what}: logits of gguf and transformers", f"{found['off']:.1e}", f"{CLOSE}", found["off"] < CLOSE)
    widest = max((gap for _, gap in out["parted"]), default=0.0)
    parted = f"{len(out['parted'])} part, gaps to {widest:.3f}; else within {out['apart']:.1e}"
    record.verdict(f"{what}: llama.cpp, written out", parted, f"under {NEAR}", widest < NEAR)
    moved, imitated = so["moved"], so["imitated"]
    told = f"leads moved by {moved:.2g}, imitated {imitated:.2g}"
    record.verdict(f"{what}: llama.cpp, as it is", told, "1.25 times", moved < 1.25 * imitated + CLOSE)
    behind, most = so["behind"], so["most imitated"]
    record.verdict(f"{what}: its words behind ours", f"{behind:.2g}", f"{most:.2g}", behind < most + CLOSE)


if __name__ == "__main__":
    sys.exit(main())
