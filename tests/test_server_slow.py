"""Connections that are slow, half open or half closed: each ends by itself, and others are answered meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from packing import EXACT, pack_of
from test_server import CONTEXT, TINY, Server, served
from tiny import write_hf

from pintpot.server import run

SOON_S = 0.5
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("slow")
    pack = pack_of(write_hf(place / "model", TINY), place / "tiny", EXACT, context=CONTEXT, batch=4)
    with pytest.MonkeyPatch.context() as patch, served(pack) as one:
        patch.setattr(run, "IDLE_S", SOON_S)
        for name in ("head_s", "body_s", "write_s"):
            object.__setattr__(one.serving.limits, name, SOON_S)
        yield one
        assert one.serving.service.wait_idle(10)
        assert one.serving.service.audit() == []


@pytest.fixture(autouse=True)
def goes_on(server: Server) -> Iterator[None]:
    """Whatever was done to it, the server answers, and keeps no connection."""
    yield
    assert server.client().completions.create(model="tiny", prompt="A", max_tokens=3).choices
    assert server.ask("GET", "/health")[0] == 200


def connected(server: Server, received: int = 0) -> socket.socket:
    """A connection, with room for so many bytes that nobody has read."""
    made = socket.socket()
    if received:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    made.settimeout(30)
    made.connect(("127.0.0.1", server.port))
    return made


def asking(**how: Any) -> bytes:
    body = json.dumps({"model": "tiny", "prompt": "A", "max_tokens": 4, **how}).encode()
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def ended(connection: socket.socket) -> bytes:
    """All that still comes until the server has ended the connection."""
    found = b""
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def dripping(connection: socket.socket, data: bytes) -> bool:
    """Send byte for byte; whether the server ended it before all was sent."""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_heads_that_come_byte_by_byte(server: Server) -> None:
    with connected(server) as connection:
        assert dripping(connection, HEAD + b"X-Slow: " + b"x" * 400)


def test_a_second_head_that_never_ends(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(asking() + HEAD)
        assert ended(connection).count(b"HTTP/1.1 200 OK") == 1


def test_bodies_that_come_byte_by_byte(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        dripping(connection, b"{" + b" " * 60)
        assert b" 408 " in ended(connection)


def test_a_connection_that_is_kept_and_not_used(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(asking())
        assert ended(connection).startswith(b"HTTP/1.1 200 OK")


def test_readers_that_stop(server: Server) -> None:
    """The answers are larger than what the sockets between hold, so that the server has to wait."""
    large = [{"role": "user", "content": "x"}] * 40
    stopped = []
    for how in ({"stream": True}, {"messages": large}):
        for path in (b"/v1/completions", b"/metrics", b"/"):
            connection = connected(server, received=2048)
            connection.sendall(asking(max_tokens=200, **how) if path.endswith(b"completions") else b"")
            for _ in range(60):
                connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stopped.append(connection)
    until = time.monotonic() + 30
    while len(server.serving.connections()) > 0:
        assert time.monotonic() < until, "connections that nobody reads from are still there"
        time.sleep(0.1)
    for connection in stopped:
        connection.close()


def test_half_closed_connections(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(asking(max_tokens=200))
        connection.shutdown(socket.SHUT_WR)
        ended(connection)
    with connected(server) as connection:
        connection.sendall(HEAD[:20])
        connection.shutdown(socket.SHUT_WR)
        assert ended(connection) == b""
    assert server.serving.service.wait_idle(20)


def test_connections_that_are_reset(server: Server) -> None:
    for sent in (b"", HEAD, asking(max_tokens=200), asking(max_tokens=200, stream=True)):
        connection = connected(server)
        connection.sendall(sent)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    assert server.serving.service.wait_idle(20)


def test_what_is_no_http(server: Server) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"A" * 100_000, b"\0" * 10):
        with connected(server) as connection:
            connection.sendall(sent)
            assert ended(connection)[:12] in (b"", b"HTTP/1.1 400")
