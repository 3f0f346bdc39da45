"""The provider's room: requests to its host, whole answers within bounds of time and size.

Redirects are never followed: the token is for one host. Proxies and certificates are the environment's, by requests'
rules, read once; `.netrc` is not, since it would replace the token.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from luma_pipeline.http.deadline import Watch
from luma_pipeline.http.encoding import decompressed
from luma_pipeline.http.errors import BodyTooLargeError, TransportError
from luma_pipeline.http.guard import Target
from luma_pipeline.http.session import HttpSession, Request, SessionConfig, proxies_of_environment

__all__ = ["BodyTooLargeError", "HttpAnswer", "HttpTransport", "TransportError", "parsed_base_url"]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers and body (decompressed) of one answer."""

    status: int
    headers: Message
    body: bytes


class HttpTransport:
    """Requests to one host over kept-alive connections, as many as there are requests at a time. Thread-safe.

    `connect_timeout` is seconds for the connection, `read_timeout` until the answer begins, `deadline` for a request as
    a whole. `max_body_bytes` bounds a body, compressed and decompressed.

    Raises ValueError when `base_url` is no plain http(s) address, or the environment's proxy is not spoken to in HTTP.
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
        url = parsed_base_url(base_url)
        self.host = url.netloc
        self._deadline = deadline
        self._max_body_bytes = max_body_bytes
        port = url.port or (443 if url.scheme == "https" else 80)
        host = (url.hostname or "").encode("idna").decode()
        self._origin = Target(url.scheme, host, port, quote(url.path, safe="/%:@!$&'()*+,;=~"))
        # Compressed answers are not asked for: they would cost more CPU than the bytes they save.
        self._headers = {"Host": _host(url), "Accept-Encoding": "identity", **headers}
        proxies = proxies_of_environment(url.geturl())
        self._session = HttpSession(SessionConfig(connect_timeout, read_timeout, _tls_context, proxies=proxies))
        self._pool = self._session.pool(self._origin)

    def request(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        """Send one request and read its whole answer. `path` is sent as it is, behind the path of `base_url`.

        Raises TransportError when there is no complete answer, BodyTooLargeError when it is too large.
        """
        origin = self._origin
        request = Request(
            method, Target(origin.scheme, origin.host, origin.port, origin.path + path), self._headers, body
        )
        watch = Watch(time.monotonic() + self._deadline)
        watchdog = self._session.watchdog
        watchdog.add(watch)
        try:
            response = self._session.send(request, watch, self._pool)
            watch.until = watch.ends_at
            try:
                encoded = response.read_whole(self._max_body_bytes)
                plain = decompressed(encoded, response.header("Content-Encoding"), self._max_body_bytes)
            except BaseException:
                response.close()
                raise
        finally:
            watchdog.remove(watch)
        response.release()
        return HttpAnswer(response.status, response.headers, plain)

    def close(self) -> None:
        """Close every connection; a thread that waits for an answer wakes with an error."""
        self._session.close()


def parsed_base_url(base_url: str) -> SplitResult:
    """The parts of a base URL. Raises ValueError, without the text, for one that is no plain http(s) address."""
    try:
        url = urlsplit(base_url.rstrip("/"))
        is_plain = url.port != 0 and not ("@" in url.netloc or url.query or url.fragment)
    except ValueError:  # it quotes what may be a password
        is_plain = False
    if not is_plain or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("base_url (LUMA_BASE_URL) must be like https://host or https://host/prefix")
    return url


def _host(url: SplitResult) -> str:
    """Host and port as a request names them: a name of other letters in its ASCII form."""
    return url.netloc if url.netloc.isascii() else url.netloc.encode("idna").decode()


def _tls_context() -> ssl.SSLContext:
    """Certificates as requests finds them: REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, else certifi's."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    is_folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
