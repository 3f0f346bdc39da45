"""What a file says of itself, read while it streams by: real files as ffprobe reads them, odd and hostile ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.media import MediaFacts, movie_index
from luma_pipeline.media.facts import NO_FACTS, FactsReader
from tests.media.samples import box, ftyp, trak, video_moov
from tests.properties.effort import examples

REAL = Path(__file__).parent / "real_files"
FFPROBE: dict[str, dict[str, Any]] = json.loads((REAL / "ffprobe.json").read_text())
PICTURES = {".jpg", ".png", ".gif", ".webp", ".avif"}


def facts_of(body: bytes, step: int = 1 << 18) -> MediaFacts:
    reader = FactsReader()
    for at in range(0, len(body), step):
        reader.feed(memoryview(body)[at : at + step])
    return reader.facts()


def moved_to_the_end(body: bytes) -> bytes:
    """The file with its `moov` behind everything else."""
    boxes = dict(_top(body))
    return b"".join(whole for kind, whole in boxes.items() if kind != b"moov") + boxes[b"moov"]


def _top(body: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        yield body[at + 4 : at + 8], body[at : at + size]
        at += size


# Real files.


@pytest.mark.parametrize("name", [name for name in FFPROBE if Path(name).suffix not in PICTURES])
@pytest.mark.parametrize("step", [1, 61, 1 << 18])
def test_facts_of_a_real_video_are_those_that_ffprobe_reads(name: str, step: int) -> None:
    said = FFPROBE[name]
    found = facts_of((REAL / name).read_bytes(), step)

    size = (said["width"], said["height"])
    assert (found.width, found.height) == (size[::-1] if name == "turned.mp4" else size)
    assert (found.codec, found.frame_rate) == (said["codec_name"], float(Fraction(said["avg_frame_rate"])))
    duration = said["duration"] or said["format_duration"]
    assert found.duration_seconds == (None if duration is None else pytest.approx(float(duration), abs=1e-6))


@pytest.mark.parametrize("name", [name for name in FFPROBE if Path(name).suffix in PICTURES])
@pytest.mark.parametrize("step", [1, 1 << 18])
def test_facts_of_a_real_picture_are_its_size_alone(name: str, step: int) -> None:
    assert facts_of((REAL / name).read_bytes(), step) == MediaFacts(97, 55)


def test_a_picture_behind_many_segments_has_its_size() -> None:
    jpeg = (REAL / "still.jpg").read_bytes()
    profile = b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533)

    assert facts_of(jpeg[:2] + profile * 3 + b"\xff\xff" + jpeg[3:]) == MediaFacts(97, 55)


def test_a_large_canvas_of_webp_has_its_size() -> None:
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (1359).to_bytes(3, "little") + (751).to_bytes(3, "little")

    assert facts_of(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk) == MediaFacts(1360, 752)


# The same movie in many shapes.

MDAT = box(b"mdat", bytes(3000))
EXPECTED = MediaFacts(1360, 752, 121 / 24, "h264", 24.0)

SHAPES: dict[str, bytes] = {
    "the index first": ftyp() + video_moov() + MDAT,
    "the index last": ftyp() + MDAT + video_moov(),
    "a large media box": ftyp() + struct.pack(">I4sQ", 1, b"mdat", 3016) + bytes(3000) + video_moov(),
    "a large index box": ftyp() + struct.pack(">I4sQ", 1, b"moov", 8 + len(video_moov())) + video_moov()[8:] + MDAT,
    "media up to the end": ftyp() + video_moov() + struct.pack(">I4s", 0, b"mdat") + bytes(3000),
    "an index up to the end": ftyp() + MDAT + struct.pack(">I4s", 0, b"moov") + video_moov()[8:],
    "headers of version 1": ftyp() + video_moov(version=1) + MDAT,
    "QuickTime without a type": video_moov() + MDAT,
    "room inside the index": ftyp() + video_moov(first=box(b"free", bytes(5000))) + MDAT,
    "an unknown duration": ftyp() + video_moov(ticks=2**32 - 1) + MDAT,
    "no duration": ftyp() + video_moov(ticks=0) + MDAT,
    "a duration beyond its samples": ftyp() + video_moov(ticks=10**6) + MDAT,
    "a list of samples without samples": ftyp() + video_moov(first=trak(samples=0, is_enabled=False)) + MDAT,
    "sound before it": ftyp() + video_moov(first=trak(handler=b"soun")) + MDAT,
    "a chapter's pictures before it": ftyp() + video_moov(first=trak(entry=b"jpeg", is_enabled=False)) + MDAT,
    "a damaged track before it": ftyp() + video_moov(first=box(b"trak", trak()[8:60])) + MDAT,
    "a second video track": ftyp() + video_moov(last=trak(entry=b"hvc1", size=(96, 54))) + MDAT,
    "no enabled track": ftyp() + video_moov(is_enabled=False) + MDAT,
    "a damaged box at the end of the index": ftyp() + video_moov(last=struct.pack(">I4s", 2**31, b"udta")) + MDAT,
    "a large box inside the index": ftyp()
    + video_moov(first=struct.pack(">I4sQ", 1, b"free", 116) + bytes(100))
    + MDAT,
    "an edit that shows all": ftyp() + video_moov(edits=((0, 0),)) + MDAT,
    "a delay before it": ftyp() + video_moov(edits=((5000, -1), (6000, 0))) + MDAT,
    "an encrypted track": ftyp() + video_moov(entry=b"encv", sinf=b"avc1") + MDAT,
    "a second index": ftyp() + video_moov() + video_moov(size=(2, 2)) + MDAT,
    "an index that is too large, then one that is not": ftyp() + box(b"moov", bytes(5 << 20)) + video_moov() + MDAT,
}


@pytest.mark.parametrize("step", [1 << 20, 7])
@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES.keys())
def test_facts_are_the_same_wherever_the_index_stands_and_whatever_is_around_it(body: bytes, step: int) -> None:
    if len(body) > 1 << 20:
        step = max(step, 5000)

    assert facts_of(body, step) == EXPECTED


def test_facts_do_not_depend_on_where_a_real_index_stands() -> None:
    body = (REAL / "index_first_ntsc.mp4").read_bytes()

    assert facts_of(moved_to_the_end(body)) == facts_of(body) != NO_FACTS


def test_a_duration_that_is_unknown_is_null_where_the_samples_do_not_tell() -> None:
    found = facts_of(ftyp() + video_moov(samples=0, ticks=2**32 - 1) + MDAT)

    assert found == MediaFacts(1360, 752, None, "h264")


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), (1360, 752)),
        ((-1, 0, 0, -1), (1360, 752)),
        ((0, 1, -1, 0), (752, 1360)),
        ((0, -1, 1, 0), (752, 1360)),
        ((0, 0, 0, 0), (1360, 752)),
    ],
)
def test_a_track_that_is_shown_turned_has_the_size_that_is_shown(
    matrix: tuple[int, ...], expected: tuple[int, int]
) -> None:
    found = facts_of(ftyp() + video_moov(matrix=matrix) + MDAT)

    assert (found.width, found.height) == expected


@pytest.mark.parametrize(
    ("edits", "expected"),
    [(((1000, 0),), 1.0), (((500, 0), (0, 9)), 121 / 24), (((500, 0), (250, 10)), 0.75), (((250, -1), (500, 3)), 0.5)],
)
def test_a_duration_is_what_the_edits_show(edits: tuple[tuple[int, int], ...], expected: float) -> None:
    found = facts_of(ftyp() + video_moov(edits=edits) + MDAT)

    assert (found.duration_seconds, found.frame_rate) == (expected, 24.0)


ENTRIES = {
    b"avc1": "h264", b"avc3": "h264", b"hvc1": "hevc", b"hev1": "hevc", b"dvh1": "hevc", b"av01": "av1",
    b"vp08": "vp8", b"vp09": "vp9", b"mp4v": "mpeg4", b"apch": "prores", b"jpeg": "mjpeg", b"vvc1": "vvc",
    b"abcd": "abcd", b"Xy  ": "Xy", b"\x00\x01\x02\x03": None, b"    ": None,
}  # fmt: skip


@pytest.mark.parametrize(("entry", "expected"), ENTRIES.items())
def test_a_codec_has_its_common_name(entry: bytes, expected: str | None) -> None:
    assert facts_of(ftyp() + video_moov(entry=entry) + MDAT).codec == expected


# Fragments.


def moof(*runs: bytes, track: int = 7, header: bytes = b"", flags: int = 0) -> bytes:
    return box(b"moof", box(b"traf", box(b"tfhd", struct.pack(">II", flags, track) + header) + b"".join(runs)))


def trun(samples: int, *rows: int, flags: int = 0, columns: int = 1) -> bytes:
    body = struct.pack(">II", flags | (0x100 if rows else 0), samples)
    return box(b"trun", body + b"".join(struct.pack(">I", row) + bytes(4 * (columns - 1)) for row in rows))


def fragmented(*moofs: bytes, **options: Any) -> bytes:
    index = video_moov(samples=0, ticks=0, default_ticks=512, track=7, **options)
    return ftyp(b"iso6") + index + b"".join(one + MDAT for one in moofs)


FRAGMENTED: dict[str, tuple[bytes, float | None, float | None]] = {
    "of the movie's default": (fragmented(moof(trun(12)), moof(trun(12))), 1.0, 24.0),
    "of the fragment's default": (fragmented(moof(trun(12), flags=8, header=struct.pack(">I", 1024))), 1.0, 12.0),
    "behind other fields": (
        fragmented(moof(trun(12), flags=11, header=bytes(12) + struct.pack(">I", 1024))),
        1.0,
        12.0,
    ),
    "told one by one": (fragmented(moof(trun(3, 4096, 4096, 4096))), 1.0, 3.0),
    "in wide rows": (fragmented(moof(trun(2, 6144, 6144, flags=0xE00, columns=4))), 1.0, 2.0),
    "in several runs": (fragmented(moof(trun(12), trun(12))), 1.0, 24.0),
    "with another track's": (fragmented(moof(trun(12)), moof(trun(99), track=8), moof(trun(12))), 1.0, 24.0),
    "without any": (fragmented(), None, None),
    "cut short": (fragmented(moof(trun(24)), moof(trun(9, 512))), None, None),
    "cut short, and the whole told": (fragmented(moof(trun(9, 512)), whole=2500), 2.5, None),
    "of no told length, and the whole told": (fragmented(moof(trun(2, 0, 0)), whole=500), 0.5, 4.0),
    "too large": (fragmented(moof(trun(24)), box(b"moof", bytes(5 << 20))), None, None),
    "with something of no size": (fragmented(moof(trun(24))) + struct.pack(">I4s", 3, b"moof") + bytes(20), None, None),
    "before the index": (moof(trun(24)) + fragmented(moof(trun(24))), None, None),
}


@pytest.mark.parametrize(("body", "duration", "rate"), FRAGMENTED.values(), ids=FRAGMENTED.keys())
def test_a_file_of_fragments_lasts_as_long_as_all_of_them(
    body: bytes, duration: float | None, rate: float | None
) -> None:
    assert facts_of(body) == MediaFacts(1360, 752, duration, "h264", rate)


# WebM.


def element(number: int, payload: bytes) -> bytes:
    start = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return start + (0x10000000 | len(payload)).to_bytes(4, "big") + payload


def tracks(*entries: bytes) -> bytes:
    return element(0x1654AE6B, b"".join(element(0xAE, entry) for entry in entries))


HEADER = element(0x1A45DFA3, element(0x4282, b"webm"))
SIZE = element(0xB0, b"\x05\x50") + element(0xBA, b"\x02\xf0")
TRACK = element(0x83, b"\1") + element(0x86, b"V_VP9") + element(0xE0, SIZE)
TRACKS = tracks(TRACK)
NTSC_FILM = struct.pack(">I", 41_708_333)
INFO = element(0x1549A966, element(0x4489, struct.pack(">d", 5041.667)))


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (INFO + TRACKS, MediaFacts(1360, 752, 5.041667, "vp9")),
        (element(0xEC, bytes(9000)) + INFO + TRACKS, MediaFacts(1360, 752, 5.041667, "vp9")),
        (tracks(element(0x83, b"\2"), TRACK), MediaFacts(1360, 752, None, "vp9")),
        (tracks(element(0xB9, b"\0") + element(0x83, b"\1"), TRACK), MediaFacts(1360, 752, None, "vp9")),
        (tracks(element(0xB9, b"\0") + TRACK), MediaFacts(1360, 752, None, "vp9")),
        (tracks(TRACK + element(0x23E383, NTSC_FILM)), MediaFacts(1360, 752, None, "vp9", 24000 / 1001)),
        (element(0x1549A966, element(0x4489, struct.pack(">f", float("nan")))), NO_FACTS),
        (element(0x1549A966, element(0x4489, b"123")), NO_FACTS),
        (element(0x1F43B675, bytes(90)) + INFO, NO_FACTS),
        (b"", NO_FACTS),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_live", [False, True])
def test_a_webm_file_tells_by_its_first_elements(segment: bytes, expected: MediaFacts, is_live: bool) -> None:
    body = b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + segment if is_live else element(0x18538067, segment)

    assert facts_of(HEADER + body) == expected


# Whatever is in the file.

WILD = [(REAL / name).read_bytes() for name in FFPROBE] + [body for body, *_ in list(FRAGMENTED.values())[:6]]
NUMBERS = [b"\0\0\0\0", b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0\0\0\1", b"\0\0\0\x08", b"\xff" * 8, b"\0" * 8]
BOXES = b"moov moof trak mdia mdhd stts stsd elst mvhd tfhd trun meta ipco ispe".split()


@st.composite
def damaged(draw: Callable[[Any], Any]) -> bytes:
    """A real file with a few bytes of it written over, cut out or put in."""
    body = bytearray(draw(st.sampled_from(WILD)))
    pieces = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(BOXES), st.binary(max_size=9))
    for _ in range(draw(st.integers(1, 5))):
        # Either end: the index stands at one of them.
        at = draw(st.integers(0, 900)) if draw(st.booleans()) else max(0, len(body) - draw(st.integers(0, 1200)))
        piece = draw(pieces)
        body[at : at + draw(st.sampled_from([0, len(piece), 4]))] = piece
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@examples(150)
@given(damaged(), st.sampled_from([1, 13, 1 << 18]))
def test_a_damaged_file_has_facts_that_make_sense_or_none_and_no_error(body: bytes, step: int) -> None:
    found = facts_of(body, step)

    assert found == facts_of(body)
    assert all(size is None or 0 < size < 2**32 for size in (found.width, found.height))
    assert all(time is None or 0 < time < float("inf") for time in (found.duration_seconds, found.frame_rate))
    assert found.codec is None or (found.codec.isascii() and found.codec.isprintable())
    text = found.as_text()
    assert text.isascii()
    assert MediaFacts.of_text(text) == found


@examples(100)
@given(
    st.one_of(st.text(max_size=200), st.sampled_from(["width=-1", "duration_seconds=nan", "frame_rate=inf", "&" * 99]))
)
def test_text_of_others_in_an_objects_metadata_is_no_fact_or_a_sound_one(text: str) -> None:
    found = MediaFacts.of_text(text)

    assert MediaFacts.of_text(found.as_text()) == found


@pytest.mark.parametrize(
    "body",
    [
        ftyp() + box(b"moov", box(b"free") * 500_000) + MDAT,
        ftyp() + box(b"moov", video_moov()[8:] + box(b"trak", box(b"mdia", box(b"minf") * 9000)) * 57) + MDAT,
        fragmented(*[moof(box(b"trun", struct.pack(">II", 0, 2**32 - 1))) for _ in range(20_000)]),
        ftyp() + video_moov(samples=2**32 - 1) + MDAT,
        b"\xff\xd8" + b"\xff" * 300_000,
        HEADER + element(0x18538067, element(0xEC, b"") * 60_000),
    ],
)
def test_a_hostile_file_takes_little_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        facts_of(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 1024 * 1024


@pytest.mark.parametrize("size", [4 * 1024 * 1024, 64 * 1024 * 1024])
def test_memory_does_not_grow_with_the_media(size: int) -> None:
    reader, zeros = FactsReader(), memoryview(bytes(1 << 20))
    tracemalloc.start()
    try:
        reader.feed(memoryview(ftyp() + struct.pack(">I4s", 8 + size, b"mdat")))
        for _ in range(size >> 20):
            reader.feed(zeros)
        reader.feed(memoryview(video_moov()))
        assert reader.facts() == EXPECTED
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 256 * 1024


def test_an_index_that_says_nothing_tells_nothing() -> None:
    """What files with an odd index have in the place of a time scale, a sample entry and a decoder's configuration."""
    with pytest.raises(ValueError, match="no timescale"):
        movie_index._media_header(memoryview(bytes(24)))
    assert movie_index._media_header(memoryview(bytes(15) + b"\x05" + b"\xff" * 4 + bytes(4))) == (5, None)
    assert movie_index._sample_entry(memoryview(bytes(8))) == (None, 0, 0)
    with pytest.raises(ValueError, match="no such descriptor"):
        movie_index._object_type(memoryview(bytes(8)))
    assert movie_index._object_type(memoryview(bytes(4) + b"\x03\x80\x10" + bytes(3) + b"\x04\x80\x05\x20")) == 0x20
