"""What the server is doing, as numbers: for Prometheus in its text form, for the page as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.runtime.counts import BUCKETS_S, Histogram
from pintpot.server.serving import Serving

Sample = tuple[str, float]


def gauges(serving: Serving) -> dict[str, Any]:
    """The moment: memory by what holds it, speed beside what was promised, requests, pages, hits."""
    state, counts = serving.service.state(), serving.service.counts
    plan = serving.session.plan
    promised = plan.cost.stage("decode").tokens_per_s
    return {
        "model": serving.name,
        "context": serving.session.engine.context,
        "sequences": serving.session.engine.num_sequences,
        "memory": {
            "budget": serving.memory_bytes,
            "now": resident_bytes(),
            "peak": peak_bytes(),
            "holders": dict(serving.session.held),
        },
        "tokens_per_s": counts.rate.per_second(time.monotonic()),
        "promised_tokens_per_s": [promised.low, promised.high],
        "binds": plan.cost.stage("decode").binds,
        "running": state.num_running,
        "waiting": state.num_waiting,
        "pages": {"used": state.used_pages, "idle": state.idle_pages, "total": state.num_pages},
        "prefix": {"hit_tokens": state.hit_tokens, "asked_tokens": state.asked_tokens},
        "guesses": {"made": state.guessed_tokens, "right": state.right_tokens},
        "requests": {"accepted": counts.num_accepted, "refused": counts.num_refused, **counts.ended},
        "tokens": {"prompt": counts.num_prompt_tokens, "answer": counts.num_tokens},
        "draining": serving.draining,
        "error": state.error,
    }


def prometheus(serving: Serving) -> str:
    """The same for a scraper, with histograms of times."""
    now, counts = gauges(serving), serving.service.counts
    lines: list[str] = []

    def put(name: str, kind: str, said: str, samples: Iterable[Sample]) -> None:
        lines.append(f"# HELP pintpot_{name} {said}\n# TYPE pintpot_{name} {kind}")
        lines.extend(f"pintpot_{name}{labels} {value:.12g}" for labels, value in samples)

    memory, pages = now["memory"], now["pages"]
    put("memory_bytes", "gauge", "Memory of the process: its budget, what it takes now, and its peak.",
        [(f'{{of="{name}"}}', memory[name]) for name in ("budget", "now", "peak")])  # fmt: skip
    put("holder_bytes", "gauge", "Memory by what holds it, when the pack was opened.",
        [(f'{{holder="{name}"}}', size) for name, size in memory["holders"].items()])  # fmt: skip
    put("requests", "gauge", "Requests that run and that wait.",
        [(f'{{state="{name}"}}', now[name]) for name in ("running", "waiting")])  # fmt: skip
    put("pages", "gauge", "Pages of the cache: used, kept for others, and all.",
        [(f'{{state="{name}"}}', number) for name, number in pages.items()])  # fmt: skip
    put("requests_total", "counter", "Requests by what became of them.",
        [(f'{{outcome="{name}"}}', number) for name, number in now["requests"].items()])  # fmt: skip
    put("tokens_total", "counter", "Tokens of prompts read and of answers given.",
        [(f'{{kind="{name}"}}', number) for name, number in now["tokens"].items()])  # fmt: skip
    put("prefix_tokens_total", "counter", "Tokens of prompts, and those of them that others had read.",
        [('{kind="asked"}', now["prefix"]["asked_tokens"]), ('{kind="hit"}', now["prefix"]["hit_tokens"])])  # fmt: skip
    put("guessed_tokens_total", "counter", "Words that were guessed, and those of them that were right.",
        [(f'{{kind="{name}"}}', number) for name, number in now["guesses"].items()])  # fmt: skip
    put("tokens_per_second", "gauge", "Tokens of answers in the last seconds.", [("", now["tokens_per_s"])])
    put("first_token_seconds", "histogram", "From a request to its first token.", _buckets(counts.first_token))
    put("between_tokens_seconds", "histogram", "From a token to the next.", _buckets(counts.between_tokens))
    return "\n".join(lines) + "\n"


def _buckets(found: Histogram) -> list[Sample]:
    total, samples = 0, list[Sample]()
    for bound, number in zip((*BUCKETS_S, float("inf")), found.buckets, strict=True):
        total += number
        samples.append((f'_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}}', total))
    return [*samples, ("_sum", found.total_s), ("_count", found.count)]
