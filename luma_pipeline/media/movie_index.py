"""The index of an MP4 or QuickTime file: what its `moov` and `moof` boxes say of the first enabled video track.

Boxes are described in ISO/IEC 14496-12. Whoever made the file may have written anything: functions here raise
struct.error, ValueError or LookupError for it, and look at a bounded number of boxes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
import numpy.typing as npt

__all__ = ["Fragments", "Movie", "child_boxes", "read_movie"]

_MOST_CHILDREN = 1000
_MOST_TRACKS = 64
_MOST_RUNS = 50_000

# Sample entries (https://mp4ra.org/registered-types/sampleentries) by the names that ffprobe has for them.
_CODECS = {
    "h264": b"avc1 avc2 avc3 avc4 dva1 dvav",
    "hevc": b"hvc1 hev1 hvc2 hev2 dvh1 dvhe",
    "vvc": b"vvc1 vvi1",
    "av1": b"av01 dav1",
    "vp8": b"vp08",
    "vp9": b"vp09",
    "h263": b"s263 h263 H263",
    "prores": b"apco apcs apcn apch ap4h ap4x",
    "mjpeg": b"jpeg mjpa mjpb AVDJ",
    "png": b"png ",
    "dnxhd": b"AVdn AVdh",
}
_CODEC_OF_ENTRY = {entry.ljust(4): codec for codec, entries in _CODECS.items() for entry in entries.split()}
# Object types of MPEG-4 systems (https://mp4ra.org/registered-types/object-types) in an `mp4v` entry.
_CODEC_OF_OBJECT_TYPE = {
    0x20: "mpeg4",
    **dict.fromkeys(range(0x60, 0x66), "mpeg2video"),
    0x6A: "mpeg1video",
    0x6C: "mjpeg",
    0x6D: "png",
}
_VISUAL_ENTRY_BYTES = 78


@dataclass(frozen=True, slots=True)
class Movie:
    """The first enabled video track of a `moov` box; None where the box does not tell.

    `ticks` are units of 1 / `timescale` seconds, `edited` seconds. `samples` and `sample_ticks` are those that the
    box itself lists: in a file of fragments they may be none. `fragment_seconds` is what the box says of the whole.
    """

    track: int
    width: int
    height: int
    codec: str | None
    timescale: int
    ticks: int | None
    samples: int
    sample_ticks: int
    edited: Fraction | None
    is_fragmented: bool
    default_ticks: int
    fragment_seconds: Fraction | None

    def times(self, fragments: Fragments | None) -> tuple[float | None, float | None]:
        """The duration in seconds and the frames a second; `fragments` are all of the file's, None if unknown."""
        if not self.is_fragmented:
            ticks = min(filter(None, (self.ticks, self.sample_ticks)), default=0)
            seconds = Fraction(ticks, self.timescale)
            shown = min(filter(None, (seconds, self.edited)), default=seconds)
            return float(shown), float(self.samples / seconds) if seconds else None
        if fragments is None or not fragments.is_known:
            return (None if self.fragment_seconds is None else float(self.fragment_seconds)), None
        seconds = Fraction(self.sample_ticks + fragments.ticks, self.timescale) or self.fragment_seconds or Fraction(0)
        return float(seconds), float((self.samples + fragments.samples) / seconds) if seconds else None


@dataclass(slots=True)
class Fragments:
    """The samples of a movie's track in all `moof` boxes so far; `is_known` is false once one could not be read."""

    samples: int = 0
    ticks: int = 0
    runs: int = 0
    is_known: bool = True

    def add(self, moof: memoryview, movie: Movie | None) -> None:
        """Take in a `moof` box."""
        self.is_known = self.is_known and movie is not None and len(moof) > 0 and self.runs < _MOST_RUNS
        if not self.is_known or movie is None:
            return
        for kind, fragment in islice(child_boxes(moof), _MOST_TRACKS):
            if kind == b"traf":
                for samples, ticks in _runs_of_fragment(fragment, movie):
                    self.samples += samples
                    self.ticks += ticks
                    self.runs += 1


def child_boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Type and payload of each box in a row of boxes, up to the first that is not whole; at most 1000."""
    at = 0
    for _ in range(_MOST_CHILDREN):
        if at + 8 > len(data):
            return
        size, header = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)
        if end < at + header or end > len(data):
            return
        yield bytes(data[at + 4 : at + 8]), data[at + header : end]
        at = end


def read_movie(moov: memoryview) -> Movie | None:
    """The first enabled video track of a movie, the first video track where none is enabled; None without any."""
    inside = list(child_boxes(moov))
    found: Movie | None = None
    for track in islice((payload for kind, payload in inside if kind == b"trak"), _MOST_TRACKS):
        try:
            is_enabled, movie = _read_track(track, dict(inside))
        except (struct.error, ValueError, LookupError):
            continue
        if movie is not None and is_enabled:
            return movie
        found = found or movie
    return found


def _inside(boxes: dict[bytes, memoryview], *path: bytes) -> dict[bytes, memoryview]:
    """The boxes at the end of a path; none where it leads nowhere."""
    for kind in path:
        boxes = dict(child_boxes(boxes.get(kind, memoryview(b""))))
    return boxes


def _read_track(track: memoryview, movie: dict[bytes, memoryview]) -> tuple[bool, Movie | None]:
    boxes = dict(child_boxes(track))
    media = _inside(boxes, b"mdia")
    if media.get(b"hdlr", b"")[8:12] != b"vide":
        return False, None
    table = _inside(media, b"minf", b"stbl")
    timescale, ticks = _media_header(media[b"mdhd"])
    number, is_enabled, is_turned = _track_header(boxes[b"tkhd"])
    codec, width, height = _sample_entry(table.get(b"stsd", memoryview(b"")))
    samples, sample_ticks = _sample_times(table.get(b"stts", memoryview(b"")))
    movie_scale, _ = _media_header(movie[b"mvhd"])
    extends = _inside(movie, b"mvex")
    return is_enabled, Movie(
        number,
        height if is_turned else width,
        width if is_turned else height,
        codec,
        timescale,
        ticks,
        samples,
        sample_ticks,
        _edited(_inside(boxes, b"edts").get(b"elst"), movie_scale),
        b"mvex" in movie,
        _default_ticks(movie.get(b"mvex"), number),
        _fragment_seconds(extends.get(b"mehd"), movie_scale),
    )


def _media_header(data: memoryview) -> tuple[int, int | None]:
    """Units a second, and the duration in them: of `mdhd` and `mvhd` alike. All ones mean "unknown"."""
    form, unknown = (">QQIQ", 2**64 - 1) if data[0] == 1 else (">IIII", 2**32 - 1)
    _, _, timescale, ticks = struct.unpack_from(form, data, 4)
    if not timescale:
        raise ValueError("no timescale")
    return timescale, ticks if ticks != unknown else None


def _track_header(data: memoryview) -> tuple[int, bool, bool]:
    """The track's number, whether it is enabled, and whether it is shown turned by 90 or 270 degrees."""
    (number,) = struct.unpack_from(">I", data, 20 if data[0] == 1 else 12)
    a, b = struct.unpack_from(">ii", data, 52 if data[0] == 1 else 40)
    return number, bool(data[3] & 1), abs(b) > abs(a)


def _sample_entry(stsd: memoryview) -> tuple[str | None, int, int]:
    """Codec, width and height of the first sample entry."""
    for kind, entry in child_boxes(stsd[8:]):
        width, height = struct.unpack_from(">HH", entry, 24)
        extensions = dict(child_boxes(entry[_VISUAL_ENTRY_BYTES:]))
        original = bytes(_inside(extensions, b"sinf").get(b"frma", b""))
        return _codec(original or kind, extensions), width, height
    return None, 0, 0


def _codec(entry: bytes, extensions: dict[bytes, memoryview]) -> str | None:
    """The codec's common name; the entry's own four characters for one without."""
    if entry == b"mp4v" and b"esds" in extensions:
        return _CODEC_OF_OBJECT_TYPE.get(_object_type(extensions[b"esds"]), "mpeg4")
    if entry in _CODEC_OF_ENTRY:
        return _CODEC_OF_ENTRY[entry]
    name = entry.decode("ascii", "replace").strip()
    return "mpeg4" if name == "mp4v" else name if name.isprintable() and name.isascii() and name else None


def _object_type(esds: memoryview) -> int:
    """The object type in a decoder's configuration (ISO/IEC 14496-1, 7.2.6): descriptor 4 inside descriptor 3."""
    at = 4
    for tag, skipped in ((3, 3), (4, 0)):
        if esds[at] != tag:
            raise ValueError("no such descriptor")
        at += 1
        while esds[at] & 0x80:
            at += 1
        at += 1 + skipped
    return int(esds[at])


def _sample_times(stts: memoryview) -> tuple[int, int]:
    """How many samples, and how many ticks they last."""
    if not stts:
        return 0, 0
    (entries,) = struct.unpack_from(">I", stts, 4)
    return _totals(_table(stts, 8, entries, 2))


def _totals(table: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The sum of the first column, and that of its products with the second. Exact below 2**53."""
    return int(table[:, 0].sum()), int(table[:, 0] @ table[:, 1])


def _table(data: memoryview, start: int, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """A table of 32-bit numbers; raises ValueError where it is not whole."""
    numbers = np.frombuffer(data[start:], ">u4", rows * columns) if rows else np.empty(0, ">u4")
    return numbers.reshape(rows, columns).astype(np.float64)


def _edited(elst: memoryview | None, scale: int) -> Fraction | None:
    """The seconds of media that an edit list shows; None without one, and for one that shows all there is."""
    if elst is None:
        return None
    (entries,) = struct.unpack_from(">I", elst, 4)
    form = ">Qq4x" if elst[0] == 1 else ">Ii4x"
    step = struct.calcsize(form)
    shown = 0
    for number in range(min(entries, _MOST_CHILDREN)):
        duration, start = struct.unpack_from(form, elst, 8 + number * step)
        if start >= 0 and not duration:
            return None
        shown += duration if start >= 0 else 0
    return Fraction(shown, scale) if entries <= _MOST_CHILDREN else None


def _default_ticks(mvex: memoryview | None, track: int) -> int:
    """How long a sample of the track lasts in fragments that do not tell."""
    for kind, payload in child_boxes(mvex if mvex is not None else memoryview(b"")):
        if kind == b"trex":
            number, _, ticks = struct.unpack_from(">III", payload, 4)
            if number == track:
                return int(ticks)
    return 0


def _fragment_seconds(mehd: memoryview | None, scale: int) -> Fraction | None:
    if mehd is None:
        return None
    (ticks,) = struct.unpack_from(">Q" if mehd[0] == 1 else ">I", mehd, 4)
    return Fraction(ticks, scale)


# Flags of `tfhd` and `trun` (ISO/IEC 14496-12, 8.8.7 and 8.8.8): the fields that stand before others, or in each row.
_BASE_OFFSET, _ENTRY_NUMBER, _DEFAULT_TICKS = 0x1, 0x2, 0x8
_DATA_OFFSET, _FIRST_FLAGS, _ROW_TICKS = 0x1, 0x4, 0x100
_ROW_FIELDS = (_ROW_TICKS, 0x200, 0x400, 0x800)


def _runs_of_fragment(traf: memoryview, movie: Movie) -> Iterator[tuple[int, int]]:
    """How many samples each run of a fragment of the movie's track has, and how many ticks they last."""
    boxes = list(child_boxes(traf))
    header = dict(boxes)[b"tfhd"]
    flags, number = struct.unpack_from(">II", header, 0)
    if number != movie.track:
        return
    default = movie.default_ticks
    if flags & _DEFAULT_TICKS:
        before = 8 * bool(flags & _BASE_OFFSET) + 4 * bool(flags & _ENTRY_NUMBER)
        (default,) = struct.unpack_from(">I", header, 8 + before)
    for kind, payload in boxes:
        if kind == b"trun":
            yield _samples_of_run(payload, default)


def _samples_of_run(trun: memoryview, default: int) -> tuple[int, int]:
    flags, samples = struct.unpack_from(">II", trun, 0)
    if not flags & _ROW_TICKS:
        return samples, samples * default
    start = 8 + 4 * bool(flags & _DATA_OFFSET) + 4 * bool(flags & _FIRST_FLAGS)
    columns = sum(bool(flags & row_field) for row_field in _ROW_FIELDS)
    return samples, int(_table(trun, start, samples, columns)[:, 0].sum())
