"""The S3 room: every version of an object, delete markers too, and how they are deleted for good."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luma_pipeline.s3.errors import FAULTS, S3Error, S3RequestError, code_of, status_of, without_secrets
from luma_pipeline.s3.objects import ObjectStore

__all__ = ["NotDeleted", "ObjectVersion", "delete_versions", "list_objects", "list_versions"]

_LARGEST_PAGE = 1000
_NO_SUCH_REQUEST = {405, 501}
_IS_GONE = {"NoSuchKey", "NoSuchVersion"}


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """A version of an object, or a delete marker. `version_id` is None where the store keeps no versions."""

    key: str
    version_id: str | None
    is_marker: bool
    is_latest: bool
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NotDeleted:
    """A version that the store does not delete, and its words: an object lock and a missing permission look alike."""

    version: ObjectVersion
    reason: str


def list_versions(store: ObjectStore, prefix: str, page_size: int = _LARGEST_PAGE) -> Iterator[ObjectVersion]:
    """Every version and delete marker below a prefix; of a store that keeps no versions its objects.

    Raises S3Error; S3DeniedError where the credentials lack s3:ListBucketVersions.
    """
    marker: dict[str, str] = {}
    while store.capabilities.versions:
        try:
            page = _page(store, {"Bucket": store.bucket, "Prefix": prefix, "MaxKeys": page_size, **marker})
        except FAULTS as error:
            if status_of(error) in _NO_SUCH_REQUEST and not marker:
                store.capabilities.versions = False
                break
            raise store.translated(error, f"listing the versions below {prefix!r} (s3:ListBucketVersions)") from None
        yield from (_version(item, is_marker=False) for item in page.get("Versions", []))
        yield from (_version(item, is_marker=True) for item in page.get("DeleteMarkers", []))
        following = {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
        if not page.get("IsTruncated"):
            return
        if not following["KeyMarker"] or following == marker:
            raise S3RequestError(f"bucket {store.bucket!r}: the listing of the versions of {prefix!r} does not end")
        marker = following
    yield from list_objects(store, prefix)


def list_objects(store: ObjectStore, prefix: str) -> Iterator[ObjectVersion]:
    """The objects below a prefix, as versions without an ID. Raises S3Error."""
    for listed in store.list_all(prefix):
        yield ObjectVersion(listed.key, None, is_marker=False, is_latest=True, size_bytes=listed.size_bytes)


def delete_versions(store: ObjectStore, versions: Sequence[ObjectVersion]) -> list[NotDeleted]:
    """Delete versions for good, a thousand by one request where the store can; returns those that it does not delete.

    Without a `version_id` the object under the key is deleted. It is no error when some are not there. No lock is
    bypassed. Raises S3Error where the store does not answer.
    """
    left: list[NotDeleted] = []
    for start in range(0, len(versions), _LARGEST_PAGE):
        some = versions[start : start + _LARGEST_PAGE]
        found = _deleted_together(store, some) if len(some) > 1 else None
        left += _deleted_singly(store, some) if found is None else found
    return left


def _page(store: ObjectStore, arguments: dict[str, Any]) -> Mapping[str, Any]:
    return store.capabilities.attempt(
        store.client, "list_versions", lambda _: store.client.list_object_versions(**arguments)
    )


def _version(item: Mapping[str, Any], *, is_marker: bool) -> ObjectVersion:
    return ObjectVersion(
        item["Key"], item.get("VersionId"), is_marker, bool(item.get("IsLatest")), int(item.get("Size", 0))
    )


def _deleted_together(store: ObjectStore, versions: Sequence[ObjectVersion]) -> list[NotDeleted] | None:
    """None where the store has no such request, or refuses it as a whole."""
    if not store.capabilities.deletes_of_many:
        return None
    wanted: Any = {"Objects": [{"Key": each.key, **_named(each)} for each in versions], "Quiet": True}
    try:
        answer: Mapping[str, Any] = store.call(
            "delete many",
            lambda: store.client.delete_objects(Bucket=store.bucket, Delete=wanted),
            f"deleting {len(versions)} versions",
        )
    except S3Error as error:
        if error.status is None:
            raise
        return None
    by_key: dict[str, list[ObjectVersion]] = defaultdict(list)
    for each in versions:
        by_key[each.key].append(each)
    left = {}
    for item in answer.get("Errors", []):
        if item.get("Code") in _IS_GONE:
            continue
        # Moto does not say which version it is about.
        named = item.get("VersionId")
        for each in by_key.get(item.get("Key", ""), []):
            if named in (None, each.version_id):
                left[each] = NotDeleted(each, without_secrets(f"{item.get('Code')}: {item.get('Message', '')}"))
    return list(left.values())


def _deleted_singly(store: ObjectStore, versions: Sequence[ObjectVersion]) -> list[NotDeleted]:
    left = []
    for version in versions:
        try:
            _delete(store, version)
        except FAULTS as error:
            if status_of(error) is None:
                raise store.translated(error, f"deleting {version.key}") from None
            if code_of(error) not in _IS_GONE:
                left.append(NotDeleted(version, without_secrets(str(error))))
    return left


def _delete(store: ObjectStore, version: ObjectVersion) -> None:
    arguments: dict[str, Any] = {"Bucket": store.bucket, "Key": version.key, **_named(version)}
    store.capabilities.attempt(store.client, "delete", lambda _: store.client.delete_object(**arguments))


def _named(version: ObjectVersion) -> dict[str, Any]:
    return {} if version.version_id is None else {"VersionId": version.version_id}
