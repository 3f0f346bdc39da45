"""An answer is taken for the task that it names only."""

from __future__ import annotations

from typing import Any

import pytest

from luma_pipeline.luma import LUMA, LinkUnavailableError, Outcome, TaskResult
from luma_pipeline.sandbox.provider import Answer, Endpoint, ProviderServer
from tests.luma.conftest import client

UUID = "e70fdf3c-ce95-4dd1-a967-220ce957aff5"
VIDEO = {"url": "https://cdn.example/b.mp4"}


def body(named: Any) -> dict[str, Any]:
    return {"id": named, "state": "completed", "video": VIDEO}


def asked(provider: ProviderServer, task_id: str, answer: Any, **settings: Any) -> TaskResult:
    provider.outage = Answer.of_json(answer)
    with client(provider, **settings) as luma:
        return luma.fetch_one(task_id)


OTHERS: list[tuple[str, Any]] = [
    ("A", body("B")),
    ("A", body("a")),
    ("A", body("A/")),
    ("A", body(7)),
    ("7", body(8)),
    ("7", body(7.5)),
    (UUID, body(UUID.replace("e", "f", 1))),
    (UUID, body(UUID[:-1])),
    ("A", {"code": "success", "data": body("B")}),
    ("A", {"code": "success", "data": {"task_id": "A", "status": "SUCCESS", "data": body("B")}}),
    ("A", {"code": "success", "data": {"task_id": "B", "status": "SUCCESS", "data": body(None)}}),
    ("A", {"task_id": "B", "state": "completed", "video": VIDEO}),
    ("A", {"id": None, "task_id": "B", "state": "completed", "video": VIDEO}),
    ("A", {"task_id": "B", "data": {"state": "completed", "video": VIDEO}}),
    ("A", {"id": "B", "state": "done", "data": {"state": "completed", "video": VIDEO}}),
    ("A", {"code": "success", "data": {"task_id": "B", "data": {"state": "completed", "video": VIDEO}}}),
    ("A", {"task_id": "B", "status": "FAILURE", "fail_reason": "why", "data": None}),
]


@pytest.mark.parametrize(("task_id", "answer"), OTHERS)
def test_the_answer_of_another_task_is_not_taken(provider: ProviderServer, task_id: str, answer: Any) -> None:
    result = asked(provider, task_id, answer)
    assert (result.outcome, result.error_code) == (Outcome.INVALID_RESPONSE, "task_id_mismatch")
    assert (result.generation, result.state, result.is_final, result.attempts) == (None, None, False, 1)
    assert result.raw_response == Answer.of_json(answer).body.decode()


SAME: list[tuple[str, Any]] = [
    ("A", "A"),
    ("A", " A\n"),
    (" A", "A"),
    ("A", None),
    ("A", ""),
    ("A", "  "),
    ("A", {"x": 1}),
    ("A", True),
    ("7", 7),
    ("7", 7.0),
    (UUID, UUID.upper()),
    (UUID.upper(), UUID),
    (UUID.replace("-", ""), UUID),
    (f"{{{UUID}}}", UUID),
    ("日本/ü", "日本/ü"),
]


@pytest.mark.parametrize(("task_id", "named"), SAME)
def test_another_spelling_of_the_same_id_is_taken(provider: ProviderServer, task_id: str, named: Any) -> None:
    assert asked(provider, task_id, body(named)).state == "completed"


def test_an_answer_without_an_id_is_taken(provider: ProviderServer) -> None:
    assert asked(provider, "A", {"state": "completed"}).state == "completed"


def test_the_message_names_both_ids_printable_and_short(provider: ProviderServer) -> None:
    message = asked(provider, "asked", body("x\u0000\u202e\ud800" + "y" * 5000)).error_message
    assert message is not None
    assert "'asked'" in message
    assert "x\\x00" in message
    assert "LUMA_VERIFY_TASK_ID" in message
    assert message.isprintable()
    message.encode()
    assert len(message) < 500


def test_a_signed_link_in_place_of_an_id_is_not_shown(provider: ProviderServer) -> None:
    message = asked(provider, "asked", body("https://cdn.example/b.mp4?X-Amz-Signature=5ecret")).error_message
    assert message is not None
    assert "5ecret" not in message


def test_a_gateway_that_numbers_otherwise_is_believed_by_a_setting(provider: ProviderServer) -> None:
    result = asked(provider, "A", body("B"), verify_task_id=False)
    assert (result.state, result.generation) == ("completed", body("B"))


def test_lumas_own_answers_are_verified_too(provider: ProviderServer) -> None:
    result = asked(provider, "A", {"id": "B", "state": "completed", "assets": {}}, spec=LUMA)
    assert result.error_code == "task_id_mismatch"


@pytest.mark.parametrize("verify", [True, False])
def test_answers_that_a_batch_has_mixed_up_are_not_taken(provider: ProviderServer, verify: bool) -> None:
    entries = [{"task_id": asked, "status": "SUCCESS", "data": body(named)} for asked, named in ("AB", "BA", "CC")]
    provider.script("", [Answer.of_json({"code": "success", "data": entries})], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=3, verify_task_id=verify) as luma:
        codes = {result.task_id: result.error_code for result in luma.fetch("ABC")}
    mixed = "task_id_mismatch" if verify else None
    assert codes == {"A": mixed, "B": mixed, "C": None}


def test_a_task_that_a_batch_answers_twice_is_asked_for_singly(provider: ProviderServer) -> None:
    entries = [{"task_id": task_id, "data": {"state": "completed", "video": VIDEO}} for task_id in "ABA"]
    provider.script("", [Answer.of_json({"code": "success", "data": entries})], endpoint=Endpoint.BATCH)
    provider.script("A", [Answer.of_json(body("A"))])
    with client(provider, batch_size=2) as luma:
        assert [result.state for result in luma.fetch("AB")] == ["completed"] * 2
    assert [request.task_ids for request in provider.requests if request.endpoint is Endpoint.SINGLE] == [("A",)]


def test_a_batch_may_spell_an_id_otherwise(provider: ProviderServer) -> None:
    entries = [{"task_id": 7, "data": body(7)}, {"task_id": UUID.upper(), "data": body(UUID)}]
    provider.script("", [Answer.of_json({"code": "success", "data": entries})], endpoint=Endpoint.BATCH)
    with client(provider, batch_size=2) as luma:
        assert [result.state for result in luma.fetch(["7", UUID])] == ["completed"] * 2
    assert provider.total == 1


LINKS: list[tuple[dict[str, Any], str | None]] = [
    ({"task_id": "B", "url": "b"}, None),
    ({"id": "B", "url": "b"}, None),
    ({"code": "success", "data": {"task_id": "B", "download_url": "b"}}, None),
    ({"id": "A", "url": "a"}, "a"),
    ({"id": 4711, "task_id": "A", "url": "a"}, "a"),
    ({"code": "success", "data": {"download_url": "a"}}, "a"),
]


@pytest.mark.parametrize(("answer", "link"), LINKS)
def test_a_link_of_another_task_is_not_taken(
    provider: ProviderServer, answer: dict[str, Any], link: str | None
) -> None:
    provider.script("A", [Answer.of_json(answer)] * 2, endpoint=Endpoint.DOWNLOAD_URL)
    with client(provider) as luma:
        if link is not None:
            assert luma.unwatermarked_link("A") == link
        else:
            with pytest.raises(LinkUnavailableError, match=r"task 'A'.*task 'B'.*LUMA_VERIFY_TASK_ID"):
                luma.unwatermarked_link("A")
    with client(provider, verify_task_id=False) as luma:
        assert luma.unwatermarked_link("A") == (link or "b")
