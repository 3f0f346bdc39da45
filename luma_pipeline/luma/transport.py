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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, unquote, urlsplit

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
    """Requests to one host over one kept-alive connection per thread.

    `connect_timeout` and `read_timeout` are seconds for one step, `deadline` for a request as a whole: a server that
    sends a byte now and then passes every read time-out, so a watchdog cuts its connection. Thread-safe.
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
        url = urlsplit(base_url.rstrip("/"))
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
            raise ValueError("base_url must be like https://host or https://host/prefix")
        self.host = url.netloc
        self._url = url
        self._headers = dict(headers)
        self._timeouts = (connect_timeout, read_timeout, deadline)
        self._max_body_bytes = max_body_bytes
        self._proxy = _proxy_for(url)
        self._tls = _tls_context() if "https" in (url.scheme, self._proxy.scheme if self._proxy else "") else None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._watchdog = _Watchdog()

    def request(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        """Send one request and read its whole answer.

        Raises:
            TransportError: There is no complete answer.
        """
        connection = self._connection()
        deadline = self._timeouts[2]
        try:
            with self._watchdog.watching(connection, deadline):
                answer = self._read(self._send(connection, method, path, body))
            if not connection.overdue:
                return answer
        except TransportError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException, zlib.error, ValueError) as error:
            connection.close()
            if not connection.overdue:
                # Without its cause: an exception of http.client may quote the request's headers.
                raise _translated(error, self.host) from None
        except BaseException:
            connection.close()
            raise
        # A body that lasts until the connection closes looks whole when it is the watchdog that closed it.
        connection.close()
        raise TransportError("deadline", f"no complete answer from {self.host} within {deadline:g} s")

    def close(self) -> None:
        """Close every thread's connection; a thread that waits for an answer wakes with an error."""
        self._watchdog.stop()
        with self._lock:
            for connection in self._connections:
                connection.cut()
                connection.close()
            self._connections.clear()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._new_connection()
            with self._lock:
                self._connections.append(connection)
        return connection

    def _new_connection(self) -> _Connection:
        target = self._proxy or self._url
        secure = target.scheme == "https"
        port = target.port or (443 if secure else 80)
        host = target.hostname or ""
        connect_timeout = self._timeouts[0]
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=connect_timeout, context=self._tls)
            if self._proxy is not None:
                connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _proxy_headers(self._proxy))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=connect_timeout)
        return _Connection(connection)

    def _send(self, connection: _Connection, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        """Send and wait for the answer's head; once more if a kept-alive connection turns out to be closed."""
        http_connection = connection.http
        target = self._url.path + path
        headers = self._headers
        if self._proxy is not None and self._url.scheme == "http":
            target = f"http://{self.host}{target}"
            headers = {**headers, **_proxy_headers(self._proxy)}
        reused = http_connection.sock is not None
        try:
            if not reused:
                self._connect(connection)
            http_connection.request(method, target, body, headers)
            return http_connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not reused or connection.overdue:
                raise
            http_connection.close()
            self._connect(connection)
            http_connection.request(method, target, body, headers)
            return http_connection.getresponse()

    def _connect(self, connection: _Connection) -> None:
        connection.http.connect()
        connection.socket = connection.http.sock
        connection.http.sock.settimeout(self._timeouts[1])

    def _read(self, response: http.client.HTTPResponse) -> HttpAnswer:
        limit = self._max_body_bytes
        length = response.length
        if length is not None and length > limit:
            raise BodyTooLargeError("body_too_large", f"the answer has {length} bytes, more than {limit}")
        # No length: chunked, or until the connection closes. With one, a cut body raises IncompleteRead.
        body = response.read(limit + 1) if length is None else response.read()
        if len(body) > limit:
            raise BodyTooLargeError("body_too_large", f"the answer has more than {limit} bytes")
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
        self.overdue = False

    def cut(self) -> None:
        self.overdue = True
        if self.socket is not None:
            # The plain socket's shutdown, also under TLS: it wakes the reading thread and touches nothing else. One
            # that was closed meanwhile is what was wanted.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.http.close()


class _Watchdog:
    """One thread that cuts connections whose request is overdue. It starts with the first request."""

    INTERVAL = 0.1

    def __init__(self) -> None:
        self._watched: dict[_Connection, float] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, connection: _Connection, seconds: float) -> Iterator[None]:
        if self._thread is None:
            self._start()
        connection.overdue = False
        self._watched[connection] = time.monotonic() + seconds
        try:
            yield
        finally:
            self._watched.pop(connection, None)

    def stop(self) -> None:
        self._stopped.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="luma-deadlines", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self.INTERVAL):
            now = time.monotonic()
            for connection, until in list(self._watched.items()):
                if now > until:
                    connection.cut()


def _translated(error: Exception, host: str) -> TransportError:
    """A code and a message of ours for what went wrong; the original may hold the request's headers."""
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
        return TransportError(
            "connection", f"the connection to {host} failed: {error.strerror or type(error).__name__}"
        )
    return TransportError("bad_http", f"{host} does not answer in readable HTTP: {type(error).__name__}")


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportError("bad_encoding", f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
    decompressor = zlib.decompressobj(wbits=47 if "gzip" in encoding else zlib.MAX_WBITS)
    plain = decompressor.decompress(body, limit + 1)
    if len(plain) > limit:
        raise BodyTooLargeError("body_too_large", f"the decompressed answer has more than {limit} bytes")
    if not decompressor.eof:
        raise TransportError("cut_body", "the compressed answer broke off")
    return plain


def _proxy_for(url: SplitResult) -> SplitResult | None:
    proxies = requests.utils.get_environ_proxies(url.geturl())
    proxy = requests.utils.select_proxy(url.geturl(), proxies)
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None


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
