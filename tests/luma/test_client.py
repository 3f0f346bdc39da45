"""The client against real servers: one outcome a task, within the provider's limits, and no token elsewhere."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from luma_pipeline.luma import (
    AuthenticationError,
    LumaClient,
    LumaError,
    OutcomeKind,
    ProviderUnavailableError,
    QuotaExceededError,
    to_table,
)
from luma_pipeline.sandbox.provider import (
    TOKEN,
    Account,
    Answer,
    Batch,
    Endpoint,
    Generation,
    Oddity,
    ProviderServer,
    RateLimit,
)

IDS = [f"task-{number}" for number in range(60)]


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer([Generation(task_id) for task_id in IDS]) as server:
        yield server


def client(provider: ProviderServer, **settings: Any) -> LumaClient:
    return LumaClient(**{"token": TOKEN, "base_url": provider.base_url, "max_retry_seconds": 30.0, **settings})


def test_every_task_has_exactly_one_outcome(provider: ProviderServer) -> None:
    with client(provider) as luma:
        outcomes = list(luma.fetch(iter([*IDS, "unknown"])))
    assert Counter(outcome.task_id for outcome in outcomes) == Counter([*IDS, "unknown"])
    assert {outcome.kind for outcome in outcomes if outcome.task_id != "unknown"} == {OutcomeKind.RESOLVED}
    assert [outcome.kind for outcome in outcomes if outcome.task_id == "unknown"] == [OutcomeKind.NOT_FOUND]
    assert provider.total == len(IDS) + 1


WILD_IDS = ["a/b", "..", ".", "%2F", "ä ö?#&=+", "x" * 500, "日本", "a\\b", "../../etc", "a;b", "a\nb"]


@pytest.mark.parametrize("task_id", WILD_IDS)
def test_a_task_id_is_data_whatever_is_in_it(task_id: str) -> None:
    with ProviderServer([Generation(task_id)]) as provider, client(provider) as luma:
        assert luma.fetch_one(task_id).kind is OutcomeKind.RESOLVED
        assert provider.count(task_id) == 1


def test_a_blank_id_is_answered_without_a_request(provider: ProviderServer) -> None:
    with client(provider) as luma:
        assert luma.fetch_one("  ").error_code == "blank_task_id"
    assert provider.total == 0


GOOD = None
RETRIED = {
    **{str(status): Answer(status) for status in (408, 425, 429, 500, 502, 503, 504, 520, 524)},
    "connection dropped": Answer(drop=True),
    "cut body": Answer(200, {"Content-Length": "100"}, b'{"state": "comp', cut_after=15),
    "not JSON": Answer(200, {}, b"<html>maintenance</html>"),
}
NOT_RETRIED = {
    "400": (Answer.of_json({"error": {"code": "bad", "message": "no"}}, 400), OutcomeKind.REQUEST_FAILED),
    "404": (Answer(404), OutcomeKind.NOT_FOUND),
    "409": (Answer(409), OutcomeKind.REQUEST_FAILED),
    "422": (Answer.of_json({"detail": "what?"}, 422), OutcomeKind.REQUEST_FAILED),
    "a list": (Answer.of_json([]), OutcomeKind.INVALID_RESPONSE),
    "no generation": (Answer.of_json({"hello": "world"}), OutcomeKind.INVALID_RESPONSE),
    "redirect": (Answer(302, {"Location": "http://127.0.0.1:1/"}), OutcomeKind.REQUEST_FAILED),
    "200, no such task": (
        Answer.of_json({"code": "task_not_exist", "message": "task not exist", "data": None}),
        OutcomeKind.NOT_FOUND,
    ),
    "500, no such task": (
        Answer.of_json({"code": "fail", "message": "no such task", "data": None}, 500),
        OutcomeKind.NOT_FOUND,
    ),
    "detail": (Answer.of_json({"detail": "Generation not found"}, 400), OutcomeKind.NOT_FOUND),
}


@pytest.mark.parametrize("name", RETRIED)
def test_a_passing_fault_is_tried_again(provider: ProviderServer, name: str) -> None:
    provider.script("task-1", [RETRIED[name], GOOD])
    with client(provider) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.kind, outcome.attempts, provider.count("task-1")) == (OutcomeKind.RESOLVED, 2, 2)


@pytest.mark.parametrize("name", NOT_RETRIED)
def test_an_answer_that_will_not_change_is_taken_as_it_is(provider: ProviderServer, name: str) -> None:
    answer, kind = NOT_RETRIED[name]
    provider.script("task-1", [answer])
    with client(provider) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.kind, outcome.attempts, provider.count("task-1")) == (kind, 1, 1)
    assert outcome.error_code is not None


def test_the_budget_of_attempts_ends_in_a_row_that_says_why(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer.of_json({"error": {"code": "overloaded", "message": "busy"}}, 503)])
    provider.script("task-2", [Answer(200, {}, b"<html>")])
    with client(provider, max_attempts=2) as luma:
        busy, garbled = luma.fetch_one("task-1"), luma.fetch_one("task-2")
    assert (busy.kind, busy.error_code, busy.error_message) == (OutcomeKind.REQUEST_FAILED, "overloaded", "busy")
    assert (garbled.kind, garbled.raw_response) == (OutcomeKind.INVALID_RESPONSE, "<html>")
    assert provider.count("task-1") == 2


REFUSALS = [
    (Account.UNAUTHORIZED, AuthenticationError, "LUMA_API_TOKEN"),
    (Account.FORBIDDEN, (AuthenticationError, QuotaExceededError), "account|token"),
    (Account.PAYMENT_REQUIRED, QuotaExceededError, "Top up"),
    (Account.OUT_OF_QUOTA, QuotaExceededError, "Top up"),
]


@pytest.mark.parametrize(("account", "error", "advice"), REFUSALS)
def test_a_refused_account_stops_everything_after_one_request(
    provider: ProviderServer, account: Account, error: Any, advice: str
) -> None:
    provider.account = account
    with client(provider) as luma, pytest.raises(error, match=advice):
        list(luma.fetch(IDS))
    assert provider.total == 1


def test_a_provider_that_is_down_stops_the_run(provider: ProviderServer) -> None:
    provider.outage = Answer(503)
    with client(provider, max_attempts=1, unavailable_after=5) as luma, pytest.raises(ProviderUnavailableError):
        list(luma.fetch(IDS))
    assert provider.total < len(IDS)


def test_an_unreachable_host_stops_the_run() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with (
            LumaClient(token=TOKEN, base_url=base_url, max_attempts=1, unavailable_after=3) as luma,
            pytest.raises(ProviderUnavailableError, match="LUMA_BASE_URL"),
        ):
            list(luma.fetch(IDS))


def test_tasks_that_fail_among_others_that_do_not_stop_nothing(provider: ProviderServer) -> None:
    for task_id in IDS[::2]:
        provider.script(task_id, [Answer(500)])
    with client(provider, max_attempts=1, unavailable_after=20, max_concurrency=2) as luma:
        kinds = Counter(outcome.kind for outcome in luma.fetch(IDS))
    assert kinds == {OutcomeKind.RESOLVED: 30, OutcomeKind.REQUEST_FAILED: 30}


@pytest.mark.parametrize("form", ["seconds", "http-date"])
def test_retry_after_holds_back_every_thread(provider: ProviderServer, form: str) -> None:
    seconds = 2
    headers = {"Retry-After": str(seconds)}
    if form == "http-date":
        import time
        from email.utils import formatdate

        headers = {"Retry-After": formatdate(time.time() + seconds + 2, usegmt=True)}
    provider.latency_seconds = 0.02
    provider.script("task-20", [Answer(429, headers), GOOD])
    with client(provider, max_concurrency=4) as luma:
        assert len(list(luma.fetch(IDS))) == len(IDS)
    records = sorted(provider.requests, key=lambda record: record.at)
    refused = next(record for record in records if record.status == 429)
    # What was under way when the refusal arrived may still come in; after that there is silence until the hold ends.
    later = [record.at for record in records if record.at > refused.at + 0.5]
    assert later
    assert min(later) - refused.at >= seconds - 0.1


def test_a_retry_after_longer_than_the_budget_ends_the_run(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer(429, {"Retry-After": "3600"})])
    with client(provider) as luma, pytest.raises(ProviderUnavailableError, match="3600 s"):
        luma.fetch_one("task-1")


def test_a_paced_client_never_exceeds_its_rate(provider: ProviderServer) -> None:
    rate, burst = 50.0, 3
    with client(provider, requests_per_second=rate, burst=burst) as luma:
        list(luma.fetch(IDS))
    times = sorted(record.at for record in provider.requests)
    for first, last in itertools.combinations(range(len(times)), 2):
        # A tenth of a second for the way from the bucket to the server's clock.
        assert last - first <= rate * (times[last] - times[first] + 0.1) + burst


@pytest.mark.parametrize("retry_after", ["seconds", None])
def test_an_adaptive_client_gets_every_answer_through_a_limit(provider: ProviderServer, retry_after: Any) -> None:
    provider.rate_limit = RateLimit(40, burst=10, retry_after=retry_after)
    with client(provider) as luma:
        outcomes = list(luma.fetch(IDS))
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.RESOLVED}
    assert provider.count_status(429) < len(IDS)


def test_two_fetches_at_once_share_the_pace(provider: ProviderServer) -> None:
    rate = 60.0
    with client(provider, requests_per_second=rate) as luma:
        threads = [threading.Thread(target=lambda part=part: list(luma.fetch(part))) for part in (IDS[:30], IDS[30:])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = sorted(record.at for record in provider.requests)
    assert len(times) == len(IDS)
    assert times[-1] - times[0] >= (len(IDS) - 1) / rate - 0.1


def test_a_consumer_that_stops_leaves_the_rest_unasked(provider: ProviderServer) -> None:
    provider.latency_seconds = 0.01
    with client(provider, max_concurrency=2) as luma:
        first = list(itertools.islice(luma.fetch(itertools.cycle(IDS)), 5))
    assert len(first) == 5
    assert provider.total < 60


def test_closing_ends_requests_under_way(provider: ProviderServer) -> None:
    provider.latency_seconds = 30.0
    luma = client(provider)
    threading.Timer(0.5, luma.close).start()
    with pytest.raises(LumaError):
        list(luma.fetch(IDS))


def test_a_closed_kept_alive_connection_is_no_failure(provider: ProviderServer) -> None:
    provider.script(
        "task-1",
        [
            Answer.of_json({"id": "task-1", "state": "completed"}).__class__(
                200, {}, b'{"state": "completed"}', close=True
            )
        ],
    )
    with client(provider, max_attempts=1) as luma:
        kinds = [luma.fetch_one(task_id).kind for task_id in ("task-1", "task-2")]
    assert kinds == [OutcomeKind.RESOLVED] * 2


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request's head and leaves the rest to `answer`."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                while not stopping.is_set():
                    answer(connection)
            except OSError:
                return

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def drip(head: bytes) -> Callable[[socket.socket], None]:
    sent = set[int]()

    def answer(connection: socket.socket) -> None:
        if connection.fileno() not in sent:
            sent.add(connection.fileno())
            connection.sendall(head)
        connection.sendall(b"x")
        threading.Event().wait(0.1)

    return answer


SLOW = {
    "dripped head": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "dripped body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "dripped body without length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", SLOW)
def test_a_dripping_server_is_cut_off_by_the_deadline(name: str) -> None:
    with (
        raw_server(drip(SLOW[name])) as base_url,
        LumaClient(token=TOKEN, base_url=base_url, deadline=0.6, max_attempts=1) as luma,
    ):
        outcome = luma.fetch_one("t")
    assert (outcome.kind, outcome.error_code) == (OutcomeKind.REQUEST_FAILED, "deadline")


def say_nothing(_: socket.socket) -> None:
    threading.Event().wait(0.1)


def test_a_silent_server_is_a_time_out() -> None:
    with (
        raw_server(say_nothing) as base_url,
        LumaClient(token=TOKEN, base_url=base_url, read_timeout=0.3, max_attempts=1) as luma,
    ):
        assert luma.fetch_one("t").error_code == "timeout"


@pytest.mark.parametrize("oddity", [Oddity.GZIP_BOMB, Oddity.HUGE_BODY])
def test_a_body_above_the_limit_is_refused(oddity: Oddity) -> None:
    with ProviderServer([Generation("t", oddities=(oddity,))]) as provider, client(provider) as luma:
        outcome = luma.fetch_one("t")
    assert (outcome.kind, outcome.error_code, outcome.attempts) == (
        OutcomeKind.INVALID_RESPONSE,
        "body_too_large",
        1,
    )


def test_an_endless_chunked_body_is_refused() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    with (
        raw_server(answer) as base_url,
        LumaClient(token=TOKEN, base_url=base_url, max_body_bytes=1_000_000) as luma,
    ):
        assert luma.fetch_one("t").error_code == "body_too_large"


def test_a_gzipped_answer_is_read() -> None:
    with ProviderServer([Generation("t", oddities=(Oddity.GZIP_BODY,))]) as provider, client(provider) as luma:
        assert luma.fetch_one("t").state == "completed"


def test_the_token_goes_to_no_other_host(provider: ProviderServer) -> None:
    with ProviderServer([Generation("task-1")]) as other:
        provider.script("task-1", [Answer(307, {"Location": f"{other.base_url}/luma/generations/task-1"})])
        with client(provider) as luma:
            assert luma.fetch_one("task-1").error_code == "redirect"
        assert other.total == 0


def test_the_token_is_in_no_log_error_or_row(provider: ProviderServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"code": "bad_request", "message": f"key {TOKEN} may not do this"}}
    provider.script("task-1", [Answer.of_json(echo, 400)])
    provider.script("task-2", [Answer(drop=True)])
    with client(provider, max_attempts=1) as luma:
        outcomes = [luma.fetch_one("task-1"), luma.fetch_one("task-2")]
        shown = [repr(luma), repr(outcomes), str(to_table(outcomes).to_pylist())]
    provider.account = Account.UNAUTHORIZED
    provider.script("task-3", [Answer.of_json(echo, 401)])
    with client(provider) as luma, pytest.raises(AuthenticationError) as caught:
        luma.fetch_one("task-3")
    shown += [str(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__), caplog.text]
    assert TOKEN not in "\n".join(shown)


BAD_SETTINGS = [
    {"token": ""},
    {"token": "a b"},
    {"token": "a\nb"},
    {"base_url": "ftp://x"},
    {"base_url": "https://user:pw@x"},
    {"max_concurrency": 0},
    {"batch_size": 0},
    {"dialect": "french"},
    {"dialect": "luma", "batch_size": 5},
    {"requests_per_second": -1.0},
]


@pytest.mark.parametrize("settings", BAD_SETTINGS)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LumaClient(**{"token": TOKEN, **settings})


def rows(outcomes: Any) -> dict[str, dict[str, Any]]:
    """Rows without what differs from one request to the next, the raw text as JSON."""
    found = {}
    for row in to_table(outcomes).to_pylist():
        row["raw_response"] = json.loads(row["raw_response"])
        row.pop("polled_at")
        found[row["task_id"]] = row
    return found


def test_a_batch_gives_the_same_rows_as_single_requests(provider: ProviderServer) -> None:
    with client(provider) as luma:
        single = rows(luma.fetch(IDS))
    provider.clear_log()
    with client(provider, batch_size=20) as luma:
        outcomes = list(luma.fetch(IDS))
    assert rows(outcomes) == single
    assert (provider.total, sum(outcome.requests for outcome in outcomes)) == (3, 3)


def test_what_a_batch_leaves_out_or_garbles_is_asked_for_singly(provider: ProviderServer) -> None:
    provider.batch = Batch(left_out=frozenset({"task-3", "nobody"}), garbled=frozenset({"task-4"}))
    with client(provider, batch_size=10) as luma:
        outcomes = {outcome.task_id: outcome for outcome in luma.fetch([*IDS[:10], "nobody"])}
    assert len(outcomes) == 11
    assert outcomes["nobody"].kind is OutcomeKind.NOT_FOUND
    singly = {record.task_ids[0] for record in provider.requests if record.endpoint is Endpoint.SINGLE}
    assert singly == {"task-3", "task-4", "nobody"}


def test_a_gateway_without_batches_is_found_out_once(
    provider: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    provider.batch = Batch(is_enabled=False)
    with client(provider, batch_size=10, max_concurrency=1) as luma:
        outcomes = list(luma.fetch(IDS))
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.RESOLVED}
    assert sum(record.endpoint is Endpoint.BATCH for record in provider.requests) == 1
    assert "no batch endpoint" in caplog.text


def test_lumas_own_api_fills_the_same_columns(provider: ProviderServer) -> None:
    with client(provider) as luma:
        gateway = to_table(luma.fetch(IDS[:1])).to_pylist()[0]
    with client(provider, dialect="luma") as luma:
        own = to_table(luma.fetch(IDS[:1])).to_pylist()[0]
    for column in ("id", "state", "request_prompt", "request_aspect_ratio", "created_at", "failure_reason"):
        assert own[column] == gateway[column], column
    assert own["video_url"] in (gateway["video_url"], gateway["video_download_url"])
