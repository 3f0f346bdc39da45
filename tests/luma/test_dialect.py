"""Luma's own API, read beside Luma's own SDK: the same columns and states as the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import lumaai
import pytest

from luma_pipeline.luma import GATEWAY, LUMA, LumaClient, Outcome, ProviderConfig, TaskResult, spec_named, to_table
from luma_pipeline.sandbox.provider import TOKEN, Endpoint, Generation, Phase, ProviderServer

START = datetime(2024, 12, 24, 18, 1, 25, 319_000, tzinfo=UTC)
PHASES = (Phase(0, "pending"), Phase(10, "processing"), Phase(60, "completed"))
STATES = [(0, "queued", "pending"), (30, "dreaming", "processing"), (90, "completed", "completed")]


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(clock: Clock) -> Iterator[ProviderServer]:
    generations = [
        Generation("a/b", PHASES, "a cat", "9:16", created_at=START),
        Generation("bad", (Phase(0, "failed"),), created_at=START),
    ]
    with ProviderServer(generations, clock=clock) as server:
        yield server


def ask(provider: ProviderServer, dialect: str, task_id: str = "a/b") -> TaskResult:
    with LumaClient(ProviderConfig(token=TOKEN, base_url=provider.base_url, spec=spec_named(dialect))) as luma:
        return luma.fetch_one(task_id)


@pytest.mark.parametrize(("seconds", "lumas", "ours"), STATES)
def test_states_are_the_gateways_words(
    provider: ProviderServer, clock: Clock, seconds: float, lumas: str, ours: str
) -> None:
    clock.now = START + timedelta(seconds=seconds)
    with lumaai.LumaAI(auth_token=TOKEN, base_url=provider.luma_base_url, max_retries=0) as sdk:
        assert sdk.generations.get("a/b").state == lumas
    own, gateway = ask(provider, "luma"), ask(provider, "gateway")
    assert own.state == gateway.state == ours
    assert own.is_final == gateway.is_final == (ours == "completed")


def test_the_columns_hold_what_lumas_sdk_reads(provider: ProviderServer, clock: Clock) -> None:
    clock.now = START + timedelta(seconds=90)
    with lumaai.LumaAI(auth_token=TOKEN, base_url=provider.luma_base_url, max_retries=0) as sdk:
        read = sdk.generations.get("a/b")
    row, gateway = (to_table([ask(provider, dialect)]).to_pylist()[0] for dialect in ("luma", "gateway"))
    assert read.assets is not None
    assert read.request is not None
    assert (row["id"], row["created_at"]) == (read.id, read.created_at)
    assert (row["video_url"], row["thumbnail_url"]) == (read.assets.video, read.assets.image)
    assert row["request_prompt"] == read.request.model_dump()["prompt"]
    for column in ("state", "request_prompt", "request_aspect_ratio", "created_at", "failure_reason", "thumbnail_url"):
        assert row[column] == gateway[column], column
    assert json.loads(row["raw_response"])["assets"]["video"] == read.assets.video


def test_failures_are_told_as_the_gateway_tells_them(provider: ProviderServer) -> None:
    own, gateway = (to_table([ask(provider, dialect, "bad")]).to_pylist()[0] for dialect in ("luma", "gateway"))
    assert (own["state"], own["failure_reason"]) == ("failed", gateway["failure_reason"])
    unknown = ask(provider, "luma", "unknown")
    assert (unknown.outcome, unknown.error_message) == (Outcome.NOT_FOUND, "Generation not found")
    assert {record.endpoint for record in provider.requests if "unknown" in record.task_ids} == {Endpoint.LUMA}


@pytest.mark.parametrize(
    ("answer", "generation"),
    [
        ({"id": "a", "state": "queued"}, {"id": "a", "state": "queued"}),
        ({"assets": None}, {}),
        ({"assets": "gone"}, {"assets": "gone"}),
        ({"assets": {}}, {}),
        ({"assets": {"video": None, "image": ""}}, {}),
        (
            {"assets": {"video": "v", "image": "i"}},
            {"video": {"url": "v"}, "thumbnail": {"url": "i", "media_type": "image"}},
        ),
        ({"assets": {"video": "v", "sound": "s", "other": None}}, {"video": {"url": "v"}, "assets": {"sound": "s"}}),
    ],
)
def test_lumas_links_are_where_the_page_has_them_and_what_else_there_is_stays(
    answer: dict[str, Any], generation: dict[str, Any]
) -> None:
    assert LUMA.read(answer) == generation


@pytest.mark.parametrize(
    ("body", "link", "ids"),
    [
        ({}, None, []),
        ({"url": "https://a"}, "https://a", []),
        ({"url": "https://a", "download_url": "https://b", "task_id": "t"}, "https://b", ["t"]),
        ({"url": "", "data": {"video_url": "https://c", "id": 7}}, "https://c", ["7"]),
        ({"url": 7, "data": "https://d"}, "https://d", []),
        ({"data": "no link"}, None, []),
        ({"data": ["https://e"]}, None, []),
        ({"data": {"url": ["https://f"]}, "id": "t"}, None, ["t"]),
    ],
)
def test_a_link_without_watermark_is_found_wherever_it_stands(
    body: dict[str, Any], link: str | None, ids: list[str]
) -> None:
    where = GATEWAY.unwatermarked
    assert where is not None
    assert where.link(body) == link
    assert where.task_ids(body) == ids
