"""The provider's answers: their shape, their oddities, its limits and faults."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import lumaai
import pytest
import requests

from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.generation import NOT_FOUND_ODDITIES
from luma_pipeline.sandbox.provider import (
    TOKEN,
    Account,
    Answer,
    Batch,
    Endpoint,
    Generation,
    Oddity,
    Phase,
    PortTakenError,
    ProviderServer,
    RateLimit,
)

START = datetime(2024, 12, 24, 18, 1, 25, 319_000, tzinfo=UTC)
SLOW = (Phase(0, "pending"), Phase(10, "processing"), Phase(60, "completed"))


class Clock:
    """A time that stands until the test moves it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cdn(clock: Clock) -> Iterator[CdnServer]:
    with CdnServer(clock=clock) as server:
        yield server


@pytest.fixture
def provider(cdn: CdnServer, clock: Clock) -> Iterator[ProviderServer]:
    with ProviderServer(cdn=cdn, clock=clock) as server:
        yield server


def ask(
    provider: ProviderServer,
    task_id: str,
    suffix: str = "",
    headers: dict[str, str] | None = None,
    timeout: float = 10,
) -> requests.Response:
    url = f"{provider.base_url}/luma/generations/{quote(task_id, safe='')}{suffix}"
    return requests.get(url, headers={"Authorization": f"Bearer {TOKEN}", **(headers or {})}, timeout=timeout)


PAGE_KEYS = {
    "": "id state video request artifact thumbnail video_raw created_at last_frame failure_reason",
    "video": "url width height download_url",
    "request": "prompt aspect_ratio",
    "artifact": "video thumbnail video_raw created_at last_frame",
    "thumbnail": "url width height palette media_type",
    "video_raw": "url width height duration media_type",
    "last_frame": "url width height palette media_type",
}


def test_a_completed_task_has_the_keys_of_the_providers_page_in_its_order(provider: ProviderServer) -> None:
    provider.add(Generation("e70fdf3c-ce95-4dd1-a967-220ce957aff5"))
    body = ask(provider, "e70fdf3c-ce95-4dd1-a967-220ce957aff5").json()
    for name, keys in PAGE_KEYS.items():
        assert list(body[name] if name else body) == keys.split(), name
    for name in ("video", "thumbnail", "video_raw", "last_frame"):
        assert body["artifact"][name] == body[name]
    assert body["created_at"] == "2024-12-24T18:01:25.319Z"
    assert body["artifact"]["created_at"] == "0001-01-01T00:00:00Z"
    assert (body["video"]["width"], body["video_raw"]["duration"], body["failure_reason"]) == (1360, 5.041667, None)


def test_a_task_moves_through_its_states_by_the_clock_alone(provider: ProviderServer, clock: Clock) -> None:
    provider.add(Generation("slow", SLOW), Generation("bad", (Phase(0, "pending"), Phase(5, "failed"))))
    seen = []
    for seconds in (0, 10, 59.9, 60, 10, 86_400):
        clock.now = START + timedelta(seconds=seconds)
        body = ask(provider, "slow").json()
        assert (body["video"] is None) == (body["state"] != "completed")
        seen.append(body["state"])
    assert seen == ["pending", "processing", "processing", "completed", "processing", "completed"]
    failed = ask(provider, "bad").json()
    assert failed["failure_reason"]
    assert list(failed) == ["id", "state", "video", "request", "created_at", "failure_reason"]


@pytest.mark.parametrize("task_id", ["plain", "a/b", "ü ?#%2F&=+", "..%2f", "日本", "x" * 2000])
def test_any_task_id_comes_back_as_it_was_sent(provider: ProviderServer, task_id: str) -> None:
    provider.add(Generation(task_id))
    assert ask(provider, task_id).json()["id"] == task_id
    assert provider.count(task_id) == 1


def test_the_lumaai_sdk_reads_lumas_own_dialect(provider: ProviderServer, cdn: CdnServer, clock: Clock) -> None:
    urls = cdn.publish("a/b")
    provider.add(Generation("a/b", SLOW, "a cat", "9:16", urls=urls))
    with lumaai.LumaAI(auth_token=TOKEN, base_url=provider.luma_base_url, max_retries=0) as client:
        states = []
        for seconds in (0, 30, 60):
            clock.now = START + timedelta(seconds=seconds)
            generation = client.generations.get("a/b")
            states.append(generation.state)
        assert states == ["queued", "dreaming", "completed"]
        assert generation.created_at == START
        assert generation.assets is not None
        assert (generation.assets.video, generation.assets.image) == (urls.video, urls.thumbnail)
        assert generation.request is not None
        assert generation.request.model_dump()["prompt"] == "a cat"
        with pytest.raises(lumaai.NotFoundError, match="Generation not found"):
            client.generations.get("unknown")
        provider.token = "another"
        with pytest.raises(lumaai.AuthenticationError):
            client.generations.get("a/b")


BODY_ODDITIES: dict[Oddity, dict[str, Any]] = {
    Oddity.NUMBERS_AS_STRINGS: {"video.width": "1360", "video_raw.duration": "5.041667"},
    Oddity.EMPTY_OBJECTS: {"artifact": {}, "request": {}},
    Oddity.NULL_OBJECTS: {"artifact": None, "thumbnail": None},
    Oddity.MISSING_OBJECTS: {"artifact": "MISSING", "last_frame": "MISSING"},
    Oddity.EXTRA_FIELDS: {"liked": None, "prompt": "mermaid", "user_id": "u-20", "estimate_wait_seconds": None},
    Oddity.THUMBNAIL_NULL: {"video.thumbnail": None},
    Oddity.CREATED_AT_MICROSECONDS: {"created_at": "2024-12-24T18:01:25.319000Z"},
    Oddity.CREATED_AT_YEAR_ONE: {"created_at": "0001-01-01T00:00:00Z"},
    Oddity.EMPTY_DOWNLOAD_URL: {"video.download_url": ""},
    Oddity.MISSING_DOWNLOAD_URL: {"video.download_url": "MISSING"},
}


@pytest.mark.parametrize("oddity", BODY_ODDITIES, ids=str)
def test_an_oddity_changes_its_fields_and_keeps_the_video(provider: ProviderServer, oddity: Oddity) -> None:
    provider.add(Generation("odd", oddities=(oddity,)))
    body = ask(provider, "odd").json()
    for path, expected in BODY_ODDITIES[oddity].items():
        value: Any = body
        for name in path.split("."):
            value = value.get(name, "MISSING")
        assert value == expected, path
    assert body["video"]["url"].startswith("https://")


def test_an_unknown_state_lasts_while_the_task_is_open(provider: ProviderServer, clock: Clock) -> None:
    provider.add(Generation("odd", SLOW, oddities=(Oddity.UNKNOWN_STATE,)))
    assert ask(provider, "odd").json()["state"] == "upscaling"
    clock.now += timedelta(seconds=60)
    assert ask(provider, "odd").json()["state"] == "completed"


@pytest.mark.parametrize(
    ("oddity", "status", "keys"),
    [
        (Oddity.NOT_FOUND_404, 404, "error"),
        (Oddity.NOT_FOUND_200, 200, "code message data"),
        (Oddity.NOT_FOUND_400, 400, "code message data"),
        (Oddity.NOT_FOUND_500, 500, "code message data"),
        (Oddity.NOT_FOUND_DETAIL, 404, "detail"),
    ],
    ids=str,
)
def test_not_found_comes_in_every_shape_met_in_practice(
    provider: ProviderServer, oddity: Oddity, status: int, keys: str
) -> None:
    provider.not_found = oddity
    provider.add(Generation("odd", oddities=(oddity,)))
    assert oddity in NOT_FOUND_ODDITIES
    for task_id in ("unknown", "odd"):
        answer = ask(provider, task_id)
        assert (answer.status_code, list(answer.json())) == (status, keys.split())
    if keys == "error":
        assert list(answer.json()["error"]) == ["message", "type", "param", "code"]


def test_a_proxys_page_and_broken_bodies(provider: ProviderServer) -> None:
    for oddity in (Oddity.PROXY_HTML, Oddity.NOT_JSON, Oddity.NOT_AN_OBJECT, Oddity.CUT_BODY, Oddity.GZIP_BODY):
        provider.add(Generation(oddity, oddities=(oddity,)))
    page = ask(provider, Oddity.PROXY_HTML)
    assert (page.status_code, page.headers["Content-Type"]) == (502, "text/html")
    with pytest.raises(requests.JSONDecodeError):
        ask(provider, Oddity.NOT_JSON).json()
    assert ask(provider, Oddity.NOT_AN_OBJECT).json() == []
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        ask(provider, Oddity.CUT_BODY)
    packed = ask(provider, Oddity.GZIP_BODY)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.json()["state"] == "completed"


@pytest.mark.parametrize("oddity", [Oddity.HUGE_BODY, Oddity.GZIP_BOMB], ids=str)
def test_a_huge_body_is_64_mib_of_json(provider: ProviderServer, oddity: Oddity) -> None:
    provider.add(Generation("huge", oddities=(oddity,)))
    answer = ask(provider, "huge")
    assert len(answer.content) > 64 * 1024**2
    assert (int(answer.headers["Content-Length"]) < 100_000) == (oddity is Oddity.GZIP_BOMB)


def test_oddities_can_end_after_some_answers(provider: ProviderServer) -> None:
    provider.add(Generation("odd", oddities=(Oddity.PROXY_HTML,), odd_answers=2))
    assert [ask(provider, "odd").status_code for _ in range(3)] == [502, 502, 200]


def test_a_presigned_link_is_on_another_host_and_dies(provider: ProviderServer, cdn: CdnServer, clock: Clock) -> None:
    urls = cdn.publish("signed")
    provider.add(Generation("signed", urls=urls, oddities=(Oddity.PRESIGNED_DOWNLOAD,), link_seconds=60))
    provider.add(Generation("dead", urls=urls, oddities=(Oddity.EXPIRED_DOWNLOAD,)))
    link = ask(provider, "signed").json()["video"]["download_url"]
    assert link.startswith("http://localhost:")
    assert requests.get(link, timeout=10).content == cdn.content(urls.video)
    assert requests.get(ask(provider, "dead").json()["video"]["download_url"], timeout=10).status_code == 403
    clock.now += timedelta(seconds=60)
    assert requests.get(link, timeout=10).status_code == 403
    fresh = ask(provider, "signed", "/download_video_url").json()["url"]
    assert requests.get(fresh, timeout=10).status_code == 200
    assert provider.count("signed", Endpoint.DOWNLOAD_URL) == 1


def test_a_batch_answers_for_known_tasks_and_leaves_out_the_others(provider: ProviderServer, clock: Clock) -> None:
    provider.add(Generation("done"), Generation("slow", SLOW), Generation("garbled"), Generation("left"))
    provider.batch = Batch(left_out=frozenset({"left"}), garbled=frozenset({"garbled"}))
    clock.now += timedelta(seconds=10)

    def batch() -> requests.Response:
        ids = {"ids": ["done", "slow", "garbled", "left", "unknown"]}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.post(f"{provider.base_url}/luma/tasks", json=ids, headers=headers, timeout=10)

    answer = batch().json()
    entries = {entry["task_id"]: entry for entry in answer["data"]}
    assert (answer["code"], sorted(entries)) == ("success", ["done", "garbled", "slow"])
    assert list(entries["done"]) == [
        *("task_id", "status", "fail_reason", "submit_time", "start_time", "finish_time", "data")
    ]
    assert (entries["done"]["status"], entries["slow"]["status"]) == ("SUCCESS", "IN_PROGRESS")
    assert entries["done"]["data"] == ask(provider, "done").json()
    assert not isinstance(entries["garbled"]["data"], dict)
    assert (provider.count("unknown", Endpoint.BATCH), provider.total) == (1, 2)
    provider.batch = Batch(is_enabled=False)
    assert batch().status_code == 404


@pytest.mark.parametrize(
    ("account", "status", "code"),
    [
        (Account.UNAUTHORIZED, 401, "invalid_api_key"),
        (Account.PAYMENT_REQUIRED, 402, "payment_required"),
        (Account.FORBIDDEN, 403, "forbidden"),
        (Account.OUT_OF_QUOTA, 403, "insufficient_user_quota"),
    ],
    ids=str,
)
def test_an_account_that_may_not_is_refused(provider: ProviderServer, account: Account, status: int, code: str) -> None:
    provider.account = account
    answer = ask(provider, "any")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_wrong_token_is_refused_and_logged_with_its_headers(provider: ProviderServer) -> None:
    provider.add(Generation("one"))
    assert ask(provider, "one", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(provider, "one", headers={"X-Trace": "7"}).status_code == 200
    refused, served = provider.requests
    assert (refused.status, refused.headers["authorization"]) == (401, "Bearer wrong")
    assert (served.status, served.headers["x-trace"], served.task_ids) == (200, "7", ("one",))
    assert refused.at <= served.at <= time.time()
    provider.clear_log()
    assert (provider.total, provider.count("one"), provider.requests) == (0, 0, [])


@pytest.mark.parametrize("retry_after", ["seconds", "http-date", None])
def test_a_rate_limit_answers_429_above_the_burst(provider: ProviderServer, retry_after: Any) -> None:
    provider.add(Generation("one"))
    provider.rate_limit = RateLimit(0.1, burst=2, retry_after=retry_after)
    assert [ask(provider, "one").status_code for _ in range(2)] == [200, 200]
    refused = ask(provider, "one")
    assert refused.status_code == 429
    header = refused.headers.get("Retry-After")
    if retry_after == "seconds":
        assert header is not None
        assert 1 <= int(header) <= 10
    elif retry_after == "http-date":
        assert header is not None
        assert 0 < (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds() <= 11
    else:
        assert header is None
    provider.rate_limit = None
    assert ask(provider, "one").status_code == 200
    assert provider.count_status(429) == 1


def test_a_script_is_consumed_in_turn_and_its_last_answer_stays(provider: ProviderServer) -> None:
    provider.add(Generation("one"))
    provider.script("one", [Answer(503), Answer(429, {"Retry-After": "7"}), None])
    answers = [ask(provider, "one") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 429, 200, 200]
    assert answers[1].headers["Retry-After"] == "7"


def test_answers_can_be_late_slow_cut_dropped_and_closing(provider: ProviderServer) -> None:
    body = json.dumps({"id": "one"}).encode()
    scripts = {
        "late": (Answer(200, body=body, delay_seconds=30), requests.ReadTimeout),
        "slow": (Answer(200, body=body, drip_bytes_per_second=0.1), requests.ConnectionError),
        "cut": (Answer(200, body=body, cut_after=3), requests.exceptions.ChunkedEncodingError),
        "dropped": (Answer(drop=True), requests.ConnectionError),
    }
    for task_id, (answer, error) in scripts.items():
        provider.script(task_id, [answer])
        with pytest.raises(error):
            ask(provider, task_id, timeout=0.5)
    provider.script("delayed", [Answer(200, body=body, delay_seconds=0.1)])
    provider.script("dripping", [Answer(200, body=body, drip_bytes_per_second=100)])
    provider.script("closing", [Answer(200, body=body, close=True)])
    assert [ask(provider, task_id).content for task_id in ("delayed", "dripping")] == [body, body]
    assert ask(provider, "closing").headers["Connection"] == "close"
    provider.outage = Answer(503)
    assert ask(provider, "one").status_code == 503


def test_one_connection_serves_many_requests(provider: ProviderServer) -> None:
    provider.add(Generation("one"))
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        sockets = set()
        for _ in range(5):
            with session.get(f"{provider.base_url}/luma/generations/one", stream=True, timeout=10) as answer:
                assert answer.raw.connection is not None
                sockets.add(answer.raw.connection.sock.getsockname())
                assert answer.json()["id"] == "one"
    assert len(sockets) == 1


def test_a_taken_port_is_named(provider: ProviderServer) -> None:
    port = int(provider.base_url.rsplit(":", 1)[1])
    with pytest.raises(PortTakenError, match=str(port)):
        ProviderServer(port=port).start()
