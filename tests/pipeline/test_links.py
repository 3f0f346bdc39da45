"""Links that the provider is asked for while videos are copied: what it cannot say now is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.sandbox.provider import Answer, Endpoint
from tests.world import World, evaluations

DAY = "2024-12-24"
NO_TRIES_AGAIN = Answer.of_json({"error": {"code": "panic", "message": "not now"}}, 500)


def manifest(world: World) -> dict[str, tuple[str, str | None]]:
    return {row["task_id"]: (row["status"], row["error_code"]) for row in world.rows("luma_videos")}


def test_a_link_without_watermark_that_cannot_be_asked_for_now_is_waited_for(world: World) -> None:
    """The link with the watermark is there, but what was copied over it would stay for good."""
    world.submit(("a", f"{DAY}T01:00:00Z"), ("b", f"{DAY}T02:00:00Z"))
    world.provider.script("a", [NO_TRIES_AGAIN] * 5 + [None], endpoint=Endpoint.DOWNLOAD_URL)
    assert world.run(DAY, link_preference=["unwatermarked", "url"]).success
    assert manifest(world) == {"a": ("failed", "link_unavailable"), "b": ("copied", None)}
    assert world.run(DAY, link_preference=["unwatermarked", "url"], give_up_after_hours=0).success
    assert manifest(world) == dict.fromkeys("ab", ("copied", None))


ENDS = [(["download_url", "url"], ("expired", "link_expired")), (["unwatermarked"], ("failed", "no_link"))]


@pytest.mark.parametrize(("preference", "end"), ENDS)
def test_a_dead_link_that_cannot_be_renewed_now_is_not_called_expired(
    world: World, preference: list[str], end: tuple[str, str]
) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.cdn.revoke(world.cdn.publish("a").video)
    gone = Answer.of_json({"error": {"code": "none", "message": "no such link"}}, 404)
    world.provider.script("a", [gone], endpoint=Endpoint.DOWNLOAD_URL)
    world.provider.script("a", [None] + [NO_TRIES_AGAIN] * 5 + [None])
    assert world.run(DAY, link_preference=preference).success
    assert manifest(world) == {"a": ("failed", "link_unavailable")}
    assert world.run(DAY, link_preference=preference).success
    assert manifest(world) == {"a": end}


# A link of another task.

OF_B: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "its ID": lambda video, _: {"id": "b", **video},
    "its task ID": lambda video, _: {"task_id": "b", **video},
    "its record": lambda video, _: {"code": "success", "data": {"task_id": "b", "status": "SUCCESS", "data": video}},
    "our record": lambda video, record: {"code": "success", "data": {**record, "data": {"id": "b", **video}}},
    "our record, as text": lambda video, record: {"data": {**record, "data": json.dumps({"id": "b", **video})}},
}


@pytest.mark.parametrize("name", OF_B)
def test_the_video_of_another_task_never_lies_under_a_key_and_the_check_names_the_task(world: World, name: str) -> None:
    world.submit(*((task_id, f"{DAY}T01:00:00Z") for task_id in "abc"))
    video = {"state": "completed", "video": {"url": world.cdn.publish("b").video}}
    of_b = OF_B[name](video, {"id": 4711, "task_id": "a", "status": "SUCCESS"})
    world.provider.script("a", [Answer.of_json(of_b), None])
    result = world.run(DAY)
    assert result.success
    assert named_by_the_check(world, result.run_id) == ["a"]
    assert manifest(world) == {"b": ("copied", None), "c": ("copied", None)}
    assert not any(key.startswith("a/") for key in world.object_keys())
    again = world.run(DAY)
    assert named_by_the_check(world, again.run_id) == []
    assert is_its_own(world, "a")


def test_a_batch_that_mixes_two_tasks_up_copies_neither(world: World) -> None:
    world.submit(*((task_id, f"{DAY}T01:00:00Z") for task_id in "abc"))
    bodies = {
        name: {"state": "completed", "id": name, "video": {"url": world.cdn.publish(name).video}} for name in "abc"
    }
    entries = [{"task_id": of, "status": "SUCCESS", "data": bodies[name]} for of, name in ("ab", "ba", "cc")]
    world.provider.script("", [Answer.of_json({"code": "success", "data": entries}), None], endpoint=Endpoint.BATCH)
    result = world.run(DAY, batch_size=3)
    assert named_by_the_check(world, result.run_id) == ["a", "b"]
    assert manifest(world) == {"c": ("copied", None)}
    assert world.run(DAY, batch_size=3).success
    assert is_its_own(world, "a")
    assert is_its_own(world, "b")


@pytest.mark.parametrize("endpoint", [Endpoint.SINGLE, Endpoint.DOWNLOAD_URL])
def test_a_link_that_is_asked_for_while_copying_is_taken_for_its_task_alone(world: World, endpoint: Endpoint) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    link = world.cdn.publish("b").video
    preference = ["unwatermarked"] if endpoint is Endpoint.DOWNLOAD_URL else ["url"]
    if endpoint is Endpoint.DOWNLOAD_URL:
        world.provider.script("a", [Answer.of_json({"task_id": "b", "url": link}), None], endpoint=endpoint)
    else:
        dead = world.cdn.add("/dead.mp4", b"", "video/mp4")
        world.cdn.revoke(dead)
        bodies = [
            {"id": task_id, "state": "completed", "video": {"url": url}} for task_id, url in (("a", dead), ("b", link))
        ]
        world.provider.script("a", [*map(Answer.of_json, bodies), None])
    result = world.run(DAY, link_preference=preference)
    assert result.success
    assert manifest(world) == {"a": ("failed", "link_unavailable")}
    assert "'b'" in world.rows("luma_videos")[0]["error_message"]
    check = evaluations(world, result.run_id)["videos_in_bucket"]
    assert not check.passed
    assert world.object_keys() == set()
    assert world.run(DAY, link_preference=preference).success
    assert is_its_own(world, "a")


def named_by_the_check(world: World, run_id: str) -> list[str]:
    """The examples of the check of answers; it passes only without any."""
    check = evaluations(world, run_id)["answers_match_tasks"]
    table = check.metadata.get("examples")
    examples = (
        [str(record.data["task_id"]) for record in table.records] if isinstance(table, dg.TableMetadataValue) else []
    )
    assert check.passed is (examples == [])
    return examples


def is_its_own(world: World, task_id: str) -> bool:
    """Whether the object of a task is the task's own video."""
    (row,) = (row for row in world.rows("luma_videos") if row["task_id"] == task_id)
    return world.objects()[row["key"]] == world.cdn.content(world.cdn.publish(task_id).video)
