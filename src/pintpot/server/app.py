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
from pintpot.server.admit import Door, TooLarge, TooSlow, unless_left
from pintpot.server.answering import TimeUp
from pintpot.server.endpoints import Endpoint, Exchange, Whole, endpoints
from pintpot.server.form import Form
from pintpot.server.metrics import gauges, prometheus
from pintpot.server.openapi import document
from pintpot.server.serving import NoSuchModel, NotServed, Serving
from pintpot.server.wire import error_body, error_of, parse

STATUS: Mapping[type[PintpotError], tuple[int, str, str]] = {
    TooLarge: (413, "invalid_request_error", "too_large"),
    TooSlow: (408, "invalid_request_error", "too_slow"),
    NoSuchModel: (404, "invalid_request_error", "model_not_found"),
    NotServed: (404, "invalid_request_error", "not_served"),
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

    def answered_at(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            return await _answer(serving, request, endpoint)

        return answered

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(serving)]})

    async def model(request: Request) -> Response:
        serving.check_name(request.path_params["name"])
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
        return JSONResponse(document((one for one in endpoints() if one.PATH in serving.prepares), serving.name))

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/metrics.json", state),
        Route("/plans.json", plans),
        Route("/openapi.json", openapi),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        *(Route(one.PATH, answered_at(one), methods=["POST"]) for one in endpoints()),
    ]
    handlers: dict[Any, Any] = {PintpotError: _told_error, HTTPException: _told_status}
    return Door(Starlette(routes=routes, exception_handlers=handlers), key, loopback)


async def _answer(serving: Serving, request: Request, endpoint: Endpoint) -> Response:
    need(not serving.draining, "the server is closing", Busy)
    try:
        sent = await _sent(serving, request, endpoint)
    except ConnectionError:
        return Response(status_code=400)
    try:
        async with serving.preparing:
            exchange = await asyncio.to_thread(_prepared, serving, endpoint, sent)
    except PintpotError:
        if isinstance(sent, Form):
            sent.close()
        raise
    client = exchange.user or (request.client.host if request.client else "")
    try:
        exchange.start(client, serving.limits.answer_s)
    except PintpotError:
        exchange.stop()
        raise
    if exchange.streams:
        return Paced(_events(exchange), "text/event-stream", exchange.stop, serving.limits.write_s)
    found: list[Whole] = []

    async def listen() -> None:
        found.append(await exchange.whole())

    try:
        if not await unless_left(listen(), request.receive):
            return Response(status_code=400)
    finally:
        exchange.stop()
    return Paced(_pieces(found[0]), found[0].media_type, lambda: None, serving.limits.write_s, found[0].length)


async def _sent(serving: Serving, request: Request, endpoint: Endpoint) -> bytes | Form:
    """The body. What nobody answers here is read as the others are, so that whoever sends it hears why."""
    if endpoint.FORM and endpoint.PATH in serving.prepares:
        return await serving.bodies.read_form(request.receive, request.headers.get("content-type", ""))
    return await serving.bodies.read(request.receive)


def _prepared(serving: Serving, endpoint: Endpoint, sent: bytes | Form) -> Exchange:
    prepare = serving.prepare_at(endpoint.PATH)
    if isinstance(sent, Form):
        serving.check_name(sent.fields.get("model"))
        return prepare(sent)
    body = parse(sent)
    serving.check_name(body.get("model") if isinstance(body, dict) else None)
    return prepare(body)


async def _events(exchange: Exchange) -> AsyncIterator[str]:
    """The events of a stream. What goes wrong in the middle is the last of them."""
    try:
        async for one in exchange.events():
            yield f"data: {json.dumps(one, separators=(',', ':'))}\n\n"
    except PintpotError as error:
        yield f"data: {json.dumps(_told(error)[1])}\n\n"
        return
    yield "data: [DONE]\n\n"


async def _pieces(whole: Whole) -> AsyncIterator[str]:
    for piece in whole.pieces:
        yield piece


class Paced(Response):
    """An answer in pieces, for as long as the client is there and reads; `stop` is called at the end."""

    def __init__(
        self,
        pieces: AsyncIterator[str],
        media_type: str,
        stop: Callable[[], None],
        write_s: float,
        length: int | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        if length is not None:
            self.headers["content-length"] = str(length)
        self._pieces, self._stop, self._write_s = pieces, stop, write_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(text: str, more: bool) -> None:
            async with asyncio.timeout(self._write_s):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def tell() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self._pieces:
                await write(piece, True)
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
        "endpoints": list(serving.prepares), **serving.served.card(),
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
