"""Answers in wrappers: the inner answer counts, whatever it is wrapped in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luma_pipeline.luma import Outcome, TaskResult, to_table
from luma_pipeline.sandbox.provider import Answer, Endpoint, ProviderServer
from tests.luma.conftest import client

INNER = {"id": "t", "state": "completed", "video": {"url": "https://cdn.example/t.mp4"}}


def record(status: Any, data: Any = None, reason: Any = "", **fields: Any) -> dict[str, Any]:
    """The gateway's own record of a task."""
    return {"id": 4711, "task_id": "t", "status": status, "fail_reason": reason, "data": data, **fields}


def success(data: Any, **fields: Any) -> dict[str, Any]:
    return {"code": "success", "message": "", "data": data, **fields}


def asked(provider: ProviderServer, body: Any, **settings: Any) -> TaskResult:
    provider.script("t", [Answer.of_json(body)])
    with client(provider, **settings) as luma:
        return luma.fetch_one("t")


INNER_ANSWERS: dict[str, Any] = {
    "plain": INNER,
    "wrapped": success(INNER),
    "with a message": success(INNER, message="ok"),
    "the record alone": record("SUCCESS", INNER),
    "the record wrapped": success(record("SUCCESS", INNER)),
    "with a code of another kind": {"code": 200, "msg": "success", "data": record("SUCCESS", INNER)},
    "without a task ID": success({"status": "SUCCESS", "data": INNER}),
    "as a batch answers": success([record("SUCCESS", INNER)]),
    "as a batch answers, among others": success(
        [{"task_id": "other", "status": "SUCCESS", "data": {**INNER, "id": "other"}}, record("SUCCESS", INNER)]
    ),
    "three deep": success(success(success(INNER))),
    "as text": success(json.dumps(INNER)),
    "the record with text": success(record("SUCCESS", json.dumps(INNER))),
    "the record as text": success(json.dumps(record("SUCCESS", INNER))),
    "as a list in text": success(json.dumps([record("SUCCESS", INNER)])),
    "as a result": {"code": 0, "msg": "ok", "result": INNER},
    "as a response": {"response": INNER},
    "as a generation": success({"generation": INNER}),
    "the record with a result": success({"id": 4711, "task_id": "t", "status": "SUCCESS", "result": INNER}),
    "with a message alone": {"message": "ok", "data": INNER},
    "in a record with a state": record("SUCCESS", INNER, state=None),
    "without an ID": success(record("SUCCESS", {key: value for key, value in INNER.items() if key != "id"})),
    "the record says another word": success(record("IN_PROGRESS", INNER)),
}


@pytest.mark.parametrize("name", INNER_ANSWERS)
def test_the_inner_answer_is_the_row(provider: ProviderServer, name: str) -> None:
    result = asked(provider, INNER_ANSWERS[name])
    row = to_table([result]).to_pylist()[0]
    assert (row["outcome"], row["state"], row["video_url"]) == ("resolved", "completed", "https://cdn.example/t.mp4")
    assert json.loads(row["raw_response"]) == INNER_ANSWERS[name]


WORDS = [
    (record("NOT_START"), "pending", None),
    (record("SUBMITTED"), "pending", None),
    (record("QUEUED", {}), "pending", None),
    (record("IN_PROGRESS", ""), "processing", None),
    (record("in_progress", []), "processing", None),
    (record("FAILURE", None, "no such prompt"), "failed", "no such prompt"),
    (record("FAILURE"), "failed", None),
    (record("PAUSED"), "PAUSED", None),
]


@pytest.mark.parametrize(
    "wraps",
    [
        success,
        lambda body: body,
        lambda body: success([body]),
        lambda body: success(json.dumps(body)),
        lambda body: {"message": "OK", "data": body},
        lambda body: {"code": 1, "message": "success", "data": body},
        lambda body: {"code": 1, "msg": "success", "data": body},
    ],
    ids=["in", "alone", "list", "text", "a message", "a code of another kind", "a msg"],
)
@pytest.mark.parametrize(("body", "state", "reason"), WORDS)
def test_the_gateways_word_is_the_state_where_there_is_no_inner_answer(
    provider: ProviderServer, body: Any, state: str, reason: str | None, wraps: Any
) -> None:
    result = asked(provider, wraps(body))
    row = to_table([result]).to_pylist()[0]
    assert (row["outcome"], row["state"], row["failure_reason"], row["id"]) == ("resolved", state, reason or None, "t")
    assert result.is_final == (state == "failed")


NO_ANSWERS: dict[str, Any] = {
    "an ID alone": {"id": "t"},
    "a video without a state": {"id": "t", "video": {"url": "https://cdn.example/t.mp4"}},
    "a null state": {"id": "t", "state": None},
    "an empty state": {"id": "t", "state": ""},
    "a state that is an object": {"id": "t", "state": {"name": "completed"}},
    "a state that is a number": {"id": "t", "state": 5, "video": {"url": "https://cdn.example/t.mp4"}},
    "a state that is true": {"id": "t", "state": True},
    "a blank state": {"id": "t", "state": "  "},
    "an inner state that is a number": success(record("SUCCESS", {**INNER, "state": 2})),
    "nothing with a message": {"message": "ok", "data": None},
    "a text that is no JSON": success("{completed}"),
    "a text of brackets": success("[" * 100_000),
    "a wrapped ID": success({"id": 4711}, message="ok"),
    "a success without an inner answer": success(record("SUCCESS")),
    "a completed task without an inner answer": success(record("completed", {})),
    "a success with half an inner answer": success(record("SUCCESS", {"id": "t"})),
    "no word": success(record("")),
    "a word that is none": success(record(5)),
    "several records of others": success([{**record("SUCCESS", INNER), "task_id": name} for name in "ab"]),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_an_object_with_neither_state_nor_inner_answer_is_invalid(provider: ProviderServer, name: str) -> None:
    result = asked(provider, NO_ANSWERS[name])
    assert (result.outcome, result.error_code) == (Outcome.INVALID_RESPONSE, "not_a_generation")
    assert (result.state, result.is_final) == (None, False)
    assert json.loads(result.raw_response or "") == NO_ANSWERS[name]


def test_an_error_with_a_record_is_an_error(provider: ProviderServer) -> None:
    result = asked(provider, {"code": "fail", "message": "task not exist", "data": record("FAILURE")})
    assert result.outcome is Outcome.NOT_FOUND


def test_a_batch_takes_the_gateways_word_too(provider: ProviderServer) -> None:
    entries = [record("IN_PROGRESS"), record("SUCCESS", None, task_id="u"), record("FAILURE", None, "why", task_id="v")]
    for task_id in "uv":
        provider.script(task_id, [Answer.of_json({**INNER, "id": task_id})])
    provider.script("", [Answer.of_json(success(entries))], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=3) as luma:
        states = {result.task_id: result.state for result in luma.fetch("tuv")}
    assert states == {"t": "processing", "u": "completed", "v": "failed"}
    assert [record.task_ids for record in provider.requests if record.endpoint is Endpoint.SINGLE] == [("u",)]
