"""The HTTP/1.1 server under the sandbox's provider and CDN: one event loop in a thread, answers that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType

_HOST = "127.0.0.1"
_REQUEST_QUEUE_SIZE = 256
_LARGEST_HEAD = 64 * 1024
_LARGEST_REQUEST_BODY = 16 * 1024 * 1024
_PIECE = 256 * 1024
_DRIPS_PER_SECOND = 20


def utc_now() -> datetime:
    """The present in UTC: the clock of a server that is not told another."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Request:
    """What a client sent. `path` is still percent-encoded; header names are lower case, the last of a name wins."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What the server sends back, and how badly.

    Content-Length is that of `body` unless `headers` have one (or a Transfer-Encoding, for a body already chunked).
    `delay_seconds` passes before the first byte. With `drip_bytes_per_second` the body comes that slowly. With
    `cut_after` the connection ends after so many bytes of the body. With `close` it ends after the whole answer, and
    with `drop` before any byte of it.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_seconds: float = 0.0
    drip_bytes_per_second: float | None = None
    cut_after: int | None = None
    close: bool = False
    drop: bool = False

    @classmethod
    def of_json(cls, payload: object, status: int = 200) -> Answer:
        """An answer with `payload` as JSON."""
        return cls(status, {"Content-Type": "application/json"}, json.dumps(payload).encode())

    def after(self, seconds: float) -> Answer:
        """The same answer, `seconds` later."""
        return replace(self, delay_seconds=self.delay_seconds + seconds) if seconds else self


class PortTakenError(RuntimeError):
    """The port asked for is in use on this machine."""


class HttpServer:
    """Answers HTTP/1.1 requests on 127.0.0.1 from a thread of its own; connections are kept alive, TCP_NODELAY is set.

    `answer` is called on that thread, one request at a time, and must not block; an answer's delay or slow body holds
    back its own connection alone. Where the machine has IPv6, ::1 is served on the same port too, so that "localhost"
    is a second name of the server whichever address it stands for. HTTP/1.1 as in RFC 9112, without chunked requests.
    """

    def __init__(self, answer: Callable[[Request], Answer], *, port: int = 0):
        self._answer = answer
        self._wanted_port = port
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[_Connection] = set()

    @property
    def port(self) -> int:
        """The port in use; 0 before the start."""
        return self._port

    @property
    def base_url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://{_HOST}:{self._port}"

    def start(self) -> None:
        """Serve until `stop()`; raises PortTakenError when the port is in use."""
        if self._thread is not None:
            return
        sockets = _listen(self._wanted_port)
        self._port = sockets[0].getsockname()[1]
        loop = self._loop = asyncio.new_event_loop()
        is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(loop, sockets, is_up), name="http", daemon=True)
        self._thread.start()
        is_up.wait()

    def stop(self) -> None:
        """Stop listening, end every connection, and wait for the thread."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, loop: asyncio.AbstractEventLoop, sockets: list[socket.socket], is_up: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        servers = [
            loop.run_until_complete(
                loop.create_server(
                    lambda: _Connection(self._answer, self._connections), sock=listener, backlog=_REQUEST_QUEUE_SIZE
                )
            )
            for listener in sockets
        ]
        is_up.set()
        try:
            loop.run_forever()
        finally:
            for server in servers:
                server.close()
            for connection in list(self._connections):
                connection.abort()
            # One turn of the loop lets the transports close their sockets.
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def _listen(port: int) -> list[socket.socket]:
    first = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        first.bind((_HOST, port))
    except OSError as error:
        first.close()
        raise PortTakenError(f"Port {port} on {_HOST} is taken; choose another.") from error
    listeners = [first]
    with contextlib.suppress(OSError):
        second = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            second.bind(("::1", first.getsockname()[1]))
        except OSError:
            second.close()
            raise
        listeners.append(second)
    return listeners


class _Connection(asyncio.Protocol):
    """One client's connection: requests are answered in the order they came."""

    def __init__(self, answer: Callable[[Request], Answer], connections: set[_Connection]):
        self._answer = answer
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._is_answering = False
        self._timer: asyncio.TimerHandle | None = None
        self._rest: memoryview | None = None
        self._closes_after_rest = False
        self._is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's signature)
        self._connections.discard(self)
        self._transport = None
        self._rest = None
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_answering:
            self._answer_next()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._rest is not None and self._timer is None:
            self._write_rest()

    def _answer_next(self) -> None:
        while self._transport is not None and not self._is_answering:
            request = self._take_request()
            if request is None:
                return
            self._is_answering = True
            answer = self._answer(request)
            if answer.delay_seconds > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(answer.delay_seconds, self._send_later, request, answer)
            else:
                self._send(request, answer)

    def _take_request(self) -> Request | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _LARGEST_HEAD:
                self._refuse(431)
            return None
        first, *lines = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        parts = first.split(" ")
        length = headers.get("content-length", "0")
        if len(parts) != 3 or not length.isdigit() or int(length) > _LARGEST_REQUEST_BODY:
            self._refuse(400)
            return None
        if "transfer-encoding" in headers:
            self._refuse(411)
            return None
        body_end = end + 4 + int(length)
        if len(self._received) < body_end:
            return None
        body = bytes(self._received[end + 4 : body_end])
        del self._received[:body_end]
        method, target, _ = parts
        path, _, query = target.partition("?")
        return Request(method, path, query, headers, body)

    def _refuse(self, status: int) -> None:
        self._is_answering = True
        self._received.clear()
        self._send(Request("GET", "", "", {}), Answer(status, close=True))

    def _send_later(self, request: Request, answer: Answer) -> None:
        self._timer = None
        self._send(request, answer)
        self._answer_next()

    def _send(self, request: Request, answer: Answer) -> None:
        transport = self._transport
        if transport is None:
            return
        if answer.drop:
            transport.abort()
            return
        closes = answer.close or request.headers.get("connection", "").lower() == "close"
        head = _head(answer, closes)
        body = b"" if request.method == "HEAD" else answer.body
        if answer.cut_after is not None:
            body, closes = body[: answer.cut_after], True
        if answer.drip_bytes_per_second is None and len(body) <= _PIECE:
            transport.write(head + body)
            self._finish(closes)
            return
        transport.write(head)
        self._rest, self._closes_after_rest = memoryview(body), closes
        if answer.drip_bytes_per_second is None:
            self._write_rest()
        else:
            self._drip(answer.drip_bytes_per_second)

    def _write_rest(self) -> None:
        while self._rest is not None and self._transport is not None and self._is_writable:
            piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
            self._transport.write(piece)
            if not self._rest:
                self._rest = None
                self._finish(self._closes_after_rest)
                self._answer_next()

    def _drip(self, bytes_per_second: float) -> None:
        self._timer = None
        if self._rest is None or self._transport is None:
            return
        size = max(1, round(bytes_per_second / _DRIPS_PER_SECOND))
        piece, self._rest = self._rest[:size], self._rest[size:]
        self._transport.write(piece)
        if self._rest:
            self._timer = asyncio.get_running_loop().call_later(size / bytes_per_second, self._drip, bytes_per_second)
            return
        self._rest = None
        self._finish(self._closes_after_rest)
        self._answer_next()

    def _finish(self, closes: bool) -> None:
        self._is_answering = False
        if closes and self._transport is not None:
            self._is_answering = True
            self._transport.close()


def _head(answer: Answer, closes: bool) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if answer.headers.keys().isdisjoint(("Content-Length", "Transfer-Encoding")):
        lines.append(f"Content-Length: {len(answer.body)}")
    if closes:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
