"""Everything that a bucket has of a task, found and removed for good: objects, versions, delete markers, uploads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.errors import BucketError
from luma_pipeline.media.keys import KeyTemplate, safe_segment
from luma_pipeline.s3 import (
    MultipartUpload,
    NotDeleted,
    ObjectStore,
    ObjectVersion,
    S3DeniedError,
    S3Error,
    S3SettingsError,
    delete_versions,
    list_objects,
    list_uploads,
    list_versions,
    make_client,
)

__all__ = ["FoundObjects", "ObjectPurge", "open_purge"]

_CONNECTIONS = 16
_FAILURES_BEFORE_STOP = 8
_LOOKS_FOR_A_PAGE = 12
_LARGEST_PAGE = 1000
_TIMEOUTS = (5.0, 60.0)
_PERMISSIONS = "s3:ListBucket, s3:ListBucketVersions, s3:DeleteObject, s3:DeleteObjectVersion"


@dataclass
class FoundObjects:
    """What a bucket has of one task. `problem` says why there may be more."""

    task_id: str
    versions: list[ObjectVersion] = field(default_factory=list)
    uploads: list[MultipartUpload] = field(default_factory=list)
    problem: str = ""

    @property
    def keys(self) -> int:
        """How many keys have an object, or had one."""
        return len({version.key for version in self.versions})

    @property
    def markers(self) -> int:
        """How many of the versions are delete markers."""
        return sum(version.is_marker for version in self.versions)


class ObjectPurge:
    """Finds and removes what one bucket has of tasks. Thread-safe, but for `close`.

    templates: those under which objects of the tasks may lie: today's, and those of earlier settings.
    """

    def __init__(self, store: ObjectStore, templates: Sequence[KeyTemplate]) -> None:
        self._store = store
        self._templates = templates
        self._lock = threading.Lock()
        self._uploads: dict[str, dict[str, MultipartUpload]] | None = None
        self._loaded: dict[str, dict[tuple[str, str | None], ObjectVersion]] | None = None
        self._denied = ""
        self._failures = 0
        self._last_failure = ""

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self._store.bucket

    def close(self) -> None:
        """Close the connections."""
        self._store.client.close()

    def load(self, task_ids: Sequence[str]) -> None:
        """List all keys at once, if that is cheaper than to look for each of these tasks: `find` asks no more then.

        A page of a thousand costs as much CPU as twelve single looks. Listing goes on as far as these would have cost.
        """
        pages = len(task_ids) // _LOOKS_FOR_A_PAGE
        if not pages or self._denied:
            return
        by_segment = {safe_segment(task_id): task_id for task_id in task_ids}
        loaded: dict[str, dict[tuple[str, str | None], ObjectVersion]] = {task_id: {} for task_id in task_ids}
        listed = 0
        try:
            for template in self._templates:
                for version in list_versions(self._store, template.beginning):
                    listed += 1
                    if listed > pages * _LARGEST_PAGE:
                        return
                    owner = by_segment.get(template.segment_of(version.key) or "")
                    if owner is not None:
                        loaded[owner][version.key, version.version_id] = version
        except S3Error:
            return  # the first single look tells
        self._loaded = loaded

    def find(self, task_id: str, keys: Iterable[str] = ()) -> FoundObjects:
        """All versions under the keys that a template gives the task, and under `keys`, which are its own too.

        An object of another's in the task's folder is left alone: it has no key of a template. When the store has
        failed for eight tasks in a row, it is not asked for others.
        """
        found = FoundObjects(task_id)
        if self._failures >= _FAILURES_BEFORE_STOP:
            found.problem = (
                f"not looked for: the store failed {self._failures} times in a row, last: {self._last_failure}"
            )
            return found
        bases = [
            (template, {template.key_base(task_id, artifact) for artifact in Artifact}) for template in self._templates
        ]
        try:
            versions = self._by_templates(task_id, bases, found)
            for key in keys:
                if not any(template.key_base_of(key) in theirs for template, theirs in bases):
                    versions |= {
                        (each.key, each.version_id): each for each in self._listed(key, found) if each.key == key
                    }
            found.versions = list(versions.values())
            found.uploads = self._uploads_of({base for _, theirs in bases for base in theirs})
        except S3Error as error:
            found.problem = self._last_failure = str(error)
            self._failures += 1
        else:
            self._failures = 0
        return found

    def _by_templates(
        self, task_id: str, bases: Sequence[tuple[KeyTemplate, set[str]]], found: FoundObjects
    ) -> dict[tuple[str, str | None], ObjectVersion]:
        if self._loaded is not None and task_id in self._loaded:
            return self._loaded[task_id]
        return {
            (version.key, version.version_id): version
            for template, theirs in bases
            for beginning in template.beginnings(task_id)
            for version in self._listed(beginning, found)
            if template.key_base_of(version.key) in theirs
        }

    def remove(self, found: Sequence[FoundObjects]) -> list[NotDeleted]:
        """Remove what was found; returns the versions that are still there, and why. Uploads go first."""
        for upload in (upload for each in found for upload in each.uploads):
            upload.abort()
        versions = [version for each in found for version in each.versions]
        try:
            return delete_versions(self._store, versions)
        except S3Error as error:
            return [NotDeleted(version, str(error)) for version in versions]

    def _uploads_of(self, bases: Iterable[str]) -> list[MultipartUpload]:
        """The unfinished uploads under these bases of keys. All below the templates' beginnings are listed once."""
        with self._lock:
            if self._uploads is None:
                uploads: dict[str, dict[str, MultipartUpload]] = {}
                for template in self._templates:
                    for upload, _ in list_uploads(self._store, template.beginning):
                        base = template.key_base_of(upload.key)
                        if base is not None:
                            uploads.setdefault(base, {})[upload.upload_id] = upload
                self._uploads = uploads
        return [upload for base in bases for upload in self._uploads.get(base, {}).values()]

    def _listed(self, prefix: str, found: FoundObjects) -> Iterator[ObjectVersion]:
        """The versions below a prefix; the objects alone, which is told, where versions must not be listed."""
        if not self._denied:
            try:
                yield from list_versions(self._store, prefix)
            except S3DeniedError as error:
                self._denied = f"older versions cannot be listed, objects alone were looked for: {error}"
        if self._denied:
            found.problem = self._denied
            yield from list_objects(self._store, prefix)


def open_purge(bucket: str, templates: Sequence[KeyTemplate]) -> ObjectPurge:
    """The purge of a bucket, by boto3's chain of settings. Raises BucketError where no client can be set up."""
    try:
        client = make_client(max_connections=_CONNECTIONS, timeouts=_TIMEOUTS)
    except S3SettingsError as error:
        raise BucketError(str(error)) from None
    return ObjectPurge(ObjectStore(client, bucket, permissions=_PERMISSIONS), templates)
