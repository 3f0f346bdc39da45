"""The limit room: what a rate limiter is, and the gate through which the threads of a run pass it."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["RateLimitGate", "RateLimiter", "Sleeper"]


class RateLimiter(Protocol):
    """Decides when a request may be sent. Shared by every thread; all times are monotonic seconds."""

    def try_acquire(self) -> float:
        """Take the next slot if it is free and return 0.0, or return the seconds until it may be."""

    def on_success(self) -> None:
        """A request was answered and was not too fast."""

    def on_throttle(self, retry_after: float | None = None) -> None:
        """A request was answered "too fast" (429, or 503 as some limiters say it).

        `retry_after` are the seconds in which the provider wants to hear nothing (`Retry-After`), if it named any.
        """


class Sleeper(Protocol):
    """Sleeps for the gate."""

    def sleep(self, seconds: float) -> None:
        """Sleep, and raise as soon as nothing is to be sent any more."""


class RateLimitGate:
    """Lets threads through as a rate limiter allows.

    One thread waits for the next slot and the others wait for that thread. So what is learnt meanwhile, a hold or
    another rate, counts for all of them.
    """

    def __init__(self, limiter: RateLimiter, stop: Sleeper) -> None:
        self.limiter = limiter
        self._stop = stop
        self._turn = threading.Lock()

    def acquire(self) -> float:
        """Wait for a slot and return the seconds that took. Raises what stopped the client."""
        if self.limiter.try_acquire() == 0.0:
            return 0.0
        started = time.monotonic()
        with self._turn:
            while (seconds := self.limiter.try_acquire()) > 0:
                self._stop.sleep(seconds)
        return time.monotonic() - started
