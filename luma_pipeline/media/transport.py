"""The media room: one GET to a media host, checked at the socket.

No proxy: the address that counts is the one the socket is connected to, and behind a proxy that is the proxy's. No
credentials, neither of the link, of `.netrc` nor a cookie: a link brings its own signature, and comes from an answer
that could name any host.
"""

from __future__ import annotations

import ssl
import threading

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from luma_pipeline import __version__
from luma_pipeline.http.deadline import Watch
from luma_pipeline.http.guard import Guard, Target
from luma_pipeline.http.session import HttpSession, Request, Response, SessionConfig

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"luma-pipeline/{__version__}"}
_MOST_IDLE = 64
"""Connections kept for later requests, over all hosts. A process may have as few as 256 files and sockets."""
_MOST_IDLE_HOSTS = 8


class Transport:
    """Connections to media hosts, shared by the threads of a copier.

    timeouts: (connect, read) in seconds: the first for each address and for the TLS handshake, the second for the
        answer's head as a whole and for each wait for bytes of its body.
    stopping: cuts what is under way, once it is set.
    """

    def __init__(
        self, guard: Guard, timeouts: tuple[float, float], max_workers: int, stopping: threading.Event
    ) -> None:
        self._guard = guard
        hosts = max(1, min(_MOST_IDLE_HOSTS, _MOST_IDLE // max_workers))
        config = SessionConfig(*timeouts, _tls_context, guard, idle_hosts=hosts, idle_per_host=max_workers)
        self._session = HttpSession(config, stopping)

    def get(self, target: Target, headers: dict[str, str], deadline: float) -> Response:
        """Send one GET and read the answer's head; the whole answer has to be read by `deadline` (monotonic).

        Raises TargetRefusedError for a forbidden host or address, TransportError when there is no answer.
        """
        self._guard.check_host(target.host)
        watch = Watch(deadline)
        watchdog = self._session.watchdog
        watchdog.add(watch)
        try:
            return self._session.send(
                Request("GET", target, {"Host": target.host_header, **_HEADERS, **headers}), watch
            )
        finally:
            watchdog.remove(watch)

    def close(self) -> None:
        """Cut what is under way, and close the idle connections."""
        self._session.close()


def _tls_context() -> ssl.SSLContext:
    """The system's certificates (SSL_CERT_FILE is honoured) and those requests brings: slim images have none."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context
