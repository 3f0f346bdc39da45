"""The provider's room: the threads that ask, no more of them than the provider's latency needs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["WorkerPool"]

_Work = TypeVar("_Work")


class WorkerPool(Generic[_Work]):
    """Does work in threads: the thread that went idle last is woken first.

    Threads that compute at the same time fight over the interpreter. So only as many are at work as it takes to have
    one computing while the others wait for the provider: the shortest wall time of late divided by the processor time.
    A thread that has been at one piece of work for STALLED seconds is waiting, so another one may join.

    Args:
        work: Does one piece of work. It must not raise.
        most: Threads at most.
        name: Beginning of the threads' names.
    """

    STALLED = 0.05
    _SAMPLES = 16

    def __init__(self, work: Callable[[_Work], None], most: int, name: str) -> None:
        self._work = work
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._queue: deque[_Work] = deque()
        self._idle: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self._busy_since: dict[int, float] = {}
        self._active = 0
        self._needed = 1
        self._wall_seconds: deque[float] = deque(maxlen=self._SAMPLES)
        self._cpu_seconds: deque[float] = deque(maxlen=self._SAMPLES)
        self._is_closed = False

    def put(self, pieces: Iterable[_Work]) -> None:
        """Queue work. Work that is put after `close` is never done."""
        with self._lock:
            self._queue.extend(pieces)
            self._wake()

    @property
    def wanted(self) -> int:
        """How many threads may be at work now."""
        with self._lock:
            return self._limit()

    def relieve(self) -> None:
        """Let more threads join where the others are stalled."""
        with self._lock:
            self._wake()

    def close(self, timeout: float) -> None:
        """Drop the queue and end the threads. Threads that are still at work after `timeout` seconds are left behind.

        Such a thread ends by itself as soon as its work does.
        """
        with self._lock:
            self._is_closed = True
            self._queue.clear()
            for idle in self._idle:
                idle.set()
        ends_at = time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_at - time.monotonic()))

    def _wake(self) -> None:
        """Bring as many threads to work as there may be. The lock is held."""
        if self._is_closed:
            return
        room = min(self._limit(), self._active + len(self._queue)) - self._active
        for _ in range(room):
            self._active += 1
            if self._idle:
                self._idle.pop().set()
            else:
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _limit(self) -> int:
        """How many threads may be at work now. The lock is held."""
        stalled_since = time.monotonic() - self.STALLED
        stalled = sum(since < stalled_since for since in self._busy_since.values())
        return min(self._most, self._needed + stalled)

    def _run(self) -> None:
        me = threading.get_ident()
        idle = threading.Event()
        spent: tuple[float, float] | None = None
        while True:
            with self._lock:
                if spent is not None:
                    self._measure(*spent)
                self._busy_since.pop(me, None)
                if self._is_closed:
                    return
                piece = self._queue.popleft() if self._queue and self._active <= self._limit() else None
                if piece is None:
                    self._active -= 1
                    self._idle.append(idle)
                else:
                    self._busy_since[me] = time.monotonic()
            spent = None
            if piece is None:
                idle.wait()
                idle.clear()
                continue
            started, cpu_started = time.monotonic(), time.thread_time()
            self._work(piece)
            spent = time.monotonic() - started, time.thread_time() - cpu_started

    def _measure(self, wall: float, cpu: float) -> None:
        """Learn how many threads are needed from one piece of work. The lock is held."""
        self._wall_seconds.append(wall)
        self._cpu_seconds.append(cpu)
        mean_cpu = sum(self._cpu_seconds) / len(self._cpu_seconds)
        # Rounded, not rounded up: without latency one thread is a tenth faster than two that share the interpreter.
        needed = min(self._most, max(1, round(min(self._wall_seconds) / max(mean_cpu, 1e-6))))
        grows, self._needed = needed > self._needed, needed
        if grows:
            self._wake()
