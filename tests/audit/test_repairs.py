"""What an audit mends where it is told to, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from luma_pipeline.audit import AuditOptions
from luma_pipeline.luma import ProviderConfig
from tests.audit.scene import DAY, Scene, copied, found
from tests.world import World

REPAIR = AuditOptions(repair=True)
TASKS = ["gone", "cut", "overwritten", "rotten", "relabelled", "retyped", "retagged", "undigested", "rewritten", "well"]
OTHER_DAY = "2024-12-22"


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    with copied(world, *TASKS, days={"cut": OTHER_DAY}) as scene:
        yield scene


def damage(scene: Scene) -> None:
    scene.delete("gone")
    scene.put("cut", scene.body("cut")[:-7])
    scene.put("overwritten", b"not even a video")
    scene.put("rotten", scene.body("rotten")[::-1], Metadata=scene.metadata("rotten"))
    scene.put("relabelled", scene.body("relabelled"), Metadata={"luma-task-id": "x", "luma-artifact": "video"})
    scene.put("retyped", scene.body("retyped"), Metadata=scene.metadata("retyped"), ContentType="text/plain")
    scene.edit_rows(
        {
            "retagged": {"etag": "0" * 32},
            "undigested": {"sha256": None},
            "rewritten": {"copied_at": scene.row("rewritten")["copied_at"] - timedelta(hours=1)},
        }
    )


def test_what_the_provider_still_has_is_copied_again_and_the_manifest_says_so(scene: Scene) -> None:
    before = {task: (scene.body(task), scene.row(task)["sha256"]) for task in TASKS}
    damage(scene)
    scene.world.provider.clear_log()
    summary = scene.audit(REPAIR)
    rows = {row["task_id"]: row for row in scene.report(summary)}
    assert set(rows) == set(TASKS) - {"well"}
    assert all(row["repaired"] for row in rows.values())
    renewed = {task for task, row in rows.items() if row["repair"] == "row_renewed"}
    assert renewed == {"retagged", "undigested", "rewritten"}
    assert summary.is_well
    assert {task: (scene.body(task), scene.row(task)["sha256"]) for task in TASKS} == before
    assert scene.row("gone")["status"] == "copied"
    # One fresh link for each that was copied, and none for what only needed its row.
    asked = {request.task_ids[0] for request in scene.world.provider.requests if request.task_ids}
    assert asked == set(TASKS) - {"well"} - renewed
    assert found(scene.report(scene.audit())) == {}


def test_what_the_provider_has_no_more_is_lost_and_what_is_left_of_it_stays(scene: Scene) -> None:
    scene.delete("gone")
    scene.put("overwritten", b"not even a video")
    scene.put("retyped", scene.body("retyped"), Metadata=scene.metadata("retyped"), ContentType="text/plain")
    for task in ("gone", "overwritten", "retyped"):
        scene.world.cdn.revoke(scene.world.cdn.publish(task).video)
    rows = scene.world.rows("luma_videos")
    summary = scene.audit(REPAIR)
    repairs = {row["task_id"]: (row["kind"], row["repaired"], row["repair"]) for row in scene.report(summary)}
    assert repairs == {
        "gone": ("missing", False, "lost"),
        "overwritten": ("wrong_size" if len(b"not even a video") > 10**6 else "truncated", False, "lost"),
        "retyped": ("wrong_content_type", False, "failed"),
    }
    assert not summary.is_well
    assert scene.body("overwritten") == b"not even a video"
    assert scene.world.rows("luma_videos") == rows


def test_a_provider_that_refuses_ends_the_repairs_and_all_is_still_told(scene: Scene) -> None:
    damage(scene)
    provider = ProviderConfig(token="wrong", base_url=scene.world.provider.base_url)
    summary = scene.audit(REPAIR, provider=provider)
    assert any("repairs were broken off" in problem for problem in summary.problems)
    assert {row["task_id"] for row in scene.report(summary)} == set(TASKS) - {"well"}
    assert not any(row["repaired"] for row in scene.report(summary) if row["kind"] in {"missing", "truncated"})


def test_nothing_is_written_that_is_not_asked_for(scene: Scene) -> None:
    damage(scene)
    objects, rows = scene.listed(), scene.world.rows("luma_videos")
    scene.world.provider.clear_log()
    scene.audit()
    assert (scene.listed(), scene.world.rows("luma_videos")) == (objects, rows)
    assert scene.world.provider.total == 0


# -- orphans ----------------------------------------------------------------------------------------------------------

DELETE = AuditOptions(delete_orphans=True)


def test_an_orphan_is_deleted_only_when_asked_for_and_only_if_it_is_ours(scene: Scene) -> None:
    metadata = scene.metadata("well")
    scene.put("orphan", b"x", Metadata=metadata)
    scene.put("by-hand", b"x")
    scene.put("_hidden", b"x", Metadata=metadata)
    assert found(scene.report(scene.audit(REPAIR))) == {"orphaned": ["by-hand", "orphan"]}
    # Of a run at work, perhaps.
    assert scene.audit(DELETE, young_seconds=3600).counts == {}
    repairs = {row["key"]: row["repair"] for row in scene.report(scene.audit(DELETE))}
    assert repairs == {"orphan/video.mp4": "deleted", "by-hand/video.mp4": "failed"}
    kept = {f"{task}/video.mp4" for task in (*TASKS, "by-hand", "_hidden")}
    assert scene.keys() == kept


def test_nothing_is_deleted_where_manifests_are_gone_or_are_those_of_another_bucket(scene: Scene) -> None:
    keys = scene.keys()
    for day in (OTHER_DAY, DAY):
        file = scene.manifest_path(day)
        content = file.read_bytes()
        for damaged in (None, b"garbage"):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert scene.audit(DELETE).problems
            assert scene.keys() == keys
        file.write_bytes(content)
    summary = scene.audit(DELETE, data_url=f"{scene.root}-of-another")
    assert any("LUMA_DATA_URL" in problem for problem in summary.problems)
    assert scene.keys() == keys


def test_manifests_on_s3_are_read_repaired_and_reported_beside_them(scene: Scene) -> None:
    scene.client.create_bucket(Bucket="lake")
    root = Path(scene.root)
    for file in root.rglob("*.parquet"):
        scene.client.upload_file(str(file), "lake", f"luma/{file.relative_to(root)}")
    scene.delete("gone")
    for expected in ({"missing": 1}, {}):
        summary = scene.audit(REPAIR, data_url="s3://lake/luma")
        assert (summary.counts, summary.repaired, summary.problems) == (expected, expected, ())
        keys = {item["Key"] for item in scene.client.list_objects_v2(Bucket="lake", Prefix="luma/")["Contents"]}
        assert {summary.path.removeprefix("lake/"), "luma/_audit/last.json", "luma/_audit/hand.json"} <= keys
