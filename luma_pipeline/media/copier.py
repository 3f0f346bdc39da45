"""The copier: artifacts in, objects in the bucket and one result each out."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from luma_pipeline.media.artifact_copy import ArtifactCopy, CopyTools, PlacedObject
from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.bucket_listing import BucketListing
from luma_pipeline.media.buffers import BufferPool
from luma_pipeline.media.config import TransferConfig
from luma_pipeline.media.errors import BucketError, CopyCancelled, CopyError, ErrorCode, StoreUnavailableError
from luma_pipeline.media.facts import NO_FACTS
from luma_pipeline.media.links import redact_link
from luma_pipeline.media.object_index import ObjectIndex
from luma_pipeline.media.purge import ObjectPurge
from luma_pipeline.media.results import CopyRequest, CopyResult, CopyStatus, KnownObject
from luma_pipeline.media.store import Bucket
from luma_pipeline.media.transport import Transport
from luma_pipeline.s3.breaker import RequestBreaker
from luma_pipeline.s3.client import make_client
from luma_pipeline.s3.errors import S3SettingsError
from luma_pipeline.s3.objects import ObjectStore
from luma_pipeline.s3.versions import NotDeleted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_MOST_SPARE_BUFFERS = 8
# Small artifacts that are written while others are fetched in their place. Where hosts are slow it is a sixth more
# MB/s; with more of them the store's work of a busy machine costs more than is won.
_MOST_WRITTEN_BESIDE = 4
# So many requests for each worker wait at most; more would only grow old, and their links with them.
_SUBMITTED_PER_WORKER = 4
# So many failures of the store with no success between them are not the artifacts' fault.
_STORE_FAILURES_BEFORE_STOP = 16


# Seconds after which a store that stalls has been cut off, with the abort of what was begun.
_LONGEST_STOP_SECONDS = 11.0
_CLIENT_TIMEOUTS = (5.0, 60.0)


class MediaCopier:
    """Copies artifacts from media hosts into one bucket, in threads of its own; to be used in a `with` block.

    Memory: `part_size_bytes` for each worker, and for up to 8 parts more, whatever the size of a file. As many
    artifacts are fetched at once as there are workers, while up to 4 small ones that have come are being written.

    config: the settings, with their defaults.
    s3_client: by default boto3's standard chain of settings and credentials. A store that stalls is cut off by
        `close(cancel=True)` only where the client is the copier's own.
    refresh: asks the provider once for a living link in place of a dead one; what it raises passes through `copy`.

    Raises BucketError when no S3 client can be set up.
    """

    def __init__(
        self,
        config: TransferConfig,
        *,
        s3_client: S3Client | None = None,
        refresh: Callable[[str, Artifact], str | None] | None = None,
    ) -> None:
        workers = config.max_workers
        spare = min(workers, _MOST_SPARE_BUFFERS)
        threads = workers + min(workers, _MOST_WRITTEN_BESIDE)
        client = s3_client or _make_client(max_connections=threads + workers + spare)
        self._breaker = RequestBreaker(client) if s3_client is None else None
        self._client = client
        self._stopping = threading.Event()
        self._template = config.template
        self._bucket = Bucket(client, config.bucket, config.objects, self._stopping)
        self._listing = BucketListing(self._bucket, self._template)
        self._index = ObjectIndex(self._bucket, self._template, self._listing)
        timeouts = (config.connect_timeout, config.read_timeout)
        self._transport = Transport(config.guard, timeouts, workers, self._stopping)
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="media-copy")
        self._uploader = ThreadPoolExecutor(workers + spare, thread_name_prefix="media-part")
        self._tools = CopyTools(
            self._bucket,
            self._template,
            self._index,
            self._transport,
            config.limits,
            BufferPool(config.part_size_bytes, workers, spare),
            self._uploader,
            self._stopping,
            config.overwrite,
        )
        self._refresh = refresh
        self.bytes_downloaded = 0
        """Bytes taken from media hosts by copies that have ended."""
        # Notified when a submitted copy has ended, and when there will be no further ones.
        self._changed = threading.Condition()
        self._under_way: dict[tuple[str, Artifact], Future[CopyResult]] = {}
        self._most_under_way = _SUBMITTED_PER_WORKER * workers
        self._is_closed = False
        self._fatal: BucketError | None = None
        self._store_failures = 0

    def __enter__(self) -> MediaCopier:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=error_type is not None)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for what is under way, or with `cancel` break it off: uploads are aborted, futures get CopyCancelled.

        With `cancel` it returns within about ten seconds, whatever the media host and the store do.
        """
        with self._changed:
            self._is_closed = True
            if cancel:
                self._stopping.set()
            self._changed.notify_all()
            under_way = list(self._under_way.values())
        if cancel and self._breaker is not None:
            self._breaker.stop()
        left = wait(under_way, timeout=_LONGEST_STOP_SECONDS if cancel else None).not_done
        if left:
            log.warning("%d copies did not end and are left behind; a sweep takes what they leave", len(left))
        self._workers.shutdown(wait=not left)
        self._stopping.set()
        self._uploader.shutdown(wait=not left)
        self._transport.close()
        if self._breaker is not None and not left:
            self._breaker.close()
            self._client.close()

    # -- before the copying -----------------------------------------------------------------------------------------

    def check_bucket(self) -> None:
        """Raise BucketError, with what to do, unless the bucket is there and would take objects. Leaves nothing behind.

        Proves the permissions to list and to write by a listing of one key and an upload that is begun and aborted.
        """
        try:
            self._bucket.check(self._template.prefix)
        except CopyError as error:
            raise StoreUnavailableError(str(error)) from None

    def sweep_orphans(self, older_than_seconds: float) -> int:
        """Abort the uploads that killed runs left below our prefix, under keys that our template gives; how many.

        An upload in progress lives no longer than `max_seconds`, so an age above that harms no other run. Nothing is
        swept where the permission to list uploads is missing, or where the store does not say when they began
        (SeaweedFS before 4.48).
        """
        try:
            return self._bucket.abort_uploads(self._template.prefix, self._template.is_ours, older_than_seconds)
        except (BucketError, CopyError) as error:
            log.warning("orphaned uploads were not looked for: %s", error)
            return 0

    def look_for(self, asked: Iterable[tuple[str, Artifact]]) -> None:
        """Look for many artifacts in the bucket at once, if that is cheaper than that their copies do it one by one.

        Raises BucketError.
        """
        try:
            self._index.load(asked)
        except CopyError as error:
            raise StoreUnavailableError(str(error)) from None

    def seen(self, objects: Sequence[tuple[str | None, int | None, str | None]]) -> npt.NDArray[np.bool_]:
        """For each key, size in bytes and ETag whether the store lists that very object.

        False where it does not, and where it is cheaper to ask for each by itself. The copier lists the bucket once.
        Raises BucketError.
        """
        try:
            if self._listing.reaches_end(len(objects)):
                return self._listing.has(objects)
        except CopyError as error:
            raise StoreUnavailableError(str(error)) from None
        return np.zeros(len(objects), dtype=bool)

    def stored_sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Ask the store for each key by itself: the object's size in bytes, None where there is none.

        Raises BucketError.
        """

        def size(key: str) -> int | None:
            stored = self._bucket.head(key)
            return None if stored is None else stored.size_bytes

        asked = list(keys)
        try:
            return dict(zip(asked, self._workers.map(size, asked), strict=True))
        except CopyError as error:
            raise StoreUnavailableError(str(error)) from None

    def purge(self, keys: Mapping[str, Sequence[str]]) -> list[NotDeleted]:
        """Remove for good what the bucket has of tasks; returns what is still there.

        `keys` has the tasks, and what each has under other keys than those of the template.

        A task whose objects cannot be listed is told of in the log.
        """
        purge = ObjectPurge(ObjectStore(self._client, self._bucket.name), [self._template])
        found = [purge.find(task_id, others) for task_id, others in keys.items()]
        for each in found:
            if each.problem:
                log.warning("not all objects of a forgotten task were found: %s", each.problem)
        return purge.remove(found)

    # -- copying ----------------------------------------------------------------------------------------------------

    def submit(self, request: CopyRequest) -> Future[CopyResult]:
        """Copy in a thread of the pool. The same artifact asked for while it is under way is copied once.

        Waits while four requests for each worker are under way or queued, so that links are taken from the provider no
        faster than they are used; not to be called from within a copy (`refresh`, `better_link`).

        The future raises BucketError when nothing can be copied any more, which every later `submit`, and one that
        waits, raises at once, and CopyCancelled when the copier was closed with `cancel`. One bad artifact is a result,
        not an error.
        """
        identity = (request.task_id, request.artifact)
        with self._changed:
            while True:
                self._raise_if_over()
                running = self._under_way.get(identity)
                if running is not None:
                    return running
                if len(self._under_way) < self._most_under_way:
                    break
                self._changed.wait()
            future = self._workers.submit(self.copy, request)
            self._under_way[identity] = future
        future.add_done_callback(lambda _: self._forget(identity))
        return future

    def _forget(self, identity: tuple[str, Artifact]) -> None:
        with self._changed:
            self._under_way.pop(identity, None)
            self._changed.notify_all()

    def _raise_if_over(self) -> None:
        if self._fatal is not None:
            # A new one each time: an error that is raised again and again collects a traceback of all those times.
            raise type(self._fatal)(str(self._fatal))
        if self._is_closed:
            raise CopyCancelled("the copier was closed")

    def copy(self, request: CopyRequest) -> CopyResult:
        """Have the artifact in the bucket; how that ended. Raises BucketError, CopyCancelled, what `refresh` raises."""
        if self._fatal is not None or self._stopping.is_set():
            self._raise_if_over()
        started = time.monotonic()
        refresh = self._refresh
        renew = None if refresh is None else lambda: refresh(request.task_id, request.artifact)
        copy = ArtifactCopy(self._tools, request, renew)
        try:
            outcome: PlacedObject | CopyError = copy.run()
        except CopyError as error:
            if error.code is ErrorCode.STORE_ERROR and self._stopping.is_set():
                raise CopyCancelled("the copier was closed") from None
            outcome = error.with_traceback(None)  # it leads back to this frame
        except CopyCancelled:
            raise
        except BucketError as error:
            self._stop(type(error)(str(error)))
            raise
        except Exception as error:
            if error is copy.download.link.failure:
                raise
            outcome = _unexpected(request, error)
        finally:
            copy.download.close()
        self._watch_store(outcome)
        with self._changed:
            self.bytes_downloaded += copy.download.bytes_downloaded
        return self._result(request, outcome, time.monotonic() - started - copy.waited, copy)

    # -- results ----------------------------------------------------------------------------------------------------

    def _stop(self, reason: BucketError) -> None:
        with self._changed:
            self._fatal = reason
            self._changed.notify_all()

    def _watch_store(self, outcome: PlacedObject | CopyError) -> None:
        """Stop when the store fails for one artifact after the other."""
        with self._changed:
            if isinstance(outcome, PlacedObject):
                self._store_failures = 0
            elif outcome.code is ErrorCode.STORE_ERROR:
                self._store_failures += 1
                if self._store_failures >= _STORE_FAILURES_BEFORE_STOP:
                    self._stop(
                        StoreUnavailableError(
                            f"the store failed {self._store_failures} times in a row, last: {outcome}; what was copied "
                            "stays, run again when the store is well"
                        )
                    )

    def _result(
        self, request: CopyRequest, outcome: PlacedObject | CopyError, seconds: float, copy: ArtifactCopy
    ) -> CopyResult:
        there: PlacedObject | KnownObject | None
        if isinstance(outcome, PlacedObject):
            status, code, message, there = outcome.status, None, None, outcome
        else:
            status = CopyStatus.EXPIRED if outcome.code is ErrorCode.LINK_EXPIRED else CopyStatus.FAILED
            code, message, there = outcome.code.value, str(outcome), copy.known
        url = copy.download.link.url
        return CopyResult(
            request.task_id,
            request.artifact,
            status,
            redact_link(url) if url else None,
            self._bucket.name,
            key=there.key if there is not None else None,
            size_bytes=there.size_bytes if there is not None else None,
            content_type=there.content_type if there is not None else None,
            sha256=there.sha256 if there is not None else None,
            etag=there.etag if there is not None else None,
            copied_at=there.copied_at if there is not None else None,
            error_code=code,
            error_message=message,
            facts=there.facts if there is not None else NO_FACTS,
            seconds=seconds,
            bytes_downloaded=copy.download.bytes_downloaded,
            attempts=copy.download.attempts,
        )


def _make_client(max_connections: int) -> S3Client:
    try:
        return make_client(max_connections=max_connections, timeouts=_CLIENT_TIMEOUTS)
    except S3SettingsError as error:
        raise BucketError(str(error)) from None


def _unexpected(request: CopyRequest, error: Exception) -> CopyError:
    """A row for an error that is not ours. Its text may hold anything, a signed link too; its place is code alone."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s of task %r: unexpected %s\n%s", request.artifact, request.task_id, type(error).__name__, place)
    return CopyError(ErrorCode.UNEXPECTED, f"unexpected {type(error).__name__}; the log says where")
