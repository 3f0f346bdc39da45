"""The sandbox's media: short H.264 clips and JPEG frames made for it with ffmpeg, each task's bytes its own."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_LONGEST_TASK_ID_BYTES = 4096
_JPEG_START = b"\xff\xd8"
_JPEG_COMMENT = b"\xff\xfe"


@dataclass(frozen=True)
class Clip:
    """One sample: `<name>.mp4` with its first and last frame. Pixels and seconds."""

    name: str
    width: int
    height: int
    aspect_ratio: str
    duration: float = 2.0


CLIPS = (
    Clip("gradients", 216, 384, "9:16"),
    Clip("mandelbrot", 384, 216, "16:9"),
    Clip("life", 384, 216, "16:9"),
    Clip("sierpinski", 384, 384, "1:1"),
)


def clip_of(task_id: str) -> Clip:
    """The clip that stands for a task's video; the same one for the same ID, always."""
    return CLIPS[zlib.crc32(task_id.encode()) % len(CLIPS)]


def video(task_id: str) -> bytes:
    """A playable MP4 file that no other task has.

    The ID goes into a `free` box at the end, which players skip (ISO/IEC 14496-12, 8.1.2).
    """
    mark = _mark(task_id)
    return _sample(f"{clip_of(task_id).name}.mp4") + (8 + len(mark)).to_bytes(4, "big") + b"free" + mark


def thumbnail(task_id: str) -> bytes:
    """The clip's first frame, a JPEG file that no other task has."""
    return _commented(_sample(f"{clip_of(task_id).name}_thumbnail.jpg"), _mark(task_id))


def last_frame(task_id: str) -> bytes:
    """The clip's last frame, a JPEG file that no other task has."""
    return _commented(_sample(f"{clip_of(task_id).name}_last_frame.jpg"), _mark(task_id))


def _commented(jpeg: bytes, mark: bytes) -> bytes:
    # A comment segment's length counts its own two bytes (ITU-T T.81, B.2.4.5).
    return _JPEG_START + _JPEG_COMMENT + (2 + len(mark)).to_bytes(2, "big") + mark + jpeg[len(_JPEG_START) :]


def _mark(task_id: str) -> bytes:
    encoded = task_id.encode()
    return hashlib.sha256(encoded).hexdigest().encode() + b" " + encoded[:_LONGEST_TASK_ID_BYTES]


@cache
def _sample(name: str) -> bytes:
    return resources.files("luma_pipeline.sandbox").joinpath("samples", name).read_bytes()
