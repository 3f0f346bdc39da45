"""HTTP connections to media hosts, each vetted at the socket: one GET, no proxy, no cookie, no credentials.

Built on `http.client` and not on requests or urllib3, for two reasons. The address that counts is the one the socket is
connected to, and `http.client` has a public place to decide it (`HTTPConnection.connect`). And urllib3 logs each
request's target with its query, which for a signed link is a secret.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from functools import cached_property

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from luma_pipeline import __version__
from luma_pipeline.http.deadline import Watchdog
from luma_pipeline.http.errors import TargetRefusedError, TargetRefusedReason
from luma_pipeline.http.guard import Guard, Target

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"luma-pipeline/{__version__}"}


# More digits are no number of bytes, and more than some thousands Python refuses to read.
MOST_DIGITS = 18


class _GuardedConnection(http.client.HTTPConnection):
    """Connects to an address of the host that the guard allows, and to no other.

    `deadline` is the monotonic time at which what it is used for has to be over.
    """

    def __init__(self, target: Target, guard: Guard, connect_timeout: float) -> None:
        super().__init__(target.host, target.port)
        self.is_cut = False
        self.deadline = 0.0
        self._guard = guard
        self._connect_timeout = connect_timeout
        # Held here as well: http.client lets go of it before the body is read when the host will close.
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Resolve, vet, connect, and vet what was connected to; TLS is left to `secure`."""
        connected = self._connect_allowed()
        try:
            self._check_peer(connected)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connected.close()
            raise
        # The watchdog keeps the time from here on: with a time-out of its own a socket polls before each receive.
        connected.settimeout(None)
        self.sock = connected

    def secure(self, tls: ssl.SSLContext) -> None:
        """Begin to speak TLS."""
        self.sock = self._socket = tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def cut(self) -> None:
        """Wake the thread that waits for the host."""
        self.is_cut = True
        if self._socket is not None:
            # The plain socket's shutdown, also under TLS: it touches nothing that the other thread is using.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _check_peer(self, connected: socket.socket) -> None:
        if not self._guard.allows_address(connected.getpeername()[0]):
            raise TargetRefusedError(
                TargetRefusedReason.FORBIDDEN_ADDRESS, f"{self.host} is connected to an address that is not public"
            )

    def _connect_allowed(self) -> socket.socket:
        resolved = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        allowed = [entry for entry in resolved if self._guard.allows_address(str(entry[4][0]))]
        if not allowed:
            raise TargetRefusedError(
                TargetRefusedReason.FORBIDDEN_ADDRESS,
                f"{self.host} has no public address; allow_private_addresses lets private ones through",
            )
        failure: OSError | None = None
        for family, kind, protocol, _, address in allowed:
            candidate = self._socket = socket.socket(family, kind, protocol)
            candidate.settimeout(self._connect_timeout)
            try:
                candidate.connect(address)
            except OSError as error:
                candidate.close()
                failure = error
                if self.is_cut:
                    break
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
        """The bytes promised for the body; None when it comes in chunks or says nothing that can be read."""
        text = self.header("Content-Length")
        is_number = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
        return int(text) if is_number and not self._raw.chunked else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, which say by themselves where it ends."""
        return bool(self._raw.chunked)

    def read(self, most: int) -> bytes:
        """What has come, up to `most` bytes; waits for at least one. Empty at the end, promised or not.

        Raises TimeoutError when none comes within the read time-out, else OSError, HTTPException or ValueError.
        """
        with self._transport.bounding(self._connection):
            data = self._raw.read1(most)
        if self._raw.chunked and (self._raw.chunk_left or 0) < 0:
            raise http.client.HTTPException("a chunk of negative size")
        return data

    def release(self) -> None:
        """Keep the connection for the next request, unless there is, or may be, more on it than was read."""
        is_read = self._raw.isclosed() or self._raw.length == 0
        self._raw.close()
        if self._raw.will_close or not is_read:
            self._connection.close()
        else:
            self._transport.keep(self._target, self._connection)

    def close(self) -> None:
        """Drop the connection with whatever is still on it."""
        self._raw.close()
        self._connection.close()


class Transport:
    """Idle connections by host, shared by the threads of a copier.

    timeouts: (connect, read) in seconds: the first for each address and for the TLS handshake, the second for the
        answer's head as a whole and for each wait for bytes of its body.
    stopping: cuts what is under way, once it is set.
    """

    def __init__(
        self, guard: Guard, timeouts: tuple[float, float], max_idle_per_host: int, stopping: threading.Event
    ) -> None:
        self.guard = guard
        self._connect_timeout, self._read_timeout = timeouts
        self._max_idle = max_idle_per_host
        self._idle: dict[tuple[str, str, int], list[_GuardedConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        self._watchdog = Watchdog(stopping)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The system's certificates (SSL_CERT_FILE is honoured) and those requests brings: slim images have none."""
        context = ssl.create_default_context()
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        return context

    def get(self, target: Target, headers: dict[str, str], deadline: float) -> Response:
        """Send one GET and read the answer's head; the whole answer has to be read by `deadline` (monotonic).

        Raises TargetRefusedError for a forbidden host or address, else OSError (TimeoutError), HTTPException or
        ValueError for what the network or the host did.
        """
        self.guard.check_host(target.host)
        idle = self._take(target)
        if idle is not None:
            try:
                return self._send(idle, target, headers, deadline)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # The host closed it while it lay idle; a GET may be sent again.
                pass
        return self._send(self._connected(target, deadline), target, headers, deadline)

    def bounding(self, connection: _GuardedConnection, seconds: float | None = None) -> AbstractContextManager[None]:
        """Bound what waits for the host; by default with the read time-out."""
        until = time.monotonic() + (self._read_timeout if seconds is None else seconds)
        return self._watchdog.bounding(connection, min(until, connection.deadline))

    def _connected(self, target: Target, deadline: float) -> _GuardedConnection:
        connection = _GuardedConnection(target, self.guard, self._connect_timeout)
        connection.deadline = deadline
        try:
            with self._watchdog.bounding(connection, deadline):
                connection.connect()
            if target.scheme == "https":
                with self.bounding(connection, self._connect_timeout):
                    connection.secure(self._tls)
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(
        self, connection: _GuardedConnection, target: Target, headers: dict[str, str], deadline: float
    ) -> Response:
        connection.deadline = deadline
        raw: http.client.HTTPResponse | None = None
        try:
            connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": target.host_header, **_HEADERS, **headers}.items():
                connection.putheader(name, value)
            with self.bounding(connection):
                connection.endheaders()
                raw = connection.getresponse()
        except BaseException:
            if raw is not None:  # a head that was cut may look whole
                raw.close()
            connection.close()
            raise
        return Response(self, target, connection, raw)

    def _take(self, target: Target) -> _GuardedConnection | None:
        with self._lock:
            idle = self._idle[target.scheme, target.host, target.port]
            while idle:
                connection = idle.pop()
                # Readable while nothing was asked: closed by the host, or bytes beyond the last answer's length.
                if connection.sock is not None and not _is_readable(connection.sock):
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
        """Close the idle connections, and keep no more time."""
        self._watchdog.close()
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()


def _is_readable(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # Windows, whose select takes any socket
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
