"""A broken stream goes on only within the same version of the file, as long as something new comes, and to the end."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyResult, CopyStatus, ErrorCode
from tests.luma.raw_server import in_turn, once, raw_server
from tests.media import samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn

NEW, OLD = samples.mp4(300_000), samples.mp4(300_000, seed=2)
HALF = 1000


def copy(area: Area, link: str, **settings: object) -> CopyResult:
    with area.copier(**{"max_attempts": 5, **settings}) as copier:
        return copier.copy(CopyRequest("task", Artifact.VIDEO, link))


def answer(status: str, headers: list[str], body: bytes, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


NOW, LONG_AGO = formatdate(time.time(), usegmt=True), formatdate(time.time() - 86_400, usegmt=True)
JUST_NOW, A_WEEK_AGO = formatdate(time.time() - 2, usegmt=True), formatdate(time.time() - 604_800, usegmt=True)
DATED = [f"Date: {NOW}", f"Last-Modified: {LONG_AGO}"]
WHOLE = f"bytes {HALF}-{len(NEW) - 1}/{len(NEW)}"

SAME_VERSION = {
    "the same ETag": (['ETag: "v1"'], ['ETag: "v1"'], WHOLE),
    "the same ETag, other dates": (['ETag: "v1"', *DATED], ['ETag: "v1"', f"Last-Modified: {A_WEEK_AGO}"], WHOLE),
    "modified long before, no ETag": (DATED, DATED, WHOLE),
}
OTHER_VERSION = {
    "another ETag": (['ETag: "v1"'], ['ETag: "v2"'], WHOLE),
    "no ETag": (['ETag: "v1"'], [], WHOLE),
    "the same text, weak": (['ETag: "v1"'], ['ETag: W/"v1"'], WHOLE),
    "a time in place of the ETag": (['ETag: "v1"', *DATED], DATED, WHOLE),
    "no validator at all": ([], [], WHOLE),
    "a weak ETag": (['ETag: W/"v1"'], ['ETag: W/"v1"'], WHOLE),
    "a weak ETag beside a time": (['ETag: W/"v1"', *DATED], ['ETag: W/"v1"', *DATED], WHOLE),
    "an ETag without quotes": (["ETag: v1"], ["ETag: v1"], WHOLE),
    "modified at another time": (DATED, [f"Date: {NOW}", f"Last-Modified: {A_WEEK_AGO}"], WHOLE),
    "modified at no time": (DATED, [f"Date: {NOW}"], WHOLE),
    "modified just before": ([f"Date: {NOW}", f"Last-Modified: {JUST_NOW}"],) * 2 + (WHOLE,),
    "modified, and no date": ([f"Last-Modified: {LONG_AGO}"],) * 2 + (WHOLE,),
    "another total": (['ETag: "v1"'], ['ETag: "v1"'], WHOLE + "0"),
    "no total": (['ETag: "v1"'], ['ETag: "v1"'], WHOLE.partition("/")[0] + "/*"),
    "another start": (['ETag: "v1"'], ['ETag: "v1"'], f"bytes {HALF - 1}-{len(NEW) - 1}/{len(NEW)}"),
    "content-encoded": (['ETag: "v1"'], ['ETag: "v1"', "Content-Encoding: br"], WHOLE),
}


@pytest.mark.parametrize(("first", "second", "span"), SAME_VERSION.values(), ids=SAME_VERSION.keys())
def test_a_part_of_the_same_version_completes_the_file(
    area: Area, first: list[str], second: list[str], span: str
) -> None:
    cut = answer("200 OK", first, NEW[:HALF], len(NEW))
    rest = answer("206 Partial Content", [*second, f"Content-Range: {span}"], NEW[HALF:])
    with raw_server(in_turn(cut, rest)) as host:
        result = copy(area, f"{host}/x.mp4")

    assert (result.status, result.attempts, result.bytes_downloaded) == (CopyStatus.COPIED, 2, len(NEW))
    assert area.objects() == {"task/video.mp4": NEW}


@pytest.mark.parametrize(("first", "second", "span"), OTHER_VERSION.values(), ids=OTHER_VERSION.keys())
def test_a_part_of_what_may_be_another_version_is_never_combined(
    area: Area, first: list[str], second: list[str], span: str
) -> None:
    cut = answer("200 OK", first, OLD[:HALF], len(OLD))
    rest = answer("206 Partial Content", [*second, f"Content-Range: {span}"], NEW[HALF:])
    with raw_server(in_turn(cut, rest, answer("200 OK", first, NEW))) as host:
        result = copy(area, f"{host}/x.mp4")

    assert (result.status, result.error_code) == (CopyStatus.COPIED, None), result.error_message
    assert result.bytes_downloaded == HALF + len(NEW)
    assert area.objects() == {"task/video.mp4": NEW}


def test_a_host_that_cuts_again_and_again_is_followed_to_the_end(area: Area, cdn: FaultyCdn) -> None:
    result = copy(area, cdn.add(Answer(NEW, sends=30_000)), max_attempts=2)

    assert (result.status, result.attempts, result.bytes_downloaded) == (CopyStatus.COPIED, 10, len(NEW))
    assert area.objects() == {"task/video.mp4": NEW}


@pytest.mark.parametrize(
    ("dripping", "settings", "code"),
    [
        (Answer(NEW, sends=100), {}, ErrorCode.WRONG_LENGTH),
        (Answer(NEW, sends=30_000, etag=None), {}, ErrorCode.WRONG_LENGTH),
        (Answer(NEW, sends=1000, pause_before=0.05), {"max_seconds": 0.5}, ErrorCode.DEADLINE),
    ],
    ids=["next to nothing", "always the same bytes", "for too long"],
)
def test_a_host_that_cuts_and_gets_nowhere_is_given_up(
    area: Area, cdn: FaultyCdn, dripping: Answer, settings: dict[str, float], code: ErrorCode
) -> None:
    result = copy(area, cdn.add(dripping), max_attempts=3, **settings)

    assert (result.status, result.error_code) == (CopyStatus.FAILED, code.value), result.error_message
    assert code is ErrorCode.DEADLINE or result.attempts == 3
    assert area.objects() == {}


NO_LENGTH = {
    "an MP4": (NEW, True),
    "an MP4 with its index at the end": (samples.ftyp() + samples.box(b"mdat", bytes(9000)) + samples.MOOV, True),
    "fragments with their index": (samples.FRAGMENTED + samples.box(b"mfra"), True),
    "fragments that may go on": (samples.FRAGMENTED, False),
    "an MP4 that is cut": (NEW[:-1], False),
    "an MP4 cut in a header": (NEW + b"\x00\x00\x00", False),
    "media up to the end": (samples.ftyp() + samples.MOOV + b"\x00\x00\x00\x00mdat" + bytes(9000), False),
    "something after the last box": (NEW + b"\x00\x00\x00\x10beam" + bytes(8), False),
    "a WebM that says no size": (samples.WEBM, False),
    "a WebM that says its size": (samples.WEBM[:36] + b"\x18S\x80g\x81" + bytes(1), True),
    "a WebM that is cut": (samples.WEBM[:36] + b"\x18S\x80g\x84" + bytes(3), False),
}


@pytest.mark.parametrize(("body", "is_taken"), NO_LENGTH.values(), ids=NO_LENGTH.keys())
def test_a_body_without_length_is_taken_where_the_file_itself_says_that_it_is_whole(
    area: Area, body: bytes, is_taken: bool
) -> None:
    with raw_server(once(b"HTTP/1.1 200 OK\r\nContent-Type: binary/octet-stream\r\n\r\n" + body)) as host:
        result = copy(area, f"{host}/x", max_attempts=2)

    assert (result.error_code, list(area.objects().values())) == ((None, [body]) if is_taken else ("wrong_length", []))


def test_a_file_that_lacks_its_index_is_asked_for_once_more(area: Area, cdn: FaultyCdn) -> None:
    being_written = samples.ftyp() + samples.box(b"mdat", bytes(9000))
    result = copy(area, cdn.add(Answer(being_written), Answer(NEW)))

    assert (result.status, result.attempts) == (CopyStatus.COPIED, 2)
    assert area.objects() == {"task/video.mp4": NEW}


HEADS = {
    "an interim answer before it": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"", True),
    "several interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n",
        b"",
        True,
    ),
    "its length twice": (b"", b"Content-Length: %d\r\n" % len(NEW) * 2, True),
    "its length twice in one header": (b"", b"Content-Length: %d, %d\r\n" % (len(NEW), len(NEW)), True),
    "another length": (b"", b"Content-Length: %d\r\nContent-Length: %d\r\n" % (len(NEW), len(NEW) - 9), False),
    "another length in one header": (b"", b"Content-Length: %d, 9\r\n" % len(NEW), False),
    "a charset as its encoding": (b"", b"Content-Encoding: utf-8\r\n", True),
    "an upload's encoding": (b"", b"Content-Encoding: AWS-Chunked, identity\r\n", True),
    "a binary encoding": (b"", b"Content-Encoding: binary\r\nContent-Encoding: none\r\n", True),
    "an empty encoding": (b"", b"Content-Encoding: \r\n", True),
    "a compression": (b"", b"Content-Encoding: aws-chunked, br\r\n", False),
    "a media type as its encoding": (b"", b"Content-Encoding: video/mp4\r\n", True),
    "a transfer coding nobody asked for": (b"", b"Transfer-Encoding: gzip\r\n", False),
}


@pytest.mark.parametrize(("before", "header", "is_taken"), HEADS.values(), ids=HEADS.keys())
def test_an_odd_head_is_taken_where_the_end_of_the_body_is_clear(
    area: Area, before: bytes, header: bytes, is_taken: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    if b"Content-Length" not in header:
        head += b"Content-Length: %d\r\n" % len(NEW)
    with raw_server(once(before + head + header + b"\r\n" + NEW)) as host:
        result = copy(area, f"{host}/x.mp4", max_attempts=1)

    assert (result.status is CopyStatus.COPIED) == is_taken, result.error_message
    assert area.objects() == ({"task/video.mp4": NEW} if is_taken else {})
