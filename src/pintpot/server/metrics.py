"""What the server is doing, as numbers: for Prometheus in its text form, for the page as JSON."""

from __future__ import annotations

from typing import Any

from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.server.served import Family, labelled
from pintpot.server.serving import Serving


def gauges(serving: Serving) -> dict[str, Any]:
    """The moment: memory by what holds it, requests, and what the model says of itself."""
    service, counts = serving.service, serving.service.counts
    running, waiting = service.running_and_waiting()
    return {
        "model": serving.name,
        "endpoints": list(serving.prepares),
        "memory": {
            "budget": serving.memory_bytes,
            "now": resident_bytes(),
            "peak": peak_bytes(),
            "holders": dict(serving.session.held),
        },
        "running": running,
        "waiting": waiting,
        "requests": {"accepted": counts.num_accepted, "refused": counts.num_refused, **counts.ended},
        "draining": serving.draining,
        "error": str(service.error or ""),
    } | serving.served.gauges()


def prometheus(serving: Serving) -> str:
    """The same for a scraper, with histograms of times."""
    now = gauges(serving)
    memory = {name: now["memory"][name] for name in ("budget", "now", "peak")}
    requests = {name: now[name] for name in ("running", "waiting")}
    families = (
        Family("memory_bytes", "gauge", "Memory of the process: its budget, what it takes now, and its peak.",
               labelled("of", memory)),
        Family("holder_bytes", "gauge", "Memory by what holds it, when the pack was opened.",
               labelled("holder", now["memory"]["holders"])),
        Family("requests", "gauge", "Requests that run and that wait.", labelled("state", requests)),
        Family("requests_total", "counter", "Requests by what became of them.", labelled("outcome", now["requests"])),
        *serving.served.families(now),
    )  # fmt: skip
    lines: list[str] = []
    for one in families:
        lines.append(f"# HELP pintpot_{one.name} {one.said}\n# TYPE pintpot_{one.name} {one.kind}")
        lines.extend(f"pintpot_{one.name}{labels} {value:.12g}" for labels, value in one.samples)
    return "\n".join(lines) + "\n"
