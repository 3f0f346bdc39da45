"""A forgotten task is gone from everywhere, and stays gone."""

from __future__ import annotations

from luma_pipeline.dataset import Dataset, digest_of
from tests.forget.forgetting import (
    DAY,
    NEXT_DAY,
    forget,
    ids,
    keep_versions,
    numbers,
    records,
    said,
    submit,
    traces,
    versions,
)
from tests.world import World, evaluations, failure, metadata

DATASETS = ("luma_tasks", "luma_generations", "luma_videos")


def test_a_forgotten_task_is_gone_and_stays_gone_through_a_refresh_and_a_backfill(world: World) -> None:
    world.settings |= {"gallery_enabled": True, "artifacts": ["video", "thumbnail"]}
    keep_versions(world)
    submit(world, "kept", "gone-4711", "other")
    submit(world, "next", day=NEXT_DAY)
    assert world.run(DAY, NEXT_DAY).success
    assert world.run(DAY, config={"overwrite": True}).success
    assert traces(world, "gone-4711")

    result = forget(world, "gone-4711", reason="ticket 12", requested_by="privacy desk")

    assert result.success, failure(result)
    assert traces(world, "gone-4711") == []
    assert {key for key, _ in versions(world) if "gone-4711" in key} == set()
    for name in DATASETS:
        assert ids(world, name) == {"kept", "other", "next"}
    asked = world.provider.total
    refreshed = world.run(DAY, NEXT_DAY, config={"refresh": True, "verify": True, "retry_failed": True})
    assert refreshed.success
    assert all("gone-4711" not in request.task_ids for request in world.provider.requests[asked:])
    assert metadata(world, refreshed.run_id, "luma_tasks", DAY)["forgotten"] == 1
    assert traces(world, "gone-4711") == []
    assert {name: found.passed for name, found in evaluations(world, refreshed.run_id).items()}
    assert all(found.passed for found in evaluations(world, refreshed.run_id).values())
    print(numbers(result), records(world))
    print(said(world, result))
