"""The CDN and its sample files: ranges, validators, links that die, and real media that is each task's own."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.cdn import CdnServer

TASKS = [f"task-{number}" for number in range(40)]


@pytest.fixture
def cdn() -> Iterator[CdnServer]:
    with CdnServer() as server:
        yield server


def boxes(mp4: bytes) -> list[tuple[str, int]]:
    """The top-level boxes of an MP4 file; fails when they do not fill it exactly."""
    found, position = [], 0
    while position < len(mp4):
        size, name = struct.unpack_from(">I4s", mp4, position)
        assert size >= 8
        found.append((name.decode(), size))
        position += size
    assert position == len(mp4)
    return found


def jpeg_segments(jpeg: bytes) -> list[int]:
    """The marker of each segment up to the start of the scan."""
    assert jpeg.startswith(b"\xff\xd8")
    assert jpeg.endswith(b"\xff\xd9")
    found: list[int] = []
    position = 2
    while not found or found[-1] != 0xDA:
        start, marker, length = struct.unpack_from(">BBH", jpeg, position)
        assert start == 0xFF
        found.append(marker)
        position += 2 + length
    return found


def test_videos_are_whole_h264_mp4_files_with_a_box_of_their_own() -> None:
    clips = set()
    for task_id in TASKS:
        video = samples.video(task_id)
        names = [name for name, _ in boxes(video)]
        assert (names[0], names[-1]) == ("ftyp", "free")
        assert {"moov", "mdat"} <= set(names)
        assert b"avc1" in video
        assert 15_000 < len(video) < 70_000
        clips.add(samples.clip_of(task_id).name)
    assert clips == {clip.name for clip in samples.CLIPS}


def test_pictures_are_whole_jpeg_files_of_the_clips_size() -> None:
    for task_id in TASKS:
        clip = samples.clip_of(task_id)
        for picture in (samples.thumbnail(task_id), samples.last_frame(task_id)):
            markers = jpeg_segments(picture)
            assert markers[0] == 0xFE
            frame = picture.index(b"\xff\xc0")
            assert struct.unpack_from(">HH", picture, frame + 5) == (clip.height, clip.width)


def test_no_two_tasks_share_a_file() -> None:
    for make in (samples.video, samples.thumbnail, samples.last_frame):
        assert len({hashlib.sha256(make(task_id)).digest() for task_id in TASKS}) == len(TASKS)
        assert make(TASKS[0]) == make(TASKS[0])


def test_published_files_have_length_type_and_a_strong_etag(cdn: CdnServer) -> None:
    urls = cdn.publish("one")
    assert urls == cdn.publish("one")
    for url, content_type, body in (
        (urls.video, "video/mp4", samples.video("one")),
        (urls.thumbnail, "image/jpeg", samples.thumbnail("one")),
        (urls.last_frame, "image/jpeg", samples.last_frame("one")),
    ):
        answer, head = requests.get(url, timeout=10), requests.head(url, timeout=10)
        assert answer.content == body == cdn.content(url)
        assert head.content == b""
        for headers in (answer.headers, head.headers):
            assert (headers["Content-Type"], int(headers["Content-Length"])) == (content_type, len(body))
            assert headers["ETag"].startswith('"')
        assert cdn.count(url) == 2
    assert requests.get(f"{cdn.base_url}/nothing", timeout=10).status_code == 404


@pytest.mark.parametrize(
    ("range_header", "if_range", "status", "expected"),
    [
        ("bytes=0-3", None, 206, b"0123"),
        ("bytes=6-", None, 206, b"6789"),
        ("bytes=-2", None, 206, b"89"),
        ("bytes=8-99", None, 206, b"89"),
        ("bytes=6-", "same", 206, b"6789"),
        ("bytes=6-", '"another"', 200, b"0123456789"),
        ("bytes=10-", None, 416, b""),
        ("bytes=a-b", None, 200, b"0123456789"),
    ],
)
def test_ranges(cdn: CdnServer, range_header: str, if_range: str | None, status: int, expected: bytes) -> None:
    url = cdn.add("/ten", b"0123456789", "text/plain")
    headers = {"Range": range_header}
    if if_range is not None:
        etag = requests.head(url, timeout=10).headers["ETag"]
        headers["If-Range"] = etag if if_range == "same" else if_range
    answer = requests.get(url, headers=headers, timeout=10)
    assert (answer.status_code, answer.content) == (status, expected)
    if status == 206:
        start = b"0123456789".index(expected)
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/10"


def test_a_signed_link_is_good_for_get_until_it_expires_and_not_when_altered(cdn: CdnServer) -> None:
    urls = cdn.publish("one")
    now = datetime.now(UTC)
    link = cdn.sign(urls.video, 60)
    assert requests.get(link, timeout=10).content == samples.video("one")
    refused = [
        requests.head(link, timeout=10),
        requests.get(link.split("?")[0], timeout=10),
        requests.get(link.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), timeout=10),
        requests.get(cdn.sign(urls.video, 60, signed_at=now - timedelta(seconds=61)), timeout=10),
    ]
    assert [answer.status_code for answer in refused] == [403] * 4
    assert "expired" in refused[-1].text


def test_a_revoked_link_is_dead_and_a_signed_one_is_the_way_round(cdn: CdnServer) -> None:
    urls = cdn.publish("one")
    cdn.revoke(urls.video, 404)
    assert requests.get(urls.video, timeout=10).status_code == 404
    assert requests.get(cdn.sign(urls.video, 60), timeout=10).status_code == 200


def test_a_credential_sent_to_the_cdn_is_noticed_and_no_query_is_kept(cdn: CdnServer) -> None:
    link = cdn.sign(cdn.publish("one").video, 60)
    requests.get(link, timeout=10)
    assert not cdn.has_seen_authorization
    assert not any("Signature" in str(request) for request in cdn.requests)
    requests.get(cdn.base_url, headers={"Authorization": "Bearer secret"}, timeout=10)
    assert cdn.has_seen_authorization
