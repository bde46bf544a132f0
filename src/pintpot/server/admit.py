"""The door: who may come in, how much at a time, and for how long."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from weakref import WeakSet

from starlette.responses import JSONResponse

from pintpot.errors import Busy, need
from pintpot.meter.home import home
from pintpot.server.form import Form
from pintpot.server.schema import Invalid
from pintpot.server.wire import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = ("/", "/health")
"""What is told to everybody: the page, which holds nothing, and whether the service lives."""
SERVER_BYTES = 96_000_000
"""What a server takes beside the run of its model: libraries, the words of a grammar, and what clients send."""
DISCARDED_BYTES = 16 << 20
"""Of a body that is too large so much is read and dropped: who still sends would not hear why it is refused."""
BODIES_BYTES = 8 << 20
"""Bodies that are held at a time, of all connections, or so many of the largest there may be: `BODIES_AT_ONCE`."""
BODIES_AT_ONCE = 2
FORMS_AT_ONCE = 8
"""Of files that are on disk until they were heard: so many of the largest there may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. `answer_s` counts from the request to its last word, waiting included."""

    body_bytes: int
    body_s: float = 20.0
    form_bytes: int = 128 << 20
    form_s: float = 120.0
    head_s: float = 20.0
    answer_s: float = 600.0
    write_s: float = 30.0
    waiting: int = 256
    connections: int = 512
    drain_s: float = 30.0


class TooLarge(Invalid):
    """A body that is larger than bodies may be."""


class TooSlow(Invalid):
    """A body that took too long to come."""


class Bodies:
    """Reads bodies, so many bytes of them at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = max(BODIES_BYTES, BODIES_AT_ONCE * limits.body_bytes)
        self._held = 0
        self._forms: WeakSet[Form] = WeakSet()

    async def read(self, receive: Receive) -> bytes:
        """A whole body. Raises TooLarge, TooSlow, Busy, and ConnectionError when whoever sent it has left."""
        parts: list[bytes] = []

        def keep(part: bytes) -> None:
            parts.append(part)
            self._held += len(part)
            need(self._held <= self._most, "too much is being sent at once; try again later", Busy)

        try:
            await _receive(receive, keep, "body", self._limits.body_bytes, self._limits.body_s)
            return b"".join(parts)
        finally:
            self._held -= sum(len(part) for part in parts)

    async def read_form(self, receive: Receive, content_type: str) -> Form:
        """A form with its file, which lies on disk until the form is closed. Raises likewise, and DiskTooSmall."""
        form, most = Form(content_type, home() / "uploads"), self._limits.form_bytes
        self._forms.add(form)

        def keep(part: bytes) -> None:
            form.feed(part)
            on_disk = sum(one.num_bytes for one in self._forms if not one.closed)
            need(on_disk <= FORMS_AT_ONCE * most, "too much is being sent at once; try again later", Busy)

        try:
            await _receive(receive, keep, "form", most, self._limits.form_s)
            form.finish()
            return form
        except BaseException:
            form.close()
            raise


async def _receive(receive: Receive, keep: Callable[[bytes], None], what: str, most: int, seconds: float) -> None:
    """Part after part goes to `keep`, `most` bytes in all. Raises as `Bodies.read` does, and what `keep` raises."""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError("the client has left")
                part = message.get("body", b"")
                size += len(part)
                if size <= most:
                    keep(part)
                if size > most + DISCARDED_BYTES or not message.get("more_body", False):
                    need(size <= most, f"the {what} has more than {most} bytes, which is all that is read", TooLarge)
                    return
    except TimeoutError as error:
        raise TooSlow(f"the {what} took longer than {seconds:g} s to come") from error


class Door:
    """Lets in who knows the key; of browsers only pages of this server itself, so that no other site asks for them."""

    def __init__(self, app: ASGIApp, key: str, loopback: bool) -> None:
        self._app, self._key, self._loopback = app, key, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refusal = self._refusal(scope["path"], headers)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: dict[str, str]) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and not _is_loopback(host):
            said = f"this server listens on this machine alone, and was asked for as {host!r}"
            return JSONResponse(error_body(said, "invalid_request_error", code="host"), 403)
        if origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse(error_body("pages of other sites may not ask", "invalid_request_error"), 403)
        if self._key and path not in OPEN_PATHS:
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
                body = error_body("the API key is missing or wrong", "invalid_request_error", code="invalid_api_key")
                return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        return None


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", "::1") or name.startswith("127.")


async def unless_left(work: Awaitable[None], receive: Callable[[], Awaitable[object]]) -> bool:
    """Do the work as long as the client is there. Returns whether it was done; what it raises is raised."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
            return True
        return False
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[object]]) -> None:
    while True:
        message = await receive()
        if isinstance(message, dict) and message.get("type") == "http.disconnect":
            return
