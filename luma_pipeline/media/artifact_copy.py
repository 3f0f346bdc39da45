"""The copy of one artifact: whether it is there, fetching it, and making it visible."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from luma_pipeline.media.buffers import BufferPool
from luma_pipeline.media.download import Download, DownloadLimits, StreamRestarted
from luma_pipeline.media.errors import BucketError, CopyError, ErrorCode
from luma_pipeline.media.facts import NO_FACTS, MediaFacts
from luma_pipeline.media.intake import Arrived, Intake
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.links import Link, redact_link
from luma_pipeline.media.object_decision import Expected, Match, ObjectFacts, Owner, Verdict, compare, decide
from luma_pipeline.media.object_index import ObjectIndex
from luma_pipeline.media.results import CopyRequest, CopyStatus, KnownObject
from luma_pipeline.media.sniff import MediaType
from luma_pipeline.media.store import Bucket, Contents, KeyExists, ObjectLabel, StoredObject, Upload
from luma_pipeline.media.transport import Transport

_PUBLISH_TRIES = 3
_PUBLISH_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class CopyTools:
    """What the copies of a copier share. With `overwrite` nothing is looked for, and what stands there is replaced."""

    bucket: Bucket
    template: KeyTemplate
    index: ObjectIndex
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
    facts: MediaFacts


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
        self._read: tuple[StoredObject, Contents] | None = None
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
        if not self.download.link.ensure_url():
            raise CopyError(ErrorCode.NO_LINK, f"the answer has no link for {self._request.artifact}")
        while True:
            try:
                return self._fetch(found)
            except StreamRestarted:
                continue

    # -- what is there ----------------------------------------------------------------------------------------------

    def _look(self) -> _Found:
        known = self._request.known
        foreign: set[str] = set()
        damaged: set[str] = set()
        for key in self._keys():
            stored = self._bucket.head(key)
            if stored is None:
                continue
            verdict = self._verdict_before(stored)
            if verdict is Verdict.AS_KNOWN and known is not None:
                return _Found(_as_known(known))
            if verdict is Verdict.PRESENT:
                return _Found(self._present(stored))
            (damaged if verdict is Verdict.DAMAGED else foreign).add(key)
        return _Found(None, frozenset(foreign), frozenset(damaged))

    def _keys(self) -> Iterator[str]:
        """The key that the manifest has, then the others that the bucket lists; these are asked for if it comes so far.

        The known one may be of another template or prefix.
        """
        request, known = self._request, self._request.known
        if known is not None:
            yield known.key
        for key in self._tools.index.objects(request.task_id, request.artifact):
            if known is None or key != known.key:
                yield key

    def _verdict_before(self, stored: StoredObject) -> Verdict:
        """What an object is before anything is fetched: by its metadata, and by the manifest where that names it."""
        known, owner = self._request.known, self._owner(stored)
        if known is None or known.key != stored.key:
            return decide(ObjectFacts(Expected.NOTHING, owner))
        size = compare(stored.size_bytes, known.size_bytes)

        def digest() -> Match:
            if size is not Match.DIFFERENT:
                return compare(self._contents_of(stored).sha256, known.sha256)
            # Not worth reading: only an object that tells its own digest can be another whole copy.
            told = stored.sha256
            return Match.UNKNOWN if told is None else Match.SAME if told == known.sha256 else Match.DIFFERENT

        return decide(ObjectFacts(Expected.MANIFEST, owner, size, compare(stored.etag, known.etag), digest))

    def _verdict_after(self, stored: StoredObject, arrived: Arrived, copy_id: str) -> Verdict:
        """What an object is beside the bytes that have been fetched."""
        owner = Owner.THIS_COPY if stored.copy_id == copy_id else self._owner(stored)

        def digest() -> Match:
            return compare(self._contents_of(stored).sha256, arrived.sha256)

        size = compare(stored.size_bytes, arrived.size_bytes)
        return decide(ObjectFacts(Expected.FETCHED, owner, size, Match.UNKNOWN, digest))

    def _owner(self, stored: StoredObject) -> Owner:
        is_ours = stored.belongs_to(self._request.task_id, self._request.artifact.value)
        return Owner.ARTIFACT if is_ours else Owner.OTHER

    def _present(self, stored: StoredObject, arrived: Arrived | None = None) -> PlacedObject:
        contents = self._contents_of(stored)
        facts = contents.facts
        for same in (arrived, self._request.known):
            if facts == NO_FACTS and same is not None and same.sha256 is not None and same.sha256 == contents.sha256:
                facts = same.facts
        return _placed(CopyStatus.ALREADY_PRESENT, stored, contents.sha256, facts)

    def _contents_of(self, stored: StoredObject) -> Contents:
        if self._read is None or self._read[0] is not stored:
            self._read = stored, self._bucket.contents_of(stored)
        return self._read[1]

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _fetch(self, found: _Found) -> PlacedObject:
        tools, request = self._tools, self._request
        copy_id = uuid.uuid4().hex
        source = redact_link(self.download.link.url)

        def label(sha256: str | None = None, facts: MediaFacts = NO_FACTS) -> ObjectLabel:
            return ObjectLabel(request.task_id, request.artifact.value, source, copy_id, sha256, facts)

        def key(media_type: MediaType) -> str:
            return tools.template.key(request.task_id, request.artifact, media_type.extension)

        def begin(media_type: MediaType) -> Upload:
            return self._bucket.start_upload(key(media_type), media_type.content_type, label())

        asked = time.monotonic()
        with Intake(self.download, request.artifact, tools.buffers, tools.uploader, begin) as intake:
            self.waited += time.monotonic() - asked
            arrived = intake.take()
            published = self._publish(key(arrived.media_type), arrived, label(arrived.sha256, arrived.facts), found)
            intake.is_completed = published.status is CopyStatus.COPIED
            return published

    # -- making it visible ------------------------------------------------------------------------------------------

    def _publish(self, key: str, arrived: Arrived, label: ObjectLabel, found: _Found) -> PlacedObject:
        only_if_absent = not self._tools.overwrite and key not in found.damaged
        if key in found.foreign:
            standing = self._standing(key, arrived, label)
            if standing is not None:
                return standing
        for _ in range(_PUBLISH_TRIES):
            try:
                return self._write(key, arrived, label, only_if_absent=only_if_absent)
            except KeyExists:
                pass
            except CopyError:
                if not self._is_written(key, label.copy_id):
                    raise
            standing = self._standing(key, arrived, label)
            if standing is not None:
                return standing
            self._tools.stopping.wait(_PUBLISH_PAUSE_SECONDS)
        raise CopyError(
            ErrorCode.STORE_ERROR, f"the store reports conflicting writes to {key}, and has no object there"
        )

    def _is_written(self, key: str, copy_id: str) -> bool:
        """Whether a write that failed is there all the same: its answer may have been lost and not the write.

        A store that does not tell is no reason to hide why the write failed.
        """
        try:
            stored = self._bucket.head(key)
        except (BucketError, CopyError):
            return False
        return stored is not None and stored.copy_id == copy_id

    def _write(self, key: str, arrived: Arrived, label: ObjectLabel, *, only_if_absent: bool) -> PlacedObject:
        """Raises KeyExists when what stands under the key has to be looked at, whoever wrote it."""
        content_type = arrived.media_type.content_type
        if arrived.upload is None:
            body = arrived.body or bytearray()
            etag, is_verified = self._bucket.put(key, body, content_type, label, only_if_absent=only_if_absent)
            is_there = is_verified
        else:
            etag, is_verified = arrived.upload.complete(arrived.parts, only_if_absent=only_if_absent)
            is_there = False
        if not is_there:
            self._confirm(key, arrived, label)
        if not is_verified and not self._bucket.has_checksums:
            self._read_back(key, arrived)
        now = datetime.now(UTC)
        return PlacedObject(
            CopyStatus.COPIED, key, arrived.size_bytes, content_type, arrived.sha256, etag, now, arrived.facts
        )

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

    def _read_back(self, key: str, arrived: Arrived) -> None:
        """Read what was written to a store that checks nothing, and whose ETags are no MD5."""
        if self._bucket.read(key).sha256 not in {None, arrived.sha256}:
            self._delete_damaged(key, f"{arrived.size_bytes} bytes were written to {key}, other bytes were stored")

    def _standing(self, key: str, arrived: Arrived, label: ObjectLabel) -> PlacedObject | None:
        """What stands under the key instead: our own write after all, another run's, or something else's.

        None when there is nothing. Raises CopyError (`key_taken`) for another's object with other bytes, and
        (`store_error`) when our own write was stored with other bytes, which are deleted.
        """
        stored = self._bucket.head(key)
        if stored is None:
            return None
        verdict = self._verdict_after(stored, arrived, label.copy_id)
        if verdict is Verdict.DAMAGED:
            what = f"{arrived.size_bytes} bytes were written to {key}, {stored.size_bytes} were stored"
            self._delete_damaged(key, what)
        if verdict is Verdict.WRITTEN:
            return _placed(CopyStatus.COPIED, stored, arrived.sha256, arrived.facts)
        if verdict is Verdict.PRESENT:
            return self._present(stored, arrived)
        raise CopyError(
            ErrorCode.KEY_TAKEN, f"an object that is not of this task stands under {key}; overwrite replaces it"
        )

    def _delete_damaged(self, key: str, what: str) -> None:
        if self.known is not None and self.known.key == key:
            self.known = None
        try:
            self._bucket.delete(key)
        except CopyError as error:
            raise CopyError(ErrorCode.STORE_ERROR, f"{what}, and are there still: delete them ({error})") from None
        raise CopyError(ErrorCode.STORE_ERROR, f"{what}, and deleted again")


def _as_known(known: KnownObject) -> PlacedObject:
    return PlacedObject(
        CopyStatus.ALREADY_PRESENT,
        known.key,
        known.size_bytes,
        known.content_type,
        known.sha256,
        known.etag,
        known.copied_at,
        known.facts,
    )


def _placed(status: CopyStatus, stored: StoredObject, sha256: str | None, facts: MediaFacts) -> PlacedObject:
    return PlacedObject(
        status, stored.key, stored.size_bytes, stored.content_type, sha256, stored.etag, stored.modified_at, facts
    )
