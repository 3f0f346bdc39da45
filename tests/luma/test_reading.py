"""What is taken out of an answer: all parts of it, for each shape that an answer can have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luma_pipeline.luma.circuit_breaker import FailureClass
from luma_pipeline.luma.responses import (
    AnswerShape,
    Response,
    ResponseAction,
    id_text,
    json_type,
    read_answer,
    read_generation,
    shortened,
)

SHAPE = AnswerShape()
REDIRECT = "the provider redirects elsewhere, which is not followed with the token; check LUMA_BASE_URL"
NO_STATE = "the answer has neither a `state` nor an inner answer that has one"
IN_FRONT = (
    "not in the gateway's own words: a firewall or proxy in front of it, or an access rule of its host, refuses this "
    "machine for now"
)
ACCEPT, INVALID, FAIL, RETRY = ResponseAction.ACCEPT, ResponseAction.INVALID, ResponseAction.FAIL, ResponseAction.RETRY
UNREADABLE = ResponseAction.RETRY_UNREADABLE
TASK, BUSY, PROVIDER = FailureClass.TASK, FailureClass.BUSY, FailureClass.PROVIDER

ERRORS: list[tuple[int, Any, ResponseAction, str, str, FailureClass]] = [
    # status, body, action, code, message, failure
    (300, b"", FAIL, "redirect", REDIRECT, TASK),
    (399, {"state": "completed"}, FAIL, "redirect", REDIRECT, TASK),
    (200, {}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"state": " "}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"state": 7}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, [], INVALID, "not_an_object", "the answer is a JSON array, not a generation", TASK),
    (200, None, INVALID, "not_an_object", "the answer is a JSON null, not a generation", TASK),
    (200, "completed", INVALID, "not_an_object", "the answer is a JSON string, not a generation", TASK),
    (200, True, INVALID, "not_an_object", "the answer is a JSON boolean, not a generation", TASK),
    (200, 5, INVALID, "not_an_object", "the answer is a JSON integer, not a generation", TASK),
    (200, 5.5, INVALID, "not_an_object", "the answer is a JSON number, not a generation", TASK),
    (200, b"<html>", UNREADABLE, "not_json", "the answer is a web page, not JSON: <html>", TASK),
    (200, b" \n\xef\xbb\xbf<html>", UNREADABLE, "not_json", "the answer is a web page, not JSON: \ufeff<html>", TASK),
    (299, b"busy", UNREADABLE, "not_json", "the answer is not JSON: busy", TASK),
    (200, b"", UNREADABLE, "not_json", "the answer is not JSON: ", TASK),
    (403, b"<p>no</p>", RETRY, "http_403", f"<p>no</p> ({IN_FRONT})", PROVIDER),
    (403, b"", RETRY, "http_403", f"HTTP 403 ({IN_FRONT})", PROVIDER),
    (451, b"<p>no</p>", RETRY, "http_451", f"<p>no</p> ({IN_FRONT})", PROVIDER),
    (451, b"no", FAIL, "http_451", "no", TASK),
    (451, "<p>no</p>", FAIL, "http_451", "<p>no</p>", TASK),
    (503, b"\xff\xfe<\0h\0", RETRY, "http_503", "\ufffd\ufffd<\0h\0", PROVIDER),
    (503, {"error": {"code": "busy", "message": "wait"}}, RETRY, "busy", "wait", BUSY),
    (503, {"error": {"type": "overload", "message": "wait"}}, RETRY, "overload", "wait", BUSY),
    (400, {"error": {"code": "", "type": "bad", "message": ""}}, FAIL, "bad", '{"error": {"code": ""', TASK),
    (400, {"error": "bad thing"}, FAIL, "http_400", "bad thing", TASK),
    (200, {"error": "bad thing"}, FAIL, "http_200", "bad thing", TASK),
    (200, {"detail": "bad thing"}, FAIL, "http_200", "bad thing", TASK),
    (422, {"detail": [{"loc": ["id"], "msg": "bad"}]}, FAIL, "http_422", '[{"loc": ["id"], "msg": "bad"}]', TASK),
    (200, {"code": "fail", "message": "bad thing"}, FAIL, "fail", "bad thing", TASK),
    (200, {"code": "fail", "msg": "bad thing"}, FAIL, "fail", "bad thing", TASK),
    (200, {"code": 7, "msg": "bad thing"}, FAIL, "7", "bad thing", TASK),
    (200, {"code": 500}, FAIL, "500", '{"code": 500}', TASK),
    (200, {"msg": "bad thing"}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"message": "bad thing"}, FAIL, "http_200", "bad thing", TASK),
    (200, {"code": "SUCCESS", "message": "bad thing"}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"code": 200, "message": "anything"}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"code": 7, "message": " OK "}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"code": 7, "message": "ok then"}, FAIL, "7", "ok then", TASK),
    (200, {"message": "success"}, INVALID, "not_a_generation", NO_STATE, TASK),
    (200, {"code": "fail", "message": "success"}, FAIL, "fail", "success", TASK),
    (400, {"fault": 1, "errors": [{"title": ""}, {"title": "second"}]}, FAIL, "http_400", '{"fault": 1', TASK),
    (400, {"errors": [{"title": "first"}, {"title": "second"}]}, FAIL, "http_400", "first", TASK),
    (400, {"description": {"reason": {"data": "deep"}}}, FAIL, "http_400", "deep", TASK),
    (400, ["", "second"], FAIL, "http_400", '["", "second"]', TASK),
    (400, "said so", FAIL, "http_400", "said so", TASK),
    (400, 7, FAIL, "http_400", "7", TASK),
    (418, {"error": {"message": "x" * 600}}, FAIL, "http_418", "x" * 499 + "…", TASK),
    (418, {"error": {"message": "x" * 500}}, FAIL, "http_418", "x" * 500, TASK),
    (404, b"", FAIL, "http_404", "HTTP 404 (the path may be wrong: check LUMA_BASE_URL)", TASK),
    (
        404,
        {"error": f"no path {'x' * 600}"},
        FAIL,
        "http_404",
        f"no path {'x' * 241}… (the path may be wrong: check LUMA_BASE_URL)",
        TASK,
    ),
]


def sent(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(("status", "body", "action", "code", "message", "failure"), ERRORS)
def test_an_error_is_read_with_all_that_it_says(
    status: int, body: Any, action: ResponseAction, code: str, message: str, failure: FailureClass
) -> None:
    raw = sent(body)
    found = read_answer(status, raw)
    assert (found.action, found.code, found.failure) == (action, code, failure)
    # What has no message of its own tells itself.
    assert (found.message or "").startswith(message) if message.startswith('{"') else found.message == message
    assert found.text == raw.decode("utf-8", "replace")
    assert found.body == (None if isinstance(body, bytes) or 300 <= status < 400 else body)
    assert (found.generation, found.task_id) == (None, None)


@pytest.mark.parametrize("depth", [6, 7, 8, 9])
def test_a_message_is_looked_for_eight_deep(depth: int) -> None:
    body: Any = "deep"
    for _ in range(depth):
        body = {"error_message": body}
    found = read_answer(400, sent(body))
    assert (found.message == "deep") is (depth <= 8)


GENERATION = {"id": "a", "state": "completed"}
ANSWERS: list[tuple[Any, dict[str, Any] | None, str | None]] = [
    # body, the generation, the ID that is named
    (GENERATION, GENERATION, "a"),
    ({"state": "x"}, {"state": "x"}, None),
    ({"task_id": "b", "state": "x"}, {"task_id": "b", "state": "x"}, "b"),
    ({"task_id": "b", **GENERATION}, {"task_id": "b", **GENERATION}, "a"),
    ({"task_id": "b", "data": {"state": "x"}}, {"state": "x"}, "b"),
    ({"task_id": "b", "data": GENERATION}, GENERATION, "a"),
    ({"task_id": "b", "data": {"task_id": "c", "state": "x"}}, {"task_id": "c", "state": "x"}, "c"),
    ({"state": "x", "data": GENERATION}, GENERATION, "a"),
    ({"id": "b", "state": "x", "data": {"task_id": "c"}}, {"id": "b", "state": "x", "data": {"task_id": "c"}}, "b"),
    ({"id": "b", "data": {"state": "x"}}, {"state": "x"}, None),
    ({"data": [GENERATION]}, GENERATION, "a"),
    ({"data": [GENERATION, {"state": "x"}]}, None, None),
    ({"data": [{"task_id": "asked", "data": GENERATION}, {"task_id": "b", "state": "x"}]}, GENERATION, "a"),
    ({"data": [1, GENERATION, None]}, GENERATION, "a"),
    ({"data": []}, None, None),
    ({"data": json.dumps(GENERATION)}, GENERATION, "a"),
    ({"data": "  " + json.dumps([GENERATION])}, GENERATION, "a"),
    ({"data": '{"id": "a", "sta'}, None, None),
    ({"data": "no JSON", "result": GENERATION}, GENERATION, "a"),
    ({"data": None, "response": {"generation": GENERATION}}, GENERATION, "a"),
    ({"task_id": "b", "status": "QUEUED"}, {"id": "b", "state": "pending", "failure_reason": None}, "b"),
    ({"task_id": "b", "status": "in_progress", "fail_reason": "no"}, {"id": "b", "state": "processing"}, "b"),
    ({"task_id": "b", "status": "FAILURE", "fail_reason": "no"}, {"state": "failed", "failure_reason": "no"}, "b"),
    ({"task_id": "b", "status": "paused"}, {"id": "b", "state": "paused"}, "b"),
    ({"task_id": "b", "status": "SUCCESS"}, None, None),
    ({"task_id": "b", "status": "done"}, None, None),
    ({"task_id": "b", "status": 7}, None, None),
    ({"task_id": "b", "status": ""}, None, None),
    ({"status": "QUEUED"}, None, None),
    ({"status": "QUEUED", "data": {"task_id": "b"}}, None, None),
    ({"task_id": "b", "status": "QUEUED", "error": "no"}, None, None),
    ({"code": "fail", "data": {"task_id": "b", "status": "QUEUED"}}, None, None),
    ({"task_id": 7, "status": "QUEUED"}, {"id": "7", "state": "pending"}, "7"),
]


@pytest.mark.parametrize(("body", "generation", "named"), ANSWERS)
def test_a_generation_is_found_in_whatever_it_is_wrapped(
    body: dict[str, Any], generation: dict[str, Any] | None, named: str | None
) -> None:
    found, found_id = read_generation(body, SHAPE, task_id="asked")
    assert found_id == named
    assert (found is None) is (generation is None)
    assert {key: (found or {}).get(key) for key in generation or {}} == (generation or {})
    answer = read_answer(200, sent(body), task_id="asked")
    assert (answer.generation, answer.task_id) == (found, named)
    assert (answer.action is ACCEPT) is (found is not None)


def test_a_reason_is_taken_of_failures_alone() -> None:
    found, _ = read_generation({"task_id": "b", "status": "QUEUED", "fail_reason": "no"}, SHAPE)
    assert found == {"id": "b", "state": "pending", "failure_reason": None}


def test_any_json_that_is_no_error_is_taken_where_no_generation_is_looked_for() -> None:
    bodies: list[Any] = [{"data": [1]}, [], "text", {"state": "completed"}]
    for body in bodies:
        found = read_answer(200, sent(body), reads=None)
        assert found == Response(ACCEPT, json.dumps(body), body)
    assert read_answer(200, sent({"code": "fail"}), reads=None).action is FAIL


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (" a ", "a"),
        (" ", None),
        ("", None),
        (None, None),
        (True, None),
        ({}, None),
        ([], None),
        (7, "7"),
        (7.0, "7"),
        (1e20, "100000000000000000000"),
        (7.5, "7.5"),
        (0, "0"),
    ],
)
def test_an_id_is_a_text_or_a_number(value: object, text: str | None) -> None:
    assert id_text(value) == text


@pytest.mark.parametrize(
    ("value", "name"),
    [({}, "object"), ([], "array"), ("", "string"), (True, "boolean"), (1, "integer"), (1.0, "number"), (None, "null")],
)
def test_a_value_has_the_name_of_its_type(value: object, name: str) -> None:
    assert json_type(value) == name


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("a\n b\t c ", "a b c"),
        ("1234567890", "1234567890"),
        ("12345678901", "123456789…"),
        ("", ""),
        (" " * 200 + "x", ""),
        (" " * 199 + "x", "x"),
    ],
)
def test_a_message_is_one_short_line(message: str, short: str) -> None:
    assert shortened(message, 10) == short
