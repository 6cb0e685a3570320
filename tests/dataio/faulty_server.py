"""A real web server on this machine that serves a folder, with faults planted for chosen files."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["FaultyServer", "Request"]

# What a fault does to one answer; a number is an HTTP status, a text with "://" a redirection.
FAULTS = ("reset", "truncate", "stall", "drip", "wrong")


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    name: str  # path under the folder
    range: tuple[int, int] | None  # first byte and end
    query: str
    authorization: str | None


class FaultyServer:
    """Serves `folder` on 127.0.0.1 until the `with` block ends; `requests` lists what was asked."""

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        """Without `ranges` every answer is the whole file, as of Python's own http.server."""
        self.folder, self.ranges = Path(folder), ranges
        self.requests: list[Request] = []
        self.ending = threading.Event()
        self._faults: dict[str, deque[str | int]] = defaultdict(deque)
        self._always: dict[str, str | int] = {}
        self._lock = threading.Lock()

    def plant(self, name: str, *faults: str | int, always: bool = False) -> None:
        """The next answers for `name` have these faults, in order, or all have the one fault."""
        assert all(f in FAULTS or isinstance(f, int) or "://" in f for f in faults), faults
        if always:
            (self._always[name],) = faults
        else:
            self._faults[name].extend(faults)

    def asked(self, name: str) -> int:
        """How often `name` was asked for."""
        return sum(request.name == name for request in self.requests)

    def wait_until_asked(self, *names: str, seconds: float = 20) -> None:
        """Return once all `names` have been asked for; fails after `seconds`."""
        end = time.monotonic() + seconds
        while missing := set(names) - {request.name for request in self.requests}:
            assert time.monotonic() < end, f"never asked for {sorted(missing)}"
            time.sleep(0.01)

    def take(self, request: Request) -> str | int | None:
        """Note a request; the fault of its answer."""
        with self._lock:
            self.requests.append(request)
            queue = self._faults[request.name]
            return queue.popleft() if queue else self._always.get(request.name)

    def __enter__(self) -> FaultyServer:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faulty = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    faulty: FaultyServer
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        faulty, parts = self.server.faulty, urlsplit(self.path)
        name = unquote(parts.path).lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = (int(asked[1]), int(asked[2]) + 1) if asked and faulty.ranges else None
        fault = faulty.take(Request(name, span, parts.query, self.headers.get("Authorization")))
        path = faulty.folder / name
        if fault is None and not path.is_file():
            fault = 404
        if isinstance(fault, int) or (fault and "://" in fault):
            self._refuse(fault)
            return
        content = path.read_bytes()
        if span and span[0] >= len(content):
            self._refuse(416)
            return
        self._answer(content, span, fault)

    def _refuse(self, fault: str | int) -> None:
        self.send_response(fault if isinstance(fault, int) else 302)
        if isinstance(fault, str):
            self.send_header("Location", fault)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, content: bytes, span: tuple[int, int] | None, fault: str | None) -> None:
        body = content[slice(*span)] if span else content
        if fault == "wrong":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        if span:
            end = span[0] + len(body)
            self.send_header("Content-Range", f"bytes {span[0]}-{end - 1}/{len(content)}")
        self.end_headers()
        if fault in ("reset", "truncate", "stall"):
            self._break(body[: len(body) // 2], fault)
        elif fault == "drip":
            for start in range(0, len(body), 97):
                self.wfile.write(body[start : start + 97])
                self.wfile.flush()
        else:
            self.wfile.write(body)

    def _break(self, half: bytes, fault: str) -> None:
        self.wfile.write(half)
        self.wfile.flush()
        self.close_connection = True
        if fault == "stall":
            self.server.faulty.ending.wait(60)
        elif fault == "reset":  # closing a socket that must not linger sends a reset
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
