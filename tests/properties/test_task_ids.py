"""A task ID is data: whatever its text, it reaches no other path, key or file, and is never taken for another's."""

from __future__ import annotations

import posixpath
import string
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.dataset import Dataset
from luma_pipeline.gallery.links import relative_link
from luma_pipeline.luma import GATEWAY, LUMA, LumaClient, Outcome, ProviderConfig
from luma_pipeline.luma.results import same_id
from luma_pipeline.media import Artifact, MediaSettingsError
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.store import quoted_task_id
from luma_pipeline.sandbox.provider import TOKEN, Endpoint, Generation, ProviderServer
from tests.properties.effort import examples
from tests.properties.wild import any_ids, task_ids

PATHS = [GATEWAY.path, LUMA.path, "/luma/generations/{task_id}/download_video_url", "/v9/jobs/{task_id}.json"]


@examples(300)
@given(any_ids, any_ids, st.sampled_from(PATHS))
def test_an_id_is_one_segment_of_its_own_path(one: str, other: str, template: str) -> None:
    path = GATEWAY.task_path(one, template)
    assert path.isascii()
    assert path.isprintable()
    before, after = template.split("{task_id}")
    segment = path.removeprefix(before).removesuffix(after)
    assert unquote(segment, errors="surrogatepass") == one
    assert not set(segment) & set('/?#;\\ "<>')
    # Neither a client, a proxy nor a server that puts a path in order makes another of it.
    assert posixpath.normpath(path) == path
    parts = urlsplit(urljoin("https://provider.example/base", path))
    assert (parts.netloc, parts.path, parts.query, parts.fragment) == ("provider.example", path, "", "")
    assert (path == GATEWAY.task_path(other, template)) == (one == other)


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    """A provider that knows every task, by exactly the ID that it reads out of the request."""
    with ProviderServer(make=Generation) as server:
        yield server


@pytest.fixture(scope="module", params=[None, 3], ids=["singly", "in batches"])
def client(provider: ProviderServer, request: pytest.FixtureRequest) -> Iterator[LumaClient]:
    config = ProviderConfig(token=TOKEN, base_url=provider.base_url, batch_size=request.param, requests_per_second=1e6)
    with LumaClient(config) as client:
        yield client


@examples(40)
@given(drawn=st.lists(task_ids, min_size=1, max_size=7, unique=True))
def test_each_id_gets_its_own_answer(client: LumaClient, provider: ProviderServer, drawn: list[str]) -> None:
    provider.clear_log()
    results = list(client.fetch(drawn))
    assert sorted(result.task_id for result in results) == sorted(drawn)
    for result in results:
        assert (result.outcome, result.state) == (Outcome.RESOLVED, "completed")
        assert result.generation is not None
        assert same_id(result.task_id, result.generation["id"])
        if client.spec.batch is None or provider.count(result.task_id, Endpoint.SINGLE):
            assert result.generation["id"] == result.task_id
    assert {task_id for seen in provider.requests for task_id in seen.task_ids} == set(drawn)
    assert {seen.endpoint for seen in provider.requests} <= {Endpoint.SINGLE, Endpoint.BATCH}


LITERALS = st.text("/_-.vraw~", max_size=5) | st.text(max_size=4) | st.sampled_from(["_raw", "raw_", "video", "/", "~"])


@st.composite
def templates(draw: st.DrawFn) -> str:
    first, second = draw(st.permutations(["{task_id}", "{artifact}"]))
    end = draw(st.sampled_from(["", ".{extension}"]))
    return f"{draw(LITERALS)}{first}{draw(LITERALS)}{second}{draw(LITERALS)}{end}"


@examples(400)
@given(templates(), st.lists(any_ids, min_size=1, max_size=4, unique=True), LITERALS)
def test_every_accepted_template_gives_each_artifact_of_each_task_a_key_of_its_own(
    text: str, ids: list[str], prefix: str
) -> None:
    try:
        template = KeyTemplate(text, prefix)
    except MediaSettingsError:
        return
    artifacts = [(task_id, artifact) for task_id in ids for artifact in Artifact]
    bases = {template.key_base(*artifact) for artifact in artifacts}
    keys = {template.key(*artifact, extension): artifact for artifact in artifacts for extension in ("mp4", "jpg")}
    assert len(bases) == len(artifacts)
    assert len(keys) == len(artifacts) * (2 if template.has_extension else 1)
    for key, artifact in keys.items():
        assert key.startswith(template.prefix)
        assert posixpath.normpath(f"/{key}") == f"/{key}"
        assert len(key.encode()) <= 1024
        assert template.is_ours(key)
        assert template.key_base_of(key) == template.key_base(*artifact)
        # As a file below a folder, as tools that copy a bucket make of it.
        assert Path("/bucket") in Path(posixpath.normpath(f"/bucket/{key}")).parents


@examples(300)
@given(any_ids, any_ids)
def test_the_segment_of_a_key_has_letters_that_every_file_system_takes(one: str, other: str) -> None:
    key = KeyTemplate().key(one, Artifact.VIDEO, "mp4")
    assert set(key) <= set(string.ascii_letters + string.digits + "_.-~/")
    assert key.count("/") == 1
    folder = key.split("/")[0]
    assert len(folder) <= 128
    assert not folder.startswith((".", "-")) or "~" in folder
    assert (key == KeyTemplate().key(other, Artifact.VIDEO, "mp4")) == (one == other)


@examples(200)
@given(any_ids)
def test_an_id_is_one_line_in_the_metadata_of_its_object(task_id: str) -> None:
    value = quoted_task_id(task_id)
    message = Message()
    message["x-amz-meta-luma-task-id"] = value
    assert value.isascii()
    assert value.isprintable()
    assert len(value) <= 512
    assert str(message["x-amz-meta-luma-task-id"]) == value


@examples(300)
@given(task_ids, task_ids, st.sampled_from(["{task_id}/{artifact}.{extension}", "{artifact}/{task_id}.{extension}"]))
def test_a_link_from_a_page_leads_to_the_object_and_to_nothing_else(folder: str, task_id: str, text: str) -> None:
    key = KeyTemplate(text, "luma").key(task_id, Artifact.VIDEO, "mp4")
    page = "luma/_gallery/date=2024-12-24/index.html"
    target = urlsplit(urljoin(f"https://bucket.example/{page}", relative_link(page, key)))
    assert (target.netloc, target.query, target.fragment) == ("bucket.example", "", "")
    assert unquote(target.path) == f"/{key}"


@examples(25)
@given(ids=st.lists(task_ids, min_size=1, max_size=12, unique=True))
def test_ids_are_the_same_texts_when_the_dataset_is_read(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    root = tmp_path_factory.mktemp("data")
    schema = pa.schema([pa.field("task_id", pa.string(), nullable=False)])
    file = Dataset(url=str(root)).partition("luma_tasks", "date=2024-12-24")
    file.replace_unless_same(pa.table({"task_id": ids}, schema))
    assert file.read()["task_id"].to_pylist() == ids
    found = duckdb.connect().execute(f"SELECT task_id FROM read_parquet('{root}/luma_tasks/**/*.parquet')").fetchall()
    assert [task_id for (task_id,) in found] == ids
