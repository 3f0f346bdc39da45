"""The provider's room: asking for many tasks at once, with one answer for each."""

from __future__ import annotations

import itertools
import json
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import tenacity

from luma_pipeline.luma.answers import Answer, Verdict, read_answer
from luma_pipeline.luma.dialects import Dialect
from luma_pipeline.luma.errors import (
    AuthenticationError,
    LinkUnavailableError,
    LumaError,
    ProviderUnavailableError,
    QuotaExceededError,
)
from luma_pipeline.luma.pace import AdaptivePace, Pace, TokenBucket
from luma_pipeline.luma.results import Outcome, TaskResult
from luma_pipeline.luma.transport import BodyTooLargeError, HttpAnswer, HttpTransport, TransportError

__all__ = ["DEFAULT_BASE_URL", "LumaClient"]

DEFAULT_BASE_URL = "https://api.gpt.ge"
"""The host of the provider's page."""

_log = logging.getLogger(__name__)

_BATCH_PATH = "/luma/tasks"
_SHORTEST_SECRET = 8
_BACKOFF_BASE = 0.5
_BACKOFF_LIMIT = 20.0


class LumaClient:
    """Asks the provider for generations: bounded threads, one shared pace, retries, and an `TaskResult` for every task.

    A context manager; thread-safe, and several `fetch` calls at a time share its threads and its pace.

    Args:
        token: The bearer token. It is sent to the host of `base_url` alone and never shown.
        base_url: Scheme, host and an optional path before the API's own.
        dialect: The gateway's API or Luma's own.
        max_concurrency: Threads, which is also the most requests under way at one moment.
        requests_per_second: The provider's limit. None finds it: full speed until the first 429, then close below it.
        burst: Requests that may leave at once under `requests_per_second`.
        connect_timeout: Seconds for the connection to be made.
        read_timeout: Seconds from the request until its answer begins.
        deadline: Seconds for one request as a whole.
        max_attempts: Tries for one task. Not counted are an answer "too fast", which is the pace's fault, and faults of
            the provider as a whole (no connection, no answer in time, 502 to 504, 520 and above) while nobody else is
            answered either: such an outage is waited out for `unavailable_seconds`.
        max_retry_seconds: Seconds for one task over all its tries, waits for the provider's limit not counted; 0: one
            try. A `Retry-After` that is longer ends the run.
        max_body_bytes: Largest answer that is read, after decompression.
        batch_size: Ask for this many tasks in one request (`POST /luma/tasks`, gateway only). None asks singly.
        unavailable_after: Tasks that have to be failing, with none succeeding, for the provider to count as down.
        unavailable_seconds: Seconds that this has to last: ten times as many for errors that may be the tasks' own (a
            5xx in the gateway's words, an unreadable answer, a task that failed while others were answered), a quarter
            of them where the host's name or certificate has been wrong from the start.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        *,
        token: str,
        base_url: str = DEFAULT_BASE_URL,
        dialect: Dialect | str = Dialect.GATEWAY,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        burst: int = 1,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        deadline: float = 60.0,
        max_attempts: int = 5,
        max_retry_seconds: float = 180.0,
        max_body_bytes: int = 8 * 1024 * 1024,
        batch_size: int | None = None,
        unavailable_after: int = 10,
        unavailable_seconds: float = 60.0,
    ) -> None:
        token = _checked_token(token)
        self._dialect = _dialect(dialect)
        _check_at_least(1, max_concurrency=max_concurrency, max_attempts=max_attempts, max_body_bytes=max_body_bytes)
        _check_at_least(1, unavailable_after=unavailable_after, batch_size=batch_size)
        _check_at_least(0, max_retry_seconds=max_retry_seconds, unavailable_seconds=unavailable_seconds)
        if requests_per_second is not None and not 0 < requests_per_second < math.inf:
            raise ValueError(
                f"requests_per_second (LUMA_REQUESTS_PER_SECOND) must be above 0, not {requests_per_second}; leave it "
                "out to have the limit found"
            )
        if batch_size and self._dialect is not Dialect.GATEWAY:
            raise ValueError(
                "batch_size (LUMA_BATCH_SIZE) is for the gateway dialect: Luma's own API has no such request"
            )
        self._token = token
        # As it is, and as some servers write it in JSON.
        self._token_forms = {form.encode() for form in (token, token.replace("/", "\\/"), json.dumps(token)[1:-1])}
        self._transport = HttpTransport(
            base_url,
            {
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "Content-Type": "application/json",
                "User-Agent": "luma-pipeline",
            },
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            deadline=deadline,
            max_body_bytes=max_body_bytes,
        )
        self._pace: Pace = (
            TokenBucket(requests_per_second, burst) if requests_per_second is not None else AdaptivePace()
        )
        self._max_concurrency = max_concurrency
        self._max_attempts = max_attempts
        self._max_retry_seconds = max_retry_seconds
        self._batch_size = batch_size
        self._circuit = _Circuit(unavailable_after, unavailable_seconds, self._transport.host)
        self._turn = threading.Lock()
        self._scouted = threading.Event()
        self._scouting = threading.Lock()
        self._batches_known = threading.Event()
        self._first_batch = threading.Lock()
        self._stopped = threading.Event()
        self._error: LumaError | None = None
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"LumaClient(host={self._transport.host!r}, dialect={self._dialect.value!r})"

    def __enter__(self) -> LumaClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fetch(self, task_ids: Iterable[str]) -> Iterator[TaskResult]:
        """Ask for tasks and yield one `TaskResult` for each, in the order the answers come.

        `task_ids` is read as answers are taken, a bounded number ahead. A consumer that stops early leaves nothing
        running but the requests already sent.

        Raises:
            AuthenticationError: The token was refused.
            QuotaExceededError: The account is out of money or quota.
            ProviderUnavailableError: The provider is down, or asks to come back later than `max_retry_seconds`.
        """
        self._start()
        batch_size = self._batch_size or 1
        window = 6 * self._max_concurrency * batch_size
        job = _Job()
        source = iter(task_ids)
        pending = 0
        exhausted = False
        try:
            while True:
                while not exhausted and pending < window:
                    members = tuple(itertools.islice(source, batch_size))
                    exhausted = len(members) < batch_size
                    if members:
                        self._put(_Work(job, members))
                        pending += len(members)
                if not pending:
                    return
                result = job.results.get()
                if isinstance(result, BaseException):
                    raise result
                pending -= 1
                yield result
        finally:
            job.cancelled = True

    def fetch_one(self, task_id: str) -> TaskResult:
        """Ask for one task, in the caller's thread. Raises as `fetch` does."""
        return self._ask(_Work(None, (task_id,)), task_id)

    def unwatermarked_link(self, task_id: str) -> str | None:
        """Ask the gateway for a link to the video without watermark; None where it has none for this task.

        An account without this feature has none: only a refused token (401) stops the run here.

        Raises:
            LinkUnavailableError: No usable answer came; another time one may.
            AuthenticationError, ProviderUnavailableError: As in `fetch`.
        """
        path = self._dialect.path(task_id) + "/download_video_url"
        result = self._call("GET", path, is_optional=True)
        answer = result.answer
        if answer is None or answer.verdict in _UNANSWERED:
            raise LinkUnavailableError(f"the provider gave no link without watermark: {result.describe()}")
        if (result.status or 0) >= 300 or not isinstance(answer.body, Mapping):
            return None
        inner = answer.body.get("data")
        for holder in (answer.body, inner if isinstance(inner, Mapping) else {}):
            for name in ("download_url", "video_url", "url"):
                link = holder.get(name)
                if isinstance(link, str) and link:
                    return link
        return inner if isinstance(inner, str) and inner.startswith("http") else None

    def close(self) -> None:
        """Stop the threads and close the connections; requests under way are cut."""
        with self._starting:
            self._stopped.set()
            for _ in self._threads:
                self._work.put(None)
        self._transport.close()
        for thread in self._threads:
            thread.join()

    # The threads.

    def _start(self) -> None:
        with self._starting:
            if self._stopped.is_set():
                raise RuntimeError("the client is closed")
            while len(self._threads) < self._max_concurrency:
                thread = threading.Thread(target=self._run, name=f"luma-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _put(self, work: _Work) -> None:
        # Under the lock of `close`, so that nothing lies behind the threads' end, where nobody would answer it.
        with self._starting:
            self._raise_if_stopped()
            self._work.put(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._answer(work)
            except _CancelledError:
                continue
            except BaseException as error:  # noqa: BLE001 - it is raised again where the results are read
                work.deliver(error)

    def _answer(self, work: _Work) -> None:
        if len(work.task_ids) == 1 or self._batch_size is None:
            for task_id in work.task_ids:
                work.deliver(self._ask(work, task_id))
        elif self._batches_known.is_set():
            self._ask_batch(work)
        else:
            # The first batch goes alone: whether the endpoint is there is learnt with one request.
            with self._first_batch:
                if not self._batches_known.is_set():
                    self._ask_batch(work)
                    self._batches_known.set()
                    return
            self._answer(work)

    # One task.

    def _ask(self, work: _Work, task_id: str) -> TaskResult:
        if not task_id.strip():
            return TaskResult(
                task_id,
                Outcome.REQUEST_FAILED,
                _now(),
                attempts=0,
                requests=0,
                error_code="blank_task_id",
                error_message="a blank task ID cannot be asked for",
            )
        result = self._call("GET", self._dialect.path(task_id), work=work)
        if work.unbooked:
            result = replace(result, requests=result.requests + work.unbooked)
        return self._outcome(task_id, result)

    def _outcome(self, task_id: str, result: _Result) -> TaskResult:
        answer = result.answer
        common: dict[str, Any] = {
            "attempts": result.attempts,
            "requests": result.requests,
            "seconds": result.seconds,
            "waited_seconds": result.waited_seconds,
            "throttled": result.throttled,
        }
        if answer is None:
            kind = Outcome.INVALID_RESPONSE if result.error_code in _INVALID_CODES else Outcome.REQUEST_FAILED
            return TaskResult(
                task_id,
                kind,
                _now(),
                error_code=result.error_code,
                error_message=result.error_message,
                **common,
            )
        if answer.verdict is Verdict.GENERATION:
            return TaskResult(
                task_id,
                Outcome.RESOLVED,
                _now(),
                http_status=result.status,
                generation=self._dialect.read(answer.body),
                raw_response=answer.text,
                **common,
            )
        return TaskResult(
            task_id,
            _KINDS.get(answer.verdict, Outcome.REQUEST_FAILED),
            _now(),
            http_status=result.status,
            error_code=answer.code,
            error_message=answer.message,
            raw_response=answer.text,
            **common,
        )

    def _read(self, http_answer: HttpAnswer) -> Answer:
        """Read an answer without the token, which some gateways quote in their errors.

        It is cut out of the bytes: once they are shortened and parsed, half a token could not be told any more. A
        token as short as a word is no secret, and would be found in any generation.
        """
        body = http_answer.body
        if http_answer.status >= 400 or len(self._token) >= _SHORTEST_SECRET:
            for form in self._token_forms:
                if form in body:
                    body = body.replace(form, b"***")
        return read_answer(http_answer.status, body)

    # One question, with its tries.

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        work: _Work | None = None,
        *,
        is_optional: bool = False,
    ) -> _Result:
        call = _Call(self, _Question(method, path, body, is_optional), work)
        try:
            self._first_attempt(call)
        except _TransientError:
            pass
        else:
            return call.result
        # The common case above costs nothing for retries; tenacity takes over when there is something to retry.
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            wait=call.backoff,
            stop=call.spent,
            sleep=self._sleep,
            before_sleep=None,
        )
        if not call.spent(None):
            self._sleep(call.backoff(None))
            try:
                retrying(call.attempt)
            except tenacity.RetryError:
                pass
            else:
                return call.result
        return call.result

    def _first_attempt(self, call: _Call) -> None:
        """The client's very first request goes alone: a refused token or an empty account is learnt with one."""
        if not self._scouted.is_set():
            with self._scouting:
                if not self._scouted.is_set():
                    try:
                        return call.attempt()
                    finally:
                        if self._error is None:
                            self._scouted.set()
        return call.attempt()

    def _take_place(self) -> float:
        """Wait for a place in the pace; return the seconds it took.

        One thread waits for the place and the others for it: what is learnt meanwhile (a hold, another rate) is so
        for all of them.
        """
        if self._pace.reserve() == 0.0:
            return 0.0
        started = time.monotonic()
        with self._turn:
            while (seconds := self._pace.reserve()) > 0:
                self._sleep(seconds)
        return time.monotonic() - started

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._stopped.wait(seconds)
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped.is_set():
            raise LumaError("the client was closed while requests were under way")

    def _raise_fatal(self, answer: Answer) -> None:
        """Raise for an answer that no later request of this run can change."""
        host, said = self._transport.host, f"{answer.message} ({answer.code})"
        if answer.verdict is Verdict.BAD_TOKEN:
            self._stop(
                AuthenticationError(
                    f"{host} refused the token: {said}. Check LUMA_API_TOKEN (the `token` setting) and that it belongs "
                    "to this host."
                )
            )
        if answer.verdict is Verdict.NO_QUOTA:
            self._stop(
                QuotaExceededError(
                    f"{host} answers that the account is out of quota: {said}. Top up the account, then run again: "
                    "what was answered so far is kept."
                )
            )

    def _stop(self, error: LumaError) -> None:
        if self._error is None:
            self._error = error
        raise self._error

    def _slow_down(self, answer: HttpAnswer) -> None:
        self._pace.throttled()
        seconds = _retry_after(answer.headers)
        if seconds is None:
            return
        if seconds > self._max_retry_seconds:
            self._stop(
                ProviderUnavailableError(
                    f"{self._transport.host} asks to come back in {seconds:.0f} s, more than max_retry_seconds "
                    f"({self._max_retry_seconds:.0f}). Run again after that: what was answered so far is kept."
                )
            )
        self._pace.hold(seconds)

    # Many tasks in one question.

    def _ask_batch(self, work: _Work) -> None:
        """Ask for the members together; what the answer leaves out or garbles is asked for singly."""
        body = json.dumps({"ids": list(work.task_ids)}).encode()
        result = self._call("POST", _BATCH_PATH, body, work)
        found = self._batch_members(result)
        rest: list[str] = []
        for task_id in work.task_ids:
            answer = _batch_answer(found.get(task_id))
            if answer is None:
                rest.append(task_id)
            else:
                work.deliver(self._outcome(task_id, replace(result, answer=answer)))
                # The requests and waits of a batch are booked on one of its members.
                result = replace(result, requests=0, throttled=0, waited_seconds=0.0)
        for task_id in rest:
            self._put(_Work(work.job, (task_id,), result.requests))
            result = replace(result, requests=0)

    def _batch_members(self, result: _Result) -> Mapping[str, Any]:
        """What a batch's answer holds for each task."""
        body = result.answer.body if result.answer is not None else None
        data = body.get("data") if isinstance(body, Mapping) else None
        if isinstance(data, list):
            entries = [entry for entry in data if isinstance(entry, Mapping) and isinstance(entry.get("task_id"), str)]
            return {entry["task_id"]: entry.get("data") for entry in entries}
        if result.status in (404, 405, 501):
            self._batch_size = None
            _log.warning(
                "%s has no batch endpoint (HTTP %s from POST %s): asking for tasks singly",
                self._transport.host,
                result.status,
                _BATCH_PATH,
            )
        return {}


_KINDS = {
    Verdict.NOT_FOUND: Outcome.NOT_FOUND,
    Verdict.INVALID: Outcome.INVALID_RESPONSE,
    Verdict.GARBLED: Outcome.INVALID_RESPONSE,
}
_UNANSWERED = frozenset({Verdict.RETRY, Verdict.GARBLED, Verdict.TOO_FAST, Verdict.NO_QUOTA})
_NO_SUCH_LINK = frozenset({402, 403, 404, 405, 410, 501})
_OUTAGE_CODES = frozenset({"connection", "timeout", "deadline", "dns", "certificate", "bad_http"})
_OUTAGE_STATUSES = frozenset({502, 503, 504}) | frozenset(range(520, 600))
_NEVER_REACHED_CODES = frozenset({"dns", "certificate"})
"""What no outage looks like: there is no such host, or it is another one."""
_INVALID_CODES = frozenset({"cut_body", "body_too_large", "bad_encoding", "bad_http"})


@dataclass
class _Job:
    """One `fetch` call: where its results go, and whether anybody still waits for them."""

    def __post_init__(self) -> None:
        self.results: queue.SimpleQueue[TaskResult | BaseException] = queue.SimpleQueue()
        self.cancelled = False


@dataclass(frozen=True)
class _Work:
    """Tasks to ask for together, and the `fetch` that waits for them; None where the caller's own thread asks."""

    job: _Job | None
    task_ids: tuple[str, ...]
    unbooked: int = 0
    """Requests that were sent for a single task before and are on no outcome yet."""

    @property
    def is_cancelled(self) -> bool:
        return self.job is not None and self.job.cancelled

    def deliver(self, result: TaskResult | BaseException) -> None:
        if self.job is not None:
            self.job.results.put(result)


@dataclass(frozen=True)
class _Result:
    """What a question came to: an answer, or the code and message of why there is none."""

    answer: Answer | None = None
    status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    attempts: int = 0
    requests: int = 0
    throttled: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0

    def describe(self) -> str:
        if self.answer is not None:
            return f"HTTP {self.status}, {self.answer.message}"
        return self.error_message or "no answer"


@dataclass(frozen=True)
class _Question:
    """A request. One that is optional asks for a feature that the account may not have."""

    method: str
    path: str
    body: bytes | None
    is_optional: bool = False


class _TransientError(Exception):
    """A try failed in a way that another may not."""


class _CancelledError(Exception):
    """Nobody waits for the answer any more."""


class _Call:
    """The tries of one question."""

    def __init__(self, client: LumaClient, question: _Question, work: _Work | None) -> None:
        self._client = client
        self._question = question
        self._work = work
        self._is_outage = False
        self._failed_at: float | None = None
        self._attempts = 0
        self._throttled = 0
        self._outages = 0
        self._waited = 0.0
        self._started = time.monotonic()
        self.result = _Result()

    def attempt(self) -> None:
        """Ask once; `result` holds what came. Raises _TransientError when another try may help."""
        client = self._client
        self._raise_if_pointless()
        waited = client._take_place()
        if waited:
            self._waited += waited
            self._raise_if_pointless()
        self._attempts += 1
        sent = time.monotonic()
        question = self._question
        try:
            http_answer = client._transport.request(question.method, question.path, question.body)
        except TransportError as error:
            client._raise_if_stopped()
            self._note(time.monotonic() - sent, None, None, error.code, str(error))
            if isinstance(error, BodyTooLargeError):
                return
            is_outage = error.code in _OUTAGE_CODES
            raise self._trouble(is_outage=is_outage, is_whole=is_outage, code=error.code) from None
        answer = client._read(http_answer)
        if question.is_optional:
            answer = _optional(http_answer.status, answer)
        self._note(time.monotonic() - sent, answer, http_answer.status)
        if not (question.is_optional and answer.verdict is Verdict.NO_QUOTA):
            client._raise_fatal(answer)
        self._take(answer, http_answer, sent)

    def _take(self, answer: Answer, http_answer: HttpAnswer, sent: float) -> None:
        """Tell the pace and the circuit of an answer; raises _TransientError when another try may help."""
        client, status = self._client, http_answer.status
        is_outage = status in _OUTAGE_STATUSES and answer.verdict is Verdict.RETRY
        if answer.verdict is Verdict.TOO_FAST or (status == 503 and is_outage and not self._question.is_optional):
            self._throttled += answer.verdict is Verdict.TOO_FAST
            client._slow_down(http_answer)
        else:
            client._pace.accepted()
            if answer.verdict not in (Verdict.RETRY, Verdict.GARBLED):
                client._circuit.succeeded(sent)
                return
        # An error in JSON is the gateway's own word about this task; what stands before the gateway speaks HTML.
        raise self._trouble(is_outage=is_outage, is_whole=is_outage and answer.body is None)

    def _trouble(self, *, is_outage: bool, is_whole: bool, code: str | None = None) -> _TransientError:
        """Note a failed try; returns what is to be raised, or raises what stops the run.

        `is_outage`: it may be that nobody is there; `is_whole`: and the task itself cannot be the reason. `code` is
        that of a request without an answer.
        """
        if self._failed_at is None:
            self._failed_at = time.monotonic()
        is_alone = self._is_alone
        self._is_outage = is_outage
        self._outages += is_outage and not is_alone
        if not self._question.is_optional:
            circuit = self._client._circuit
            error = circuit.failed(self, self.result.describe(), is_whole=is_whole and not is_alone, code=code)
            if error is not None:
                self._client._stop(error)
        return _TransientError()

    @property
    def _is_alone(self) -> bool:
        """Whether it fails while others are answered: one that was sent after its first failure has succeeded."""
        return self._failed_at is not None and self._client._circuit.succeeded_sent_at > self._failed_at

    def _raise_if_pointless(self) -> None:
        self._client._raise_if_stopped()
        if self._work is not None and self._work.is_cancelled:
            raise _CancelledError

    def spent(self, _: object) -> bool:
        """Whether the budget of attempts or of time is used up (a stop condition of tenacity)."""
        client = self._client
        # A provider that answers nothing but "too fast" must end too.
        if self._throttled >= 4 * client._max_attempts:
            return True
        if time.monotonic() - self._started - self._waited >= client._max_retry_seconds:
            return True
        tries = self._attempts - self._throttled
        if not self._is_outage:
            return tries - self._outages >= client._max_attempts
        # An outage would take every task's tries within seconds, so it is waited out.
        return tries >= client._max_attempts and (self._is_alone or not client._circuit.is_young)

    def backoff(self, _: object) -> float:
        """Seconds before the next try: exponential with full jitter (a wait of tenacity).

        Full jitter (a time anywhere between nothing and the bound) spreads threads that failed together best.
        """
        bound: float = min(_BACKOFF_LIMIT, _BACKOFF_BASE * 2 ** min(self._attempts, 16))
        return random.uniform(0.0, bound)  # noqa: S311 - jitter, not a secret

    def _note(
        self,
        seconds: float,
        answer: Answer | None,
        status: int | None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> None:
        self.result = _Result(
            answer,
            status,
            error_code,
            error_message,
            attempts=self._attempts,
            requests=self._attempts,
            throttled=self._throttled,
            seconds=seconds,
            waited_seconds=self._waited,
        )


class _Streak:
    """Tasks that are failing, with no success between them. No more of them are kept than the limit needs."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: set[_Call] = set()
        self.since: float | None = None

    def add(self, call: _Call, now: float) -> None:
        if self.since is None:
            self.since = now
        if len(self._calls) < self._limit:
            self._calls.add(call)

    def end(self) -> None:
        self._calls.clear()
        self.since = None

    def lasts(self, seconds: float, now: float) -> bool:
        return self.since is not None and len(self._calls) >= self._limit and now - self.since >= seconds


class _Circuit:
    """Opens when several tasks have been failing for a while and none has succeeded.

    One task's own trouble must not stop the others, and an outage of seconds nobody.
    """

    OF_NEVER_REACHED = 0.25
    """Share of the while where no host was ever reached: it is a wrong address then, rather than an outage."""
    OF_TASKS_OWN = 10.0
    """Whiles for errors that may be the tasks' own, which come last since they are tried again and again."""

    def __init__(self, limit: int, seconds: float, host: str) -> None:
        self._seconds = seconds
        self._host = host
        self._was_reached = False
        self._failing = _Streak(limit)
        self._whole = _Streak(limit)
        self._lock = threading.Lock()
        self.succeeded_sent_at = -math.inf
        """When the last request that has succeeded was sent."""

    @property
    def is_young(self) -> bool:
        """Whether nothing succeeds, and not for long yet."""
        since = self._failing.since
        return since is not None and time.monotonic() - since < self._seconds

    def succeeded(self, sent: float) -> None:
        self.succeeded_sent_at = sent
        if self._failing.since is not None:
            with self._lock:
                self._failing.end()
                self._whole.end()

    def failed(self, call: _Call, reason: str, *, is_whole: bool, code: str | None) -> ProviderUnavailableError | None:
        """Count a failed try; the error if the provider counts as down with it."""
        with self._lock:
            now = time.monotonic()
            self._failing.add(call, now)
            if is_whole:
                self._whole.add(call, now)
            silence = now - (self._failing.since or now)
            is_out = self._whole.lasts(self._seconds, now)
            is_odd = self._failing.lasts(self.OF_TASKS_OWN * self._seconds, now)
            if code not in _NEVER_REACHED_CODES or self.succeeded_sent_at > -math.inf:
                self._was_reached = True
            is_nowhere = not self._was_reached and silence >= self.OF_NEVER_REACHED * self._seconds
        if is_nowhere:
            return ProviderUnavailableError(
                f"{self._host} cannot be reached: {reason}. Check LUMA_BASE_URL, then run again."
            )
        if is_out or is_odd:
            return ProviderUnavailableError(
                f"{self._host} is unavailable: no request of the last {silence:.0f} s has succeeded, the last failure "
                f"was: {reason}. Check the provider's status and LUMA_BASE_URL, then run again: what was answered so "
                "far is kept."
            )
        return None


def _optional(status: int, answer: Answer) -> Answer:
    """An answer about a feature that the account may not have: these statuses say so, whatever else they mean."""
    return replace(answer, verdict=Verdict.REFUSED) if status in _NO_SUCH_LINK else answer


def _batch_answer(body: object) -> Answer | None:
    """The answer for one member of a batch; None where it is not one of a generation."""
    if not isinstance(body, Mapping) or not ("state" in body or "id" in body):
        return None
    # Every character as ASCII: JSON can hold half a surrogate pair, a column of text cannot.
    return Answer(Verdict.GENERATION, json.dumps(body), body)


def _retry_after(headers: Message) -> float | None:
    """Seconds from a `Retry-After` header, which is a number of seconds or an HTTP date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().replace(".", "", 1).isdigit() else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds_until(http_date: str) -> float:
    until = parsedate_to_datetime(http_date)
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - _now()).total_seconds())


def _checked_token(token: str) -> str:
    """The token without the white space around it: one that was read from a file ends with the line's end."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token (LUMA_API_TOKEN) must be non-empty ASCII without spaces or control characters")
    return token


def _dialect(name: Dialect | str) -> Dialect:
    try:
        return Dialect(name)
    except ValueError:
        words = " or ".join(dialect.value for dialect in Dialect)
        raise ValueError(f"the dialect (LUMA_DIALECT) must be {words}, not {name!r}") from None


def _check_at_least(least: int, **settings: float | None) -> None:
    for name, value in settings.items():
        # Said this way round, so that a NaN is refused too.
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def _now() -> datetime:
    return datetime.now(timezone.utc)
