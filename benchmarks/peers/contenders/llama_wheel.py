"""llama.cpp as its prebuilt wheel `xllamacpp` has it (AVX2), through the server's own completion handler."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from typing import Any

from contenders import Config

_BASE: dict[str, Any] = {"threads": 2, "repack": True, "flash": True}


def _wheel(form: str, name: str, source: str, *, quick: bool = True, **knobs: Any) -> Config:
    return Config("llama_wheel", f"llama.cpp, {form}", f"wheel, {name}", source, knobs=_BASE | knobs, quick=quick)


CONFIGS = (
    _wheel("as is", "2 threads", "as is"),
    _wheel("Q4_0", "2 threads", "q4_0"),
    _wheel("Q4_0", "2 threads, not repacked", "q4_0", repack=False, quick=False),
    _wheel("Q4_0", "2 threads, no flash attention", "q4_0", flash=False, quick=False),
    Config("llama_wheel", "llama.cpp", "wheel, as is", task="start", knobs=_BASE | {"repack": False}),
)


class Server:
    """llama.cpp's server, called in this process."""

    def __init__(self, model: str, context: int, cache: str, threads: int, repack: bool, flash: bool) -> None:
        import xllamacpp as lib

        how = lib.CommonParams()
        how.model.path = model
        how.n_ctx, how.n_parallel = context, 1
        how.cpuparams.n_threads = how.cpuparams_batch.n_threads = threads
        how.no_extra_bufts = not repack
        kinds = lib.llama_flash_attn_type
        how.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        how.cache_type_k = how.cache_type_v = {
            "f16": lib.ggml_type.GGML_TYPE_F16,
            "8 bits": lib.ggml_type.GGML_TYPE_Q8_0,
        }[cache]
        # Neither earlier questions nor a smaller context than asked for.
        how.cache_ram_mib, how.fit_params, how.verbosity = 0, False, 0
        self._server = lib.Server(how)
        self.versions = {"xllamacpp": version("xllamacpp"), "features": lib.get_system_info()}

    def answer(self, tokens: list[int], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        request = {
            "prompt": tokens, "n_predict": number, "temperature": 0.0, "samplers": ["temperature"], "ignore_eos": True,
            "cache_prompt": False, "stream": True, "timings_per_token": True,
        }  # fmt: skip
        chunks: list[tuple[float, dict[str, Any]]] = []

        def take(chunk: Any) -> bool:
            now = time.perf_counter()
            chunks.append((now, chunk if isinstance(chunk, dict) else json.loads(chunk)))
            return False

        started = time.perf_counter()
        self._server.handle_completions(request, take)
        words = [(at, chunk) for at, chunk in chunks if chunk.get("choices") and chunk["choices"][0].get("text")]
        last = chunks[-1][1]
        if not words or "usage" not in last:
            raise RuntimeError(f"the server answered {last}")
        text = "".join(chunk["choices"][0]["text"] for _, chunk in words)
        timed = [(at, chunk["timings"]["predicted_n"]) for at, chunk in words if "timings" in chunk]
        (first_at, first_number), (last_at, number_out) = timed[0], timed[-1]
        return {
            "number": number_out, "first_number": first_number, "first_s": first_at - started,
            "rest_s": last_at - first_at, "text": text, "promised": last["usage"]["completion_tokens"],
        }  # fmt: skip


def open_peer(**knobs: Any) -> Server:
    """Open a model; see `Server`."""
    return Server(**knobs)
