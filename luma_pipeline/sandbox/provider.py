"""The sandbox's provider: the gateway's and Luma's own API over HTTP, with limits, refusals and faults on demand."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import formatdate
from enum import StrEnum
from functools import cache
from types import TracebackType
from typing import Any, Literal
from urllib.parse import unquote

from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.generation import (
    NOT_FOUND_ODDITIES,
    TRANSPORT_ODDITIES,
    Generation,
    Oddity,
    Phase,
    State,
    batch_entry,
    gateway_body,
    luma_body,
    plain_gateway_json,
)
from luma_pipeline.sandbox.server import Answer, HttpServer, PortTakenError, Request, utc_now

__all__ = [
    "TOKEN",
    "Account",
    "Answer",
    "Batch",
    "Endpoint",
    "Generation",
    "Oddity",
    "Phase",
    "PortTakenError",
    "ProviderRequest",
    "ProviderServer",
    "RateLimit",
    "State",
]

TOKEN = "sandbox-token"

_GENERATIONS = "/luma/generations/"
_DOWNLOAD = "/download_video_url"
_BATCH = "/luma/tasks"
_LUMA_GENERATIONS = "/dream-machine/v1/generations/"
_HUGE = 64 * 1024 * 1024
_PROXY_PAGE = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


class Endpoint(StrEnum):
    """What a request asked for."""

    SINGLE = "single"
    DOWNLOAD_URL = "download_url"
    BATCH = "batch"
    LUMA = "luma"
    OTHER = "other"

    def __str__(self) -> str:
        return str(self.value)


class Account(StrEnum):
    """How the account behind the token stands; every mode but ACTIVE refuses every request."""

    ACTIVE = "active"
    UNAUTHORIZED = "unauthorized"
    PAYMENT_REQUIRED = "payment_required"
    FORBIDDEN = "forbidden"
    OUT_OF_QUOTA = "out_of_quota"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class RateLimit:
    """A token bucket: `burst` requests at once, `requests_per_second` after that, 429 above.

    `retry_after` is how the 429 says when to come back: in whole seconds, as an HTTP date, not at all, or always this
    number of seconds.
    """

    requests_per_second: float
    burst: int = 1
    retry_after: Literal["seconds", "http-date"] | int | None = "seconds"


@dataclass(frozen=True)
class Batch:
    """How POST /luma/tasks behaves: there or 404, with IDs it leaves out, and IDs whose data it garbles."""

    is_enabled: bool = True
    left_out: frozenset[str] = frozenset()
    garbled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ProviderRequest:
    """One request the provider has seen. `at` is Unix time in seconds; header names are lower case."""

    at: float
    endpoint: Endpoint
    path: str
    task_ids: tuple[str, ...]
    status: int
    headers: Mapping[str, str]


class ProviderServer:
    """Luma's gateway and Luma's own API on 127.0.0.1, in a thread of this process.

    Speaks GET /luma/generations/{task_id}, GET /luma/generations/{task_id}/download_video_url, POST /luma/tasks, and
    GET /dream-machine/v1/generations/{id}. Knows the `generations` given, those added later, and whatever `make` gives
    for any other task ID (None: not found). `cdn` signs the presigned links. `clock` is aware; a task's state is a
    function of it.

    The attributes `token` (None: any), `account`, `rate_limit`, `latency_seconds`, `outage` (an answer for every
    request, such as `Answer(503)` or `Answer(drop=True)`), `batch` and `not_found` may be set at any time from any
    thread. Of the request log the last `log_limit` records are kept; `count` and `total` go on.
    """

    def __init__(
        self,
        generations: Iterable[Generation] = (),
        *,
        cdn: CdnServer | None = None,
        make: Callable[[str], Generation | None] | None = None,
        clock: Callable[[], datetime] = utc_now,
        port: int = 0,
        log_limit: int = 50_000,
    ):
        self.token: str | None = TOKEN
        self.account = Account.ACTIVE
        self.latency_seconds = 0.0
        self.outage: Answer | None = None
        self.batch = Batch()
        self.not_found = Oddity.NOT_FOUND_404
        self.clock = clock
        self._cdn = cdn
        self._make = make
        self._server = HttpServer(self._answer, port=port)
        self._lock = threading.Lock()
        self._bucket: _Bucket | None = None
        self._generations: dict[str, Generation] = {}
        self._scripts: dict[tuple[Endpoint, str], deque[Answer | None]] = {}
        self._odd_answers_given: Counter[str] = Counter()
        self._requests: deque[ProviderRequest] = deque(maxlen=log_limit)
        self._counts: Counter[tuple[Endpoint, str]] = Counter()
        self._statuses: Counter[int] = Counter()
        self.add(*generations)

    @property
    def base_url(self) -> str:
        """The gateway's address, without a slash at the end."""
        return self._server.base_url

    @property
    def luma_base_url(self) -> str:
        """The base URL of Luma's own API, as the lumaai SDK takes it."""
        return f"{self.base_url}/dream-machine/v1"

    def start(self) -> ProviderServer:
        """Serve until `stop()`; raises PortTakenError when the port is in use."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop serving; tasks, scripts and the log stay."""
        self._server.stop()

    def __enter__(self) -> ProviderServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, *generations: Generation) -> None:
        """Know these tasks from now on; one with the same ID is replaced."""
        with self._lock:
            self._generations.update((generation.task_id, generation) for generation in generations)

    def script(self, task_id: str, answers: Sequence[Answer | None], *, endpoint: Endpoint = Endpoint.SINGLE) -> None:
        """Answer the next requests for a task with these in turn, then with the last again and again.

        None stands for the answer it would have without a script. Scripts are for SINGLE, DOWNLOAD_URL and LUMA, and
        for BATCH under the task ID "".
        """
        with self._lock:
            self._scripts[endpoint, task_id] = deque(answers)

    @property
    def rate_limit(self) -> RateLimit | None:
        """The limit in force; setting one starts with a full bucket."""
        bucket = self._bucket
        return None if bucket is None else bucket.limit

    @rate_limit.setter
    def rate_limit(self, limit: RateLimit | None) -> None:
        self._bucket = None if limit is None else _Bucket(limit)

    @property
    def requests(self) -> list[ProviderRequest]:
        """The requests so far, oldest first, whatever they were answered with."""
        with self._lock:
            return list(self._requests)

    @property
    def total(self) -> int:
        """The number of requests so far."""
        with self._lock:
            return sum(self._statuses.values())

    def count(self, task_id: str, endpoint: Endpoint | None = None) -> int:
        """The number of requests that named a task: on one endpoint, or on all."""
        with self._lock:
            return sum(self._counts[which, task_id] for which in ([endpoint] if endpoint else Endpoint))

    def count_status(self, status: int) -> int:
        """The number of requests answered with a status."""
        with self._lock:
            return self._statuses[status]

    def clear_log(self) -> None:
        """Forget the requests so far, in the log and in every count."""
        with self._lock:
            self._requests.clear()
            self._counts.clear()
            self._statuses.clear()

    def _answer(self, request: Request) -> Answer:
        endpoint, task_ids = _route(request)
        answer = self._gate(endpoint) or self._refuse_token(request, endpoint) or self._limit(endpoint)
        if answer is None:
            answer = self._scripted(endpoint, task_ids) or self._ordinary(endpoint, task_ids)
        record = ProviderRequest(time.time(), endpoint, request.path, task_ids, answer.status, request.headers)
        with self._lock:
            self._requests.append(record)
            self._statuses[answer.status] += 1
            for task_id in task_ids:
                self._counts[endpoint, task_id] += 1
        return answer.after(self.latency_seconds)

    def _gate(self, endpoint: Endpoint) -> Answer | None:
        if self.outage is not None:
            return self.outage
        refusal = _REFUSALS.get(self.account)
        return None if refusal is None else _error(endpoint, *refusal)

    def _refuse_token(self, request: Request, endpoint: Endpoint) -> Answer | None:
        if self.token is None or request.headers.get("authorization") == f"Bearer {self.token}":
            return None
        return _error(endpoint, *_REFUSALS[Account.UNAUTHORIZED])

    def _limit(self, endpoint: Endpoint) -> Answer | None:
        bucket = self._bucket
        wait = 0.0 if bucket is None else bucket.take()
        if bucket is None or wait <= 0:
            return None
        answer = _error(endpoint, 429, "rate_limit_exceeded", "Too many requests, slow down.")
        if bucket.limit.retry_after is None:
            return answer
        if isinstance(bucket.limit.retry_after, int):
            retry_after = str(bucket.limit.retry_after)
        elif bucket.limit.retry_after == "seconds":
            retry_after = str(math.ceil(wait))
        else:
            retry_after = formatdate(math.ceil(time.time() + wait), usegmt=True)
        return replace(answer, headers={**answer.headers, "Retry-After": retry_after})

    def _scripted(self, endpoint: Endpoint, task_ids: tuple[str, ...]) -> Answer | None:
        key = (endpoint, "" if endpoint is Endpoint.BATCH else task_ids[0] if task_ids else "")
        with self._lock:
            script = self._scripts.get(key)
            if not script:
                return None
            return script.popleft() if len(script) > 1 else script[0]

    def _ordinary(self, endpoint: Endpoint, task_ids: tuple[str, ...]) -> Answer:
        if endpoint is Endpoint.BATCH:
            return self._batch_answer(task_ids)
        if endpoint is Endpoint.OTHER:
            return _error(endpoint, 404, "", "Invalid URL")
        generation = self._generation(task_ids[0])
        if generation is None:
            return _not_found(self.not_found, endpoint, task_ids[0])
        oddities = self._oddities(generation)
        for oddity in oddities:
            if oddity in NOT_FOUND_ODDITIES:
                return _not_found(oddity, endpoint, generation.task_id)
        now = self.clock()
        if endpoint is Endpoint.DOWNLOAD_URL:
            return self._download_answer(generation, now)
        if endpoint is Endpoint.SINGLE and not oddities:
            return Answer(200, {"Content-Type": "application/json"}, plain_gateway_json(generation, now))
        body = luma_body if endpoint is Endpoint.LUMA else gateway_body
        answer = Answer.of_json(body(generation, now, oddities, self._sign))
        for oddity in oddities:
            if oddity in TRANSPORT_ODDITIES:
                answer = _spoilt(answer, oddity)
        return answer

    def _batch_answer(self, task_ids: tuple[str, ...]) -> Answer:
        batch, now = self.batch, self.clock()
        if not batch.is_enabled:
            return _error(Endpoint.BATCH, 404, "", f"Invalid URL (POST {_BATCH})")
        entries = []
        for task_id in task_ids:
            generation = None if task_id in batch.left_out else self._generation(task_id)
            oddities = () if generation is None else self._oddities(generation)
            if generation is None or not TRANSPORT_ODDITIES.isdisjoint(oddities):
                continue
            body: object = gateway_body(generation, now, oddities, self._sign)
            entries.append(batch_entry(generation, now, "{" if task_id in batch.garbled else body))
        return Answer.of_json({"code": "success", "message": "", "data": entries})

    def _download_answer(self, generation: Generation, now: datetime) -> Answer:
        if generation.state_at(now) != State.COMPLETED:
            return _error(Endpoint.DOWNLOAD_URL, 400, "video_not_ready", "The video is not finished.")
        return Answer.of_json({"url": self._sign(generation.urls.video, generation.link_seconds, None)})

    def _generation(self, task_id: str) -> Generation | None:
        with self._lock:
            known = self._generations.get(task_id)
        return known if known is not None or self._make is None else self._make(task_id)

    def _oddities(self, generation: Generation) -> tuple[Oddity, ...]:
        if not generation.oddities or generation.odd_answers is None:
            return generation.oddities
        with self._lock:
            self._odd_answers_given[generation.task_id] += 1
            return generation.oddities if self._odd_answers_given[generation.task_id] <= generation.odd_answers else ()

    def _sign(self, url: str, expires_seconds: int, signed_at: datetime | None) -> str:
        # Without a CDN the plain link is all there is.
        return url if self._cdn is None else self._cdn.sign(url, expires_seconds, signed_at=signed_at)


class _Bucket:
    def __init__(self, limit: RateLimit):
        self.limit = limit
        self._tokens = float(limit.burst)
        self._filled_at = time.monotonic()

    def take(self) -> float:
        """Take one request's token: 0, or the seconds until there is one."""
        now = time.monotonic()
        gained = (now - self._filled_at) * self.limit.requests_per_second
        self._tokens = min(float(self.limit.burst), self._tokens + gained)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.limit.requests_per_second


def _route(request: Request) -> tuple[Endpoint, tuple[str, ...]]:
    """What is asked for, and of which tasks; a slash inside an ID arrives as %2F."""
    path = request.path
    if request.method == "POST" and path == _BATCH:
        return Endpoint.BATCH, _batch_ids(request.body)
    if request.method == "GET" and path.startswith(_GENERATIONS):
        task_id = path[len(_GENERATIONS) :]
        if task_id and "/" not in task_id:
            return Endpoint.SINGLE, (unquote(task_id),)
        task_id = task_id[: -len(_DOWNLOAD)] if task_id.endswith(_DOWNLOAD) else ""
        if task_id and "/" not in task_id:
            return Endpoint.DOWNLOAD_URL, (unquote(task_id),)
    elif request.method == "GET" and path.startswith(_LUMA_GENERATIONS):
        task_id = path[len(_LUMA_GENERATIONS) :]
        if task_id and "/" not in task_id:
            return Endpoint.LUMA, (unquote(task_id),)
    return Endpoint.OTHER, ()


def _batch_ids(body: bytes) -> tuple[str, ...]:
    try:
        asked: Any = json.loads(body)
    except ValueError:
        return ()
    ids = asked.get("ids") if isinstance(asked, dict) else None
    return tuple(task_id for task_id in ids if isinstance(task_id, str)) if isinstance(ids, list) else ()


_REFUSALS = {
    Account.UNAUTHORIZED: (401, "invalid_api_key", "Invalid token"),
    Account.PAYMENT_REQUIRED: (402, "payment_required", "Payment is required to go on."),
    Account.FORBIDDEN: (403, "forbidden", "This token has no access to this model."),
    Account.OUT_OF_QUOTA: (403, "insufficient_user_quota", "The account's quota is used up."),
}


def _error(endpoint: Endpoint, status: int, code: str, message: str) -> Answer:
    if endpoint is Endpoint.LUMA:
        return Answer.of_json({"detail": message}, status)
    error = {"message": message, "type": "api_error", "param": "", "code": code}
    return Answer.of_json({"error": error}, status)


def _not_found(shape: Oddity, endpoint: Endpoint, task_id: str) -> Answer:
    if endpoint is Endpoint.LUMA or shape is Oddity.NOT_FOUND_DETAIL:
        return Answer.of_json({"detail": "Generation not found"}, 404)
    if shape is Oddity.NOT_FOUND_404:
        return _error(endpoint, 404, "task_not_exist", f"task not found: {task_id}")
    status = {Oddity.NOT_FOUND_200: 200, Oddity.NOT_FOUND_400: 400}.get(shape, 500)
    return Answer.of_json({"code": "task_not_exist", "message": "task_not_exist", "data": None}, status)


def _spoilt(answer: Answer, oddity: Oddity) -> Answer:
    if oddity is Oddity.PROXY_HTML:
        return Answer(502, {"Content-Type": "text/html"}, _PROXY_PAGE)
    if oddity is Oddity.CUT_BODY:
        return replace(answer, cut_after=len(answer.body) // 2)
    if oddity is Oddity.NOT_JSON:
        return replace(answer, body=b"success" + answer.body[: len(answer.body) // 2])
    if oddity is Oddity.NOT_AN_OBJECT:
        return replace(answer, body=b"[]")
    if oddity is Oddity.HUGE_BODY:
        return replace(answer, body=_huge_body())
    body = _bomb() if oddity is Oddity.GZIP_BOMB else gzip.compress(answer.body)
    return replace(answer, headers={**answer.headers, "Content-Encoding": "gzip"}, body=body)


@cache
def _huge_body() -> bytes:
    return b'{"id": "' + b"a" * _HUGE + b'"}'


@cache
def _bomb() -> bytes:
    return gzip.compress(_huge_body())
