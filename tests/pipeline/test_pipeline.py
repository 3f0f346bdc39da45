"""The way of the data in Dagster: every task a row, every finished video an object, once, whatever happens."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from luma_pipeline.dataset import Dataset
from luma_pipeline.sandbox.generation import Phase, State
from luma_pipeline.sandbox.provider import TOKEN, Account, Answer, Endpoint, Generation, Oddity
from tests.world import World, failure, materialized, metadata

DAY = "2024-12-24"
OPEN = (Phase(0, State.PROCESSING),)
FAILED = (Phase(0, State.FAILED),)
ASSETS = ("luma_generations", "luma_tasks", "luma_videos")


def some_tasks(world: World, day: str = DAY, count: int = 3) -> list[str]:
    ids = [f"{day}-{number}" for number in range(count)]
    world.submit(*((task_id, f"{day}T0{number}:00:00Z") for number, task_id in enumerate(ids)))
    return ids


def test_every_task_is_a_row_and_every_finished_video_an_object(world: World) -> None:
    done = some_tasks(world)
    world.submit(("open", f"{DAY} 05:00:00"), phases=OPEN)
    world.submit(("bad", f"{DAY} 06:00:00"), phases=FAILED)
    world.submit(("unknown", f"{DAY} 07:00:00"), known=False)
    world.submit((None, f"{DAY} 08:00:00"), ("  ", f"{DAY} 08:00:00"), (done[0], f"{DAY} 09:00:00"), known=False)
    result = world.run(DAY)
    assert result.success
    rows = {row["task_id"]: row for row in world.rows("luma_generations")}
    assert list(rows) == [*done, "open", "bad", "unknown"]
    assert [row["state"] for row in rows.values()] == ["completed"] * 3 + ["processing", "failed", None]
    assert rows["unknown"]["outcome"] == "not_found"
    videos = world.rows("luma_videos")
    assert {(row["task_id"], row["status"]) for row in videos} == {(task_id, "copied") for task_id in done}
    objects = world.objects()
    for row in videos:
        content = world.cdn.content(row["source_url"])
        assert hashlib.sha256(objects[row["key"]]).hexdigest() == row["sha256"] == hashlib.sha256(content).hexdigest()
    tasks = metadata(world, result.run_id, "luma_tasks", DAY)
    assert (tasks["dagster/partition_row_count"], tasks["blank_task_ids"], tasks["repeated_task_ids"]) == (6, 2, 1)
    numbers = metadata(world, result.run_id, "luma_generations", DAY)
    assert (numbers["completed"], numbers["failed"], numbers["open"], numbers["not_found"]) == (3, 1, 1, 1)
    assert numbers["asked"] == world.provider.total


def test_a_second_run_asks_only_for_what_is_open_and_copies_nothing(world: World) -> None:
    some_tasks(world)
    world.submit(("open", f"{DAY} 05:00:00"), phases=OPEN)
    assert world.run(DAY).success
    before, rows = world.objects(), world.rows("luma_videos")
    world.provider.clear_log()
    fetched = len(world.cdn.requests)
    again = world.run(DAY)
    assert again.success
    assert [record.task_ids for record in world.provider.requests] == [("open",)]
    assert len(world.cdn.requests) == fetched
    assert world.objects() == before
    assert world.rows("luma_videos") == rows
    numbers = metadata(world, again.run_id, "luma_videos", DAY)
    assert (numbers["copied"], numbers["already_present"]) == (0, len(rows))


def test_each_partition_of_a_run_is_reported_once_with_its_own_numbers(world: World) -> None:
    days = [f"2024-12-{day:02}" for day in range(10, 16)]
    for number, day in enumerate(days):
        some_tasks(world, day, number % 3 + 1)
    result = world.run(days[0], days[-1])
    assert result.success
    assert materialized(world, result.run_id) == sorted((asset, day) for asset in ASSETS for day in days)
    for number, day in enumerate(days):
        assert metadata(world, result.run_id, "luma_generations", day)["dagster/partition_row_count"] == number % 3 + 1


def test_a_partition_that_fails_leaves_the_others_done(world: World) -> None:
    days = ["2024-12-10", "2024-12-11", "2024-12-12"]
    for day in days:
        some_tasks(world, day)
    blocked = world.directory / "data" / "luma_generations" / f"date={days[1]}"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    result = world.run(days[0], days[-1])
    assert not result.success
    assert "1 of 3 partitions failed" in failure(result)
    assert days[1] in failure(result)
    assert {day for _, day in materialized(world, result.run_id)} == {days[0], days[2]}
    blocked.unlink()
    world.provider.clear_log()
    again = world.run(days[0], days[-1])
    assert again.success
    assert {record.task_ids[0][:10] for record in world.provider.requests} <= {days[1]}


def spoil_the_file(world: World) -> None:
    """A partition's file that is none: the same until somebody mends it."""
    file = world.directory / "data" / "luma_generations" / f"date={DAY}" / "part-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1 this is no Parquet file")


def lock_the_source(world: World) -> None:
    """A lock that another process holds for a moment, in the middle of the run."""
    connection = sqlite3.connect(world.directory / "source.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    threading.Timer(8.0, connection.close).start()


@pytest.mark.parametrize(("spoil", "tries"), [(spoil_the_file, 1), (lock_the_source, 2)])
def test_only_what_may_pass_is_tried_again(world: World, spoil: Callable[[World], None], tries: int) -> None:
    some_tasks(world)
    spoil(world)
    began = time.monotonic()
    result = world.run(DAY, retry_delay_seconds=20.0 if tries == 1 else 5.0)
    assert result.success is (tries == 2)
    assert tries == 2 or time.monotonic() - began < 15
    retries = world.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert len(retries) == tries - 1


def test_re_execution_from_failure_does_only_what_is_left(world: World) -> None:
    days = ["2024-12-10", "2024-12-11"]
    for day in days:
        some_tasks(world, day)
    blocked = world.directory / "data" / "luma_videos" / f"date={days[1]}"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    first = world.run(days[0], days[-1])
    assert not first.success
    blocked.unlink()
    run = world.re_execute_from_failure(first.run_id)
    assert {day for _, day in materialized(world, run.run_id)} == set(days[1:])


WRONG = [
    ({"api_token": "wrong"}, "refused the token", "LUMA_API_TOKEN"),
    ({"source_table": "nowhere"}, "no table 'nowhere'", "LUMA_SOURCE_TABLE"),
    ({"source_id_column": "nope"}, "no column 'nope'", "LUMA_SOURCE_ID_COLUMN"),
    ({"s3_bucket": "no-such-bucket"}, "no-such-bucket", "bucket"),
    ({"source_url": "postgresql+psycopg://u:geheim@127.0.0.1:1/x"}, "refused", "LUMA_SOURCE_URL"),
]


@pytest.mark.parametrize(("settings", "what", "advice"), WRONG)
def test_what_stops_a_run_says_what_to_do(world: World, settings: dict[str, Any], what: str, advice: str) -> None:
    some_tasks(world)
    result = world.run(DAY, **settings)
    assert not result.success
    assert what in failure(result)
    assert advice in failure(result)
    assert "geheim" not in failure(result)
    assert world.objects() == {}


def test_a_missing_setting_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUMA_S3_BUCKET", raising=False)
    some_tasks(world)
    definitions = world.component(s3_bucket=dg.EnvVar("LUMA_S3_BUCKET")).definitions()
    job = definitions.resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterInvalidConfigError, match='environment variable "LUMA_S3_BUCKET" which is not set'):
        job.execute_in_process(partition_key=DAY)


def test_answers_of_a_broken_run_are_not_asked_for_again(world: World) -> None:
    ids = some_tasks(world, count=9)
    world.provider.script(ids[-1], [Answer(401)])
    result = world.run(DAY, max_concurrency=1)
    assert not result.success
    assert world.rows("luma_generations") == []
    world.provider.script(ids[-1], [None])
    world.provider.clear_log()
    again = world.run(DAY)
    assert again.success
    assert {task_id for record in world.provider.requests for task_id in record.task_ids} == {ids[-1]}
    assert metadata(world, again.run_id, "luma_generations", DAY)["resumed"] == 8
    assert len(world.rows("luma_generations")) == 9
    assert not list((world.directory / "data" / "_checkpoints").rglob("*.parquet"))


def test_a_killed_run_keeps_its_finished_partitions(world: World, tmp_path: Path) -> None:
    days = [f"2024-12-{day:02}" for day in range(1, 31)]
    for day in days:
        some_tasks(world, day, 2)
    world.provider.latency_seconds = 0.2
    code = f"""
import dagster as dg
from luma_pipeline.component import LumaPipelineComponent
component = LumaPipelineComponent(**{world.component(max_concurrency=1).model_dump(exclude_unset=True)!r})
job = component.definitions().resolve_implicit_global_asset_job_def()
tags = {{"dagster/asset_partition_range_start": "{days[0]}", "dagster/asset_partition_range_end": "{days[-1]}"}}
job.execute_in_process(tags=tags)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=dict(os.environ))
    written = world.directory / "data" / "luma_videos"
    while len(list(written.glob("*/part-0.parquet"))) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.parent.name.removeprefix("date=") for path in written.glob("*/part-0.parquet")}
    assert 5 <= len(finished) < len(days)
    world.provider.latency_seconds = 0
    world.provider.clear_log()
    assert world.run(days[0], days[-1]).success
    asked = {task_id[:10] for record in world.provider.requests for task_id in record.task_ids}
    assert not asked & finished
    assert len(world.rows("luma_generations")) == len(world.rows("luma_videos")) == 60
    assert len(world.objects()) == 60


def test_assets_can_be_run_one_by_one(world: World) -> None:
    some_tasks(world)
    alone = world.run(DAY, only=["luma_videos"])
    assert not alone.success
    assert "luma_generations has no partition" in failure(alone)
    for asset in ("luma_tasks", "luma_generations", "luma_videos"):
        result = world.run(DAY, only=[asset])
        assert result.success
        assert materialized(world, result.run_id) == [(asset, DAY)]
    assert len(world.objects()) == 3


def test_refresh_asks_for_final_tasks_and_a_failed_refresh_loses_nothing(world: World) -> None:
    ids = some_tasks(world)
    assert world.run(DAY).success
    before = world.rows("luma_generations")
    world.provider.script(ids[1], [Answer(400)])
    world.provider.clear_log()
    assert world.run(DAY, config={"refresh": True}).success
    assert world.provider.total == 3
    after = world.rows("luma_generations")
    assert [row["state"] for row in after] == ["completed"] * 3
    assert after[1]["polled_at"] == before[1]["polled_at"]
    assert after[0]["polled_at"] > before[0]["polled_at"]


def test_a_limit_leaves_rows_that_say_so(world: World) -> None:
    some_tasks(world)
    assert world.run(DAY, config={"limit": 2}).success
    assert [row["error_code"] for row in world.rows("luma_generations")] == [None, None, "not_asked"]
    assert world.run(DAY).success
    assert world.provider.total == 3


def test_a_limit_leaves_the_rows_of_open_tasks_as_they_were(world: World) -> None:
    world.submit(("a", f"{DAY} 01:00:00"), ("b", f"{DAY} 02:00:00"), phases=OPEN)
    assert world.run(DAY).success
    assert world.run(DAY, config={"limit": 1}).success
    assert [row["state"] for row in world.rows("luma_generations")] == ["processing", "processing"]
    assert world.provider.total == 3


def test_a_dry_run_asks_copies_and_writes_nothing(world: World) -> None:
    some_tasks(world)
    result = world.run(DAY, config={"dry_run": True})
    assert result.success
    assert (world.provider.total, world.objects(), world.rows("luma_tasks")) == (0, {}, [])
    assert materialized(world, result.run_id) == []


def test_other_artifacts_are_copied_on_request(world: World) -> None:
    some_tasks(world, count=1)
    assert world.run(DAY).success
    assert world.run(DAY, config={"artifacts": ["thumbnail", "last_frame"]}).success
    rows = world.rows("luma_videos")
    assert sorted(row["artifact"] for row in rows) == ["last_frame", "thumbnail", "video"]
    assert len(world.objects()) == 3


@pytest.mark.parametrize(
    ("preference", "oddities", "asked"),
    [
        (["unwatermarked", "url"], (), True),
        (["download_url", "unwatermarked", "url"], (), False),
        (["download_url", "unwatermarked", "url"], (Oddity.MISSING_DOWNLOAD_URL,), True),
        (["download_url", "url"], (Oddity.MISSING_DOWNLOAD_URL,), False),
    ],
)
def test_a_link_without_watermark_is_asked_for_where_it_is_preferred(
    world: World, preference: list[str], oddities: tuple[Oddity, ...], asked: bool
) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"), oddities=oddities)
    assert world.run(DAY, link_preference=preference).success
    assert [request.endpoint for request in world.provider.requests] == (
        [Endpoint.SINGLE, Endpoint.DOWNLOAD_URL] if asked else [Endpoint.SINGLE]
    )
    [row] = world.rows("luma_videos")
    assert row["status"] == "copied"
    assert "?" not in row["source_url"]
    # What is there already costs no second question.
    world.provider.clear_log()
    assert world.run(DAY, link_preference=preference).success
    assert world.provider.requests == []


def test_a_refused_question_for_a_link_without_watermark_leaves_the_other_link(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.provider.script("a", [Answer.of_json({"detail": "no such link"}, 404)], endpoint=Endpoint.DOWNLOAD_URL)
    assert world.run(DAY, link_preference=["unwatermarked", "url"]).success
    assert [row["status"] for row in world.rows("luma_videos")] == ["copied"]


def test_a_task_not_found_is_given_up_after_its_time(world: World) -> None:
    world.submit(("unknown", f"{DAY} 07:00:00"), known=False)
    assert world.run(DAY).success
    assert world.run(DAY).success
    assert world.provider.total == 2
    assert world.run(DAY, give_up_after_hours=1).success
    assert world.provider.total == 2
    assert world.run(DAY, give_up_after_hours=1, config={"retry_failed": True}).success
    assert world.provider.total == 3


def test_an_expired_link_is_refreshed_or_its_row_says_so(world: World) -> None:
    world.submit(("dead", f"{DAY} 01:00:00"), oddities=(Oddity.EXPIRED_DOWNLOAD,))
    world.submit(("alive", f"{DAY} 02:00:00"), oddities=(Oddity.EXPIRED_DOWNLOAD,), odd_answers=1)
    assert world.run(DAY).success
    rows = {row["task_id"]: row for row in world.rows("luma_videos")}
    assert (rows["alive"]["status"], rows["dead"]["status"]) == ("copied", "expired")
    assert rows["dead"]["error_code"] == "link_expired"


def test_no_secret_reaches_events_logs_or_file_metadata(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world.submit(("signed", f"{DAY} 01:00:00"), oddities=(Oddity.PRESIGNED_DOWNLOAD,))
    world.submit(("dead", f"{DAY} 02:00:00"), oddities=(Oddity.EXPIRED_DOWNLOAD,))
    results = [world.run(DAY)]
    world.provider.account = Account.UNAUTHORIZED
    results.append(world.run(DAY, config={"refresh": True}))
    shown = caplog.text
    for result in results:
        for entry in world.instance.all_logs(result.run_id):
            shown += repr(entry)
    for file in (world.directory / "data").rglob("*.parquet"):
        shown += str(pq.read_metadata(file).metadata) + str(pq.read_schema(file).metadata)
    shown += str(world.rows("luma_videos"))
    for secret in (TOKEN, world.store.secret_access_key, "X-Amz-Signature"):
        assert secret not in shown


def test_postgresql_as_source_and_parquet_on_s3(world: World, postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE SCHEMA "Shop"')
        connection.exec_driver_sql('CREATE TABLE "Shop".jobs ("Task" uuid, at timestamptz, price numeric(10, 2))')
        for number in range(5):
            task_id = f"00000000-0000-0000-0000-00000000000{number}"
            connection.exec_driver_sql(f"INSERT INTO \"Shop\".jobs VALUES ('{task_id}', '{DAY} 0{number}:00+00', 1.5)")
            world.provider.add(Generation(task_id, urls=world.cdn.publish(task_id)))
    engine.dispose()
    world.store.create_bucket("lake")
    settings: dict[str, Any] = {
        "source_url": postgres_url,
        "source_table": "Shop.jobs",
        "source_id_column": "Task",
        "source_time_column": "at",
        "source_columns": ["price"],
        "data_url": "s3://lake/luma",
    }
    assert world.run(DAY, **settings).success
    total = world.provider.total
    assert world.run(DAY, **settings).success
    assert world.provider.total == total == 5
    assert len(world.objects()) == 5
    lake = pa.fs.S3FileSystem(
        endpoint_override=world.store.endpoint_url.removeprefix("http://"), scheme="http", region="us-east-1"
    )
    table = ds.dataset("lake/luma/luma_generations", filesystem=lake, partitioning="hive").to_table()
    assert (table.num_rows, set(table["date"].to_pylist())) == (5, {DAY})
    tasks = ds.dataset("lake/luma/luma_tasks", filesystem=lake, partitioning="hive").to_table()
    assert str(tasks.schema.field("price").type) == "decimal128(38, 2)"


def test_the_dataset_is_read_with_no_help(world: World) -> None:
    for day in ("2024-12-10", "2024-12-11"):
        some_tasks(world, day, 2)
    assert world.run("2024-12-10", "2024-12-11").success
    root = world.directory / "data" / "luma_generations"
    query = f"SELECT date::VARCHAR, count(*) FROM read_parquet('{root}/**/*.parquet') GROUP BY ALL ORDER BY ALL"
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchall()
    assert found == [("2024-12-10", 2), ("2024-12-11", 2)]
    assert pd.read_parquet(root)["date"].astype(str).tolist() == ["2024-12-10"] * 2 + ["2024-12-11"] * 2
    assert ds.dataset(root, partitioning="hive").to_table().num_rows == 4


def test_assets_downstream_read_tables_by_annotation(world: World) -> None:
    for day in ("2024-12-10", "2024-12-11"):
        some_tasks(world, day, 2)
    definitions = world.component().definitions()
    partitions = dg.DailyPartitionsDefinition("2024-12-01", end_offset=1)
    seen: dict[str, Any] = {}

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def as_frame(luma_videos: pd.DataFrame) -> None:
        seen["frame"] = luma_videos

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def as_table(luma_generations: pa.Table) -> None:
        seen["table"] = luma_generations

    merged = dg.Definitions.merge(definitions, dg.Definitions(assets=[as_frame, as_table]))
    tags = {
        "dagster/asset_partition_range_start": "2024-12-10",
        "dagster/asset_partition_range_end": "2024-12-11",
    }
    job = merged.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=world.instance, tags=tags).success
    assert isinstance(seen["frame"], pd.DataFrame)
    assert len(seen["frame"]) == 4
    assert isinstance(seen["table"], pa.Table)
    assert seen["table"].num_rows == 4


def test_an_object_that_is_gone_is_brought_back_by_the_next_run(world: World) -> None:
    some_tasks(world)
    assert world.run(DAY).success
    key = world.rows("luma_videos")[0]["key"]
    world.store.client().delete_object(Bucket=world.bucket, Key=key)
    assert world.run(DAY).success
    assert key in world.objects()


def test_a_task_that_turns_out_to_be_an_earlier_partitions_leaves_the_later_one(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    assert world.run(DAY).success
    world.submit(("a", "2024-12-20T01:00:00Z"))
    assert world.run("2024-12-20", DAY).success
    assert [row["task_id"] for row in world.rows("luma_tasks")] == ["a"]
    assert [row["task_id"] for row in world.rows("luma_generations")] == ["a"]


def test_tasks_that_vanish_from_the_source_take_no_rows_with_them_unasked(world: World) -> None:
    some_tasks(world)
    assert world.run(DAY).success
    before = {name: world.rows(name) for name in ASSETS}
    engine = sa.create_engine(world.source_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM generations")
    engine.dispose()
    result = world.run(DAY)
    assert not result.success
    assert "allow_empty" in failure(result)
    assert {name: world.rows(name) for name in ASSETS} == before


def test_a_large_partition_is_written_in_the_order_of_its_tasks(world: World) -> None:
    count = 2_300
    ids = [f"task-{number:05}" for number in range(count)]
    engine = sa.create_engine(world.source_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP)")
        connection.execute(
            sa.text("INSERT INTO generations VALUES (:id, :at)"),
            [
                {"id": task_id, "at": f"{DAY}T{number // 3600:02}:00:00Z"}
                for number, task_id in enumerate(reversed(ids))
            ],
        )
    engine.dispose()
    for task_id in ids:
        world.provider.add(Generation(task_id, phases=FAILED))
    assert world.run(DAY, only=["luma_tasks", "luma_generations"]).success
    assert [row["task_id"] for row in world.rows("luma_generations")] == ids
    assert not list((world.directory / "data" / "_checkpoints").rglob("*.parquet"))


def test_a_run_leaves_word_of_what_it_has_to_come_back_for(world: World) -> None:
    today = datetime.now(UTC).date().isoformat()
    some_tasks(world, today, 1)
    world.submit(("open", f"{DAY}T05:00:00Z"), phases=OPEN)

    def marked(name: str) -> set[str]:
        return set(Dataset(url=str(world.directory / "data")).marks(name).listed())

    assert world.run(today).success
    assert world.run(DAY).success
    assert (marked("open"), marked("unfinished")) == ({DAY}, {today})
    world.provider.add(Generation("open", urls=world.cdn.publish("open")))
    assert world.run(DAY).success
    assert (marked("open"), marked("unfinished")) == (set(), {today})
