"""The limit room: a set rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["TokenBucket"]


class TokenBucket:
    """At most `requests_per_second` in the long run and `burst` at once.

    A sender that comes late by up to `CATCH_UP` seconds takes the slot that it was late for. Otherwise every wait that
    lasts a little longer than asked would slow the whole run down. A server's limiter that knows no burst refuses
    those few requests. So each refusal takes a little off the rate, which comes back slowly: the rate may have been
    set a little too high.
    """

    CATCH_UP = 0.05
    FALL = 0.97
    """What is left of the rate after a refusal. Refusals within a second count once."""
    RISE = 0.0005
    """What the rate regains in a second, as a share of `requests_per_second`."""
    LEAST = 0.1
    """The share of the rate that refusals leave at least."""
    DEAF = 1.0

    def __init__(self, requests_per_second: float, burst: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        if not requests_per_second > 0:
            raise ValueError(f"requests_per_second must be above 0, not {requests_per_second}")
        if burst < 1:
            raise ValueError(f"burst must be at least 1, not {burst}")
        self._clock = clock
        self._lock = threading.Lock()
        self._set = requests_per_second
        self._share = 1.0
        self._slack = max((burst - 1) / requests_per_second, self.CATCH_UP)
        self._next = self._changed_at = self._clock()

    @property
    def rate(self) -> float:
        """Requests per second allowed at this moment."""
        with self._lock:
            return self._set * self._share_at(self._clock())

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = self._clock()
            slot = max(self._next, now - self._slack)
            if slot > now:
                return slot - now
            self._next = slot + 1.0 / (self._set * self._share_at(now))
            return 0.0

    def on_success(self) -> None:
        """A set rate learns nothing from success."""

    def on_throttle(self, retry_after: float | None = None) -> None:
        """See `RateLimiter.on_throttle`."""
        with self._lock:
            now = self._clock()
            if retry_after is not None:
                self._next = max(self._next, now + retry_after)
            if self._share == 1.0 or now - self._changed_at > self.DEAF:
                self._share = max(self.LEAST, self.FALL * self._share_at(now))
                self._changed_at = now

    def _share_at(self, now: float) -> float:
        return min(1.0, self._share + self.RISE * (now - self._changed_at))
