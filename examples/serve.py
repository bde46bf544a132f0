"""Serve: a model behind OpenAI's interface, asked once as any of its clients would, and then closed."""

import json
import threading
import urllib.request
from typing import Any

from smollm2 import model

import pintpot


def ready(url: str, serving: Any) -> None:
    """Ask in a thread of its own: this one serves."""
    threading.Thread(target=ask, args=(url, serving)).start()


def ask(url: str, serving: Any) -> None:
    """A conversation of one turn, and the server's own numbers."""
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    body = {"model": serving.name, "messages": messages, "max_tokens": 32, "temperature": 0}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer, urllib.request.urlopen(f"{url}/metrics.json") as numbers:
        print(json.load(answer)["choices"][0]["message"]["content"])
        memory = json.load(numbers)["memory"]
    print(f"\n{memory['peak'] / 1e6:.0f} MB at its peak, {memory['budget'] / 1e6:.0f} MB are allowed")
    serving.stop()


# Without `port` it is 8080, and without `ready` it serves until Ctrl-C: pintpot serve MODEL --memory 500MB
pintpot.serve(model(), memory="500MB", context=256, batch=4, port=0, ready=ready)
