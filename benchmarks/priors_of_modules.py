"""How much worse each format may make a module's answers: makes `src/pintpot/planner/priors_of_modules.json`.

    python benchmarks/priors_of_modules.py [--output FILE]

A bound from arithmetic, no measurement of a trained module: normal values are rounded to each format, and the share e
of their energy that is lost is taken. Where the errors of layers are independent and add up, an answer's cosine with
the unrounded one lacks e/2 for each layer that it went through. A span reaches from one layer to 24 whose errors count
four times, for weights with outliers; a table of words is one layer, and where it is the head too, two. `pintpot prove`
measures the module at hand, and its next plan knows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from pintpot.formats import DENSE_FORMATS, encoding
from pintpot.formats.convert import convert
from pintpot.formats.tiles import unpack

OUTPUT = Path(__file__).resolve().parent.parent / "src" / "pintpot" / "planner" / "priors_of_modules.json"
ROWS, COLUMNS = 256, 1024
LEAST, MOST, MOST_OF_WORDS = 1, 24 * 4, 2 * 4


def lost(name: str) -> float:
    """The share of the energy of normal values that rounding to a format loses."""
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    strips = convert(values.view(np.uint8), "f32", name, COLUMNS)
    return float(((unpack(strips, name, ROWS, COLUMNS) - values) ** 2).mean() / (values**2).mean())


def _span(share: float, most: int) -> list[float]:
    return [float(f"{share / 2 * times:.2g}") for times in (LEAST, most)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    formats = [name for name in DENSE_FORMATS if encoding(name).kind not in ("float", "super")]
    lossy = {name: lost(name) for name in formats}
    shares = {f"blocks/{name}": share for name, share in lossy.items()}
    # Weights, rows and what comes of them.
    shares["left/bf16"] = 3 * lost("bf16")
    one, two = lossy["sym8"], lossy["sym8"] / 128**2
    rounded = 2 * lost("bf16")
    shares |= {f"activation/{rows}": rounded for rows in ("bfloat16", "bfloat16-int8x2", "bfloat16-int8")}
    shares |= {"activation/int8": one, "activation/int8-int8x2": one, "activation/int8x2": two}
    spans = {key: _span(share, MOST) for key, share in shares.items()}
    spans |= {f"vocabulary/{name}": _span(share, MOST_OF_WORDS) for name, share in lossy.items()}
    document = {
        "command": "python benchmarks/priors_of_modules.py",
        "rule": str(__doc__).split("\n\n")[2],
        "spans": spans,
    }
    output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
