"""The bucket: what is in it, and how an object gets there whole or not at all.

An error of the store leaves this module as `BucketError` (nothing can be copied) or `CopyError` (this object cannot).

How the bytes are vouched for: a single PUT carries the SHA-256 of the download pass as `x-amz-checksum-sha256`, a part
of a multipart its CRC-32, both in signed headers; the store refuses bytes that do not match. The payload itself is then
not hashed again for the request's signature (`payload_signing_enabled` off), which botocore does by default over http,
and over https for bodies with a checksum of the caller's own.

The digest of a multipart is known only once its last byte has come, but metadata has to be given when it begins, so a
multipart's digest is in the manifest alone. For one that no manifest knows, as a run killed in between leaves it, the
digest is taken anew by reading the object once from the bucket. What would put it on the object afterwards is worse: a
tag, since a store that ignores the `?tagging` of a request overwrites the object with the tag's XML (rclone 1.75 does);
a copy of the object onto itself, since it costs a second upload's time inside the store, a second version in a
versioned bucket, and ends at 5 GB.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from luma_pipeline.media.errors import BucketError, CopyCancelled, CopyError, ErrorCode

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

SMALLEST_PART_BYTES = 5 * 1024 * 1024
MOST_PARTS = 10_000
"""Both are S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""

_PROBE_KEY = ".luma-pipeline-write-probe"
_LONGEST_METADATA_VALUE = 512  # All user metadata of an object may have 2 KB.
_READ_BYTES = 1 << 18

# The last for an answer in something else than S3's XML, such as the page of a portal.
_FAULTS = (BotoCoreError, ClientError, ResponseParserError)
_NO_BUCKET = {"NoSuchBucket"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403"}
_ARCHIVED = "InvalidObjectState"
_BAD_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthorizationHeaderMalformed",
    "RequestTimeTooSkewed",
}
_PRECONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_NOT_IMPLEMENTED = {"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "MethodNotAllowed"}

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


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

    def as_metadata(self) -> dict[str, str]:
        """ASCII, each value within its share of S3's 2 KB."""
        metadata = {
            "luma-task-id": quoted_task_id(self.task_id),
            "luma-artifact": self.artifact,
            "luma-source": quote(self.source, safe=":/%~@[]", errors="replace")[:_LONGEST_METADATA_VALUE],
            "luma-copy-id": self.copy_id,
        }
        return metadata if self.sha256 is None else {**metadata, "luma-sha256": self.sha256}


def quoted_task_id(task_id: str) -> str:
    """A task ID as object metadata bears it: percent-quoted, or its SHA-256 when that is too long."""
    quoted = quote(task_id, safe="", errors="replace")
    if len(quoted) <= _LONGEST_METADATA_VALUE:
        return quoted
    return f"sha256:{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


@dataclass(frozen=True, slots=True)
class ListedObject:
    """What a listing says of an object."""

    key: str
    size_bytes: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page of a listing; `is_last` when nothing follows, else `token` asks for the next."""

    objects: tuple[ListedObject, ...]
    is_last: bool
    token: str | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object. `sha256` is what its metadata or its checksum says; times are aware UTC."""

    key: str
    size_bytes: int
    etag: str | None
    content_type: str | None
    modified_at: datetime | None
    sha256: str | None
    task_id: str | None
    artifact: str | None
    copy_id: str | None

    def belongs_to(self, task_id: str, artifact: str) -> bool:
        """Whether its own metadata says that it is this task's artifact."""
        return self.task_id == quoted_task_id(task_id) and self.artifact == artifact


class Upload:
    """A multipart upload that is not visible yet. `put_part` may be called from several threads."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._bucket = bucket
        self.key = key
        self.upload_id = upload_id

    def put_part(self, number: int, body: bytearray) -> CompletedPartTypeDef:
        """Send part `number` (from 1)."""
        checksum = base64.b64encode(struct.pack(">I", zlib.crc32(body))).decode()
        arguments: dict[str, Any] = {
            "Bucket": self._bucket.name,
            "Key": self.key,
            "UploadId": self.upload_id,
            "PartNumber": number,
            "Body": body,
            "ChecksumCRC32": checksum,
        }
        answer = self._bucket.call(lambda client: client.upload_part(**arguments), f"part {number} of {self.key}")
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}

    def complete(self, parts: list[CompletedPartTypeDef], *, only_if_absent: bool) -> str | None:
        """Make the object visible; its ETag. Raises KeyExists when another stands there."""
        arguments: dict[str, Any] = {
            "Bucket": self._bucket.name,
            "Key": self.key,
            "UploadId": self.upload_id,
            "MultipartUpload": {"Parts": sorted(parts, key=lambda part: part["PartNumber"])},
        }
        answer = self._bucket.write_if_absent(
            lambda client, extra: client.complete_multipart_upload(**arguments, **extra),
            f"completing {self.key}",
            only_if_absent=only_if_absent,
        )
        return clean_etag(answer.get("ETag"))

    def abort(self) -> None:
        """Give up the upload. What a store that is down keeps of it, a later sweep takes."""
        try:
            self.abort_surely()
        except (BucketError, CopyError) as error:
            log.warning("upload of %s was not aborted, the next sweep takes it: %s", self.key, error)

    def abort_surely(self) -> None:
        """Give up the upload, or raise what the store says against it."""
        try:
            self._bucket.client.abort_multipart_upload(Bucket=self._bucket.name, Key=self.key, UploadId=self.upload_id)
        except _FAULTS as error:
            if _code(error) != "NoSuchUpload":
                raise self._bucket.translated(error, f"aborting the upload of {self.key}") from error


class Bucket:
    """One bucket, spoken to through one client. `stopping` breaks off what takes long."""

    def __init__(self, client: S3Client, name: str, settings: ObjectSettings, stopping: threading.Event) -> None:
        self.client = client
        self.name = name
        self._settings = settings
        self._stopping = stopping
        self._conditional_writes = True

    # -- looking --------------------------------------------------------------------------------------------------

    def check(self, prefix: str) -> None:
        """Raise BucketError unless the bucket is there, can be listed, and lets an upload below `prefix` begin and end.

        The upload is never completed, so that nothing is left behind.
        """
        key = prefix + _PROBE_KEY
        self.call(lambda client: client.head_bucket(Bucket=self.name), "looking at the bucket", is_bucket=True)
        self.call(lambda client: client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1), "listing")
        self._start(key, "application/octet-stream", {}).abort_surely()

    def head(self, key: str) -> StoredObject | None:
        """The object under a key; None when there is none."""
        try:
            answer: Mapping[str, Any] = self.client.head_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED")
        except _FAULTS as error:
            if _status(error) == 404 and _code(error) not in _NO_BUCKET:
                return None
            raise self.translated(error, f"looking at {key}", is_object=True) from error
        # Some stores capitalize the names of user metadata.
        metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
        return StoredObject(
            key=key,
            size_bytes=answer["ContentLength"],
            etag=clean_etag(answer.get("ETag")),
            content_type=answer.get("ContentType"),
            modified_at=_utc(answer.get("LastModified")),
            sha256=metadata.get("luma-sha256") or _whole_sha256(answer.get("ChecksumSHA256")),
            task_id=metadata.get("luma-task-id"),
            artifact=metadata.get("luma-artifact"),
            copy_id=metadata.get("luma-copy-id"),
        )

    def list_page(self, prefix: str, most: int, *, start_after: str = "", token: str | None = None) -> ListedPage:
        """One page of a listing, after a key or from where the page before it ended."""
        arguments: dict[str, Any] = {"Bucket": self.name, "Prefix": prefix, "MaxKeys": most}
        if start_after:
            arguments["StartAfter"] = start_after
        if token is not None:
            arguments["ContinuationToken"] = token
        answer = self.call(lambda client: client.list_objects_v2(**arguments), "listing")
        objects = tuple(
            ListedObject(item["Key"], item["Size"], clean_etag(item.get("ETag")))
            for item in answer.get("Contents", [])
            if "Key" in item and "Size" in item
        )
        return ListedPage(objects, not answer.get("IsTruncated", False), answer.get("NextContinuationToken"))

    def digest_of(self, stored: StoredObject) -> str | None:
        """The object's SHA-256 in hex: from its metadata or checksum, else by reading it through.

        None for an object in an archive that can only be read once it is restored.
        """
        if stored.sha256 is not None:
            return stored.sha256
        try:
            answer = self.client.get_object(Bucket=self.name, Key=stored.key)
        except _FAULTS as error:
            if _code(error) == _ARCHIVED:
                return None
            raise self.translated(error, f"reading {stored.key}", is_object=True) from error
        digest = hashlib.sha256()
        with contextlib.closing(answer["Body"]) as body:
            try:
                for chunk in body.iter_chunks(_READ_BYTES):
                    if self._stopping.is_set():
                        raise CopyCancelled("the copier was closed")
                    digest.update(chunk)
            except _FAULTS as error:
                raise self.translated(error, f"reading {stored.key}") from error
        return digest.hexdigest()

    # -- writing --------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: bytearray, content_type: str, label: ObjectLabel, *, only_if_absent: bool
    ) -> tuple[str | None, bool]:
        """Write a small object in one request: its ETag, and whether the store confirmed its digest.

        `label.sha256` is the digest of `body`. Raises KeyExists when another object stands there.
        """
        checksum = base64.b64encode(bytes.fromhex(label.sha256 or "")).decode()
        arguments: dict[str, Any] = {
            "Bucket": self.name,
            "Key": key,
            "Body": body,
            "ContentType": content_type,
            "Metadata": label.as_metadata(),
            "ChecksumSHA256": checksum,
            **self._settings.as_arguments(),
        }
        answer = self.write_if_absent(
            lambda client, extra: client.put_object(**arguments, **extra),
            f"writing {key}",
            only_if_absent=only_if_absent,
        )
        return clean_etag(answer.get("ETag")), answer.get("ChecksumSHA256") == checksum

    def delete(self, key: str) -> None:
        """Delete the object under a key."""
        arguments: dict[str, Any] = {"Bucket": self.name, "Key": key}
        try:
            self.client.delete_object(**arguments)
        except _FAULTS as error:
            raise self.translated(error, f"deleting {key}", is_object=True) from error

    def start_upload(self, key: str, content_type: str, label: ObjectLabel) -> Upload:
        """Begin a multipart upload."""
        return self._start(key, content_type, label.as_metadata())

    def _start(self, key: str, content_type: str, metadata: dict[str, str]) -> Upload:
        arguments: dict[str, Any] = {
            "Bucket": self.name,
            "Key": key,
            "ContentType": content_type,
            "Metadata": metadata,
            "ChecksumAlgorithm": "CRC32",
            **self._settings.as_arguments(),
        }
        answer = self.call(lambda client: client.create_multipart_upload(**arguments), f"beginning {key}")
        return Upload(self, key, answer["UploadId"])

    def write_if_absent(
        self,
        write: Callable[[S3Client, dict[str, Any]], _Result],
        doing: str,
        *,
        only_if_absent: bool,
    ) -> _Result:
        """Write on the condition that nothing stands under the key, or without it where the store has no such thing."""
        if only_if_absent and self._conditional_writes:
            try:
                return write(self.client, {"IfNoneMatch": "*"})
            except _FAULTS as error:
                if _code(error) in _PRECONDITION or _status(error) in {409, 412}:
                    raise KeyExists from None
                if _status(error) not in {400, 405, 501} or _code(error) not in _NOT_IMPLEMENTED:
                    raise self.translated(error, doing) from error
            answer = self.call(lambda client: write(client, {}), doing)
            self._conditional_writes = False
            log.info("the store has no conditional writes; two runs at once end with the object of the later one")
            return answer
        return self.call(lambda client: write(client, {}), doing)

    def abort_uploads(self, prefix: str, is_ours: Callable[[str], bool], older_than_seconds: float) -> int:
        """Abort multipart uploads below `prefix` that `is_ours` knows and that are older; how many."""
        latest = datetime.now(timezone.utc) - timedelta(seconds=older_than_seconds)
        found: list[Upload] = []
        marker: dict[str, str] = {}
        while True:
            arguments: dict[str, Any] = {"Bucket": self.name, "Prefix": prefix, **marker}
            try:
                answer = self.client.list_multipart_uploads(**arguments)
            except _FAULTS as error:
                if _code(error) == "NoSuchUpload":  # rclone's word for an empty list
                    break
                raise self.translated(error, "listing uploads") from error
            for item in answer.get("Uploads", []):
                key = item.get("Key", "")
                initiated = _utc(item.get("Initiated"))
                is_named = is_ours(key) or key == prefix + _PROBE_KEY
                if is_named and initiated is not None and initiated <= latest:
                    found.append(Upload(self, key, item["UploadId"]))
            following = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            if not answer.get("IsTruncated") or following == marker:
                break
            marker = following
        for upload in found:
            upload.abort()
        return len(found)

    # -- errors ---------------------------------------------------------------------------------------------------

    def call(self, request: Callable[[S3Client], _Result], doing: str, *, is_bucket: bool = False) -> _Result:
        """Make a request; raise BucketError or CopyError for what the store says against it."""
        try:
            return request(self.client)
        except _FAULTS as error:
            raise self.translated(error, doing, is_bucket=is_bucket) from error

    def translated(
        self, error: Exception, doing: str, *, is_bucket: bool = False, is_object: bool = False
    ) -> BucketError | CopyError:
        """An error of ours for what the store says. `is_object`: a refusal may concern this one object alone."""
        code, status = _code(error), _status(error)
        where = f"bucket {self.name!r} ({self.client.meta.endpoint_url})"
        if isinstance(error, NoCredentialsError | PartialCredentialsError | TokenRetrievalError):
            return BucketError(f"{where}: no usable S3 credentials ({error}); set AWS_ACCESS_KEY_ID and so on")
        if code in _NO_BUCKET or (is_bucket and status == 404):
            return BucketError(f"{where} does not exist; create it, or set the bucket's name and region right")
        if code in _BAD_KEYS:
            return BucketError(f"{where}: the store refuses the credentials ({code}); check keys, region and clock")
        if code in _DENIED or status in {401, 403}:
            denied = f"denied while {doing} ({code}); the credentials need {self._settings.needed_permissions}"
            return CopyError(ErrorCode.STORE_ERROR, denied) if is_object else BucketError(f"{where}: {denied}")
        if is_bucket:
            return BucketError(f"{where} cannot be reached ({code}); check AWS_ENDPOINT_URL_S3 and the region")
        return CopyError(ErrorCode.STORE_ERROR, f"{doing}: the store answered {status or 'nothing'} ({code})")


def clean_etag(etag: str | None) -> str | None:
    """An ETag without its quotation marks."""
    return etag.strip('"') if etag else None


def _code(error: Exception) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or type(error).__name__
    return type(error).__name__


def _status(error: Exception) -> int | None:
    if not isinstance(error, ClientError):
        return None
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(timezone.utc) if moment is not None else None


def _whole_sha256(checksum: str | None) -> str | None:
    """A store's own checksum in hex, unless it is one of a multipart's parts (`…-7`)."""
    if not checksum or "-" in checksum:
        return None
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except ValueError:
        return None
