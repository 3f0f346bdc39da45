"""What a file is, and whether it can be played, by its own boxes."""

from __future__ import annotations

import struct

import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyStatus
from luma_pipeline.media.sniff import SNIFF_BYTES, BoxWalk, declared_size, sniff
from tests.media import samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.samples import MOOV, box, ftyp

MDAT = box(b"mdat", bytes(2000))
MOOF = box(b"moof", bytes(16))
LARGE_MDAT = struct.pack(">I4sQ", 1, b"mdat", 16 + 2000) + bytes(2000)
OPEN_MDAT = struct.pack(">I4s", 0, b"mdat") + bytes(2000)

VIDEOS = {
    "room first": box(b"free", bytes(8)) + ftyp() + MOOV + MDAT,
    "much room first": box(b"free", bytes(3000)) + ftyp() + MOOV + MDAT,
    "more room than is looked through": box(b"free", bytes(SNIFF_BYTES)) + ftyp() + MOOV + MDAT,
    "skipped first": box(b"skip", bytes(8)) + ftyp() + MOOV + MDAT,
    "a maker's box first": box(b"uuid", bytes(40)) + ftyp() + MOOV + MDAT,
    "a preview first": box(b"pnot", bytes(12)) + MDAT + MOOV,
    "room, then bare QuickTime": box(b"free") + MDAT + MOOV,
    "wide, then bare QuickTime": box(b"wide") + MDAT + MOOV,
    "bare QuickTime": MOOV + MDAT,
    "a segment": box(b"styp", b"msdh" + bytes(8)) + box(b"sidx", bytes(20)) + MOOF + MDAT,
    "an index of segments": box(b"sidx", bytes(20)) + MOOF + MDAT,
    "fragments": ftyp() + MOOV + MOOF + MDAT + MOOF + MDAT,
    "fragments without an index of the file": ftyp(b"iso6") + MOOF + MDAT,
    "the index last": ftyp() + MDAT + MOOV,
    "a large media box": ftyp() + LARGE_MDAT + MOOV,
    "media up to the end": ftyp() + MOOV + OPEN_MDAT,
    "identified media": ftyp() + MOOV + box(b"imda", bytes(100)),
    "for iTunes": ftyp(b"M4V ", b"M4V ", b"M4A ", b"mp42") + MOOV + MDAT,
    "for Flash": ftyp(b"F4V ") + MOOV + MDAT,
    "for phones": ftyp(b"3gp5") + MOOV + MDAT,
    "a text at the end": ftyp() + MOOV + MDAT + b"made by some tool, which says so",
}


@pytest.mark.parametrize("body", VIDEOS.values(), ids=VIDEOS.keys())
def test_a_video_is_taken_whatever_its_first_box(area: Area, cdn: FaultyCdn, body: bytes) -> None:
    with area.copier() as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(body))))

    assert result.status is CopyStatus.COPIED, result.error_message
    assert list(area.objects().values()) == [body]


UNPLAYABLE = {
    "no index": ftyp() + MDAT,
    "no index, QuickTime": ftyp(b"qt  ") + box(b"wide") + MDAT,
    "no index, media up to the end": ftyp() + OPEN_MDAT,
    "no index, a large media box": ftyp() + LARGE_MDAT,
    "no index, room at the end": ftyp() + MDAT + box(b"free", bytes(90)),
    "the index cut off": ftyp() + MDAT + MOOV[:-1],
    "nothing but the brand": ftyp() + box(b"free", bytes(90)),
    "the brand alone": ftyp(),
    "no media": ftyp() + MOOV,
    "no media, bare QuickTime": MOOV + box(b"free", bytes(90)),
    "a fragment without media": ftyp() + MOOV + MOOF,
    "an index of segments alone": box(b"styp", b"msdh" + bytes(8)) + box(b"sidx", bytes(20)),
    "room alone": box(b"free", bytes(90)),
    "a large media box, cut": ftyp() + MOOV + LARGE_MDAT[:-1],
    "a WebM that says it is longer": samples.WEBM[:36] + b"\x18S\x80g\x90" + bytes(10),
}


@pytest.mark.parametrize("body", UNPLAYABLE.values(), ids=UNPLAYABLE.keys())
def test_a_file_without_index_or_media_is_tried_again_and_not_taken(area: Area, cdn: FaultyCdn, body: bytes) -> None:
    link = cdn.add(Answer(body))
    with area.copier() as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, link))

    assert (result.status, result.error_code) == (CopyStatus.FAILED, "wrong_length"), result.error_message
    assert len(cdn.requests_for(link)) == 2
    assert area.objects() == {}


BRANDS = {
    "image/avif": [ftyp(b"avif"), ftyp(b"avis"), ftyp(b"mif1", b"mif1", b"avif"), ftyp(b"msf1", b"avis"),
                   ftyp(b"miaf", b"miaf", b"avif"), box(b"free") + ftyp(b"mif1", b"avif")],
    "video/mp4": [ftyp(brand) for brand in (b"isom", b"iso6", b"mp42", b"avc1", b"M4V ", b"F4V ", b"dash", b"MSNV")],
    "video/quicktime": [ftyp(b"qt  ")],
    None: [ftyp(brand) for brand in (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"heic", b"heix", b"heim",
                                     b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"avci", b"avcs", b"crx ", b"jp2 ")]
    + [ftyp(b"mif1", b"mif1", b"heic"), ftyp(b"msf1", b"hevc"), ftyp(b"mif1"), box(b"free") + ftyp(b"M4A "),
       b"All free of charge, until the end of the month.", b"The skip key",
       b"<!--ftypisom-->", b'    ftyp{"a": 1}', b"The moov is gone", box(b"free")[:7], box(b"abcd") + ftyp()],
}  # fmt: skip


@pytest.mark.parametrize(("expected", "head"), [(name, head) for name, heads in BRANDS.items() for head in heads])
def test_a_brand_tells_videos_from_pictures_and_sound(expected: str | None, head: bytes) -> None:
    found = sniff(head + bytes(100) if expected else head)

    assert (found.content_type if found else None) == expected


@pytest.mark.parametrize("steps", [1, 7, 4096])
@pytest.mark.parametrize("body", [*VIDEOS.values(), *UNPLAYABLE.values()], ids=[*VIDEOS, *UNPLAYABLE])
def test_whether_a_file_can_be_played_does_not_depend_on_how_it_comes(body: bytes, steps: int) -> None:
    whole, pieces = BoxWalk(), BoxWalk()
    whole.feed(memoryview(body))
    for at in range(0, len(body), steps):
        pieces.feed(memoryview(body)[at : at + steps])

    assert (whole.is_cut, whole.is_playable, whole.is_proven_whole) == (
        pieces.is_cut,
        pieces.is_playable,
        pieces.is_proven_whole,
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (samples.WEBP, len(samples.WEBP)),
        (samples.WEBM, None),
        (samples.WEBM[:36] + b"\x18S\x80g\x42\x00", 36 + 6 + 512),
        (samples.WEBM[:36] + b"\x18S\x80g\x01" + b"\xff" * 7, None),
        (samples.WEBM[:36] + b"\x18S\x80g", None),
        (samples.WEBM[:4], None),
        (samples.JPEG, None),
    ],
)
def test_a_file_that_says_its_size_is_taken_at_its_word(head: bytes, expected: int | None) -> None:
    assert declared_size(head) == expected
