"""The provider's room: how fast requests may leave, for all threads of a run together."""

from __future__ import annotations

import math
import threading
import time
from typing import Protocol

from luma_pipeline.luma.stop import StopSignal

__all__ = ["AdaptiveRateLimiter", "RateLimitGate", "RateLimiter", "TokenBucket"]


class RateLimiter(Protocol):
    """Decides when a request may be sent. Shared by every thread; all times are monotonic seconds."""

    def try_acquire(self) -> float:
        """Take the next slot if it is free and return 0.0, or return the seconds until it may be."""

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`: the provider named a time to come back (`Retry-After`)."""

    def on_success(self) -> None:
        """A request was answered and was not too fast."""

    def on_throttle(self) -> None:
        """A request was answered "too fast" (429, or 503 as some limiters say it)."""


class RateLimitGate:
    """Lets threads through as a rate limiter allows.

    One thread waits for the next slot and the others wait for that thread. So what is learnt meanwhile, a hold or
    another rate, counts for all of them.
    """

    def __init__(self, limiter: RateLimiter, stop: StopSignal) -> None:
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

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = time.monotonic()
            slot = max(self._next, now - self._slack)
            if slot > now:
                return slot - now
            self._next = slot + 1.0 / (self._set * self._share_at(now))
            return 0.0

    def hold(self, seconds: float) -> None:
        """See `RateLimiter.hold`."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def on_success(self) -> None:
        """A set rate learns nothing from success."""

    def on_throttle(self) -> None:
        """See `RateLimiter.on_throttle`."""
        with self._lock:
            now = time.monotonic()
            if self._share == 1.0 or now - self._changed_at > self.DEAF:
                self._share = max(0.1, self.FALL * self._share_at(now))
                self._changed_at = now

    def _share_at(self, now: float) -> float:
        return min(1.0, self._share + self.RISE * (now - self._changed_at))


class _History:
    """What was accepted, and when, from one refusal to the next."""

    MARKS = 400
    """Moments that are kept. When there are more, every second one of the older half goes."""
    APART = 0.01
    """Least seconds between two moments."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.accepted = 0
        self._last = 0.0
        self._marks: list[tuple[float, int]] = []

    def accept(self, now: float) -> None:
        """Count an answer that was not a refusal."""
        if self.since is None:
            self.since = now
        marks = self._marks
        if not marks or now - marks[-1][0] >= self.APART:
            marks.append((now, self.accepted))
            if len(marks) > self.MARKS:
                marks[: self.MARKS // 2] = marks[: self.MARKS // 2 : 2]
        self.accepted += 1
        self._last = now

    def seconds(self, now: float) -> float:
        """Since the first answer."""
        return 0.0 if self.since is None else now - self.since

    def drained(self, rate: float) -> float:
        """The most that a bucket of `rate` tokens a second ever lacked while it let all this through."""
        lacking = most = 0.0
        at, counted = self.since or 0.0, 0
        for mark, before in [*self._marks, (self._last, self.accepted)]:
            lacking = max(0.0, lacking + before - counted - rate * (mark - at))
            most = max(most, lacking)
            at, counted = mark, before
        return most

    def limit(self, burst: float) -> float:
        """The least rate at which a bucket of `burst` tokens could have let all this through."""
        low, high = 0.0, self.accepted / self.APART
        while high - low > 0.001 * high and high > 0.1:
            middle = (low + high) / 2.0
            if self.drained(middle) > burst:
                low = middle
            else:
                high = middle
        return high


class AdaptiveRateLimiter:
    """Finds the provider's limit: full speed until the first refusal, then close to what the refusals tell.

    The provider's limiter is modelled as a bucket of `burst` tokens that fills at `limit` tokens a second. What the
    bucket let through before a refusal tells how low the limit can be, and a longer time tells it more exactly. What it
    let through before the first refusal tells how large the burst is. A window of a second is near enough to a bucket.

    The first refusal tells the burst only. The rate then starts from what was accepted and doubles until the second
    refusal, which is measured. From then on the rate follows CUBIC's curve (RFC 9438) around the limit. It starts
    `margin` below the limit, is flat near the limit, and rises to `margin` above. The seconds until the rate is back at
    the limit are the cost of a refusal divided by the margin. So refusals are rarer the more they cost and the better
    the limit is known. What is lost below the limit is about as much as what refusals cost.

    Refusals without an answer between them are one event. The provider is then asked at growing intervals, so that a
    used-up quota of a minute does not use up the tasks' tries.
    """

    FLOOR = 1.0
    """Requests per second that are always allowed: a long outage must not stop the requests for good."""
    DOUBLING = 0.5
    """Seconds in which the rate doubles after the first refusal. Half of that brings too few answers to measure by.
    Twice of that costs as much on the way up as the hold at the end."""
    DOUBLING_AGAIN = 4.0
    """The same once the limit has grown, which is most often a little."""
    LEAST_MARGIN = 0.015
    """The smallest margin, also for a limit that is known exactly: so a lower limit is noticed early."""
    MARGIN_SHARE = 0.25
    """Share of the gap between the measured limit and the refused rate. Most of the gap is the burst."""
    COST = 0.2
    """Least seconds that a refusal costs. A refusal costs its `Retry-After`, in which nothing is sent."""
    COST_REQUESTS = 5.0
    """A refusal costs at least the time of this many requests: so refusals stay few under a slow limit too."""
    FALL = 0.05
    MOST_FALL = 0.25
    AT_ONCE = 3
    """The share that a rate below the limit loses by a refusal, and the most it loses. The share doubles each time
    that fewer than AT_ONCE answers came before the next refusal."""
    SURE = 2.0
    SURE_REQUESTS = 5.0
    """Nobody can have saved up this many bursts and requests above the limit: the limit is higher now."""
    LATE = 0.5
    """Seconds after a refusal in which answers belong to requests from before the refusal."""
    WAIT = 0.25
    WAIT_SHARE = 0.1
    LONGEST_WAIT = 10.0
    """Seconds between requests to a provider that only refuses: the least, the share of the time since the first
    refusal, and the most. A request in vain costs little, but waiting on costs the whole run."""
    IDLE = 1.0
    """Seconds without a request after which the client has nothing to ask."""
    CATCH_UP = TokenBucket.CATCH_UP

    def __init__(self) -> None:
        self._lock = threading.Lock()
        now = time.monotonic()
        self._limit: float | None = None
        self._burst = 1.0
        self._margin = 1.0
        self._fall = 0.0
        self._is_measured = False
        self._first_history = self._history = _History()
        self._excess, self._counted_at = 0.0, now
        self._refused_at: float | None = None
        self._late_until = now
        self._held = 0.0
        self._since = now  # Since when the rate follows its curve: not while it is held back or idle.
        self._doubling: float | None = None
        self._base = 0.0
        self._next = self._probe_at = now
        self._catch_up = self.CATCH_UP

    @property
    def rate(self) -> float | None:
        """Requests per second allowed at this moment; None while no limit has been met."""
        with self._lock:
            return None if self._limit is None else self._rate(time.monotonic(), self._limit)

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = time.monotonic()
            slot = max(self._next, now - self._catch_up, self._probe_at)
            if slot > now:
                return slot - now
            if self._limit is None:
                return 0.0
            self._next = slot + self._gap(now, self._limit)
            return 0.0

    def hold(self, seconds: float) -> None:
        """See `RateLimiter.hold`."""
        with self._lock:
            until = time.monotonic() + seconds
            self._next = max(self._next, until)
            self._late_until = max(self._late_until, until)
            self._held = max(self._held, seconds)

    def on_success(self) -> None:
        """See `RateLimiter.on_success`."""
        now = time.monotonic()
        with self._lock:
            if self._refused_at is None:
                self._note_excess(now)
            elif now >= self._late_until:
                self._refused_at = None
                self._since = self._probe_at = now
                self._history = _History()
                self._excess, self._counted_at = 0.0, now
            self._history.accept(now)

    def on_throttle(self) -> None:
        """See `RateLimiter.on_throttle`."""
        now = time.monotonic()
        with self._lock:
            if self._refused_at is not None:
                return
            if self._limit is None:
                self._start(now)
            else:
                self._learn(self._limit, self._rate(now, self._limit))
            self._refused_at = now
            self._late_until = now + self.LATE
            self._held = 0.0

    def _start(self, now: float) -> None:
        """Take what was accepted before the first refusal as the limit of a second."""
        self._limit = self._base = max(self.FLOOR, self._history.accepted / max(1.0, self._history.seconds(now)))
        self._doubling = self.DOUBLING
        self._catch_up = 0.0  # A limiter without a burst refuses who catches up: not before that is known.

    def _learn(self, limit: float, rate: float) -> None:
        """Measure the limit and the burst by the history that a refusal at `rate` ended."""
        history = self._history
        if not self._is_measured:
            # The burst follows from the limit and the limit from the burst.
            self._burst = float(self._first_history.accepted)
            for _ in range(2):
                self._burst = self._burst_of(self._first_history, history.limit(self._burst))
        elif rate < limit:
            # The limit is too high, most often because the burst is larger than measured.
            self._burst = max(self._burst, self._burst_of(self._first_history, rate))
        least = min(rate, history.limit(self._burst))
        if rate < limit:
            is_at_once = self._fall > 0.0 and history.accepted < self.AT_ONCE
            self._fall = min(self.MOST_FALL, 2.0 * self._fall) if is_at_once else self.FALL
            self._limit = max(self.FLOOR, least, rate * (1.0 - self._fall))
        else:
            self._fall = 0.0
            self._limit = max(least, limit)
            if self._is_measured and least < limit:
                self._burst = min(self._burst, self._burst_of(history, limit))
        gap = rate / self._limit - 1.0
        self._margin = min(1.0, max(self.LEAST_MARGIN, gap if rate < limit else self.MARGIN_SHARE * gap))
        self._doubling, self._is_measured = None, True
        self._catch_up = min(self.CATCH_UP, (self._burst - 1.0) / self._limit)

    @staticmethod
    def _burst_of(history: _History, limit: float) -> float:
        return max(1.0, float(round(history.drained(limit))))

    def _note_excess(self, now: float) -> None:
        """Count what is accepted above the limit, and double the rate when that is more than a burst."""
        if self._limit is None or self._doubling is not None:
            return
        self._excess = max(0.0, self._excess - self._limit * (now - self._counted_at)) + 1.0
        self._counted_at = now
        if self._excess > self.SURE * self._burst + self.SURE_REQUESTS:
            self._base, self._since, self._doubling = self._rate(now, self._limit), now, self.DOUBLING_AGAIN

    def _gap(self, now: float, limit: float) -> float:
        """Seconds from a slot that is taken now to the next one."""
        if self._refused_at is None and now - self._next > self.IDLE:
            self._since = min(now, self._since + now - self._next)
        rate = self._rate(now, limit)
        if self._refused_at is not None and now >= self._late_until:
            wait = self.WAIT_SHARE * (now - self._refused_at)
            self._probe_at = now + min(max(self.WAIT, wait), self.LONGEST_WAIT)
        if self._refused_at is not None or self._doubling is None:
            return 1.0 / rate
        # The rate doubles while the next slot is waited for, too.
        e_fold = self._doubling / math.log(2.0)
        return e_fold * math.log1p(1.0 / (rate * e_fold))

    def _rate(self, at: float, limit: float) -> float:
        seconds = max(0.0, at - self._since) if self._refused_at is None else 0.0
        if self._doubling is not None:
            return self._base * float(2.0 ** min(seconds / self._doubling, 20.0))
        cost = max(self._held, self.COST, self.COST_REQUESTS / limit)
        curve = min(1.0, (seconds * self._margin / cost - 1.0) ** 3)
        return max(self.FLOOR, limit * (1.0 + self._margin * curve))
