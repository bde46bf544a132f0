"""An hour's worth of random traffic in three minutes: nothing is lost, nobody stops the server, memory stays in budget.

    python benchmarks/traffic.py [--seconds 180] [--clients 24] [--memory 1200MB] [--seed 1] [--threads 2]

SmolLM2 behind `pintpot serve` as users have it. Clients ask short and long things, leave in the middle, read slowly,
send too much, half a request or no JSON, and ask for what cannot be. At the end: the peak of memory is within the
budget, every page of the cache is free or kept for others, every accepted request was answered or cancelled, no answer
was an error of the server's own, and greedy answers are those that the same requests get when nobody else asks.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
import urllib.request
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from asking import PATH, Heard, ask
from bench import Record, parser
from serving import pintpot_server

SOME = "A pint is a measure of what one may drink, and a quart is twice as much. The pot that holds it is a pint pot. "
CONTEXT_TOKENS = 2560
CHECKED = 24


class Traffic:
    """Clients with a will of their own, and what became of their requests."""

    def __init__(self, url: str, model: str, seed: int) -> None:
        self.url, self.model, self.draw = url, model, random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.greedy: list[tuple[dict[str, Any], Heard]] = []

    async def client(self, until: float) -> None:
        """Ask one thing after the other."""
        kinds = (self.plain, self.plain, self.plain, self.leaves, self.slow, self.broken, self.too_long, self.odd)
        while time.perf_counter() < until:
            await self.draw.choice(kinds)()
            await asyncio.sleep(self.draw.random() * 0.1)

    def body(self) -> dict[str, Any]:
        """A request that can be answered."""
        draw = self.draw
        prompt = SOME * draw.choice((0, 0, 1, 3, 10, 40)) + f"Number {draw.randrange(1000)}:"
        greedy = draw.random() < 0.5
        return {
            "model": self.model, "prompt": prompt, "max_tokens": draw.randint(1, 60), "user": f"u{draw.randrange(6)}",
            "temperature": 0 if greedy else 1, "seed": draw.randrange(2**32),
        }  # fmt: skip

    async def plain(self) -> None:
        """Asks, and hears the answer."""
        body = self.body()
        heard = await ask(self.url, body)
        self.count("plain", heard)
        if heard.status == 200 and not heard.error and body["temperature"] == 0:
            self.greedy.append((body, heard))

    async def leaves(self) -> None:
        """Hangs up in the middle."""
        self.count("leaves", await ask(self.url, self.body(), leave_after=self.draw.randint(0, 4)))

    async def slow(self) -> None:
        """Reads slowly."""
        self.count("slow", await ask(self.url, self.body() | {"max_tokens": 20}, pause_s=0.1))

    async def too_long(self) -> None:
        """Sends more than the context holds, or than a body may have."""
        times = self.draw.choice((300, 20_000))
        self.count("too long", await ask(self.url, self.body() | {"prompt": SOME * times}))

    async def odd(self) -> None:
        """Asks for what cannot be."""
        wrong: dict[str, Any] = self.draw.choice(
            ({"temperature": -1}, {"n": 0}, {"prompt": []}, {"model": "other"}, {"logit_bias": {"x": 1}})
        )
        self.count("odd", await ask(self.url, self.body() | wrong))

    async def broken(self) -> None:
        """Sends no JSON, half a request, or nothing at all, and leaves."""
        where = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 20\r\n\r\n"
        sent = self.draw.choice((b"", b"GET", b"\x00\xff\r\n\r\n", head.encode(), head.encode() + b"{" * 20))
        writer.write(sent)
        if self.draw.random() < 0.5:
            try:
                await asyncio.wait_for(reader.read(100), 0.5)
            except TimeoutError:
                self.seen["broken, no answer"] += 1
        writer.close()
        self.seen["broken"] += 1

    def count(self, kind: str, heard: Heard) -> None:
        """Note how it ended."""
        self.seen[f"{kind}, {heard.status}{' with an error' if heard.error and heard.status == 200 else ''}"] += 1


def state(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{url}/metrics.json") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


async def storm(traffic: Traffic, num_clients: int, seconds: float) -> None:
    """All clients at once."""
    until = time.perf_counter() + seconds
    done = await asyncio.gather(*(traffic.client(until) for _ in range(num_clients)), return_exceptions=True)
    traffic.seen.update(f"client stopped: {one!r}" for one in done if one is not None)


async def differing(url: str, traffic: Traffic) -> int:
    """Greedy answers that are others when nobody else asks."""
    some = traffic.draw.sample(traffic.greedy, min(CHECKED, len(traffic.greedy)))
    return [(await ask(url, body)).text == heard.text for body, heard in some].count(False)


def judge(record: Record, traffic: Traffic, before: dict[str, Any], alone: int) -> None:
    """The verdicts."""
    memory, requests, pages = before["memory"], before["requests"], before["pages"]
    ended = sum(number for name, number in requests.items() if name not in ("accepted", "refused"))
    own = {name: number for name, number in traffic.seen.items() if ", 5" in name or "stopped" in name or name == "0"}
    record.verdict("memory at its peak", f"{memory['peak']}", f"{memory['budget']} at most",
                   memory["peak"] <= memory["budget"])  # fmt: skip
    record.verdict("pages in use when all is over", str(pages["used"]), "0", pages["used"] == 0)
    record.verdict("accepted requests that ended", str(ended), str(requests["accepted"]), ended == requests["accepted"])
    record.verdict("errors of the server's own", str(sum(own.values())), "0", not own)
    record.verdict(f"greedy answers, of {CHECKED}, that differ from those alone", str(alone), "0", alone == 0)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=180.0)
    options.add_argument("--clients", type=int, default=24)
    options.add_argument("--memory", default="1200MB")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    record = Record("traffic", fresh=True)
    with pintpot_server(asked, 8) as (url, model):
        traffic = Traffic(url, model, asked.seed)
        asyncio.run(storm(traffic, asked.clients, asked.seconds))
        until = time.perf_counter() + 60
        while (now := state(url))["running"] + now["waiting"] and time.perf_counter() < until:
            time.sleep(0.2)
        alone = asyncio.run(differing(url, traffic))
    record.table(("what happened", "times"), [(name, str(number)) for name, number in sorted(traffic.seen.items())])
    record.say(f"\nprefix hits {now['prefix']}, guesses {now['guesses']}, requests {now['requests']}\n")
    judge(record, traffic, now, alone)
    return record.finish()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main())
