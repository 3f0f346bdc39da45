"""Whether a picture's own structure says that bytes are missing at its end: JPEG, PNG and GIF say where they end."""

from __future__ import annotations

from luma_pipeline.media.sniff import GIF, JPEG, PNG, MediaType

__all__ = ["PictureEnd"]

_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_PNG_SIGNATURE_BYTES = 8
_GIF_HEADER_BYTES = 13
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C


class PictureEnd:
    """Follows the segments of a JPEG, the chunks of a PNG or the blocks of a GIF as they stream by.

    A file that has been cut lacks its end, also when the host that sent it promised just the length it delivered. What
    stands behind the end is let pass, as tools append things. A structure that is not understood tells nothing.

    JPEG: ITU-T T.81, annex B. PNG: https://www.w3.org/TR/png-3/#5Chunk-layout. GIF: GIF89a, sections 17 to 27.

    >>> end = PictureEnd()
    >>> end.feed(memoryview(b"GIF89a" + bytes(7)))
    >>> end.is_cut(GIF)
    True
    >>> end.feed(memoryview(b";"))
    >>> end.is_cut(GIF)
    False
    """

    def __init__(self) -> None:
        self._kind: MediaType | None = None
        self._waiting = bytearray()  # a header that has not come whole
        self._to_skip = 0
        self._in_scan = False
        self._in_blocks = False
        self._is_over = False
        """The end was found, or will not be looked for any more."""

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        if self._is_over:
            return
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        if skipped == len(data):
            return
        self._waiting += data[skipped:]
        if self._kind is None and not self._begin():
            return
        self._walk()

    def is_cut(self, kind: MediaType) -> bool:
        """Whether the bytes so far lack the end that a file of this kind has."""
        return kind in {JPEG, PNG, GIF} and not self._is_over

    def _begin(self) -> bool:
        """Whether enough has come to know the kind; then what stands before the first segment is passed."""
        head = bytes(self._waiting[:_GIF_HEADER_BYTES])
        if len(head) < _GIF_HEADER_BYTES:
            return False
        if head.startswith(b"\xff\xd8"):
            self._kind = JPEG
            self._skip(2)
        elif head.startswith(b"\x89PNG"):
            self._kind = PNG
            self._skip(_PNG_SIGNATURE_BYTES)
        elif head.startswith(b"GIF8"):
            self._kind = GIF
            self._skip(_GIF_HEADER_BYTES + _colours(head[10]))
        else:
            self._stop()
        return True

    def _walk(self) -> None:
        step = {JPEG: self._step_jpeg, PNG: self._step_png, GIF: self._step_gif}
        while not self._is_over and not self._to_skip and self._kind is not None and step[self._kind]():
            pass

    def _step_jpeg(self) -> bool:
        waiting = self._waiting
        if self._in_scan:
            # Inside coded data 0xff is followed by 0x00 or a restart marker, so that the end is found by its two bytes.
            if waiting.find(b"\xff\xd9") >= 0:
                self._stop()
            else:
                del waiting[: len(waiting) - 1]
            return False
        if len(waiting) < 4:
            return False
        marker = waiting[1]
        if waiting[0] != 0xFF or marker == _END:
            self._stop()
        elif marker == 0xFF:
            self._skip(1)
        elif marker in _WITHOUT_LENGTH:
            self._skip(2)
        else:
            self._in_scan = marker == _SCAN
            self._skip(2 + int.from_bytes(waiting[2:4], "big"))
        return True

    def _step_png(self) -> bool:
        if len(self._waiting) < 8:
            return False
        size, kind = int.from_bytes(self._waiting[:4], "big"), bytes(self._waiting[4:8])
        if not kind.isalpha():
            self._stop()
        elif kind == b"IEND":
            # Its checksum ends the file.
            if len(self._waiting) < 12 + size:
                return False
            self._stop()
        else:
            self._skip(12 + size)
        return True

    def _step_gif(self) -> bool:
        waiting = self._waiting
        if not waiting:
            return False
        if self._in_blocks:
            self._in_blocks = waiting[0] != 0
            self._skip(1 + waiting[0])
            return True
        if waiting[0] == _GIF_EXTENSION:
            self._in_blocks = True
            self._skip(2)
        elif waiting[0] == _GIF_IMAGE:
            if len(waiting) < 10:
                return False
            self._in_blocks = True
            # The descriptor, the local colours, and the size of the codes.
            self._skip(10 + _colours(waiting[9]) + 1)
        else:  # the trailer, or what is no GIF
            self._stop()
        return True

    def _skip(self, count: int) -> None:
        here = min(count, len(self._waiting))
        del self._waiting[:here]
        self._to_skip = count - here

    def _stop(self) -> None:
        self._is_over = True
        self._waiting.clear()


def _colours(flags: int) -> int:
    """Bytes of the table of colours that a GIF's flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
