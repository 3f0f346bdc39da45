"""The provider's room: how fast requests may leave, for all threads of a run together."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

__all__ = ["AdaptivePace", "Pace", "TokenBucket"]


class Pace(Protocol):
    """Decides when a request may be sent. Shared by every thread; all times are monotonic seconds."""

    def reserve(self) -> float:
        """Book the next free place and return how many seconds to wait before sending."""

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`: the provider named a time to come back (`Retry-After`)."""

    def held(self) -> bool:
        """Whether a hold is in force, so that a place booked before it must be booked anew."""

    def accepted(self) -> None:
        """A request was answered and was not too fast."""

    def throttled(self) -> None:
        """A request was answered "too fast" (429, or 503 as some limiters say it)."""


class TokenBucket:
    """At most `requests_per_second` in the long run and `burst` at once.

    Places are booked ahead, so waiting threads leave at even distances instead of all at once when a token appears.
    """

    def __init__(self, requests_per_second: float, burst: int = 1) -> None:
        if not requests_per_second > 0:
            raise ValueError(f"requests_per_second must be above 0, not {requests_per_second}")
        if burst < 1:
            raise ValueError(f"burst must be at least 1, not {burst}")
        self._lock = threading.Lock()
        self._interval = 1.0 / requests_per_second
        self._slack = (burst - 1) * self._interval
        self._next = self._held_until = time.monotonic()

    def reserve(self) -> float:
        """See `Pace.reserve`."""
        with self._lock:
            now = time.monotonic()
            place = max(self._next, now - self._slack, self._held_until)
            self._next = place + self._interval
            return max(0.0, place - now)

    def hold(self, seconds: float) -> None:
        """See `Pace.hold`."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)
            # Above the slack, or a whole burst would leave the moment the hold ends.
            self._next = max(self._next, self._held_until)

    def held(self) -> bool:
        """See `Pace.held`."""
        return time.monotonic() < self._held_until

    def accepted(self) -> None:
        """A fixed rate learns nothing from answers."""

    def throttled(self) -> None:
        """A fixed rate learns nothing from answers."""


class AdaptivePace:
    """Finds the provider's limit: full speed until told to slow down, then a cubic approach to the limit it met.

    The rate that was accepted just before a throttle is taken as the limit. The rate falls a little below it, comes
    back to it within seconds, stays close for most of a period and only then probes above, so that nearly all of the
    limit is used and few requests are refused. The idea (and the name of the curve) is CUBIC's, RFC 9438, which AWS's
    adaptive retry mode applies to request rates too.

    What got through before a throttle says little if that came within the first second, or if nothing got through at
    all (an outage). The rate then doubles quickly from there until the next throttle, as in TCP's slow start.
    """

    FALL = 0.92
    """What is left of the measured limit after a throttle."""
    PERIOD = 12.0
    """Seconds from a throttle until the rate is back at the measured limit."""
    WINDOW = 2.0
    """Seconds over which accepted requests are counted to measure the limit."""
    DEAF = 1.0
    """Seconds after a throttle in which further ones count as the same event: they were sent before it was known."""
    LEAST = 0.7
    """What is left of the rate after a throttle at least, however little was counted."""
    DOUBLING = 0.25
    """Seconds in which the rate doubles while the limit is only a guess."""
    FLOOR = 1.0
    """Requests per second that are always allowed, or a long outage would end the run's hope."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: deque[float] = deque()
        self._started = time.monotonic()
        self._limit: float | None = None
        self._is_guess = False
        self._throttled_at = 0.0
        self._deaf_until = 0.0
        self._next = self._started
        self._held_until = self._started
        self._resumed_at = self._started

    @property
    def rate(self) -> float | None:
        """Requests per second allowed at this moment; None while no limit has been met."""
        with self._lock:
            return None if self._limit is None else self._rate(time.monotonic())

    def reserve(self) -> float:
        """See `Pace.reserve`."""
        with self._lock:
            now = time.monotonic()
            earliest = max(now, self._held_until)
            if self._limit is None:
                return earliest - now
            place = max(self._next, earliest)
            self._next = place + 1.0 / self._rate(place)
            return place - now

    def hold(self, seconds: float) -> None:
        """See `Pace.hold`."""
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._held_until:
                self._held_until = self._resumed_at = until
                # Time on hold is no time in which the curve may climb.
                self._throttled_at = max(self._throttled_at, until)

    def held(self) -> bool:
        """See `Pace.held`."""
        return time.monotonic() < self._held_until

    def accepted(self) -> None:
        """See `Pace.accepted`."""
        now = time.monotonic()
        with self._lock:
            self._accepted.append(now)
            self._forget(now)

    def throttled(self) -> None:
        """See `Pace.throttled`."""
        now = time.monotonic()
        with self._lock:
            if now < self._deaf_until:
                return
            self._deaf_until = now + self.DEAF
            self._forget(now)
            # A second is the least base: what a server lets through as a first burst is not its rate.
            seconds = min(self.WINDOW, max(1.0, now - max(self._started, self._resumed_at)))
            measured = len(self._accepted) / seconds
            if self._limit is None:
                self._is_guess = now - self._started < 1.0
            elif self._is_guess:
                # While the rate doubles, what is counted lags behind it, but not by more than this.
                measured = min(self._rate(now), 3 * measured)
                self._is_guess = False
            else:
                # What was counted may include a hold; and one odd answer must not stall the run.
                measured = max(measured, min(self.LEAST * self._rate(now), self._limit))
            self._is_guess = self._is_guess or not self._accepted
            self._limit = max(measured, self.FLOOR)
            self._throttled_at = now
            self._next = now

    def _forget(self, now: float) -> None:
        while self._accepted and self._accepted[0] < now - self.WINDOW:
            self._accepted.popleft()

    def _rate(self, at: float) -> float:
        assert self._limit is not None  # noqa: S101 - called only once a limit is known
        seconds = max(0.0, at - self._throttled_at)
        if self._is_guess:
            growth: float = 2.0 ** min(seconds / self.DOUBLING, 20.0)
            return self._limit * growth
        x = seconds / self.PERIOD - 1.0
        return max(self.FLOOR, self._limit * (1.0 + (1.0 - self.FALL) * x**3))
