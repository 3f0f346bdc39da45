"""The audit's room: the bucket that is looked at, and other buckets that the manifest names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from luma_pipeline.audit.compare import Looked
from luma_pipeline.media import BucketError, CopyError, ErrorCode, TransferConfig
from luma_pipeline.media.store import Bucket
from luma_pipeline.s3 import ListedObject, S3SettingsError, make_client
from luma_pipeline.s3.breaker import RequestBreaker

__all__ = ["AuditBucket", "AuditStoppedError"]

_TIMEOUTS = (5.0, 60.0)
_PAGE_KEYS = 1000
_READ_ATTEMPTS = 3
_FAILURES_BEFORE_STOP = 16

_T = TypeVar("_T")


class AuditStoppedError(Exception):
    """The audit was told to stop."""


class AuditBucket:
    """Reads objects, in up to `workers` threads at once. Raises BucketError where no client can be set up."""

    def __init__(self, videos: TransferConfig, stopping: threading.Event, workers: int) -> None:
        self._videos = videos
        self.name = videos.bucket
        self.template = videos.template
        try:
            self._client = make_client(max_connections=workers + 1, timeouts=_TIMEOUTS)
        except S3SettingsError as error:
            raise BucketError(str(error)) from None
        self._breaker = RequestBreaker(self._client)
        self._stopping = stopping
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()
        self._failures = 0
        self.objects_read = 0
        """Objects whose bytes were read."""
        self.bytes_read = 0

    def listed(self) -> Iterator[list[ListedObject]]:
        """The objects below the prefix, page by page. Raises BucketError or CopyError where the listing breaks off."""
        token: str | None = None
        while True:
            page = self._tried(partial(self._of(self.name).list_page, self.template.prefix, _PAGE_KEYS, token))
            yield list(page.objects)
            if page.is_last:
                return
            if page.token in {None, token}:
                raise CopyError(ErrorCode.STORE_ERROR, f"the store's listing of {self.template.prefix!r} does not end")
            token = page.token

    def look(self, bucket: str, key: str, *, is_read: bool) -> Looked | CopyError:
        """The object under a key, and with `is_read` its digest; an error that concerns it alone.

        Raises BucketError where the store fails for one after the other.
        """
        try:
            if is_read:
                found = self._tried(partial(self._of(bucket).read_whole, key))
                looked = Looked(None) if found is None else Looked(*found)
            else:
                looked = Looked(self._tried(partial(self._of(bucket).head, key)))
        except CopyError as error:
            with self._lock:
                self._failures += 1
                if self._failures < _FAILURES_BEFORE_STOP:
                    return error
            raise BucketError(f"the store failed {self._failures} times in a row, last: {error}") from None
        with self._lock:
            self._failures = 0
            if looked.digest is not None and looked.stored is not None:
                self.objects_read += 1
                self.bytes_read += looked.stored.size_bytes
        return looked

    def delete(self, key: str) -> None:
        """Delete an object of the bucket."""
        self._tried(partial(self._of(self.name).delete, key))

    def stop(self) -> None:
        """Break off what is under way; returns at once."""
        self._breaker.stop()

    def close(self) -> None:
        """Close the connections."""
        self._breaker.close()
        self._client.close()

    def check_stop(self) -> None:
        """Raise AuditStoppedError when the audit was told to stop."""
        if self._stopping.is_set():
            raise AuditStoppedError

    def _of(self, name: str) -> Bucket:
        if name not in self._buckets:
            self._buckets[name] = Bucket(self._client, name, self._videos.objects, self._stopping)
        return self._buckets[name]

    def _tried(self, request: Callable[[], _T]) -> _T:
        """boto3 tries a request again, but not the reading of its body."""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            self.check_stop()
            try:
                return request()
            except CopyError:
                self.check_stop()
                if attempt == _READ_ATTEMPTS:
                    raise
            except Exception:
                self.check_stop()
                raise
        raise AssertionError("unreachable")
