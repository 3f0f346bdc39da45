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
        """Take the next place if it is there and return 0.0, or return the seconds until it may be."""

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`: the provider named a time to come back (`Retry-After`)."""

    def accepted(self) -> None:
        """A request was answered and was not too fast."""

    def throttled(self) -> None:
        """A request was answered "too fast" (429, or 503 as some limiters say it)."""


class TokenBucket:
    """At most `requests_per_second` in the long run and `burst` at once.

    A sender that comes late by up to `CATCH_UP` seconds takes the place it was late for, or every wait that lasts a
    little longer than asked would slow the whole run down. A limiter that knows no burst refuses those few, so each
    refusal takes a little off the rate, which comes back slowly: whoever set it may have set it a little too high.
    """

    CATCH_UP = 0.05
    FALL = 0.97
    """What is left of the rate after a refusal; those within a second count once."""
    RISE = 0.0005
    """What comes back of it in a second, as a share of `requests_per_second`."""
    DEAF = 1.0

    def __init__(self, requests_per_second: float, burst: int = 1) -> None:
        if not requests_per_second > 0:
            raise ValueError(f"requests_per_second must be above 0, not {requests_per_second}")
        if burst < 1:
            raise ValueError(f"burst must be at least 1, not {burst}")
        self._lock = threading.Lock()
        self._set = requests_per_second
        self._share = 1.0
        self._slack = max((burst - 1) / requests_per_second, self.CATCH_UP)
        self._next = self._changed_at = time.monotonic()

    @property
    def rate(self) -> float:
        """Requests per second allowed at this moment."""
        with self._lock:
            return self._set * self._share_at(time.monotonic())

    def reserve(self) -> float:
        """See `Pace.reserve`."""
        with self._lock:
            now = time.monotonic()
            place = max(self._next, now - self._slack)
            if place > now:
                return place - now
            self._next = place + 1.0 / (self._set * self._share_at(now))
            return 0.0

    def hold(self, seconds: float) -> None:
        """See `Pace.hold`."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def accepted(self) -> None:
        """A set rate learns nothing from success."""

    def throttled(self) -> None:
        """See `Pace.throttled`."""
        with self._lock:
            now = time.monotonic()
            if self._share == 1.0 or now - self._changed_at > self.DEAF:
                self._share = max(0.1, self.FALL * self._share_at(now))
                self._changed_at = now

    def _share_at(self, now: float) -> float:
        return min(1.0, self._share + self.RISE * (now - self._changed_at))


class AdaptivePace:
    """Finds the provider's limit: full speed until told to slow down, then a cubic approach to the limit it met.

    The rate that was accepted just before a throttle is taken as the limit. The rate falls a little below it, comes
    back to it within seconds, stays close for most of a period and only then probes above, so that nearly all of the
    limit is used and few requests are refused. The idea (and the name of the curve) is CUBIC's, RFC 9438, which AWS's
    adaptive retry mode applies to request rates too.

    What got through before a throttle says little if that came within the first second, or if nothing got through at
    all (an outage). The rate then doubles quickly from there until the next throttle, as in TCP's slow start.
    """

    FALL = 0.95
    """What is left of the measured limit after a throttle."""
    PERIOD = 12.0
    """Seconds from a throttle until the rate is back at the measured limit, at least."""
    PERIODS_OF_A_HOLD = 50.0
    """The same in lengths of the hold that came with the throttle: the dearer one is, the rarer it may be."""
    WINDOW = 2.0
    """Seconds over which accepted requests are counted to measure the limit."""
    DEAF = 1.0
    """Seconds after a throttle in which further ones count as the same event: they were sent before it was known."""
    SETTLED = 0.1
    """How far two limits measured one after the other may differ to be believed."""
    UNSETTLED_PERIOD = 6.0
    """Seconds of the way back to a limit that is not believed yet."""
    LEAST = 0.9
    """What is left of the rate after a throttle at least, however little was counted."""
    DOUBLING = 0.25
    """Seconds in which the rate doubles while the limit is only a guess."""
    CATCH_UP = TokenBucket.CATCH_UP
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
        self._resumed_at = self._started
        self._period = self.PERIOD
        self._is_settled = False

    @property
    def rate(self) -> float | None:
        """Requests per second allowed at this moment; None while no limit has been met."""
        with self._lock:
            return None if self._limit is None else self._rate(time.monotonic())

    def reserve(self) -> float:
        """See `Pace.reserve`."""
        with self._lock:
            now = time.monotonic()
            place = max(self._next, now - self.CATCH_UP)
            if place > now:
                return place - now
            if self._limit is not None:
                self._next = place + 1.0 / self._rate(now)
            return 0.0

    def hold(self, seconds: float) -> None:
        """See `Pace.hold`."""
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._next:
                self._next = self._resumed_at = until
                self._period = max(self.PERIOD, self.PERIODS_OF_A_HOLD * seconds)
                # Time on hold is no time in which the curve may climb.
                self._throttled_at = max(self._throttled_at, until)

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
            since = max(self._started, self._resumed_at)
            # A second is the least base: what a server lets through as a first burst is not its rate.
            seconds = min(self.WINDOW, max(1.0, now - since))
            measured = sum(accepted >= since for accepted in self._accepted) / seconds
            rate = None if self._limit is None else self._rate(now)
            if self._limit is None or rate is None:
                self._is_guess = now - self._started < 1.0
            elif self._is_guess:
                # While the rate doubles, what is counted lags behind it; the limit was passed one doubling ago.
                measured = max(measured, rate / 2.0)
                self._is_guess = False
            else:
                # One odd answer, or a count that has hardly begun, must not stall the run.
                measured = max(measured, min(self.LEAST * rate, self._limit))
            self._is_guess = self._is_guess or not self._accepted
            measured = max(measured, self.FLOOR)
            self._is_settled = self._limit is not None and abs(measured / self._limit - 1.0) < self.SETTLED
            self._limit = measured
            self._throttled_at = max(now, self._resumed_at)

    def _forget(self, now: float) -> None:
        while self._accepted and self._accepted[0] < now - self.WINDOW:
            self._accepted.popleft()

    def _rate(self, at: float) -> float:
        assert self._limit is not None  # noqa: S101 - called only once a limit is known
        seconds = max(0.0, at - self._throttled_at)
        if self._is_guess:
            growth: float = 2.0 ** min(seconds / self.DOUBLING, 20.0)
            return self._limit * growth
        x = seconds / (self._period if self._is_settled else self.UNSETTLED_PERIOD) - 1.0
        return max(self.FLOOR, self._limit * (1.0 + (1.0 - self.FALL) * x**3))
