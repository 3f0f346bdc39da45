"""What a materialization shows: the few numbers that matter first, no zero of a rare fault, nothing twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.dataset import VideosVerdict, Written
from luma_pipeline.engine.generations import GenerationsReport
from luma_pipeline.engine.tasks import TasksReport
from luma_pipeline.engine.videos import VideosReport
from luma_pipeline.orchestration.metadata import generations_metadata, tasks_metadata, videos_metadata
from luma_pipeline.sandbox.provider import Generation
from tests.world import World, metadata

DAY = "2024-12-24"


def numbers(metadata: dict[str, Any]) -> list[str]:
    return [name for name, value in metadata.items() if isinstance(value, (int, float))]


def test_a_good_partition_shows_few_numbers_and_those_that_matter_first(world: World) -> None:
    world.submit(("a", f"{DAY} 01:00:00"), ("b", f"{DAY} 02:00:00"))
    result = world.run(DAY)
    shown = {
        asset: [
            event.materialization.metadata
            for event in result.all_events
            if event.is_step_materialization and event.asset_key == dg.AssetKey(asset)
        ]
        for asset in ("luma_tasks", "luma_generations", "luma_videos")
    }
    [tasks], [generations], [videos] = shown.values()
    assert list(tasks) == ["dagster/partition_row_count", "preview", "size_bytes", "path"]
    assert list(generations) == [
        *("dagster/partition_row_count", "completed", "failed", "open", "asked", "asked_again_later", "preview"),
        *("seconds", "latency_p50_seconds", "latency_p95_seconds", "size_bytes", "path"),
    ]
    assert list(videos) == [
        *("dagster/partition_row_count", "copied", "already_present", "bytes_in_bucket", "preview", "seconds"),
        *("bytes_downloaded", "megabytes_per_second", "copy_p50_seconds", "copy_p95_seconds", "size_bytes", "path"),
    ]


def test_what_went_wrong_is_shown_with_its_number() -> None:
    report = GenerationsReport(
        outcomes=Counter(resolved=3, not_found=2, request_failed=1),
        states=Counter(completed=1, processing=2),
        open_tasks=5,
        retries=4,
    )
    found = generations_metadata(report)
    assert {name: found[name] for name in ("open", "asked_again_later", "not_found", "in_error", "retries")} == {
        "open": 2,
        "asked_again_later": 5,
        "not_found": 2,
        "in_error": 1,
        "retries": 4,
    }
    assert numbers(found)[0] == "dagster/partition_row_count"
    assert found["dagster/partition_row_count"] == 6
    assert not {"throttled", "resumed", "schema_drift", "requests"} & found.keys()


def test_a_zero_of_what_was_something_before_is_shown(world: World) -> None:
    world.submit(("late", f"{DAY} 01:00:00"), known=False)
    world.submit(("a", f"{DAY} 02:00:00"))
    assert world.run(DAY).success
    world.provider.add(Generation("late", urls=world.cdn.publish("late")))
    shown = [metadata(world, world.run(DAY).run_id, "luma_generations", DAY) for _ in range(2)]
    assert shown[0]["not_found"] == 0
    assert "not_found" not in shown[1]
    assert "in_error" not in shown[0]


def test_a_zero_of_a_video_that_was_not_copied_before_is_shown() -> None:
    earlier = VideosVerdict(in_bucket=1, expired=2)
    found = videos_metadata(VideosReport(), earlier)
    assert found["expired"] == 0
    assert "failed" not in found


@pytest.mark.parametrize(
    ("report", "name", "number"),
    [
        (TasksReport(2, 3, 0, 1, 0, 0, 0, [], None), "source_rows", 3),
        (TasksReport(2, 3, 0, 1, 0, 0, 0, [], None), "repeated_task_ids", 1),
        (TasksReport(2, 2, 0, 0, 0, 0, 4, [], None), "unreadable_times", 4),
    ],
)
def test_rows_that_became_no_task_are_counted(report: TasksReport, name: str, number: int) -> None:
    assert tasks_metadata(report)[name] == number


def test_the_count_of_rows_is_the_partitions_and_never_the_tables() -> None:
    written = Written(7, 100, "data/date=2024-12-24/part-0.parquet", "digest")
    for found in (
        tasks_metadata(TasksReport(7, 7, 0, 0, 0, 0, 0, [], written)),
        generations_metadata(GenerationsReport(written=written)),
        videos_metadata(VideosReport(written=written)),
    ):
        assert found["dagster/partition_row_count"] == 7
        assert "dagster/row_count" not in found
        assert "dagster/column_lineage" not in found
