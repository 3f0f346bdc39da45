"""The token goes to the provider's host, and is never seen again."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from luma_pipeline.luma import (
    AuthenticationError,
    LumaClient,
    ProviderConfig,
    ProviderUnavailableError,
    QuotaExceededError,
    to_table,
)
from luma_pipeline.sandbox.provider import Answer, Generation, ProviderServer
from tests.luma.raw_server import once, raw_server

SECRET = "sk-9f8e7d6c/5b4a+39281706=="
TAIL = SECRET[-12:]
HEAD = SECRET[:12]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if error.__cause__ is not None:
            yield from chain(error.__cause__)
        error = error.__context__


def shown(error: BaseException) -> str:
    """Everything a log, a traceback or a curious reader could show of an error."""
    said = traceback.format_exception(type(error), error, error.__traceback__)
    return "\n".join([*said, *(f"{link!r} {link} {link.args} {link.__dict__}" for link in chain(error))])


def assert_hidden(text: str) -> None:
    assert HEAD not in text
    assert TAIL not in text


ECHOES = {
    "in a message": Answer.of_json({"error": {"code": "bad", "message": f"Bearer {SECRET} may not"}}, 400),
    "in a code": Answer.of_json({"code": SECRET, "message": "", "data": None}, 400),
    "with 200": Answer.of_json({"code": "fail", "message": f"token {SECRET}", "data": None}),
    "in HTML": Answer(502, {"Content-Type": "text/html"}, f"<pre>Authorization: Bearer {SECRET}</pre>".encode()),
    "where the message is shortened": Answer(400, {}, f"{'x' * 485}{SECRET}".encode()),
    "as PHP writes it": Answer(400, {}, json.dumps({"detail": SECRET}).replace("/", "\\/").encode()),
    "in a generation": Answer.of_json({"state": "failed", "failure_reason": f"key {SECRET}", "new": SECRET}),
    "in a body that is cut": Answer(200, {"Content-Length": "9000"}, SECRET.encode(), cut_after=len(SECRET)),
    "not JSON": Answer(200, {}, f"ok {SECRET}".encode()),
    "in a redirect": Answer(302, {"Location": f"http://127.0.0.1:1/?key={SECRET}"}, SECRET.encode()),
}


@pytest.mark.parametrize("name", ECHOES)
def test_an_answer_that_echoes_the_token_is_a_row_without_it(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ProviderServer([Generation("t")]) as provider:
        provider.token = SECRET
        provider.script("t", [ECHOES[name]])
        with LumaClient(ProviderConfig(token=SECRET, base_url=provider.base_url, max_retry_seconds=0.0)) as luma:
            outcome = luma.fetch_one("t")
            assert provider.requests[0].headers["authorization"] == f"Bearer {SECRET}"
            row = to_table([outcome]).to_pylist()[0]
            assert_hidden("\n".join([repr(luma), repr(outcome), repr(outcome.generation), repr(row), caplog.text]))


FATAL: list[tuple[int, Any, type[Exception]]] = [
    (401, {"error": {"code": "invalid_api_key", "message": f"Incorrect key: {SECRET}"}}, AuthenticationError),
    (403, {"detail": f"{SECRET} has no access"}, AuthenticationError),
    (402, {"code": SECRET, "message": SECRET, "data": None}, QuotaExceededError),
]


@pytest.mark.parametrize(("status", "body", "error"), FATAL)
def test_an_error_that_stops_the_run_does_not_show_the_token(
    status: int, body: Any, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with ProviderServer() as provider:
        provider.outage = Answer.of_json(body, status)
        with (
            LumaClient(ProviderConfig(token=SECRET, base_url=provider.base_url)) as luma,
            pytest.raises(error) as caught,
        ):
            list(luma.fetch(str(number) for number in range(20)))
    assert_hidden(shown(caught.value))
    assert_hidden(caplog.text)


@pytest.mark.parametrize("status", [400, 502])
def test_a_link_in_an_error_is_shown_without_its_signature(status: int) -> None:
    signature = "X-Amz-Signature=0123456789abcdef"
    body = json.dumps({"download_url": f"https://me:s3cret@store.example/v.mp4?{signature}"}).encode()
    with ProviderServer() as provider:
        provider.outage = Answer(status, {}, body)
        settings: dict[str, Any] = {"unavailable_after": 2, "unavailable_seconds": 0.0}
        with LumaClient(ProviderConfig(token="t" * 20, base_url=provider.base_url, **settings)) as luma:
            if status == 502:
                with pytest.raises(ProviderUnavailableError, match=r"store\.example/v\.mp4") as caught:
                    list(luma.fetch(["a", "b", "c"]))
                seen = shown(caught.value)
            else:
                seen = luma.fetch_one("a").error_message or ""
    assert "store.example/v.mp4" in seen
    assert "0123456789" not in seen
    assert "s3cret" not in seen


WIRES = {
    "status line": f"HTTP/1.1 abc {SECRET}\r\n\r\n",
    "encoding": f"HTTP/1.1 200 OK\r\nContent-Encoding: {SECRET}, br\r\nContent-Length: 2\r\n\r\n{{}}",
    "coding": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
}


@pytest.mark.parametrize("name", WIRES)
def test_a_broken_answer_that_echoes_the_token_does_not_show_it(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        raw_server(once(WIRES[name].encode())) as base_url,
        LumaClient(ProviderConfig(token=SECRET, base_url=base_url, max_retry_seconds=0.0)) as luma,
    ):
        outcome = luma.fetch_one("t")
    assert outcome.error_code in ("bad_http", "bad_encoding", "cut_body")
    assert_hidden(f"{outcome!r} {to_table([outcome]).to_pylist()} {caplog.text}")


WRONG_SETTINGS: list[dict[str, Any]] = [
    {"token": f"{SECRET} {SECRET}"},
    {"token": f"{SECRET}\n{SECRET}"},
    {"base_url": f"https://u:{SECRET}@x"},
    {"base_url": f"https://u:{SECRET.replace('/', '')}@x"},
    {"base_url": f"https://x?key={SECRET}"},
]


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_no_error_of_a_setting_shows_the_token_or_a_password(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        LumaClient(ProviderConfig(**{"token": SECRET, **settings}))
    assert_hidden(str(caught.value))


def test_the_token_goes_to_no_other_host() -> None:
    with ProviderServer([Generation("t")]) as provider, ProviderServer([Generation("t")]) as other:
        for status in (301, 302, 303, 307, 308):
            provider.script(str(status), [Answer(status, {"Location": f"{other.base_url}/luma/generations/t"})])
        provider.token = other.token = SECRET
        with LumaClient(ProviderConfig(token=SECRET, base_url=provider.base_url)) as luma:
            codes = [outcome.error_code for outcome in luma.fetch(["301", "302", "303", "307", "308"])]
        assert codes == ["redirect"] * 5
        assert (provider.total, other.total) == (5, 0)


def test_a_token_as_short_as_a_word_leaves_generations_as_they_are() -> None:
    with ProviderServer([Generation("t")]) as provider:
        provider.token = "video"
        with LumaClient(ProviderConfig(token="video", base_url=provider.base_url)) as luma:
            row = to_table([luma.fetch_one("t")]).to_pylist()[0]
    assert (row["state"], row["video_width"], "***" in row["raw_response"]) == ("completed", 1360, False)
