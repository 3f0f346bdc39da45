"""The memory of a copier: a buffer of a part's size for each artifact that is fetched, and a few to spare."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

_FILLING_BYTES = 1 << 16


class BufferPool:
    """Hands out buffers of `size` bytes: `own` to fetch artifacts into, and up to `spare` more.

    Whoever holds an own buffer never waits for another's memory. Spare ones are for further parts of an upload, and for
    small artifacts that are being written while the next ones are fetched.
    """

    def __init__(self, size: int, own: int, spare: int) -> None:
        self.size = size
        self._own = threading.Semaphore(own)
        self._spare = threading.Semaphore(spare)
        self._idle: deque[bytearray] = deque()
        self._filling = bytes(_FILLING_BYTES)

    def take(self) -> bytearray:
        """An own buffer; waits until one is free."""
        self._own.acquire()
        return self._buffer()

    def give(self, buffer: bytearray) -> None:
        """Take an own buffer back."""
        self._idle.append(self._whole(buffer))
        self._own.release()

    def take_spare(self) -> bytearray | None:
        """A spare buffer, if one is left."""
        return self._buffer() if self._spare.acquire(blocking=False) else None

    def give_spare(self, buffer: bytearray) -> None:
        """Take a spare buffer back."""
        self._idle.append(self._whole(buffer))
        self._spare.release()

    def make_spare(self) -> bool:
        """Let an own buffer count as a spare one, so that somebody else may take an own; False if none is left."""
        is_left = self._spare.acquire(blocking=False)
        if is_left:
            self._own.release()
        return is_left

    def body(self, buffer: bytearray, filled: int) -> bytearray:
        """The first `filled` bytes as a body that botocore takes without copying: it knows no memoryview."""
        if filled == len(buffer):
            return buffer
        if filled * 2 >= len(buffer):
            # Not while something still looks into it, such as the traceback of a failed request.
            with contextlib.suppress(BufferError):
                del buffer[filled:]
                return buffer
        return buffer[:filled]

    def _buffer(self) -> bytearray:
        try:
            return self._idle.pop()
        except IndexError:
            return bytearray(self.size)

    def _whole(self, buffer: bytearray) -> bytearray:
        # Piece by piece: memory taken for the filling as a whole costs more than the copying.
        try:
            while missing := self.size - len(buffer):
                buffer += self._filling if missing > _FILLING_BYTES else bytes(missing)
        except BufferError:  # as in `body`
            return bytearray(self.size)
        return buffer
