"""The HTTP room: urllib3's connections, watched and guarded.

They differ from urllib3's own in four points. The address is checked on the socket that is really connected. The
watchdog can wake a thread that waits for the host, in every phase. The bytes of the request's target are the caller's:
urllib3 sees the path alone, so it can neither normalize the target nor log or quote a signed query. And the answer is
the final one, with lengths that agree.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from luma_pipeline.http.deadline import Watch
from luma_pipeline.http.errors import TargetRefusedError, TargetRefusedReason
from luma_pipeline.http.guard import Guard
from luma_pipeline.http.head import read_headers
from luma_pipeline.http.tls import TLSSocket

MOST_DIGITS = 18
"""Digits of a number of bytes. More are no number, and more than some thousands Python refuses to read."""

_NAME_POLL_SECONDS = 0.1
_SENT_HEADERS = 16
"""Headers of a connection that are kept as they were sent."""


class Exchange:
    """What a connection has to know of the request it carries, beyond what urllib3 hands over.

    `target` is sent as it is. `handshake_seconds` and `head_seconds` bound TLS and the answer's head as a whole.
    """

    __slots__ = ("guard", "handshake_seconds", "head_seconds", "target", "was_reused", "watch")

    def __init__(
        self, target: str, watch: Watch, guard: Guard | None, handshake_seconds: float, head_seconds: float
    ) -> None:
        self.target = target
        self.watch = watch
        self.guard = guard
        self.handshake_seconds = handshake_seconds
        self.head_seconds = head_seconds
        self.was_reused = False
        """Whether the request went over a connection that had carried another before."""


class _Current(threading.local):
    exchange: Exchange


current = _Current()
"""The exchange of this thread: urllib3 has no way to hand one over to its connections."""


class FinalResponse(http.client.HTTPResponse):
    """The answer after all interim ones, with lengths that agree, which can be read straight into a buffer."""

    # http.client's own.
    _read_status: Callable[[], tuple[str, int, str]]
    _check_close: Callable[[], bool]

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._socket = sock
        self._has_body = options.get("method") != "HEAD"
        self._read_into: Callable[[memoryview], int] | None = None
        self._failure: Exception | None = None

    def begin(self) -> None:
        """Read the head. Raises HTTPException for one that leaves open where the body ends."""
        version, status, reason = self._read_status()
        while 100 <= status < 200:
            read_headers(self.fp)
            version, status, reason = self._read_status()
        if not version.startswith("HTTP/1.") and version != "HTTP/0.9":
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.code = self.status = status
        self.reason = reason.strip()
        self.headers = self.msg = read_headers(self.fp)
        coding = self.headers.get("Transfer-Encoding")
        if coding is not None and coding.strip().lower() not in {"chunked", "identity"}:
            raise http.client.HTTPException("a transfer coding that was not asked for")
        self.chunked = coding is not None and coding.lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()
        self._find_length()
        if not self.chunked:
            self._agree_on_length()

    def _find_length(self) -> None:
        """The bytes of the body, by http.client's rules; None for a body up to the connection's end, or in chunks."""
        self.length = None
        if not self.chunked:
            with contextlib.suppress(ValueError):
                length = int(self.headers.get("Content-Length") or "")
                self.length = length if length >= 0 else None
        if self.status in (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED) or not self._has_body:
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _agree_on_length(self) -> None:
        values = self.headers.get_all("Content-Length", [])
        if len(values) < 2 and not (values and "," in values[0]):
            return
        lengths = {length.strip() for value in values for length in value.split(",")}
        length = lengths.pop()
        if lengths or not is_length(length):
            raise http.client.HTTPException("several lengths that do not agree")
        if self.length != 0:  # as it is of an answer without a body
            self.length = int(length)

    def read1(self, n: int = -1) -> bytes:
        """As http.client's. Raises HTTPException for a chunk of negative size."""
        data = super().read1(n)
        if self.chunked and (getattr(self, "chunk_left", None) or 0) < 0:
            raise http.client.HTTPException("a chunk of negative size")
        return data

    def fill(self, view: memoryview, has_time: Callable[[], bool]) -> int:
        """Put what comes at the start of `view`, for as long as there are room and time.

        Waits for at least one byte. Gives 0 at the end, promised or not. `has_time` is asked after each arrival. What
        it or the connection raises after bytes have come is raised by the next call: the bytes are good.
        """
        if self._failure is not None:
            raise self._failure
        filled, most = 0, len(view) if self.length is None else min(len(view), self.length)
        try:
            while filled < most and not self.isclosed():
                with view[filled:most] as free:
                    count = self._read_some(free)
                is_over = not has_time()
                filled += count
                if not count:
                    self.close()
                if is_over:
                    break
        except (OSError, http.client.HTTPException) as error:
            if not filled:
                raise
            self._failure = error
        if self.length is not None and not self.chunked:
            self.length -= filled
            if not self.length:
                self.close()
        return filled

    def _read_some(self, free: memoryview) -> int:
        if self.chunked:
            data = self.read1(len(free))
            free[: len(data)] = data
            return len(data)
        if self._read_into is not None:
            return self._read_into(free)
        count = self.fp.readinto1(free)
        if 0 < count < len(free) and isinstance(self._socket, TLSSocket):
            # Nothing is left in the buffer of `fp`, which adds calls to each read.
            self._read_into = self._socket.read_into
        return count


def is_length(text: str) -> bool:
    """Whether this is a number of bytes."""
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS


class WatchedConnection(HTTPConnection):
    """Connects to an address that the guard allows, and to no other."""

    response_class = FinalResponse
    debuglevel = 0  # Not http.client's: whoever sets that one sees every header printed.
    _is_used = False
    _buffer: list[bytes]  # http.client's own
    _response_options: Any  # urllib3's own

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sent: dict[tuple[str, tuple[str, ...]], list[bytes]] = {}

    def _new_conn(self) -> socket.socket:
        exchange = current.exchange
        connected = _connect(self.host, self.port, exchange, self.timeout)
        exchange.watch.allow(exchange.handshake_seconds)
        return connected

    def connect(self) -> None:
        """Connect, and let the watchdog have the socket."""
        watch = current.exchange.watch
        self._is_used = False
        try:
            super().connect()
        finally:
            before, watch.socket = watch.socket, self.sock
            if before is not None and before is not self.sock:
                before.close()

    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Begin a request for the target of the exchange, whatever urllib3 knows of it."""
        exchange = current.exchange
        exchange.was_reused = self.sock is not None and self._is_used
        super().putrequest(method, exchange.target, *args, **options)

    def endheaders(self, *args: Any, **options: Any) -> None:
        """Send the head. From here on the answer's head is waited for."""
        if self.sock is None:
            self.connect()
        exchange = current.exchange
        exchange.watch.socket = self.sock
        exchange.watch.allow(exchange.head_seconds)
        super().endheaders(*args, **options)

    def putheader(self, header: str, *values: str) -> None:  # type: ignore[override]
        """As urllib3's, which checks and encodes every header: the same one again is sent as it was the last time."""
        known = self._sent.get((header, values))
        if known is not None:
            self._buffer += known
            return
        start = len(self._buffer)
        super().putheader(header, *values)
        if len(self._sent) < _SENT_HEADERS:
            self._sent[header, values] = self._buffer[start:]

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """As urllib3's, without a second copy of the headers: they are read from http.client's answer."""
        options, self._response_options = self._response_options, None
        if options is None:
            raise http.client.ResponseNotReady
        self.sock.settimeout(self.timeout)
        answer = http.client.HTTPConnection.getresponse(self)
        self._is_used = True
        return HTTPResponse(
            body=answer,
            status=answer.status,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            enforce_content_length=False,
            request_method=options.request_method,
        )


class WatchedTLSConnection(WatchedConnection, HTTPSConnection):
    """The same over TLS."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be used again. Bytes that nobody has asked for would be the next answer."""
        return super().is_connected and not (isinstance(self.sock, TLSSocket) and self.sock.has_unread)

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        # The handshake takes the socket over before anybody else can have the one it makes: the watchdog needs another
        # handle to the same connection.
        current.exchange.watch.socket = connected.dup()
        return connected


class WatchedPool(HTTPConnectionPool):
    """Connections to one origin, the last one used first."""

    ConnectionCls = WatchedConnection


class WatchedTLSPool(HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = WatchedTLSConnection


POOL_CLASSES: dict[str, type[HTTPConnectionPool]] = {"http": WatchedPool, "https": WatchedTLSPool}


def _connect(host: str, port: int, exchange: Exchange, timeout: float | None) -> socket.socket:
    """Connect to the first address that answers. With a guard, only allowed ones are tried."""
    guard, watch = exchange.guard, exchange.watch
    addresses = _resolve(host, port, watch)
    if guard is not None:
        addresses = [entry for entry in addresses if guard.allows_address(str(entry[4][0]))]
        if not addresses:
            raise TargetRefusedError(
                TargetRefusedReason.FORBIDDEN_ADDRESS,
                f"{host} has no public address; allow_private_addresses lets private ones through",
            )
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        candidate = watch.socket = socket.socket(family, kind, protocol)
        try:
            candidate.settimeout(timeout)
            candidate.connect(address)
            _check_peer(candidate, host, guard)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch.raise_if_cut()
        except OSError as error:
            candidate.close()
            failure = error
            watch.raise_if_cut()
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate
    raise failure or OSError("no address")


def _check_peer(connected: socket.socket, host: str, guard: Guard | None) -> None:
    if guard is not None and not guard.allows_address(connected.getpeername()[0]):
        raise TargetRefusedError(
            TargetRefusedReason.FORBIDDEN_ADDRESS, f"{host} is connected to an address that is not public"
        )


_Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]


def _resolve(host: str, port: int, watch: Watch) -> _Addresses:
    """The host's addresses. A name is asked for in a thread of its own: the resolver knows no time-out."""
    if _is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    answer: Future[_Addresses] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="http-resolver", daemon=True).start()
    while True:
        try:
            return answer.result(_NAME_POLL_SECONDS)
        except FutureTimeoutError:
            # The resolver itself may end with a TimeoutError, which is the same class from Python 3.11 on.
            if answer.done():
                return answer.result()
            watch.raise_if_cut()


def _is_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]) is not None
    except ValueError:
        return False
