"""The provider's room: one HTTP request, with bounds on its time and on the size of its answer.

It stands on `http.client`, the layer that urllib3 and requests stand on too: at the rate of a backfill their own
layers cost more CPU than everything else together (the figures are in ARCHITECTURE.md). Proxies and certificates are
found by requests' own rules, once, when the transport is made. Redirects are never followed: the token is for one host.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, unquote, urlsplit

import requests.utils
from requests.utils import DEFAULT_CA_BUNDLE_PATH

__all__ = ["BodyTooLargeError", "HttpAnswer", "HttpTransport", "TransportError"]


class TransportError(Exception):
    """No complete answer came: the connection, the time or the bytes failed. `code` says which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BodyTooLargeError(TransportError):
    """The answer is larger than `max_body_bytes`. Asking again would bring the same."""


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers and body (decompressed) of one answer."""

    status: int
    headers: Message
    body: bytes


class HttpTransport:
    """Requests to one host over kept-alive connections, as many as there are requests at a time.

    `connect_timeout` is seconds for the connection, `read_timeout` until the answer begins, `deadline` for a request as
    a whole. A watchdog keeps the time: a server that sends a byte now and then passes every time-out of a socket's.
    Thread-safe.

    Raises:
        ValueError: `base_url` is no plain http(s) address, or the environment's proxy is not spoken to in HTTP.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        connect_timeout: float,
        read_timeout: float,
        deadline: float,
        max_body_bytes: int,
    ) -> None:
        url = _parsed(base_url)
        self.host = url.netloc
        self._url = url
        self._timeouts = (connect_timeout, read_timeout, deadline)
        self._max_body_bytes = max_body_bytes
        self._proxy = _proxy_for(url)
        self._target = quote(url.path, safe="/%:@!$&'()*+,;=~")
        self._headers = _header_lines(url, headers)
        if self._proxy is not None and url.scheme == "http":
            self._target = f"http://{_host(url)}{self._target}"
            self._headers += "".join(f"{name}: {value}\r\n" for name, value in _proxy_headers(self._proxy).items())
        self._tls = _tls_context() if url.scheme == "https" else None
        self._idle: list[_Connection] = []
        self._watchdog = _Watchdog()
        self._closed = False

    def request(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        """Send one request and read its whole answer.

        Raises:
            TransportError: There is no complete answer.
        """
        connection = self._take_connection()
        ends_at = time.monotonic() + self._timeouts[2]
        self._watchdog.watch(connection, ends_at)
        try:
            response = self._send(connection, method, path, body, ends_at)
            connection.is_answering = True
            self._watchdog.extend(connection, ends_at)
            answer = self._read(response)
        except (TransportError, OSError, http.client.HTTPException, zlib.error, ValueError) as error:
            connection.close()
            if not connection.overdue:
                # Without its cause: an exception of http.client may quote the request's headers.
                raise _translated(error, self.host) from None
        except BaseException:
            connection.close()
            raise
        finally:
            self._watchdog.release(connection)
        if connection.overdue:
            # A body that lasts until the connection closes looks whole when it is the watchdog that closed it.
            connection.close()
            raise TransportError(*self._lateness(connection))
        if response.will_close:
            connection.close()
        self._idle.append(connection)
        if self._closed:
            self._close_idle()
        return answer

    def _lateness(self, connection: _Connection) -> tuple[str, str]:
        """Code and message for a connection that the watchdog has cut."""
        _, read_timeout, deadline = self._timeouts
        if not connection.is_answering and read_timeout < deadline:
            return "timeout", f"{self.host} did not begin to answer within {read_timeout:g} s"
        return "deadline", f"no complete answer from {self.host} within {deadline:g} s"

    def close(self) -> None:
        """Close every connection; a thread that waits for an answer wakes with an error."""
        self._closed = True
        # A connection in use is only cut: closing it is left to its thread, which may be reading from it.
        self._watchdog.stop()
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _take_connection(self) -> _Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_connection()

    def _new_connection(self) -> _Connection:
        target = self._proxy or self._url
        host = target.hostname or ""
        connect_timeout = self._timeouts[0]
        if self._url.scheme == "http":
            return _Connection(http.client.HTTPConnection(host, target.port or 80, timeout=connect_timeout))
        port = target.port or (443 if self._proxy is None else 80)
        connection = http.client.HTTPSConnection(host, port, timeout=connect_timeout, context=self._tls)
        if self._proxy is not None:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _proxy_headers(self._proxy))
        return _Connection(connection)

    def _send(
        self, connection: _Connection, method: str, path: str, body: bytes | None, ends_at: float
    ) -> http.client.HTTPResponse:
        """Send and wait for the answer's head; once more if a kept-alive connection turns out to be closed."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self._target}{path} HTTP/1.1\r\n{length}{self._headers}\r\n"
        request = head.encode("latin-1") + (body or b"")
        reused = connection.http.sock is not None
        if not reused:
            self._connect(connection)
        try:
            return self._exchange(connection, method, request, ends_at)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not reused or connection.overdue:
                raise
        connection.close()
        self._connect(connection)
        return self._exchange(connection, method, request, ends_at)

    def _exchange(
        self, connection: _Connection, method: str, request: bytes, ends_at: float
    ) -> http.client.HTTPResponse:
        self._watchdog.extend(connection, min(ends_at, time.monotonic() + self._timeouts[1]))
        # At once: http.client's own way to send a request costs as much CPU as reading the answer.
        connection.http.sock.sendall(request)
        response = connection.response = http.client.HTTPResponse(connection.http.sock, method=method)
        response.begin()
        return response

    def _connect(self, connection: _Connection) -> None:
        connection.socket = None
        connection.http.connect()
        if connection.overdue:
            raise TimeoutError
        connection.socket = connection.http.sock
        # The watchdog keeps the time: with a time-out of its own a socket polls before it sends or receives anything.
        connection.http.sock.settimeout(None)

    def _read(self, response: http.client.HTTPResponse) -> HttpAnswer:
        if response.status < 200:
            # http.client takes an interim answer (103) for the final one, which the next request would then get.
            raise TransportError("bad_http", f"{self.host} sent only an interim answer (HTTP {response.status})")
        limit = self._max_body_bytes
        length = response.length
        if length is not None and length > limit:
            raise BodyTooLargeError("body_too_large", f"the answer has {length} bytes, more than {limit}")
        # No length: chunked, or until the connection closes. With one, a cut body raises IncompleteRead.
        body = response.read() if length is not None else _read_at_most(response, limit)
        encoding = response.headers.get("Content-Encoding")
        if encoding and encoding.lower() != "identity":
            body = _decompressed(body, encoding.lower(), limit)
        return HttpAnswer(response.status, response.headers, body)


class _Connection:
    """A thread's connection, and whether the watchdog has cut it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.http = connection
        # Held here as well: http.client lets go of it before the body is read when the server will close.
        self.socket: socket.socket | None = None
        self.response: http.client.HTTPResponse | None = None
        self.is_answering = False
        self.overdue = False

    def cut(self) -> None:
        self.overdue = True
        sock = self.socket or self.http.sock  # the latter while a proxy's tunnel is made
        if sock is not None:
            # The plain socket's shutdown, also under TLS: it wakes the reading thread and touches nothing else. One
            # that was closed meanwhile is what was wanted.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        if self.response is not None:
            self.response.close()  # it holds the socket open
        self.http.close()


class _Watchdog:
    """One thread that cuts connections whose request is overdue. It starts with the first request."""

    INTERVAL = 0.1

    def __init__(self) -> None:
        self._watched: dict[_Connection, float] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def watch(self, connection: _Connection, until: float) -> None:
        """Begin to watch; `until` is a monotonic time."""
        if self._thread is None:
            self._start()
        connection.is_answering = connection.overdue = False
        self._watched[connection] = until
        if self._stopped.is_set():
            connection.cut()

    def extend(self, connection: _Connection, until: float) -> None:
        """Set another time for a connection that is watched."""
        self._watched[connection] = until

    def release(self, connection: _Connection) -> None:
        self._watched.pop(connection, None)

    def stop(self) -> None:
        """Cut the connections that have a request under way, and those that begin one later."""
        self._stopped.set()
        for connection in self._watched.copy():
            connection.cut()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="luma-deadlines", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self.INTERVAL):
            now = time.monotonic()
            # Copied at one go, whatever other threads do to the original meanwhile.
            for connection, until in self._watched.copy().items():
                if now > until:
                    connection.cut()


def _translated(error: Exception, host: str) -> TransportError:
    """A code and a message of ours for what went wrong; the original may hold the request's headers."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, http.client.IncompleteRead):
        return TransportError("cut_body", f"the answer from {host} broke off after {len(error.partial)} bytes")
    if isinstance(error, zlib.error):
        return TransportError("bad_encoding", f"the compressed answer from {host} cannot be read: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError("certificate", f"the certificate of {host} is not trusted: {error.verify_message}")
    if isinstance(error, socket.gaierror):
        return TransportError("dns", f"the name of {host} cannot be resolved: {error.strerror}")
    if isinstance(error, TimeoutError):
        return TransportError("timeout", f"{host} did not answer in time")
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return TransportError("connection", f"the connection to {host} failed: {reason}")
    return TransportError("bad_http", f"{host} does not answer in readable HTTP: {type(error).__name__}")


def _read_at_most(response: http.client.HTTPResponse, limit: int) -> bytes:
    """The whole body, piece by piece: one large read trusts the length that a chunk says it has."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(65536):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise BodyTooLargeError("body_too_large", f"the answer has more than {limit} bytes")
    return b"".join(pieces)


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportError("bad_encoding", "the answer is compressed in a way that was not asked for")
    decompressor = zlib.decompressobj(wbits=47 if "gzip" in encoding else zlib.MAX_WBITS)
    plain = decompressor.decompress(body, limit + 1)
    if len(plain) > limit:
        raise BodyTooLargeError("body_too_large", f"the decompressed answer has more than {limit} bytes")
    if not decompressor.eof:
        raise TransportError("cut_body", "the compressed answer broke off")
    return plain


def _parsed(base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url.rstrip("/"))
        is_plain = url.port != 0 and not ("@" in url.netloc or url.query or url.fragment)
    except ValueError:  # it quotes what may be a password
        is_plain = False
    if not is_plain or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("base_url (LUMA_BASE_URL) must be like https://host or https://host/prefix")
    return url


def _proxy_for(url: SplitResult) -> SplitResult | None:
    proxies = requests.utils.get_environ_proxies(url.geturl())
    address = requests.utils.select_proxy(url.geturl(), proxies)
    if not address:
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"the environment's proxy for {url.netloc} must be like http://host:port")
    return proxy


def _host(url: SplitResult) -> str:
    """Host and port as a request names them: a name of other letters in its ASCII form."""
    return url.netloc if url.netloc.isascii() else url.netloc.encode("idna").decode()


def _header_lines(url: SplitResult, headers: Mapping[str, str]) -> str:
    # Compressed answers are not asked for: they would cost more CPU than the bytes they save.
    all_headers = {"Host": _host(url), "Accept-Encoding": "identity", **headers}
    return "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def _tls_context() -> ssl.SSLContext:
    """Certificates as requests finds them: REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, else certifi's."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    is_folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
