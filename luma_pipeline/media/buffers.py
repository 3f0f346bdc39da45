"""The memory of a copier: one buffer of a part's size for each thread, and a few to spare for parallel parts."""

from __future__ import annotations

import contextlib
import threading
from collections import deque


class BufferPool:
    """Hands out buffers of `size` bytes. A thread always has its own, so that none waits for another's memory."""

    def __init__(self, size: int, spare: int) -> None:
        self.size = size
        self._local = threading.local()
        self._lock = threading.Lock()
        self._idle: deque[bytearray] = deque()
        self._unmade = spare

    def own(self) -> bytearray:
        """This thread's buffer; it is its last taker's until `give_back`, whoever that is."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        self._local.buffer = None
        return bytearray(self.size) if buffer is None else buffer

    def keep_own(self, buffer: bytearray) -> None:
        """Take this thread's buffer back."""
        self._local.buffer = self._whole(buffer)

    def take_spare(self) -> bytearray | None:
        """A spare buffer, if one is left."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if not self._unmade:
                return None
            self._unmade -= 1
        return bytearray(self.size)

    def give_spare(self, buffer: bytearray) -> None:
        """Take a spare buffer back."""
        whole = self._whole(buffer)
        with self._lock:
            self._idle.append(whole)

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

    def _whole(self, buffer: bytearray) -> bytearray:
        if len(buffer) < self.size:
            try:
                buffer.extend(bytes(self.size - len(buffer)))
            except BufferError:  # as in `body`
                return bytearray(self.size)
        return buffer
