"""What concerns one task is a row, and what concerns all stops the run: refusals, and pages of what stands in front."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from luma_pipeline.luma import (
    AuthenticationError,
    LinkUnavailableError,
    Outcome,
    ProviderUnavailableError,
    QuotaExceededError,
    TaskResult,
)
from luma_pipeline.sandbox.provider import Account, Answer, Batch, Endpoint, ProviderServer
from tests.luma.conftest import IDS, client

TASKS = IDS[:40]


def refusal(status: int, code: str, message: str) -> Answer:
    return Answer.of_json({"code": code, "message": message, "data": None}, status)


OF_THE_TASK = {
    "403": refusal(403, "forbidden", "You do not have permission to access this task"),
    "403, wrapped": Answer.of_json({"error": {"code": "forbidden", "message": "Not your generation: that task"}}, 403),
    "403, detail": Answer.of_json({"detail": "This generation is private"}, 403),
    "403, a code": refusal(403, "task_access_denied", ""),
    "403, of a token": refusal(403, "forbidden", "this token may not read this task"),
    "403, of an account": refusal(403, "forbidden", "the task belongs to another account"),
    "403, of a quota": refusal(403, "forbidden", "This task was paid from another billing account"),
    "403, by its ID": refusal(403, "forbidden", "no access for this account: task-17, TASK-17, task-170, {task_id}"),
    "403, in a list": Answer.of_json({"errors": [{"code": "x", "message": "this task is not yours"}]}, 403),
    "401, in a list": Answer.of_json({"errors": ["You do not have permission to access this task"]}, 401),
    "401, a list": Answer.of_json([{"error": {"msg": "You do not have permission to access this task"}}], 401),
    "401, a text": Answer.of_json("You do not have permission to access this task", 401),
    "401, other names": Answer.of_json({"error_code": "x", "error_message": "this task is not yours"}, 401),
    "402, other names": Answer.of_json({"code": 402, "msg": "Viewing this task needs a payment", "data": None}, 402),
    "403, a quota, inside": Answer.of_json({"code": 1, "data": {"reason": "no quota to view this task"}}, 403),
    "403, nothing said of what": refusal(403, "forbidden", "Access denied"),
    "403, nothing said": Answer.of_json({}, 403),
    "401": refusal(401, "unauthorized", "You are not authorized to see this task"),
    "402": refusal(402, "payment_required", "Viewing this task needs a payment"),
    "429": refusal(429, "quota_exceeded", "this task has been looked at too often"),
    "400": refusal(400, "insufficient_quota", "The task was not started: no credits"),
}


def results_of(provider: ProviderServer, tasks: list[str] = TASKS, **settings: Any) -> dict[str, TaskResult]:
    with client(provider, **settings) as luma:
        return {result.task_id: result for result in luma.fetch(tasks)}


@pytest.mark.parametrize("at", [0, 20, 39], ids=["first", "among others", "last"])
@pytest.mark.parametrize("name", OF_THE_TASK)
def test_a_refusal_of_one_task_is_its_row(provider: ProviderServer, name: str, at: int) -> None:
    refused, answer = TASKS[at], OF_THE_TASK[name]
    provider.script(
        refused, [Answer(answer.status, answer.headers, answer.body.replace(b"{task_id}", refused.encode()))]
    )
    results = results_of(provider)
    assert results.pop(refused).outcome is Outcome.REQUEST_FAILED
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}
    assert (len(results), provider.total) == (39, 40)


AS_IF_OF_ALL = {
    "401": refusal(401, "invalid_api_key", "Invalid token"),
    "401, nothing said of what": refusal(401, "unauthorized", "Unauthorized"),
    "401, text": Answer(401, {"Content-Type": "text/plain"}, b"Forbidden"),
    "401, an empty object": Answer.of_json({}, 401),
    "401, null": Answer.of_json(None, 401),
    "401, an empty list": Answer.of_json([], 401),
    "401, other names": Answer.of_json({"code": 401, "msg": "Invalid token"}, 401),
    "200, a status for a code": Answer.of_json({"code": 401, "msg": "Invalid token", "data": None}),
    "402": Answer(402),
    "403, quota, other names": Answer.of_json({"errors": [{"message": "insufficient balance"}]}, 403),
    "403, token": refusal(403, "forbidden", "This token has no access to this model."),
    "403, quota": refusal(403, "insufficient_user_quota", "quota used up"),
    "429, quota": refusal(429, "insufficient_quota", ""),
    "200, token": Answer.of_json({"code": "invalid_token", "message": "", "data": None}),
}


@pytest.mark.parametrize("name", AS_IF_OF_ALL)
def test_a_refusal_of_the_token_for_one_task_alone_is_its_row(provider: ProviderServer, name: str) -> None:
    """The others are answered with the same token: one more request for a task that was answered before tells so."""
    for task_id in ("task-20", "task-21", "task-39"):
        provider.script(task_id, [AS_IF_OF_ALL[name]])
    results = results_of(provider)
    assert Counter(result.outcome for result in results.values()) == {Outcome.RESOLVED: 37, Outcome.REQUEST_FAILED: 3}
    assert "this task alone" in (results["task-20"].error_message or "")
    assert sum(result.requests for result in results.values()) == provider.total <= 43


@pytest.mark.parametrize("name", AS_IF_OF_ALL)
def test_a_refusal_of_the_token_at_the_very_first_task_stops_the_run(provider: ProviderServer, name: str) -> None:
    provider.outage = AS_IF_OF_ALL[name]
    with pytest.raises((AuthenticationError, QuotaExceededError)):
        results_of(provider)
    assert provider.total == 1


ACCOUNTS = [
    (Account.UNAUTHORIZED, AuthenticationError),
    (Account.FORBIDDEN, AuthenticationError),
    (Account.OUT_OF_QUOTA, QuotaExceededError),
    (Account.PAYMENT_REQUIRED, QuotaExceededError),
]


@pytest.mark.parametrize(("account", "error"), ACCOUNTS)
def test_an_account_that_is_refused_while_the_run_asks_stops_it(
    provider: ProviderServer, account: Account, error: type[Exception]
) -> None:
    results = []

    def take(answers: Iterator[TaskResult]) -> None:
        for result in answers:
            results.append(result)
            if len(results) == 100:
                provider.account = account

    with client(provider, max_concurrency=4) as luma, pytest.raises(error):
        take(luma.fetch(task_id for _ in range(1000) for task_id in IDS))
    assert {result.outcome for result in results} == {Outcome.RESOLVED}
    assert provider.count_status(401) + provider.count_status(402) + provider.count_status(403) <= 8


def test_a_confirmation_that_fails_itself_is_tried_again(provider: ProviderServer) -> None:
    provider.script("task-1", [refusal(401, "invalid_api_key", "Invalid token")])
    provider.script("task-0", [None, Answer(502), None])
    with client(provider) as luma:
        assert luma.fetch_one("task-0").outcome is Outcome.RESOLVED
        result = luma.fetch_one("task-1")
    assert (result.outcome, result.attempts, result.requests) == (Outcome.REQUEST_FAILED, 2, 4)


def test_tasks_of_another_account_are_all_rows(provider: ProviderServer) -> None:
    provider.outage = OF_THE_TASK["403"]
    results = results_of(provider)
    assert {result.outcome for result in results.values()} == {Outcome.REQUEST_FAILED}
    assert provider.total == 40


def test_tasks_that_are_all_refused_without_a_reason_stop_the_run(provider: ProviderServer) -> None:
    provider.outage = refusal(403, "forbidden", "Access denied")
    with pytest.raises(AuthenticationError, match=r"each of the first 10 tasks.*Access denied.*LUMA_API_TOKEN"):
        results_of(provider, max_concurrency=4)
    assert 10 <= provider.total <= 14


def test_tasks_that_are_refused_without_a_reason_before_others_are_rows(provider: ProviderServer) -> None:
    for task_id in TASKS[:9]:
        provider.script(task_id, [refusal(403, "forbidden", "Access denied")])
    for task_id in TASKS[20:35]:
        provider.script(task_id, [refusal(403, "forbidden", "Access denied")])
    kinds = Counter(result.outcome for result in results_of(provider, max_concurrency=2).values())
    assert kinds == {Outcome.REQUEST_FAILED: 24, Outcome.RESOLVED: 16}


@pytest.mark.parametrize("name", ["403", "403, nothing said of what", "403, nothing said"])
def test_a_refused_batch_is_asked_for_singly(provider: ProviderServer, name: str) -> None:
    provider.script("", [OF_THE_TASK[name]], endpoint=Endpoint.BATCH)
    results = results_of(provider, batch_size=10)
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}


def test_a_refused_task_within_a_batch_is_its_row(provider: ProviderServer) -> None:
    provider.batch = Batch(left_out=frozenset({"task-3"}))
    provider.script("task-3", [OF_THE_TASK["403"]])
    results = results_of(provider, batch_size=10)
    assert results.pop("task-3").outcome is Outcome.REQUEST_FAILED
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}


def test_a_link_that_is_refused_alone_stops_nothing(provider: ProviderServer) -> None:
    provider.script("task-1", [AS_IF_OF_ALL["401"]], endpoint=Endpoint.DOWNLOAD_URL)
    with client(provider) as luma:
        assert luma.fetch_one("task-0").outcome is Outcome.RESOLVED
        with pytest.raises(LinkUnavailableError):
            luma.unwatermarked_link("task-1")
        assert luma.fetch_one("task-2").outcome is Outcome.RESOLVED


# What stands in front of the gateway.

PAGE = b"\xef\xbb\xbf\r\n<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>"
FRONTS: dict[str, Answer] = {
    **{str(status): Answer(status, {"Content-Type": "text/html"}, PAGE) for status in (401, 402, 403, 405, 406, 407)},
    **{str(status): Answer(status, {"Content-Type": "text/html"}, PAGE) for status in (409, 418, 423, 451)},
    "401, UTF-16": Answer(401, {"Content-Type": "text/html"}, "\ufeff<!DOCTYPE html><html></html>".encode("utf-16-le")),
    "403, text": Answer(403, {"Content-Type": "text/plain"}, b"error code: 1020"),
    "403, XML": Answer(403, {}, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
    "403, empty": Answer(403),
}


@pytest.mark.parametrize("name", FRONTS)
def test_a_page_of_what_stands_in_front_is_waited_out(provider: ProviderServer, name: str) -> None:
    provider.outage = FRONTS[name]
    timer = threading.Timer(0.5, setattr, (provider, "outage", None))
    timer.start()
    results = results_of(provider, max_attempts=1)
    timer.join()
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}


@pytest.mark.parametrize("name", FRONTS)
def test_a_page_of_what_stands_in_front_that_stays_is_told_as_such(provider: ProviderServer, name: str) -> None:
    provider.outage = FRONTS[name]
    status = name[:3]
    with pytest.raises(ProviderUnavailableError, match=rf"HTTP {status}.*in front of it"):
        results_of(provider, unavailable_after=2, unavailable_seconds=0.2)


@pytest.mark.parametrize("name", FRONTS)
def test_a_page_for_one_task_alone_is_its_row(provider: ProviderServer, name: str) -> None:
    provider.script("task-5", [FRONTS[name]])
    results = results_of(provider, max_attempts=2)
    failed = results.pop("task-5")
    assert failed.outcome is Outcome.REQUEST_FAILED
    # Where its first try ends before any task has an answer, it may be an outage, and is not counted.
    assert failed.attempts in (2, 3)
    assert "in front of it" in (failed.error_message or "")
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}


def test_a_page_for_a_link_is_no_word_that_there_is_none(provider: ProviderServer) -> None:
    provider.script("task-1", [FRONTS["403"]], endpoint=Endpoint.DOWNLOAD_URL)
    with client(provider, max_retry_seconds=0.0) as luma, pytest.raises(LinkUnavailableError, match="in front of it"):
        luma.unwatermarked_link("task-1")
