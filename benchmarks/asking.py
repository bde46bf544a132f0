"""Clients of an OpenAI-like server that need the standard library alone: one request, and many in a closed loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATH = "/v1/completions"


@dataclass
class Heard:
    """What came back: status, text, when each piece came (seconds since the request), and counted tokens."""

    status: int
    text: str = ""
    pieces_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    finish: str | None = None
    error: str = ""


async def ask(url: str, body: dict[str, Any], *, leave_after: int | None = None, pause_s: float = 0.0) -> Heard:
    """Stream one completion. `leave_after` pieces the connection is closed; a slow reader pauses after each."""
    where, data = urlsplit(url), json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)
    started = time.perf_counter()
    head = f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    try:
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        heard = Heard(status)
        if status != 200:
            heard.error = (await reader.read()).decode(errors="replace")
            return heard
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("error"):
                heard.error = str(event["error"])
                break
            heard.num_tokens = (event.get("usage") or {}).get("completion_tokens", heard.num_tokens)
            for choice in event.get("choices", []):
                heard.pieces_s += [time.perf_counter() - started] * bool(choice.get("text"))
                heard.text += choice.get("text") or ""
                heard.finish = choice.get("finish_reason") or heard.finish
            if leave_after is not None and len(heard.pieces_s) >= leave_after:
                heard.finish = "left"
                break
            if pause_s:
                await asyncio.sleep(pause_s)
        return heard
    finally:
        writer.close()


async def closed_loop(url: str, bodies: Sequence[dict[str, Any]], num_clients: int) -> tuple[list[Heard], float]:
    """All requests by so many clients, each of which asks again when it has its answer. Answers in order, seconds."""
    waiting, heard = list(enumerate(bodies))[::-1], [Heard(0)] * len(bodies)

    async def client() -> None:
        while waiting:
            index, body = waiting.pop()
            heard[index] = await ask(url, body)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    return heard, time.perf_counter() - started
