"""OpenVINO GenAI's continuous batching under a closed loop of clients: runs in the peers' environment.

    python benchmarks/peers/serving_openvino.py MODEL THREADS PREFIXES < ASKED.json

ASKED has `prompts` (lists of tokens), `outputs` (tokens of each answer) and `clients`. Prints one JSON line: `seconds`,
and for each answer `pieces_s`, when its tokens came, and `tokens`. There is no HTTP in between, which favours it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main(model: str, threads: str, prefixes: str) -> None:
    """Answer every line of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching, scheduler.cache_size = prefixes == "1", 2
    scheduler.dynamic_split_fuse = True
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": int(threads), "KV_CACHE_PRECISION": "f16"}
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
    for line in sys.stdin:
        answers.write(json.dumps(_loop(pipeline, genai, json.loads(line))) + "\n")
        answers.flush()
    os._exit(0)


def _loop(pipeline: Any, genai: Any, asked: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import openvino

    waiting = list(range(len(asked["prompts"])))[::-1]
    begun: dict[int, float] = {}
    live: dict[int, Any] = {}
    found: list[dict[str, Any]] = [{"pieces_s": [], "tokens": []} for _ in asked["prompts"]]
    started = time.perf_counter()
    while waiting or live:
        while waiting and len(live) < asked["clients"]:
            index = waiting.pop()
            how = genai.GenerationConfig()
            how.max_new_tokens, how.do_sample, how.ignore_eos = asked["outputs"][index], False, True
            how.apply_chat_template = False
            ids = openvino.Tensor(np.array([asked["prompts"][index]], np.int64))
            begun[index], live[index] = time.perf_counter(), pipeline.add_request(index, ids, how)
        pipeline.step()
        now = time.perf_counter()
        for index, handle in tuple(live.items()):
            while handle.can_read():
                (piece,) = handle.read().values()
                found[index]["tokens"] += piece.generated_ids
                found[index]["pieces_s"] += [now - begun[index]] * len(piece.generated_ids)
            if len(found[index]["tokens"]) >= asked["outputs"][index]:
                del live[index]
    return {"seconds": time.perf_counter() - started, "answers": found}


if __name__ == "__main__":
    main(*sys.argv[1:])
