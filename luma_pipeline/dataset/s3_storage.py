"""The dataset's room: datasets in a bucket, through the client that the videos use too."""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TypeVar

import pyarrow as pa

from luma_pipeline.dataset.errors import (
    DatasetError,
    DatasetSettingsError,
    DatasetUnavailableError,
    StaleVersionError,
)
from luma_pipeline.dataset.storage import PARTITION_FILE, SHARD_NAME, OpenedFile, StoredFile
from luma_pipeline.errors import PassingError
from luma_pipeline.s3 import (
    ObjectExistsError,
    ObjectHead,
    ObjectStore,
    S3DeniedError,
    S3Error,
    S3RequestError,
    abort_uploads,
    begin_upload,
    check_bucket_name,
    check_key,
    delete_versions,
    list_versions,
    make_client,
)
from luma_pipeline.s3.breaker import RequestBreaker

__all__ = ["S3Storage"]

T = TypeVar("T")

_SETTING = "LUMA_DATA_URL"
_PERMISSIONS = "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload"
_CONNECTIONS = 16
_TIMEOUTS = (10.0, 30.0)
_GRACE_SECONDS = 7.0
"""Seconds for checkpoints to be written after a stop. Then what waits for the store is cut."""
_ABORT_SECONDS = 9.0
_LARGEST_PUT_BYTES = 16 * 1024 * 1024
"""Larger files go up in parts of this size. One part is held in memory."""
_TAIL_BYTES = 256 * 1024
"""What is read first: the footer, and the whole of most files."""
_READ_ATTEMPTS = 3
_NO_SUCH_RANGE = 416
_PROBE = "_write-probe"
_OURS = re.compile(
    rf"(?:(?:luma_[^/]+|_forgotten)/(?:.+/)?{re.escape(PARTITION_FILE)}|_checkpoints/.+/{SHARD_NAME.pattern}"
    rf"|_(?:open|unfinished)/[^/]+|{_PROBE})"
)
"""The keys below the root that we write. Earlier versions began uploads for checkpoints and marks too."""

_log = logging.getLogger(__name__)


def check_place(bucket: str, prefix: str, url: str) -> None:
    """Raise DatasetSettingsError for a bucket's name or a prefix that S3 does not take."""
    try:
        check_bucket_name(bucket, _SETTING)
        if prefix:
            check_key(prefix, f"{_SETTING} {url!r}")
    except S3Error as error:
        raise DatasetSettingsError(f"{error}, as in s3://my-lake/luma") from None


class S3Storage:
    """Objects below a prefix of a bucket. Paths are the bucket's name and the key.

    The credentials may be scoped to the prefix: nothing is asked of the bucket as a whole.
    """

    whole_bytes = _TAIL_BYTES

    def __init__(self, bucket: str, prefix: str, url: str) -> None:
        self.root = "/".join(part for part in (bucket, prefix) if part)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._url = url
        with self._explained():
            client = make_client(max_connections=_CONNECTIONS, timeouts=_TIMEOUTS)
        self._store = ObjectStore(client, bucket, permissions=_PERMISSIONS, setting=_SETTING)
        self._breaker = RequestBreaker(client, grace_seconds=_GRACE_SECONDS, abort_seconds=_ABORT_SECONDS)

    def list(self, folder: str, prefix: str = "") -> list[StoredFile]:
        """See `Storage.list`."""
        inside = self._key(folder) + "/"
        with self._explained():
            return [
                StoredFile(f"{self._bucket}/{listed.key}", name, listed.modified_at or datetime.now(UTC))
                for listed in self._store.list_all(inside + prefix)
                if (name := listed.key[len(inside) :]) and "/" not in name
            ]

    def names(self, folder: str) -> Sequence[str]:
        """See `Storage.names`."""
        inside = self._key(folder) + "/"
        with self._explained():
            return [name for key in self._store.list_keys(inside) if (name := key[len(inside) :]) and "/" not in name]

    def folders(self, folder: str, holding: str | None = None) -> Sequence[str]:
        """See `Storage.folders`."""
        inside = self._key(folder) + "/"
        with self._explained():
            parts = (listed.key[len(inside) :].partition("/") for listed in self._store.list_all(inside))
            return [*dict.fromkeys(name for name, _, file in parts if file and file == (holding or file))]

    def open(self, path: str, *, whole: bool = False) -> OpenedFile:
        """See `Storage.open`. An object of up to 256 KiB is read whole; of a larger one only what is asked for."""
        while True:
            head, end = self._end(path)
            file: IO[bytes] | _RemoteFile = _RemoteFile(self, head, end)
            if whole and head.size_bytes > len(end):
                try:
                    file = self._fetched(head)
                except StaleVersionError:
                    continue
            content = end if len(end) == head.size_bytes else None
            return OpenedFile(pa.PythonFile(file, mode="r"), _version(head), head.size_bytes, content)

    def _end(self, path: str) -> tuple[ObjectHead, bytes]:
        """What the store says of an object, and its last bytes, in one request."""
        try:
            return self._tried(lambda: self._store.get_end(self._key(path), _TAIL_BYTES))
        except S3Error as error:
            # One that is not there may be denied. An empty object has no last bytes, and rclone no more than there are.
            is_denied = isinstance(error, S3DeniedError)
            head = self._head(path) if is_denied or error.status == _NO_SUCH_RANGE else None
            if head is None and is_denied:
                raise FileNotFoundError(path) from None
            if head is None or is_denied:
                with self._explained():
                    raise
            start = max(0, head.size_bytes - _TAIL_BYTES)
            return head, self.read_range(head, start, head.size_bytes) if head.size_bytes else b""

    def read_range(self, head: ObjectHead, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of an object as it was when its head was read."""
        try:
            with self._explained():
                found = self._tried(lambda: self._store.get(head.key, start=start, end=end, etag=head.etag))
        except FileNotFoundError as error:
            raise StaleVersionError(f"{self._bucket}/{head.key} has been removed by another run") from error
        except ObjectExistsError as error:
            raise StaleVersionError(f"{self._bucket}/{head.key} has been replaced by another run") from error
        # A store without ranges sends the whole object.
        return found if len(found) == end - start else found[start:end]

    def _fetched(self, head: ObjectHead) -> IO[bytes]:
        """An object as it was when its head was read, in a temporary file."""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            with self._on_local_disk():
                file = tempfile.TemporaryFile()  # noqa: SIM115  (closed when it is collected)
            try:
                with self._explained():
                    for chunk in self._store.chunks(head.key, etag=head.etag):
                        with self._on_local_disk():
                            file.write(chunk)
            except DatasetUnavailableError:
                if attempt == _READ_ATTEMPTS:
                    raise
            except ObjectExistsError as error:
                raise StaleVersionError(f"{self._bucket}/{head.key} has been replaced by another run") from error
            else:
                file.seek(0)
                return file
        raise AssertionError("unreachable")

    def _tried(self, read: Callable[[], T]) -> T:
        """boto3 tries a request again, but not the reading of its body."""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return read()
            except S3RequestError:
                if attempt == _READ_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def version(self, path: str) -> str:
        """See `Storage.version`."""
        head = self._head(path)
        return "" if head is None else _version(head)

    def modified_at(self, path: str) -> datetime | None:
        """See `Storage.modified_at`."""
        head = self._head(path)
        return None if head is None else head.modified_at or datetime.now(UTC)

    def write(self, path: str, content: bytes) -> None:
        """See `Storage.write`. A single PUT."""
        with self._explained():
            self._store.put(self._key(path), content)

    def replace(self, path: str, write: Callable[[IO[bytes]], T], over: str | None = None) -> T:
        """See `Storage.replace`. The file is written to a local temporary file first.

        The store compares the version where it has conditional writes; where it has none, another run can replace the
        object between the comparison of versions and the end of the upload.
        """
        with self._on_local_disk(), tempfile.TemporaryFile() as file:
            result = write(file)
            size = file.tell()
            file.seek(0)
            head = self._head(path) if over is not None else None
            if over is not None and ("" if head is None else _version(head)) != over:
                raise StaleVersionError(f"{path} has been replaced by another run")
            try:
                with self._explained():
                    self._upload(
                        self._key(path), file, size, only_if_absent=over == "", only_if_etag=head.etag if head else None
                    )
            except ObjectExistsError:
                if self.version(path) != over:
                    raise StaleVersionError(f"{path} has been replaced by another run") from None
                # The store refuses a condition that holds: it has none that can be used.
                _log.info("the store's conditional writes do not work: two runs at once end with the later file")
                self._store.capabilities.conditional_writes = False
                file.seek(0)
                with self._explained():
                    self._upload(self._key(path), file, size)
        return result

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._explained():
            self._store.delete(self._key(path))

    def delete_all(self, paths: Sequence[str]) -> None:
        """See `Storage.delete_all`."""
        with self._explained():
            self._store.delete_all([self._key(path) for path in paths])

    def prune(self, folder: str) -> None:
        """See `Storage.prune`. S3 has no folders."""

    def remove_old_versions(self, folder: str) -> str:
        """See `Storage.remove_old_versions`."""
        try:
            old = [
                version
                for version in list_versions(self._store, self._key(folder) + "/")
                if version.version_id is not None and (version.is_marker or not version.is_latest)
            ]
            left = delete_versions(self._store, old)
        except S3Error as error:
            return str(error)
        return f"{len(left)} versions below {folder}: {left[0].reason}" if left else ""

    def check(self) -> None:
        """See `Storage.check`. An upload is begun and aborted, so that nothing is left, not even in a bucket that keeps
        old versions."""
        with self._explained():
            self._store.check(self._prefix)
            begin_upload(self._store, self._prefix + _PROBE).abort_surely()

    def sweep(self, older_than_seconds: float) -> int:
        """See `Storage.sweep`: uploads below the root, under our keys, that are older."""

        def is_ours(key: str) -> bool:
            return bool(_OURS.fullmatch(key[len(self._prefix) :]))

        try:
            with self._explained():
                return abort_uploads(self._store, self._prefix, is_ours, older_than_seconds)
        except DatasetError as error:
            _log.warning("unfinished uploads were not swept: %s", error)
            return 0

    def stop(self) -> None:
        """See `Storage.stop`."""
        self._breaker.stop()

    def close(self) -> None:
        """See `Storage.close`."""
        self._breaker.close()
        self._store.client.close()

    def _upload(
        self,
        key: str,
        file: IO[bytes],
        size: int,
        *,
        only_if_absent: bool = False,
        only_if_etag: str | None = None,
    ) -> None:
        if size <= _LARGEST_PUT_BYTES:
            self._store.put(key, file.read(), only_if_absent=only_if_absent, only_if_etag=only_if_etag)
            return
        upload = begin_upload(self._store, key)
        try:
            bodies = iter(lambda: file.read(_LARGEST_PUT_BYTES), b"")
            parts = [upload.put_part(number, body) for number, body in enumerate(bodies, 1)]
            upload.complete(parts, only_if_absent=only_if_absent, only_if_etag=only_if_etag)
        except BaseException:
            upload.abort()
            raise

    def _head(self, path: str) -> ObjectHead | None:
        key = self._key(path)
        with self._explained():
            try:
                return self._store.head(key)
            except S3DeniedError:
                # Keys that may list below a prefix alone are told 403 of an object that is not there.
                listed = self._store.list_page(key, 1).objects
                if any(found.key == key for found in listed):
                    raise
                return None

    def _key(self, path: str) -> str:
        return path[len(self._bucket) + 1 :]

    @contextmanager
    def _on_local_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetUnavailableError(
                f"a temporary file for {self._url} cannot be written: {error}. Make room in "
                f"{tempfile.tempdir or 'a folder for temporary files'}, or set TMPDIR to another folder."
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ObjectExistsError:
            raise
        except S3Error as error:
            kind = DatasetUnavailableError if isinstance(error, PassingError) else DatasetSettingsError
            hint = "; AWS_ENDPOINT_URL_S3 says which store is asked" if error.code == "NoSuchBucket" else ""
            raise kind(f"the datasets under {self._url} ({_SETTING}): {error}{hint}") from error


def _version(head: ObjectHead) -> str:
    return f"{head.etag} {head.modified_at}"


class _RemoteFile(io.RawIOBase):
    """An object as a file that can be read from anywhere. Its end is read first and kept."""

    def __init__(self, storage: S3Storage, head: ObjectHead, tail: bytes) -> None:
        self._storage = storage
        self._head = head
        self._position = 0
        self._tail_start = head.size_bytes - len(tail)
        self._tail = tail

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._head.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        end = self._head.size_bytes if size < 0 else min(start + size, self._head.size_bytes)
        if start >= end:
            return b""
        if start >= self._tail_start:
            found = self._tail[start - self._tail_start : end - self._tail_start]
        else:
            found = self._read_range(start, end)
        self._position = end
        return found

    def _read_range(self, start: int, end: int) -> bytes:
        return self._storage.read_range(self._head, start, end) if start < end else b""
