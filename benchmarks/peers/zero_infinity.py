"""All weights of a model learn from disk: by DeepSpeed's ZeRO-Infinity on the CPU, and by `pintpot tune`; losses first.

    python benchmarks/peers/zero_infinity.py --sources deepspeed-0.19.8.tar.gz [--steps 6] [--memory 600MB] [--fresh]

A drawn model of 67 million weights, 4 x 128 tokens, AdamW at a constant rate, float32: the same weights, sequences and
order, and no gradient clipped (left to itself DeepSpeed clips them to a norm of 1). DeepSpeed keeps parameters and both
moments on "nvme", a folder beside ours. Its sources come by `pip download --no-deps --no-binary :all:
--no-build-isolation deepspeed==0.19.8`; they are unpacked, and the four operations that it needs are compiled here (see
`zero_infinity_ops.py`), once. Peaks are those of whole processes; what DeepSpeed's has before it opens the model is
told beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent.parent / "tests"))

from bench import OUT, Case, Record, capped, cli, parser, remove
from tiny import Tiny, write_hf
from zero_infinity_ops import made

LENGTH, SEQUENCES, RATE, THREADS = 128, 4, 2e-4, 2
SHAPE = Tiny(
    family="qwen2", hidden=512, heads=8, kv_heads=8, head_dim=64, layers=16, intermediate=2048, tied=True,
)  # fmt: skip
APART = 0.001
"""How far losses may lie apart, of themselves."""
PASSING, BUFFERS = 2_000_000, 24
"""Weights that are read ahead, and matrices that have room in memory, of 7 in each block."""


def model_and_data() -> tuple[Path, Path]:
    """The model, and one long text, so that every sequence is one example and full."""
    folder, data = OUT / "models" / "zero-infinity", OUT / "zero-infinity.jsonl"
    if not folder.exists():
        write_hf(folder, SHAPE)
    data.write_text(json.dumps({"text": " ".join(f"{n} and {n % 7} are {n + n % 7}." for n in range(4000))}) + "\n")
    return folder, data


def settings(away: Path) -> dict[str, object]:
    """ZeRO-Infinity as DeepSpeed documents it: stage 3, parameters and moments on "nvme"."""
    disk = {"device": "nvme", "nvme_path": str(away), "pin_memory": False}
    largest = SHAPE.hidden * SHAPE.intermediate
    return {
        "train_micro_batch_size_per_gpu": SEQUENCES, "gradient_clipping": 0.0,
        "optimizer": {"type": "AdamW", "params": {"lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}},
        "aio": {"block_size": 1 << 20, "queue_depth": 8, "single_submit": False, "overlap_events": True},
        "zero_optimization": {
            "stage": 3, "sub_group_size": 2 * PASSING, "reduce_bucket_size": 2 * PASSING,
            "offload_param": {**disk, "buffer_count": BUFFERS, "buffer_size": largest + 4096, "max_in_cpu": 0},
            "offload_optimizer": {**disk, "buffer_count": 4},
            "stage3_max_live_parameters": 2 * PASSING, "stage3_max_reuse_distance": 2 * PASSING,
            "stage3_prefetch_bucket_size": PASSING, "stage3_param_persistence_threshold": 1000,
        },
    }  # fmt: skip


def loop(steps: int, model: Path, data: Path, away: Path) -> Case:
    """DeepSpeed's steps; for a process of its own."""
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM

    from pintpot.meter.memory import peak_bytes
    from pintpot.model.read import describe
    from pintpot.trainer.packing import Order
    from pintpot.trainer.reading import read_sequences

    torch.set_num_threads(THREADS)
    learns, _ = read_sequences(describe(str(model)), data, LENGTH, seed=0)
    order, before = Order(len(learns), SEQUENCES, seed=0), peak_bytes()
    module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    engine, *_ = deepspeed.initialize(model=module, config=settings(away), model_parameters=module.parameters())
    losses, seconds = [], []
    for step in range(steps):
        batch = learns.take(order.rows(step))
        tokens, targets = (torch.from_numpy(one).long() for one in (batch.tokens, batch.targets))
        started = time.perf_counter()
        logits = engine(input_ids=tokens).logits.flatten(0, 1).float()
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-1)
        engine.backward(loss)
        engine.step()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    resting = sum(path.stat().st_size for path in away.rglob("*") if path.is_file())
    return {"losses": losses, "seconds": seconds, "before_bytes": before, "resting_bytes": resting}


def theirs(steps: int, python_path: list[Path]) -> Case:
    """The loop, this file again, in a process of its own."""
    away, result = OUT / "zero-infinity-away", OUT / "zero-infinity-told.json"
    remove(away)
    away.mkdir(parents=True)
    model, data = model_and_data()
    given = {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": "29571", "OMP_NUM_THREADS": str(THREADS)}
    paths = [*map(str, python_path), os.environ.get("PYTHONPATH", "")]
    os.environ.update(given | {"PYTHONPATH": os.pathsep.join(paths)})
    command = [sys.executable, __file__, "--loop", *map(str, (model, data, away, result)), "--steps", str(steps)]
    try:
        done = capped(command, None).needed("DeepSpeed")
    finally:
        remove(away)
        os.environ["PYTHONPATH"] = paths[-1]
        for name in given:
            del os.environ[name]
    return {**json.loads(result.read_text()), "peak_bytes": done.peak_bytes}


def ours(steps: int, memory: str) -> Case:
    """`pintpot tune`, in the smallest budget where none is named."""
    model, data = model_and_data()
    folder = OUT / "zero-infinity-ours"
    remove(folder)

    def command(budget: str) -> list[str]:
        return cli(
            "tune", str(model), str(data), "-o", str(folder), "--memory", budget, "--method", "full", "--steps",
            str(steps), "--length", str(LENGTH), "--sequences", str(SEQUENCES), "--arithmetic", "float32",
            "--learning-rate", str(RATE), "--schedule", "constant", "--warmup", "0", "--threads", str(THREADS),
            "--json",
        )  # fmt: skip

    if not memory:
        refused = subprocess.run(command("1MB"), stdout=subprocess.PIPE, text=True).stdout
        found = re.search(r"needs ([\d.]+) (\wB) at least", refused)
        memory = "".join(found.groups()) if found else "1GB"
    done = capped(command(memory), None).needed("learning")
    told = json.loads(done.out)
    return {
        "losses": told["losses"], "step_s": told["measured"]["step_s"], "peak_bytes": done.peak_bytes,
        "moved": told["promised"]["step_disk_bytes"], "memory": memory,
    }  # fmt: skip


def judge(record: Record, one: Case, other: Case) -> None:
    """Losses first; seconds and peaks only where they agree."""
    apart = max(abs(a - b) / b for a, b in zip(one["losses"], other["losses"], strict=True))
    record.verdict("losses apart at most", f"{apart:.2e}", f"{APART:g}", apart <= APART)
    if apart > APART:
        return
    theirs_s = median(other["seconds"][1:])
    rows = [
        ("pintpot tune", f"{one['step_s']:.2f}", f"{one['peak_bytes'] / 1e6:.0f}"),
        ("DeepSpeed", f"{theirs_s:.2f}", f"{other['peak_bytes'] / 1e6:.0f}"),
    ]
    record.table(("who", "s a step", "peak, MB"), rows)
    record.say(
        f"ours moves {sum(one['moved']) / 1e6:.0f} MB a step; {other['resting_bytes'] / 1e6:.0f} MB of theirs rest"
    )
    record.say(f"DeepSpeed's process has {other['before_bytes'] / 1e6:.0f} MB before it opens the model")
    record.verdict("a step over DeepSpeed's", f"{one['step_s'] / theirs_s:.2f}", "1", one["step_s"] <= theirs_s)
    lower = one["peak_bytes"] / other["peak_bytes"]
    record.verdict("peak over DeepSpeed's", f"{lower:.2f}", "1", lower <= 1)


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--memory", default="", help="[the smallest that is possible]")
    options.add_argument("--sources", type=Path, help="DeepSpeed's sources, for the first start")
    options.add_argument("--loop", nargs=4, type=Path, help="the steps of DeepSpeed alone, for their own process")
    given = options.parse_args()
    if given.loop:
        *places, result = given.loop
        result.write_text(json.dumps(loop(given.steps, *places)))
        return 0
    record, places = Record("zero_infinity", fresh=given.fresh), made(given.sources)
    one = record.case(f"ours {given.steps} {given.memory}", lambda: ours(given.steps, given.memory))
    other = record.case(f"deepspeed {given.steps}", lambda: theirs(given.steps, places))
    judge(record, one, other)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
