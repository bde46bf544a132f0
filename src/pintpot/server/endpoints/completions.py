"""`/v1/completions`: what a language model writes after a text."""

from __future__ import annotations

from typing import Any

from pintpot.server.endpoints import Exchange, Prepare
from pintpot.server.served import Served
from pintpot.server.wire import COMPLETION, read_completion
from pintpot.server.writing import Writing

PATH = "/v1/completions"
SUMMARY = "What the model writes after a text."
BODY = COMPLETION
FORM = False


def prepare_for(served: Served) -> Prepare | None:
    if not isinstance(served, Writing):
        return None

    def prepare(body: Any) -> Exchange:
        return served.exchange(read_completion(body))

    return prepare
