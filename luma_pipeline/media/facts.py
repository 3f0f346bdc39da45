"""What a media file says of itself: size, duration, codec and frame rate, read while its bytes stream by.

Nothing is asked for twice and little is kept: of MP4 and QuickTime files the index boxes up to 4 MiB each, of other
files the first 256 KiB. What cannot be read is None, and never an error: facts fail no copy.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlencode

from luma_pipeline.media.matroska import read_webm
from luma_pipeline.media.movie_index import Fragments, Movie, read_movie
from luma_pipeline.media.pictures import avif_size, picture_size
from luma_pipeline.media.sniff import AVIF, MOV, MP4, SNIFF_BYTES, WEBM, BoxWalk, MediaType, sniff

__all__ = ["NO_FACTS", "FactsReader", "MediaFacts"]

_HEAD_BYTES = 256 * 1024
_BOXED = {MP4, MOV, AVIF}
_UNREADABLE = (struct.error, ValueError, LookupError, OverflowError, ZeroDivisionError)


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What a file says of itself; None for what it does not say, or not in a way that can be read.

    Of a video: the first enabled video track. Sizes are pixels as shown, so a track that is turned by 90 degrees has
    width and height exchanged; pixels that are not square are not stretched. The duration is in seconds, after
    edit lists. `codec` is ffprobe's name. `frame_rate` is frames a second on average. Pictures have a size alone.
    """

    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    codec: str | None = None
    frame_rate: float | None = None

    def as_text(self) -> str:
        """One line of ASCII for an object's metadata; empty without facts.

        >>> MediaFacts(1360, 752, 5.041667, "h264", 24.0).as_text()
        'width=1360&height=752&duration_seconds=5.041667&codec=h264&frame_rate=24.0'
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return urlencode({name: value for name, value in named.items() if value is not None})

    @classmethod
    def of_text(cls, text: str | None) -> MediaFacts:
        """What `as_text` has written; no facts for anything else.

        >>> MediaFacts.of_text("width=1360&height=752").width
        1360
        """
        try:
            found = dict(parse_qsl(text or "", max_num_fields=20))
            width, height = (int(found.get(name, 0)) for name in ("width", "height"))
            duration, rate = (float(found.get(name, 0)) for name in ("duration_seconds", "frame_rate"))
        except ValueError:
            return NO_FACTS
        return _checked(width, height, duration, found.get("codec"), rate)


NO_FACTS = MediaFacts()


class FactsReader:
    """Takes the bytes of one file in order, in pieces of any size; `facts` tells what they say.

    `boxes` follows the same bytes: it tells whether boxes of the file are missing.
    """

    def __init__(self) -> None:
        self.boxes = BoxWalk(self._take_box)
        self._head = bytearray()
        self._type: MediaType | None = None
        self._movie: Movie | None = None
        self._fragments = Fragments()
        self._picture: tuple[int, int] | None = None

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        self.boxes.feed(data)
        if (left := SNIFF_BYTES - len(self._head)) > 0:
            self._head += data[:left]
            data = data[left:]
            if len(self._head) == SNIFF_BYTES:
                self._type = sniff(bytes(self._head))
        if len(data) and self._type not in _BOXED and len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]

    def facts(self) -> MediaFacts:
        """What the file says of itself, once all its bytes have been taken."""
        self.boxes.finish()
        try:
            return self._facts(self._type or sniff(bytes(self._head)))
        except _UNREADABLE:
            return NO_FACTS

    def _facts(self, media_type: MediaType | None) -> MediaFacts:
        if media_type in {MP4, MOV}:
            return NO_FACTS if self._movie is None else _of_movie(self._movie, self._known_fragments())
        if media_type == WEBM:
            return _checked(*read_webm(memoryview(self._head)))
        size = self._picture if media_type == AVIF else picture_size(bytes(self._head))
        return NO_FACTS if size is None else _checked(*size)

    def _known_fragments(self) -> Fragments | None:
        return None if self.boxes.is_lost else self._fragments

    def _take_box(self, kind: bytes, payload: bytes | None) -> None:
        """Read one of the file's index boxes; None: it is too large to be kept."""
        view = memoryview(payload or b"")
        try:
            if kind == b"moof":
                self._fragments.add(view, self._movie)
            elif kind == b"moov" and self._movie is None:
                self._movie = read_movie(view)
            elif kind == b"meta" and self._picture is None:
                self._picture = avif_size(view)
        except _UNREADABLE:
            if kind == b"moof":
                self._fragments.is_known = False


def _of_movie(movie: Movie, fragments: Fragments | None) -> MediaFacts:
    duration, rate = movie.times(fragments)
    return _checked(movie.width, movie.height, duration, movie.codec, rate)


def _checked(
    width: int | None = None,
    height: int | None = None,
    duration: float | None = None,
    codec: str | None = None,
    rate: float | None = None,
) -> MediaFacts:
    """The facts without numbers that nothing can have: a file says zero of what it does not know."""
    duration, rate = (time if time and time > 0 and math.isfinite(time) else None for time in (duration, rate))
    width, height = (size if size and 0 < size < 2**32 else None for size in (width, height))
    return MediaFacts(width, height, duration, codec, rate)
