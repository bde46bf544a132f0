"""The interface in words that programs read: OpenAPI, from the same fields that bodies are read by."""

from __future__ import annotations

from typing import Any

from pintpot import __version__
from pintpot.server.schema import Record
from pintpot.server.wire import CHAT, COMPLETION

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}  # fmt: skip
_REFUSED = ("400", "401", "403", "404", "405", "408", "413", "429", "503", "504")


def document() -> dict[str, Any]:
    """The OpenAPI document of the server."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pintpot", "version": __version__},
        "paths": {
            "/v1/chat/completions": {"post": _asking("An answer to a conversation.", CHAT)},
            "/v1/completions": {"post": _asking("What the model writes after a text.", COMPLETION)},
            "/v1/models": {"get": _telling("The model that is here.")},
            "/v1/models/{name}": {"get": _telling("One model.") | {"parameters": [_NAME]}},
            "/health": {"get": _telling("Whether the service lives.")},
            "/metrics": {"get": _telling("Numbers for Prometheus.", "text/plain")},
            "/metrics.json": {"get": _telling("The same numbers as JSON.")},
            "/plans.json": {"get": _telling("What other memory budgets would bring.")},
        },
    }


_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _asking(summary: str, body: Record) -> dict[str, Any]:
    content = {"application/json": {"schema": body.schema}}
    answered = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The answer.", "content": answered}} | _refusals(),
    }


def _telling(summary: str, kind: str = "application/json") -> dict[str, Any]:
    schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
    told = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    return {"summary": summary, "responses": told | _refusals()}


def _refusals() -> dict[str, Any]:
    told = {"application/json": {"schema": _ERROR}}
    return {status: {"description": "An error.", "content": told} for status in _REFUSED}
