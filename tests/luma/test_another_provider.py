"""A provider that nobody has: one `ProviderSpec` is all that it takes, from the request to the table and the links."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest

from luma_pipeline.luma import (
    InvalidSettingError,
    LumaClient,
    Outcome,
    ProviderConfig,
    ProviderSpec,
    QuotaExceededError,
    TaskResult,
    flatten,
)
from luma_pipeline.luma.links import ArtifactLinks, choose_link, links_of_generation, links_of_row
from luma_pipeline.luma.responses import AnswerShape, ResponseAction, ResponseRule, code_matches, words_match
from luma_pipeline.luma.schema import FIELDS, Field
from luma_pipeline.luma.spec import BatchRequest, LinkRequest
from luma_pipeline.sandbox.server import Answer, HttpServer, Request


def read(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """A job in the shape of the page. Its `seed` has a column of its own."""
    generation: dict[str, Any] = {"id": job.get("uuid"), "state": job["phase"], "seed": job.get("seed")}
    if job.get("clip"):
        generation["video"] = {"href": job["clip"]["href"], "width": job["clip"].get("w")}
    if job.get("error_text"):
        generation["failure_reason"] = job["error_text"]
    return generation


REEL = ProviderSpec(
    name="reel",
    path="/v9/jobs/{task_id}.json",
    shape=AnswerShape(
        state_key="phase",
        id_key="uuid",
        inner_keys=("job", "payload"),
        wrapper_id_key="job_ref",
        status_key="progress",
        statuses={"WAITING": "pending"},
        done_statuses=frozenset({"READY"}),
    ),
    states={"brewing": "processing", "ready": "completed", "spoilt": "failed"},
    read=read,
    rules=(
        ResponseRule(ResponseAction.NOT_FOUND, frozenset({418}), None, words_match("never heard of it")),
        ResponseRule(ResponseAction.THROTTLE, None, None, code_matches("easy_now")),
        ResponseRule(ResponseAction.CONFIRM_QUOTA, None, None, code_matches("purse_empty")),
    ),
    fields=(
        *FIELDS,
        Field("seed", ("seed",), pa.int64()),
        Field("video_href", ("video", "href"), pa.string()),
    ),
    artifacts={"video": ArtifactLinks((("video",),), ("href",), unwatermarked=True)},
    batch=BatchRequest("/v9/jobs:many", ids_key="refs", entries_key="jobs", entry_id_key="job_ref"),
    unwatermarked=LinkRequest("/v9/clean/{task_id}", link_keys=("clean_href",)),
)

JOBS: dict[str, Any] = {
    "a/1": {"uuid": "a/1", "phase": "ready", "seed": 42, "clip": {"href": "https://cdn.reel/a.mp4", "w": 640}},
    "b": {"payload": {"uuid": "b", "phase": "brewing"}},
    "c": {"job": {"uuid": "c", "phase": "spoilt", "error_text": "no light"}},
    "d": {"uuid": "d", "phase": "polishing"},
    "e": {"job_ref": "e", "progress": "WAITING", "payload": None},
    "f": {"uuid": "a/1", "phase": "ready"},
}


class Reel:
    """The provider's server. A job that is a list of several is answered with one after the other."""

    def __init__(self, jobs: Mapping[str, Any] = JOBS, clean: Mapping[str, str] | None = None) -> None:
        self.jobs = jobs
        self.clean = clean
        self.paths: list[str] = []
        self.is_broke = False

    def answer(self, request: Request) -> Answer:
        self.paths.append(request.path)
        if self.is_broke:
            return Answer.of_json({"error": {"code": "purse_empty", "message": "pay first"}}, 409)
        if request.path == "/v9/jobs:many":
            refs = json.loads(request.body)["refs"]
            return Answer.of_json(
                {"jobs": [{"job_ref": ref, "job": self.jobs[ref]} for ref in refs if ref in self.jobs]}
            )
        folder, _, name = request.path.rpartition("/")
        task_id = unquote(name.removesuffix(".json"))
        if folder == "/v9/clean" and self.clean is not None:
            return Answer.of_json({"clean_href": self.clean[task_id]}) if task_id in self.clean else Answer(404)
        if folder == "/v9/clean":
            return Answer.of_json({"clean_href": f"https://clean.reel/{task_id}.mp4"})
        if task_id == "hasty" and self.paths.count(request.path) == 1:
            return Answer.of_json({"error": {"code": "easy_now", "message": ""}}, 400)
        if task_id == "hasty":
            return Answer.of_json({"uuid": "hasty", "phase": "ready"})
        if task_id not in self.jobs:
            return Answer.of_json({"detail": "never heard of it"}, 418)
        job = self.jobs[task_id]
        return Answer.of_json(job[min(self.paths.count(request.path), len(job)) - 1] if isinstance(job, list) else job)


@pytest.fixture
def reel() -> Reel:
    return Reel()


@pytest.fixture
def base_url(reel: Reel) -> Iterator[str]:
    server = HttpServer(reel.answer)
    server.start()
    yield server.base_url
    server.stop()


def ask(base_url: str, *task_ids: str, batch_size: int | None = None) -> list[TaskResult]:
    with LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, spec=REEL, batch_size=batch_size)) as client:
        return sorted(client.fetch(task_ids), key=lambda result: result.task_id)


@pytest.mark.parametrize("batch_size", [None, 10])
def test_its_answers_are_rows(reel: Reel, base_url: str, batch_size: int | None) -> None:
    results = ask(base_url, *JOBS, "nobody", "hasty", batch_size=batch_size)
    found = {r.task_id: (r.outcome.value, r.state or r.error_code) for r in results}
    assert found == {
        "a/1": ("resolved", "completed"),
        "b": ("resolved", "processing"),
        "c": ("resolved", "failed"),
        "d": ("resolved", "polishing"),
        "e": ("resolved", "pending"),
        "f": ("invalid_response", "task_id_mismatch"),
        "hasty": ("resolved", "completed"),
        "nobody": ("not_found", "http_418"),
    }
    assert ("/v9/jobs/a%2F1.json" in reel.paths) == (batch_size is None)
    assert ("/v9/jobs:many" in reel.paths) == (batch_size is not None)


def test_its_columns_are_those_of_the_page_and_its_own(base_url: str) -> None:
    flattened = flatten(ask(base_url, "a/1", "c"), fields=REEL.fields)
    assert flattened.table.schema.equals(REEL.schema)
    completed, failed = flattened.table.to_pylist()
    assert (completed["seed"], completed["video_href"], completed["video_width"]) == (42, "https://cdn.reel/a.mp4", 640)
    assert (failed["failure_reason"], failed["seed"]) == ("no light", None)
    assert flattened.drift == ()


def test_its_links_are_found_in_answers_and_in_rows(base_url: str) -> None:
    result = ask(base_url, "a/1")[0]
    assert result.generation is not None
    table = flatten([result], fields=REEL.fields).table
    for look_up in (links_of_generation(result.generation), links_of_row(table, 0)):
        assert choose_link(look_up, "video", ["url"], REEL.artifacts) == ("https://cdn.reel/a.mp4", False)
        assert choose_link(look_up, "video", ["unwatermarked", "href"], REEL.artifacts) == (
            "https://cdn.reel/a.mp4",
            True,
        )
        assert choose_link(look_up, "thumbnail", ["url"], REEL.artifacts) == (None, False)
    with LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, spec=REEL)) as client:
        assert client.unwatermarked_link("b") == "https://clean.reel/b.mp4"


def test_its_words_for_an_empty_account_stop_the_run(reel: Reel, base_url: str) -> None:
    reel.is_broke = True
    with pytest.raises(QuotaExceededError, match="pay first"):
        ask(base_url, "a/1", "b")
    assert len(reel.paths) == 1


def test_a_provider_without_batches_or_links_has_none(base_url: str) -> None:
    plain = ProviderSpec("plain", "/v9/jobs/{task_id}.json", shape=REEL.shape, read=read)
    with pytest.raises(ValueError, match=r"LUMA_BATCH_SIZE.*plain"):
        ProviderConfig(token="t", spec=plain, batch_size=5)
    with LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, spec=plain)) as client:
        assert client.unwatermarked_link("a/1") is None
        assert client.fetch_one("a/1").outcome is Outcome.RESOLVED
        assert client.fetch_one("a/1").state == "ready"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a column twice": ({"fields": (*FIELDS, Field("state", ("phase",), pa.string()))}, "two columns of the name state"),
    "a column of every provider": ({"fields": (*FIELDS, Field("task_id", ("id",), pa.string()))}, "task_id"),
    "no state": ({"fields": (Field("id", ("id",), pa.string()),), "artifacts": {}}, "text columns state"),
    "no column of a link": ({"artifacts": {"video": ArtifactLinks((("clip",),), ("href",))}}, "text columns clip_href"),
    "a link that is no text": (
        {"fields": (*FIELDS, Field("clip_href", ("clip", "href"), pa.int64())), "artifacts": REEL.artifacts},
        "text columns video_href",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_provider_that_cannot_be_written_or_copied_is_refused_at_once(name: str) -> None:
    settings, message = FAULTS[name]
    with pytest.raises(InvalidSettingError, match=f"the provider faulty .*{message}"):
        ProviderSpec("faulty", "/{task_id}", **settings)


def test_a_field_of_a_type_that_no_column_has_is_refused_at_once() -> None:
    with pytest.raises(InvalidSettingError, match=r"field sizes .*list<item: int64>"):
        Field("sizes", ("sizes",), pa.list_(pa.int64()))
