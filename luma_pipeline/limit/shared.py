"""The limit room: the limit of an account that runs share through a table, on any number of machines."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from luma_pipeline.errors import PassingError
from luma_pipeline.limit.account import AccountState, Grant, Wish
from luma_pipeline.limit.token_bucket import TokenBucket

__all__ = ["AccountRows", "SharedLimitUnavailableError", "SharedRateLimiter"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LEAST_LEAD = 0.15
_MOST_LEAD = 0.7
_LEAD_ROUND_TRIPS = 2.0
"""Slots are asked for so long before the last is used: seconds at least and at most, and times what an answer takes."""
_CYCLE_LEADS = 2.5
"""Slots last for so many leads at least, or a run would ask all the time."""
_POLL = 0.005
_LONGEST_WAIT = 0.5
"""Seconds that a sender sleeps at most, without and with a slot in hand: what is learnt meanwhile counts for it too."""
_PATIENCE = 2.0
"""Seconds that senders wait for the database before they go on without it."""
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 8.0
"""Seconds until a lost database is tried again."""
_JUMP = 2.0
"""Seconds by which the database's clock may move against ours before it is told."""
_CLOSE_SECONDS = 0.5


class SharedLimitUnavailableError(PassingError):
    """The rows of the accounts cannot be used this time. The message says why, without secrets."""


class AccountRows(Protocol):
    """Where the states of the accounts are kept, for all runs. See `AccountTable`."""

    def change(self, account: str, changed: Callable[[AccountState, float], tuple[AccountState, T]]) -> T:
        """Change the state of an account in one step; returns what `changed` returns beside it.

        Raises SharedLimitUnavailableError.
        """

    def close(self) -> None:
        """Close the connections."""


class SharedRateLimiter:
    """Takes its slots from the account's row, ahead of their use and in a thread of its own. Thread-safe.

    `requests_per_second` and `burst` are the account's, not a run's. The slots come with times of the database's clock,
    which are carried over to this process's monotonic clock by the moments of question and answer. Without the
    database the run goes on by a pace of its own, from what was its share; the database is tried again now and then.

    `tell` is given what people should know, each kind of it once: the database is lost, is back, has set its clock, or
    another run has a lower `requests_per_second`. It is called in any thread, and must not wait.
    """

    def __init__(
        self,
        rows: AccountRows,
        account: str,
        requests_per_second: float,
        burst: int = 1,
        *,
        tell: Callable[[str], None] = _log.warning,
    ) -> None:
        self._rows = rows
        self._account = account
        self._run = uuid.uuid4().hex[:12]
        self._limit = requests_per_second
        self._burst = burst
        self._say = tell
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._slots = _Slots(max((burst - 1) / requests_per_second, TokenBucket.CATCH_UP))
        self._clock = _ClockMap()
        self._lead = self._far = _LEAST_LEAD
        self._share = requests_per_second
        self._refused, self._held_until = False, 0.0
        self._asking_since: float | None = None
        self._alone: _Alone | None = None
        self._lost_at = self._lost_seconds = 0.0
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="luma-limit", daemon=True)
        self._ask()
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether the run goes by its own pace at this moment."""
        return self._alone is not None

    @property
    def lost_seconds(self) -> float:
        """Seconds so far in which the run went by its own pace."""
        with self._lock:
            return self._lost_seconds + (time.monotonic() - self._lost_at if self._alone is not None else 0.0)

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = time.monotonic()
            if self._asking_since is not None and now - self._asking_since > _PATIENCE:
                self._lose(now, f"no answer within {_PATIENCE:.0f} s")
            if self._alone is not None:
                return self._alone.try_acquire()
            wait = self._slots.take(now)
            if wait is None:
                self._ask()
                return _POLL
            if wait > 0.0 and self._slots.last_for(now) < self._lead:
                self._ask()
            return min(wait, _LONGEST_WAIT)

    def on_success(self) -> None:
        """A limit that is set learns nothing from success."""

    def on_throttle(self, retry_after: float | None = None) -> None:
        """See `RateLimiter.on_throttle`. All runs of the account learn of it with their next slots."""
        with self._lock:
            self._refused = True
            if retry_after is not None:
                self._held_until = max(self._held_until, time.monotonic() + retry_after)
                self._slots.drop_until(self._held_until)
            if self._alone is not None:
                self._alone.on_throttle(retry_after)
            else:
                self._ask()

    def close(self) -> None:
        """Leave the account to the other runs. Takes half a second at most."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    # -- with the lock ------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._asking_since is None:
            self._asking_since = time.monotonic()
            self._wake.set()

    def _lose(self, now: float, why: str) -> None:
        if self._alone is None and not self._is_closed:
            self._alone = _Alone(self._limit, self._burst, self._share)
            self._lost_at = now
            self._slots.drop_until(None)
            self._tell(
                "lost",
                f"the shared limit is lost: {why}. This run goes on by a pace of its own, from {self._share:.3g} "
                "requests a second, and tries the database again now and then.",
            )

    def _find(self, now: float) -> None:
        if self._alone is not None:
            self._alone = None
            self._lost_seconds += now - self._lost_at
            self._tell("back", f"the shared limit is back after {now - self._lost_at:.0f} s")

    def _tell(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(message)

    def _wish(self, now: float) -> Wish:
        wish = Wish(
            self._run,
            self._limit,
            self._burst,
            slots=self._slots.wanted(),
            cycle=_CYCLE_LEADS * self._far,
            refused=self._refused,
            hold=max(0.0, self._held_until - now),
        )
        self._refused = False
        return wish

    def _take(self, grant: Grant, sent: float, answered: float, at: float) -> None:
        """Take slots in. The database's clock showed `at` between the question and its answer."""
        offset, moved = self._clock.learn(at, sent, answered)
        if abs(moved) > _JUMP:
            self._tell(
                "clock",
                f"the clock of the shared limit's database was set by {moved:+.0f} s. Slots are given out by its new "
                "time from now on.",
            )
        now = time.monotonic()
        self._far = min(max(_LEAST_LEAD, 0.7 * self._far, _LEAD_ROUND_TRIPS * (now - sent)), _MOST_LEAD)
        # Of one length for all runs: who asks earlier gets more.
        self._lead = grant.cycle / _CYCLE_LEADS
        self._asking_since = None
        self._share = grant.rate / grant.runs
        self._find(now)
        self._slots.add(now, grant.first + offset, grant.gap, grant.slots)
        self._slots.drop_until(self._held_until)
        if grant.requests_per_second < self._limit:
            self._tell(
                "lower",
                f"another run of this account has requests_per_second {grant.requests_per_second:g}, this one "
                f"{self._limit:g}: the lower one counts. Set both alike.",
            )

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        retry = _FIRST_RETRY
        while self._is_wanted(retry if self._alone is not None else None):
            try:
                self._reserve()
                retry = _FIRST_RETRY
            except SharedLimitUnavailableError as error:
                with self._lock:
                    self._asking_since = None
                    self._lose(time.monotonic(), str(error))
                retry = min(2.0 * retry, _LONGEST_RETRY)
        self._leave()

    def _is_wanted(self, seconds: float | None) -> bool:
        """Wait until slots are asked for, or for some seconds. False: the limiter is closed."""
        self._wake.wait(seconds)
        self._wake.clear()
        return not self._is_closed

    def _reserve(self) -> None:
        """Ask for the next slots, and put them behind those that there are."""
        with self._lock:
            sent = answered = time.monotonic()
            wish = self._wish(sent)

        def changed(state: AccountState, at: float) -> tuple[AccountState, tuple[Grant, float, float, float]]:
            nonlocal sent, answered
            # When it is tried again, the question was asked after the answer before.
            sent, answered = answered, time.monotonic()
            after, grant = state.granted(wish, at)
            return after, (grant, sent, answered, at)

        taken = self._rows.change(self._account, changed)
        with self._lock:
            self._take(*taken)

    def _leave(self) -> None:
        """Take this run out of the row, so that its share is the others' at once."""
        try:
            if self._alone is None:
                self._rows.change(self._account, lambda state, now: (state.left_by(self._run, now), None))
        except SharedLimitUnavailableError:
            _log.debug("the run stays in the row until its time there is over")
        finally:
            self._rows.close()


class _Alone(TokenBucket):
    """The pace of a run that has lost the others: additive increase, multiplicative decrease, from its last share."""

    FALL = 0.7
    RISE = 0.01
    LEAST = 0.01

    def __init__(self, requests_per_second: float, burst: int, start: float) -> None:
        super().__init__(requests_per_second, burst)
        self._share = min(1.0, start / requests_per_second)


class _Slots:
    """The slots of a run, and how many of them it uses. Times are monotonic seconds.

    Args:
        slack: Seconds by which a sender may be late for a slot. Later, the slot is gone.
    """

    _ANY = 1_000_000

    def __init__(self, slack: float) -> None:
        self._slack = slack
        self._times: deque[float] = deque()
        self._want = self._ANY
        self._used = self._missed = 0

    def add(self, now: float, first: float, gap: float, count: int) -> None:
        """Put slots behind those that there are. Of slots that were over on the way here, one is left at least."""
        times = [first + number * gap for number in range(count)]
        self._times.extend([max(time, now) for time in times if time >= now - self._slack] or [now] * bool(times))

    def take(self, now: float) -> float | None:
        """Take the next slot if its time has come and return 0.0; else the seconds until then, None without a slot."""
        times = self._times
        while times and times[0] < now - self._slack:
            times.popleft()
            self._missed += 1
        if not times:
            return None
        if times[0] > now:
            return times[0] - now
        times.popleft()
        self._used += 1
        return 0.0

    def last_for(self, now: float) -> float:
        """Seconds until the last slot; 0 if it is the only one."""
        return self._times[-1] - now if len(self._times) > 1 else 0.0

    def drop_until(self, until: float | None) -> None:
        """Drop the slots before a time; None: all."""
        while self._times and (until is None or self._times[0] < until):
            self._times.popleft()

    def wanted(self) -> int:
        """How many to ask for: more than were used if all were, else as many. Counts from here on."""
        self._want = self._used if self._missed else max(self._want, 2 * self._used)
        self._want = min(max(1, self._want), self._ANY)
        self._used = self._missed = 0
        return self._want


class _ClockMap:
    """Carries times of the database's clock over to our monotonic clock."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def learn(self, at: float, sent: float, answered: float) -> tuple[float, float]:
        """Take in that their clock showed `at` between two moments of ours.

        Returns the seconds to add to their times, and by how much their clock was set against what it showed before.
        """
        least, most = sent - at, answered - at
        if self._offset is None:
            self._offset = most
        before, self._offset = self._offset, min(max(self._offset, least), most)
        return self._offset, before - self._offset
