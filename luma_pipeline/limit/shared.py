"""The limit room: the limit of an account that runs share through a table, on any number of machines."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from luma_pipeline.limit.account import AccountState, Grant, Wish
from luma_pipeline.limit.gate import RateLimiter
from luma_pipeline.limit.token_bucket import TokenBucket

if TYPE_CHECKING:
    from luma_pipeline.limit.account_table import AccountTable

__all__ = ["SharedRateLimiter"]

_log = logging.getLogger(__name__)

_ANY = 1_000_000
"""More slots than a run ever gets at once."""
_LEAST_LEAD = 0.06
_LEAD_ROUND_TRIPS = 2.0
"""Slots are asked for so long before the last is used: seconds, and times what the database took."""
_CYCLE_LEADS = 2.5
"""Slots last for so many leads at least, or a run would ask all the time."""
_POLL = 0.005
_LONGEST_WAIT = 0.5
"""Seconds that a sender sleeps at most, without and with a slot in hand: what is learnt meanwhile counts for it too."""
_PATIENCE = 2.0
"""Seconds that senders wait for the database before they go on without it."""
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0
"""Seconds until a lost database is tried again."""
_JUMP = 2.0
"""Seconds that the database's clock may run off from ours before it is told."""
_CLOSE_SECONDS = 1.0


class SharedRateLimiter:
    """Takes its slots from the account's row, ahead of their use and in a thread of its own. Thread-safe.

    `requests_per_second` and `burst` are the account's, not a run's. The slots come with times of the database's clock,
    which are carried over to this process's monotonic clock by the moments of question and answer. Without the
    database, `alone` makes the limiter to go on with, from the rate that is this run's share; the database is then
    tried again now and then.

    `tell` is given what people should know: once when the database is lost, found again, or lies about the time, and
    once when another run has a lower `requests_per_second`. It is called in any thread.
    """

    def __init__(
        self,
        table: AccountTable,
        account: str,
        requests_per_second: float,
        burst: int = 1,
        *,
        alone: Callable[[float], RateLimiter] = TokenBucket,
        tell: Callable[[str], None] = _log.warning,
    ) -> None:
        self._table = table
        self._account = account
        self._run = uuid.uuid4().hex[:12]
        self._limit = requests_per_second
        self._burst = burst
        self._make_alone = alone
        self._tell = tell
        self._slack = max((burst - 1) / requests_per_second, TokenBucket.CATCH_UP)
        self._lock = threading.Lock()
        self._slots: deque[float] = deque()
        self._want = _ANY
        self._used = self._missed = 0
        self._lead = _LEAST_LEAD
        self._offset: float | None = None
        self._share = requests_per_second
        self._refused, self._held_until = False, 0.0
        self._asking_since: float | None = None
        self._alone: RateLimiter | None = None
        self._lost_at: float | None = None
        self._lost_seconds = 0.0
        self._told_lower: float | None = None
        self._has_told_jump = False
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
            since = 0.0 if self._lost_at is None else time.monotonic() - self._lost_at
            return self._lost_seconds + since

    def try_acquire(self) -> float:
        """See `RateLimiter.try_acquire`."""
        with self._lock:
            now = time.monotonic()
            if self._alone is None and self._asking_since is not None and now - self._asking_since > _PATIENCE:
                self._lose(now, f"no answer within {_PATIENCE:.0f} s")
            if self._alone is not None:
                return self._alone.try_acquire()
            slots = self._slots
            while slots and slots[0] < now - self._slack:
                slots.popleft()
                self._missed += 1
            if not slots:
                self._ask()
                return _POLL
            if slots[0] <= now:
                slots.popleft()
                self._used += 1
                return 0.0
            if len(slots) == 1 or slots[-1] - now < self._lead:
                self._ask()
            return min(slots[0] - now, _LONGEST_WAIT)

    def on_success(self) -> None:
        """See `RateLimiter.on_success`."""
        alone = self._alone
        if alone is not None:
            alone.on_success()

    def on_throttle(self, retry_after: float | None = None) -> None:
        """See `RateLimiter.on_throttle`. All runs of the account learn of it with their next slots."""
        with self._lock:
            self._refused = True
            if retry_after is not None:
                until = self._held_until = max(self._held_until, time.monotonic() + retry_after)
                while self._slots and self._slots[0] < until:
                    self._slots.popleft()
            if self._alone is not None:
                self._alone.on_throttle(retry_after)
            else:
                self._ask()

    def close(self) -> None:
        """Leave the account to the other runs. Takes a second at most."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    # -- with the lock --------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._asking_since is None:
            self._asking_since = time.monotonic()
            self._wake.set()

    def _lose(self, now: float, why: str) -> None:
        if self._alone is None:
            self._lost_at, self._alone = now, self._make_alone(self._share)
            self._slots.clear()
            self._tell(
                f"the shared limit is lost: {why}. This run goes on by its own pace, from {self._share:.3g} requests "
                "a second, and tries the database again now and then."
            )

    def _find(self, now: float) -> None:
        if self._lost_at is not None:
            self._lost_seconds += now - self._lost_at
            self._tell(f"the shared limit is back after {now - self._lost_at:.0f} s")
            self._alone = self._lost_at = None

    # -- in the thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        from luma_pipeline.limit.account_table import SharedLimitUnavailableError

        retry = _FIRST_RETRY
        while not self._is_closed:
            self._wake.wait(retry if self._alone is not None else None)
            self._wake.clear()
            if self._is_closed:
                break
            try:
                self._reserve()
                retry = _FIRST_RETRY
            except SharedLimitUnavailableError as error:
                with self._lock:
                    self._asking_since = None
                    self._lose(time.monotonic(), str(error))
                retry = min(2.0 * retry, _LONGEST_RETRY)
        self._leave()

    def _reserve(self) -> None:
        """Ask for the next slots, and put them behind those that there are."""
        with self._lock:
            now = time.monotonic()
            # All used: there is use for more. Some missed: only as many as were used.
            self._want = self._used if self._missed else max(self._want, 2 * self._used)
            self._used = self._missed = 0
            wish = Wish(
                self._run,
                self._limit,
                self._burst,
                slots=min(max(1, self._want), _ANY),
                cycle=_CYCLE_LEADS * self._lead,
                refused=self._refused,
                hold=max(0.0, self._held_until - now),
            )
            self._refused = False
        sent = read = time.monotonic()

        def changed(state: AccountState, at: float) -> tuple[AccountState, tuple[Grant, float, float]]:
            nonlocal sent, read
            # Tried again, the moment before is that of the last answer.
            sent, read = read, time.monotonic()
            after, grant = state.granted(wish, at)
            return after, (grant, sent - at, read - at)

        grant, least, most = self._table.change(self._account, changed)
        with self._lock:
            self._take(grant, least, most, time.monotonic() - now)

    def _take(self, grant: Grant, least: float, most: float, seconds: float) -> None:
        """Take slots in. `least` and `most` bound our clock's time at 0 of the database's."""
        offset = most if self._offset is None else min(max(self._offset, least), most)
        if self._offset is not None and abs(offset - self._offset) > _JUMP and not self._has_told_jump:
            self._has_told_jump = True
            self._tell(
                f"the clock of the shared limit's database was set by {self._offset - offset:.0f} s. Slots are "
                "given out from its new time on."
            )
        self._offset = offset
        self._lead = max(_LEAST_LEAD, 0.7 * self._lead, _LEAD_ROUND_TRIPS * seconds)
        self._asking_since = None
        self._share = grant.rate / grant.runs
        self._find(time.monotonic())
        first = grant.first + offset
        self._slots.extend(first + number * grant.gap for number in range(grant.slots))
        if grant.requests_per_second < self._limit and grant.requests_per_second != self._told_lower:
            self._told_lower = grant.requests_per_second
            self._tell(
                f"another run of this account has requests_per_second {grant.requests_per_second:g}, this one "
                f"{self._limit:g}: the lower one counts. Set both alike."
            )

    def _leave(self) -> None:
        """Take this run out of the row, so that its share is the others' at once."""
        from luma_pipeline.limit.account_table import SharedLimitUnavailableError

        try:
            if self._alone is None:
                self._table.change(self._account, lambda state, now: (state.left_by(self._run, now), None))
        except SharedLimitUnavailableError:
            pass  # Its entry in the row runs out.
        finally:
            self._table.close()
