"""The client against real servers: one outcome a task, within the provider's limits, and no token elsewhere."""

from __future__ import annotations

import itertools
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from luma_pipeline.luma import (
    LUMA,
    AuthenticationError,
    InvalidSettingError,
    LinkUnavailableError,
    LumaClient,
    LumaError,
    Outcome,
    ProviderConfig,
    ProviderUnavailableError,
    QuotaExceededError,
    spec_named,
)
from luma_pipeline.sandbox.provider import (
    TOKEN,
    Account,
    Answer,
    Endpoint,
    Generation,
    Oddity,
    ProviderServer,
    RateLimit,
)
from tests.luma.conftest import IDS, client
from tests.luma.raw_server import raw_server


def test_every_task_has_exactly_one_outcome(provider: ProviderServer) -> None:
    with client(provider) as luma:
        outcomes = list(luma.fetch(iter([*IDS, "unknown"])))
    assert Counter(outcome.task_id for outcome in outcomes) == Counter([*IDS, "unknown"])
    assert {outcome.outcome for outcome in outcomes if outcome.task_id != "unknown"} == {Outcome.RESOLVED}
    assert [outcome.outcome for outcome in outcomes if outcome.task_id == "unknown"] == [Outcome.NOT_FOUND]
    assert provider.total == len(IDS) + 1


WILD_IDS = ["a/b", "..", ".", "%2F", "ä ö?#&=+", "x" * 500, "日本", "a\\b", "../../etc", "a;b", "a\nb"]


@pytest.mark.parametrize("task_id", WILD_IDS)
def test_a_task_id_is_data_whatever_is_in_it(task_id: str) -> None:
    with ProviderServer([Generation(task_id)]) as provider, client(provider) as luma:
        assert luma.fetch_one(task_id).outcome is Outcome.RESOLVED
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
    "400": (Answer.of_json({"error": {"code": "bad", "message": "no"}}, 400), Outcome.REQUEST_FAILED),
    "404": (Answer.of_json({"error": {"code": "task_not_exist", "message": ""}}, 404), Outcome.NOT_FOUND),
    "404 of another": (Answer(404, {}, b"404 page not found"), Outcome.REQUEST_FAILED),
    "409": (Answer(409), Outcome.REQUEST_FAILED),
    "422": (Answer.of_json({"detail": "what?"}, 422), Outcome.REQUEST_FAILED),
    "a list": (Answer.of_json([]), Outcome.INVALID_RESPONSE),
    "no generation": (Answer.of_json({"hello": "world"}), Outcome.INVALID_RESPONSE),
    "redirect": (Answer(302, {"Location": "http://127.0.0.1:1/"}), Outcome.REQUEST_FAILED),
    "200, no such task": (
        Answer.of_json({"code": "task_not_exist", "message": "task not exist", "data": None}),
        Outcome.NOT_FOUND,
    ),
    "500, no such task": (
        Answer.of_json({"code": "fail", "message": "no such task", "data": None}, 500),
        Outcome.NOT_FOUND,
    ),
    "detail": (Answer.of_json({"detail": "Generation not found"}, 400), Outcome.NOT_FOUND),
}


@pytest.mark.parametrize("name", RETRIED)
def test_a_passing_fault_is_tried_again(provider: ProviderServer, name: str) -> None:
    provider.script("task-1", [RETRIED[name], GOOD])
    with client(provider) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.outcome, outcome.attempts, provider.count("task-1")) == (Outcome.RESOLVED, 2, 2)


@pytest.mark.parametrize("name", NOT_RETRIED)
def test_an_answer_that_will_not_change_is_taken_as_it_is(provider: ProviderServer, name: str) -> None:
    answer, kind = NOT_RETRIED[name]
    provider.script("task-1", [answer])
    with client(provider) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.outcome, outcome.attempts, provider.count("task-1")) == (kind, 1, 1)
    assert outcome.error_code is not None


def test_the_budget_of_attempts_ends_in_a_row_that_says_why(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer.of_json({"error": {"code": "overloaded", "message": "busy"}}, 500)])
    provider.script("task-2", [Answer(200, {}, b"<html>")])
    with client(provider, max_attempts=2) as luma:
        busy, garbled = luma.fetch_one("task-1"), luma.fetch_one("task-2")
    assert (busy.outcome, busy.error_code, busy.error_message) == (Outcome.REQUEST_FAILED, "overloaded", "busy")
    assert (garbled.outcome, garbled.raw_response) == (Outcome.INVALID_RESPONSE, "<html>")
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


@pytest.mark.parametrize("status", [502, 500, 429])
def test_a_provider_that_is_down_stops_the_run(provider: ProviderServer, status: int) -> None:
    """Errors that may be the tasks' own have to last ten times as long."""
    provider.outage = Answer(status)
    settings = {"unavailable_after": 2, "unavailable_seconds": 0.5 if status == 502 else 0.01}
    with client(provider, **settings) as luma, pytest.raises(ProviderUnavailableError, match=f"HTTP {status}"):
        list(luma.fetch(IDS))


def test_an_outage_of_seconds_costs_no_task_its_answer(provider: ProviderServer) -> None:
    with client(provider, max_attempts=1, unavailable_after=5, unavailable_seconds=60.0) as luma:
        assert luma.fetch_one(IDS[0]).outcome is Outcome.RESOLVED
        provider.outage = Answer(502)
        answers = luma.fetch(IDS)
        timer = threading.Timer(0.5, setattr, (provider, "outage", None))
        timer.start()
        outcomes = list(answers)
        timer.join()
    assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}
    assert max(outcome.attempts for outcome in outcomes) > 1


@pytest.mark.parametrize("status", [500, 502])
def test_tasks_that_alone_are_left_and_always_fail_are_rows(provider: ProviderServer, status: int) -> None:
    failing = IDS[:4]
    for task_id in failing:
        provider.script(task_id, [Answer.of_json({"error": {"code": "panic", "message": "at this task"}}, status)])
    with client(provider, max_attempts=2, unavailable_after=2, unavailable_seconds=1.0) as luma:
        outcomes = list(luma.fetch(failing))
    assert {(outcome.outcome, outcome.error_code) for outcome in outcomes} == {(Outcome.REQUEST_FAILED, "panic")}
    assert min(outcome.attempts for outcome in outcomes) >= 2


@pytest.mark.parametrize("fault", [Answer(502), Answer(drop=True), Answer(200, {}, b"<html>")])
def test_tasks_that_always_fail_and_so_finish_last_are_rows(provider: ProviderServer, fault: Answer) -> None:
    for task_id in IDS[:10]:
        provider.script(task_id, [fault])
    with client(provider, max_attempts=2, max_concurrency=11, unavailable_after=5, unavailable_seconds=1.0) as luma:
        outcomes = {outcome.task_id: outcome for outcome in luma.fetch(IDS)}
    assert not any(outcomes[task_id].outcome is Outcome.RESOLVED for task_id in IDS[:10])
    assert {outcomes[task_id].outcome for task_id in IDS[10:]} == {Outcome.RESOLVED}


def test_tries_of_an_outage_are_not_counted(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer(502), Answer(500), GOOD])
    with client(provider, max_attempts=2) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.outcome, outcome.attempts) == (Outcome.RESOLVED, 3)


@pytest.mark.parametrize("budget", ["max_retry_seconds", "unavailable_seconds"])
def test_one_task_that_no_proxy_brings_through_ends_by_its_time(provider: ProviderServer, budget: str) -> None:
    provider.script("task-1", [Answer(504)])
    with client(provider, max_attempts=1, **{budget: 1.0}) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.outcome, outcome.http_status) == (Outcome.REQUEST_FAILED, 504)
    assert outcome.attempts > 1


def test_an_unreachable_host_stops_the_run() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with (
            LumaClient(
                ProviderConfig(token=TOKEN, base_url=base_url, unavailable_after=3, unavailable_seconds=2.0)
            ) as luma,
            pytest.raises(ProviderUnavailableError, match="LUMA_BASE_URL"),
        ):
            list(luma.fetch(IDS))


def test_a_host_whose_name_is_wrong_stops_the_run_before_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    settings: dict[str, Any] = {"base_url": "http://provider.invalid", "unavailable_seconds": 2.0}
    with (
        LumaClient(ProviderConfig(token=TOKEN, **settings)) as luma,
        pytest.raises(ProviderUnavailableError, match=r"cannot be reached: the name .* LUMA_BASE_URL"),
    ):
        luma.fetch_one("task-1")


def test_tasks_that_fail_among_others_that_do_not_stop_nothing(provider: ProviderServer) -> None:
    for task_id in IDS[::2]:
        provider.script(task_id, [Answer(500)])
    with client(provider, max_attempts=1, unavailable_after=20, max_concurrency=2) as luma:
        kinds = Counter(outcome.outcome for outcome in luma.fetch(IDS))
    assert kinds == {Outcome.RESOLVED: 30, Outcome.REQUEST_FAILED: 30}


def refuse_once(provider: ProviderServer, form: str, seconds: int) -> int | None:
    """Refuse task-20 once; returns the time that is named in epoch seconds, None where seconds are named."""
    named = int(time.time()) + seconds + 1 if form == "http-date" else None
    retry_after = str(seconds) if named is None else formatdate(named, usegmt=True)
    provider.latency_seconds = 0.02
    provider.script("task-20", [Answer(429, {"Retry-After": retry_after}), GOOD])
    return named


@pytest.mark.parametrize("form", ["seconds", "http-date"])
def test_a_long_retry_after_holds_back_every_thread(provider: ProviderServer, form: str) -> None:
    seconds = 4
    named = refuse_once(provider, form, seconds)
    with client(provider, max_concurrency=4) as luma:
        assert len(list(luma.fetch(IDS))) == len(IDS)
    records = sorted(provider.requests, key=lambda record: record.at)
    refused = next(record for record in records if record.status == 429)
    # What was under way when the refusal arrived may still come in; after that there is silence until the hold ends.
    later = [record.at for record in records if record.at > refused.at + 0.5]
    assert later
    assert min(later) >= (refused.at + seconds if named is None else named) - 0.1


def test_a_short_retry_after_holds_back_the_refused_request_alone(provider: ProviderServer) -> None:
    refuse_once(provider, "seconds", 1)
    with client(provider, max_concurrency=4) as luma:
        assert len(list(luma.fetch(IDS))) == len(IDS)
    refused, again = sorted(record.at for record in provider.requests if record.task_ids == ("task-20",))
    assert again - refused >= 0.9
    assert [record for record in provider.requests if refused + 0.1 < record.at < again - 0.1]


def test_short_retry_afters_with_no_answer_between_them_hold_back_every_thread(provider: ProviderServer) -> None:
    """A provider that refuses everything for a while means it, whatever time it names."""
    provider.latency_seconds = 0.02
    with client(provider, max_concurrency=8) as luma:
        luma.fetch_one("task-1")
        provider.clear_log()
        provider.outage = Answer(429, {"Retry-After": "2"})
        threading.Timer(1.5, setattr, (provider, "outage", None)).start()
        assert len(list(luma.fetch(IDS))) == len(IDS)
    # Of 60 tasks all would have been refused within those 1.5 s, and 8 of them again and again.
    assert provider.count_status(429) < 20


ODD_TIMES = ["soon", "", "-5", "1e3", "²", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 99999999999:28:00 GMT"]


@pytest.mark.parametrize("retry_after", ODD_TIMES)
def test_a_retry_after_that_is_past_or_no_time_is_an_ordinary_refusal(
    provider: ProviderServer, retry_after: str
) -> None:
    provider.script("task-1", [Answer(429, {"Retry-After": retry_after}), GOOD])
    with client(provider) as luma:
        outcome = luma.fetch_one("task-1")
    assert (outcome.outcome, outcome.attempts, outcome.throttled) == (Outcome.RESOLVED, 2, 1)


def test_a_retry_after_longer_than_the_budget_ends_the_run(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer(429, {"Retry-After": "3600"})])
    with client(provider) as luma, pytest.raises(ProviderUnavailableError, match="3600 s"):
        luma.fetch_one("task-1")


@pytest.mark.parametrize("latency_seconds", [0.0, 0.5])
def test_a_paced_client_never_exceeds_its_rate(provider: ProviderServer, latency_seconds: float) -> None:
    rate, burst = 50.0, 3
    provider.latency_seconds = latency_seconds
    with client(provider, requests_per_second=rate, burst=burst, max_concurrency=32) as luma:
        list(luma.fetch(IDS))
    times = sorted(record.at for record in provider.requests)
    for first, last in itertools.combinations(range(len(times)), 2):
        # A tenth of a second for the way from the bucket to the server's clock.
        assert last - first <= rate * (times[last] - times[first] + 0.1) + burst


def test_only_the_very_first_request_goes_alone(provider: ProviderServer) -> None:
    provider.latency_seconds = 1.0
    with client(provider, max_concurrency=8) as luma:
        list(luma.fetch(IDS[:9]))
    times = sorted(record.at for record in provider.requests)
    assert times[1] - times[0] >= 1.0
    # Eight at once: the last of them came before the first of them was answered.
    assert times[-1] - times[1] < 1.0


@pytest.mark.parametrize("retry_after", ["seconds", None])
def test_an_adaptive_client_gets_every_answer_through_a_limit(provider: ProviderServer, retry_after: Any) -> None:
    provider.rate_limit = RateLimit(100, burst=10, retry_after=retry_after)
    with client(provider) as luma:
        outcomes = list(luma.fetch(IDS))
    assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}
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


def test_a_consumer_that_stops_leaves_nothing_to_be_tried_again(provider: ProviderServer) -> None:
    for task_id in IDS[1:]:
        provider.script(task_id, [Answer(500)])
    with client(provider, max_concurrency=8, unavailable_after=1000) as luma:
        answers = luma.fetch(IDS)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        time.sleep(0.3)  # what was sent already arrives
        sent = provider.total
        time.sleep(1.2)  # longer than the longest pause before a second try
        assert provider.total == sent


def test_closing_ends_requests_under_way(provider: ProviderServer) -> None:
    provider.latency_seconds = 30.0
    luma = client(provider)
    threading.Timer(0.5, luma.close).start()
    with pytest.raises(LumaError):
        list(luma.fetch(IDS))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_closing_while_answers_come_ends_the_fetch_and_makes_no_rows(
    provider: ProviderServer, batch_size: int | None
) -> None:
    kinds = set()
    for delay in (0.0, 0.01, 0.05, 0.1, 0.2):
        luma = client(provider, max_attempts=1, max_retry_seconds=0.0, batch_size=batch_size)
        outcomes = luma.fetch(itertools.cycle(IDS))
        kinds.add(next(outcomes).outcome)
        threading.Timer(delay, luma.close).start()
        with pytest.raises(LumaError, match="closed"):
            kinds.update(outcome.outcome for outcome in outcomes)
    assert kinds == {Outcome.RESOLVED}


def test_a_closed_client_asks_for_nothing(provider: ProviderServer) -> None:
    luma = client(provider)
    luma.fetch_one("task-1")
    luma.close()
    luma.close()
    with pytest.raises(LumaError):
        luma.fetch_one("task-2")
    with pytest.raises(RuntimeError, match="closed"):
        next(luma.fetch(IDS))
    assert provider.total == 1


def test_a_closed_kept_alive_connection_is_no_failure(provider: ProviderServer) -> None:
    provider.script("task-1", [Answer(200, {}, b'{"state": "completed"}', close=True)])
    with client(provider, max_retry_seconds=0.0) as luma:
        kinds = [luma.fetch_one(task_id).outcome for task_id in ("task-1", "task-2")]
    assert kinds == [Outcome.RESOLVED] * 2


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
        LumaClient(ProviderConfig(token=TOKEN, base_url=base_url, deadline=0.6, max_retry_seconds=0.0)) as luma,
    ):
        outcome = luma.fetch_one("t")
    assert (outcome.outcome, outcome.error_code) == (Outcome.REQUEST_FAILED, "deadline")


def say_nothing(_: socket.socket) -> None:
    threading.Event().wait(0.1)


def test_a_silent_server_is_a_time_out() -> None:
    with (
        raw_server(say_nothing) as base_url,
        LumaClient(ProviderConfig(token=TOKEN, base_url=base_url, read_timeout=0.3, max_retry_seconds=0.0)) as luma,
    ):
        assert luma.fetch_one("t").error_code == "timeout"


@pytest.mark.parametrize("oddity", [Oddity.GZIP_BOMB, Oddity.HUGE_BODY])
def test_a_body_above_the_limit_is_refused(oddity: Oddity) -> None:
    with ProviderServer([Generation("t", oddities=(oddity,))]) as provider, client(provider) as luma:
        outcome = luma.fetch_one("t")
    assert (outcome.outcome, outcome.error_code, outcome.attempts) == (
        Outcome.INVALID_RESPONSE,
        "body_too_large",
        1,
    )


def test_a_gzipped_answer_is_read() -> None:
    with ProviderServer([Generation("t", oddities=(Oddity.GZIP_BODY,))]) as provider, client(provider) as luma:
        assert luma.fetch_one("t").state == "completed"


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"token": ""}, "LUMA_API_TOKEN"),
    ({"token": " \n"}, "LUMA_API_TOKEN"),
    ({"token": "a b"}, "LUMA_API_TOKEN"),
    ({"token": "a\nb"}, "LUMA_API_TOKEN"),
    ({"base_url": "ftp://x"}, "LUMA_BASE_URL"),
    ({"base_url": "https://user:pw@x"}, "LUMA_BASE_URL"),
    ({"max_concurrency": 0}, "max_concurrency"),
    ({"batch_size": 0}, "batch_size"),
    ({"spec": LUMA, "batch_size": 5}, "LUMA_BATCH_SIZE"),
    ({"burst": 0}, "LUMA_BURST"),
    ({"deadline": 0.0}, "deadline"),
    ({"read_timeout": math.nan}, "read_timeout"),
    *(({"requests_per_second": rate}, "LUMA_REQUESTS_PER_SECOND") for rate in (-1.0, 0.0, math.inf, math.nan)),
    ({"max_retry_seconds": -1.0}, "max_retry_seconds"),
    ({"unavailable_seconds": math.nan}, "unavailable_seconds"),
]


@pytest.mark.parametrize(("settings", "name"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused_by_their_name(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LumaClient(ProviderConfig(**{"token": TOKEN, **settings}))


def test_a_dialect_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidSettingError, match=r"LUMA_DIALECT.*gateway or luma.*'french'"):
        spec_named("french")


def test_a_token_may_come_with_its_files_line_end(provider: ProviderServer) -> None:
    with client(provider, token=f" {TOKEN}\r\n") as luma:
        assert luma.fetch_one("task-1").outcome is Outcome.RESOLVED


def test_a_link_without_watermark_is_asked_for_by_itself(provider: ProviderServer) -> None:
    with client(provider) as luma:
        link = luma.unwatermarked_link("task-1")
        assert link is not None
        assert link.startswith("http")
        assert luma.unwatermarked_link("unknown") is None
    assert provider.count("task-1", Endpoint.DOWNLOAD_URL) == 1


@pytest.mark.parametrize("status", [402, 403, 404, 405, 410, 501])
def test_an_account_without_links_without_watermark_has_none(provider: ProviderServer, status: int) -> None:
    provider.outage = Answer.of_json({"error": {"code": "forbidden", "message": "not in your plan"}}, status)
    with client(provider) as luma:
        assert luma.unwatermarked_link("task-1") is None
        assert provider.total == 1
        provider.outage = None
        assert luma.fetch_one("task-1").outcome is Outcome.RESOLVED


NO_WORD_OF_A_LINK = {
    "500": Answer(500),
    "503": Answer(503),
    "dropped": Answer(drop=True),
    "not JSON": Answer(200, {}, b"<html>"),
    "no quota": Answer.of_json({"error": {"code": "insufficient_quota", "message": "for this"}}, 429),
}


@pytest.mark.parametrize("name", NO_WORD_OF_A_LINK)
def test_a_link_without_watermark_that_cannot_be_asked_for_is_no_none(provider: ProviderServer, name: str) -> None:
    provider.outage = NO_WORD_OF_A_LINK[name]
    with client(provider, max_attempts=1, unavailable_after=1, unavailable_seconds=0.0) as luma:
        for _ in range(2):
            with pytest.raises(LinkUnavailableError):
                luma.unwatermarked_link("task-1")
        provider.outage = Answer(401)
        with pytest.raises(AuthenticationError):
            luma.unwatermarked_link("task-1")
