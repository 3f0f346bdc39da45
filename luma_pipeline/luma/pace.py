"""The provider's room: how fast requests may leave, for all threads of a run together."""

from __future__ import annotations

import math
import threading
import time
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


class _Stretch:
    """What was accepted, and when, from one refusal to the next."""

    MARKS = 400
    """Moments that are kept. Of the older half every second one is given up for new ones."""
    APART = 0.01
    """Seconds between two of them, at least."""

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


class AdaptivePace:
    """Finds the provider's limit: full speed until the first refusal, then close to what the refusals tell of it.

    A limiter is taken for a bucket of `burst` tokens that fills at `limit` tokens a second. What it let through before
    a refusal then says how low its limit can be, the closer the longer that was; and how large its burst is, by the
    flood before the first refusal. A window of a second is near enough to a bucket.

    The first refusal tells of the burst only. The rate starts anew from what was accepted and doubles until the second
    refusal, which is measured. From then on it follows CUBIC's curve (RFC 9438) around the limit: from `doubt` below
    it, flat where it comes near, then up to as much above it. The seconds until it is back at the limit are what a
    refusal costs divided by the doubt: so the dearer refusals are and the better the limit is known, the rarer they
    come, and what is lost below the limit is about as much as what they cost.

    Refusals without an answer between them are one event, however many there are, and the provider is then asked at
    lengthening intervals: a minute's quota that is used up does not use up the tasks' tries.
    """

    FLOOR = 1.0
    """Requests per second that are always allowed, or a long outage would end the run's hope."""
    DOUBLING = 0.5
    """Seconds in which the rate doubles after the first refusal. In half of it too few answers come to measure by; in
    twice of it the way up costs as much as the hold at its end."""
    DOUBLING_AGAIN = 4.0
    """The same once the limit has grown: most often only a little."""
    LEAST_DOUBT = 0.015
    """A limit that is known exactly is left by this share all the same, so that a lower one is noticed early."""
    DOUBT = 0.25
    """Share of the gap between the measured limit and the rate that was refused. Most of that is the burst."""
    COST = 0.2
    """Seconds that a refusal costs, at least. It costs its `Retry-After`, in which nothing is sent."""
    COST_REQUESTS = 5.0
    """The time of this many requests it costs at least: under a slow limit too, refusals stay a small share."""
    FALL = 0.05
    MOST_FALL = 0.25
    AT_ONCE = 3
    """What a rate below the limit loses by a refusal, as a share, and at most: twice as much each time that fewer
    answers than these came before the next refusal."""
    SURE = 2.0
    SURE_REQUESTS = 5.0
    """Above the limit this many bursts and requests cannot have been saved up: the limit is higher now."""
    LATE = 0.5
    """Seconds after a refusal in which answers belong to what was sent before it."""
    WAIT = 0.25
    WAIT_SHARE = 0.1
    LONGEST_WAIT = 10.0
    """Seconds between requests to a provider that answers nothing but refusals, at least, as a share of the time since
    the first of them, and at most: a request in vain costs little, but waiting on costs the whole run."""
    IDLE = 1.0
    """Seconds without a request after which the client has nothing to ask."""
    CATCH_UP = TokenBucket.CATCH_UP

    def __init__(self) -> None:
        self._lock = threading.Lock()
        now = time.monotonic()
        self._limit: float | None = None
        self._burst = 1.0
        self._doubt = 1.0
        self._fall = 0.0
        self._is_measured = False
        self._flood = self._stretch = _Stretch()
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

    def reserve(self) -> float:
        """See `Pace.reserve`."""
        with self._lock:
            now = time.monotonic()
            place = max(self._next, now - self._catch_up, self._probe_at)
            if place > now:
                return place - now
            if self._limit is None:
                return 0.0
            self._next = place + self._gap(now, self._limit)
            return 0.0

    def hold(self, seconds: float) -> None:
        """See `Pace.hold`."""
        with self._lock:
            until = time.monotonic() + seconds
            self._next = max(self._next, until)
            self._late_until = max(self._late_until, until)
            self._held = max(self._held, seconds)

    def accepted(self) -> None:
        """See `Pace.accepted`."""
        now = time.monotonic()
        with self._lock:
            if self._refused_at is None:
                self._note_excess(now)
            elif now >= self._late_until:
                self._refused_at = None
                self._since = self._probe_at = now
                self._stretch = _Stretch()
                self._excess, self._counted_at = 0.0, now
            self._stretch.accept(now)

    def throttled(self) -> None:
        """See `Pace.throttled`."""
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
        """Take what was accepted before the first refusal for a second's worth."""
        self._limit = self._base = max(self.FLOOR, self._stretch.accepted / max(1.0, self._stretch.seconds(now)))
        self._doubling = self.DOUBLING
        self._catch_up = 0.0  # A limiter without a burst refuses who catches up: not before that is known.

    def _learn(self, limit: float, rate: float) -> None:
        """Measure the limit and the burst by the stretch that a refusal at `rate` ended."""
        stretch = self._stretch
        if not self._is_measured:
            # The flood tells the burst once the limit is known, and the stretch tells that by the burst.
            self._burst = float(self._flood.accepted)
            for _ in range(2):
                self._burst = self._burst_of(self._flood, stretch.limit(self._burst))
        elif rate < limit:
            # The limit is too high, most often since the burst was taken for too small.
            self._burst = max(self._burst, self._burst_of(self._flood, rate))
        least = min(rate, stretch.limit(self._burst))
        if rate < limit:
            is_at_once = self._fall > 0.0 and stretch.accepted < self.AT_ONCE
            self._fall = min(self.MOST_FALL, 2.0 * self._fall) if is_at_once else self.FALL
            self._limit = max(self.FLOOR, least, rate * (1.0 - self._fall))
        else:
            self._fall = 0.0
            self._limit = max(least, limit)
            if self._is_measured and least < limit:
                self._burst = min(self._burst, self._burst_of(stretch, limit))
        gap = rate / self._limit - 1.0
        self._doubt = min(1.0, max(self.LEAST_DOUBT, gap if rate < limit else self.DOUBT * gap))
        self._doubling, self._is_measured = None, True
        self._catch_up = min(self.CATCH_UP, (self._burst - 1.0) / self._limit)

    @staticmethod
    def _burst_of(stretch: _Stretch, limit: float) -> float:
        return max(1.0, float(round(stretch.drained(limit))))

    def _note_excess(self, now: float) -> None:
        """Count what is accepted above the limit, and double the rate when it is too much for a burst."""
        if self._limit is None or self._doubling is not None:
            return
        self._excess = max(0.0, self._excess - self._limit * (now - self._counted_at)) + 1.0
        self._counted_at = now
        if self._excess > self.SURE * self._burst + self.SURE_REQUESTS:
            self._base, self._since, self._doubling = self._rate(now, self._limit), now, self.DOUBLING_AGAIN

    def _gap(self, now: float, limit: float) -> float:
        """Seconds from a place that is taken now to the next one."""
        if self._refused_at is None and now - self._next > self.IDLE:
            self._since = min(now, self._since + now - self._next)
        rate = self._rate(now, limit)
        if self._refused_at is not None and now >= self._late_until:
            wait = self.WAIT_SHARE * (now - self._refused_at)
            self._probe_at = now + min(max(self.WAIT, wait), self.LONGEST_WAIT)
        if self._refused_at is not None or self._doubling is None:
            return 1.0 / rate
        # The rate doubles while the next place is waited for, too.
        e_fold = self._doubling / math.log(2.0)
        return e_fold * math.log1p(1.0 / (rate * e_fold))

    def _rate(self, at: float, limit: float) -> float:
        seconds = max(0.0, at - self._since) if self._refused_at is None else 0.0
        if self._doubling is not None:
            return self._base * float(2.0 ** min(seconds / self._doubling, 20.0))
        cost = max(self._held, self.COST, self.COST_REQUESTS / limit)
        curve = min(1.0, (seconds * self._doubt / cost - 1.0) ** 3)
        return max(self.FLOOR, limit * (1.0 + self._doubt * curve))
