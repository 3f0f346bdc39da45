"""Runs over what is done: they list nothing and write nothing, and a lost object is noticed all the same."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest

from luma_pipeline.dataset import Dataset, VideosVerdict
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Generation
from tests.media.faulty_store import FaultyStore, StoreRequest
from tests.world import World, metadata

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")
BELIEVED: dict[str, Any] = {"objects_checked": 0}
"""Nothing that the manifest knows is looked at, and the check looks at nothing."""


def submit(world: World, *task_ids: str, day: str = DAY, **generation: Any) -> None:
    rows = [(task_id, f"{day}T{number:02}:00:00Z") for number, task_id in enumerate(task_ids)]
    world.submit(*rows, **generation)


def files(world: World) -> dict[str, int]:
    """Every file of the datasets with the time at which it was written."""
    root = world.directory / "data"
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def lose(world: World, task_id: str) -> None:
    world.store.client().delete_object(Bucket=world.bucket, Key=f"{task_id}/video.mp4")


def versions(world: World, result: dg.ExecuteInProcessResult) -> dict[str, str]:
    entries = world.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = {}
    for entry in entries:
        assert entry.dagster_event is not None
        materialization = entry.dagster_event.step_materialization_data.materialization
        found[materialization.asset_key.to_user_string()] = (materialization.tags or {})["dagster/data_version"]
    return found


@contextmanager
def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StoreRequest]]:
    """The requests that runs make to the store."""
    with FaultyStore(int(world.store.endpoint_url.rpartition(":")[2]), lambda request, nth: None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy.seen


def test_a_run_over_what_is_done_writes_nothing_and_reports_the_same(world: World) -> None:
    submit(world, "a", "b", "c")
    first = world.run(DAY)
    before = files(world)
    again = world.run(DAY)
    assert again.success
    assert files(world) == before
    assert versions(world, again) == versions(world, first)
    for asset in ASSETS:
        numbers = [metadata(world, result.run_id, asset, DAY) for result in (first, again)]
        same = ["dagster/row_count", "size_bytes", "path", "preview", "completed", "awaited", "bytes_in_bucket"]
        assert [[number.get(name) for name in same] for number in numbers] == [[numbers[0].get(n) for n in same]] * 2
    assert metadata(world, again.run_id, "luma_videos", DAY)["already_present"] == 3


def test_a_run_writes_the_files_whose_rows_have_changed_and_no_other(world: World) -> None:
    submit(world, "a")
    submit(world, "open", phases=(Phase(0, "pending"),))
    world.run(DAY)
    before = files(world)
    world.provider.add(Generation("open").published(world.cdn))
    world.run(DAY)
    after = files(world)
    written = {name for name in before if name in after and after[name] != before[name]}
    assert written == {f"luma_{name}/date={DAY}/part-0.parquet" for name in ("generations", "videos")}
    assert {row["task_id"]: row["status"] for row in world.rows("luma_videos")} == {"a": "copied", "open": "copied"}


@pytest.mark.parametrize(
    "change",
    ["UPDATE generations SET submitted_at = '2024-12-24T05:00:00Z'", "DELETE FROM generations WHERE task_id = 'b'"],
)
def test_a_change_of_the_source_is_written(world: World, change: str) -> None:
    submit(world, "a", "b")
    world.run(DAY)
    before = files(world)
    with sqlite3.connect(world.directory / "source.db") as connection:
        connection.execute(change)
    assert world.run(DAY).success
    after = files(world)
    for name in ("tasks", "generations"):
        assert after[f"luma_{name}/date={DAY}/part-0.parquet"] != before[f"luma_{name}/date={DAY}/part-0.parquet"]
    assert [row["submitted_at"] for row in world.rows("luma_tasks")] == [
        row["submitted_at"] for row in world.rows("luma_generations")
    ]


def test_a_run_over_what_is_done_walks_no_bucket(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings["data_url"] = f"s3://{world.bucket}-lake/data"
    world.store.create_bucket(f"{world.bucket}-lake")
    for day in (DAY, NEXT_DAY):
        submit(world, *(f"{day}-{number}" for number in range(20)), day=day)
    world.run(DAY, NEXT_DAY)
    with watched(world, monkeypatch) as seen:
        assert world.run(DAY, NEXT_DAY, **BELIEVED).success
    videos = [request for request in seen if request.path.strip("/").split("/")[0] == world.bucket]
    lake = [request for request in seen if request not in videos]
    # The check at the start: a listing of one key, and an upload that is begun and aborted.
    assert Counter(request.method for request in videos if request.is_listing) == {"GET": 1}
    assert not [request for request in videos if request.method == "HEAD"]
    assert not [request for request in lake if request.method == "PUT" and "partNumber" not in request.query]
    # The tails of three files; for the run a handful.
    assert len(lake) <= 2 * 3 + 14


def kinds(seen: list[StoreRequest], lake: str) -> Counter[str]:
    """The requests to a lake that name a partition or are listings of tombstones."""
    found: Counter[str] = Counter()
    for request in seen:
        bucket, _, key = unquote(request.path)[1:].partition("/")
        (where,) = request.query.get("prefix", [key])
        if bucket == lake and where.endswith("_tombstones/"):
            found["LIST _tombstones"] += 1
        elif bucket == lake and re.search(r"2024-12-2[45]", where):
            found[f"{'LIST' if request.is_listing else request.method} {where.split('/')[1]}"] += 1
    return found


def times(partitions: int, *requests: str) -> Counter[str]:
    return Counter({name: count * partitions for name, count in Counter(requests).items()})


READ = ("GET luma_tasks", "GET luma_generations", "GET luma_videos")
ANSWERED = ("LIST _verdicts", "HEAD luma_generations", "PUT luma_generations", "LIST _tombstones")
COPIED = ("PUT _verdicts", "DELETE _verdicts", "PUT luma_videos", "LIST _tombstones")


def test_what_a_partition_on_s3_asks_of_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = f"{world.bucket}-lake"
    world.settings["data_url"] = f"s3://{lake}/data"
    world.store.create_bucket(lake)
    for day in (DAY, NEXT_DAY):
        submit(world, f"{day}-a", day=day)
        submit(world, f"{day}-open", day=day, phases=(Phase(0, "pending"),))
    long_ago: dict[str, Any] = {**BELIEVED, "give_up_after_hours": 1}

    def run(**settings: Any) -> Counter[str]:
        with watched(world, monkeypatch) as seen:
            assert world.run(DAY, NEXT_DAY, **{**long_ago, **settings}).success
        return kinds(seen, lake)

    start = times(1, "LIST _tombstones")
    new = times(2, *READ, "PUT luma_tasks", "PUT _verdicts", *ANSWERED, *COPIED)
    assert run() == start + new
    # Still open, and answered later than before: one file is written, and nothing else.
    assert run() == start + times(2, *READ, *ANSWERED)
    # Open tasks that are young leave a mark each time: one request.
    assert run(give_up_after_hours=24 * 365 * 100) == start + times(2, *READ, *ANSWERED, "PUT _open")
    for day in (DAY, NEXT_DAY):
        world.provider.add(Generation(f"{day}-open").published(world.cdn))
    assert run() == start + times(2, *READ, *ANSWERED, *COPIED, "DELETE _open")
    assert run() == start + times(2, *READ)


def test_a_lost_object_is_copied_again_if_it_is_one_of_those_that_are_looked_at(world: World) -> None:
    submit(world, "a", "b", "c")
    world.run(DAY)
    lose(world, "b")
    assert world.run(DAY).success
    assert world.object_keys() == {f"{task_id}/video.mp4" for task_id in "abc"}


def test_where_one_object_is_lost_all_others_are_looked_at(world: World) -> None:
    names = [f"t{number:02}" for number in range(12)]
    submit(world, *names)
    world.run(DAY)
    for name in names[1:]:
        lose(world, name)
    # Of twelve objects two are looked at: one of them at least is lost.
    assert world.run(DAY, objects_checked=2).success
    assert world.object_keys() == {f"{name}/video.mp4" for name in names}


@pytest.mark.parametrize(
    ("settings", "config", "is_noticed"),
    [
        ({}, None, False),
        ({}, {"verify": True}, True),
        ({"verify_hours": 0}, None, True),
        ({"objects_checked": -1}, None, True),
    ],
    ids=["believed", "a person asks", "the time has come", "all are looked at"],
)
def test_when_a_lost_object_is_noticed(
    world: World, settings: dict[str, Any], config: dict[str, Any] | None, is_noticed: bool
) -> None:
    submit(world, "a", "b")
    world.run(DAY)
    lose(world, "b")
    assert world.run(DAY, config=config, **{**BELIEVED, **settings}).success
    assert ("b/video.mp4" in world.object_keys()) == is_noticed


def test_a_full_look_is_due_once_in_its_time(world: World) -> None:
    submit(world, "a", "b")
    world.run(DAY, **BELIEVED)
    time.sleep(0.2)
    hours: dict[str, Any] = {**BELIEVED, "verify_hours": 0.1 / 3600}
    mark = world.directory / "data" / "_verified" / DAY
    assert not mark.exists()
    world.run(DAY, **hours)
    assert mark.exists()
    lose(world, "b")
    # Its time is over a while ago, but for the mark.
    in_an_hour = time.time() + 3600
    os.utime(mark, (in_an_hour, in_an_hour))
    world.run(DAY, **hours)
    assert "b/video.mp4" not in world.object_keys()
    os.utime(mark, (0, 0))
    world.run(DAY, **hours)
    assert "b/video.mp4" in world.object_keys()


def test_an_object_that_a_check_found_lost_is_copied_again(world: World) -> None:
    submit(world, "a", "b")
    world.run(DAY, **BELIEVED)
    lose(world, "b")
    verdicts = Dataset(url=str(world.directory / "data")).verdicts()
    verdict = verdicts.of(DAY)
    assert verdict.now.videos is not None
    verdict.put(replace(verdict.now, videos=replace(verdict.now.videos, lost=1)))
    assert world.run(DAY, **BELIEVED).success
    assert "b/video.mp4" in world.object_keys()
    assert verdicts.of(DAY).now.videos == VideosVerdict(in_bucket=2)


def test_a_full_look_over_many_partitions_is_one_listing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [f"2024-12-{number:02}" for number in range(1, 11)]
    for day in days:
        submit(world, *(f"{day}-{number}" for number in range(20)), day=day)
    world.run(days[0], days[-1])
    with watched(world, monkeypatch) as seen:
        assert world.run(days[0], days[-1], config={"verify": True}, **BELIEVED).success
    listings = [request for request in seen if request.is_listing]
    heads = [request for request in seen if request.method == "HEAD"]
    assert len(listings) <= 3
    assert heads == []


def test_a_manifest_of_an_earlier_version_is_written_once(world: World) -> None:
    submit(world, "a")
    world.run(DAY)
    file = Dataset(url=str(world.directory / "data")).partition("luma_videos", f"date={DAY}")
    table = file.read()
    path = Path(file.path)
    narrow = table.drop_columns(["codec"])
    file.replace(narrow.schema, [narrow])
    assert world.run(DAY).success
    assert "codec" in file.read().schema.names
    written = path.stat().st_mtime_ns
    assert world.run(DAY).success
    assert path.stat().st_mtime_ns == written
