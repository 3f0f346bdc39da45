"""What luma_videos shows of a partition in the UI: the first artifacts, with links and pictures."""

from __future__ import annotations

import os
import re

import pytest

from luma_pipeline.engine.videos import VideosReport
from luma_pipeline.orchestration.links import ObjectLinks
from luma_pipeline.orchestration.metadata import videos_metadata
from tests.world import World, metadata

DAY = "2024-12-24"


def test_the_preview_of_luma_videos_has_links_and_pictures(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"), ("b", f"{DAY} 11:00:00"))
    world.cdn.revoke(world.cdn.publish("b").video)
    preview = metadata(world, world.run(DAY).run_id, "luma_videos", DAY)["preview"]
    first, second = [line for line in preview.splitlines() if line.startswith(("| a |", "| b |"))]
    assert f"[video.mp4]({os.environ['AWS_ENDPOINT_URL_S3']}/{world.bucket}/a/video.mp4)" in first
    # The sandbox's own CDN speaks plain HTTP.
    assert f"![]({world.cdn.publish('a').thumbnail})" in first
    assert "| copied |" in first
    assert "video.mp4" not in second
    assert "| expired |" in second


def report(*rows: dict[str, object]) -> VideosReport:
    return VideosReport(preview=[{"artifact": "video", "status": "copied", "size_bytes": 1, **row} for row in rows])


@pytest.mark.parametrize(
    "thumbnail",
    [
        "http://cdn.example.com/a.jpg",
        "https://cdn.example.com/a.jpg?X-Amz-Signature=secret",
        "javascript:alert(1)",
        "data:text/html,<script>",
        "https://cdn.example.com/" + "x" * 5000,
        None,
    ],
)
def test_a_picture_that_is_signed_foreign_or_endless_is_not_shown(thumbnail: str | None) -> None:
    tasks = [{"task_id": "a", "request_prompt": "x", "thumbnail_url": thumbnail}]
    found = videos_metadata(report({"task_id": "a", "key": "k"}), tasks=tasks)["preview"].value
    assert "![" not in found
    assert "secret" not in found


def test_hostile_text_stays_text_and_the_preview_is_bounded() -> None:
    bad = '|"<img src=x onerror=alert(1)>](javascript:alert(1)) ' * 100
    rows: list[dict[str, object]] = [{"task_id": f"{n}{bad}", "key": f"a/{bad}"} for n in range(10)]
    tasks = [
        {"task_id": row["task_id"], "request_prompt": bad, "thumbnail_url": f"https://x/{'ü' * 60}"} for row in rows
    ]
    found = videos_metadata(report(*rows), tasks=tasks, link_of=ObjectLinks("b", "http://s3").of)["preview"].value
    assert "<" not in found
    assert not re.search(r"(?<!\\)\]\((?!http)", found)
    assert len(found.encode()) <= 24 * 1024


def test_links_to_objects_are_those_of_the_store() -> None:
    assert ObjectLinks("b", None, "cn-north-1").of("k") is None
    assert ObjectLinks("b", None, "eu-west-1").of("a#?.mp4") == (
        "https://s3.console.aws.amazon.com/s3/object/b?prefix=a%23%3F.mp4"
    )
