"""The copy of one artifact: whether it is there, fetching it, and making it visible."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timezone

from luma_pipeline.media.buffers import BufferPool
from luma_pipeline.media.download import Download, DownloadLimits, StreamRestarted
from luma_pipeline.media.errors import CopyError, ErrorCode
from luma_pipeline.media.intake import Arrived, Intake
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.links import Link, redact_link
from luma_pipeline.media.presence import Presence
from luma_pipeline.media.results import CopyRequest, CopyStatus, KnownObject
from luma_pipeline.media.sniff import MediaType
from luma_pipeline.media.store import Bucket, KeyExists, ObjectLabel, StoredObject, Upload
from luma_pipeline.media.transport import Transport

_PUBLISH_TRIES = 3
_PUBLISH_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class CopyTools:
    """What the copies of a copier share. With `overwrite` nothing is looked for, and what stands there is replaced."""

    bucket: Bucket
    template: KeyTemplate
    presence: Presence
    transport: Transport
    limits: DownloadLimits
    buffers: BufferPool
    uploader: Executor
    stopping: threading.Event
    overwrite: bool


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """The object that an artifact ended as."""

    status: CopyStatus
    key: str
    size_bytes: int
    content_type: str | None
    sha256: str | None
    etag: str | None
    copied_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What stood in the bucket before: the artifact itself, or keys that something else or a damaged copy has."""

    present: PlacedObject | None = None
    foreign: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()


class ArtifactCopy:
    """One artifact, once. `known` is what the manifest has, until it is seen to be gone, damaged or replaced."""

    def __init__(self, tools: CopyTools, request: CopyRequest, refresh: Callable[[], str | None] | None) -> None:
        self._tools = tools
        self._bucket = tools.bucket
        self._request = request
        self.known = request.known
        link = Link((request.source_url or "").strip(), refresh, request.better_link)
        self.waited = 0.0
        """Seconds in which it waited for its turn to be fetched."""
        self.download = Download(tools.transport, link, tools.limits, tools.stopping)

    def run(self) -> PlacedObject:
        """Have the artifact in the bucket. Raises CopyError, BucketError, CopyCancelled, and what the link's do."""
        found = _Found()
        if not self._tools.overwrite:
            found = self._look()
            if found.present is not None:
                return found.present
            self.known = None
        if not self.download.link.settle():
            raise CopyError(ErrorCode.NO_LINK, f"the answer has no link for {self._request.artifact}")
        while True:
            try:
                return self._fetch(found)
            except StreamRestarted:
                continue

    # -- what is there ----------------------------------------------------------------------------------------------

    def _look(self) -> _Found:
        request, known, template = self._request, self._request.known, self._tools.template
        listed = self._tools.presence.objects(request.task_id, request.artifact)
        keys = list(listed)
        if known is not None:
            if known.key in listed and _is_same(known, listed[known.key].size_bytes, listed[known.key].etag):
                return _Found(_still_there(known))
            if template.stem_of(known.key) != template.stem(request.task_id, request.artifact):
                # Copied under another template or prefix.
                keys.insert(0, known.key)
        foreign: set[str] = set()
        damaged: set[str] = set()
        for key in keys:
            stored = self._bucket.head(key)
            if stored is None:
                continue
            present = self._recognized(stored)
            if present is not None:
                return _Found(present)
            (damaged if self._is_ours(stored) else foreign).add(key)
        return _Found(None, frozenset(foreign), frozenset(damaged))

    def _recognized(self, stored: StoredObject) -> PlacedObject | None:
        """The artifact, if the object is it by its own metadata or by the manifest, and no damaged copy of it."""
        known, is_ours = self._request.known, self._is_ours(stored)
        if known is None or known.key != stored.key:
            return self._present(stored) if is_ours else None
        if stored.size_bytes != known.size_bytes:
            # Without a digest of its own, or with the one that the manifest has, these are not the bytes of a copy.
            is_another_copy = is_ours and stored.sha256 not in {None, known.sha256}
            return self._present(stored) if is_another_copy else None
        if _is_same(known, stored.size_bytes, stored.etag):
            # Some stores list another ETag than they tell of the object itself.
            return _still_there(known)
        present = self._present(stored)
        is_known = present.sha256 is not None and present.sha256 == known.sha256
        return present if is_ours or is_known else None

    def _is_ours(self, stored: StoredObject) -> bool:
        return stored.belongs_to(self._request.task_id, self._request.artifact.value)

    def _present(self, stored: StoredObject) -> PlacedObject:
        digest = self._bucket.digest_of(stored)
        return _placed(CopyStatus.ALREADY_PRESENT, stored, digest)

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _fetch(self, found: _Found) -> PlacedObject:
        tools, request = self._tools, self._request
        copy_id = uuid.uuid4().hex
        source = redact_link(self.download.link.url)

        def label(sha256: str | None = None) -> ObjectLabel:
            return ObjectLabel(request.task_id, request.artifact.value, source, copy_id, sha256)

        def key(media_type: MediaType) -> str:
            return tools.template.key(request.task_id, request.artifact, media_type.extension)

        def begin(media_type: MediaType) -> Upload:
            return self._bucket.start_upload(key(media_type), media_type.content_type, label())

        asked = time.monotonic()
        with Intake(self.download, request.artifact, tools.buffers, tools.uploader, begin) as intake:
            self.waited += time.monotonic() - asked
            arrived = intake.take()
            published = self._publish(key(arrived.media_type), arrived, label(arrived.sha256), found)
            intake.is_completed = published.status is CopyStatus.COPIED
            return published

    # -- making it visible ------------------------------------------------------------------------------------------

    def _publish(self, key: str, arrived: Arrived, label: ObjectLabel, found: _Found) -> PlacedObject:
        only_if_absent = not self._tools.overwrite and key not in found.damaged
        if key in found.foreign:
            settled = self._settle(key, arrived, label)
            if settled is not None:
                return settled
        for _ in range(_PUBLISH_TRIES):
            try:
                return self._write(key, arrived, label, only_if_absent=only_if_absent)
            except KeyExists:
                pass
            except CopyError:
                # The answer may have been lost and not the write.
                stored = self._bucket.head(key)
                if stored is None or stored.copy_id != label.copy_id:
                    raise
            settled = self._settle(key, arrived, label)
            if settled is not None:
                return settled
            self._tools.stopping.wait(_PUBLISH_PAUSE_SECONDS)
        raise CopyError(
            ErrorCode.STORE_ERROR, f"the store reports conflicting writes to {key}, and has no object there"
        )

    def _write(self, key: str, arrived: Arrived, label: ObjectLabel, *, only_if_absent: bool) -> PlacedObject:
        """Raises KeyExists when what stands under the key has to be looked at, whoever wrote it."""
        content_type = arrived.media_type.content_type
        if arrived.upload is None:
            body = arrived.body or bytearray()
            etag, is_confirmed = self._bucket.put(key, body, content_type, label, only_if_absent=only_if_absent)
        else:
            etag, is_confirmed = arrived.upload.complete(arrived.parts, only_if_absent=only_if_absent), False
        if not is_confirmed:
            self._confirm(key, arrived, label)
        now = datetime.now(timezone.utc)
        return PlacedObject(CopyStatus.COPIED, key, arrived.size_bytes, content_type, arrived.sha256, etag, now)

    def _confirm(self, key: str, arrived: Arrived, label: ObjectLabel) -> None:
        stored = self._bucket.head(key)
        is_whole = stored is not None and stored.size_bytes == arrived.size_bytes
        if stored is not None and stored.copy_id == label.copy_id:
            if not is_whole:
                raise KeyExists
        elif stored is not None and stored.copy_id is not None and not self._tools.overwrite:
            # A store that looks and writes in two steps let another run in between, and its object stands now.
            raise KeyExists
        elif not is_whole:
            size = stored.size_bytes if stored is not None else "no"
            raise CopyError(
                ErrorCode.STORE_ERROR, f"{arrived.size_bytes} bytes were written to {key}, {size} bytes are there"
            )

    def _settle(self, key: str, arrived: Arrived, label: ObjectLabel) -> PlacedObject | None:
        """What stands under the key instead: our own write after all, another run's, or something else's.

        None when there is nothing. Raises CopyError (`key_taken`) for another's object with other bytes, and
        (`store_error`) when our own write was stored with other bytes, which are deleted.
        """
        stored = self._bucket.head(key)
        if stored is None:
            return None
        if stored.copy_id == label.copy_id:
            if stored.size_bytes != arrived.size_bytes:
                self._delete_damaged(stored, arrived)
            return _placed(CopyStatus.COPIED, stored, arrived.sha256)
        if stored.belongs_to(label.task_id, label.artifact):
            return self._present(stored)
        if stored.size_bytes == arrived.size_bytes and self._bucket.digest_of(stored) == arrived.sha256:
            return self._present(stored)
        raise CopyError(
            ErrorCode.KEY_TAKEN, f"an object that is not of this task stands under {key}; overwrite replaces it"
        )

    def _delete_damaged(self, stored: StoredObject, arrived: Arrived) -> None:
        key = stored.key
        if self.known is not None and self.known.key == key:
            self.known = None
        what = f"{arrived.size_bytes} bytes were written to {key}, {stored.size_bytes} were stored"
        try:
            self._bucket.delete(key)
        except CopyError as error:
            raise CopyError(ErrorCode.STORE_ERROR, f"{what}, and are there still: delete them ({error})") from None
        raise CopyError(ErrorCode.STORE_ERROR, f"{what}, and deleted again")


def _is_same(known: KnownObject, size_bytes: int, etag: str | None) -> bool:
    """Whether what the store says is what the manifest has; an ETag that either does not know proves nothing."""
    return size_bytes == known.size_bytes and (not etag or not known.etag or etag == known.etag)


def _still_there(known: KnownObject) -> PlacedObject:
    return PlacedObject(
        CopyStatus.ALREADY_PRESENT,
        known.key,
        known.size_bytes,
        known.content_type,
        known.sha256,
        known.etag,
        known.copied_at,
    )


def _placed(status: CopyStatus, stored: StoredObject, sha256: str | None) -> PlacedObject:
    return PlacedObject(
        status, stored.key, stored.size_bytes, stored.content_type, sha256, stored.etag, stored.modified_at
    )
