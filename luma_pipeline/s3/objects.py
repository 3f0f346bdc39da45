"""The S3 room: one bucket, and the requests that the videos and the datasets make to it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from luma_pipeline.s3.capabilities import Capabilities, is_condition_failed
from luma_pipeline.s3.errors import (
    FAULTS,
    ErrorTranslator,
    NotS3Error,
    ObjectExistsError,
    S3Error,
    S3RequestError,
    code_of,
    status_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "READ_BYTES",
    "ListedObject",
    "ListedPage",
    "ObjectHead",
    "ObjectStore",
    "WrittenObject",
    "clean_etag",
    "utc",
    "write_conditions",
]

READ_BYTES = 1 << 18
"""Bytes of an object that `chunks` gives at once."""

_Answer = TypeVar("_Answer")
_LISTING_FIELDS = {"IsTruncated", "KeyCount", "Contents", "Name", "MaxKeys"}
_ONLY_STORES_SAY = {"etag", "last-modified", "x-amz-request-id", "x-amz-id-2"}
_LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ListedObject:
    """What a listing says of an object. `modified_at` is aware, UTC; the ETag is without quotation marks."""

    key: str
    size_bytes: int
    etag: str | None
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page of a listing; `is_last` when nothing follows, else `token` asks for the next."""

    objects: tuple[ListedObject, ...]
    is_last: bool
    token: str | None


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What the store says of an object by itself. The names of `metadata` are in lower case, whatever the store does.

    `sha256` is the store's own checksum of the whole object, in hex, where it has one.
    """

    key: str
    size_bytes: int
    etag: str | None
    content_type: str | None
    modified_at: datetime | None
    sha256: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """A write that the store has acknowledged.

    `is_confirmed`: its checksum, or its ETag as the MD5, says that the store has these very bytes.
    """

    etag: str | None
    is_confirmed: bool


class ObjectStore:
    """One bucket, spoken to through one client; may be used from several threads.

    Every method raises an S3Error: S3SettingsError and S3DeniedError for what somebody has to change, S3RequestError
    what may pass. `setting` names the bucket, `permissions` are what the credentials need.

    >>> store = ObjectStore(make_client(max_connections=4, timeouts=(5.0, 60.0)), "my-lake")  # doctest: +SKIP
    >>> store.put("folder/key", b"bytes", only_if_absent=True).etag  # doctest: +SKIP
    '4b3f6218'
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        permissions: str = "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject",
        setting: str = "LUMA_S3_BUCKET",
        capabilities: Capabilities | None = None,
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.capabilities = capabilities or Capabilities()
        self._permissions = permissions
        self._setting = setting

    # -- reading --------------------------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectHead | None:
        """The object under a key; None when there is none."""
        try:
            answer: Mapping[str, Any] = self.capabilities.attempt(
                self.client,
                "head",
                lambda extra: self.client.head_object(Bucket=self.bucket, Key=key, **extra),
                checksums={"ChecksumMode": "ENABLED"},
            )
            _require_s3(answer)
        except FAULTS as error:
            if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
                return None
            raise self.translated(error, f"looking at {key}") from None
        return _head_of(key, answer, answer.get("ContentLength", -1))

    def get(self, key: str, *, start: int | None = None, end: int | None = None, etag: str | None = None) -> bytes:
        """The bytes of an object, or those from `start` up to `end` (exclusive; a negative `start`: the last bytes).

        Raises FileNotFoundError when there is no object, ObjectExistsError when its ETag is not `etag` any more.
        """
        with closing(self._opened(key, start, end, etag)["Body"]) as body:
            return b"".join(self._read(body, key))

    def get_end(self, key: str, most: int) -> tuple[ObjectHead, bytes]:
        """The object under a key and its last bytes, up to `most` of them; all bytes where the store has no ranges.

        Raises FileNotFoundError when there is no object.
        """
        answer = self._opened(key, -most)
        with closing(answer["Body"]) as body:
            found = b"".join(self._read(body, key))
        size = str(answer.get("ContentRange", "")).rpartition("/")[2]
        return _head_of(key, answer, int(size) if size.isdigit() else len(found)), found

    def chunks(self, key: str, *, etag: str | None = None) -> Iterator[bytes]:
        """The bytes of an object in pieces. Raises as `get`."""
        with closing(self._opened(key, etag=etag)["Body"]) as body:
            yield from self._read(body, key)

    def open(self, key: str) -> tuple[ObjectHead, Iterator[bytes]]:
        """What the store says of an object, and its bytes in pieces, by one request. Raises as `get`."""
        answer = self._opened(key)

        def pieces() -> Iterator[bytes]:
            with closing(answer["Body"]) as body:
                yield from self._read(body, key)

        return _head_of(key, answer, answer.get("ContentLength", -1)), pieces()

    def _opened(
        self, key: str, start: int | None = None, end: int | None = None, etag: str | None = None
    ) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        if start is not None or end is not None:
            first = 0 if start is None else start
            arguments["Range"] = f"bytes={first}" if first < 0 else f"bytes={first}-{'' if end is None else end - 1}"
        replaced = f"{key} has been replaced"
        try:
            answer: Mapping[str, Any] = self.capabilities.attempt(
                self.client, "get", lambda _: self.client.get_object(**arguments)
            )
            _require_s3(answer)
        except FAULTS as error:
            if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
                raise FileNotFoundError(f"{key} is not in bucket {self.bucket!r}") from None
            if etag is not None and status_of(error) == 416:  # by a shorter one
                raise ObjectExistsError(replaced, code=code_of(error), status=416) from None
            raise self.translated(error, f"reading {key}") from None
        # Compared here: some stores refuse If-Match of a reader, others ignore it.
        if etag is not None and clean_etag(answer.get("ETag")) not in {None, etag}:
            answer["Body"].close()
            raise ObjectExistsError(replaced)
        return answer

    def _read(self, body: Any, key: str) -> Iterator[bytes]:
        try:
            yield from body.iter_chunks(READ_BYTES)
        except FAULTS as error:
            raise self.translated(error, f"reading {key}") from None

    def check(self, prefix: str) -> None:
        """Raise S3SettingsError unless the bucket is there and `prefix` can be listed with these settings."""
        self.call("list", lambda: self._page(prefix, 1, {}), "listing", is_bucket=True)

    def list_page(self, prefix: str, limit: int = _LARGEST_PAGE, *, token: str | None = None) -> ListedPage:
        """One page of a listing, from its start or from where the page before it ended."""
        following = {} if token is None else {"ContinuationToken": token}
        return self.call("list", lambda: self._page(prefix, limit, following), f"listing {prefix!r}")

    def list_after(self, prefix: str, start_after: str, limit: int = _LARGEST_PAGE) -> ListedPage | None:
        """One page of a listing after a key; None where the store has no such listing, which is learnt once."""
        if not self.capabilities.start_after:
            return None
        doing = f"listing {prefix!r}"
        try:
            page = self.capabilities.attempt(
                self.client, "list", lambda _: self._page(prefix, limit, {"StartAfter": start_after})
            )
        except FAULTS as error:
            if status_of(error) in {None, 429, 503}:
                raise self.translated(error, doing) from None
            try:
                self._page(prefix, 1, {})
            except FAULTS:
                raise self.translated(error, doing) from None
            self.capabilities.start_after = False
            return None
        if page.objects and min(listed.key for listed in page.objects) <= start_after and self._ignores(prefix, page):
            self.capabilities.start_after = False
            return None
        return page

    def list_all(self, prefix: str) -> Iterator[ListedObject]:
        """Every object below a prefix, in the order of the store."""
        token: str | None = None
        while True:
            page = self.list_page(prefix, token=token)
            yield from page.objects
            if page.is_last:
                return
            if page.token is None or page.token == token:
                raise S3RequestError(f"bucket {self.bucket!r}: the store's listing of {prefix!r} does not end")
            token = page.token

    def list_keys(self, prefix: str) -> Iterator[str]:
        """The key of every object below a prefix, in the order of the store."""
        yield from (listed.key for listed in self.list_all(prefix))

    def _ignores(self, prefix: str, page: ListedPage) -> bool:
        """Whether a page after a key is the listing's first page: a store may also order keys in another way."""
        first = self.list_page(prefix, 1).objects
        return bool(first) and first[0].key == page.objects[0].key

    def _page(self, prefix: str, limit: int, extra: Mapping[str, str]) -> ListedPage:
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": limit, **extra}
        answer = self.client.list_objects_v2(**arguments)
        if not _LISTING_FIELDS & set(answer):
            raise NotS3Error("a listing without any of a listing's fields")
        objects = tuple(
            ListedObject(item["Key"], item["Size"], clean_etag(item.get("ETag")), utc(item.get("LastModified")))
            for item in answer.get("Contents", [])
            if "Key" in item and "Size" in item
        )
        return ListedPage(objects, not answer.get("IsTruncated", False), answer.get("NextContinuationToken"))

    # -- writing --------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        *,
        sha256: str | None = None,
        only_if_absent: bool = False,
        only_if_etag: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> WrittenObject:
        """Write an object by a single PUT. `sha256` is the digest of `body` in hex; it is computed if not given.

        Raises ObjectExistsError when the condition does not hold: no object under the key, or the object with this
        ETag. A store without conditional writes gets plain ones (`capabilities.conditional_writes`). `settings` are
        further arguments of boto3's `put_object`, such as ContentType and Metadata.
        """
        digest = bytes.fromhex(sha256) if sha256 is not None else hashlib.sha256(body).digest()
        checksum = base64.b64encode(digest).decode()
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Key": key, "Body": body, **(settings or {})}
        answer: Mapping[str, Any] = self.write(
            "put",
            lambda extra: self.client.put_object(**arguments, **extra),
            f"writing {key}",
            checksums={"ChecksumSHA256": checksum},
            conditions=write_conditions(only_if_absent=only_if_absent, only_if_etag=only_if_etag),
        )
        etag = clean_etag(answer.get("ETag"))
        is_confirmed = answer.get("ChecksumSHA256") == checksum or (
            not self.capabilities.checksums and is_md5_of(etag, body)
        )
        return WrittenObject(etag, is_confirmed)

    def write(
        self,
        operation: str,
        request: Callable[[dict[str, Any]], _Answer],
        doing: str,
        *,
        checksums: Mapping[str, Any] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> _Answer:
        """Make a writing request with what the store is found to take. Raises ObjectExistsError as `put` does."""
        try:
            answer = self.capabilities.attempt(
                self.client, operation, request, checksums=checksums, conditions=conditions
            )
            _require_s3(answer)
        except FAULTS as error:
            if conditions and is_condition_failed(error):
                raise ObjectExistsError(
                    f"{doing}: the condition does not hold", code=code_of(error), status=status_of(error)
                ) from None
            raise self.translated(error, doing) from None
        return answer

    def delete(self, key: str) -> None:
        """Delete the object under a key; it is no error when there is none."""
        self.call("delete", lambda: self.client.delete_object(Bucket=self.bucket, Key=key), f"deleting {key}")

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand by one request where the store can; it is no error when some are not there."""
        for start in range(0, len(keys), _LARGEST_PAGE):
            some = keys[start : start + _LARGEST_PAGE]
            if len(some) == 1 or not self._are_deleted_together(some):
                for key in some:
                    self.delete(key)

    def _are_deleted_together(self, keys: Sequence[str]) -> bool:
        if not self.capabilities.deletes_of_many:
            return False
        wanted: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            answer = self.call(
                "delete many",
                lambda: self.client.delete_objects(Bucket=self.bucket, Delete=wanted),
                f"deleting {len(keys)} objects",
            )
        except S3Error as error:
            if error.status is None:
                raise
            # Refused, or not known to the store: by single requests it says what is wrong.
            self.capabilities.deletes_of_many = False
            return False
        return not answer.get("Errors")

    # -- errors ---------------------------------------------------------------------------------------------------

    def call(self, operation: str, request: Callable[[], _Answer], doing: str, *, is_bucket: bool = False) -> _Answer:
        """Make a request; raise an S3Error for what the store says against it."""
        try:
            answer = self.capabilities.attempt(self.client, operation, lambda _: request())
            _require_s3(answer)
        except FAULTS as error:
            raise self.translated(error, doing, is_bucket=is_bucket) from None
        return answer

    def translated(self, error: Exception, doing: str, *, is_bucket: bool = False) -> S3Error:
        """An error of ours for one of boto3's."""
        endpoint = str(self.client.meta.endpoint_url)
        translator = ErrorTranslator(self.bucket, endpoint, permissions=self._permissions, setting=self._setting)
        return translator.translate(error, doing, is_bucket=is_bucket)


def _head_of(key: str, answer: Mapping[str, Any], size_bytes: int) -> ObjectHead:
    return ObjectHead(
        key=key,
        size_bytes=size_bytes,
        etag=clean_etag(answer.get("ETag")),
        content_type=answer.get("ContentType"),
        modified_at=utc(answer.get("LastModified")),
        sha256=_whole_sha256(answer.get("ChecksumSHA256")),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def write_conditions(*, only_if_absent: bool, only_if_etag: str | None) -> dict[str, str] | None:
    """The arguments of boto3 for the condition of a write."""
    if only_if_absent:
        return {"IfNoneMatch": "*"}
    return None if only_if_etag is None else {"IfMatch": f'"{only_if_etag}"'}


def clean_etag(etag: str | None) -> str | None:
    """An ETag without its quotation marks, and without the mark of a weak one, which proxies add."""
    return (etag.removeprefix("W/").strip('"') or None) if etag else None


def is_md5_of(etag: str | None, body: bytes | bytearray) -> bool:
    """Whether an ETag is the MD5 of a body. False proves nothing: encrypted objects have other ETags."""
    return etag is not None and etag.lower() == hashlib.md5(body, usedforsecurity=False).hexdigest()


def utc(moment: datetime | None) -> datetime | None:
    """A time as aware UTC."""
    return moment.astimezone(UTC) if moment is not None else None


def _require_s3(answer: Any) -> None:
    """Raise NotS3Error for a page: boto3 reads one with a success status as an answer without fields.

    Moto calls an empty answer text/html, and an object may be a page itself.
    """
    metadata = answer.get("ResponseMetadata", {}) if isinstance(answer, Mapping) else {}
    headers: Mapping[str, str] = metadata.get("HTTPHeaders", {})
    is_empty = metadata.get("HTTPStatusCode") == 204 or headers.get("content-length") == "0"
    if is_empty or _ONLY_STORES_SAY & set(headers):
        return
    if "text/html" in headers.get("content-type", "").lower():
        raise NotS3Error("a page of type text/html")


def _whole_sha256(checksum: str | None) -> str | None:
    """A store's own checksum in hex, unless it is one of a multipart's parts (`…-7`)."""
    if not checksum or "-" in checksum:
        return None
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except ValueError:
        return None
