"""Keys, links and file types: what holds for any input."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.media import Artifact, LinkSource, expires_at, preferred_link, redact_link
from luma_pipeline.media.bucket_listing import BucketListing
from luma_pipeline.media.keys import KeyTemplate, safe_segment
from luma_pipeline.media.object_index import ObjectIndex
from luma_pipeline.media.sniff import SNIFF_BYTES, BoxWalk, MediaType, sniff
from luma_pipeline.media.store import Bucket, ObjectLabel, ObjectSettings
from tests.media import samples

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ANY_TASK_ID = st.text(max_size=300) | st.sampled_from(
    ["..", ".", "", "a/b", "../../x", "x" * 5000, "é" * 5000, "a~b", "a%2Fb"]
)


@given(ANY_TASK_ID, st.sampled_from(Artifact))
def test_a_key_is_safe_whatever_the_task_id(task_id: str, artifact: Artifact) -> None:
    template = KeyTemplate(prefix="/team/videos/")
    key = template.key(task_id, artifact, "mp4")
    segments = key.split("/")

    assert key.isascii()
    assert len(key) <= 1024
    assert segments[:2] == ["team", "videos"]
    assert len(segments) == 4
    assert not {"", ".", ".."} & set(segments)
    assert template.is_ours(key)
    assert template.key_base_of(key) == template.key_base(task_id, artifact)


@given(ANY_TASK_ID, ANY_TASK_ID)
def test_two_task_ids_never_share_a_key(one: str, other: str) -> None:
    assert (safe_segment(one) == safe_segment(other)) == (one == other)


@given(ANY_TASK_ID)
def test_the_key_of_a_mangled_task_id_cannot_be_anothers_own(task_id: str) -> None:
    assert safe_segment(safe_segment(task_id)) == safe_segment(task_id) or "~" in safe_segment(task_id)


def test_a_usual_task_id_is_its_own_key() -> None:
    task_id = "e70fdf3c-ce95-4dd1-a967-220ce957aff5"

    assert KeyTemplate().key(task_id, Artifact.VIDEO, "mp4") == f"{task_id}/video.mp4"
    assert KeyTemplate("v/{artifact}/{task_id}", "p").key(task_id, Artifact.VIDEO, "mp4") == f"p/v/video/{task_id}"


@given(ANY_TASK_ID)
def test_an_objects_metadata_is_ascii_and_fits(task_id: str) -> None:
    metadata = ObjectLabel(task_id, "video", "https://x.example/" + "ü" * 3000, "0" * 32, "ab" * 32).as_metadata()

    assert all(value.isascii() and value.isprintable() for value in metadata.values())
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= 2048


@given(st.text(max_size=100), st.text(alphabet="abcXYZ=&%?/#", min_size=1, max_size=50))
def test_what_is_shown_of_a_link_has_no_query_and_no_password(path: str, secret: str) -> None:
    path = path.translate(dict.fromkeys(map(ord, "?#@")))
    shown = redact_link(f"https://user:hunter2@cdn.example.org:8443/{path}?sig={secret}#{secret}")

    assert shown.startswith("https://cdn.example.org:8443/")
    assert not {"?", "#", "@"} & set(shown.removeprefix("https://cdn.example.org:8443/").replace(path, ""))
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("X-Amz-Date=20241224T180000Z&X-Amz-Expires=3600", datetime(2024, 12, 24, 19, tzinfo=UTC)),
        ("x-amz-date=20241224T180000Z&x-amz-expires=60", datetime(2024, 12, 24, 18, 1, tzinfo=UTC)),
        ("X-Goog-Date=20241224T180000Z&X-Goog-Expires=60", datetime(2024, 12, 24, 18, 1, tzinfo=UTC)),
        ("Expires=1735066800&Signature=x", datetime(2024, 12, 24, 19, tzinfo=UTC)),
        ("X-Amz-Date=yesterday&X-Amz-Expires=3600", None),
        ("X-Amz-Date=20241224T180000Z&X-Amz-Expires=soon", None),
        ("Expires=99999999999999999999", None),
        ("expires=0", None),
        ("expires=3600", None),
        ("Expires=Wed%2C+21+Oct", None),
        ("X-Amz-Expires=3600", None),
        ("", None),
    ],
)
def test_a_links_own_expiry_is_read(query: str, expected: datetime | None) -> None:
    assert expires_at(f"https://bucket.example.org/video.mp4?{query}") == expected


@pytest.mark.parametrize(
    ("links", "preference", "expected"),
    [
        ({LinkSource.DOWNLOAD_URL: "d", LinkSource.URL: "u"}, None, "d"),
        ({LinkSource.DOWNLOAD_URL: " ", LinkSource.URL: "u"}, None, "u"),
        ({LinkSource.DOWNLOAD_URL: None, LinkSource.URL: "u"}, None, "u"),
        ({LinkSource.DOWNLOAD_URL: "d", LinkSource.URL: "u"}, (LinkSource.URL, LinkSource.DOWNLOAD_URL), "u"),
        ({LinkSource.DOWNLOAD_URL: "d"}, (LinkSource.URL,), None),
        ({}, None, None),
    ],
)
def test_the_preferred_link_is_the_first_that_is_there(
    links: dict[LinkSource, str | None], preference: tuple[LinkSource, ...] | None, expected: str | None
) -> None:
    chosen = preferred_link(links) if preference is None else preferred_link(links, preference)
    assert chosen == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (samples.mp4(100), "video/mp4"),
        (samples.mp4(100, brand=b"qt  "), "video/quicktime"),
        (samples.mp4(100, brand=b"avif"), "image/avif"),
        (samples.mp4(100, brand=b"heic"), None),
        (b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat", "video/quicktime"),
        (samples.WEBM, "video/webm"),
        (samples.WEBM.replace(b"webm", b"mkv!"), None),
        (samples.JPEG, "image/jpeg"),
        (samples.PNG, "image/png"),
        (samples.WEBP, "image/webp"),
        (samples.GIF, "image/gif"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (samples.HTML, None),
        (b'{"error": "expired"}', None),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", None),
        (b"#EXTM3U\n", None),
        (b"ftyp", None),
        (b"", None),
    ],
)
def test_a_type_is_told_by_the_first_bytes(head: bytes, expected: str | None) -> None:
    found: MediaType | None = sniff(head[:SNIFF_BYTES])
    assert (found.content_type if found else None) == expected


BOXES = b"".join(
    [
        samples.ftyp(),
        b"\x00\x00\x00\x08free",
        (1).to_bytes(4, "big") + b"mdat" + (1000).to_bytes(8, "big") + bytes(984),
        (108).to_bytes(4, "big") + b"moov" + bytes(100),
    ]
)


def is_cut(data: bytes, steps: list[int]) -> bool:
    walk, at = BoxWalk(), 0
    for step in [*steps, len(data)]:
        walk.feed(memoryview(data)[at : at + step])
        at += step
    return walk.is_cut


@given(st.integers(0, len(BOXES)), st.lists(st.integers(1, 400), max_size=20))
def test_a_cut_is_seen_wherever_it_is_and_however_the_bytes_come(length: int, steps: list[int]) -> None:
    at_a_boundary = length in {0, 24, 32, 1032, len(BOXES)}

    # Within the eight bytes of a box's header its length is not yet known.
    in_a_header = any(start < length < start + size for start, size in ((0, 8), (24, 8), (32, 16), (1032, 8)))
    assert is_cut(BOXES[:length], steps) == (not at_a_boundary and not in_a_header)


@given(st.binary(max_size=2000), st.lists(st.integers(1, 100), max_size=20))
def test_the_same_is_said_of_any_bytes_however_they_come(data: bytes, steps: list[int]) -> None:
    assert is_cut(data, steps) == is_cut(data, [])


TRAILER = b"written by a tool of some maker"
FRAGMENT = (16).to_bytes(4, "big") + b"moof" + bytes(8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (BOXES + b"\x00\x00\x00\x00mdat" + bytes(50), False),
        (BOXES + bytes(3), False),
        (BOXES + TRAILER, False),
        (BOXES + TRAILER + b"\n", False),
        (BOXES[:-1], True),
        (BOXES[:1032] + TRAILER, True),
        (BOXES + FRAGMENT + TRAILER, True),
        (BOXES + b"\x00\x00\x01\x00beam" + bytes(20), False),
        (BOXES + b"\x00\x00\x00\x10beam" + bytes(8) + b"\x00\x00\x01\x00mdat" + bytes(20), True),
    ],
    ids=[
        "up to the end",
        "less than a header",
        "a text",
        "a text of another length",
        "cut in the index",
        "a text where the index should be",
        "a text where a fragment may be missing",
        "a maker's box, cut",
        "more media after a maker's box, cut",
    ],
)
def test_what_follows_the_last_box_hides_no_cut(data: bytes, expected: bool) -> None:
    assert is_cut(data, []) == is_cut(data, [7] * 30) == expected


def by_folder(key: str) -> list[str]:
    return key.split("/")


class ListedKeys:
    """A client of a store that has these keys, lists them in this order, and counts its listings."""

    def __init__(self, keys: set[str], order: Callable[[str], Any]) -> None:
        self.listings = 0
        self._order = order
        self._keys = sorted(keys, key=order)

    def list_objects_v2(self, *, Prefix: str, MaxKeys: int, StartAfter: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
        self.listings += 1
        at = bisect_right(self._keys, self._order(StartAfter), key=self._order) if StartAfter else 0
        found = [key for key in self._keys[at:] if key.startswith(Prefix)]
        page = [{"Key": key, "Size": 5, "ETag": '"e"'} for key in found[:MaxKeys]]
        return {"Contents": page, "IsTruncated": len(found) > MaxKeys}


# Short, so that one often is the start of another, which is where orders differ.
NAMES = st.text(alphabet="aB0-._", min_size=1, max_size=3).filter(lambda name: safe_segment(name) == name)


@given(
    st.sets(NAMES, max_size=40),
    st.lists(NAMES, max_size=40),
    st.lists(NAMES, max_size=10),
    st.sampled_from([str, by_folder, str.lower]),
    st.sampled_from(["{task_id}/{artifact}.{extension}", "{artifact}/{task_id}.{extension}", "{task_id}-{artifact}"]),
)
def test_what_is_said_to_be_in_the_bucket_is_what_is_there(
    stored: set[str], looked_for: list[str], in_bulk: list[str], order: Callable[[str], Any], template_text: str
) -> None:
    template = KeyTemplate(template_text, "p")
    keys = {name: template.key(name, Artifact.VIDEO, "mp4") for name in {*stored, *looked_for, *in_bulk}}
    client = ListedKeys({keys[name] for name in stored}, order)
    bucket = Bucket(cast("S3Client", client), "bucket", ObjectSettings(), threading.Event())
    presence = ObjectIndex(bucket, template, BucketListing(bucket, template))
    presence.load((name, Artifact.VIDEO) for name in in_bulk)
    client.listings = 0
    for name in looked_for:
        assert set(presence.objects(name, Artifact.VIDEO)) == ({keys[name]} if name in stored else set())
    if order is str:
        assert client.listings <= len(looked_for)
