"""The provider's room: one HTTP request, with bounds on its time and on the size of its answer.

Connections are made by `http.client`, the layer that urllib3 and requests stand on too; what goes over them is written
here and read by `wire`: at the rate of a backfill the layers between cost more CPU than everything else together (the
figures are in ARCHITECTURE.md). Proxies and certificates are found by requests' own rules, once, when the transport is
made. Redirects are never followed: the token is for one host.
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
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

import requests.utils
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from luma_pipeline.luma.wire import BodyTooLargeError, Head, TransportError, read_body, read_head

__all__ = ["BodyTooLargeError", "HttpAnswer", "HttpTransport", "TransportError"]


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers (names in lower case) and body (decompressed) of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpTransport:
    """Requests to one host over kept-alive connections, as many as there are requests at a time.

    `connect_timeout` and `read_timeout` are seconds for one step, `deadline` for a request as a whole: a server that
    sends a byte now and then passes every read time-out, so a watchdog cuts its connection. Thread-safe.

    Raises:
        ValueError: `base_url` is no plain http(s) address, or the proxy of the environment is none over HTTP.
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
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query or url.fragment:
            raise ValueError("base_url must be like https://host or https://host/prefix")
        self.host = url.netloc
        self._url = url
        self._timeouts = (connect_timeout, read_timeout, deadline)
        self._max_body_bytes = max_body_bytes
        self._proxy = _proxy_for(url)
        self._tls = _tls_context() if url.scheme == "https" else None
        self._target = requests.utils.requote_uri(url.path)
        headers = {"Host": self.host.encode("idna").decode(), "Accept-Encoding": "identity", **headers}
        if self._proxy is not None and url.scheme == "http":
            self._target = f"http://{headers['Host']}{self._target}"
            headers.update(_proxy_headers(self._proxy))
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
        self._idle: list[_Connection] = []
        self._watchdog = _Watchdog()
        self._closed = False

    def request(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        """Send one request and read its whole answer. `path` is already percent-encoded.

        Raises:
            TransportError: There is no complete answer.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection()
        deadline = self._timeouts[2]
        self._watchdog.watch(connection, deadline)
        try:
            head = self._send(connection, self._message(method, path, body))
            answer = self._read(connection, head)
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
            raise TransportError("deadline", f"no complete answer from {self.host} within {deadline:g} s")
        if head.keeps_alive:
            self._idle.append(connection)
            if self._closed:
                self._close_idle()
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close every connection; a thread that waits for an answer wakes with an error."""
        self._closed = True
        self._watchdog.stop()
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _message(self, method: str, path: str, body: bytes | None) -> bytes:
        head = f"{method} {self._target}{path} HTTP/1.1\r\n".encode("ascii") + self._headers
        return head + b"\r\n" if body is None else head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def _send(self, connection: _Connection, message: bytes) -> Head:
        """Send and wait for the answer's head; once more if a kept-alive connection turns out to be closed."""
        if connection.is_open:
            try:
                return connection.exchange(message)
            except (BrokenPipeError, ConnectionResetError):
                if connection.overdue:
                    raise
                connection.close()
        connection.open(self._http_connection(), self._timeouts[1])
        return connection.exchange(message)

    def _http_connection(self) -> http.client.HTTPConnection:
        target = self._proxy or self._url
        host = target.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, target.port or 80, timeout=self._timeouts[0])
        port = target.port or (443 if self._proxy is None else 80)
        connection = http.client.HTTPSConnection(host, port, timeout=self._timeouts[0], context=self._tls)
        if self._proxy is not None:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _proxy_headers(self._proxy))
        return connection

    def _read(self, connection: _Connection, head: Head) -> HttpAnswer:
        body = read_body(connection.stream, head, self._max_body_bytes)
        encoding = head.headers.get("content-encoding")
        if encoding and encoding.lower() != "identity":
            body = _decompressed(body, encoding.lower(), self._max_body_bytes)
        return HttpAnswer(head.status, head.headers, body)


class _Connection:
    """A connection that is kept alive between requests, and whether the watchdog has cut it."""

    stream: BinaryIO

    def __init__(self) -> None:
        self.is_open = False
        self.overdue = False
        self._http: http.client.HTTPConnection | None = None

    def open(self, connection: http.client.HTTPConnection, read_timeout: float) -> None:
        self._http = connection
        connection.connect()
        if self.overdue:
            raise TimeoutError
        connection.sock.settimeout(read_timeout)
        self.stream = connection.sock.makefile("rb")
        self.is_open = True

    def exchange(self, message: bytes) -> Head:
        assert self._http is not None  # noqa: S101 - called on open connections only
        self._http.sock.sendall(message)
        return read_head(self.stream)

    def cut(self) -> None:
        self.overdue = True
        sock = self._http.sock if self._http is not None else None
        if sock is not None:
            # The plain socket's shutdown, also under TLS: it wakes the reading thread and touches nothing else. One
            # that was closed meanwhile is what was wanted.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.stream.close()
        if self._http is not None:
            self._http.close()


class _Watchdog:
    """One thread that cuts connections whose request is overdue. It starts with the first request."""

    INTERVAL = 0.1

    def __init__(self) -> None:
        self._watched: dict[_Connection, float] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def watch(self, connection: _Connection, seconds: float) -> None:
        if self._thread is None:
            self._start()
        connection.overdue = False
        self._watched[connection] = time.monotonic() + seconds
        if self._stopped.is_set():
            connection.cut()

    def release(self, connection: _Connection) -> None:
        self._watched.pop(connection, None)

    def stop(self) -> None:
        """Cut every connection that has a request under way, and from now on those that begin one."""
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
            # A copy is made at one go, whatever other threads do to the original.
            for connection, until in self._watched.copy().items():
                if now > until:
                    connection.cut()


def _translated(error: Exception, host: str) -> TransportError:
    """A code and a message of ours for what went wrong; the original may hold the request's headers."""
    if isinstance(error, TransportError):
        return error
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


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportError("bad_encoding", f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
    decompressor = zlib.decompressobj(wbits=47 if "gzip" in encoding else zlib.MAX_WBITS)
    plain = decompressor.decompress(body, limit + 1)
    if len(plain) > limit:
        raise BodyTooLargeError(limit)
    if not decompressor.eof:
        raise TransportError("cut_body", "the compressed answer broke off")
    return plain


def _proxy_for(url: SplitResult) -> SplitResult | None:
    proxies = requests.utils.get_environ_proxies(url.geturl())
    address = requests.utils.select_proxy(url.geturl(), proxies)
    if not address:
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"the environment's proxy for {url.netloc} must be like http://host:port")
    return proxy


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
