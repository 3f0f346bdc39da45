"""Many tasks in one question: the same rows for fewer requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luma_pipeline.luma import LUMA, AuthenticationError, Outcome, ProviderConfig, to_table
from luma_pipeline.luma.batch import _is_as_good
from luma_pipeline.luma.responses import Response, ResponseAction
from luma_pipeline.sandbox.provider import Answer, Batch, Endpoint, Generation, Oddity, Phase, ProviderServer
from tests.luma.conftest import IDS, client

ODD_ONES = [
    Generation("numbers", oddities=(Oddity.NUMBERS_AS_STRINGS,)),
    Generation("extra", oddities=(Oddity.EXTRA_FIELDS,)),
    Generation("open", (Phase(0, "processing"),)),
    Generation("failed", (Phase(0, "failed"),)),
    Generation("日本/ü", prompt="日本 🎬"),
]


def rows(outcomes: Any) -> dict[str, dict[str, Any]]:
    """Rows without the time of asking, the raw text as JSON."""
    found = {}
    for row in to_table(outcomes).to_pylist():
        row["raw_response"] = json.loads(row["raw_response"])
        row.pop("polled_at")
        found[row["task_id"]] = row
    return found


def batches(provider: ProviderServer) -> int:
    return sum(record.endpoint is Endpoint.BATCH for record in provider.requests)


def asked_singly(provider: ProviderServer) -> set[str]:
    return {record.task_ids[0] for record in provider.requests if record.endpoint is Endpoint.SINGLE}


def test_a_batch_gives_the_same_rows_as_single_requests(provider: ProviderServer) -> None:
    provider.add(*ODD_ONES)
    ids = IDS[:15] + [generation.task_id for generation in ODD_ONES]
    with client(provider) as luma:
        single = rows(luma.fetch(ids))
    provider.clear_log()
    with client(provider, batch_size=5) as luma:
        outcomes = list(luma.fetch(ids))
    assert rows(outcomes) == single
    assert (provider.total, sum(outcome.requests for outcome in outcomes)) == (4, 4)


def test_what_a_batch_leaves_out_or_garbles_is_asked_for_singly(provider: ProviderServer) -> None:
    provider.batch = Batch(left_out=frozenset({"task-3"}), garbled=frozenset({"task-4"}))
    with client(provider, batch_size=10) as luma:
        outcomes = {outcome.task_id: outcome for outcome in luma.fetch([*IDS[:10], "nobody"])}
    assert asked_singly(provider) == {"task-3", "task-4", "nobody"}
    assert outcomes["nobody"].outcome is Outcome.NOT_FOUND
    assert {outcome.outcome for name, outcome in outcomes.items() if name != "nobody"} == {Outcome.RESOLVED}
    assert len(outcomes) == 11


@pytest.mark.parametrize("left_out", [frozenset(), frozenset(IDS[:3]), frozenset(IDS)], ids=["none", "three", "all"])
def test_every_request_is_on_exactly_one_outcome(provider: ProviderServer, left_out: frozenset[str]) -> None:
    provider.batch = Batch(left_out=left_out)
    with client(provider, batch_size=7) as luma:
        outcomes = list(luma.fetch(IDS))
    assert sorted(outcome.task_id for outcome in outcomes) == sorted(IDS)
    assert sum(outcome.requests for outcome in outcomes) == provider.total


def test_a_batch_that_is_tried_again_is_counted_so(provider: ProviderServer) -> None:
    provider.script("", [Answer(502), None], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=10) as luma:
        outcomes = list(luma.fetch(IDS[:10]))
    assert (sum(outcome.requests for outcome in outcomes), provider.total) == (2, 2)
    assert {outcome.attempts for outcome in outcomes} == {2}


UNUSABLE = {
    "no list": Answer.of_json({"code": "success", "message": "", "data": {}}),
    "no objects": Answer.of_json({"code": "success", "message": "", "data": [1, None, {"task_id": 7}, []]}),
    "refused": Answer.of_json({"code": "fail", "message": "ids: at most 5", "data": None}, 400),
    "failing": Answer(500),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_batch_without_usable_answers_costs_no_task_its_row(provider: ProviderServer, name: str) -> None:
    provider.script("", [UNUSABLE[name]], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=10, max_retry_seconds=0.0) as luma:
        outcomes = list(luma.fetch(IDS[:20]))
    assert sorted(outcome.task_id for outcome in outcomes) == sorted(IDS[:20])
    assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}


def test_a_gateway_without_batches_is_found_out_once(
    provider: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    provider.batch = Batch(is_enabled=False)
    provider.latency_seconds = 0.05
    with client(provider, batch_size=5, max_concurrency=16) as luma:
        outcomes = [*luma.fetch(IDS), *luma.fetch(IDS[:10])]
    assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}
    assert batches(provider) == 1
    assert [record.getMessage().count("no batch endpoint") for record in caplog.records] == [1]


def test_half_a_surrogate_pair_in_a_batch_is_kept_in_the_raw_response(provider: ProviderServer) -> None:
    body = {"id": "task-1", "state": "completed", "request": {"prompt": "\ud800"}}
    entry = {"task_id": "task-1", "status": "SUCCESS", "data": body}
    provider.script("", [Answer.of_json({"code": "success", "data": [entry]})], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=2) as luma:
        found = rows(luma.fetch(["task-1", "task-2"]))
    assert found["task-1"]["raw_response"] == body
    assert found["task-1"]["request_prompt"] is None


def test_the_raw_response_of_a_batch_is_what_stands_in_the_answer(provider: ProviderServer) -> None:
    body = (
        '{"id":"task-1",  "state" : "completed", "video": {"width": 1e3}, "odd": [1.0, "\\u00e4", "\u65e5"], "odd": 2}'
    )
    raw = '{"code": "success",\n "data": [{"task_id": "task-2", "data": null}, {"data": %s, "task_id": "task-1"}]}'
    provider.script("", [Answer(body=(raw % body).encode())], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=2) as luma:
        found = {result.task_id: result for result in luma.fetch(["task-1", "task-2"])}
    assert found["task-1"].raw_response == body
    assert asked_singly(provider) == {"task-2"}


def test_a_repeated_id_has_an_outcome_each_time(provider: ProviderServer) -> None:
    with client(provider, batch_size=4) as luma:
        outcomes = list(luma.fetch(["task-1"] * 4))
    assert [outcome.outcome for outcome in outcomes] == [Outcome.RESOLVED] * 4


def auto(provider: ProviderServer, ids: list[str], **settings: Any) -> dict[str, Any]:
    """The results with `batch_size: auto`, each on exactly one request that was sent."""
    provider.clear_log()
    with client(provider, batch_size="auto", **settings) as luma:
        results = list(luma.fetch(ids))
    assert sorted(result.task_id for result in results) == sorted(ids)
    assert sum(result.requests for result in results) == provider.total
    return {result.task_id: result for result in results}


def test_auto_uses_batches_where_they_are_as_good_as_single_requests(provider: ProviderServer) -> None:
    provider.add(*ODD_ONES)
    ids = IDS + [generation.task_id for generation in ODD_ONES]
    with client(provider) as luma:
        single = rows(luma.fetch(ids))
    assert rows(auto(provider, ids).values()) == single
    assert batches(provider) == 1
    assert len(asked_singly(provider)) == 1  # the one that is compared


def entry_of(task_id: str, **data: Any) -> dict[str, Any]:
    return {"task_id": task_id, "status": "SUCCESS", "data": {"id": task_id, "state": "completed", **data}}


def listed(*entries: dict[str, Any]) -> Answer:
    return Answer.of_json({"code": "success", "message": "", "data": list(entries)})


NO_BATCHES = {
    **{f"status {status}": Answer(status) for status in (400, 404, 405, 429, 500, 501, 502, 503)},
    "refused with the token's words": Answer.of_json({"error": {"message": "invalid api key"}}, 401),
    "refused for the quota": Answer.of_json({"error": {"message": "no quota", "code": "insufficient_user_quota"}}, 403),
    "refused with status 200": Answer.of_json({"code": "invalid_api_key", "message": "invalid api key", "data": None}),
    "firewall": Answer(403, body=b"<html>forbidden</html>"),
    "other tasks": listed(*(entry_of(f"other-{number}") for number in range(10))),
    "other tasks inside": listed(*({**entry_of(name), "data": entry_of("other")["data"]} for name in IDS[:10])),
    "less than single": listed(*(entry_of(name) for name in IDS[:10])),
    "no list": Answer.of_json({"code": "success", "data": {}}),
    "no answers": listed(*({"task_id": name, "status": "SUCCESS"} for name in IDS[:10])),
}


@pytest.mark.parametrize("name", NO_BATCHES)
def test_auto_asks_singly_after_one_try(provider: ProviderServer, name: str) -> None:
    provider.script("", [NO_BATCHES[name]] * 5, endpoint=Endpoint.BATCH)
    results = auto(provider, IDS)
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}
    assert batches(provider) == 1
    assert asked_singly(provider) == set(IDS)


def test_auto_asks_singly_for_what_a_batch_leaves_out_or_answers_with_another_task(provider: ProviderServer) -> None:
    whole = {name: rows(auto(provider, [name]).values())[name]["raw_response"] for name in IDS[:4]}
    good = [{"task_id": name, "status": "SUCCESS", "data": whole[name]} for name in IDS[:2]]
    mixed = {"task_id": IDS[2], "status": "SUCCESS", "data": whole[IDS[3]]}
    provider.script("", [listed(*good, mixed)], endpoint=Endpoint.BATCH)
    results = auto(provider, IDS[:4])
    assert {result.outcome for result in results.values()} == {Outcome.RESOLVED}
    assert {name: result.generation["id"] for name, result in results.items()} == {name: name for name in IDS[:4]}
    assert asked_singly(provider) >= {IDS[2], IDS[3]}


def test_auto_asks_singly_where_the_dialect_has_no_batches(provider: ProviderServer) -> None:
    provider.batch = Batch(is_enabled=False)
    assert ProviderConfig(token="t", spec=LUMA, batch_size="auto").batch_size == "auto"
    assert {result.outcome for result in auto(provider, IDS).values()} == {Outcome.RESOLVED}


def test_auto_ends_with_the_first_batch_that_brings_nothing(provider: ProviderServer) -> None:
    provider.script("", [None, Answer(404)], endpoint=Endpoint.BATCH)
    with client(provider, batch_size="auto") as luma:
        outcomes = [*luma.fetch(IDS[:10]), *luma.fetch(IDS[10:20]), *luma.fetch(IDS[20:])]
    assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}
    assert batches(provider) == 2


def test_auto_stops_for_a_bad_token_as_single_requests_do(provider: ProviderServer) -> None:
    with client(provider, token="not-the-token", batch_size="auto") as luma, pytest.raises(AuthenticationError):
        list(luma.fetch(IDS))
    assert provider.total == 2


def response(**generation: Any) -> Response:
    return Response(ResponseAction.ACCEPT, "", generation=generation)


@pytest.mark.parametrize(
    ("of_batch", "single", "is_as_good"),
    [
        (response(state="pending"), response(state="pending"), True),
        (response(state="completed", video={"url": "a"}), response(state="completed", video={"url": "b"}), True),
        (
            response(state="completed", video={"url": "a", "x": 1}),
            response(state="completed", video={"url": "b"}),
            True,
        ),
        (response(state="completed", video={"url": ""}), response(state="completed", video={"url": "b"}), False),
        (response(state="completed"), response(state="completed", video={"url": "", "x": None, "y": []}), True),
        (response(state="completed"), response(state="completed", failure_reason="no"), False),
        (response(state="pending"), response(state="completed", video={"url": "b"}), True),
        (response(state="completed"), response(state="pending"), False),
        (Response(ResponseAction.FAIL, ""), response(state="pending"), False),
        (response(state="pending"), Response(ResponseAction.FAIL, ""), False),
    ],
)
def test_an_answer_of_a_batch_is_as_good_as_one_that_says_no_more(
    of_batch: Response, single: Response, is_as_good: bool
) -> None:
    assert _is_as_good(of_batch, single) is is_as_good
