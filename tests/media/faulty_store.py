"""A proxy in front of an S3 store that fails, denies or delays chosen requests, and lets the others through."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class StoreRequest:
    """A request to the store, as a rule sees it."""

    method: str
    path: str
    query: dict[str, list[str]]
    is_part: bool
    is_completion: bool
    has_condition: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in self.query


@dataclass(frozen=True)
class Fault:
    """An error answer, or with `status` 0 a dropped connection. `afterwards`: the store does the work before that.

    `text` is answered in place of the error. What `passes` reaches the store: with `keeps` only so many bytes of it,
    and its answer comes back without the headers that `drops` names, and with `drips` in small pieces. `flips`: the
    last byte of what reaches the store is another. `ignores` names parts of the query that the store does not see.
    `cuts`: the connection ends after so many bytes of the answer.
    """

    status: int = 500
    code: str = "InternalError"
    delay: float = 0.0
    passes: bool = False
    afterwards: bool = False
    text: str | None = None
    keeps: int | None = None
    drops: tuple[str, ...] = ()
    drips: bool = False
    flips: bool = False
    ignores: tuple[str, ...] = ()
    cuts: int | None = None
    content_type: str = "application/xml"
    message: str = "told to fail"
    headers: tuple[tuple[str, str], ...] = ()


Rule = Callable[[StoreRequest, int], "Fault | None"]


class FaultyStore:
    """`rule(request, n)` tells what befalls the n-th request (from 1) that it could apply to; None lets it through."""

    def __init__(self, upstream_port: int, rule: Rule) -> None:
        self.seen: list[StoreRequest] = []
        self._rule = rule
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                store._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FaultyStore:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """What to give to an S3 client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        method = handler.command
        is_part = method == "PUT" and "partNumber" in query
        is_completion = method == "POST" and "uploadId" in query
        request = StoreRequest(
            method,
            parts.path,
            query,
            is_part,
            is_completion,
            handler.headers.get("If-None-Match") is not None,
            {name.lower(): value for name, value in handler.headers.items()},
            body,
        )
        with self._lock:
            self.seen.append(request)
            alike = sum(
                (seen.method, seen.is_part, seen.is_completion) == (method, is_part, is_completion)
                for seen in self.seen
            )
            fault = self._rule(request, alike)
        fault = fault or Fault(passes=True)
        time.sleep(fault.delay)
        if fault.afterwards:
            self._forward(handler, body)
        if not fault.passes:
            self._fail(handler, fault)
            return
        body = body[: fault.keeps]
        if fault.flips and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        for name in fault.ignores:
            handler.path = re.sub(rf"(?<=[?&]){name}=[^&]*&?", "", handler.path)
        status, headers, answer = self._forward(handler, body)
        kept = [(name, value) for name, value in headers if name.lower() not in fault.drops]
        self._answer(handler, status, kept, answer, drips=fault.drips, cuts=fault.cuts)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
        try:
            upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                upstream.putheader(name, value if name.lower() != "content-length" else str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _fail(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        if fault.status == 0:
            handler.close_connection = True
            handler.connection.close()
            return
        text = fault.text
        if text is None:
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
        self._answer(handler, fault.status, [("Content-Type", fault.content_type), *fault.headers], text.encode())

    @staticmethod
    def _answer(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        *,
        drips: bool = False,
        cuts: int | None = None,
    ) -> None:
        handler.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and handler.command == "HEAD":
                length = value
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command != "HEAD":
            if cuts is not None:
                body, handler.close_connection = body[:cuts], True
            step = 64 * 1024 if drips else max(1, len(body))
            for at in range(0, len(body), step):
                handler.wfile.write(body[at : at + step])
                if drips:
                    time.sleep(0.05)
