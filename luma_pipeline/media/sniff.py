"""What a file is by its own bytes, and whether its own structure says that bytes are missing."""

from __future__ import annotations

from dataclasses import dataclass

from luma_pipeline.media.artifacts import MediaKind


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of file this pipeline stores."""

    kind: MediaKind
    content_type: str
    extension: str


MP4 = MediaType(MediaKind.VIDEO, "video/mp4", "mp4")
MOV = MediaType(MediaKind.VIDEO, "video/quicktime", "mov")
WEBM = MediaType(MediaKind.VIDEO, "video/webm", "webm")
JPEG = MediaType(MediaKind.IMAGE, "image/jpeg", "jpg")
PNG = MediaType(MediaKind.IMAGE, "image/png", "png")
WEBP = MediaType(MediaKind.IMAGE, "image/webp", "webp")
GIF = MediaType(MediaKind.IMAGE, "image/gif", "gif")
AVIF = MediaType(MediaKind.IMAGE, "image/avif", "avif")

MEDIA_TYPES = (MP4, MOV, WEBM, JPEG, PNG, WEBP, GIF, AVIF)

SNIFF_BYTES = 64
"""How many of a file's first bytes tell its type."""

_LEADING = ((b"\xff\xd8\xff", JPEG), (b"\x89PNG\r\n\x1a\n", PNG), (b"GIF87a", GIF), (b"GIF89a", GIF))
# Brands of the ISO base media format that are no video: https://mp4ra.org/registered-types/brands
_STILL_BRANDS = {b"avif": AVIF, b"avis": AVIF, b"heic": None, b"heix": None, b"mif1": None, b"msf1": None}
# QuickTime files older than the `ftyp` box start with one of these.
_BARE_QUICKTIME = {b"moov", b"mdat", b"wide"}


def sniff(head: bytes) -> MediaType | None:
    """The type of the file that starts with `head` (`SNIFF_BYTES` are enough); None for what is no media."""
    for magic, media_type in _LEADING:
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[:4] == b"\x1aE\xdf\xa3":
        return WEBM if b"webm" in head[:SNIFF_BYTES] else None
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return MOV if brand == b"qt  " else _STILL_BRANDS.get(brand, MP4)
    if head[4:8] in _BARE_QUICKTIME:
        return MOV
    return None


# A fragmented video of an hour has a few thousand; a file of nothing but tiny boxes is not worth following.
_MOST_BOXES = 20_000
# What stands at the top level of a file: ISO/IEC 14496-12, 14496-14 and QuickTime, https://mp4ra.org/registered-types/boxes
_TOP_LEVEL = frozenset(
    b"ftyp styp moov moof mdat free skip wide pnot udta meta meco mfra pdin sidx ssix prft emsg uuid imda".split()
)


class BoxWalk:
    """Follows the top-level boxes of an MP4 or QuickTime file as it streams by.

    A box says its own length, so a file whose last box ends after the last byte has been cut, also when the host that
    sent it promised just the length it delivered. Boxes are described in ISO/IEC 14496-12, section 4.2.

    Some tools append what is no box, such as a text. It is let pass where no part of the video can be missing: if it
    is less than a header, has a length that no box can have, or, after the whole index (`moov`) and media (`mdat`) of a
    file without fragments, is of no type that stands at the top level of a file.
    """

    def __init__(self) -> None:
        self._position = 0
        self._next_box = 0
        self._header = bytearray()
        self._to_the_end = False
        self._boxes = 0
        self._types: set[bytes] = set()
        self._may_be_no_box = False

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        start = self._position
        self._position = end = start + len(data)
        while not self._to_the_end:
            at = self._next_box + len(self._header)
            if at >= end:
                return
            self._header += data[at - start : at - start + self._wanted() - len(self._header)]
            if len(self._header) == self._wanted():
                self._step()

    def _wanted(self) -> int:
        is_large = len(self._header) >= 8 and int.from_bytes(self._header[:4], "big") == 1
        return 16 if is_large else 8

    def _step(self) -> None:
        size, kind = int.from_bytes(self._header[:4], "big"), bytes(self._header[4:8])
        if size == 1:
            size = int.from_bytes(self._header[8:16], "big")
        smallest = len(self._header)
        self._header.clear()
        self._boxes += 1
        if size < smallest or self._boxes > _MOST_BOXES:
            # A size of zero is "up to the end of the file".
            self._to_the_end = True
            return
        self._next_box += size
        is_whole_without = {b"moov", b"mdat"} <= self._types and b"moof" not in self._types
        self._may_be_no_box = is_whole_without and kind not in _TOP_LEVEL
        self._types.add(kind)

    @property
    def is_cut(self) -> bool:
        """Whether a box reaches beyond the bytes seen so far."""
        return not self._to_the_end and not self._may_be_no_box and self._next_box > self._position
