"""What an answer means, in every shape of an error that the provider, a gateway or a proxy before it has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_pipeline.luma.responses import Body, ResponseAction, Said, code_matches, read_answer, words_match


def wrapped(code: str, message: str = "", kind: str = "api_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": "", "code": code}}


def flat(code: Any, message: str = "") -> dict[str, Any]:
    return {"code": code, "message": message, "data": None}


HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
GENERATION = {"id": "t", "state": "pending"}

MEANINGS: list[tuple[int, Any, ResponseAction, str | None]] = [
    (200, GENERATION, ResponseAction.ACCEPT, None),
    (200, {"state": "a word on no page"}, ResponseAction.ACCEPT, None),
    (200, {"id": "t"}, ResponseAction.INVALID, "not_a_generation"),
    (200, {**GENERATION, "error": None}, ResponseAction.ACCEPT, None),
    (200, {**GENERATION, "code": 0, "message": "ok"}, ResponseAction.ACCEPT, None),
    (200, {"code": "success", "message": "", "data": GENERATION}, ResponseAction.ACCEPT, None),
    (200, {"id": "request-1", **wrapped("task_not_exist")}, ResponseAction.NOT_FOUND, "task_not_exist"),
    (200, {}, ResponseAction.INVALID, "not_a_generation"),
    (200, {"code": "success", "message": "", "data": []}, ResponseAction.INVALID, "not_a_generation"),
    (200, [], ResponseAction.INVALID, "not_an_object"),
    (200, None, ResponseAction.INVALID, "not_an_object"),
    (200, "pending", ResponseAction.INVALID, "not_an_object"),
    (200, 5, ResponseAction.INVALID, "not_an_object"),
    (200, b"", ResponseAction.RETRY_UNREADABLE, "not_json"),
    (200, b'{"state": "comp', ResponseAction.RETRY_UNREADABLE, "not_json"),
    (200, b"\xff\xfe\x00", ResponseAction.RETRY_UNREADABLE, "not_json"),
    (200, b"[" * 100_000, ResponseAction.RETRY_UNREADABLE, "not_json"),
    (200, b'{"state": ' + b"9" * 5000 + b"}", ResponseAction.RETRY_UNREADABLE, "not_json"),
    (200, HTML, ResponseAction.RETRY_UNREADABLE, "not_json"),
    (302, HTML, ResponseAction.FAIL, "redirect"),
    (307, GENERATION, ResponseAction.FAIL, "redirect"),
    (401, wrapped("invalid_api_key"), ResponseAction.CONFIRM_TOKEN, "invalid_api_key"),
    (401, b"", ResponseAction.STOP_TOKEN, "http_401"),
    (403, {"detail": "Not authenticated"}, ResponseAction.CONFIRM_TOKEN, "http_403"),
    (200, flat("invalid_token"), ResponseAction.CONFIRM_TOKEN, "invalid_token"),
    (402, b"", ResponseAction.CONFIRM_QUOTA, "http_402"),
    (403, wrapped("insufficient_user_quota"), ResponseAction.CONFIRM_QUOTA, "insufficient_user_quota"),
    (403, wrapped("", "the account has no balance", kind=""), ResponseAction.CONFIRM_QUOTA, "http_403"),
    (429, wrapped("insufficient_quota"), ResponseAction.CONFIRM_QUOTA, "insufficient_quota"),
    (200, flat("quota_not_enough"), ResponseAction.CONFIRM_QUOTA, "quota_not_enough"),
    (429, wrapped("rate_limit_exceeded"), ResponseAction.THROTTLE, "rate_limit_exceeded"),
    (429, HTML, ResponseAction.THROTTLE, "http_429"),
    (200, flat("too_many_requests"), ResponseAction.THROTTLE, "too_many_requests"),
    (404, wrapped("task_not_exist"), ResponseAction.NOT_FOUND, "task_not_exist"),
    (404, b"", ResponseAction.FAIL, "http_404"),
    (404, {}, ResponseAction.FAIL, "http_404"),
    (404, {"detail": "Generation not found"}, ResponseAction.NOT_FOUND, "http_404"),
    (404, flat("not_found", "Not found"), ResponseAction.NOT_FOUND, "not_found"),
    (404, {"detail": "task not found: /url/5"}, ResponseAction.NOT_FOUND, "http_404"),
    (410, flat("expired", "the task is too old"), ResponseAction.NOT_FOUND, "expired"),
    (410, b"", ResponseAction.FAIL, "http_410"),
    *((status, flat("task_not_exist"), ResponseAction.NOT_FOUND, "task_not_exist") for status in (200, 400, 500)),
    (400, flat("fail", "the task does not exist"), ResponseAction.NOT_FOUND, "fail"),
    (500, flat("fail", "no such task"), ResponseAction.NOT_FOUND, "fail"),
    (500, wrapped("upstream", "dial tcp: lookup api.example: no such host"), ResponseAction.RETRY, "upstream"),
    (404, {"detail": "Not Found"}, ResponseAction.FAIL, "http_404"),
    (404, {"status": 404, "error": "Not Found", "path": "/x"}, ResponseAction.FAIL, "http_404"),
    (404, {"message": "no Route matched with those values"}, ResponseAction.FAIL, "http_404"),
    (404, flat("no_channel", "no available channel"), ResponseAction.FAIL, "no_channel"),
    (404, b"404 page not found", ResponseAction.FAIL, "http_404"),
    (404, HTML, ResponseAction.FAIL, "http_404"),
    (404, wrapped("", "Invalid URL (GET /luma/luma/generations/t)", kind=""), ResponseAction.FAIL, "http_404"),
    (404, wrapped("model_not_found"), ResponseAction.FAIL, "model_not_found"),
    (400, wrapped("model_not_found", "the model does not exist"), ResponseAction.FAIL, "model_not_found"),
    (503, wrapped("model_not_found", "no channel for it"), ResponseAction.RETRY, "model_not_found"),
    (502, wrapped("", "upstream not found", kind=""), ResponseAction.RETRY, "http_502"),
    (503, flat("task_not_exist"), ResponseAction.RETRY, "task_not_exist"),
    (500, wrapped("", "the relation does not exist", kind=""), ResponseAction.RETRY, "http_500"),
    (500, flat("fail", "generation failed: file not found"), ResponseAction.RETRY, "fail"),
    (500, flat("fail", "task failed: model does not exist"), ResponseAction.RETRY, "fail"),
    (500, flat("fail", "get channel: record not found"), ResponseAction.RETRY, "fail"),
    (500, flat("fail", "record not found"), ResponseAction.NOT_FOUND, "fail"),
    (400, flat("task_model_not_found"), ResponseAction.FAIL, "task_model_not_found"),
    (422, flat("fail", "task not found"), ResponseAction.FAIL, "fail"),
    (400, flat("generation_not_found"), ResponseAction.NOT_FOUND, "generation_not_found"),
    (400, flat("fail", "generation 'a b' does not exist"), ResponseAction.NOT_FOUND, "fail"),
    (400, flat("fail", "task 0f-1a was not found"), ResponseAction.NOT_FOUND, "fail"),
    (200, flat("fail", "任务不存在"), ResponseAction.NOT_FOUND, "fail"),
    (200, flat("fail", "Task with ID t not found"), ResponseAction.NOT_FOUND, "fail"),
    (400, flat("fail", "cannot find the task t"), ResponseAction.NOT_FOUND, "fail"),
    (400, flat("insufficient_permissions"), ResponseAction.FAIL, "insufficient_permissions"),
    (400, flat("bad_credential"), ResponseAction.FAIL, "bad_credential"),
    (500, flat("load_balancer_error"), ResponseAction.RETRY, "load_balancer_error"),
    (400, flat("insufficient_funds"), ResponseAction.CONFIRM_QUOTA, "insufficient_funds"),
    (403, flat("insufficient_permissions"), ResponseAction.FAIL_ACCESS, "insufficient_permissions"),
    (400, wrapped("bad_request"), ResponseAction.FAIL, "bad_request"),
    (400, {"error": "what?"}, ResponseAction.FAIL, "http_400"),
    (400, flat(1001, "what?"), ResponseAction.FAIL, "1001"),
    (422, {"detail": [{"loc": ["path"], "msg": "bad"}]}, ResponseAction.FAIL, "http_422"),
    (200, flat("failure", "what?"), ResponseAction.FAIL, "failure"),
    (409, b"null", ResponseAction.FAIL, "http_409"),
    *(
        (status, HTML, ResponseAction.RETRY, f"http_{status}")
        for status in (408, 425, 500, 502, 503, 504, 520, 524, 599)
    ),
    (503, wrapped("overloaded"), ResponseAction.RETRY, "overloaded"),
    (500, [], ResponseAction.RETRY, "http_500"),
]


@pytest.mark.parametrize(("status", "body", "action", "code"), MEANINGS)
def test_an_answer_means(status: int, body: Any, action: ResponseAction, code: str | None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = read_answer(status, raw)
    assert (answer.action, answer.code) == (action, code)
    assert answer.text == raw.decode(errors="replace")


SAID: list[tuple[Any, str]] = [
    (wrapped("c", "said so"), "said so"),
    (flat("c", "said so"), "said so"),
    ({"detail": "said so"}, "said so"),
    ({"error": "said so"}, "said so"),
    ({"detail": [{"msg": "said so"}]}, '[{"msg": "said so"}]'),
    (b"<html>\r\n said   so</html>", "<html> said so</html>"),
]


@pytest.mark.parametrize(("body", "message"), SAID)
def test_the_providers_own_words_are_kept(body: Any, message: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert read_answer(400, raw).message == message


def test_a_long_message_is_shortened_and_whole_in_the_text() -> None:
    answer = read_answer(400, b"a" * 10_000)
    assert answer.message is not None
    assert (len(answer.message), len(answer.text)) == (500, 10_000)


SECRET_LINKS = [
    ("see https://cdn.example/a.mp4?X-Amz-Signature=5ecret&x=1 for it", "see https://cdn.example/a.mp4 for it"),
    (
        '{"url": "https:\\/\\/cdn.example\\/a.mp4?sig=5ecret", "id": 1',
        '{"url": "https:\\/\\/cdn.example\\/a.mp4", "id": 1',
    ),
    ("HTTPS://user:5ecret@cdn.example/a#5ecret", "HTTPS://cdn.example/a"),
    ("at https%3A%2F%2Fcdn.example%2Fa%3FX-Amz-Signature%3D5ecret it is", "at https%3A%2F%2Fcdn.example%2Fa it is"),
    ("GET /a.mp4?sig=5ecret failed", "GET /a.mp4 failed"),
    ("signed X-Amz-Signature=5ecret so", "signed so"),
    ("what? no link at all", "what? no link at all"),
]


@pytest.mark.parametrize(("said", "shown"), SECRET_LINKS)
def test_a_message_shows_no_links_signature(said: str, shown: str) -> None:
    assert read_answer(400, json.dumps(flat("c", said)).encode()).message == shown
    assert read_answer(400, said.encode()).message == shown


def test_a_code_shows_no_links_signature_either() -> None:
    code = read_answer(400, json.dumps(flat("https://cdn.example/a?sig=5ecret")).encode()).code
    assert code == "https://cdn.example/a"


ELSEWHERE: list[Any] = [
    b"404 page not found",
    b"",
    {"detail": "Not Found"},
    wrapped("", "Invalid URL (GET /x)", kind=""),
]


@pytest.mark.parametrize("body", ELSEWHERE)
def test_a_path_that_is_not_there_names_the_setting(body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert "LUMA_BASE_URL" in (read_answer(404, raw).message or "")


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["success", "quota", "not found"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["error", "code", "message", "detail", "data", "id", "state", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.integers(200, 599), st.binary(max_size=40) | json_like.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_any_bytes_at_any_status_have_a_meaning(status: int, raw: bytes) -> None:
    answer = read_answer(status, raw)
    if answer.action is ResponseAction.ACCEPT:
        assert status < 300
        assert isinstance(answer.body, dict)
    else:
        assert answer.code
        assert answer.message is not None


def test_codes_and_words_are_the_same_in_capitals() -> None:
    said = Said(403, Body.JSON, "Insufficient_Quota", "Insufficient_Quota You Exceeded", "t")
    assert code_matches("insufficient_quota")(said)
    assert words_match("you exceeded")(said)
    assert not code_matches("you exceeded")(said)
