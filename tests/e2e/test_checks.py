"""Alarms in a real Dagster: they stay on while other days run, and "Execute" on a check looks at the store itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Generation
from tests.e2e.browser import Browser
from tests.e2e.conftest import ASSETS, Plant
from tests.e2e.graphql import CheckExecution

pytestmark = pytest.mark.timeout(420)

SCREENSHOTS = Path(__file__).parents[2] / "test-artifacts"


def run(plant: Plant, day: str, **options: bool) -> None:
    config = {"ops": {"luma_pipeline": {"config": options}}} if options else None
    done = plant.dagster.wait_for_run(plant.client.launch_run(ASSETS, partition=day, run_config=config))
    assert done.status == "SUCCESS"


def latest(plant: Plant, asset: str, check: str) -> CheckExecution:
    return plant.client.check_executions(asset, check, limit=1)[0]


def named(check: CheckExecution) -> list[str]:
    return [record["partition"] for record in check.metadata.get("wrong", [])]


def test_a_failure_of_an_old_day_stays_until_that_day_is_mended(plant: Plant) -> None:
    old, new = plant.days(2)
    plant.submit([old], 10, phases=(Phase(0, "failed"),))
    plant.submit([new], 10)
    run(plant, old)
    for _ in range(2):
        run(plant, new)
        check = latest(plant, "luma_generations", "failed_share")
        assert (check.status, check.partition, named(check)) == ("FAILED", None, [old])
    lines = "\n".join(plant.client.log_lines(check.run_id))
    assert "did not yield" not in lines
    assert "__source_asset_observation__" not in lines
    see(plant, "luma_generations", "failed_share", old, partitions=2)

    for number in range(10):
        plant.world.provider.add(Generation(f"{old}-{number}").published(plant.world.cdn))
    run(plant, old, refresh=True)
    assert latest(plant, "luma_generations", "failed_share").status == "SUCCEEDED"
    run(plant, new)
    assert latest(plant, "luma_generations", "failed_share").status == "SUCCEEDED"
    assert latest(plant, "luma_videos", "videos_match_answers").status == "SUCCEEDED"


def test_executing_a_check_alone_finds_an_object_that_was_deleted_by_hand(plant: Plant) -> None:
    old, new = plant.days(2)
    plant.submit([old, new], 3)
    run(plant, old)
    run(plant, new)
    plant.world.store.client().delete_object(Bucket="videos", Key=f"{old}-1/video.mp4")
    plant.asked()
    executed = plant.dagster.wait_for_run(plant.client.execute_check("luma_videos", "videos_in_bucket"))
    assert executed.status == "SUCCESS"
    check = latest(plant, "luma_videos", "videos_in_bucket")
    assert (check.run_id, check.status, named(check)) == (executed.run_id, "FAILED", [old])
    assert check.metadata["gone"][0]["what"] == f"{old}-1/video.mp4"
    assert plant.asked() == []
    assert plant.client.latest_materializations("luma_videos", [old])[old].run_id != executed.run_id

    for _ in range(2):
        run(plant, new)
        check = latest(plant, "luma_videos", "videos_in_bucket")
        assert (check.status, check.severity, named(check)) == ("FAILED", "ERROR", [old])
    see(plant, "luma_videos", "videos_in_bucket", old, partitions=4)

    run(plant, old)
    assert latest(plant, "luma_videos", "videos_in_bucket").status == "SUCCEEDED"
    assert f"{old}-1/video.mp4" in plant.world.object_keys()


def see(plant: Plant, asset: str, check: str, wrong_day: str, *, partitions: int) -> None:
    """A person finds the day on the check's page."""
    with Browser(SCREENSHOTS) as browser:
        shown = browser.open(
            f"{plant.dagster.url}/assets/{asset}?view=checks&checkDetail={check}", expect="wrong_partitions"
        )
        assert f"Wrong now in 1 of {partitions} partitions: {wrong_day}." in shown
        browser.screenshot(f"check-{check}")
