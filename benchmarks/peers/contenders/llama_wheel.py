"""llama.cpp as its prebuilt wheel `xllamacpp` has it (AVX2), through the server's own completion handler."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from typing import Any

from contenders import Config, timed

_BASE: dict[str, Any] = {"threads": 2, "repack": True, "flash": True}


def _wheel(form: str, name: str, source: str, *, task: str = "answering", **knobs: Any) -> Config:
    """Not in the short run: what was compiled on this machine was always the faster of the two."""
    return Config("llama_wheel", f"llama.cpp, {form}", f"wheel, {name}", source, task, _BASE | knobs, quick=False)


CONFIGS = (
    _wheel("as is", "2 threads", "as is"),
    _wheel("Q4_0", "2 threads", "q4_0"),
    _wheel("Q4_0", "2 threads, not repacked", "q4_0", repack=False),
    _wheel("Q4_0", "2 threads, no flash attention", "q4_0", flash=False),
    Config("llama_wheel", "llama.cpp", "wheel, as is", task="start", knobs=_BASE | {"repack": False}),
    _wheel("as is", "slots", "as is", task="batches"),
    _wheel("Q4_0", "slots", "q4_0", task="batches"),
)


class Server:
    """llama.cpp's server, called in this process."""

    def __init__(
        self,
        model: str,
        context: int,
        cache: str,
        threads: int,
        repack: bool,
        flash: bool,
        sequences: int = 1,
        verbosity: int = 0,
    ) -> None:
        import xllamacpp as lib

        how = lib.CommonParams()
        how.model.path = model
        how.n_ctx, how.n_parallel = context * sequences, sequences
        how.cpuparams.n_threads = how.cpuparams_batch.n_threads = threads
        how.no_extra_bufts = not repack
        kinds = lib.llama_flash_attn_type
        how.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        how.cache_type_k = how.cache_type_v = {
            "f32": lib.ggml_type.GGML_TYPE_F32,
            "f16": lib.ggml_type.GGML_TYPE_F16,
            "8 bits": lib.ggml_type.GGML_TYPE_Q8_0,
        }[cache]
        # Neither earlier questions nor a smaller context than asked for.
        how.cache_ram_mib, how.fit_params, how.verbosity = 0, False, verbosity
        self._server = lib.Server(how)
        self.versions = {"xllamacpp": version("xllamacpp"), "features": lib.get_system_info()}

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`. Each prompt has a slot of its own, and they are decoded together."""
        request = {
            "prompt": prompts, "n_predict": number, "temperature": 0.0, "samplers": ["temperature"], "ignore_eos": True,
            "cache_prompt": False, "stream": True, "timings_per_token": True,
        }  # fmt: skip
        chunks: list[tuple[float, dict[str, Any] | None]] = []

        def take(chunk: Any) -> bool:
            chunks.append((time.perf_counter(), json.loads(chunk) if isinstance(chunk, str) else chunk))
            return False

        started = time.perf_counter()
        self._server.handle_completions(request, take)
        ended = time.perf_counter()
        texts, counts = [""] * len(prompts), [0] * len(prompts)
        words: list[tuple[float, int]] = []
        for at, chunk in chunks:
            if chunk is None:
                continue
            if not chunk.get("choices"):
                raise RuntimeError(f"the server answered {chunk}")
            choice, before = chunk["choices"][0], counts[chunk["choices"][0]["index"]]
            index, known = choice["index"], chunk.get("timings", {}).get("predicted_n", before)
            words += [(at, index)] * (known - before)
            counts[index] = known
            texts[index] += choice["text"]
        return timed(started, words, ended) | {"texts": texts}


def open_peer(**knobs: Any) -> Server:
    """Open a model; see `Server`."""
    return Server(**knobs)
