"""The interface in words that programs read: OpenAPI, from the same fields that bodies are read by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pintpot import __version__
from pintpot.server.endpoints import Endpoint

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


def document(offered: Iterable[Endpoint], model: str) -> dict[str, Any]:
    """The OpenAPI document of a server whose model answers at these endpoints, under this name."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pintpot", "version": __version__},
        "paths": {
            **{one.PATH: {"post": _asking(one, model)} for one in offered},
            "/v1/models": {"get": _telling("The model that is here.")},
            "/v1/models/{name}": {"get": _telling("One model.") | {"parameters": [_NAME]}},
            "/health": {"get": _telling("Whether the service lives.")},
            "/metrics": {"get": _telling("Numbers for Prometheus.", "text/plain")},
            "/metrics.json": {"get": _telling("The same numbers as JSON.")},
            "/plans.json": {"get": _telling("What other memory budgets would bring.")},
        },
    }


_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _asking(endpoint: Endpoint, model: str) -> dict[str, Any]:
    sent = "multipart/form-data" if endpoint.FORM else "application/json"
    answered = {
        "application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}},
        **({"text/plain": {"schema": {"type": "string"}}} if endpoint.FORM else {}),
    }  # fmt: skip
    body = endpoint.BODY.schema
    body["properties"]["model"] = {"type": "string", "enum": [model]}
    return {
        "summary": endpoint.SUMMARY,
        "requestBody": {"required": True, "content": {sent: {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": answered}} | _refusals(),
    }


def _telling(summary: str, kind: str = "application/json") -> dict[str, Any]:
    schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
    told = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    return {"summary": summary, "responses": told | _refusals()}


def _refusals() -> dict[str, Any]:
    told = {"application/json": {"schema": _ERROR}}
    return {status: {"description": "An error.", "content": told} for status in _REFUSED}
