"""The provider's room: the circuit breaker, which tells an outage of the provider from one task's own trouble."""

from __future__ import annotations

import math
import threading
import time
from enum import StrEnum

from luma_pipeline.luma.errors import ProviderUnavailableError

__all__ = ["CircuitBreaker", "FailureClass"]


class FailureClass(StrEnum):
    """What a failed request tells of the provider."""

    TASK = "task"
    """The task itself may be the reason. Its tries are counted."""
    BUSY = "busy"
    """The gateway says in its own words that it cannot answer now (502 to 504, 520 and above). The outage is waited
    out, but the task may still be the reason."""
    PROVIDER = "provider"
    """Nobody is there, or something in front of the gateway answers. The task cannot be the reason."""
    UNREACHABLE = "unreachable"
    """There is no such host, or its certificate is another's. No outage looks like this."""

    def __str__(self) -> str:
        return self.value

    @property
    def is_outage(self) -> bool:
        """Whether the provider as a whole may be the reason: the failure is waited out."""
        return self is not FailureClass.TASK


class _Streak:
    """Requests that are failing with no success between them. The streak keeps no more of them than its limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._requests: set[object] = set()
        self.since: float | None = None

    def add(self, request: object, now: float) -> None:
        if self.since is None:
            self.since = now
        if len(self._requests) < self._limit:
            self._requests.add(request)

    def end(self) -> None:
        self._requests.clear()
        self.since = None

    def lasts(self, seconds: float, now: float) -> bool:
        return self.since is not None and len(self._requests) >= self._limit and now - self.since >= seconds


class CircuitBreaker:
    """Opens when several requests have been failing for a while and none has succeeded. Thread-safe.

    The trouble of one task must not stop the others, and an outage of seconds must stop nobody.

    Args:
        failures: Requests that have to be failing.
        seconds: How long that has to last.
        host: The provider's host, for messages.
    """

    UNREACHABLE_SHARE = 0.25
    """Share of `seconds` where no host was ever reached: the address is wrong."""
    TASK_FACTOR = 10.0
    """Times `seconds` for failures that may be the tasks' own. Such tasks come last, since they are retried."""

    def __init__(self, failures: int, seconds: float, host: str) -> None:
        self._seconds = seconds
        self._host = host
        self._was_reached = False
        self._failing = _Streak(failures)
        self._provider_failing = _Streak(failures)
        self._lock = threading.Lock()
        self._success_sent_at = -math.inf

    @property
    def is_waiting(self) -> bool:
        """Whether nothing succeeds, and has not for less than `seconds`: an outage that is waited out."""
        since = self._failing.since
        return since is not None and time.monotonic() - since < self._seconds

    def has_succeeded_since(self, moment: float | None) -> bool:
        """Whether a request that was sent after `moment` (monotonic seconds) has succeeded."""
        return moment is not None and self._success_sent_at > moment

    def on_success(self, sent_at: float) -> None:
        """Count a request that was answered. `sent_at` is in monotonic seconds."""
        self._success_sent_at = sent_at
        if self._failing.since is not None:
            with self._lock:
                self._failing.end()
                self._provider_failing.end()

    def on_failure(self, request: object, failure: FailureClass, reason: str) -> ProviderUnavailableError | None:
        """Count a failed try of a request. Returns the error to stop with when the provider counts as down."""
        with self._lock:
            now = time.monotonic()
            self._failing.add(request, now)
            if failure in (FailureClass.PROVIDER, FailureClass.UNREACHABLE):
                self._provider_failing.add(request, now)
            if failure is not FailureClass.UNREACHABLE or self._success_sent_at > -math.inf:
                self._was_reached = True
            silence = now - (self._failing.since or now)
            is_wrong_address = not self._was_reached and silence >= self.UNREACHABLE_SHARE * self._seconds
            is_down = self._provider_failing.lasts(self._seconds, now) or self._failing.lasts(
                self.TASK_FACTOR * self._seconds, now
            )
        if is_wrong_address:
            return ProviderUnavailableError(
                f"{self._host} cannot be reached: {reason}. Check LUMA_BASE_URL, then run again."
            )
        if is_down:
            return ProviderUnavailableError(
                f"{self._host} is unavailable: no request of the last {silence:.0f} s has succeeded, the last failure "
                f"was: {reason}. Check the provider's status and LUMA_BASE_URL, then run again: what was answered so "
                "far is kept."
            )
        return None
