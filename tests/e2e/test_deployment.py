"""The definitions in a real Dagster: webserver, daemon and run processes, driven through GraphQL as the UI does."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Generation
from tests.e2e.browser import Browser
from tests.e2e.conftest import ASSETS, Plant

pytestmark = pytest.mark.timeout(420)

SCREENSHOTS = Path(__file__).parents[2] / "test-artifacts"


def failed_reason(plant: Plant, run_id: str) -> str:
    return "\n".join(
        event.error for event in plant.client.run_events(run_id) if event.kind == "ExecutionStepFailureEvent"
    )


def test_a_backfill_of_60_partitions_shares_runs_and_reports_each_partition(plant: Plant) -> None:
    days = plant.days(60)
    plant.submit(days, 2)
    backfill = plant.dagster.wait_for_backfill(plant.client.launch_backfill(ASSETS, days), timeout=240)

    assert (backfill.status, backfill.error) == ("COMPLETED_SUCCESS", None)
    assert len(backfill.runs) == 2  # of up to 50 partitions each
    for asset in ASSETS:
        progress = backfill.assets[asset]
        assert (progress.targeted, progress.materialized, progress.failed) == (60, 60, 0)
        events = [event for event in plant.client.materializations(asset) if event.partition in days]
        assert sorted(str(event.partition) for event in events) == days  # one event for each, and no second
    assert len(plant.asked()) == 120

    generations = plant.client.latest_materializations("luma_generations", days)
    videos = plant.client.latest_materializations("luma_videos", days)
    tasks = plant.client.latest_materializations("luma_tasks", days)
    for day in days:
        numbers = dict(generations[day].metadata)
        assert numbers | {"asked": 2, "completed": 2, "dagster/partition_row_count": 2} == numbers
        assert numbers | {"failed": 0, "open": 0, "asked_again_later": 0} == numbers
        assert f"{day}-0" in numbers["preview"].replace("\\", "")
        assert numbers["latency_p95_seconds"] >= numbers["latency_p50_seconds"] > 0
        copies = dict(videos[day].metadata)
        assert copies | {"copied": 2, "already_present": 0, "dagster/partition_row_count": 2} == copies
        assert copies["bytes_downloaded"] == copies["bytes_in_bucket"] > 0
        assert tasks[day].metadata["dagster/partition_row_count"] == 2
    assert {f"{day}-{number}/video.mp4" for day in days for number in range(2)} <= plant.world.object_keys()

    # Dagster plans a check of the whole run once for each of its partitions, too, and leaves those unevaluated.
    checks = plant.client.check_executions("luma_videos", "videos_in_bucket")
    runs = {run.run_id for run in backfill.runs}
    assert {check.run_id: check.status for check in checks if check.partition is None} == dict.fromkeys(
        runs, "SUCCEEDED"
    )
    assert checks[0].partition is None  # the latest, which the UI shows
    assert sum(check.metadata["looked_up"] for check in checks if check.partition is None) == 70

    # A second backfill of some of them costs no request, and copies nothing.
    again = plant.dagster.wait_for_backfill(plant.client.launch_backfill(ASSETS, days[:20]))
    assert again.status == "COMPLETED_SUCCESS"
    assert plant.asked() == []
    kept = plant.client.latest_materializations("luma_videos", days[:20])
    assert {(event.metadata["copied"], event.metadata["already_present"]) for event in kept.values()} == {(0, 2)}


def test_a_partition_that_fails_fails_alone_and_is_all_that_is_done_again(plant: Plant) -> None:
    days = plant.days(5)
    plant.submit(days, 2)
    broken = plant.world.directory / "data" / "luma_generations" / f"date={days[2]}" / "part-0.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1 this is no Parquet file")
    backfill = plant.dagster.wait_for_backfill(plant.client.launch_backfill(ASSETS, days))

    assert backfill.status == "COMPLETED_FAILED"
    [run] = backfill.runs
    assert run.status == "FAILURE"
    for asset in ASSETS:
        statuses = plant.client.partition_statuses(asset)
        assert [statuses[day] for day in days] == ["MATERIALIZED"] * 2 + ["FAILED"] + ["MATERIALIZED"] * 2
        assert plant.client.latest_materializations(asset, days).keys() == set(days) - {days[2]}
    reason = failed_reason(plant, run.run_id)
    assert f"1 of 5 partitions failed, the others are done. {days[2]}: " in reason
    assert "Run the failed partitions again" in reason

    plant.asked()
    broken.unlink()
    second = plant.dagster.wait_for_run(plant.client.reexecute_from_failure(run.run_id))
    assert second.status == "SUCCESS"
    assert plant.asked() == [f"{days[2]}-0", f"{days[2]}-1"]
    for asset in ASSETS:
        statuses = plant.client.partition_statuses(asset)
        assert {statuses[day] for day in days} == {"MATERIALIZED"}
        runs = {day: event.run_id for day, event in plant.client.latest_materializations(asset, days).items()}
        assert {day for day in days if runs[day] == second.run_id} == {days[2]}


@pytest.mark.deployment
def test_a_run_killed_half_way_keeps_what_was_done_and_it_costs_nothing_again(plant: Plant) -> None:
    days = plant.days(30)
    plant.submit(days, 8)
    provider = plant.world.provider
    plant.asked()
    provider.latency_seconds = 0.5
    try:
        backfill_id = plant.client.launch_backfill(ASSETS, days)

        def done() -> list[str]:
            return sorted(plant.client.latest_materializations("luma_videos", days))

        plant.dagster.wait_until(done, lambda keys: len(keys) >= 8, timeout=120)
        [run] = plant.client.backfill(backfill_id).runs
        assert plant.dagster.kill_run(run.run_id)
        backfill = plant.dagster.wait_for_backfill(backfill_id)
    finally:
        provider.latency_seconds = 0.0
    finished = done()
    assert 8 <= len(finished) < 30
    assert backfill.status == "COMPLETED_FAILED"
    statuses = plant.client.partition_statuses("luma_videos")
    assert [day for day in days if statuses[day] == "MATERIALIZED"] == finished

    plant.asked()
    again = plant.dagster.wait_for_backfill(plant.client.launch_backfill(ASSETS, days))
    assert again.status == "COMPLETED_SUCCESS"
    asked = plant.asked()
    assert not [task_id for task_id in asked if task_id[:10] in finished]
    assert len(set(asked)) == len(asked)
    rows = [row for row in plant.world.rows("luma_generations") if row["task_id"][:10] in days]
    assert len(rows) == 240
    assert {row["state"] for row in rows} == {"completed"}
    keys = plant.world.object_keys()
    assert {f"{day}-{number}/video.mp4" for day in days for number in range(8)} <= keys


def test_the_daemon_ticks_the_schedule_and_the_sensor(plant: Plant) -> None:
    client = plant.client
    [closed] = plant.days(1)
    still_open = (Phase(0.0, "processing"),)
    plant.world.submit((f"{closed}-late", f"{closed} 12:00:00"), phases=still_open)
    backfill = plant.dagster.wait_for_backfill(client.launch_backfill(ASSETS, [closed]))
    assert backfill.status == "COMPLETED_SUCCESS"
    [mark] = [path for path in (plant.world.directory / "data" / "_open").iterdir() if path.name == quote(closed)]
    assert client.latest_materializations("luma_generations", [closed])[closed].metadata["asked_again_later"] == 1

    # Later: the task has ended, and the pause since the last look is over.
    plant.world.provider.add(Generation(f"{closed}-late", urls=plant.world.cdn.publish(f"{closed}-late")))
    seven_hours_ago = time.time() - 7 * 3600
    os.utime(mark, (seven_hours_ago, seven_hours_ago))
    _add_run_of_another_location(plant, closed)
    client.start_sensor(UNNAMED.sensor_name)
    client.start_schedule(UNNAMED.schedule_name)

    def requested(name: str) -> list[str]:
        return [run_id for tick in client.ticks(name) for run_id in tick.run_ids]

    [by_sensor] = plant.dagster.wait_until(lambda: requested(UNNAMED.sensor_name), bool, timeout=120)[-1:]
    [by_schedule] = plant.dagster.wait_until(lambda: requested(UNNAMED.schedule_name), bool, timeout=120)[-1:]
    revisit, regular = plant.dagster.wait_for_run(by_sensor), plant.dagster.wait_for_run(by_schedule)
    assert (revisit.status, revisit.tags["luma/trigger"]) == ("SUCCESS", "open_tasks")
    assert (regular.status, regular.tags["luma/trigger"]) == ("SUCCESS", "schedule")
    open_period = datetime.fromtimestamp(regular.started_at or 0.0, UTC).date()
    assert regular.tags["dagster/partition"] == open_period.isoformat()
    assert f"{closed}-late/video.mp4" in plant.world.object_keys()
    assert not mark.exists()


def _add_run_of_another_location(plant: Plant, first: str) -> None:
    """A run under way over all these days, of a job and assets that have the names of ours in another code location."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("another"), "__repository__")
    run = dg.DagsterRun(
        UNNAMED.job_name,
        run_id=str(uuid.uuid4()),
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": (datetime.now(UTC) + timedelta(days=1)).date().isoformat(),
        },
        asset_selection=frozenset(map(dg.AssetKey, ASSETS)),
        remote_job_origin=RemoteJobOrigin(repository, UNNAMED.job_name),
        status=dg.DagsterRunStatus.NOT_STARTED,
    )
    with dg.DagsterInstance.from_config(str(plant.dagster.home)) as instance:
        instance.add_run(run)


def test_the_lineage_begins_with_the_source_table_and_tells_where_the_data_are(plant: Plant) -> None:
    nodes = {
        "/".join(node["assetKey"]["path"]): node
        for node in plant.client.query(
            "{ assetNodes { assetKey { path } dependencyKeys { path } kinds isMaterializable isExecutable"
            " metadataEntries { label ... on TextMetadataEntry { text } ... on UrlMetadataEntry { url }"
            " ... on PathMetadataEntry { path } } } }"
        )["assetNodes"]
    }
    source = nodes["generations"]
    assert (source["isMaterializable"], set(source["kinds"])) == (False, {"sqlite", "table"})
    parents = {name: ["/".join(key["path"]) for key in node["dependencyKeys"]] for name, node in nodes.items()}
    assert parents == {
        "generations": [],
        "luma_tasks": ["generations"],
        "luma_generations": ["luma_tasks"],
        "luma_videos": ["luma_generations"],
    }
    shown = {
        entry["label"]: entry.get("text") or entry.get("url") or entry.get("path")
        for entry in nodes["luma_videos"]["metadataEntries"]
    }
    assert shown["dagster/uri"] == "s3://videos/"
    assert shown["objects"] == f"{plant.world.store.environment()['AWS_ENDPOINT_URL_S3']}/videos/"
    assert shown["manifest"] == str(plant.world.directory / "data" / "luma_videos")


def test_the_pages_that_a_person_sees(plant: Plant) -> None:
    days = plant.last_days(20)
    for place, day in enumerate(days):
        plant.submit([day], 4 + place % 5)
    plant.world.submit((f"{days[-1]}-lost", f"{days[-1]} 23:00:00"), known=False)
    backfill_id = plant.client.launch_backfill(ASSETS, days)
    backfill = plant.dagster.wait_for_backfill(backfill_id)
    assert backfill.status == "COMPLETED_SUCCESS"
    with Browser(SCREENSHOTS) as browser:
        asset = f"{plant.dagster.url}/assets/luma_generations"
        shown = browser.open_until(f"{asset}?view=overview", expect="Passing")  # the daemon evaluates it later
        assert "raw_response" in shown
        browser.screenshot("asset")
        assert "Freshness policy" in shown
        browser.click("Plots")
        browser.wait_for_plots()
        browser.scroll_to("Metadata")
        browser.screenshot("asset-plots")
        browser.open(f"{asset}?view=partitions&partition={days[-1]}", expect="not_found")
        browser.click("[Show Markdown]")
        browser.wait_for_text(f"task not found: {days[-1]}-lost")
        browser.screenshot("asset-partition")
        group = f"{plant.dagster.url}/locations/luma_pipeline/asset-groups/luma/lineage"
        shown = browser.open(group, expect="SQLite")
        assert all(name in shown for name in ("generations", *ASSETS))
        browser.screenshot("lineage")
        shown = browser.open(f"{plant.dagster.url}/runs/b/{backfill_id}", expect="100% completed")
        assert "Succeeded" in shown
        assert all(name in shown for name in ASSETS)
        browser.screenshot("backfill")
        run_id = backfill.runs[0].run_id
        assert any("20 of 20 partitions done" in event.message for event in plant.client.run_events(run_id))
        # The page draws only the rows in view: its own filter leaves those that are looked for.
        browser.open(f"{plant.dagster.url}/runs/{run_id}?logs=20%20of%2020", expect="20 of 20 partitions done")
        browser.screenshot("run")
        browser.open(
            f"{plant.dagster.url}/assets/luma_videos?view=checks&checkDetail=videos_in_bucket", expect="looked_up"
        )
        browser.screenshot("check")
