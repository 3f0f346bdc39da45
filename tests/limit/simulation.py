"""Runs, each with its threads and its rate limiter, under one limiter of a server, in simulated time."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from luma_pipeline.limit import AdaptiveRateLimiter, RateLimiter
from luma_pipeline.limit.peers import LookTimes, Peer, PeerWatch

__all__ = [
    "Board",
    "Clock",
    "FixedWindow",
    "Free",
    "Limiter",
    "Outage",
    "Refusing",
    "Report",
    "RetryAfter",
    "Run",
    "Seat",
    "SlidingWindow",
    "Stray",
    "Switch",
    "TokenLimiter",
    "simulate",
    "simulate_runs",
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


class Stray:
    """Refuses a share of the requests by chance, whatever the rate; the others meet another limiter."""

    def __init__(self, share: float, limiter: Limiter, seed: int = 0) -> None:
        self._share, self._limiter, self._chance = share, limiter, random.Random(seed)

    def wait(self, now: float) -> float:
        return 1.0 if self._chance.random() < self._share else self._limiter.wait(now)


class Outage:
    """Refuses everything, and never says for how long."""

    def wait(self, now: float) -> float:
        return math.inf


class Board:
    """What the runs of an account have told, in a store that answers after `latency` seconds.

    From `lost_at` on (seconds of the clock) it takes and tells nothing.
    """

    def __init__(self, clock: Clock, latency: float = 0.01) -> None:
        self.clock, self.latency = clock, latency
        self.lost_at = math.inf
        self.told: dict[str, tuple[Peer, datetime]] = {}

    @property
    def is_down(self) -> bool:
        return self.clock.now >= self.lost_at

    def time(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=self.clock.now)

    def run(self, name: str, tasks: int, start: float = 0.0, **learnt: Any) -> Run:
        """A run that sees the others."""
        seat = Seat(self, name)
        seat.limiter = AdaptiveRateLimiter(self.clock, board=seat, **learnt)
        return Run(seat.limiter, tasks, start, seat=seat)


class Seat:
    """A run's place at the board: does what the thread of a run does, in simulated time."""

    limiter: AdaptiveRateLimiter
    later: Callable[[float, Callable[[], None]], None]

    def __init__(self, board: Board, run: str) -> None:
        self.run = run
        self.looks = 0
        self._board = board
        self._watch = PeerWatch()
        self._beat = 0
        self._is_looking = self._is_over = False

    def begin(self) -> Mapping[str, Peer]:
        self._times = LookTimes(self._board.clock.now)
        others = {} if self._board.is_down else self._others(None)
        if others:
            self.hurry()
        self._wait()
        return others

    def hurry(self) -> None:
        self._times.hurry(self._board.clock.now)
        if not self._is_looking:
            self._wait()

    def end(self) -> None:
        self._is_over = True
        self.later(self._board.latency, lambda: self._board.told.pop(self.run, None) and None)

    def kill(self) -> None:
        self._is_over = True

    def _wait(self) -> None:
        self.later(self._times.wait(self._board.clock.now), self._look_if_due)

    def _look_if_due(self) -> None:
        if self._is_over or self._is_looking or self._times.wait(self._board.clock.now) > 1e-9:
            return
        if not self.limiter.has_asked_much:
            self._looked()
            return
        self._is_looking = True
        self.looks += 1
        if self.run in self._board.told:
            self.later(self._board.latency, self._read)
        else:
            self.later(self._board.latency, self._tell)
            self.later(2 * self._board.latency, self._read)

    def _tell(self) -> None:
        if not self._is_over and not self._board.is_down:
            self._beat += 1
            self._board.told[self.run] = self.limiter.peer(self._beat), self._board.time()

    def _read(self) -> None:
        if not self._is_over and not self._board.is_down:
            own = self._board.told.get(self.run)
            self.limiter.meet(self.run, self._others(None if own is None else own[1]))
        self.later(self._board.latency, self._looked)

    def _looked(self) -> None:
        if self._is_looking:
            self._tell()
        self._is_looking = False
        self._times.looked(self._board.clock.now)
        self._wait()

    def _others(self, own_at: datetime | None) -> dict[str, Peer]:
        told = {name: each for name, each in self._board.told.items() if name != self.run}
        told_at = {name: at for name, (_, at) in told.items()}
        return {name: told[name][0] for name in self._watch.alive(told_at, own_at, self._board.clock.now)}


@dataclass
class Report:
    """What came of a run, in simulated seconds."""

    started: float = 0.0
    ended: float = 0.0
    requests: int = 0
    refused: int = 0
    longest_silence: float = 0.0
    """The longest time between two answers that were no refusal."""
    sent_on_hold: int = 0
    """Requests that left before the time that a refusal had named."""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def share_refused(self) -> float:
        return self.refused / self.requests


@dataclass
class Run:
    """So many tasks, asked for by `threads` from `start` (seconds) on. `kill_after`: seconds after which it is gone."""

    limiter: RateLimiter
    tasks: int
    start: float = 0.0
    threads: int = 16
    seat: Seat | None = None
    kill_after: float = math.inf
    report: Report = field(default_factory=Report)
    turn: deque[int] = field(default_factory=deque)
    """Tries of those who wait for a slot: the first waits for the rate limiter, the others for the first."""
    held_until: float = 0.0
    is_scouted: bool = False
    answered: int = 0

    def __post_init__(self) -> None:
        self.wanted = self.tasks


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
    """One run, with an even latency: see `simulate_runs`."""
    runs = [Run(rate_limiter, tasks, threads=threads)]
    return simulate_runs(runs, clock, limiter, latency=latency, jitter=0.0, retry_after=retry_after, seed=seed)[0]


def simulate_runs(
    runs: Sequence[Run],
    clock: Clock,
    limiter: Limiter,
    *,
    latency: float = 0.05,
    jitter: float = 0.1,
    retry_after: RetryAfter = None,
    seed: int = 0,
) -> list[Report]:
    """Ask for all tasks as `LumaClient`s do, with the waits and the retries of their `Requester`s.

    `jitter` is the mean of what chance adds to the latency, as a share of it.
    """
    return _Simulation(runs, clock, limiter, latency, jitter, retry_after, random.Random(seed)).run()


class _Simulation:
    def __init__(
        self,
        runs: Sequence[Run],
        clock: Clock,
        limiter: Limiter,
        latency: float,
        jitter: float,
        retry_after: RetryAfter,
        chance: random.Random,
    ) -> None:
        self._runs, self._clock, self._limiter = runs, clock, limiter
        self._latency, self._jitter, self._retry_after, self._chance = latency, jitter, retry_after, chance
        self._events: list[tuple[float, int, Callable[[Run, Any], None], Run, Any]] = []
        self._order = itertools.count()

    def run(self) -> list[Report]:
        start = self._clock.now + self._chance.random()
        for run in self._runs:
            run.report.started = run.report.ended = start + run.start
            self._clock.now = start
            self._later(run.start, self._begin_task, run)
            if run.seat is not None:
                run.seat.later = functools.partial(self._call_later, run)
            if run.kill_after < math.inf:
                self._later(run.start + run.kill_after, self._kill, run)
        while self._events:
            self._clock.now, _, step, run, argument = heapq.heappop(self._events)
            step(run, argument)
        return [run.report for run in self._runs]

    def _later(self, seconds: float, step: Callable[[Run, Any], None], run: Run, argument: object = None) -> None:
        heapq.heappush(self._events, (self._clock.now + seconds, next(self._order), step, run, argument))

    def _call_later(self, run: Run, seconds: float, step: Callable[[], None]) -> None:
        self._later(seconds, lambda _, __: step(), run)

    def _kill(self, run: Run, _: object) -> None:
        run.tasks = 0
        run.turn.clear()
        if run.seat is not None:
            run.seat.kill()

    def _half_way(self) -> float:
        late = self._jitter * self._chance.expovariate(1.0) if self._jitter else 0.0
        return self._latency / 2 * (1.0 + late)

    def _begin_task(self, run: Run, _: object) -> None:
        if run.tasks:
            run.tasks -= 1
            self._attempt(run, 0)

    def _attempt(self, run: Run, tries: int) -> None:
        if run.limiter.try_acquire() == 0.0:
            self._send(run, tries)
            return
        run.turn.append(tries)
        if len(run.turn) == 1:
            self._wait_for_slot(run, None)

    def _wait_for_slot(self, run: Run, _: object) -> None:
        while run.turn:
            seconds = run.limiter.try_acquire()
            if seconds:
                late = self._chance.expovariate(1.0 / _WAKE_UP)
                self._later(seconds + late, self._wait_for_slot, run)
                return
            self._send(run, run.turn.popleft())

    def _send(self, run: Run, tries: int) -> None:
        run.report.requests += 1
        run.report.sent_on_hold += self._clock.now < run.held_until - 1e-9
        self._later(self._half_way(), self._arrive, run, tries + 1)

    def _arrive(self, run: Run, tries: int) -> None:
        wait = self._limiter.wait(self._clock.now)
        step = self._refused if wait else self._accepted
        self._later(self._half_way() + _CPU, step, run, (tries, wait))

    def _accepted(self, run: Run, _: object) -> None:
        now, report = self._clock.now, run.report
        run.limiter.on_success()
        report.longest_silence = max(report.longest_silence, now - report.ended)
        report.ended = now
        run.answered += 1
        if run.answered == run.wanted and run.seat is not None:
            run.seat.end()
        self._go_together(run)
        self._begin_task(run, None)

    def _refused(self, run: Run, argument: tuple[int, float]) -> None:
        tries, wait = argument
        run.report.refused += 1
        named = math.ceil(wait) if self._retry_after == "exact" and wait < math.inf else self._retry_after
        seconds = float(named) if isinstance(named, (int, float)) else None
        run.limiter.on_throttle(seconds)
        if seconds is not None:
            run.held_until = max(run.held_until, self._clock.now + seconds)
        self._go_together(run)
        backoff = self._chance.uniform(0.0, min(20.0, 0.5 * 2.0**tries))
        self._later(max(backoff, seconds or 0.0), self._attempt, run, tries)

    def _go_together(self, run: Run) -> None:
        """The client's very first request goes alone."""
        if not run.is_scouted:
            run.is_scouted = True
            for _ in range(1, run.threads):
                self._begin_task(run, None)
