"""The provider's room: asking for many tasks at once, with one result for each."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple

from luma_pipeline.limit import AdaptiveRateLimiter, RateLimiter, RateLimitGate, SharedRateLimiter, TokenBucket
from luma_pipeline.luma.access import AccessGuard
from luma_pipeline.luma.attempts import Attempts, CancelledError, Requester, RetryBudget
from luma_pipeline.luma.batch import Batches
from luma_pipeline.luma.circuit_breaker import CircuitBreaker, FailureClass
from luma_pipeline.luma.config import AUTO, ProviderConfig
from luma_pipeline.luma.errors import LinkUnavailableError
from luma_pipeline.luma.request import Request, RequestKind
from luma_pipeline.luma.responses import Response, ResponseAction, read_answer, shortened
from luma_pipeline.luma.results import Outcome, TaskResult, same_id
from luma_pipeline.luma.spec import ProviderSpec
from luma_pipeline.luma.stop import StopSignal
from luma_pipeline.luma.transport import HttpAnswer, HttpTransport
from luma_pipeline.luma.workers import WorkerPool

__all__ = ["LumaClient"]

_SHORTEST_SECRET = 8
"""A token as short as a word is no secret, and would be found in any generation."""
_WINDOW = 6
"""Tasks for each thread that are read ahead of the results."""
_SPARE_BATCHES = 4
"""Batches that are read ahead, beside one for each thread at work. Each is a hundred answers in memory."""
_HANDOVER_SECONDS = 0.01
"""A consumer waits this long for more results after the first: to wake for each one costs more than to read it."""
_ENOUGH = 100
"""Results that are taken at once."""
_CLOSE_SECONDS = 2.0
"""Longest wait of `close` for threads that nothing can wake, such as in the look-up of a host's name."""
_SHOWN_ID = 80
"""Characters of a task ID in a message."""


class LumaClient:
    """Asks the provider for generations: few threads, one shared rate limit, retries, and a `TaskResult` for each task.

    A context manager. Thread-safe: several `fetch` calls at a time share the threads and the rate limit. `limiter`
    takes the place of the one that `requests_per_second` and `burst` make, and is closed with the client.

        with LumaClient(ProviderConfig(token=token)) as client:
            for result in client.fetch(task_ids):
                print(result.task_id, result.outcome, result.state)

    Raises:
        ValueError: `base_url` is no plain http(s) address. Other settings are checked by `ProviderConfig`.
    """

    def __init__(self, config: ProviderConfig, limiter: RateLimiter | SharedRateLimiter | None = None) -> None:
        self._config = config
        self._reader = _Reader(config.spec, config.token)
        self._transport = HttpTransport(
            config.base_url,
            {
                "Authorization": f"Bearer {config.token}",
                "Accept": "application/json",
                "Content-Type": "application/json",
                "User-Agent": "luma-pipeline",
            },
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            deadline=config.deadline,
            max_body_bytes=config.max_body_bytes,
        )
        if limiter is None:
            rate = config.requests_per_second
            limiter = AdaptiveRateLimiter() if rate is None else TokenBucket(rate, config.burst)
        self._limiter = limiter
        host = self._transport.host
        self._stop = StopSignal()
        self._requester = Requester(
            self._transport,
            self._reader.read,
            RateLimitGate(limiter, self._stop),
            CircuitBreaker(config.unavailable_after, config.unavailable_seconds, host),
            AccessGuard(host, config.unavailable_after),
            self._stop,
            RetryBudget(config.max_attempts, config.max_retry_seconds),
        )
        batch = config.spec.batch
        self._batches: Batches | None = None
        if batch is not None and config.batch_size is not None:
            is_sure = config.batch_size != AUTO
            self._batch_size = config.batch_size if config.batch_size != AUTO else batch.usual_size
            self._batches = Batches(
                self._requester, config.spec, batch, host, is_sure=is_sure, checks_ids=config.verify_task_id
            )
        self._pool: WorkerPool[_Work] = WorkerPool(self._do, config.max_concurrency, "luma")
        self._jobs: set[_Job] = set()
        self._jobs_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LumaClient(host={self._transport.host!r}, spec={self._config.spec.name!r})"

    def __enter__(self) -> LumaClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def spec(self) -> ProviderSpec:
        """The API that is spoken."""
        return self._config.spec

    def fetch(self, task_ids: Iterable[str]) -> Iterator[TaskResult]:
        """Ask for tasks and yield one `TaskResult` for each, in the order the answers come.

        `task_ids` is read as results are taken, a bounded number ahead. A consumer that stops early leaves nothing
        running but the requests already sent.

        Raises:
            AuthenticationError: The token was refused.
            QuotaExceededError: The account is out of money or quota.
            ProviderUnavailableError: The provider is down, or asks to come back later than `max_retry_seconds`.
            ClientClosedError: The client was closed meanwhile, or before.
        """
        for results in self.fetch_batches(task_ids):
            yield from results

    def fetch_batches(self, task_ids: Iterable[str]) -> Iterator[list[TaskResult]]:
        """As `fetch`, with the results in lists: all that have come since the last list."""
        batches, size = self._batches, 1
        if batches is not None and not batches.is_absent:
            size = self._batch_size
        source = iter(task_ids)
        pending = 0
        job = self._begin()
        try:
            while True:
                work = []
                if size == 1:
                    window = _WINDOW * self._config.max_concurrency
                else:
                    window = size * (self._pool.wanted + _SPARE_BATCHES)
                while pending < window and (members := tuple(itertools.islice(source, size))):
                    work.append(_Work(job, members))
                    pending += len(members)
                if work:
                    self._pool.put(work)
                if not pending:
                    return
                results, error = self._take(job, pending)
                pending -= len(results)
                if results:
                    yield results
                if error is not None:
                    raise error
        finally:
            job.is_cancelled = True
            with self._jobs_lock:
                self._jobs.discard(job)

    def fetch_one(self, task_id: str) -> TaskResult:
        """Ask for one task, in the caller's thread. Raises as `fetch` does."""
        return self._ask(task_id)

    def unwatermarked_link(self, task_id: str) -> str | None:
        """Ask for a link to the video without watermark; None where the provider has none for this task.

        An account without this feature has none: only a refused token (401) stops the run here.

        Raises:
            LinkUnavailableError: No usable answer came, or that of another task; another time one may.
            AuthenticationError, ProviderUnavailableError, ClientClosedError: As in `fetch`.
        """
        link = self._config.spec.unwatermarked
        if link is None:
            return None
        path = self._config.spec.task_path(task_id, link.path)
        attempts = self._requester.send(
            Request("GET", path, None, RequestKind.LINK, task_id=task_id, absent=link.absent_statuses)
        )
        response = attempts.response
        is_in_front = response is not None and response.failure is FailureClass.PROVIDER
        if attempts.status in link.absent_statuses and not is_in_front:
            return None
        if response is None or response.action in _UNANSWERED:
            raise LinkUnavailableError(f"the provider gave no link without watermark: {attempts.describe()}")
        if (attempts.status or 0) >= 300 or not isinstance(response.body, Mapping):
            return None
        named = link.task_ids(response.body)
        if named and self._config.verify_task_id and not any(same_id(task_id, name) for name in named):
            raise LinkUnavailableError(f"no link without watermark was taken: {_mismatch(task_id, named[0])}")
        return link.link(response.body)

    def close(self) -> None:
        """Stop everything at once: requests under way are cut, and whoever waits for results gets ClientClosedError.

        Takes three seconds at most, whatever the provider does.
        """
        error = self._stop.close()
        with self._jobs_lock:
            for job in self._jobs:
                job.fail(error)
        self._transport.close()
        self._pool.close(_CLOSE_SECONDS)
        if isinstance(self._limiter, SharedRateLimiter):
            self._limiter.close()

    # Handing results over.

    def _begin(self) -> _Job:
        job = _Job()
        with self._jobs_lock:
            self._jobs.add(job)
        try:
            self._stop.raise_if_stopped()
        except BaseException:
            with self._jobs_lock:
                self._jobs.discard(job)
            raise
        return job

    def _take(self, job: _Job, pending: int) -> tuple[list[TaskResult], BaseException | None]:
        """Wait for results, and take all there are. The error, if any, came after them."""
        while not job.ready.wait(WorkerPool.STALLED):
            self._pool.relieve()
        if len(job.results) < min(pending, _ENOUGH) and job.error is None:
            time.sleep(_HANDOVER_SECONDS)
        job.ready.clear()
        error = job.error
        return [job.results.popleft() for _ in range(len(job.results))], error

    def _do(self, work: _Work) -> None:
        """Do a piece of work in a thread of the pool."""
        job, task_ids, _ = work
        try:
            if len(task_ids) == 1 or self._batches is None:
                job.deliver([self._ask(task_ids[0], work)])
            elif not self._ask_batch(self._batches, work):
                self._pool.put(_Work(job, (task_id,)) for task_id in task_ids)
        except CancelledError:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the results are taken
            job.fail(error)

    # Asking.

    def _ask(self, task_id: str, work: _Work | None = None) -> TaskResult:
        if not task_id.strip():
            return TaskResult(
                task_id,
                Outcome.REQUEST_FAILED,
                datetime.now(UTC),
                attempts=0,
                requests=0,
                error_code="blank_task_id",
                error_message="a blank task ID cannot be asked for",
            )
        spec = self._config.spec
        job, _, unbooked = work or (None, (), 0)
        attempts = self._requester.send(Request("GET", spec.task_path(task_id), task_id=task_id), job)
        return self._result(task_id, attempts, attempts.response, attempts.requests + unbooked)

    def _ask_batch(self, batches: Batches, work: _Work) -> bool:
        """Ask for tasks together, and queue what the answer leaves out; False where that cannot be done."""
        job, task_ids, _ = work
        answer = batches.ask(task_ids, job)
        if answer is None:
            return False
        # The requests and waits of a batch are booked on one of its tasks.
        attempts, requests = answer.attempts, answer.attempts.requests
        results = []
        for task_id in task_ids:
            if task_id in answer.responses:
                results.append(self._result(task_id, attempts, answer.responses[task_id], requests))
                attempts.throttled, attempts.waited_seconds, requests = 0, 0.0, 0
        job.deliver(results)
        alone = []
        for task_id in answer.left_out:
            alone.append(_Work(job, (task_id,), requests))
            requests = 0
        self._pool.put(alone)
        return True

    def _result(self, task_id: str, attempts: Attempts, response: Response | None, requests: int) -> TaskResult:
        outcome = _outcome(attempts, response)
        code, message = attempts.error_code, attempts.error_message
        generation = response.generation if response is not None else None
        if outcome is Outcome.RESOLVED:
            named = response.task_id if response is not None else None
            code = message = None
            if named is not None and self._config.verify_task_id and not same_id(task_id, named):
                outcome, generation, code = Outcome.INVALID_RESPONSE, None, "task_id_mismatch"
                message = _mismatch(task_id, named)
        return TaskResult(
            task_id,
            outcome,
            datetime.now(UTC),
            attempts.count,
            requests,
            attempts.status,
            code,
            message,
            generation,
            response.text if response is not None else None,
            attempts.seconds,
            attempts.waited_seconds,
            attempts.throttled,
        )


_UNANSWERED = frozenset(
    {
        ResponseAction.RETRY,
        ResponseAction.RETRY_UNREADABLE,
        ResponseAction.THROTTLE,
        ResponseAction.CONFIRM_TOKEN,
        ResponseAction.CONFIRM_QUOTA,
    }
)
_OUTCOMES = {
    ResponseAction.ACCEPT: Outcome.RESOLVED,
    ResponseAction.NOT_FOUND: Outcome.NOT_FOUND,
    ResponseAction.INVALID: Outcome.INVALID_RESPONSE,
    ResponseAction.RETRY_UNREADABLE: Outcome.INVALID_RESPONSE,
}
_INVALID_CODES = frozenset({"cut_body", "body_too_large", "bad_encoding", "bad_http"})


def _outcome(attempts: Attempts, response: Response | None) -> Outcome:
    if response is not None:
        return _OUTCOMES.get(response.action, Outcome.REQUEST_FAILED)
    return Outcome.INVALID_RESPONSE if attempts.error_code in _INVALID_CODES else Outcome.REQUEST_FAILED


def _mismatch(task_id: str, named: str) -> str:
    return (
        f"asked for task {_shown(task_id)}, but the answer is that of task {_shown(named)}; where the "
        "provider's answers have IDs of their own, set verify_task_id (LUMA_VERIFY_TASK_ID) to false"
    )


def _shown(task_id: str) -> str:
    return repr(shortened(task_id, _SHOWN_ID))


class _Job:
    """One `fetch` call: its results so far, and whether anybody still waits for them."""

    def __init__(self) -> None:
        self.results: deque[TaskResult] = deque()
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self.is_cancelled = False

    def deliver(self, results: Sequence[TaskResult]) -> None:
        self.results.extend(results)
        if not self.ready.is_set():
            self.ready.set()

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.is_cancelled = True
        self.ready.set()


class _Work(NamedTuple):
    """Tasks to ask for together, and the `fetch` that waits for them.

    `unbooked` counts requests that were sent for a single task before and are on no result yet.
    """

    job: _Job
    task_ids: tuple[str, ...]
    unbooked: int = 0


class _Reader:
    """Reads HTTP answers of a provider, without the token, which some gateways quote in their errors."""

    def __init__(self, spec: ProviderSpec, token: str) -> None:
        self._spec = spec
        self._is_secret = len(token) >= _SHORTEST_SECRET
        # As it is, and as some servers write it in JSON.
        self._token_forms = {form.encode() for form in (token, token.replace("/", "\\/"), json.dumps(token)[1:-1])}

    def read(self, request: Request, answer: HttpAnswer) -> Response:
        """What an answer says.

        The token is cut out of the bytes: once they are shortened and parsed, half a token could not be told any more.
        """
        body = answer.body
        if answer.status >= 400 or self._is_secret:
            for form in self._token_forms:
                if form in body:
                    body = body.replace(form, b"***")
        spec = self._spec
        return read_answer(
            answer.status,
            body,
            shape=spec.shape,
            rules=spec.rules,
            task_id=request.task_id,
            reads=spec.generation if request.kind is RequestKind.GENERATION else None,
        )
