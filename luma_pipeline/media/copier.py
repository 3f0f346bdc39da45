"""The copier: artifacts in, objects in the bucket and one result each out."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.buffers import BufferPool
from luma_pipeline.media.download import Download, DownloadLimits, StreamRestarted
from luma_pipeline.media.errors import BucketError, CopyCancelled, CopyError, ErrorCode
from luma_pipeline.media.guard import Guard
from luma_pipeline.media.intake import Arrived, Intake
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.links import Link, redact_link
from luma_pipeline.media.presence import Presence
from luma_pipeline.media.sniff import MediaType
from luma_pipeline.media.store import (
    MOST_PARTS,
    SMALLEST_PART_BYTES,
    Bucket,
    KeyExists,
    ObjectLabel,
    ObjectSettings,
    StoredObject,
    Upload,
    make_client,
)
from luma_pipeline.media.transport import Transport

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

MIB = 1024 * 1024
GIB = 1024 * MIB

_MOST_SPARE_BUFFERS = 8
_PUBLISH_TRIES = 3
_PUBLISH_PAUSE_SECONDS = 0.5
# So many failures of the store with no success between them are not the artifacts' fault.
_STORE_FAILURES_BEFORE_STOP = 16


class CopyStatus(str, Enum):
    """How the copy of one artifact ended."""

    COPIED = "copied"
    ALREADY_PRESENT = "already_present"
    EXPIRED = "expired"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class KnownObject:
    """What an earlier row of the manifest says is in the bucket. `copied_at` is aware, UTC."""

    key: str
    size_bytes: int
    sha256: str
    etag: str | None = None
    content_type: str | None = None
    copied_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One artifact to have in the bucket. The link may be signed, and is left out of the repr.

    `better_link` is called once the artifact is known to be missing; the link it returns is taken before `source_url`.
    """

    task_id: str
    artifact: Artifact
    source_url: str | None = field(repr=False)
    known: KnownObject | None = None
    better_link: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How it ended: one row of `luma_videos`, and numbers for the run's metadata.

    `source_url` is without its query; `sha256` is in hex; `copied_at` is aware, UTC; `error_code` is an `ErrorCode`.
    `attempts` counts requests to the media host, and is zero where nothing had to be fetched.
    """

    task_id: str
    artifact: Artifact
    status: CopyStatus
    source_url: str | None
    bucket: str
    key: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    sha256: str | None = None
    etag: str | None = None
    copied_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    seconds: float = 0.0
    bytes_downloaded: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Object:
    """The object that an artifact ended as."""

    status: CopyStatus
    key: str
    size_bytes: int
    content_type: str | None
    sha256: str
    etag: str | None
    copied_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What stood in the bucket before: the artifact itself, or keys that something else or a damaged copy has."""

    present: _Object | None = None
    foreign: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()


class MediaCopier:
    """Copies artifacts from media hosts into one bucket, in threads of its own; to be used in a `with` block.

    Memory: `part_size_bytes` for each worker, and for up to 8 parts more, whatever the size of a file.

    bucket, prefix, key_template: where objects go; the template knows `{task_id}`, `{artifact}`, and at its end
        `{extension}`.
    s3_client: by default boto3's standard chain of settings and credentials.
    allowed_media_hosts: exact names or `*.suffix`; empty lets any public host be asked.
    allow_private_addresses: for a sandbox; else no private, loopback or link-local address is connected to.
    overwrite: copies anew, whatever stands under the key.
    refresh: asks the provider once for a living link in place of a dead one; what it raises passes through `copy`.
    connect_timeout, read_timeout, stall_window_seconds, max_seconds: in seconds, for the media host; a transfer slower
        than `min_bytes_per_second` over a window is stalled, `max_seconds` bounds one artifact as a whole.
    max_attempts: requests to the media host for one artifact.
    server_side_encryption, sse_kms_key_id, storage_class, acl, tags: as in S3's PutObject.

    Raises ValueError for settings that cannot work, BucketError when no S3 client can be set up.
    """

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        s3_client: S3Client | None = None,
        key_template: str = "{task_id}/{artifact}.{extension}",
        max_workers: int = 8,
        part_size_bytes: int = 8 * MIB,
        allowed_media_hosts: Sequence[str] = (),
        allow_private_addresses: bool = False,
        max_video_bytes: int = 20 * GIB,
        overwrite: bool = False,
        refresh: Callable[[str, Artifact], str | None] | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        min_bytes_per_second: float = 16 * 1024,
        stall_window_seconds: float = 20.0,
        max_attempts: int = 5,
        max_seconds: float = 3600.0,
        max_redirects: int = 5,
        backoff_seconds: float = 0.5,
        server_side_encryption: str | None = None,
        sse_kms_key_id: str | None = None,
        storage_class: str | None = None,
        acl: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if max_workers < 1:
            raise ValueError("max_workers: at least 1")
        if part_size_bytes < SMALLEST_PART_BYTES or part_size_bytes * MOST_PARTS < max_video_bytes:
            raise ValueError(
                f"part_size_bytes: at least {SMALLEST_PART_BYTES}, and max_video_bytes / {MOST_PARTS}: S3 takes no "
                "smaller and no more parts"
            )
        self._template = KeyTemplate(key_template, prefix)
        self._limits = DownloadLimits(
            max_bytes=max_video_bytes,
            min_bytes_per_second=min_bytes_per_second,
            stall_window_seconds=stall_window_seconds,
            max_attempts=max_attempts,
            max_seconds=max_seconds,
            max_redirects=max_redirects,
            backoff_seconds=backoff_seconds,
        )
        spare = min(max_workers, _MOST_SPARE_BUFFERS)
        self._owns_client = s3_client is None
        client = s3_client or make_client(max_connections=2 * max_workers + spare, timeouts=(10.0, 60.0))
        settings = ObjectSettings(server_side_encryption, sse_kms_key_id, storage_class, acl, dict(tags or {}))
        self._bucket = Bucket(client, bucket, settings)
        self._presence = Presence(self._bucket, self._template)
        guard = Guard(allowed_media_hosts, allow_private_addresses=allow_private_addresses)
        self._transport = Transport(guard, (connect_timeout, read_timeout), max_idle_per_host=max_workers)
        self._buffers = BufferPool(part_size_bytes, spare)
        self._overwrite = overwrite
        self._refresh = refresh
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._in_flight: dict[tuple[str, Artifact], Future[CopyResult]] = {}
        self._fatal: BucketError | None = None
        self._store_failures = 0
        self._workers = ThreadPoolExecutor(max_workers, thread_name_prefix="media-copy")
        self._uploader = ThreadPoolExecutor(max_workers + spare, thread_name_prefix="media-part")

    def __enter__(self) -> MediaCopier:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=error_type is not None)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for what is under way, or with `cancel` break it off: uploads are aborted, futures get CopyCancelled."""
        if cancel:
            self._stopping.set()
        self._workers.shutdown(wait=True, cancel_futures=cancel)
        self._uploader.shutdown(wait=True)
        self._transport.close()
        if self._owns_client:
            self._bucket.client.close()

    # -- before the copying -----------------------------------------------------------------------------------------

    def check_bucket(self) -> None:
        """Raise BucketError, with what to do, unless the bucket is there and would take objects. Leaves nothing behind.

        Proves the permissions to list and to write by a listing of one key and an upload that is begun and aborted.
        """
        try:
            self._bucket.check(self._template.prefix)
        except CopyError as error:
            raise BucketError(f"bucket {self._bucket.name!r} does not work: {error}") from error

    def sweep_orphans(self, older_than_seconds: float) -> int:
        """Abort the uploads that killed runs left below our prefix, under keys that our template gives; how many.

        An upload in progress lives no longer than `max_seconds`, so an age above that harms no other run. Where the
        permission to list uploads is missing, nothing is swept.
        """
        try:
            return self._bucket.abort_uploads(self._template.prefix, self._template.is_ours, older_than_seconds)
        except (BucketError, CopyError) as error:
            log.warning("orphaned uploads were not looked for: %s", error)
            return 0

    def load_known(self, wanted: Iterable[tuple[str, Artifact]]) -> int:
        """Look for many artifacts in the bucket at once, so that their copies need no request each to find out.

        Returns how many objects are there. Raises BucketError.
        """
        try:
            return self._presence.load(wanted)
        except CopyError as error:
            raise BucketError(f"bucket {self._bucket.name!r} cannot be listed: {error}") from error

    def stored_sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Ask the store for each key by itself: the object's size in bytes, None where there is none.

        Raises BucketError.
        """

        def size(key: str) -> int | None:
            stored = self._bucket.head(key)
            return None if stored is None else stored.size_bytes

        wanted = list(keys)
        try:
            return dict(zip(wanted, self._workers.map(size, wanted), strict=True))
        except CopyError as error:
            raise BucketError(f"bucket {self._bucket.name!r} cannot be looked at: {error}") from error

    # -- copying ----------------------------------------------------------------------------------------------------

    def submit(self, request: CopyRequest) -> Future[CopyResult]:
        """Copy in a thread of the pool. The same artifact asked for while it is under way is copied once.

        The future raises BucketError when nothing can be copied any more, which every later `submit` raises at once,
        and CopyCancelled when the copier was closed with `cancel`. One bad artifact is a result, not an error.
        """
        identity = (request.task_id, request.artifact)
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            running = self._in_flight.get(identity)
            if running is not None:
                return running
            future = self._workers.submit(self.copy, request)
            self._in_flight[identity] = future
        future.add_done_callback(lambda _: self._forget(identity))
        return future

    def _forget(self, identity: tuple[str, Artifact]) -> None:
        with self._lock:
            self._in_flight.pop(identity, None)

    def copy(self, request: CopyRequest) -> CopyResult:
        """Have the artifact in the bucket; how that ended. Raises BucketError, CopyCancelled, what `refresh` raises."""
        if self._fatal is not None:
            raise self._fatal
        if self._stopping.is_set():
            raise CopyCancelled("the copier was closed")
        started = time.monotonic()
        download = self._download(request)
        try:
            outcome: _Object | CopyError = self._copy(request, download)
        except CopyError as error:
            outcome = error
        except BucketError as error:
            self._fatal = error
            raise
        finally:
            if download is not None:
                download.close()
        self._watch_store(outcome)
        return self._result(request, outcome, time.monotonic() - started, download)

    def _download(self, request: CopyRequest) -> Download | None:
        url = (request.source_url or "").strip()
        if not url and request.better_link is None:
            return None
        refresh = self._refresh
        renew = None if refresh is None else lambda: refresh(request.task_id, request.artifact)
        return Download(self._transport, Link(url, renew, request.better_link), self._limits, self._stopping)

    def _copy(self, request: CopyRequest, download: Download | None) -> _Object:
        found = _Found() if self._overwrite else self._look(request)
        if found.present is not None:
            return found.present
        if download is None or not download.link.settle():
            raise CopyError(ErrorCode.NO_LINK, f"the answer has no link for {request.artifact}")
        while True:
            try:
                return self._fetch(request, download, found)
            except StreamRestarted:
                continue

    def _fetch(self, request: CopyRequest, download: Download, found: _Found) -> _Object:
        copy_id = uuid.uuid4().hex
        source = redact_link(download.link.url)

        def label(sha256: str | None = None) -> ObjectLabel:
            return ObjectLabel(request.task_id, request.artifact.value, source, copy_id, sha256)

        def key(media_type: MediaType) -> str:
            return self._template.key(request.task_id, request.artifact, media_type.extension)

        def begin(media_type: MediaType) -> Upload:
            return self._bucket.start_upload(key(media_type), media_type.content_type, label())

        with Intake(download, request.artifact, self._buffers, self._uploader, begin) as intake:
            arrived = intake.take()
            published = self._publish(key(arrived.media_type), arrived, label(arrived.sha256), found)
            intake.is_completed = published.status is CopyStatus.COPIED
            return published

    # -- what is there ----------------------------------------------------------------------------------------------

    def _look(self, request: CopyRequest) -> _Found:
        sizes = self._presence.sizes(request.task_id, request.artifact)
        known = request.known
        if known is not None and self._size_of(known.key, sizes, request) == known.size_bytes:
            return _Found(
                _Object(
                    CopyStatus.ALREADY_PRESENT,
                    known.key,
                    known.size_bytes,
                    known.content_type,
                    known.sha256,
                    known.etag,
                    known.copied_at,
                )
            )
        foreign, damaged = set(), set()
        for key in sizes:
            stored = self._bucket.head(key)
            if stored is None:
                continue
            if not stored.belongs_to(request.task_id, request.artifact.value):
                foreign.add(key)
            elif known is not None and known.key == key and stored.sha256 == known.sha256:
                # The digest that the manifest has, and another size: not the bytes that were copied.
                damaged.add(key)
            else:
                return _Found(self._present(stored))
        return _Found(None, frozenset(foreign), frozenset(damaged))

    def _size_of(self, key: str, sizes: dict[str, int], request: CopyRequest) -> int | None:
        if key in sizes:
            return sizes[key]
        if self._template.stem_of(key) == self._template.stem(request.task_id, request.artifact):
            return None
        # Copied under another template or prefix.
        stored = self._bucket.head(key)
        return stored.size_bytes if stored is not None else None

    def _present(self, stored: StoredObject, status: CopyStatus = CopyStatus.ALREADY_PRESENT) -> _Object:
        return _Object(
            status,
            stored.key,
            stored.size_bytes,
            stored.content_type,
            self._bucket.digest_of(stored),
            stored.etag,
            stored.modified_at,
        )

    # -- making it visible ------------------------------------------------------------------------------------------

    def _publish(self, key: str, arrived: Arrived, label: ObjectLabel, found: _Found) -> _Object:
        only_if_absent = not self._overwrite and key not in found.damaged
        if key in found.foreign:
            settled = self._settle(key, arrived, label)
            if settled is not None:
                return settled
        for _ in range(_PUBLISH_TRIES):
            try:
                return self._write(key, arrived, label, only_if_absent=only_if_absent)
            except KeyExists:
                settled = self._settle(key, arrived, label)
            except CopyError:
                # The answer may have been lost and not the write.
                stored = self._bucket.head(key)
                if stored is None or stored.copy_id != label.copy_id:
                    raise
                settled = self._settle(key, arrived, label)
            if settled is not None:
                return settled
            self._stopping.wait(_PUBLISH_PAUSE_SECONDS)
        raise CopyError(
            ErrorCode.STORE_ERROR, f"the store reports conflicting writes to {key}, and has no object there"
        )

    def _write(self, key: str, arrived: Arrived, label: ObjectLabel, *, only_if_absent: bool) -> _Object:
        content_type = arrived.media_type.content_type
        if arrived.upload is None:
            body = arrived.body or bytearray()
            etag, is_confirmed = self._bucket.put(key, body, content_type, label, only_if_absent=only_if_absent)
        else:
            etag, is_confirmed = arrived.upload.complete(arrived.parts, only_if_absent=only_if_absent), False
        if not is_confirmed:
            stored = self._bucket.head(key)
            if stored is None or stored.size_bytes != arrived.size_bytes:
                size = stored.size_bytes if stored is not None else "no"
                raise CopyError(
                    ErrorCode.STORE_ERROR, f"{arrived.size_bytes} bytes were written to {key}, {size} bytes are there"
                )
            if stored.copy_id not in {None, label.copy_id} and not self._overwrite:
                # A store that looks and writes in two steps let another run in between, and its object stands now.
                raise KeyExists
        now = datetime.now(timezone.utc)
        return _Object(CopyStatus.COPIED, key, arrived.size_bytes, content_type, arrived.sha256, etag, now)

    def _settle(self, key: str, arrived: Arrived, label: ObjectLabel) -> _Object | None:
        """What stands under the key instead: our own write after all, another run's, or something else's.

        None when there is nothing. Raises CopyError (`key_taken`) for another's object with other bytes.
        """
        stored = self._bucket.head(key)
        if stored is None:
            return None
        if stored.copy_id == label.copy_id and stored.size_bytes == arrived.size_bytes:
            return _Object(
                CopyStatus.COPIED,
                key,
                stored.size_bytes,
                stored.content_type,
                arrived.sha256,
                stored.etag,
                stored.modified_at,
            )
        if stored.belongs_to(label.task_id, label.artifact):
            return self._present(stored)
        if stored.size_bytes == arrived.size_bytes and self._bucket.digest_of(stored) == arrived.sha256:
            return self._present(stored)
        raise CopyError(
            ErrorCode.KEY_TAKEN, f"an object that is not of this task stands under {key}; overwrite replaces it"
        )

    # -- results ----------------------------------------------------------------------------------------------------

    def _watch_store(self, outcome: _Object | CopyError) -> None:
        """Stop when the store fails for one artifact after the other."""
        with self._lock:
            if isinstance(outcome, _Object):
                self._store_failures = 0
            elif outcome.code is ErrorCode.STORE_ERROR:
                self._store_failures += 1
                if self._store_failures >= _STORE_FAILURES_BEFORE_STOP:
                    self._fatal = BucketError(
                        f"bucket {self._bucket.name!r}: the store failed {self._store_failures} times in a row, last: "
                        f"{outcome}; what was copied stays, run again when the store is well"
                    )

    def _result(
        self, request: CopyRequest, outcome: _Object | CopyError, seconds: float, download: Download | None
    ) -> CopyResult:
        url = download.link.url if download is not None else request.source_url
        source = redact_link(url) if url else None
        bytes_downloaded = download.bytes_downloaded if download is not None else 0
        attempts = download.attempts if download is not None else 0
        if isinstance(outcome, CopyError):
            status = CopyStatus.EXPIRED if outcome.code is ErrorCode.LINK_EXPIRED else CopyStatus.FAILED
            return CopyResult(
                request.task_id,
                request.artifact,
                status,
                source,
                self._bucket.name,
                error_code=outcome.code.value,
                error_message=str(outcome),
                seconds=seconds,
                bytes_downloaded=bytes_downloaded,
                attempts=attempts,
            )
        return CopyResult(
            request.task_id,
            request.artifact,
            outcome.status,
            source,
            self._bucket.name,
            outcome.key,
            outcome.size_bytes,
            outcome.content_type,
            outcome.sha256,
            outcome.etag,
            outcome.copied_at,
            seconds=seconds,
            bytes_downloaded=bytes_downloaded,
            attempts=attempts,
        )
