"""The loop around the application: a socket, connections that come and go, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn

from pintpot.errors import UsageError
from pintpot.server.app import make_app
from pintpot.server.serving import Serving

Ready = Callable[[str], None]
TICK_S = 0.5
IDLE_S = 30
"""Between two requests of one connection."""
_log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes any that is free. Raises UsageError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error}") from error


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    host = str(listening.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def serve_until_stopped(serving: Serving, listening: socket.socket, key: str, ready: Ready | None) -> None:
    """Serve until SIGTERM or Ctrl-C: then nothing new is taken, and what runs may end in `drain_s`; twice ends at once.

    `ready` is told the address as soon as connections are taken.
    """
    app = make_app(serving, key, is_loopback(listening))
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=serving.limits.connections,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=int(serving.limits.drain_s),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    asyncio.run(_main(_Server(config), serving, listening, ready))


class _Server(uvicorn.Server):
    """Signals are left to `_main`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _main(server: _Server, serving: Serving, listening: socket.socket, ready: Ready | None) -> None:
    def stop() -> None:
        server.force_exit = serving.draining
        serving.draining = server.should_exit = True

    loop = asyncio.get_running_loop()

    def stop_soon() -> None:
        loop.call_soon_threadsafe(stop)

    serving.stop = stop_soon
    serving.connections = lambda: tuple(server.server_state.connections)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # only the main thread has signals
            loop.add_signal_handler(number, stop)
    sweeping = loop.create_task(_sweep(server, serving))
    if ready is not None:
        loop.create_task(_tell_when_ready(server, listening, ready))  # noqa: RUF006
    try:
        await server.serve([listening])
    finally:
        sweeping.cancel()
        await asyncio.to_thread(serving.service.close)


async def _tell_when_ready(server: _Server, listening: socket.socket, ready: Ready) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = listening.getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")


async def _sweep(server: _Server, serving: Serving) -> None:
    """Close connections on which nothing moves for too long: nothing else would ever end them.

    Of a request no whole head came, be it the first of a connection or a later one; or of an answer that was given
    nobody takes what is left.
    """
    limits, since = serving.limits, dict[object, tuple[object, float]]()
    while True:
        await asyncio.sleep(TICK_S)
        now, there = time.monotonic(), set(server.server_state.connections)
        since = {one: since[one] for one in there if one in since}
        for one in there:
            transport, doing = getattr(one, "transport", None), getattr(one, "cycle", None)
            if transport is None:
                continue
            left = transport.get_write_buffer_size()
            silent = doing is None or getattr(doing, "response_complete", False) or transport.is_closing()
            state = (doing, left) if silent else None
            if one not in since or since[one][0] != state:
                since[one] = state, now
            most = limits.write_s if left else limits.head_s if doing is None else IDLE_S
            if silent and now - since[one][1] > most:
                transport.abort()
