"""The HTTP room: the session over requests that the provider's and the media client share.

requests finds proxies and certificates in the environment, once, and its adapter keeps the connections. Requests go to
the adapter's urllib3 pools directly: what `Session.send` and `HTTPAdapter.send` add costs more CPU than the request
itself, and they would follow redirects, read `.netrc` again for each request, and normalize the request's target.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import Retry, Timeout
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse

from luma_pipeline.http.connection import POOL_CLASSES, Exchange, FinalResponse, current, is_length
from luma_pipeline.http.deadline import Watch, Watchdog
from luma_pipeline.http.errors import BodyTooLargeError, TransportCode, TransportError, root_cause, transport_error
from luma_pipeline.http.guard import Guard, Target
from luma_pipeline.http.tls import TLSSocket

FAILURES = (HTTPError, http.client.HTTPException, OSError, ValueError)
"""What urllib3, http.client and the socket raise for what the network or the host did."""

_CLOSED_BY_HOST = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_ONE_TRY = Retry(False)
_PIECE_BYTES = 1 << 20
_LONGEST_PIECE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How requests are sent. Times are in seconds.

    connect_timeout: for each address, and for the TLS handshake.
    read_timeout: for the answer's head as a whole, and for each wait for bytes of its body.
    guard: checks the address that is connected to; None lets any through.
    tls: makes the context that certificates are checked by, at the first https request.
    proxies: as requests knows them; none by default.
    idle_hosts, idle_per_host: so many hosts' connections are kept for later requests, the latest used ones; and so many
        of each.
    """

    connect_timeout: float
    read_timeout: float
    tls: Callable[[], ssl.SSLContext] = field(repr=False)
    guard: Guard | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a password
    idle_hosts: int = 8
    idle_per_host: int = 256


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` are sent as they are, and no others. Neither they nor the query are in the repr."""

    method: str
    target: Target
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class HttpSession:
    """Sends requests over kept-alive connections. Follows no redirect, keeps no cookie. Thread-safe.

    stopping: once it is set, what waits for a host ends within a fraction of a second.
    """

    def __init__(self, config: SessionConfig, stopping: threading.Event | None = None) -> None:
        self._config = config
        self._adapter = _Adapter(config)
        self._requests = requests.Session()
        self._requests.trust_env = False
        for scheme in POOL_CLASSES:
            self._requests.mount(f"{scheme}://", self._adapter)
        self._timeout = Timeout(connect=config.connect_timeout, read=None)
        self.watchdog = Watchdog(stopping)

    def pool(self, target: Target) -> HTTPConnectionPool:
        """The connections to a target's origin, over the proxy if there is one for it."""
        origin = requests.PreparedRequest()
        origin.url = target.origin
        proxies = dict(self._config.proxies)
        return self._adapter.get_connection_with_tls_context(origin, True, proxies)

    def send(self, request: Request, watch: Watch, pool: HTTPConnectionPool | None = None) -> Response:
        """Send a request and read the answer's head. `watch` has to be watched by the watchdog meanwhile.

        A request that meets a kept-alive connection which the host has closed is sent again over another.

        Raises:
            TransportError: No answer came.
            TargetRefusedError: The guard allows no address of the host.
        """
        config, target = self._config, request.target
        exchange = Exchange(target.path, watch, config.guard, config.connect_timeout, config.read_timeout)
        current.exchange = exchange
        failure: BaseException
        while True:
            try:
                answer = self._open(pool or self.pool(target), request, exchange)
                if not watch.is_cut:
                    return Response(self, answer, watch, target.host)
                answer.close()  # a head that was cut may look whole
                failure = TimeoutError()
            except FAILURES as error:
                failure = root_cause(error)
            is_stale = exchange.was_reused and isinstance(failure, _CLOSED_BY_HOST)
            if watch.is_cut or not is_stale:
                break
        # Outside the handler: the original would be the context, and may quote the request.
        raise self.failure(failure, watch, target.host)

    def _open(self, pool: HTTPConnectionPool, request: Request, exchange: Exchange) -> HTTPResponse:
        target = request.target
        if pool.proxy is not None and target.scheme == "http":
            exchange.target = target.origin + target.path
        answer = pool.urlopen(
            request.method,
            exchange.target.partition("?")[0],
            body=request.body,
            headers=request.headers,
            retries=_ONE_TRY,
            redirect=False,
            assert_same_host=False,
            timeout=self._timeout,
            preload_content=False,
            decode_content=False,
        )
        return cast("HTTPResponse", answer)

    def failure(self, error: BaseException, watch: Watch, host: str) -> TransportError:
        """What an exception of the layers below means; a request that was cut was too late, whatever it raised."""
        if not watch.is_cut:
            return transport_error(error, host)
        if watch.until < watch.ends_at:
            return TransportError(
                TransportCode.TIMEOUT, f"{host} did not answer within {self._config.read_timeout:g} s"
            )
        return TransportError(TransportCode.DEADLINE, f"no complete answer from {host} in time")

    @property
    def read_timeout(self) -> float:
        """Seconds for the answer's head, and for each wait for bytes of its body."""
        return self._config.read_timeout

    def close(self) -> None:
        """Cut what is under way, and close the idle connections."""
        self.watchdog.stop()
        self._requests.close()


class Response:
    """An answer whose body is still to be read. End it with `release`, or with `close` if it was not read whole."""

    def __init__(self, session: HttpSession, answer: HTTPResponse, watch: Watch, host: str) -> None:
        self._session = session
        self._answer = answer
        # http.client's own: urllib3 reads through it, with a copy of each piece.
        self._raw = cast("FinalResponse", answer._original_response)
        self._watch = watch
        self._host = host
        self.status = answer.status
        self.headers: Message = self._raw.headers

    def header(self, name: str) -> str:
        """The header's value, stripped; several joined by commas, empty when it is missing."""
        return ", ".join(self.headers.get_all(name, [])).strip()

    @property
    def content_length(self) -> int | None:
        """The bytes promised for the body; None when it comes in chunks or says nothing that can be read."""
        if self._raw.chunked or "Content-Length" not in self.headers:
            return None
        length = self._raw.length
        return length if length is not None and is_length(str(length)) else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, which say by themselves where it ends."""
        return bool(self._raw.chunked)

    def read_whole(self, limit: int) -> bytes:
        """The whole body, as it came. Raises TransportError, and BodyTooLargeError above `limit` bytes."""
        length = self._raw.length
        if length is not None and length > limit:
            raise BodyTooLargeError(f"the answer has {length} bytes, more than {limit}")
        failure: BaseException
        try:
            # With a length, a cut body raises IncompleteRead. One large read of chunks would trust what a chunk says.
            body = self._raw.read() if length is not None else self._read_at_most(limit)
            self._watch.raise_if_cut()  # a body up to the connection's end looks whole when it was cut
        except TransportError:
            raise
        except FAILURES as error:
            failure = error
        else:
            return body
        raise self._session.failure(failure, self._watch, self._host)

    def _read_at_most(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := self._raw.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BodyTooLargeError(f"the answer has more than {limit} bytes")
        return b"".join(pieces)

    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as bytes come without a pause; waits for at least one. 0 at the end, promised or not.

        Raises TransportError: `timeout` when no byte comes within the read time-out.
        """
        watch, watchdog, timeout = self._watch, self._session.watchdog, self._session.read_timeout
        ends_at = time.monotonic() + _LONGEST_PIECE_SECONDS

        def has_time() -> bool:
            watch.raise_if_cut()  # a body up to the connection's end looks whole when it was cut
            now = watch.allow(timeout)
            return now < ends_at

        failure: BaseException
        watch.allow(timeout)
        watchdog.add(watch)
        try:
            with view[:_PIECE_BYTES] as piece:
                return self._raw.fill(piece, has_time)
        except FAILURES as error:
            failure = root_cause(error)
        finally:
            watchdog.remove(watch)
        raise self._session.failure(failure, watch, self._host)

    def release(self) -> None:
        """Keep the connection for the next request, unless there is, or may be, more on it than was read."""
        if self._raw.isclosed():
            self._answer.release_conn()
        else:
            self.close()

    def close(self) -> None:
        """Drop the connection with whatever is still on it."""
        self._answer.close()


class _Adapter(HTTPAdapter):
    """requests' adapter with watched connections, and one TLS context for all of them."""

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()
        super().__init__(pool_connections=config.idle_hosts, pool_maxsize=config.idle_per_host)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As requests' documentation has it for a context of one's own."""
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {**tls, "ssl_context": self._context()} if host["scheme"] == "https" else {}

    def close(self) -> None:
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  (no mapping that can be walked)
                manager.pools[key].close()
        super().close()

    def _context(self) -> ssl.SSLContext:
        with self._tls_lock:
            if self._tls is None:
                self._tls = self._config.tls()
                self._tls.wrap_socket = partial(TLSSocket, self._tls)  # type: ignore[method-assign, assignment]
            return self._tls


def proxies_of_environment(url: str) -> dict[str, str]:
    """The environment's proxy for a URL by requests' rules (NO_PROXY too), read once.

    Raises ValueError for a proxy that is not spoken to in HTTP.
    """
    settings = requests.Session().merge_environment_settings(url, {}, None, None, None)
    address = select_proxy(url, settings["proxies"])
    if not address:
        return {}
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"the environment's proxy for {urlsplit(url).netloc} must be like http://host:port")
    return {urlsplit(url).scheme: address}
