"""A float model quantized by llama.cpp's own quantizer, with an importance matrix gathered from a text.

    python benchmarks/llama_quantizer.py [FOLDER] [--text FILE] [--types Q2_K Q4_K_M] [--chunks 64]

FOLDER is a Hugging Face folder in float (SmolLM2 as float32 where none is given). It becomes an F16 GGUF file; the text
(that of calibrations, where none is given) is read in chunks of 512 tokens; every type is quantized with what was
gathered. Files stay below `out/llama-quantizer/NAME`. Printed are true bits: rows that are no multiple of 256 columns
cannot have K types, and llama.cpp takes larger ones for them. The tools are compiled once, a quarter of an hour.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import environment
from bench import OUT, ROOT, Case, Record, parser, smollm2, whisper
from packing import pack_of

from pintpot import api
from pintpot.model.spec import Model
from pintpot.packer.export.export import Wish, write_export
from pintpot.planner.sensitivity import table_key

TYPES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
CHUNK_TOKENS = 512
TEXT = ROOT / "src" / "pintpot" / "packer" / "calibrate" / "text.txt"
CHUNKS = 64
"""32,768 tokens, as many as a calibration reads here."""


@dataclass(frozen=True)
class Share:
    """Some matrices of a file: their values, their bytes, and how many there are of each type."""

    num_values: int
    num_bytes: int
    types: tuple[tuple[str, int], ...]

    @property
    def bits(self) -> float:
        return 8 * self.num_bytes / self.num_values


def f16_gguf(folder: Path, place: Path) -> Path:
    """A folder's weights as F16, by way of a GGUF file of the floats that it holds."""
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        pack = pack_of(folder, Path(scratch) / "pack")
        floats = write_export(pack, Path(scratch) / "floats.gguf", Wish("gguf")).path
        part = _part(place)
        _tool("llama-quantize", str(floats), str(part), "F16")
    return part.replace(place)


def importance(f16: Path, text: Path, place: Path, chunks: int = CHUNKS) -> Path:
    """The importance matrix of a text: of every input of every matrix the mean square."""
    how = ["-c", str(CHUNK_TOKENS), "--chunks", str(chunks), "--threads", "2", "--no-ppl", "-ngl", "0"]
    part = _part(place)
    _tool("llama-imatrix", "-m", str(f16), "-f", str(text), "-o", str(part), *how)
    return part.replace(place)


def quantized(f16: Path, matrix: Path, kind: str, place: Path, pure: bool = False) -> Path:
    """A file quantized to one of llama.cpp's mixtures, or to its type alone. Beside it what the quantizer said."""
    how = ["--pure"] * pure
    part = _part(place)
    said = _tool("llama-quantize", *how, "--imatrix", str(matrix), str(f16), str(part), kind, "2")
    place.with_suffix(".said").write_text(said)
    return part.replace(place)


def _part(place: Path) -> Path:
    """What is being made and may be stopped: the tools write in place, one of them every ten chunks."""
    return place.with_name(f"part-{place.name}")


def shares(file: Path) -> dict[str, Share]:
    """True sizes of the matrices: all of them, the vocabulary's, the blocks', and the down projections alone."""
    import gguf

    tensors = [tensor for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) == 2]
    own = {"token_embd.weight", "output.weight"}
    groups = {
        "all": tensors, "vocabulary": [one for one in tensors if one.name in own],
        "blocks": [one for one in tensors if one.name not in own],
        "down": [one for one in tensors if one.name.endswith("ffn_down.weight")],
    }  # fmt: skip
    return {name: _share(group) for name, group in groups.items()}


def _share(tensors: Iterable[object]) -> Share:
    found = [(int(one.n_elements), int(one.n_bytes), one.tensor_type.name) for one in tensors]  # type: ignore[attr-defined]
    types = Counter(name for _, _, name in found).most_common()
    return Share(sum(values for values, _, _ in found), sum(size for _, size, _ in found), tuple(types))


def _tool(name: str, *arguments: str) -> str:
    """What one of llama.cpp's tools says. Raises CalledProcessError, with the end of it, where it fails."""
    whisper(f"{name} {' '.join(arguments[-2:])} ...")
    command = ["nice", "-n", "15", str(environment.tools() / name), *arguments]
    # Threads that wait would otherwise take the processor from whatever else runs here.
    variables = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode != 0:
        whisper(done.stdout[-2000:])
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


def float_smollm2(place: Path) -> Path:
    """SmolLM2's weights in float32, as a Hugging Face folder."""
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            write_export(pack_of(smollm2(), Path(scratch) / "pack"), place, Wish("safetensors"))
    return place


def prepared(folder: Path, text: Path, base: Path, chunks: int) -> tuple[Path, Path]:
    """The F16 file and the importance matrix of a model below `base`, made where they are missing."""
    f16, matrix = base / "F16.gguf", base / f"{text.stem}-{chunks}.imatrix.gguf"
    if not f16.exists():
        f16_gguf(folder, f16)
    if not matrix.exists():
        importance(f16, text, matrix, chunks)
    return f16, matrix


def place_of(model: Model) -> Path:
    """Where the files of a model lie: another training of it has others."""
    return OUT / "llama-quantizer" / f"{model.name}-{table_key(model)[:8]}-quantized"


def sizes(file: Path) -> Case:
    """The true bits of a file, for the record."""
    return {
        name: {"bits": share.bits, "num_bytes": share.num_bytes, "types": share.types}
        for name, share in shares(file).items()
    }


def main() -> int:
    parse = parser(__doc__)
    parse.add_argument("folder", type=Path, nargs="?")
    parse.add_argument("--text", type=Path, default=TEXT)
    parse.add_argument("--types", nargs="+", default=TYPES)
    parse.add_argument("--chunks", type=int, default=CHUNKS)
    asked = parse.parse_args()
    home = OUT / "llama-quantizer"
    home.mkdir(parents=True, exist_ok=True)
    folder = asked.folder or float_smollm2(home / "SmolLM2-float32")
    base = place_of(api.describe(str(folder)))
    base.mkdir(exist_ok=True)
    record = Record("llama_quantizer", fresh=asked.fresh)
    f16, matrix = prepared(folder, asked.text, base, asked.chunks)
    record.say(f"model {f16}\nimportance {matrix}\n")
    rows = []
    for kind in ("F16", *asked.types):
        file = f16 if kind == "F16" else base / f"{kind}-{matrix.name.split('.')[0]}.gguf"
        if not file.exists():
            quantized(f16, matrix, kind, file)
        found = record.case(f"{file}", lambda file=file: sizes(file))
        bits = [f"{found[name]['bits']:.3f}" for name in ("all", "blocks", "vocabulary", "down")]
        types = ", ".join(f"{number} {name}" for name, number in found["all"]["types"])
        rows.append([kind, f"{found['all']['num_bytes'] / 1e6:.2f}", *bits, types])
    record.table(["type", "MB", "bits", "of blocks", "of vocabulary", "of down", "tensors"], rows)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
