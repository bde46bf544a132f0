"""`/v1/chat/completions`: an answer to a conversation."""

from __future__ import annotations

from typing import Any

from pintpot.server.endpoints import Exchange, Prepare
from pintpot.server.served import Served
from pintpot.server.wire import CHAT, read_chat
from pintpot.server.writing import Writing

PATH = "/v1/chat/completions"
SUMMARY = "An answer to a conversation."
BODY = CHAT
FORM = False


def prepare_for(served: Served) -> Prepare | None:
    if not isinstance(served, Writing):
        return None

    def prepare(body: Any) -> Exchange:
        return served.exchange(read_chat(body))

    return prepare
