"""Quality by bytes beside llama.cpp's own quantizer: at the bytes of Q2_K to Q6_K, which weights answer nearer?

    python benchmarks/frontier.py                   # off-grid SmolLM2; 8,192 tokens of held-out text
    python benchmarks/frontier.py --tokens 2048 --calibrated 8192 --types Q2_K Q4_K_M --without-speed

llama.cpp rounds the model with an importance matrix of the text that Pintpot calibrates on. Pintpot gets as many bytes
for all matrices, embedding and head included, spends them by its table of sensitivities (`pintpot calibrate`, made
where it is missing) and rounds with GPTQ. KL divergence from the float model is measured with float32 arithmetic over
both sides' weights, and through each side's own fast path: words of answers, the second half of each text,
decoded. Then the down projections alone in each K type, beside ours in as many bytes: the only rows of this model
that are a multiple of 256, so that K types are what they are called. Last decode speed, both sides taking turns.

Everything found is kept in out/frontier.json, packs and files below out/: a start that was stopped goes on. Speeds
count on a quiet machine only: --without-speed leaves them to a later start. Needs the peers' environment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import environment
from bench import OUT, ROOT, Case, Record, parser, probed_machine
from by_bytes import LEFT, at_bytes, choices, mixed, packed, plan_of, rounded
from contenders import Config
from divergence import Judge
from frontier_plot import draw
from held_out import held_out_tokens
from in_turn import decode_in_turn, own, ratio_of
from llama_quantizer import CHUNK_TOKENS, CHUNKS, TEXT, TYPES, place_of, prepared, quantized, shares
from quality import Logits, ours, theirs
from rounds import Entrant

from pintpot import api
from pintpot.contract.step import Step
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.model.tokens import Tokenizer
from pintpot.packer.calibrate.source import whole
from pintpot.packer.calibrate.texts import cut, read_text
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import tokenizer_of
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.int8_activations import Int8Activations

K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
CONTEXT, LENGTH = 512, 256
WANTED = 0.8
ROUNDING: tuple[Step, ...] = (Gptq("all"),)
FAST: tuple[Step, ...] = (Int8Activations(), PrefillChunk(tokens=CONTEXT))
WAYS = ("weights", "answers")


@dataclass(frozen=True)
class Contest:
    """One model, the texts of both sides, and where what is made lies."""

    record: Record
    model: Model
    judge: Judge
    calibration: list[list[int]]
    f16: Path
    matrix: Path
    table: Any
    mark: str

    def case(self, what: str, make: Any) -> Case:
        return self.record.case(f"{what}, {self.mark}", make)

    def file(self, kind: str, pure: bool = False) -> Path:
        """llama.cpp's file of a type: its mixture, or the type in every matrix whose rows allow it."""
        stem = self.matrix.name.removesuffix(".imatrix.gguf")
        place = self.f16.with_name(f"{kind}{'-pure' if pure else ''}-{stem}.gguf")
        return place if place.exists() else quantized(self.f16, self.matrix, kind, place, pure)

    def theirs(self, kind: str) -> Case:
        file = self.file(kind)
        sizes = {name: {"bits": one.bits, "num_bytes": one.num_bytes} for name, one in shares(file).items()}
        types = ", ".join(f"{number} {name}" for name, number in shares(file)["all"].types)
        return {"sizes": sizes, "types": types, "file": str(file), "weights": self.judge.of_file(file)}

    def theirs_fast(self, kind: str) -> Case:
        with tempfile.TemporaryDirectory(prefix="pintpot-") as folder:
            return _fast(self.judge, theirs(self.file(kind), Path(folder)))

    def pack(self, num_bytes: int) -> Path:
        """Our pack of as many bytes of matrices."""
        step = mixed(at_bytes(choices(self.model, self.table, left=LEFT), num_bytes).formats)
        plan = plan_of(self.model, (step, *ROUNDING, *FAST), context=CONTEXT)
        return packed(self.model, plan, self.calibration)

    def ours(self, num_bytes: int) -> Case:
        folder = self.pack(num_bytes)
        plan = read_manifest(folder)[0].plan
        matrices = [form for form in plan.form.weights if form.is_matrix]
        made = sum(form.num_strips * form.strip_bytes for form in matrices)
        values = sum(form.shape[0] * form.shape[1] for form in matrices)
        found = self.judge.of_pack(folder)
        steps = [str(step) for step in plan.steps]
        return {"num_bytes": made, "bits": 8 * made / values, "steps": steps, "pack": str(folder), "weights": found}

    def ours_fast(self, num_bytes: int) -> Case:
        return _fast(self.judge, ours(self.pack(num_bytes)))

    def theirs_down(self, kind: str) -> Case:
        """The down projections alone in a K type, all else in float."""
        file = self.file(kind, pure=True)
        other, share = api.describe(file), shares(file)["down"]
        with Store(other) as store:
            weights = [w for w in other.part("language").weights() if w.name.endswith(".down")]
            kept = {weight.name: whole(store, weight) for weight in weights}
        types = ", ".join(f"{number} {name}" for name, number in share.types)
        return {
            "num_bytes": share.num_bytes, "bits": share.bits, "types": types, "weights": self.judge.of_weights(kept),
        }  # fmt: skip

    def ours_down(self, num_bytes: int) -> Case:
        chosen = at_bytes(choices(self.model, self.table, lambda name: name.endswith(".down")), num_bytes)
        matrices = [w.name for w in self.model.part("language").weights() if len(w.shape) == 2]
        step = mixed({name: chosen.formats.get(name, "f32") for name in matrices})
        plan = plan_of(self.model, (step, *ROUNDING, PrefillChunk(tokens=CONTEXT)), context=CONTEXT)
        kept = rounded(self.model, plan, self.calibration)
        return {"num_bytes": chosen.total("num_bytes"), "weights": self.judge.of_weights(kept)}

    def speeds(self, kind: str, num_bytes: int) -> Case:
        """Decode speed of both files, in turn; llama.cpp in the better of its documented ways."""
        knobs = {"model": str(self.file(kind)), "context": CONTEXT, "cache": "f16", "threads": 2, "flash": True}
        theirs = [
            Entrant(Config("llama_cpp", "llama.cpp", f"{kind}, {name}"), knobs | {"repack": repack})
            for name, repack in (("repacked", True), ("as it is", False))
        ]
        return decode_in_turn([own("same bytes", self.pack(num_bytes)), *theirs], num_bytes)


def _fast(judge: Judge, logits: Logits) -> Case:
    """Words of answers: of each text the second half, decoded after the first as its prompt."""
    words = LENGTH // 2
    return {"answers": judge.of_logits(logits(judge.texts, words), words)}


def contest(record: Record, asked: argparse.Namespace) -> Contest:
    """The model, the texts and llama.cpp's own preparations."""
    folder = asked.folder or off_grid()
    model = api.describe(str(folder))
    tokenizer = tokenizer_of(model)
    texts = held_out_tokens(Tokenizer.load(tokenizer), asked.tokens // LENGTH, LENGTH)
    calibration = cut(tokenizer, read_text(), model.context, asked.calibrated, CHUNK_TOKENS)
    base = place_of(model)
    base.mkdir(parents=True, exist_ok=True)
    f16, matrix = prepared(folder, TEXT, base, CHUNKS)
    judge = Judge(model, texts)
    mark = f"{base.name.removesuffix('-quantized')}, {asked.tokens} tokens, {asked.calibrated} calibrated"
    return Contest(record, model, judge, calibration, f16, matrix, api.calibrate(model), mark)


def off_grid() -> Path:
    """SmolLM2 off every grid; made where it is missing."""
    place = OUT / "models" / "smollm2-off-grid-f32"
    if not place.exists():
        subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "off_grid.py")], check=True, stdout=subprocess.DEVNULL
        )
    return place


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("folder", type=Path, nargs="?", help="a model in float; off-grid SmolLM2 otherwise")
    parse.add_argument("--tokens", type=int, default=8192, help="of held-out text")
    parse.add_argument("--calibrated", type=int, default=CHUNKS * CHUNK_TOKENS, help="tokens for our rounding")
    parse.add_argument("--types", nargs="+", default=TYPES)
    parse.add_argument("--without-speed", action="store_true", help="no speeds: the machine is not quiet")
    asked = parse.parse_args()
    environment.set_up(native=True)
    if not asked.without_speed:
        probed_machine()
    record = Record("frontier", fresh=asked.fresh)
    made = contest(record, asked)
    found = {kind: measured(made, kind) for kind in asked.types}
    down = {kind: measured_down(made, kind) for kind in asked.types}
    fast = {} if asked.without_speed else {kind: measured_speed(made, kind, one) for kind, one in found.items()}
    show(record, found, down, fast)
    picture = draw(found, OUT / "frontier.svg")
    record.say(f"\nplot {picture.relative_to(OUT)}")
    return record.finish()


def measured(made: Contest, kind: str) -> dict[str, Case]:
    """Both sides at the bytes of one of llama.cpp's mixtures."""
    theirs = made.case(f"llama.cpp {kind}", lambda: made.theirs(kind))
    num_bytes = theirs["sizes"]["all"]["num_bytes"]
    ours = made.case(f"Pintpot at {kind}, {num_bytes} bytes", lambda: made.ours(num_bytes))
    return {
        "llama.cpp": theirs | made.case(f"llama.cpp {kind}, as it runs", lambda: made.theirs_fast(kind)),
        "Pintpot": ours | made.case(f"Pintpot at {kind}, as it runs", lambda: made.ours_fast(num_bytes)),
    }


def measured_down(made: Contest, kind: str) -> dict[str, Case]:
    theirs = made.case(f"llama.cpp {kind}, down alone", lambda: made.theirs_down(kind))
    num_bytes = theirs["num_bytes"]
    return {
        "llama.cpp": theirs, "Pintpot": made.case(f"Pintpot at {kind}, down alone", lambda: made.ours_down(num_bytes)),
    }  # fmt: skip


def measured_speed(made: Contest, kind: str, found: dict[str, Case]) -> Case:
    num_bytes = found["llama.cpp"]["sizes"]["all"]["num_bytes"]
    return made.case(f"{kind}, speed", lambda: made.speeds(kind, num_bytes))


def show(
    record: Record, found: dict[str, dict[str, Case]], down: dict[str, dict[str, Case]], fast: dict[str, Case]
) -> None:
    """Tables and verdicts."""
    rows = []
    for kind, pair in found.items():
        for side, one in pair.items():
            size, bits = (one["sizes"]["all"][key] if "sizes" in one else one[key] for key in ("num_bytes", "bits"))
            rows.append([kind, side, f"{size / 1e6:.2f}", f"{bits:.3f}", *(_kl(one[way]) for way in WAYS),
                         f"{one['answers']['same']:.1%}"])  # fmt: skip
    record.table(["at", "by", "MB", "bits", *WAYS, "same word of answers"], rows, left=2)
    for kind, pair in found.items():
        record.say(f"{kind}: llama.cpp has {pair['llama.cpp']['types']}; Pintpot {pair['Pintpot']['steps'][0]}")
    record.say("\ndown projections alone (1,536 columns), all else in float, float32 arithmetic")
    rows = []
    for pair in down.values():
        theirs, ours = (pair[side] for side in ("llama.cpp", "Pintpot"))
        bits = f"{theirs['bits']:.3f}"
        rows.append([theirs["types"], bits, *(_kl(one["weights"]) for one in (theirs, ours)), f"{_ratio(pair):.2f}"])
    record.table(["type", "bits", "llama.cpp", "Pintpot", "ratio"], rows)
    record.say()
    for kind, pair in found.items():
        for way in ("weights", "answers"):
            ratio = _ratio(pair, way)
            record.verdict(
                f"{kind}, {way}: KL of Pintpot over llama.cpp's", f"{ratio:.2f}", f"{WANTED}", ratio <= WANTED
            )
    for kind, pair in down.items():
        record.verdict(f"{kind}, down alone", f"{_ratio(pair):.2f}", f"{WANTED}", _ratio(pair) <= WANTED)
    for kind, one in fast.items():
        first, *others = one["finals"]
        for label in others:
            ratio = ratio_of(one, first, label)
            record.verdict(f"{kind}, decode over {label}", str(ratio), "1", ratio.middle >= 1)


def _ratio(pair: dict[str, Case], way: str = "weights") -> float:
    return float(pair["Pintpot"][way]["mean"] / pair["llama.cpp"][way]["mean"])


def _kl(found: Case) -> str:
    return f"{found['mean']:.5f} ({found['low']:.5f} to {found['high']:.5f})"


if __name__ == "__main__":
    sys.exit(main())
