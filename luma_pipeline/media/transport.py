"""HTTP connections to media hosts, each vetted at the socket: one GET, no proxy, no cookie, no credentials.

Built on `http.client` and not on requests or urllib3, for two reasons. The address that counts is the one the socket is
connected to, and `http.client` has a public place to decide it (`HTTPConnection.connect`). And urllib3 logs each
request's target with its query, which for a signed link is a secret.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
from collections import defaultdict
from functools import cached_property

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from luma_pipeline import __version__
from luma_pipeline.media.errors import CopyError, ErrorCode
from luma_pipeline.media.guard import Guard, Target

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"luma-pipeline/{__version__}"}


class _GuardedConnection(http.client.HTTPConnection):
    """Connects to an address of the host that the guard allows, and to no other."""

    def __init__(self, target: Target, guard: Guard, timeouts: tuple[float, float], tls: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port, timeout=timeouts[1])
        self._guard = guard
        self._connect_timeout, self._read_timeout = timeouts
        self._tls = tls

    def connect(self) -> None:
        """Resolve, vet, connect, vet what was connected to; then TLS."""
        connected = self._connect_allowed()
        try:
            self._check_peer(connected)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connected = self._tls.wrap_socket(connected, server_hostname=self.host)
            connected.settimeout(self._read_timeout)
        except BaseException:
            connected.close()
            raise
        self.sock = connected

    def _check_peer(self, connected: socket.socket) -> None:
        if not self._guard.allows_address(connected.getpeername()[0]):
            raise CopyError(ErrorCode.FORBIDDEN_ADDRESS, f"{self.host} is connected to an address that is not public")

    def _connect_allowed(self) -> socket.socket:
        resolved = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        allowed = [entry for entry in resolved if self._guard.allows_address(str(entry[4][0]))]
        if not allowed:
            raise CopyError(
                ErrorCode.FORBIDDEN_ADDRESS,
                f"{self.host} has no public address; allow_private_addresses lets private ones through",
            )
        failure: OSError | None = None
        for family, kind, protocol, _, address in allowed:
            candidate = socket.socket(family, kind, protocol)
            candidate.settimeout(self._connect_timeout)
            try:
                candidate.connect(address)
            except OSError as error:
                candidate.close()
                failure = error
            else:
                return candidate
        raise failure or OSError("no address")


class Response:
    """An answer whose body is still to be read; give it back with `release` or drop it with `close`."""

    def __init__(
        self, transport: Transport, target: Target, connection: _GuardedConnection, raw: http.client.HTTPResponse
    ) -> None:
        self._transport = transport
        self._target = target
        self._connection = connection
        self._raw = raw
        self.status = raw.status

    def header(self, name: str) -> str:
        """The header's value, stripped; empty when it is missing."""
        return (self._raw.getheader(name) or "").strip()

    @property
    def content_length(self) -> int | None:
        """The bytes promised for the body; None when it comes in chunks or says nothing."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and not self._raw.chunked else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, which say by themselves where it ends."""
        return bool(self._raw.chunked)

    def read(self, most: int) -> bytes:
        """What has come, up to `most` bytes; waits for at least one. Empty at the end, promised or not."""
        return self._raw.read1(most)

    def release(self) -> None:
        """Keep the connection for the next request; to be called once the body has been read to its end."""
        self._raw.close()
        if self._raw.will_close:
            self._connection.close()
        else:
            self._transport.keep(self._target, self._connection)

    def close(self) -> None:
        """Drop the connection with whatever is still on it."""
        self._raw.close()
        self._connection.close()


class Transport:
    """Idle connections by host, shared by the threads of a copier.

    timeouts: (connect, read) in seconds, the second for each single wait for bytes.
    """

    def __init__(self, guard: Guard, timeouts: tuple[float, float], max_idle_per_host: int) -> None:
        self.guard = guard
        self._timeouts = timeouts
        self._max_idle = max_idle_per_host
        self._idle: dict[tuple[str, str, int], list[_GuardedConnection]] = defaultdict(list)
        self._lock = threading.Lock()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The system's certificates (SSL_CERT_FILE is honoured) and those requests brings: slim images have none."""
        context = ssl.create_default_context()
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        return context

    def get(self, target: Target, headers: dict[str, str]) -> Response:
        """Send one GET and read the answer's head. Raises CopyError for a forbidden host or address, else OSError or
        HTTPException for what the network or the host did.
        """
        self.guard.check_host(target.host)
        idle = self._take(target)
        if idle is not None:
            try:
                return self._send(idle, target, headers)
            except (OSError, http.client.HTTPException):
                # The host closed it while it lay idle; a GET may be sent again.
                idle.close()
        tls = self._tls if target.scheme == "https" else None
        return self._send(_GuardedConnection(target, self.guard, self._timeouts, tls), target, headers)

    def _send(self, connection: _GuardedConnection, target: Target, headers: dict[str, str]) -> Response:
        try:
            connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": target.host_header, **_HEADERS, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            return Response(self, target, connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    def _take(self, target: Target) -> _GuardedConnection | None:
        with self._lock:
            idle = self._idle[target.scheme, target.host, target.port]
            while idle:
                connection = idle.pop()
                # Readable while nothing was asked: closed by the host, or bytes beyond the last answer's length.
                if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                    return connection
                connection.close()
        return None

    def keep(self, target: Target, connection: _GuardedConnection) -> None:
        """Take a connection back for a later request."""
        with self._lock:
            idle = self._idle[target.scheme, target.host, target.port]
            if len(idle) < self._max_idle:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()
