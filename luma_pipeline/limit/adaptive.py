"""The limit room: a rate limiter that finds the provider's limit and shares it with other runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from luma_pipeline.limit.learnt import LearntLimit
from luma_pipeline.limit.peers import Peer, PeerBoard
from luma_pipeline.limit.rate_calculator import PeerRateCalculator, RateCalculator

__all__ = ["AdaptiveRateLimiter"]


class AdaptiveRateLimiter:
    """Lets requests leave at the rate of a `RateCalculator`, and waits while the provider only refuses.

    A short `Retry-After` holds the refused request alone (its caller waits), and the others are slowed down: under a
    limit that is shared, a pause of all runs is what nobody uses. When several refusals come with no answer between
    them, and when a `Retry-After` is long, nothing is sent until the named time.

    `learnt` is called once, before the first request. On a `board`, runs of one account see one another.
    """

    SHORT = 3.0
    """The longest `Retry-After` in seconds that concerns the refused request alone."""
    IN_VAIN = 3
    """Refusals in a row with no answer between them after which all requests wait."""
    WAIT = 0.25
    WAIT_SHARE = 0.1
    LONGEST_WAIT = 10.0
    """Seconds between requests to a provider that only refuses: the least, the share of the time since the first
    refusal, and the most. A request in vain costs little, but waiting on costs the whole run."""
    IDLE = 1.0
    """Seconds without a request after which the client has nothing to ask."""
    FEW = 8
    """Requests that are over before the other runs could make room for them."""
    AWAY = 5.0
    """Seconds without a request after which the others take this run's part."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        learnt: Callable[[], LearntLimit | None] = lambda: None,
        board: PeerBoard | None = None,
    ) -> None:
        self._clock = clock
        self._learnt = learnt
        self._board = board
        self._lock = threading.Lock()
        now = clock()
        self._calculator = RateCalculator(now) if board is None else PeerRateCalculator(now)
        self._first_sent_at: float | None = None
        self._is_answered = False
        self._next = self._held_until = self._asked_at = now
        self._refused_at: float | None = None
        """The first refusal since the last answer that was none."""
        self._in_vain = self._requests = 0
        self._catch_up = RateCalculator.CATCH_UP
        self._latency = 0.0
        self._retry_after: float | None = None

    @property
    def rate(self) -> float | None:
        """Requests per second allowed at this moment; None while no limit has been met."""
        with self._lock:
            return None if self._calculator.is_starting else self._calculator.share(self._clock())

    def learnt(self) -> LearntLimit | None:
        """What the refusals so far tell of the limit; None where there were too few."""
        with self._lock:
            found = self._calculator.learnt(self._clock())
            return None if found is None else LearntLimit(*found, self._retry_after, datetime.now(UTC))

    @property
    def idle_seconds(self) -> float:
        """Seconds for which nobody has wanted to send anything."""
        with self._lock:
            return max(0.0, self._clock() - max(self._asked_at, self._next, self._held_until))

    @property
    def has_asked_much(self) -> bool:
        """Whether more than a few requests have left, or one was refused, or others were there from the start."""
        with self._lock:
            return self._requests > self.FEW or not self._calculator.is_starting or self._calculator.runs > 1

    def peer(self, beat: int) -> Peer:
        """What the other runs of the account are told."""
        with self._lock:
            return self._calculator.peer(self._clock(), beat)

    def meet(self, run: str, others: Mapping[str, Peer]) -> None:
        """Take in what the other runs have told. `run` is the name of this one."""
        with self._lock:
            self._calculator.meet(self._clock(), run, others)

    def leave(self) -> None:
        """The other runs no longer see this one."""
        with self._lock:
            self._calculator.leave()

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = self._clock()
            is_back = now - max(self._asked_at, self._next) > self.AWAY
            self._asked_at = now
            slot = max(self._next, now - self._catch_up, self._held_until)
            if slot > now:
                return slot - now
            calculator = self._calculator
            if self._first_sent_at is None:
                known = self._learnt()
                others = {} if self._board is None else self._board.begin()
                self._first_sent_at = now = slot = self._clock()
                if known is not None:
                    self._catch_up = min(RateCalculator.CATCH_UP, (known.burst - 1.0) / known.requests_per_second)
                calculator.begin(now, None if known is None else known.requests_per_second)
                if others:
                    calculator.join(now, others)
            elif now - self._next > self.IDLE:
                calculator.idle(now - self._next)
                if is_back:
                    self._look()
            calculator.clocker.send(now)
            self._requests += 1
            self._next = slot + 1.0 / calculator.share(now)
            if self._refused_at is not None and self._is_in_vain(now, self._refused_at):
                wait = self.WAIT_SHARE * (now - self._refused_at)
                self._held_until = now + min(max(self.WAIT, wait), self.LONGEST_WAIT)
            return 0.0

    def on_success(self) -> None:
        """See `RateLimiter.on_success`."""
        with self._lock:
            now = self._clock()
            self._calculator.on_success(now)
            if not self._is_answered and self._first_sent_at is not None:
                self._is_answered = True
                self._latency = min(now - self._first_sent_at, RateCalculator.MOST_LATENCY)
                self._calculator.on_first_answer(now, now - self._first_sent_at)
                self._next = now
            if self._refused_at is not None and self._is_in_vain(now, self._refused_at):
                self._calculator.idle(now - self._refused_at)
                self._calculator.clocker.restart(now)
                self._held_until = min(self._held_until, now)
            self._in_vain, self._refused_at = 0, None

    def on_throttle(self, retry_after: float | None = None) -> None:
        """See `RateLimiter.on_throttle`."""
        with self._lock:
            now = self._clock()
            self._is_answered = True
            self._look()
            self._retry_after = retry_after
            if self._refused_at is None:
                self._refused_at, self._in_vain = now, 1
                is_long = retry_after is not None and retry_after > self.SHORT
                self._calculator.on_throttle(now, retry_after if retry_after is not None and is_long else 0.0)
            elif now > self._refused_at + self._latency:
                self._in_vain += 1
            if retry_after is not None and (retry_after > self.SHORT or self._is_in_vain(now, self._refused_at)):
                self._held_until = max(self._held_until, now + retry_after)

    def _look(self) -> None:
        if self._board is not None:
            self._board.hurry()

    def _is_in_vain(self, now: float, refused_at: float) -> bool:
        """Whether the provider has answered nothing else than "too fast" for a while."""
        return self._in_vain >= self.IN_VAIN and now - refused_at > self.WAIT
