"""Memory and time of loading a tokenizer, by vocabulary size and by way of loading; the source of `tokens.memory`.

    python benchmarks/tokenizer_memory.py [FILE.gguf ...]   one line per size and file, and the constants fitted to them
    python benchmarks/tokenizer_memory.py --ways            the ways of loading that the library offers, side by side

Every figure is of a process of its own. The vocabularies are drawn: words out of shorter words, six to seven characters
in the mean as in the published ones. `peak` is what loading adds to VmHWM, `kept` what stays of VmRSS after the unused
memory went back to the system, both with the import of the library (`import` alone is given too).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (8_000, 16_000, 32_000, 49_152, 57_000, 64_000, 100_000, 128_256, 151_936, 200_000, 256_000)
WAYS = ("buffer", "file", "str", "lists", "parts")

_CHILD = """
import gc, json, re, sys, time
def status():
    text = open("/proc/self/status").read()
    return [int(re.search(key + r":\\s+(\\d+)", text)[1]) * 1024 for key in ("VmHWM", "VmRSS")]
way, path = sys.argv[1:3]
from pintpot.model.tokens import Tokenizer
from pathlib import Path
import ctypes
ctypes.CDLL(None).malloc_trim(0)
before = status()
import tokenizers
imported = status()
start = time.perf_counter()
if way == "buffer":
    loaded = Tokenizer.from_json(Path(path))
elif way in ("file", "lists"):
    loaded = tokenizers.Tokenizer.from_file(path)
elif way == "str":
    loaded = tokenizers.Tokenizer.from_str(open(path).read())
else:
    model = json.load(open(path))["model"]
    loaded = tokenizers.Tokenizer(tokenizers.models.BPE(model["vocab"], [tuple(m.split(" ")) for m in model["merges"]]))
    del model
seconds = time.perf_counter() - start
peak = status()[0]
ctypes.CDLL(None).malloc_trim(0)
kept = status()[1]
loaded.encode("Hello world " * 50)
print(json.dumps([imported[1] - before[1], peak - before[1], kept - before[1], seconds]))
"""


def draw(num_tokens: int, seed: int = 0) -> str:
    """tokenizer.json of a drawn byte-level BPE with exactly so many words."""
    from pintpot.model.tokens import build_tokenizer_json

    draws = random.Random(seed)
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    words = [chr(byte) for byte in letters] + [chr(256 + index) for index in range(256 - len(letters))]
    known, merges = set(words), []
    while len(words) < num_tokens:
        left, right = words[int(len(words) * draws.random() ** 2)], words[int(len(words) * draws.random() ** 3)]
        if left + right not in known and len(left + right) <= 16:
            known.add(left + right)
            words.append(left + right)
            merges.append(f"{left} {right}")
    kind = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}
    return build_tokenizer_json({**kind, "tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": merges})


def measure(way: str, path: Path) -> tuple[float, float, float, float]:
    """Bytes of the import, at the peak, bytes kept, and seconds: medians of five processes (the least seconds)."""
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", _CHILD, way, str(path)], check=True, capture_output=True).stdout
        )
        for _ in range(5)
    ]
    first, peak, kept, seconds = (sorted(run[index] for run in runs) for index in range(4))
    return first[2], peak[2], kept[2], seconds[0]


def compare_ways(folder: Path) -> None:
    for num_tokens in (49_152, 151_936):
        path, lists = folder / "tokenizer.json", folder / "lists.json"
        path.write_text(draw(num_tokens))
        document = json.loads(path.read_text())
        document["model"]["merges"] = [merge.split(" ") for merge in document["model"]["merges"]]
        lists.write_text(json.dumps(document))
        for way in WAYS:
            _, peak, kept, seconds = measure(way, lists if way == "lists" else path)
            print(
                f"{num_tokens:7} words  {way:7} peak {peak / 1e6:6.1f} MB  kept {kept / 1e6:6.1f} MB"
                f"  {seconds * 1e3:4.0f} ms"
            )


def table(folder: Path, files: list[Path]) -> None:
    from pintpot.model.gguf import open_gguf
    from pintpot.model.tokens import from_gguf
    from pintpot.model.tokens.memory import estimated_bytes, kept_bytes

    rows = []
    for source in (*SIZES, *files):
        text = draw(source) if isinstance(source, int) else from_gguf(open_gguf(source)).text()
        path = folder / "tokenizer.json"
        path.write_text(text)
        model = json.loads(text)["model"]
        size = len(model["vocab"]), len(model["merges"])
        first, peak, kept, seconds = measure("buffer", path)
        rows.append((*size, peak, kept))
        (low, high), (kept_low, kept_high) = estimated_bytes(*size), kept_bytes(*size)
        print(
            f"{size[0]:7} words {size[1]:7} merges  import {first / 1e6:3.1f}"
            f"  peak {peak / 1e6:5.1f} ({low / 1e6:5.1f} to {high / 1e6:5.1f})"
            f"  kept {kept / 1e6:5.1f} ({kept_low / 1e6:5.1f} to {kept_high / 1e6:5.1f}) MB  {seconds * 1e3:4.0f} ms"
        )
    fit(rows)


def fit(rows: list[tuple[int, int, float, float]]) -> None:
    """The constants of `tokens.memory`: bytes always, per word and per merge, least squares of the relative error."""
    import numpy as np

    from pintpot.model.tokens.memory import table_bytes

    terms = np.array([[1, words, merges] for words, merges, _, _ in rows], float)
    tables = np.array([table_bytes(words, merges) for words, merges, _, _ in rows], float)
    for name, column, known in (("peak", 2, 0 * tables), ("kept without tables", 3, tables)):
        target = np.array([row[column] for row in rows], float)
        found, *_ = np.linalg.lstsq(terms / target[:, None], (target - known) / target, rcond=None)
        ratios = (terms @ found + known) / target
        print(f"{name}: {np.round(found)}; fitted over measured {ratios.min():.2f} to {ratios.max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.ways:
            compare_ways(Path(folder))
        else:
            table(Path(folder), arguments.files)


if __name__ == "__main__":
    main()
