"""OpenVINO GenAI's continuous batching: requests are added to a pipeline, which takes steps with all of them."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from contenders import Config, timed

_LATENCY: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}


def _config(name: str, *, source: str = "as is", quick: bool = True, **properties: Any) -> Config:
    knobs = {"properties": _LATENCY | properties}
    return Config("openvino_serving", "OpenVINO", name, source, "batches", knobs, quick=quick)


CONFIGS = (
    _config("continuous batching", KV_CACHE_PRECISION="u8", quick=False),
    _config("continuous batching, 16-bit cache", KV_CACHE_PRECISION="f16"),
    _config("continuous batching, Q4_0", source="q4_0", KV_CACHE_PRECISION="u8", quick=False),
    _config("continuous batching, for throughput", KV_CACHE_PRECISION="u8", PERFORMANCE_HINT="THROUGHPUT", quick=False),
)
_LARGEST_STEP = 8192  # tokens: all prompts at once


class Serving:
    """A pipeline of many sequences. `cache`, what the others are told to keep, is none of its knobs."""

    def __init__(self, model: str, context: int, cache: str, sequences: int, properties: dict[str, Any]) -> None:
        import numpy as np
        import openvino
        import openvino_genai as genai

        self._np, self._tensor = np, openvino.Tensor
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.cache_size = False, 1
        scheduler.max_num_batched_tokens = max(_LARGEST_STEP, context * sequences)
        self._pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self._how = genai.GenerationConfig()
        self._how.do_sample, self._how.ignore_eos, self._how.apply_chat_template = False, True, False
        self._tokenizer = self._pipeline.get_tokenizer()
        self.versions = {name: version(name) for name in ("openvino", "openvino-genai")}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`. An answer becomes text when all of it is there, which costs least."""
        self._how.max_new_tokens = number
        tokens: list[list[int]] = [[] for _ in prompts]
        words: list[tuple[float, int]] = []
        started = time.perf_counter()
        handles = [
            self._pipeline.add_request(index, self._tensor(self._np.array([ids], self._np.int64)), self._how)
            for index, ids in enumerate(prompts)
        ]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for index, handle in enumerate(handles):
                while handle.can_read():
                    (piece,) = handle.read().values()
                    tokens[index] += piece.generated_ids
                    words += [(time.perf_counter(), index)] * len(piece.generated_ids)
        texts = self._tokenizer.decode(tokens)
        return timed(started, words, time.perf_counter()) | {"texts": texts}


def open_peer(**knobs: Any) -> Serving:
    """Open a model; see `Serving`."""
    return Serving(**knobs)
