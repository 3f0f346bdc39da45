"""Small media files, made in memory: right by their structure, of any size, the same for the same size and seed."""

from __future__ import annotations

import random
import struct

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
