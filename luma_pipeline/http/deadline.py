"""Keeps the time of what blocks on a media host: a socket's own time-out never fires for a host that drips."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Protocol

_INTERVAL_SECONDS = 0.1


class Cuttable(Protocol):
    """A connection, as the watchdog knows it."""

    is_cut: bool

    def cut(self) -> None:
        """Wake the thread that is blocked on it; called again and again until that thread has seen it."""


class Watchdog:
    """One thread that cuts connections whose time is up, and all of them once `stopping` is set.

    It starts with the first connection and ends with `close`.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._until: dict[Cuttable, float] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def bounding(self, connection: Cuttable, until: float) -> Iterator[None]:
        """Raise TimeoutError in place of what a connection ends with, or does not, that is cut at `until` (monotonic).

        Nothing is cut after the block.
        """
        with self._lock:
            self._until[connection] = until
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="media-deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError):
            if not connection.is_cut:
                raise
        finally:
            with self._lock:
                del self._until[connection]
        if connection.is_cut:
            raise TimeoutError

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_INTERVAL_SECONDS):
            now = time.monotonic()
            with self._lock:
                for connection, until in self._until.items():
                    if now > until or self._stopping.is_set():
                        connection.cut()
