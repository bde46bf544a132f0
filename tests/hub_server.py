"""A small hub on 127.0.0.1: ranges, redirects of large files, a token, and a count of what was sent."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_for_tests"


@dataclass
class Hub:
    """`models`: folders by id; `private` ids want TOKEN. `broken`: bytes of a large file after which it hangs up;
    `stalled`: after which it sends no more until `going_on` is set.
    """

    models: dict[str, Path]
    private: frozenset[str] = frozenset()
    ranges: bool = True
    broken: int | None = None
    stalled: int | None = None
    going_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    bytes_sent: int = 0
    requests: list[str] = field(default_factory=list)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", self.path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            large = re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", self.path)
            found = api or file or large
            model = found[1] if found else ""
            if model not in hub.models:
                return self._refuse(404, "RepoNotFound")
            if model in hub.private and not large and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._refuse(401, "RepoNotFound")
            folder = hub.models[model]
            if api:
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
                return self._send(
                    200, json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode(), body, {}
                )
            if found is None or not (folder / found[found.lastindex or 0]).is_file():
                return self._refuse(404, "EntryNotFound")
            data = (folder / found[found.lastindex or 0]).read_bytes()
            marks = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            if file and file[3].endswith((".safetensors", ".gguf")):
                marks |= {"Location": f"{hub.url}/cdn/{model}/{file[3]}", "X-Linked-Size": str(len(data))}
                return self._send(302, b"", body, {**marks, "X-Linked-ETag": marks["ETag"]})
            return self._send_range(data, body, marks, cut=(hub.stalled or hub.broken) if large else None)

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"", True, {"X-Error-Code": code})

        def _send_range(self, data: bytes, body: bool, marks: dict[str, str], cut: int | None) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None or not hub.ranges:
                return self._send(200, data, body, marks, cut)
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            if first > last:
                return self._send(416, b"", body, {**marks, "Content-Range": f"bytes */{len(data)}"})
            marks["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, data[first : last + 1], body, marks, cut)

        def _send(self, status: int, data: bytes, body: bool, marks: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in {**marks, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data[:cut])
                hub.bytes_sent += len(data[:cut])
            if cut is not None and cut < len(data):
                if body and hub.stalled is not None:
                    self.wfile.flush()
                    hub.going_on.wait(timeout=60)
                self.close_connection = True

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub under `hub.url` while the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
