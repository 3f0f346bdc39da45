"""Bytes on their way through: checked and digested as they come, in parts to the store, visible at the very end."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import NoReturn

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.buffers import BufferPool
from luma_pipeline.media.download import Download
from luma_pipeline.media.errors import CopyError, ErrorCode
from luma_pipeline.media.facts import FactsReader, MediaFacts
from luma_pipeline.media.picture_end import PictureEnd
from luma_pipeline.media.sniff import AVIF, MOV, MP4, SNIFF_BYTES, MediaType, declared_size, sniff
from luma_pipeline.media.store import Upload
from luma_pipeline.s3.uploads import UploadedPart

_BOXED = {MP4, MOV}
# text/plain is what a plain nginx says of a file it has no type for, so that it claims nothing.
_PAGES = {"text/html", "text/xml", "application/json", "application/xml", "application/xhtml+xml"}


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole, checked artifact: in memory when `body` is there, else in the parts of `upload`."""

    media_type: MediaType
    size_bytes: int
    sha256: str
    body: bytearray | None
    upload: Upload | None
    parts: list[UploadedPart]
    facts: MediaFacts


class Intake:
    """Takes in one artifact, once. `take` gives it whole; leaving the `with` block aborts what was not completed.

    So many are taken in at once as the pool has own buffers; a small one that has come makes room for the next while it
    is written, as long as spare buffers are left.
    """

    def __init__(
        self,
        download: Download,
        artifact: Artifact,
        buffers: BufferPool,
        uploader: Executor,
        begin: Callable[[MediaType], Upload],
    ) -> None:
        self._download = download
        self._artifact = artifact
        self._buffers = buffers
        self._uploader = uploader
        self._begin = begin
        self._digest = hashlib.sha256()
        self._facts = FactsReader()
        self._boxes = self._facts.boxes
        self._picture_end = PictureEnd()
        self._head = b""
        self._media_type: MediaType | None = None
        self._upload: Upload | None = None
        self._in_flight: deque[tuple[Future[UploadedPart], bytearray]] = deque()
        self._parts: list[UploadedPart] = []
        self._own = buffers.take()
        self._own_is_spare = False
        self._current: bytearray | None = self._own
        self.is_completed = False

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *error: object) -> None:
        # No part may still be on its way when the upload is aborted: it would outlive the abort and be billed.
        wait([future for future, _ in self._in_flight])
        if self._upload is not None and not self.is_completed:
            self._upload.abort()
        for _, buffer in self._in_flight:
            self._hand_back(buffer)
        self._in_flight.clear()
        if self._current is not None and self._current is not self._own:
            self._buffers.give_spare(self._current)
        if self._own_is_spare:
            self._buffers.give_spare(self._own)
        else:
            self._buffers.give(self._own)

    def take(self) -> Arrived:
        """Read to the end, upload all full parts, and check the whole."""
        while True:
            buffer = self._current if self._current is not None else self._next_buffer()
            self._current = buffer
            filled = self._fill(buffer)
            is_last = filled < len(buffer) or self._download.at_end
            if is_last:
                media_type = self._check_whole(buffer, filled)
                if self._upload is None:
                    self._own_is_spare = self._buffers.make_spare()
                    return self._arrived(media_type, self._buffers.body(buffer, filled))
            if filled:
                self._send(buffer, filled)
            if is_last:
                while self._in_flight:
                    self._land()
                return self._arrived(media_type, None)

    def _arrived(self, media_type: MediaType, body: bytearray | None) -> Arrived:
        return Arrived(
            media_type,
            self._download.position,
            self._digest.hexdigest(),
            body,
            self._upload,
            list(self._parts),
            self._facts.facts(),
        )

    def _fill(self, buffer: bytearray) -> int:
        filled = 0
        with memoryview(buffer) as view:
            while filled < len(buffer):
                # Given back also when reading fails: the error's traceback would hold the slice, and it the buffer.
                with view[filled:] as free:
                    count = self._download.readinto(free)
                if not count:
                    break
                with view[filled : filled + count] as chunk:
                    self._digest.update(chunk)
                    self._facts.feed(chunk)
                    self._picture_end.feed(chunk)
                filled += count
                if self._media_type is None and filled >= SNIFF_BYTES:
                    self._head = bytes(view[:SNIFF_BYTES])
                    self._media_type = self._identify(self._head)
        return filled

    def _identify(self, head: bytes) -> MediaType:
        """What the first bytes are; raises CopyError before anything is sent to the store if they are not right."""
        media_type = sniff(head)
        claimed = self._download.content_type.partition(";")[0].strip().lower()
        if media_type is None:
            self._download.reject(
                ErrorCode.NOT_MEDIA,
                f"{self._download.position} bytes that start like no media (Content-Type {claimed[:60]!r})",
            )
        if media_type.kind is not self._artifact.kind:
            # A link that has died may lead to a picture that says so.
            self._download.reject(
                ErrorCode.WRONG_TYPE,
                f"{self._artifact} should be of kind {self._artifact.kind}, is {media_type.content_type}",
            )
        major = claimed.partition("/")[0]
        is_other_media = major in {"video", "image", "audio"} and major != media_type.kind.value
        if claimed in _PAGES or is_other_media:
            self._download.reject(
                ErrorCode.WRONG_TYPE, f"claims to be {claimed[:60]!r}, and starts like {media_type.content_type}"
            )
        return media_type

    def _check_whole(self, buffer: bytearray, filled: int) -> MediaType:
        if self._media_type is None:
            self._head = bytes(buffer[: min(filled, SNIFF_BYTES)])
            self._media_type = self._identify(self._head)
        media_type = self._media_type
        if media_type in _BOXED:
            if self._boxes.is_cut:
                self._reject_incomplete("the file's own structure goes on beyond its {} bytes")
            if not self._boxes.is_playable:
                self._reject_incomplete("no index (moov, moof) or no media (mdat) in the file's {} bytes")
            is_proven_whole = self._boxes.is_proven_whole
        else:
            declared = declared_size(self._head)
            goes_on = declared is not None and declared > self._download.position
            is_cut = self._boxes.is_cut if media_type is AVIF else self._picture_end.is_cut(media_type)
            if goes_on or is_cut:
                self._reject_incomplete("the file's own structure goes on beyond its {} bytes")
            is_proven_whole = declared == self._download.position
        if not self._download.is_length_promised and not is_proven_whole:
            self._reject_incomplete("no promised length, and nothing in the file says that its {} bytes are all")
        return media_type

    def _reject_incomplete(self, message: str) -> NoReturn:
        self._download.reject_incomplete(ErrorCode.WRONG_LENGTH, message.format(self._download.position))

    def _send(self, buffer: bytearray, filled: int) -> None:
        if self._upload is None:
            if self._media_type is None:
                raise CopyError(ErrorCode.NOT_MEDIA, "no bytes to tell the type by")
            self._upload = self._begin(self._media_type)
        number = len(self._parts) + len(self._in_flight) + 1
        upload, body = self._upload, self._buffers.body(buffer, filled)
        self._in_flight.append((self._uploader.submit(upload.put_part, number, body), buffer))
        self._current = None

    def _next_buffer(self) -> bytearray:
        while self._in_flight and self._in_flight[0][0].done():
            self._land()
        if self._own_is_free:
            return self._own
        spare = self._buffers.take_spare()
        while spare is None and not self._own_is_free:
            self._land()
            spare = self._buffers.take_spare()
        return self._own if spare is None else spare

    @property
    def _own_is_free(self) -> bool:
        return all(buffer is not self._own for _, buffer in self._in_flight)

    def _land(self) -> None:
        """Wait for the oldest part on its way."""
        future, buffer = self._in_flight[0]
        self._parts.append(future.result())
        self._in_flight.popleft()
        self._hand_back(buffer)

    def _hand_back(self, buffer: bytearray) -> None:
        if buffer is not self._own:
            self._buffers.give_spare(buffer)
