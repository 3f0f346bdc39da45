"""What a file is by its own bytes, and whether its own structure says that bytes are missing."""

from __future__ import annotations

from collections.abc import Callable
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

SNIFF_BYTES = 4096
"""How many of a file's first bytes tell its type: some tools leave room before the box that does."""

_LEADING = ((b"\xff\xd8\xff", JPEG), (b"\x89PNG\r\n\x1a\n", PNG), (b"GIF87a", GIF), (b"GIF89a", GIF))
_WEBM_HEADER_BYTES = 64


def _brands(text: str) -> frozenset[bytes]:
    return frozenset(word.encode().ljust(4) for word in text.split())


# Brands of the ISO base media format: https://mp4ra.org/registered-types/brands
_AVIF_BRANDS = _brands("avif avis")
# They say how pictures are stored, and leave it to the compatible brands of which kind these are.
_PICTURE_BRANDS = _brands("mif1 mif2 msf1 miaf MiAB MiAn MiBr MiBu MiCa MiCm MiHA MiHB MiHE MiPr 1pic")
_NO_VIDEO_BRANDS = _brands(
    "heic heix heim heis hevc hevx hevm hevs avci avcs vvic vvis evbi evbs evci evcs jpeg jpgs j2ki j2is jxsi jxss crx "
    "jp2 jpm jpx jxl M4A M4B M4P F4A F4B NDAS aax aaxc caac caaa da0a da0b da1a da1b da2a da2b da3a da3b"
)
_FILLING_BOXES = {b"free", b"skip", b"wide", b"pnot", b"uuid", b"pdin"}
"""Boxes that may stand before the one that tells the type."""
_SEGMENT_BOXES = {b"styp", b"sidx", b"moof", b"emsg", b"prft"}
# As long as a box is whose size are letters: a text that has the name of a box in it.
_LEAST_TEXT = 0x20000000


def sniff(head: bytes) -> MediaType | None:
    """The type of the file that starts with `head` (`SNIFF_BYTES` are enough); None for what is no media."""
    for magic, media_type in _LEADING:
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[:4] == b"\x1aE\xdf\xa3":
        return WEBM if b"webm" in head[:_WEBM_HEADER_BYTES] else None
    return _sniff_boxes(head)


def _sniff_boxes(head: bytes) -> MediaType | None:
    at, is_quicktime = 0, False
    while at + 8 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        # QuickTime files older than the `ftyp` box start with `mdat` or `moov`.
        if kind == b"mdat":
            return MOV
        if size >= _LEAST_TEXT:
            return None
        if kind == b"moov":
            return MOV
        if kind == b"ftyp":
            return _by_brands(head[at + 8 : at + max(size, 12)])
        if kind in _SEGMENT_BOXES:
            return MP4
        if size == 1:
            size = int.from_bytes(head[at + 8 : at + 16], "big")
        if kind not in _FILLING_BOXES or size < 8:
            return None
        is_quicktime |= kind in {b"wide", b"pnot"}
        at += size
    if not at:
        return None
    return MOV if is_quicktime else MP4


def _by_brands(brands: bytes) -> MediaType | None:
    major, compatible = brands[:4], {brands[at : at + 4] for at in range(8, len(brands), 4)}
    if major == b"qt  ":
        return MOV
    if major in _AVIF_BRANDS or (major in _PICTURE_BRANDS and compatible & _AVIF_BRANDS):
        return AVIF
    return None if major in _PICTURE_BRANDS | _NO_VIDEO_BRANDS else MP4


def declared_size(head: bytes) -> int | None:
    """How many bytes the file says it has, if its first bytes say so: WebP, and WebM that was not written live.

    https://developers.google.com/speed/webp/docs/riff_container and RFC 8794, section 6 (EBML).
    """
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != b"\x1aE\xdf\xa3":
        return None
    header_size, at = _ebml_size(head, 4)
    segment = at + (header_size or 0)
    if header_size is None or head[segment : segment + 4] != b"\x18S\x80g":
        return None
    size, start = _ebml_size(head, segment + 4)
    return None if size is None else start + size


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """A size as EBML writes it, None for "unknown", and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        return None, at
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(data[at : at + length], "big") & unknown
    return (None if size == unknown else size), at + length


# A fragmented video of an hour has a few thousand; a file of nothing but tiny boxes is not worth following.
_MOST_BOXES = 20_000
# Boxes that describe the media. The index of ten minutes with sound has half a MiB.
_KEPT = {b"moov", b"moof", b"meta"}
_MOST_KEPT_BYTES = 4 * 1024 * 1024
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

    `on_box` is given the type and the payload of each box that describes the media; None for one of more than 4 MiB.
    It may raise nothing.
    """

    def __init__(self, on_box: Callable[[bytes, bytes | None], None] | None = None) -> None:
        self._on_box = on_box
        self._kept = bytearray()
        self._kept_kind = b""
        self._kept_to = 0
        self._missing = 0  # bytes of the box that is being kept
        self._position = 0
        self._next_box = 0
        self._header = bytearray()
        self._to_the_end = False
        self._boxes = 0
        self._types: set[bytes] = set()
        self._last = b""
        self._may_be_no_box = False
        self.is_lost = False
        """Whether boxes may have been passed over: there were too many, or one of a size that no box can have."""

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        start = self._position
        self._position = end = start + len(data)
        while not self._to_the_end or self._missing:
            if self._missing:
                self._keep(data, start)
                if self._missing:
                    return
                continue
            at = self._next_box + len(self._header)
            if at >= end:
                return
            self._header += data[at - start : at - start + self._header_bytes() - len(self._header)]
            if len(self._header) == self._header_bytes():
                self._step()

    def _header_bytes(self) -> int:
        is_large = len(self._header) >= 8 and int.from_bytes(self._header[:4], "big") == 1
        return 16 if is_large else 8

    def _step(self) -> None:
        size, kind = int.from_bytes(self._header[:4], "big"), bytes(self._header[4:8])
        if size == 1:
            size = int.from_bytes(self._header[8:16], "big")
        smallest = len(self._header)
        self._header.clear()
        self._boxes += 1
        if size == 0:
            self._types.add(kind)
        if size < smallest or self._boxes > _MOST_BOXES:
            # A size of zero is "up to the end of the file".
            self._to_the_end = True
            self.is_lost = size != 0
            if not self.is_lost:
                self._begin_to_keep(kind, self._next_box + smallest, _MOST_KEPT_BYTES)
            return
        self._begin_to_keep(kind, self._next_box + smallest, size - smallest)
        self._next_box += size
        is_whole_without = {b"moov", b"mdat"} <= self._types and b"moof" not in self._types
        self._may_be_no_box = is_whole_without and kind not in _TOP_LEVEL
        self._types.add(kind)
        self._last = kind

    def _begin_to_keep(self, kind: bytes, start: int, size: int) -> None:
        if self._on_box is None or kind not in _KEPT:
            return
        if 0 < size <= _MOST_KEPT_BYTES:
            self._kept_kind, self._kept_to, self._missing = kind, start + size, size
        else:
            self._on_box(kind, None)

    def _keep(self, data: memoryview, start: int) -> None:
        at = self._kept_to - self._missing - start
        piece = data[at : at + self._missing]
        self._kept += piece
        self._missing -= len(piece)
        if not self._missing:
            self._tell()

    def _tell(self) -> None:
        kept, self._kept, self._missing = bytes(self._kept), bytearray(), 0
        if self._on_box is not None:
            self._on_box(self._kept_kind, kept)

    def finish(self) -> None:
        """Take note that the file has ended: a box that goes up to its end is whole."""
        if self._to_the_end and self._missing:
            self._tell()

    @property
    def is_cut(self) -> bool:
        """Whether a box reaches beyond the bytes seen so far."""
        return not self._to_the_end and not self._may_be_no_box and self._next_box > self._position

    @property
    def is_playable(self) -> bool:
        """Whether there are both an index (of the file or of a fragment) and media."""
        return bool(self._types & {b"moov", b"moof"} and self._types & {b"mdat", b"imda"})

    @property
    def is_proven_whole(self) -> bool:
        """Whether nothing can be missing after the bytes seen so far, whatever their host said of their number.

        More fragments may always follow, unless the last box is the index of all of them (`mfra`).
        """
        ends_with_box = self._next_box == self._position and not self._to_the_end and not self._may_be_no_box
        return ends_with_box and self.is_playable and (b"moof" not in self._types or self._last == b"mfra")
