"""The application: its addresses, and what becomes of a request on its way through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pintpot.errors import Busy, PintpotError, need
from pintpot.runtime.answers import Answer
from pintpot.server.admit import Door, TooLarge, TooSlow, unless_left
from pintpot.server.answering import Answering, Said, TimeUp
from pintpot.server.metrics import gauges, prometheus
from pintpot.server.openapi import document
from pintpot.server.serving import NoSuchModel, Serving
from pintpot.server.told import Teller
from pintpot.server.wire import Asked, error_body, error_of, parse, read_chat, read_completion

STATUS: Mapping[type[PintpotError], tuple[int, str, str]] = {
    TooLarge: (413, "invalid_request_error", "too_large"),
    TooSlow: (408, "invalid_request_error", "too_slow"),
    NoSuchModel: (404, "invalid_request_error", "model_not_found"),
    TimeUp: (504, "server_error", "timeout"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(serving: Serving, key: str = "", loopback: bool = True) -> ASGIApp:
    """The application over an open pack. Clients must know `key`; `loopback` refuses other names of the host."""

    def answered_by(read: Callable[[Any], Asked]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await _answer(serving, request, read)

        return endpoint

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(serving)]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        need(name == serving.name, f"there is no model {name!r} here; this server has {serving.name!r}", NoSuchModel)
        return JSONResponse(_model(serving))

    async def health(request: Request) -> Response:
        if serving.service.error is not None:
            return JSONResponse({"status": "failed", "why": str(serving.service.error)}, 503)
        return JSONResponse({"status": "draining" if serving.draining else "ok"}, 503 if serving.draining else 200)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(prometheus(serving), media_type="text/plain; version=0.0.4")

    async def state(request: Request) -> Response:
        return JSONResponse(gauges(serving))

    async def plans(request: Request) -> Response:
        return JSONResponse(await serving.plans())

    async def page(request: Request) -> Response:
        text = files("pintpot.server").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers=HEADERS)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/metrics.json", state),
        Route("/plans.json", plans),
        Route("/openapi.json", openapi),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", answered_by(read_chat), methods=["POST"]),
        Route("/v1/completions", answered_by(read_completion), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {PintpotError: _told_error, HTTPException: _told_status}
    return Door(Starlette(routes=routes, exception_handlers=handlers), key, loopback)


async def _answer(serving: Serving, request: Request, read: Callable[[Any], Asked]) -> Response:
    need(not serving.draining, "the server is closing", Busy)
    try:
        body = await serving.bodies.read(request.receive)
    except ConnectionError:
        return Response(status_code=400)
    async with serving.preparing:
        asked, requests = await asyncio.to_thread(_prepared, serving, body, read)
    answering = Answering(serving.service, serving.session.tokenizer, requests)
    client = asked.user or (request.client.host if request.client else "")
    answering.start(client, serving.limits.answer_s)
    teller = Teller(asked, serving.session.tokenizer)
    if asked.stream:
        return Events(_events(answering, teller, asked), answering.stop, serving.limits.write_s)
    said: list[Said] = []

    async def listen() -> None:
        async for one in answering.said():
            said.append(one)

    try:
        if not await unless_left(listen(), request.receive):
            return Response(status_code=400)
    finally:
        answering.stop()
    return JSONResponse(teller.whole(said))


def _prepared(serving: Serving, body: bytes, read: Callable[[Any], Asked]) -> tuple[Asked, Any]:
    asked = read(parse(body))
    return asked, serving.requests(asked)


async def _events(answering: Answering, teller: Teller, asked: Asked) -> AsyncIterator[str]:
    """The events of a stream. What goes wrong in the middle is the last of them."""
    answers: list[Answer] = []
    try:
        async for one in answering.said():
            answers += [] if one.answer is None else [one.answer]
            yield json.dumps(teller.piece(one), separators=(",", ":"))
    except PintpotError as error:
        yield json.dumps(_told(error)[1])
        return
    if asked.stream_usage:
        yield json.dumps(teller.last(answers), separators=(",", ":"))
    yield "[DONE]"


class Events(Response):
    """Server-sent events, for as long as the client is there and reads; `stop` is called at the end."""

    def __init__(self, events: AsyncIterator[str], stop: Callable[[], None], write_s: float) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._events, self._stop, self._write_s = events, stop, write_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(text: str, more: bool) -> None:
            async with asyncio.timeout(self._write_s):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def tell() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await write(f"data: {event}\n\n", True)
            await write("", False)

        try:
            await unless_left(tell(), receive)
        except TimeoutError:
            return  # whoever does not read is not waited for
        finally:
            self._stop()


def _model(serving: Serving) -> dict[str, Any]:
    return {
        "id": serving.name, "object": "model", "created": serving.created, "owned_by": "pintpot",
        "context_length": serving.session.engine.context,
    }  # fmt: skip


def _told(error: PintpotError) -> tuple[int, dict[str, Any]]:
    known = STATUS.get(type(error))
    return error_of(error) if known is None else (known[0], error_body(str(error), known[1], code=known[2]))


async def _told_error(request: Request, error: Exception) -> Response:
    status, body = _told(error) if isinstance(error, PintpotError) else (500, {})
    return JSONResponse(body, status, {"Retry-After": "1"} if status == 429 else None)


async def _told_status(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not what is asked here"}
    return JSONResponse(error_body(said.get(status, "it went wrong"), "invalid_request_error"), status, headers)
