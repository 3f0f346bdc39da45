"""The limit room: a rate limiter that finds the provider's limit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from luma_pipeline.limit.token_bucket import TokenBucket

__all__ = ["AdaptiveRateLimiter"]


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

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now = self._clock()
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
            return None if self._limit is None else self._rate(self._clock(), self._limit)

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = self._clock()
            slot = max(self._next, now - self._catch_up, self._probe_at)
            if slot > now:
                return slot - now
            if self._limit is None:
                return 0.0
            self._next = slot + self._gap(now, self._limit)
            return 0.0

    def on_success(self) -> None:
        """See `RateLimiter.on_success`."""
        now = self._clock()
        with self._lock:
            if self._refused_at is None:
                self._note_excess(now)
            elif now >= self._late_until:
                self._refused_at = None
                self._since = self._probe_at = now
                self._history = _History()
                self._excess, self._counted_at = 0.0, now
            self._history.accept(now)

    def on_throttle(self, retry_after: float | None = None) -> None:
        """See `RateLimiter.on_throttle`."""
        now = self._clock()
        with self._lock:
            if self._refused_at is None:
                if self._limit is None:
                    self._start(now)
                else:
                    self._learn(self._limit, self._rate(now, self._limit))
                self._refused_at = now
                self._late_until = now + self.LATE
                self._held = 0.0
            if retry_after is not None:
                until = now + retry_after
                self._next = max(self._next, until)
                self._late_until = max(self._late_until, until)
                self._held = max(self._held, retry_after)

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
