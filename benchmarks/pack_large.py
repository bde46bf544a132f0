"""Packing a model of 16 GB inside 1 GB: the peak of the process that packs, its time, and whether the pack is right.

    python benchmarks/pack_large.py [--memory 1GB] [--keep] [--fresh]

A folder with bf16 shards in the shape of Llama 3.1 8B, drawn weights, is rounded to a few bits a weight by a plan for
the memory given, in a process that the kernel kills above it; a few tokens are then run in such a process, too. Rows of
a few weights are read out of the shards and out of the pack by code of this file alone, and must agree: bit for bit
with a conversion of those rows in one piece, and within half a step of their group with the values themselves.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from bench import OUT, Case, Record, capped, caps_work, drawn_model, parser, probed_machine, remove, whisper
from counting import packed_sizes
from driven import Driven
from numpy.typing import NDArray
from texts import shipped_text

from pintpot import api
from pintpot.errors import DoesNotFit, PintpotError, need
from pintpot.formats.convert import encode
from pintpot.meter.cap import Cap
from pintpot.packer.manifest import Manifest, read_manifest
from pintpot.packer.raw import WEIGHTS
from pintpot.units import parse_bytes

CONTEXT, PROMPT, TOKENS = 512, 16, 3
CHECKED = ("embed", "layers.0.q", "layers.7.k", "layers.15.down", "layers.31.gate", "head")
ROWS = 64
HF_NAMES = {
    "embed": "model.embed_tokens", "head": "lm_head", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
    "gate": "mlp.gate_proj", "down": "mlp.down_proj",
}  # fmt: skip
SLACK, MOST = 0.01, 0.95
"""The scale is a float16, and a few values at a group's ends may be cut off where that lessens the error."""


def measure(source: Path, memory: int, cap: bool) -> Case:
    """Pack under the cap, run a few tokens under it, and check rows."""
    limit = memory if cap else None
    folder = OUT / "packs" / "large"
    if folder.exists():
        remove(folder)
    model = api.describe(source)
    # Whatever it does to quality: the weights are drawn.
    plan = api.plan(model, memory=memory, context=CONTEXT, prompt=PROMPT, output=TOKENS, degradation=100.0)
    request = json.dumps({"model": str(source), "plan": plan.without_reasons().to_json(), "folder": str(folder)}) + "\n"
    whisper(f"packing {model.num_bytes / 1e9:.1f} GB")
    done = capped([sys.executable, "-m", "pintpot.packer.apart"], limit, request).needed("packing")
    last = json.loads(done.out.splitlines()[-1])
    need("folder" in last, f"packing: {last}", PintpotError)
    manifest, _ = read_manifest(folder)
    there = {form.name for form in manifest.plan.form.weights}
    checked = [check_rows(source, folder, manifest, name) for name in CHECKED if name in there]
    with ExitStack() as stack:
        held = None if limit is None else stack.enter_context(Cap(limit))
        pack = stack.enter_context(Driven("pack", str(folder), cap=held))
        opened = pack.ask("opened")
        begun = pack.ask("start", text=shipped_text(), prompt=PROMPT, output=TOKENS)
        steps = pack.ask("steps", number=TOKENS - 1)
    need(held is None or not held.report.killed, "the run was killed by its cap", DoesNotFit)
    return {
        "source_bytes": model.num_bytes,
        "pack_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "pack_s": done.seconds,
        "promised_s": [plan.cost.pack_s.low, plan.cost.pack_s.high],
        "pack_peak": done.peak_bytes,
        "run_peak": steps["peak_bytes"],
        "open_s": opened["open_s"],
        "first_token_s": begun["prompt_s"],
        "step_s": steps["step_s"],
        "checked": checked,
        "steps": [str(step) for step in plan.steps],
    }


def check_rows(source: Path, folder: Path, manifest: Manifest, name: str) -> dict[str, Any]:
    """The first and the last rows of a weight, out of the source and out of the pack. Raises where they disagree."""
    form = next(form for form in manifest.plan.form.weights if form.name == name)
    values, rows = source_rows(source, name, form.shape[0])
    strips = np.concatenate([packed_strip(folder, manifest, name, row // 16) for row in rows[::16]])
    same = bool((strips == encode(values, form.format)).all())
    need(same, f"{name}: the packed strips are not those of a conversion in one piece", PintpotError)
    found, step = unpacked(strips, form.format, form.shape[1])
    error = np.abs(found - values) / step
    inside = float((error <= 0.5 + SLACK).mean())
    near = inside > MOST and float(error.max()) < 2
    need(near, f"{name}: {inside:.1%} within half a step, the worst {error.max():.2f} steps away", PintpotError)
    return {"name": name, "format": form.format, "rows": len(rows), "within_half_a_step": inside}


def source_rows(source: Path, name: str, num_rows: int) -> tuple[NDArray[np.float32], list[int]]:
    """The first and the last `ROWS` rows of a bf16 tensor, read by its file's header: float32 [2 ROWS, K]."""
    layer, _, role = name.rpartition(".")
    hf = f"{'model.' + layer + '.' if layer else ''}{HF_NAMES[role]}.weight"
    index = source / "model.safetensors.index.json"
    file = source / (json.loads(index.read_text())["weight_map"][hf] if index.exists() else "model.safetensors")
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        entry = json.loads(handle.read(length))[hf]
    columns = entry["shape"][1]
    rows = [*range(ROWS), *range(num_rows - ROWS, num_rows)]
    parts = []
    for first in (0, num_rows - ROWS):
        offset = 8 + length + entry["data_offsets"][0] + 2 * columns * first
        parts.append(np.fromfile(file, np.uint16, ROWS * columns, offset=offset).reshape(ROWS, columns))
    return (np.concatenate(parts).astype(np.uint32) << 16).view(np.float32), rows


def packed_strip(folder: Path, manifest: Manifest, name: str, strip: int) -> NDArray[np.uint8]:
    """One strip [1, strip bytes] of a weight, wherever it lies in the pack's file."""
    form = next(form for form in manifest.plan.form.weights if form.name == name)
    size = packed_sizes(folder)[name] if form.ram_strips else 0
    if strip < form.ram_strips:
        need(size == form.ram_strips * form.strip_bytes, f"{name}: {size} bytes in the header", PintpotError)
        item = next(item for item in manifest.residents if item.name == name)
        offset = manifest.resident_offset + item.offset + strip * form.strip_bytes
    else:
        offset = next(
            at + piece.offset + (strip - piece.first_strip) * form.strip_bytes
            for at, _, slot in manifest.slots
            for piece in slot.pieces
            if piece.weight == name and 0 <= strip - piece.first_strip < piece.num_strips
        )
    return np.fromfile(folder / WEIGHTS, np.uint8, form.strip_bytes, offset=offset)[None]


def unpacked(strips: NDArray[np.uint8], name: str, columns: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values [16 n, K] of strips of sym4, aff4 or sym8 by docs/layout.md, and the step of each value's group."""
    need(name in ("sym4", "aff4", "sym8"), f"this check reads sym4, aff4 and sym8, not {name}", PintpotError)
    bits, minimum = int(name[3:]), name.startswith("aff")
    number, groups = len(strips), columns // 32
    wide = 64 if minimum else 32
    edge = -(-groups * wide // 64) * 64
    scales = strips[:, : groups * wide].reshape(number, groups, -1, 32).copy().view(np.float16).astype(np.float32)
    planes = strips[:, edge:].reshape(number, groups, bits, 16, 4)
    if bits == 8:
        codes = planes
    else:  # the low halves of the bytes are the first quads, the high halves the others
        codes = np.concatenate((planes & 15, planes >> 4), axis=2)
    by_row = codes.transpose(0, 3, 1, 2, 4).reshape(number * 16, columns).astype(np.float32)
    step, least = (
        np.repeat(part.transpose(0, 2, 1).reshape(number * 16, groups), 32, axis=1)
        for part in (scales[:, :, 0], scales[:, :, -1])
    )
    values = step * by_row + least if minimum else step * (by_row - 2 ** (bits - 1))
    return values, np.abs(step)


def show(record: Record, case: Case, memory: int) -> None:
    """What was found, and the verdicts."""
    record.say("; ".join(case["steps"]))
    sizes = f"{case['source_bytes'] / 1e9:.2f} GB became {case['pack_bytes'] / 1e9:.2f} GB"
    low, high = case["promised_s"]
    rate = case["source_bytes"] / case["pack_s"] / 1e6
    record.say(f"{sizes} in {case['pack_s']:.0f} s ({rate:.0f} MB/s; promised {low:.0f} to {high:.0f} s)")
    speed = sum(case["step_s"]) / len(case["step_s"])
    record.say(
        f"opened in {case['open_s']:.1f} s, first token after {case['first_token_s']:.1f} s, {speed:.2f} s a token"
    )
    rows = [
        (c["name"], c["format"], str(c["rows"]), "equal", f"{c['within_half_a_step']:.2%}") for c in case["checked"]
    ]
    record.table(("weight", "format", "rows", "strips", "within half a step"), rows, left=2)
    record.say()
    for what, peak in (("packing", case["pack_peak"]), ("running", case["run_peak"])):
        record.verdict(f"peak of {what}", f"{peak / 1e6:.1f} MB", f"{memory / 1e6:.0f} MB at most", peak <= memory)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--memory", default="1GB")
    options.add_argument("--shape", default="llama-16gb-bf16", help="another shape of make_model.py, to try this out")
    options.add_argument("--keep", action="store_true", help="leave model and pack there")
    asked = options.parse_args()
    memory = parse_bytes(asked.memory)
    probed_machine()
    record = Record("pack_large", fresh=asked.fresh)
    cap = caps_work(record)
    key = f"{asked.shape} {asked.memory}"
    case = record.case(key, lambda: measure(drawn_model(asked.shape, "bf16", hf=True), memory, cap))
    show(record, case, memory)
    if not asked.keep:
        for path in (OUT / "packs" / "large", drawn_model(asked.shape, "bf16", hf=True)):
            if path.exists():
                remove(path)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
