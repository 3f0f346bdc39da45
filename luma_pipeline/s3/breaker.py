"""The S3 room: ends the requests of a client within a bounded time, whatever the store does."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["RequestBreaker"]

_INTERVAL_SECONDS = 0.2
log = logging.getLogger(__name__)


class RequestsStoppedError(BotoCoreError):
    """A request that was not sent, since the client was told to stop."""

    fmt = "stopped"


class RequestBreaker:
    """Stops the requests of one client. boto3 itself waits for each request until its time-outs are used up.

    After `stop`, requests under way have `grace_seconds` to end. Then their connections are cut, and no request but the
    abort of an upload is sent. After `abort_seconds`, counted from `stop` too, no request is sent at all.
    """

    def __init__(self, client: S3Client, *, grace_seconds: float = 4.0, abort_seconds: float = 8.0) -> None:
        self._client = client
        self._grace_seconds = grace_seconds
        self._abort_seconds = abort_seconds
        self._stopped_at: float | None = None
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self._done = threading.Event()
        client.meta.events.register("before-send.s3", self._before_send)
        self._track_connections()

    def stop(self) -> None:
        """Begin to stop; returns at once."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            threading.Thread(target=self._cut_when_due, name="s3-breaker", daemon=True).start()

    def close(self) -> None:
        """Nothing more is worth waiting for: after a `stop`, what is still under way is cut at once."""
        self._done.set()

    def _before_send(self, *, event_name: str, **_: Any) -> None:
        if self._stopped_at is None:
            return
        seconds = time.monotonic() - self._stopped_at
        is_abort = event_name.endswith(".AbortMultipartUpload")
        if self._done.is_set() or seconds > (self._abort_seconds if is_abort else self._grace_seconds):
            raise RequestsStoppedError

    def _cut_when_due(self) -> None:
        if not self._done.wait(self._grace_seconds):
            self._cut()
            self._done.wait(self._abort_seconds - self._grace_seconds)
        # Again and again: a connection may just have been made.
        while not self._done.wait(_INTERVAL_SECONDS):
            self._cut()
        self._cut()
        time.sleep(_INTERVAL_SECONDS)
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _track_connections(self) -> None:
        """Let the client's pools tell of their connections: boto3 has no way to reach them.

        `tests/s3/test_breaker.py` pins the private names that this needs. Without them requests end with their own
        time-outs.
        """
        session = getattr(getattr(self._client, "_endpoint", None), "http_session", None)
        classes = getattr(session, "_pool_classes_by_scheme", None)
        if not isinstance(classes, dict):
            log.warning("this botocore hides its connections: a store that stalls delays the end of a run")
            return
        for scheme, pool_class in list(classes.items()):
            classes[scheme] = self._tracked(pool_class)

    def _tracked(self, pool_class: Any) -> Any:
        breaker = self

        class TrackedConnection(pool_class.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                with breaker._lock:
                    breaker._connections.add(self)
                super().connect()

            def close(self) -> None:
                with breaker._lock:
                    breaker._connections.discard(self)
                super().close()

        return type("TrackedPool", (pool_class,), {"ConnectionCls": TrackedConnection})
