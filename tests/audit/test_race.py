"""A run at work beside an audit gives no false alarm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from luma_pipeline.dataset import AuditSummary, Dataset, digest_of
from luma_pipeline.engine.settings import RunOptions
from tests.audit.scene import DAY, Scene, copied, found
from tests.world import World

TASKS = ["a", "b", "c"]


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    with copied(world, *TASKS) as scene:
        yield scene


def audit_with(scene: Scene, after_listing: Callable[[], object], **settings: Any) -> AuditSummary:
    """An audit during which something happens when the bucket has been listed."""

    def tell(words: str) -> None:
        if "are listed" in words:
            after_listing()

    return scene.audit(tell=tell, **settings)


def test_an_object_that_is_copied_again_meanwhile_is_not_missing(scene: Scene) -> None:
    body, metadata = scene.body("a"), scene.metadata("a")
    scene.delete("a")
    assert found(scene.report(scene.audit())) == {"missing": ["a"]}
    summary = audit_with(scene, lambda: scene.put("a", body, Metadata=metadata))
    assert scene.report(summary) == []


def test_a_task_that_is_taken_out_meanwhile_is_not_missing(scene: Scene) -> None:
    scene.delete("a")
    summary = audit_with(scene, lambda: scene.edit(lambda rows: [row for row in rows if row["task_id"] != "a"]))
    assert scene.report(summary) == []


def test_a_row_that_is_written_meanwhile_makes_its_object_no_orphan(scene: Scene) -> None:
    new = {**scene.row("a"), "task_id": "new", "key": "new/video.mp4"}
    scene.put("new", scene.body("a"), Metadata=scene.metadata("a"))
    assert found(scene.report(scene.audit())) == {"orphaned": ["new"]}
    summary = audit_with(scene, lambda: scene.edit(lambda rows: [*rows, new]))
    assert scene.report(summary) == []


def test_a_new_partition_that_is_written_meanwhile_makes_its_object_no_orphan(scene: Scene) -> None:
    new = {**scene.row("a"), "task_id": "new", "key": "new/video.mp4"}
    scene.put("new", scene.body("a"), Metadata=scene.metadata("a"))
    summary = audit_with(scene, lambda: scene.edit(lambda rows: [*rows, new], "2024-12-23"))
    assert scene.report(summary) == []


def test_a_repeated_row_that_goes_meanwhile_is_not_told(scene: Scene) -> None:
    row = scene.row("a")
    scene.edit(lambda rows: [row], "2024-12-23")
    assert found(scene.report(scene.audit())) == {"repeated_key": ["a", "a"]}
    summary = audit_with(scene, lambda: scene.edit(lambda rows: [], "2024-12-23"))
    assert scene.report(summary) == []


def replaced_by_a_run(scene: Scene, task: str) -> None:
    """What a run with `overwrite` leaves before it writes the manifest."""
    body = scene.body("b")
    metadata = {**scene.metadata(task), "luma-sha256": hashlib.sha256(body).hexdigest(), "luma-copy-id": "another"}
    scene.put(task, body, Metadata=metadata)


def test_a_whole_copy_of_a_run_that_has_not_written_its_manifest_yet_is_no_change(scene: Scene) -> None:
    replaced_by_a_run(scene, "a")
    summary = scene.audit(young_seconds=3600)
    assert (scene.report(summary), summary.others["perhaps_of_a_run_at_work"]) == ([], 1)
    # After that time it is told: the manifest never came.
    assert len(scene.report(scene.audit(young_seconds=0))) == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_damage_of_today_is_no_work_of_a_run(scene: Scene, labelled: bool) -> None:
    scene.put("a", scene.body("a")[:-1], Metadata=scene.metadata("a") if labelled else {})
    scene.put("b", scene.body("b")[::-1], Metadata=scene.metadata("b") if labelled else {})
    summary = scene.audit(young_seconds=24 * 3600)
    assert found(scene.report(summary)) == {"truncated": ["a"], "changed": ["b"]}


def test_a_run_over_the_same_partition_at_the_same_time_leaves_nothing_to_tell(scene: Scene) -> None:
    scene.world.submit(("d", f"{DAY}T05:00:00Z"))
    summary = audit_with(scene, lambda: scene.run(RunOptions(overwrite=True)), young_seconds=3600)
    assert scene.report(summary) == []
    assert found(scene.report(scene.audit())) == {}


def test_a_task_that_is_forgotten_meanwhile_is_not_missing_and_what_is_left_of_it_later_is_told(scene: Scene) -> None:
    tombstones = Dataset(url=scene.root).tombstones()

    def forget() -> None:
        tombstones.add([digest_of("a"), digest_of("b")])

    scene.delete("a")
    assert scene.report(audit_with(scene, forget)) == []
    # The row of the first, and the object without a row of the second, as a backup may bring them back.
    scene.edit(lambda rows: [row for row in rows if row["task_id"] != "b"])
    rows = scene.report(scene.audit())
    assert {(row["kind"], row["key"], row["task_id"]) for row in rows} == {
        ("forgotten", "a/video.mp4", None),
        ("forgotten", "b/video.mp4", None),
    }
