"""Links that the provider is asked for while videos are copied: what it cannot say now is asked again."""

from __future__ import annotations

import pytest

from luma_pipeline.sandbox.provider import Answer, Endpoint
from tests.world import World

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
    assert manifest(world) == {"a": ("copied", None), "b": ("already_present", None)}


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
