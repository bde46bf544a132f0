"""OpenVINO GenAI, which reads GGUF files itself and makes its own form of them while it opens."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from contenders import Config


def _config(name: str, *, quick: bool = True, source: str = "as is", cache: str = "u8", **properties: Any) -> Config:
    """The 8-bit cache is what it has by default; 16 bits compete with it, whatever the others keep."""
    own = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2, "KV_CACHE_PRECISION": cache}
    return Config("openvino", "OpenVINO", name, source, knobs={"properties": own | properties}, quick=quick)


_START: dict[str, Any] = {"properties": {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}}
CONFIGS = (
    _config("paged attention"),
    _config("one sequence", ATTENTION_BACKEND="SDPA", quick=False),
    _config("paged attention, Q4_0", source="q4_0", quick=False),
    _config("paged attention, 16-bit cache", cache="f16"),
    _config("one sequence, 16-bit cache", cache="f16", ATTENTION_BACKEND="SDPA", quick=False),
    _config("paged attention, groups of 32", DYNAMIC_QUANTIZATION_GROUP_SIZE=32, quick=False),
    _config("paged attention, 1 thread", INFERENCE_NUM_THREADS=1, quick=False),
    Config("openvino", "OpenVINO", "from GGUF", task="start", knobs=_START),
)


class Pipeline:
    """An LLMPipeline on the processor. `cache`, what the others are told to keep, is none of its knobs."""

    def __init__(self, model: str, context: int, cache: str, properties: dict[str, Any]) -> None:
        import numpy as np
        import openvino
        import openvino_genai as genai

        self._np, self._openvino, self._genai = np, openvino, genai
        properties = dict(properties)
        if properties.get("ATTENTION_BACKEND", "PA") == "PA":
            # Without it the same beginning of two prompts would be computed once.
            scheduler = genai.SchedulerConfig()
            scheduler.enable_prefix_caching, scheduler.cache_size = False, 1
            scheduler.max_num_batched_tokens = max(8192, context)
            properties["scheduler_config"] = scheduler
        self._pipeline = genai.LLMPipeline(model, "CPU", **properties)
        self.versions = {name: version(name) for name in ("openvino", "openvino-genai")}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`. Seconds are the library's own; words become text in its own stream."""
        (tokens,) = prompts
        how = self._genai.GenerationConfig()
        how.max_new_tokens, how.do_sample, how.ignore_eos, how.apply_chat_template = number, False, True, False
        ids = self._np.array([tokens], dtype=self._np.int64)
        inputs = self._genai.TokenizedInputs(self._openvino.Tensor(ids), self._openvino.Tensor(self._np.ones_like(ids)))
        pieces: list[str] = []

        def take(piece: str) -> Any:
            pieces.append(piece)
            return self._genai.StreamingStatus.RUNNING

        found = self._pipeline.generate(inputs, how, take).perf_metrics
        stamps = found.raw_metrics.m_new_token_times
        return {
            "number": found.get_num_generated_tokens(), "first_number": 1, "first_s": found.get_ttft().mean / 1e3,
            "rest_s": (stamps[-1] - stamps[0]) / 1e3, "texts": ["".join(pieces)],
        }  # fmt: skip


def open_peer(**knobs: Any) -> Pipeline:
    """Open a model; see `Pipeline`."""
    return Pipeline(**knobs)
