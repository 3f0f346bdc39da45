"""A dataset that version 0.1.0 has written: today's runs read it, merge with it and write it again."""

# No postponed annotations in this module: Dagster reads those of assets as types.

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.luma import GENERATIONS_SCHEMA
from luma_pipeline.sandbox import samples, seed
from luma_pipeline.sandbox.provider import Generation
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.world import World, evaluations, metadata, running_world

FIXTURE = Path(__file__).parent.parent / "fixtures" / "dataset_0_1_0"
DAYS = FIRST_DAY, SECOND_DAY, BROKEN_OFF_DAY = "2024-12-24", "2024-12-25", "2024-12-26"
DATASETS = {"luma_tasks": None, "luma_generations": GENERATIONS_SCHEMA, "luma_videos": VIDEOS_SCHEMA}
FACTS = {"width", "height", "duration_seconds", "codec", "frame_rate"}
SETTINGS = {
    "source_columns": list(seed.EXTRA_COLUMNS),
    "s3_prefix": "generations",
    "artifacts": ["video", "thumbnail"],
    "partitions_start": FIRST_DAY,
    "give_up_after_hours": 72,
}


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world that version 0.1.0 has left: its dataset, the source table, the provider, and the objects."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    # The old manifest names this bucket.
    with running_world(tmp_path, store, "luma-videos") as world:
        shutil.copytree(FIXTURE / "data", tmp_path / "data", copy_function=shutil.copy)
        world.settings = {**SETTINGS}
        now = datetime(2024, 12, 26, 12, tzinfo=UTC)
        world.provider.add(*seed.seed(world.source_url, world.cdn, now=now, days=3, tasks_per_day=12).generations)
        client = store.client()
        for key in world.object_keys():
            client.delete_object(Bucket=world.bucket, Key=key)
        for key, head in json.loads((FIXTURE / "objects.json").read_text()).items():
            make = samples.thumbnail if head["metadata"]["luma-artifact"] == "thumbnail" else samples.video
            client.put_object(
                Bucket=world.bucket,
                Key=key,
                Body=make(unquote(head["metadata"]["luma-task-id"])),
                ContentType=head["content_type"],
                Metadata=head["metadata"],
            )
        yield world


def file(world: World, dataset: str, day: str) -> Path:
    return world.directory / "data" / dataset / f"date={day}" / "part-0.parquet"


def rows(world: World, dataset: str, day: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.ParquetFile(file(world, dataset, day)).read().to_pylist()
    return found


def asked(world: World) -> set[str]:
    return {task_id for request in world.provider.requests for task_id in request.task_ids}


def test_what_0_1_0_has_done_is_kept_and_written_with_the_columns_of_today(world: World) -> None:
    before = {(name, day): rows(world, name, day) for name in DATASETS for day in (FIRST_DAY, SECOND_DAY)}
    result = world.run(FIRST_DAY, SECOND_DAY, objects_checked=-1)
    assert result.success
    assert (world.provider.total, world.cdn.total) == (0, 0)
    for (name, day), rows_before in before.items():
        assert rows(world, name, day) == [
            row | (dict.fromkeys(FACTS) if name == "luma_videos" else {}) for row in rows_before
        ]
        schema = DATASETS[name]
        assert schema is None or pq.read_schema(file(world, name, day)).equals(schema)
    passed = {name: evaluation.passed for name, evaluation in evaluations(world, result.run_id).items()}
    # A field of 2024-12-24 is not as on the page, and one of its tasks has no thumbnail.
    assert {name for name, is_passed in passed.items() if not is_passed} == {"schema_drift", "videos_in_bucket"}

    written = {path: path.stat().st_mtime_ns for path in (world.directory / "data").rglob("*") if path.is_file()}
    assert world.run(FIRST_DAY, SECOND_DAY).success
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_answers_that_0_1_0_has_kept_of_a_run_that_was_broken_off_are_taken_up(world: World) -> None:
    (checkpoint,) = (world.directory / "data" / "_checkpoints").rglob("*.parquet")
    answered = pq.ParquetFile(checkpoint).read(["task_id", "state"]).to_pylist()
    assert world.run(BROKEN_OFF_DAY).success
    tasks = {row["task_id"] for row in rows(world, "luma_tasks", BROKEN_OFF_DAY)}
    assert len(answered) == 6
    assert asked(world) == tasks - {row["task_id"] for row in answered}
    assert [row["task_id"] for row in rows(world, "luma_generations", BROKEN_OFF_DAY)] == [
        row["task_id"] for row in rows(world, "luma_tasks", BROKEN_OFF_DAY)
    ]
    assert not checkpoint.exists()
    # Their videos were copied before it was broken off.
    videos = {(row["task_id"], row["artifact"]): row["status"] for row in rows(world, "luma_videos", BROKEN_OFF_DAY)}
    completed = [row["task_id"] for row in answered if row["state"] == "completed"]
    assert {videos[task_id, artifact] for task_id in completed for artifact in ("video", "thumbnail")} == {
        "already_present"
    }


def test_new_answers_are_merged_with_the_rows_of_0_1_0(world: World) -> None:
    (missing,) = (row for row in rows(world, "luma_generations", FIRST_DAY) if row["outcome"] == "not_found")
    world.provider.add(Generation(missing["task_id"]).published(world.cdn))
    assert world.run(FIRST_DAY, config={"retry_failed": True}).success
    assert missing["task_id"] in asked(world)
    final = {row["task_id"] for row in rows(world, "luma_generations", FIRST_DAY) if row["state"]} - {
        missing["task_id"]
    }
    assert not asked(world) & final - {"7576ff81-10a2-460a-9f15-f93bfb9a33c9"}
    new = {row["task_id"]: row for row in rows(world, "luma_videos", FIRST_DAY) if row["artifact"] == "video"}
    assert new[missing["task_id"]]["codec"] == "h264"
    assert {row["codec"] for task_id, row in new.items() if task_id != missing["task_id"]} == {None}


def test_a_lost_manifest_of_0_1_0_is_made_again_from_the_objects(world: World) -> None:
    before = rows(world, "luma_videos", SECOND_DAY)
    shutil.rmtree(world.directory / "data" / "luma_videos")
    assert world.run(SECOND_DAY).success
    same = ("task_id", "artifact", "key", "size_bytes", "sha256", "content_type", "etag")
    made_again = rows(world, "luma_videos", SECOND_DAY)
    assert [{name: row[name] for name in same} for row in made_again] == [
        {name: row[name] for name in same} for row in before
    ]
    assert world.cdn.total == 0


def test_checks_judge_a_dataset_of_0_1_0_that_no_run_of_today_has_touched(world: World) -> None:
    job = world.component().definitions().resolve_implicit_global_asset_job_def()
    keys = set(job.asset_layer.asset_graph.asset_check_keys)
    alone = job.get_subset(asset_selection=set(), asset_check_selection=keys)
    found = evaluations(world, alone.execute_in_process(instance=world.instance).run_id)
    assert found["one_row_per_task"].passed
    assert found["videos_in_bucket"].metadata
    assert not found["schema_drift"].passed


def test_columns_are_made_again_of_the_answers_that_0_1_0_has_kept(world: World) -> None:
    before = [rows(world, "luma_generations", day) for day in (FIRST_DAY, SECOND_DAY)]
    manifests = [file(world, "luma_videos", day).read_bytes() for day in (FIRST_DAY, SECOND_DAY)]
    result = world.run(FIRST_DAY, SECOND_DAY, config={"reflatten": True})
    assert result.success
    assert (world.provider.total, world.cdn.total) == (0, 0)
    assert [rows(world, "luma_generations", day) for day in (FIRST_DAY, SECOND_DAY)] == before
    assert [file(world, "luma_videos", day).read_bytes() for day in (FIRST_DAY, SECOND_DAY)] == manifests
    assert metadata(world, result.run_id, "luma_generations", SECOND_DAY)["columns_made_again"] == 10
    assert metadata(world, result.run_id, "luma_videos", SECOND_DAY)["dagster/partition_row_count"] == 16
    assert not evaluations(world, result.run_id)["schema_drift"].passed


def test_files_of_both_versions_are_read_together(world: World) -> None:
    assert world.run(FIRST_DAY).success
    data, database = world.directory / "data", duckdb.connect()
    for name, schema in DATASETS.items():
        both = database.execute(f"SELECT * FROM read_parquet('{data}/{name}/**/*.parquet', union_by_name = true)")
        assert schema is None or {*schema.names, "date"} == {column[0] for column in both.description}
        days = [day for day in DAYS if file(world, name, day).exists()]
        assert len(both.fetchall()) == sum(len(rows(world, name, day)) for day in days)
    # As the docs say: without union_by_name DuckDB takes the columns of the first file, and reads what all files have.
    videos = f"read_parquet('{data}/luma_videos/**/*.parquet')"
    assert database.execute(f"SELECT count(key) FROM {videos}").fetchall() == [(33,)]
    with pytest.raises(duckdb.InvalidInputException, match="schema mismatch in glob"):
        database.execute(f"SELECT count(codec) FROM {videos}").fetchall()
    assert len(ds.dataset(data / "luma_videos", schema=VIDEOS_SCHEMA).to_table()) == 34


def test_an_asset_downstream_gets_files_of_both_versions(world: World) -> None:
    assert world.run(SECOND_DAY).success
    definitions = world.component().definitions()
    table: pa.Table = None

    @dg.asset(partitions_def=definitions.resolve_asset_graph().get(dg.AssetKey("luma_videos")).partitions_def)
    def downstream(luma_videos: pa.Table) -> None:
        nonlocal table
        table = luma_videos

    job = dg.Definitions.merge(definitions, dg.Definitions([downstream])).resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": FIRST_DAY, "dagster/asset_partition_range_end": SECOND_DAY}
    result = job.execute_in_process(
        instance=world.instance, tags=tags, asset_selection=[dg.AssetKey("downstream")], raise_on_error=False
    )
    assert result.success
    assert table.schema.names == VIDEOS_SCHEMA.names
    assert len(table) == 34
