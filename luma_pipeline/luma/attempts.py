"""The provider's room: the tries of one request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Protocol

from luma_pipeline.http.retry_after import full_jitter, retry_after_seconds
from luma_pipeline.limit import RateLimitGate
from luma_pipeline.luma.access import AccessGuard
from luma_pipeline.luma.circuit_breaker import CircuitBreaker, FailureClass
from luma_pipeline.luma.errors import ProviderUnavailableError
from luma_pipeline.luma.request import Request, RequestKind
from luma_pipeline.luma.responses import Response, ResponseAction
from luma_pipeline.luma.stop import StopSignal
from luma_pipeline.luma.transport import BodyTooLargeError, HttpAnswer, HttpTransport, TransportError

__all__ = ["Attempts", "CancelledError", "Requester", "RetryBudget"]

_BACKOFF_BASE = 0.5
"""Seconds."""
_BACKOFF_LIMIT = 20.0
"""Seconds."""
_MOST_THROTTLED = 4
"""Times `max_attempts` that a task may be answered "too fast": a provider that answers nothing else must end too."""

_NO_ANSWER: dict[str, FailureClass] = {
    **dict.fromkeys(("connection", "timeout", "deadline", "bad_http"), FailureClass.PROVIDER),
    **dict.fromkeys(("dns", "certificate"), FailureClass.UNREACHABLE),
}
"""The failure class of a request without an answer, by the transport's code. Any other code may be the task's."""
_RETRIED = frozenset({ResponseAction.RETRY, ResponseAction.RETRY_UNREADABLE, ResponseAction.THROTTLE})


class Waiter(Protocol):
    """Whoever waits for a result."""

    is_cancelled: bool


class CancelledError(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class RetryBudget:
    """Tries, and seconds over all of them, for one request."""

    max_attempts: int
    max_retry_seconds: float


@dataclass(slots=True, eq=False)
class Attempts:
    """The tries of one request so far, and what the last of them brought: a response, or an error code and message.

    `requests` counts the HTTP requests sent for it. Times are seconds; `failed_at` is a monotonic time.
    """

    request: Request
    waiter: Waiter | None
    started: float
    response: Response | None = None
    status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    count: int = 0
    requests: int = 0
    throttled: int = 0
    outages: int = 0
    failure: FailureClass = FailureClass.TASK
    failed_at: float | None = None
    seconds: float = 0.0
    waited_seconds: float = 0.0
    retry_after: float = 0.0

    def describe(self) -> str:
        """What the last try brought, for a message."""
        if self.response is not None:
            return f"HTTP {self.status}, {self.response.message}"
        return self.error_message or "no answer"


class Requester:
    """Sends requests, each with its tries. Thread-safe.

    `read` makes a response of an HTTP answer. A request that raises ends everything: the provider has said, or shown
    for long enough, that no other request can succeed.
    """

    def __init__(
        self,
        transport: HttpTransport,
        read: Callable[[Request, HttpAnswer], Response],
        gate: RateLimitGate,
        breaker: CircuitBreaker,
        access: AccessGuard,
        stop: StopSignal,
        budget: RetryBudget,
    ) -> None:
        self._transport = transport
        self._read = read
        self._gate = gate
        self._breaker = breaker
        self._access = access
        self._stop = stop
        self._budget = budget
        self._has_scouted = threading.Event()
        self._scouting = threading.Lock()

    def send(self, request: Request, waiter: Waiter | None = None) -> Attempts:
        """Send a request until it has an answer or its budget is spent; a probe once.

        Raises:
            CancelledError: The waiter is cancelled.
            LumaError: Nothing is to be asked any more.
        """
        attempts = Attempts(request, waiter, time.monotonic())
        if request.kind is RequestKind.PROBE:
            self._try(attempts)
            return attempts
        is_done = self._try(attempts) if self._has_scouted.is_set() else self._scout(attempts)
        while not is_done and not self._is_spent(attempts):
            self._pause(attempts)
            is_done = self._try(attempts)
        return attempts

    def _pause(self, attempts: Attempts) -> None:
        """Wait before another try: a random time, and at least what the provider named."""
        self._stop.sleep(max(attempts.retry_after, full_jitter(attempts.count, _BACKOFF_BASE, _BACKOFF_LIMIT)))
        attempts.waited_seconds += attempts.retry_after

    def _scout(self, attempts: Attempts) -> bool:
        """Try once. The very first request goes alone: a refused token or an empty account is learnt with one."""
        with self._scouting:
            if not self._has_scouted.is_set():
                try:
                    return self._try(attempts)
                finally:
                    if self._stop.error is None:
                        self._has_scouted.set()
        return self._try(attempts)

    def _try(self, attempts: Attempts) -> bool:
        """Ask once, and note what came in `attempts`. Returns whether another try is of no use."""
        self._raise_if_pointless(attempts)
        waited = self._gate.acquire()
        if waited:
            attempts.waited_seconds += waited
            self._raise_if_pointless(attempts)
        attempts.count += 1
        attempts.retry_after = 0.0
        request = attempts.request
        sent_at = time.monotonic()
        answer, error = self._exchange(attempts, request)
        attempts.seconds = time.monotonic() - sent_at
        if answer is None:
            attempts.response, attempts.status = None, None
            attempts.error_code, attempts.error_message = (error.code, str(error)) if error is not None else ("", "")
            if isinstance(error, BodyTooLargeError):
                return True
            return self._failed(attempts, _NO_ANSWER.get(attempts.error_code, FailureClass.TASK))
        response = attempts.response = self._read(request, answer)
        attempts.status, attempts.error_code, attempts.error_message = answer.status, response.code, response.message
        if response.action is ResponseAction.ACCEPT:
            self._gate.limiter.on_success()
            self._breaker.on_success(sent_at)
            self._access.on_success(request, sent_at)
            return True
        return self._take_error(attempts, response, answer, sent_at)

    def _exchange(self, attempts: Attempts, request: Request) -> tuple[HttpAnswer | None, TransportError | None]:
        attempts.requests += 1
        try:
            return self._transport.request(request.method, request.path, request.body), None
        except TransportError as error:
            failure = error
        # Raised outside the handler: the transport's error is not the reason.
        self._stop.raise_if_stopped()
        return None, failure

    def _take_error(self, attempts: Attempts, response: Response, answer: HttpAnswer, sent_at: float) -> bool:
        """Act on an answer that is no generation. Returns whether another try is of no use."""
        request, action = attempts.request, response.action
        is_optional = request.kind.is_optional
        if answer.status in request.absent and response.failure is not FailureClass.PROVIDER:
            action = ResponseAction.FAIL
        is_throttled = action is ResponseAction.THROTTLE
        if is_throttled or (answer.status == 503 and action is ResponseAction.RETRY and not is_optional):
            attempts.throttled += is_throttled
            attempts.retry_after = self._slow_down(answer.headers)
        else:
            self._gate.limiter.on_success()
        if action in _RETRIED:
            return self._failed(attempts, response.failure)
        self._breaker.on_success(sent_at)
        if action is ResponseAction.NOT_FOUND:
            self._access.on_success(request, sent_at)
        elif action is ResponseAction.STOP_TOKEN:
            self._stop.stop(self._access.error(response))
        elif action is ResponseAction.CONFIRM_TOKEN or (action is ResponseAction.CONFIRM_QUOTA and not is_optional):
            return self._confirm(attempts, response)
        elif action is ResponseAction.FAIL_ACCESS and request.kind is RequestKind.GENERATION:
            error = self._access.on_denied(request, response)
            if error is not None:
                self._stop.stop(error)
        return True

    def _confirm(self, attempts: Attempts, response: Response) -> bool:
        """Find out whether a refusal concerns all tasks, and stop if it does. Returns whether it is this task's own."""
        arrived_at = time.monotonic()
        control = self._access.control(attempts.request)
        if control is None:
            self._stop.stop(self._access.error(response))
        with self._access.confirming:
            if not self._access.has_succeeded_since(arrived_at):
                attempts.waited_seconds += self._gate.acquire()
                answer, _ = self._exchange(attempts, control)
                probe = self._read(control, answer) if answer is not None else None
                if probe is not None and self._access.is_refusal(probe):
                    self._stop.stop(self._access.error(response))
                if probe is None or probe.action in _RETRIED:
                    return self._failed(attempts, FailureClass.TASK)
                self._access.on_success(control, time.monotonic())
        attempts.error_message = f"{response.message} (this task alone: others are answered with the same token)"
        attempts.response = response._replace(message=attempts.error_message)
        return True

    def _failed(self, attempts: Attempts, failure: FailureClass) -> bool:
        """Note a failed try; stops everything when the provider counts as down. Returns False: another try may help."""
        if attempts.failed_at is None:
            attempts.failed_at = time.monotonic()
        is_only_one = self._breaker.has_succeeded_since(attempts.failed_at)
        attempts.failure = failure
        attempts.outages += failure.is_outage and not is_only_one
        if not attempts.request.kind.is_optional:
            counted = FailureClass.TASK if is_only_one else failure
            error = self._breaker.on_failure(attempts, counted, attempts.describe())
            if error is not None:
                self._stop.stop(error)
        return False

    def _is_spent(self, attempts: Attempts) -> bool:
        """Whether the budget of tries or of time is used up."""
        budget = self._budget
        if attempts.throttled >= _MOST_THROTTLED * budget.max_attempts:
            return True
        if time.monotonic() - attempts.started - attempts.waited_seconds >= budget.max_retry_seconds:
            return True
        tries = attempts.count - attempts.throttled
        if not attempts.failure.is_outage:
            return tries - attempts.outages >= budget.max_attempts
        # An outage would take every task's tries within seconds, so it is waited out.
        is_only_one = self._breaker.has_succeeded_since(attempts.failed_at)
        return tries >= budget.max_attempts and (is_only_one or not self._breaker.is_waiting)

    def _slow_down(self, headers: Message) -> float:
        """Tell the limiter of a refusal; returns the seconds that the provider named."""
        seconds = retry_after_seconds(headers.get("Retry-After"))
        self._gate.limiter.on_throttle(seconds)
        longest = self._budget.max_retry_seconds
        if seconds is not None and seconds > longest:
            self._stop.stop(
                ProviderUnavailableError(
                    f"{self._transport.host} asks to come back in {seconds:.0f} s, more than max_retry_seconds "
                    f"({longest:.0f}). Run again after that: what was answered so far is kept."
                )
            )
        return seconds or 0.0

    def _raise_if_pointless(self, attempts: Attempts) -> None:
        self._stop.raise_if_stopped()
        if attempts.waiter is not None and attempts.waiter.is_cancelled:
            raise CancelledError
