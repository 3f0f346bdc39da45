"""The client's threads, its rate limiter and a server's limiter in simulated time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from luma_pipeline.limit import RateLimiter

__all__ = [
    "Clock",
    "FixedWindow",
    "Free",
    "Limiter",
    "Outage",
    "Refusing",
    "Report",
    "RetryAfter",
    "SlidingWindow",
    "Switch",
    "TokenLimiter",
    "simulate",
]

RetryAfter = float | Literal["exact"] | None
"""What a 429 carries: seconds, the time until it would be let through in whole seconds rounded up, or nothing."""

_WAKE_UP = 1e-4
"""Mean seconds by which a thread wakes up late."""
_CPU = 2e-4
"""Seconds of the client's own work for a request."""


class Clock:
    """What a rate limiter takes for the monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Limiter(Protocol):
    def wait(self, now: float) -> float:
        """Let a request through and return 0.0, or return the seconds until one would be let through."""


class Free:
    """No limit."""

    def wait(self, now: float) -> float:
        return 0.0


class TokenLimiter:
    """A token bucket that starts full."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        self._tokens = min(self._burst, self._tokens + (now - (self._at or now)) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= 1.0
        return 0.0


class FixedWindow:
    """`count` requests in each window of `seconds`; the first window is `offset` seconds old when the clock starts."""

    def __init__(self, count: int, seconds: float = 1.0, offset: float = 0.3) -> None:
        self._count, self._seconds, self._offset = count, seconds, offset
        self._window, self._used = -1, 0

    def wait(self, now: float) -> float:
        window = math.floor((now + self._offset) / self._seconds)
        if window != self._window:
            self._window, self._used = window, 0
        if self._used < self._count:
            self._used += 1
            return 0.0
        return (window + 1) * self._seconds - self._offset - now


class SlidingWindow:
    """`count` requests in any `seconds`."""

    def __init__(self, count: int, seconds: float = 1.0) -> None:
        self._count, self._seconds = count, seconds
        self._passed: deque[float] = deque()

    def wait(self, now: float) -> float:
        while self._passed and self._passed[0] <= now - self._seconds:
            self._passed.popleft()
        if len(self._passed) < self._count:
            self._passed.append(now)
            return 0.0
        return self._passed[0] + self._seconds - now


class Switch:
    """One limiter for the first `seconds`, another from then on."""

    def __init__(self, first: Limiter, seconds: float, then: Limiter) -> None:
        self._first, self._seconds, self._then = first, seconds, then
        self._until: float | None = None

    def wait(self, now: float) -> float:
        if self._until is None:
            self._until = now + self._seconds
        return (self._first if now < self._until else self._then).wait(now)


class Refusing:
    """Refuses the requests with these numbers, counted from 1, whatever the limit."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = frozenset(numbers)
        self._seen = 0

    def wait(self, now: float) -> float:
        self._seen += 1
        return 1.0 if self._seen in self._numbers else 0.0


class Outage:
    """Refuses everything, and never says for how long."""

    def wait(self, now: float) -> float:
        return math.inf


@dataclass
class Report:
    """What came of it, in simulated seconds."""

    seconds: float = 0.0
    requests: int = 0
    refused: int = 0
    longest_silence: float = 0.0
    """The longest time between two answers that were no refusal."""
    sent_on_hold: int = 0

    @property
    def share_refused(self) -> float:
        return self.refused / self.requests


def simulate(
    rate_limiter: RateLimiter,
    clock: Clock,
    limiter: Limiter,
    tasks: int,
    *,
    latency: float = 0.02,
    retry_after: RetryAfter = None,
    threads: int = 16,
    seed: int = 0,
) -> Report:
    """Ask for `tasks` as `LumaClient` does, with the waits and the retries of its `Requester`."""
    return _Simulation(rate_limiter, clock, limiter, tasks, latency, retry_after, threads, random.Random(seed)).run()


class _Simulation:
    def __init__(
        self,
        rate_limiter: RateLimiter,
        clock: Clock,
        limiter: Limiter,
        tasks: int,
        latency: float,
        retry_after: RetryAfter,
        threads: int,
        chance: random.Random,
    ) -> None:
        self._rate_limiter, self._clock, self._limiter = rate_limiter, clock, limiter
        self._open, self._latency, self._retry_after, self._chance = tasks, latency, retry_after, chance
        self._events: list[tuple[float, int, Callable[[int], None], int]] = []
        self._order = itertools.count()
        self._attempts = [0] * threads
        self._turn: deque[int] = deque()
        """Who waits for a slot: the first for the rate limiter, the others for the first."""
        self._held_until = 0.0
        self._is_scouted = False
        self._started = self._answered_at = clock.now + chance.random()
        self._report = Report()

    def run(self) -> Report:
        self._clock.now = self._started
        self._begin_task(0)
        while self._events:
            self._clock.now, _, step, thread = heapq.heappop(self._events)
            step(thread)
        self._report.seconds = self._answered_at - self._started
        return self._report

    def _later(self, seconds: float, step: Callable[[int], None], thread: int) -> None:
        heapq.heappush(self._events, (self._clock.now + seconds, next(self._order), step, thread))

    def _begin_task(self, thread: int) -> None:
        if self._open:
            self._open -= 1
            self._attempts[thread] = 0
            self._attempt(thread)

    def _attempt(self, thread: int) -> None:
        if self._rate_limiter.try_acquire() == 0.0:
            self._send(thread)
            return
        self._turn.append(thread)
        if len(self._turn) == 1:
            self._wait_for_slot(thread)

    def _wait_for_slot(self, thread: int) -> None:
        while (seconds := self._rate_limiter.try_acquire()) == 0.0:
            self._turn.popleft()
            self._send(thread)
            if not self._turn:
                return
            thread = self._turn[0]
        self._later(seconds + self._chance.expovariate(1.0 / _WAKE_UP), self._wait_for_slot, thread)

    def _send(self, thread: int) -> None:
        self._attempts[thread] += 1
        self._report.requests += 1
        self._report.sent_on_hold += self._clock.now < self._held_until - 1e-9
        self._later(self._latency / 2, self._arrive, thread)

    def _arrive(self, thread: int) -> None:
        wait = self._limiter.wait(self._clock.now)
        step = (lambda thread: self._refused(thread, wait)) if wait else self._accepted
        self._later(self._latency / 2 + _CPU, step, thread)

    def _accepted(self, thread: int) -> None:
        now, report = self._clock.now, self._report
        self._rate_limiter.on_success()
        report.longest_silence = max(report.longest_silence, now - self._answered_at)
        self._answered_at = now
        self._go_together()
        self._begin_task(thread)

    def _refused(self, thread: int, wait: float) -> None:
        self._report.refused += 1
        seconds = math.ceil(wait) if self._retry_after == "exact" and wait < math.inf else self._retry_after
        self._rate_limiter.on_throttle(seconds if isinstance(seconds, (int, float)) else None)
        if isinstance(seconds, (int, float)):
            self._held_until = max(self._held_until, self._clock.now + seconds)
        self._go_together()
        backoff = min(20.0, 0.5 * 2.0 ** self._attempts[thread])
        self._later(self._chance.uniform(0.0, backoff), self._attempt, thread)

    def _go_together(self) -> None:
        """The client's very first request goes alone."""
        if not self._is_scouted:
            self._is_scouted = True
            for thread in range(1, len(self._attempts)):
                self._begin_task(thread)
