"""What the first bytes of a WebM file say of it: EBML (RFC 8794) with Matroska's elements (RFC 9559).

Raises ValueError or struct.error for bytes that are none. At most 1000 elements of each are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

__all__ = ["read_webm"]

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_INFO, _TIMESTAMP_SCALE, _DURATION = 0x1549A966, 0x2AD7B1, 0x4489
_TRACKS, _TRACK, _TRACK_TYPE, _FLAG_ENABLED = 0x1654AE6B, 0xAE, 0x83, 0xB9
_CODEC_ID, _DEFAULT_DURATION, _VIDEO, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0x86, 0x23E383, 0xE0, 0xB0, 0xBA
_CODECS = {b"V_VP8": "vp8", b"V_VP9": "vp9", b"V_AV1": "av1", b"V_MPEG4/ISO/AVC": "h264", b"V_MPEGH/ISO/HEVC": "hevc"}
_VIDEO_TYPE = 1
_NANOSECONDS = 1_000_000_000
_MOST_ELEMENTS = 1000
# 1001 is the largest that stands under a usual rate (24000/1001): durations of frames are rounded to nanoseconds.
_LARGEST_DENOMINATOR = 1001

WebmFacts = tuple[int | None, int | None, float | None, str | None, float | None]


def read_webm(head: memoryview) -> WebmFacts:
    """Width, height, seconds, codec and frames a second: of the first enabled video track, None for what is not told.

    `head` are the file's first bytes. What stands behind its first pictures is not looked for.
    """
    info: dict[int, memoryview] = {}
    tracks: list[dict[int, memoryview]] = []
    segment = next((payload for number, payload in _elements(head) if number == _SEGMENT), memoryview(b""))
    for number, payload in _elements(segment):
        if number == _CLUSTER:
            break
        if number == _INFO:
            info = dict(_elements(payload))
        elif number == _TRACKS:
            tracks += [dict(_elements(track)) for kind, track in _elements(payload) if kind == _TRACK]
    videos = [track for track in tracks if _whole(track.get(_TRACK_TYPE)) == _VIDEO_TYPE]
    enabled = [track for track in videos if _whole(track.get(_FLAG_ENABLED, memoryview(b"\1")))]
    track = next(iter(enabled or videos), {})
    size = dict(_elements(track.get(_VIDEO, memoryview(b""))))
    return (
        _whole(size.get(_PIXEL_WIDTH)),
        _whole(size.get(_PIXEL_HEIGHT)),
        _seconds(info),
        _CODECS.get(bytes(track.get(_CODEC_ID, b"")).rstrip(b"\0")),
        _rate(_whole(track.get(_DEFAULT_DURATION))),
    )


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each element in a row; one that goes on beyond the data, or has no size, is the last."""
    at = 0
    for _ in range(_MOST_ELEMENTS):
        number, at = _variable(data, at, is_marked=True)
        size, at = _variable(data, at, is_marked=False)
        if number is None or at > len(data):
            return
        end = len(data) if size is None else min(at + size, len(data))
        yield number, data[at:end]
        at = end


def _variable(data: memoryview, at: int, *, is_marked: bool) -> tuple[int | None, int]:
    """A number of variable length and where it ends; None for "unknown", and at the end of the data."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        return None, len(data) + 1
    number = int.from_bytes(data[at : at + length], "big")
    mask = (1 << 7 * length) - 1
    if is_marked:
        return number, at + length
    return (None if number & mask == mask else number & mask), at + length


def _whole(payload: memoryview | None) -> int | None:
    return None if payload is None or len(payload) > 8 else int.from_bytes(payload, "big")


def _seconds(info: dict[int, memoryview]) -> float | None:
    if _DURATION not in info:
        return None
    payload = info[_DURATION]
    (ticks,) = struct.unpack(">d" if len(payload) == 8 else ">f", payload)
    scale = _whole(info.get(_TIMESTAMP_SCALE)) if _TIMESTAMP_SCALE in info else 1_000_000
    return float(ticks * (scale or 0) / _NANOSECONDS)


def _rate(nanoseconds: int | None) -> float | None:
    if not nanoseconds:
        return None
    return float(Fraction(_NANOSECONDS, nanoseconds).limit_denominator(_LARGEST_DENOMINATOR))
