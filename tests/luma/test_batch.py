"""Many tasks in one question: the same rows for fewer requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luma_pipeline.luma import Outcome, to_table
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


def test_a_repeated_id_has_an_outcome_each_time(provider: ProviderServer) -> None:
    with client(provider, batch_size=4) as luma:
        outcomes = list(luma.fetch(["task-1"] * 4))
    assert [outcome.outcome for outcome in outcomes] == [Outcome.RESOLVED] * 4
