"""The HTTP room: one watchdog keeps the time of every request.

A socket's own time-out never fires for a host that sends a byte now and then. A socket with a time-out also polls
before each send and receive.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_INTERVAL_SECONDS = 0.1


class Watch:
    """The time of one request. Times are monotonic seconds.

    `ends_at` bounds the request as a whole, `until` what is waited for at the moment. `socket` is what the watchdog
    shuts down when `until` is past; the connection sets it.
    """

    __slots__ = ("ends_at", "is_cut", "socket", "until")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.until = ends_at
        self.is_cut = False
        self.socket: socket.socket | None = None

    def allow(self, seconds: float) -> float:
        """Bound the next wait, within the request as a whole; the time it is now."""
        now = time.monotonic()
        self.until = min(self.ends_at, now + seconds)
        return now

    def cut(self) -> None:
        """Wake the thread that waits for the host; called again and again until the thread has seen it."""
        self.is_cut = True
        if self.socket is not None:
            # The plain socket's shutdown, also under TLS: it touches nothing that the other thread is using.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def raise_if_cut(self) -> None:
        """Raise TimeoutError once the time is over."""
        if self.is_cut:
            raise TimeoutError


class Watchdog:
    """One thread that cuts the requests whose time is over, and all of them once `stopping` is set or after `stop`.

    The thread starts with the first request.
    """

    def __init__(self, stopping: threading.Event | None = None) -> None:
        self._stopping = stopping or threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._watches: dict[Watch, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        """Begin to watch. A request that begins after the end is cut at once."""
        with self._lock:
            self._watches[watch] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="http-deadlines", daemon=True)
                self._thread.start()
            if self._stopped.is_set() or self._stopping.is_set():
                watch.cut()

    def remove(self, watch: Watch) -> None:
        """Stop watching: nothing is cut afterwards."""
        with self._lock:
            self._watches.pop(watch, None)

    def stop(self) -> None:
        """Cut at once whatever is under way, and end the thread."""
        self._stopped.set()
        with self._lock:
            for watch in self._watches:
                watch.cut()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            now = time.monotonic()
            with self._lock:
                for watch in self._watches:
                    if now > watch.until or self._stopping.is_set():
                        watch.cut()
