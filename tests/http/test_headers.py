"""Headers that both clients read: when to come back, and how a body is encoded."""

from __future__ import annotations

import gzip
import time
import zlib
from email.utils import formatdate

import pytest

from luma_pipeline.http.encoding import compressions, decompressed
from luma_pipeline.http.errors import BodyTooLargeError, TransportError
from luma_pipeline.http.retry_after import full_jitter, retry_after_seconds

READABLE = [("120", 120.0), (" 7 ", 7.0), ("0", 0.0), ("0.5", 0.5), ("Mon, 01 Jan 2020 00:00:00 GMT", 0.0)]
UNREADABLE = [None, "", "soon", "-5", "1e9", "\u0663", "nan", "9" * 5000, "Mon, 01 Jan 2020 +9999999999"]


@pytest.mark.parametrize(("value", "expected"), [*READABLE, *((value, None) for value in UNREADABLE)])
def test_the_time_to_come_back_is_read_or_missing(value: str | None, expected: float | None) -> None:
    assert retry_after_seconds(value) == expected


def test_a_date_to_come_back_at_is_seconds_from_now() -> None:
    seconds = retry_after_seconds(formatdate(time.time() + 90, usegmt=True))

    assert seconds is not None
    assert 80 < seconds <= 90


def test_pauses_grow_to_a_bound() -> None:
    assert max(full_jitter(0, 0.5, 30.0) for _ in range(50)) <= 0.5
    assert 30.0 >= max(full_jitter(10_000, 0.5, 30.0) for _ in range(50)) > 1.0


NO_COMPRESSION = ["", " ", ",", "identity", "Identity", "none", "NONE", "null", "utf-8", "UTF-8", "utf8", "iso-8859-1"]
NO_COMPRESSION += ["binary", "windows-1252", "us-ascii", "gbk", "aws-chunked", "AWS-Chunked,", "aws-chunked, utf-8"]
NO_COMPRESSION += ["application/json", "text/plain; charset=utf-8", "utf-8;q=1", "charset=utf-8", "en", "*", "unknown"]
COMPRESSION = ["br", "zstd", "compress", "zip", "utf-8, br", "BR;q=1", "xz", "lz4"]


@pytest.mark.parametrize("header", [None, '"none"', *NO_COMPRESSION])
def test_words_that_name_no_compression_are_none(header: str | None) -> None:
    assert compressions(header) == []
    assert decompressed(b"body", header, 10) == b"body"


@pytest.mark.parametrize("header", COMPRESSION)
def test_compressions_that_were_not_asked_for_are_refused(header: str) -> None:
    assert compressions(header)
    with pytest.raises(TransportError) as caught:
        decompressed(b"body", header, 10)
    assert caught.value.code == "bad_encoding"


ZIPPED = gzip.compress(b"body", mtime=0)
COMPRESSED = {
    "gzip": ZIPPED,
    "X-GZip": ZIPPED,
    "deflate": zlib.compress(b"body"),
    "aws-chunked, gzip": ZIPPED,
    "deflate, utf-8, gzip": gzip.compress(zlib.compress(b"body"), mtime=0),
}


@pytest.mark.parametrize(("header", "body"), COMPRESSED.items(), ids=COMPRESSED.keys())
def test_compressions_are_undone_in_turn(header: str, body: bytes) -> None:
    assert decompressed(body, header, 100) == b"body"


def test_a_body_is_bounded_at_every_step() -> None:
    bomb = gzip.compress(bytes(1_000_000))
    for header, body in (("gzip", bomb), ("gzip, gzip", gzip.compress(bomb))):
        with pytest.raises(BodyTooLargeError):
            decompressed(body, header, 10_000)
