"""Pintpot's engine under a closed loop of clients, as a server drives it and with no HTTP in between.

    python benchmarks/serving_direct.py MODEL MEMORY CONTEXT BATCH THREADS < ASKED.json

ASKED is what `peers/serving_openvino.py` reads, with `never`, tokens that no answer holds; so is what is printed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pintpot.hosting import open_serving
from pintpot.packer.apart import apart
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.service import Service
from pintpot.server.admit import SERVER_BYTES
from pintpot.units import parse_bytes


def main(model: str, memory: str, context: str, batch: str, threads: str) -> None:
    """Answer every line of standard input."""
    within = parse_bytes(memory) - SERVER_BYTES  # the pack is the server's
    asked = {"memory": within, "context": int(context), "batch": int(batch), "threads": int(threads)}
    folder = Path(apart("pintpot.hosting.ahead", {"model": model, "asked": asked})["folder"])
    with open_serving(folder, threads=int(threads)) as serving:
        for line in sys.stdin:
            print(json.dumps(_loop(serving.served.service, json.loads(line))), flush=True)


def _loop(service: Service, asked: dict[str, Any]) -> dict[str, Any]:
    requests = [
        Request(
            tuple(prompt), length, Sampling(temperature=0.0), bias=tuple((token, -100.0) for token in asked["never"])
        )
        for prompt, length in zip(asked["prompts"], asked["outputs"], strict=True)
    ]
    waiting = list(range(len(requests)))[::-1]
    found: list[dict[str, Any]] = [{"pieces_s": [], "tokens": []} for _ in requests]
    told: SimpleQueue[tuple[int, float, Any]] = SimpleQueue()
    begun: dict[int, float] = {}

    def ask(index: int) -> None:
        begun[index] = time.perf_counter()
        service.submit(requests[index], lambda one: told.put((index, time.perf_counter(), one)))

    started = time.perf_counter()
    for _ in range(min(asked["clients"], len(requests))):
        ask(waiting.pop())
    left = len(requests)
    while left:
        index, now, one = told.get(timeout=600)
        found[index]["tokens"].append(one.token)
        found[index]["pieces_s"].append(now - begun[index])
        if one.ended:
            left -= 1
            if waiting:
                ask(waiting.pop())
    return {"seconds": time.perf_counter() - started, "answers": found}


if __name__ == "__main__":
    main(*sys.argv[1:])
