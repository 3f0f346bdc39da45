"""A CDN over loopback that cuts, lies, drips, redirects and forbids as it is told, and remembers who asked."""

from __future__ import annotations

import itertools
import re
import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Answer:
    """How a path is answered. `sends` is how much of the body goes out before the connection is dropped."""

    body: bytes = b""
    status: int = 200
    content_type: str = "video/mp4"
    promises: int | None = None
    sends: int | None = None
    etag: str | None = '"v1"'
    ranges: bool = True
    chunked: bool = False
    no_length: bool = False
    pause_before: float = 0.0
    pause_between: float = 0.0
    step: int = 64 * 1024
    headers: dict[str, str] = field(default_factory=dict)

    def but(self, **changes: Any) -> Answer:
        """The same answer with something changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Asked:
    """A request that reached the CDN."""

    path: str
    query: str
    headers: dict[str, str]


class FaultyCdn:
    """`add` a path with its answers: one for each request, the last for all that follow."""

    def __init__(self, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        self.connections = 0
        self.asked: list[Asked] = []
        self.most_at_once = 0
        """The most requests whose head was not answered yet."""
        self._at_once = 0
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        self._names = itertools.count(1)
        cdn = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with cdn._lock:
                    cdn.connections += 1

            def do_GET(self) -> None:
                cdn._serve(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FaultyCdn:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def add(self, *answers: Answer, path: str | None = None) -> str:
        """The link to a new path with these answers."""
        path = path or f"/media/{next(self._names)}/file.mp4"
        with self._lock:
            self._answers[path] = list(answers)
        return self.origin + path

    def requests_for(self, link: str) -> list[Asked]:
        """Who asked for a link's path."""
        return [asked for asked in self.asked if asked.path == urlsplit(link).path]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        with self._lock:
            self.asked.append(Asked(parts.path, parts.query, dict(handler.headers.items())))
            answers = self._answers.get(parts.path, [Answer(status=404, body=b"no", content_type="text/plain")])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(answer.pause_before)
        with self._lock:
            self._at_once -= 1
        start = self._start(handler, answer)
        body = answer.body[start:]
        length = len(body) if answer.promises is None else answer.promises - start
        handler.send_response(206 if start else answer.status)
        handler.send_header("Content-Type", answer.content_type)
        if answer.etag is not None:
            handler.send_header("ETag", answer.etag)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{start + length}")
        if answer.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif not answer.no_length:
            handler.send_header("Content-Length", str(length))
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        is_cut = answer.sends is not None
        if is_cut or answer.no_length:
            handler.send_header("Connection", "close")
        handler.end_headers()
        self._send(handler, answer, body if answer.sends is None else body[: answer.sends])
        handler.close_connection = handler.close_connection or is_cut or answer.no_length

    @staticmethod
    def _start(handler: BaseHTTPRequestHandler, answer: Answer) -> int:
        match = _RANGE.fullmatch(handler.headers.get("Range", ""))
        fits = handler.headers.get("If-Range") == answer.etag
        return int(match[1]) if match and answer.ranges and fits and answer.status == 200 else 0

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, answer: Answer, body: bytes) -> None:
        step = answer.step if answer.pause_between or answer.chunked else max(1, len(body))
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            if answer.chunked:
                piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
            handler.wfile.write(piece)
            handler.wfile.flush()
            if answer.pause_between:
                time.sleep(answer.pause_between)
        if answer.chunked and answer.sends is None:
            handler.wfile.write(b"0\r\n\r\n")
