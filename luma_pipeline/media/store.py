"""The bucket of the videos: how an object is labelled, and how it gets there whole or not at all.

An error of the store leaves this module as `BucketError` (nothing can be copied) or `CopyError` (this object cannot).

How the bytes are vouched for: a single PUT carries the SHA-256 of the download as `x-amz-checksum-sha256`, a part of a
multipart upload its CRC-32. Both are in signed headers, and the store refuses bytes that do not match. A store that
refuses such headers is learnt once (`s3.Capabilities`): size and ETag confirm the object, or it is read back.

The digest of a multipart is known only once its last byte has come, but metadata has to be given when it begins. So a
multipart's digest is in the manifest alone. For one that no manifest knows, as a killed run leaves it, the object is
read once from the bucket. What would put the digest on the object afterwards is worse. A tag: a store that ignores the
`?tagging` of a request overwrites the object with the tag's XML (rclone 1.75 does). A copy of the object onto itself:
it costs a second upload's time inside the store, a second version in a versioned bucket, and ends at 5 GB.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from luma_pipeline.media.errors import BucketError, CopyCancelled, CopyError, ErrorCode
from luma_pipeline.media.facts import NO_FACTS, FactsReader, MediaFacts
from luma_pipeline.s3 import (
    ListedPage,
    MultipartUpload,
    ObjectArchivedError,
    ObjectExistsError,
    ObjectHead,
    ObjectStore,
    S3DeniedError,
    S3Error,
    S3SettingsError,
    UploadedPart,
    abort_uploads,
    begin_upload,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET_SETTING = "LUMA_S3_BUCKET"
_PROBE_KEY = ".luma-pipeline-write-probe"
_LONGEST_METADATA_VALUE = 512  # All user metadata of an object may have 2 KB.


class KeyExists(Exception):  # noqa: N818  (an answer of the store, not a fault)
    """A conditional write found an object under the key."""


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """How objects are kept, in the words of S3's PutObject; None leaves the bucket's default."""

    server_side_encryption: str | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    acl: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def as_arguments(self) -> dict[str, str]:
        """Arguments for `put_object` and `create_multipart_upload`."""
        arguments = {
            "ServerSideEncryption": self.server_side_encryption,
            "SSEKMSKeyId": self.sse_kms_key_id,
            "StorageClass": self.storage_class,
            "ACL": self.acl,
            "Tagging": urlencode(self.tags, quote_via=quote) or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    @property
    def needed_permissions(self) -> str:
        """What the credentials have to be allowed, to be named in an error."""
        needed = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        if self.tags:
            needed.append("s3:PutObjectTagging")
        if self.acl is not None:
            needed.append("s3:PutObjectAcl")
        if self.sse_kms_key_id is not None or (self.server_side_encryption or "").startswith("aws:kms"):
            needed.append(f"kms:GenerateDataKey and kms:Decrypt for {self.sse_kms_key_id or 'the key of aws:kms'}")
        return ", ".join(needed)


@dataclass(frozen=True, slots=True)
class ObjectLabel:
    """What an object says of itself in its user metadata."""

    task_id: str
    artifact: str
    source: str
    copy_id: str
    sha256: str | None = None
    facts: MediaFacts = NO_FACTS

    def as_metadata(self) -> dict[str, str]:
        """ASCII, each value within its share of S3's 2 KB."""
        metadata = {
            "luma-task-id": quoted_task_id(self.task_id),
            "luma-artifact": self.artifact,
            "luma-source": quote(self.source, safe=":/%~@[]", errors="replace")[:_LONGEST_METADATA_VALUE],
            "luma-copy-id": self.copy_id,
        }
        told_last = {"luma-sha256": self.sha256, "luma-facts": self.facts.as_text()}
        return {**metadata, **{name: value for name, value in told_last.items() if value}}


def quoted_task_id(task_id: str) -> str:
    """A task ID as it stands in object metadata: percent-quoted, or its SHA-256 when that is too long."""
    quoted = quote(task_id, safe="", errors="replace")
    if len(quoted) <= _LONGEST_METADATA_VALUE:
        return quoted
    return f"sha256:{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object. `sha256` is what its metadata or its checksum says; times are aware UTC.

    `facts` are those of its metadata, which objects of one part have.
    """

    key: str
    size_bytes: int
    etag: str | None
    content_type: str | None
    modified_at: datetime | None
    sha256: str | None
    task_id: str | None
    artifact: str | None
    copy_id: str | None
    facts: MediaFacts = NO_FACTS

    def belongs_to(self, task_id: str, artifact: str) -> bool:
        """Whether its own metadata says that it is this task's artifact."""
        return self.task_id == quoted_task_id(task_id) and self.artifact == artifact


@dataclass(frozen=True, slots=True)
class Contents:
    """What an object's bytes are: their SHA-256 in hex, None where an archive has them, and what the file says."""

    sha256: str | None
    facts: MediaFacts = NO_FACTS


class Upload:
    """A multipart upload that is not visible yet. `put_part` may be called from several threads."""

    def __init__(self, upload: MultipartUpload) -> None:
        self._upload = upload

    def put_part(self, number: int, body: bytearray) -> UploadedPart:
        """Send part `number` (from 1)."""
        with explained():
            return self._upload.put_part(number, body)

    def complete(self, parts: list[UploadedPart], *, only_if_absent: bool) -> tuple[str | None, bool]:
        """Make the object visible: its ETag, and whether the store has confirmed every part's bytes.

        Raises KeyExists when another stands there.
        """
        with explained():
            etag = self._upload.complete(parts, only_if_absent=only_if_absent)
        return etag, all(part.is_confirmed for part in parts)

    def abort(self) -> None:
        """Give up the upload. What a store that is down keeps of it, a later sweep takes."""
        self._upload.abort()


class Bucket:
    """The bucket of the videos. `stopping` breaks off what takes long."""

    def __init__(self, client: S3Client, name: str, settings: ObjectSettings, stopping: threading.Event) -> None:
        self.name = name
        self._settings = settings
        self._stopping = stopping
        self._store = ObjectStore(client, name, permissions=settings.needed_permissions, setting=BUCKET_SETTING)

    # -- reading --------------------------------------------------------------------------------------------------

    def check(self, prefix: str) -> None:
        """Raise BucketError unless `prefix` can be listed and lets an upload below it begin and end.

        The upload has one small part, which shows what the store takes, and is never completed, so that nothing is left
        behind. Nothing is asked of the bucket as a whole, which keys for one prefix are not allowed.
        """
        with explained():
            self._store.check(prefix)
            upload = begin_upload(self._store, prefix + _PROBE_KEY, self._settings.as_arguments())
            try:
                upload.put_part(1, b"probe")
            except S3Error:
                upload.abort()
                raise
            upload.abort_surely()

    def head(self, key: str) -> StoredObject | None:
        """The object under a key; None when there is none."""
        with explained(is_object=True):
            found = self._store.head(key)
        return None if found is None else _stored(found)

    def list_page(self, prefix: str, most: int, token: str | None = None) -> ListedPage:
        """One page of a listing, from its start or from where the page before it ended."""
        with explained():
            return self._store.list_page(prefix, most, token=token)

    def list_after(self, prefix: str, start_after: str, most: int) -> ListedPage | None:
        """One page of a listing after a key; None where the store has no such listing."""
        with explained():
            return self._store.list_after(prefix, start_after, most)

    def contents_of(self, stored: StoredObject) -> Contents:
        """The object's digest and facts: from its metadata or checksum, else by reading it through.

        An object in an archive can only be read once it is restored.
        """
        if stored.sha256 is not None:
            return Contents(stored.sha256, stored.facts)
        return self.read(stored.key)

    def read(self, key: str) -> Contents:
        """Read the bytes under a key."""
        digest, facts = hashlib.sha256(), FactsReader()
        try:
            with explained(is_object=True):
                for chunk in self._store.chunks(key):
                    if self._stopping.is_set():
                        raise CopyCancelled("the copier was closed")
                    digest.update(chunk)
                    facts.feed(memoryview(chunk))
        except ObjectArchivedError:
            return Contents(None)
        except FileNotFoundError:
            raise CopyError(ErrorCode.STORE_ERROR, f"{key} was deleted while it was looked at") from None
        return Contents(digest.hexdigest(), facts.facts())

    def read_whole(self, key: str) -> tuple[StoredObject, str | None] | None:
        """The object under a key and the SHA-256 of its bytes, by one request; None when there is no object.

        The digest is None where an archive has the bytes.
        """
        digest = hashlib.sha256()
        try:
            with explained(is_object=True):
                found, pieces = self._store.open(key)
                for piece in pieces:
                    if self._stopping.is_set():
                        raise CopyCancelled("the copier was closed")
                    digest.update(piece)
        except ObjectArchivedError:
            stored = self.head(key)
            return None if stored is None else (stored, None)
        except FileNotFoundError:
            return None
        return _stored(found), digest.hexdigest()

    @property
    def has_checksums(self) -> bool:
        """Whether the store checks what it is sent, as far as is known."""
        return self._store.capabilities.checksums

    # -- writing --------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: bytearray, content_type: str, label: ObjectLabel, *, only_if_absent: bool
    ) -> tuple[str | None, bool]:
        """Write a small object in one request: its ETag, and whether the store confirmed its bytes.

        `label.sha256` is the digest of `body`. Raises KeyExists when another object stands there.
        """
        with explained():
            written = self._store.put(
                key,
                body,
                sha256=label.sha256,
                only_if_absent=only_if_absent,
                settings=self._arguments(content_type, label),
            )
        return written.etag, written.is_confirmed

    def delete(self, key: str) -> None:
        """Delete the object under a key."""
        with explained(is_object=True):
            self._store.delete(key)

    def start_upload(self, key: str, content_type: str, label: ObjectLabel) -> Upload:
        """Begin a multipart upload."""
        with explained():
            return Upload(begin_upload(self._store, key, self._arguments(content_type, label)))

    def abort_uploads(self, prefix: str, is_ours: Callable[[str], bool], older_than_seconds: float) -> int:
        """Abort multipart uploads below `prefix` whose key `is_ours` knows and that are older; how many."""
        with explained():
            return abort_uploads(
                self._store, prefix, lambda key: is_ours(key) or key == prefix + _PROBE_KEY, older_than_seconds
            )

    def _arguments(self, content_type: str, label: ObjectLabel) -> dict[str, Any]:
        return {"ContentType": content_type, "Metadata": label.as_metadata(), **self._settings.as_arguments()}


def _stored(found: ObjectHead) -> StoredObject:
    metadata = found.metadata
    return StoredObject(
        key=found.key,
        size_bytes=found.size_bytes,
        etag=found.etag,
        content_type=found.content_type,
        modified_at=found.modified_at,
        sha256=metadata.get("luma-sha256") or found.sha256,
        task_id=metadata.get("luma-task-id"),
        artifact=metadata.get("luma-artifact"),
        copy_id=metadata.get("luma-copy-id"),
        facts=MediaFacts.of_text(metadata.get("luma-facts")),
    )


@contextlib.contextmanager
def explained(*, is_object: bool = False) -> Iterator[None]:
    """Raise this room's errors for those of the S3 room. `is_object`: a denial may concern this one object alone."""
    try:
        yield
    except ObjectExistsError:
        raise KeyExists from None
    except ObjectArchivedError:
        raise
    except S3DeniedError as error:
        if is_object:
            raise CopyError(ErrorCode.STORE_ERROR, str(error)) from None
        raise BucketError(str(error)) from None
    except S3SettingsError as error:
        raise BucketError(str(error)) from None
    except S3Error as error:
        raise CopyError(ErrorCode.STORE_ERROR, str(error)) from None
