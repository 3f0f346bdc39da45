"""The size of a picture in pixels, by its first bytes; rotations that a file asks for are not applied."""

from __future__ import annotations

import struct

from luma_pipeline.media.movie_index import child_boxes

__all__ = ["avif_size", "picture_size"]

# Start of frame: every coding of JPEG but the markers of tables among them (ITU-T T.81, table B.1).
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_MOST_SEGMENTS = 10_000


def picture_size(head: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, PNG, GIF or WebP file; raises struct.error or IndexError where it is cut."""
    if head.startswith(b"\xff\xd8"):
        return _jpeg_size(head)
    if head.startswith(b"\x89PNG") and head[12:16] == b"IHDR":
        return struct.unpack_from(">II", head, 16)
    if head.startswith(b"GIF8"):
        return struct.unpack_from("<HH", head, 6)
    return _webp_size(head) if head[8:12] == b"WEBP" else None


def avif_size(meta: memoryview) -> tuple[int, int] | None:
    """Width and height of the largest picture of a `meta` box: the others are its tiles and thumbnails.

    ISO/IEC 23008-12, 6.5.3 (`ispe`).
    """
    boxes = [meta[4:]]
    for step in (b"iprp", b"ipco", b"ispe"):
        boxes = [inner for outer in boxes for kind, inner in child_boxes(outer) if kind == step]
    sizes = [struct.unpack_from(">II", box, 4) for box in boxes]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        # Any number of 0xff may stand before a marker (B.1.1.2).
        at += 1 if marker == 0xFF else 2
        if marker not in _WITHOUT_LENGTH and marker != 0xFF:
            at += struct.unpack_from(">H", head, at)[0]
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """https://developers.google.com/speed/webp/docs/riff_container, RFC 6386 (9.1), and the lossless specification."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and head[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", head, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
