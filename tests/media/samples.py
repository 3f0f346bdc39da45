"""Small media files, made in memory: right by their structure, of any size, the same for the same size and seed."""

from __future__ import annotations

import random
import struct
from typing import Any

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(range(256)) * 8 + b"\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + bytes(200)
WEBP = b"RIFF" + struct.pack("<I", 204) + b"WEBPVP8 " + bytes(196)
GIF = b"GIF89a" + bytes(200)
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(300)
HTML = b"<!DOCTYPE html><html><body>Sorry, something went wrong.</body></html>" + b" " * 500


def box(kind: bytes, payload: bytes = b"") -> bytes:
    """A box of the ISO base media format."""
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def ftyp(brand: bytes = b"isom", *compatible: bytes) -> bytes:
    """The box that names a file's brands."""
    return box(b"ftyp", brand + struct.pack(">I", 512) + b"".join(compatible or (b"isom", b"mp41")))


MOOV = box(b"moov", bytes(8))
FRAGMENTED = ftyp() + MOOV + box(b"moof", bytes(8)) + box(b"mdat", bytes(5000))


def mp4(size: int, seed: int = 1, brand: bytes = b"isom") -> bytes:
    """An MP4 of `size` bytes: `ftyp`, a small `moov`, then one `mdat` up to the last byte."""
    head = ftyp(brand) + MOOV
    return head + box(b"mdat", random.Random(seed).randbytes(size - len(head) - 8))


def trak(
    *,
    track: int = 1,
    handler: bytes = b"vide",
    entry: bytes = b"avc1",
    size: tuple[int, int] = (1360, 752),
    samples: int = 121,
    ticks: int = 121 * 512,
    matrix: tuple[int, ...] = (1, 0, 0, 1),
    edits: tuple[tuple[int, int], ...] = (),
    is_enabled: bool = True,
    sinf: bytes = b"",
    version: int = 0,
) -> bytes:
    """A track of `samples` frames, 24 a second (12,288 ticks). Edits are milliseconds shown, and the first tick."""
    a, b, c, d = (value << 16 for value in matrix)
    shape = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + struct.pack(">II", *(side << 16 for side in size))
    head = struct.pack(">4xI", 7 * is_enabled)[4:]
    start, whole = (struct.pack(">QQ", 0, 0), ">Q") if version else (bytes(8), ">I")
    head = bytes([version]) + head[1:]
    tkhd = box(b"tkhd", head + start + struct.pack(">II", track, 0) + struct.pack(whole, 0) + bytes(16) + shape)
    full = struct.pack(">B3x", version)
    times = "Qq" if version else "Ii"
    rows = b"".join(struct.pack(f">{times}I", shown, first, 1 << 16) for shown, first in edits)
    edts = box(b"edts", box(b"elst", full + struct.pack(">I", len(edits)) + rows)) if edits else b""
    mdhd = box(b"mdhd", full + start + struct.pack(">I", 12_288) + struct.pack(whole, ticks) + bytes(4))
    hdlr = box(b"hdlr", bytes(8) + handler + bytes(13))
    visual = bytes(24) + struct.pack(">HH", *size) + bytes(50)
    protection = box(b"sinf", box(b"frma", sinf)) if sinf else b""
    stsd = box(b"stsd", struct.pack(">4xI", 1) + box(entry, visual + protection))
    stts = box(b"stts", struct.pack(">4xIII", 1, samples, 512) if samples else bytes(8))
    return box(b"trak", tkhd + edts + box(b"mdia", mdhd + hdlr + box(b"minf", box(b"stbl", stsd + stts))))


def video_moov(
    *,
    first: bytes = b"",
    last: bytes = b"",
    default_ticks: int = 0,
    whole: int = 0,
    version: int = 0,
    **options: Any,
) -> bytes:
    """An index of one track as `trak` makes it: of fragments with `default_ticks`, `whole` milliseconds long."""
    mvhd = box(
        b"mvhd",
        struct.pack(">B3x", version)
        + bytes(16 if version else 8)
        + struct.pack(">I", 1000)
        + bytes(8 if version else 4),
    )
    mehd = box(b"mehd", struct.pack(">4xI", whole)) if whole else b""
    trex = box(b"trex", struct.pack(">4xIIIII", options.get("track", 1), 1, default_ticks, 0, 0))
    mvex = box(b"mvex", mehd + trex) if default_ticks else b""
    return box(b"moov", mvhd + first + trak(version=version, **options) + last + mvex)
