"""The S3 room: multipart uploads, from their beginning to the sweep of those that killed runs have left."""

from __future__ import annotations

import base64
import logging
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from luma_pipeline.s3.errors import FAULTS, NotS3Error, S3Error, code_of
from luma_pipeline.s3.objects import ObjectStore, clean_etag, is_md5_of, utc, write_conditions

__all__ = [
    "LARGEST_PART_COUNT",
    "SMALLEST_PART_BYTES",
    "MultipartUpload",
    "UploadedPart",
    "abort_uploads",
    "begin_upload",
    "list_uploads",
]

SMALLEST_PART_BYTES = 5 * 1024 * 1024
LARGEST_PART_COUNT = 10_000
"""Both are S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the store has. `is_confirmed`: by its checksum, or by the MD5 that is its ETag."""

    number: int
    etag: str
    crc32: str | None
    is_confirmed: bool


class MultipartUpload:
    """A multipart upload that is not visible yet. `put_part` may be called from several threads."""

    def __init__(self, store: ObjectStore, key: str, upload_id: str) -> None:
        self._store = store
        self.key = key
        self.upload_id = upload_id

    def put_part(self, number: int, body: bytes | bytearray) -> UploadedPart:
        """Send part `number` (from 1)."""
        store = self._store
        crc32 = base64.b64encode(struct.pack(">I", zlib.crc32(body))).decode()
        arguments: dict[str, Any] = {**self._named, "PartNumber": number, "Body": body}
        sent: dict[str, Any] = {}

        def send(extra: dict[str, Any]) -> Mapping[str, Any]:
            nonlocal sent
            sent = extra
            return store.client.upload_part(**arguments, **extra)

        doing = f"part {number} of {self.key}"
        answer = store.write("put_part", send, doing, checksums={"ChecksumCRC32": crc32})
        etag = answer.get("ETag")
        if not etag:
            raise store.translated(NotS3Error("a part without an ETag"), doing)
        if sent:
            return UploadedPart(number, etag, crc32, is_confirmed=True)
        return UploadedPart(number, etag, None, is_confirmed=is_md5_of(clean_etag(etag), body))

    def complete(
        self, parts: list[UploadedPart], *, only_if_absent: bool = False, only_if_etag: str | None = None
    ) -> str | None:
        """Make the object visible; its ETag. Raises ObjectExistsError when the condition does not hold, as `put`."""
        store = self._store
        plain = [{"PartNumber": part.number, "ETag": part.etag} for part in sorted(parts, key=lambda part: part.number)]
        with_checksums = [
            {**named, "ChecksumCRC32": part.crc32}
            for named, part in zip(plain, sorted(parts, key=lambda part: part.number), strict=True)
        ]
        has_checksums = all(part.crc32 is not None for part in parts)

        def send(extra: dict[str, Any]) -> Mapping[str, Any]:
            listed: dict[str, Any] = {"MultipartUpload": {"Parts": plain}}
            return store.client.complete_multipart_upload(**{**self._named, **listed, **extra})

        answer = store.write(
            "complete",
            send,
            f"completing {self.key}",
            checksums={"MultipartUpload": {"Parts": with_checksums}} if has_checksums else None,
            conditions=write_conditions(only_if_absent=only_if_absent, only_if_etag=only_if_etag),
        )
        return clean_etag(answer.get("ETag"))

    def abort(self) -> None:
        """Give up the upload. What a store that is down keeps of it, a later sweep takes."""
        try:
            self.abort_surely()
        except S3Error as error:
            log.warning("upload of %s was not aborted, the next sweep takes it: %s", self.key, error)

    def abort_surely(self) -> None:
        """Give up the upload, or raise what the store says against it."""
        store = self._store
        try:
            store.capabilities.attempt(
                store.client, "abort", lambda _: store.client.abort_multipart_upload(**self._named)
            )
        except FAULTS as error:
            if code_of(error) != "NoSuchUpload":
                raise store.translated(error, f"aborting the upload of {self.key}") from None

    @property
    def _named(self) -> dict[str, Any]:
        return {"Bucket": self._store.bucket, "Key": self.key, "UploadId": self.upload_id}


def begin_upload(store: ObjectStore, key: str, settings: Mapping[str, Any] | None = None) -> MultipartUpload:
    """Begin a multipart upload. `settings` are further arguments of boto3's `create_multipart_upload`."""
    arguments: dict[str, Any] = {"Bucket": store.bucket, "Key": key, **(settings or {})}
    doing = f"beginning {key}"
    answer: Mapping[str, Any] = store.write(
        "create_upload",
        lambda extra: store.client.create_multipart_upload(**arguments, **extra),
        doing,
        checksums={"ChecksumAlgorithm": "CRC32"},
    )
    if not answer.get("UploadId"):
        raise store.translated(NotS3Error("an upload without an ID"), doing)
    return MultipartUpload(store, key, answer["UploadId"])


def abort_uploads(store: ObjectStore, prefix: str, is_ours: Callable[[str], bool], older_than_seconds: float) -> int:
    """Abort multipart uploads below `prefix` whose key `is_ours` knows and that are older; how many.

    An upload whose beginning the store does not tell stays. Raises S3Error where uploads cannot be listed.
    """
    latest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    found = [
        upload
        for upload, initiated in list_uploads(store, prefix)
        if is_ours(upload.key) and initiated is not None and initiated <= latest
    ]
    for upload in found:
        upload.abort()
    return len(found)


def list_uploads(store: ObjectStore, prefix: str) -> Iterator[tuple[MultipartUpload, datetime | None]]:
    """The unfinished multipart uploads below `prefix`, and when (aware UTC) each was begun, if the store tells.

    Raises S3Error where uploads cannot be listed.
    """
    for item in _listed_uploads(store, prefix):
        if item.get("Key") and item.get("UploadId") and item["Key"].startswith(prefix):
            yield MultipartUpload(store, item["Key"], item["UploadId"]), utc(item.get("Initiated"))


def _uploads_page(store: ObjectStore, arguments: dict[str, Any]) -> Mapping[str, Any]:
    return store.capabilities.attempt(
        store.client, "list_uploads", lambda _: store.client.list_multipart_uploads(**arguments)
    )


def _listed_uploads(store: ObjectStore, prefix: str) -> Iterator[Mapping[str, Any]]:
    marker: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while True:
        try:
            answer = _uploads_page(store, {"Bucket": store.bucket, "Prefix": prefix, **marker})
        except FAULTS as error:
            if code_of(error) == "NoSuchUpload":  # rclone's word for an empty list
                return
            raise store.translated(error, "listing uploads (s3:ListBucketMultipartUploads)") from None
        yield from answer.get("Uploads", [])
        following = (answer.get("NextKeyMarker", ""), answer.get("NextUploadIdMarker", ""))
        # A store that gives the same markers again would be asked for ever.
        if not answer.get("IsTruncated") or not following[0] or following in seen:
            return
        seen.add(following)
        marker = {"KeyMarker": following[0], "UploadIdMarker": following[1]}
