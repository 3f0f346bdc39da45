"""The audit's room: one row of a manifest beside the object in the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from luma_pipeline.audit.findings import Finding, Kind
from luma_pipeline.audit.manifest import ManifestRow
from luma_pipeline.media.object_decision import Match, compare
from luma_pipeline.media.store import StoredObject

__all__ = ["Looked", "differences", "is_later", "is_of_a_run_at_work"]

LATER = timedelta(seconds=2)
"""The clocks of a store and of a run may differ by so much, and many stores tell whole seconds."""


@dataclass(frozen=True)
class Looked:
    """An object as it was looked at. `digest` is the SHA-256 of its bytes, None where they were not read."""

    stored: StoredObject | None
    digest: str | None = None


def is_later(row: ManifestRow, stored: StoredObject) -> bool:
    """Whether the object was written after it was copied.

    The time of a multipart object is that of its begin: an earlier time means nothing.
    """
    return row.copied_at is not None and stored.modified_at is not None and stored.modified_at > row.copied_at + LATER


def is_of_a_run_at_work(row: ManifestRow, looked: Looked, since: datetime) -> bool:
    """Whether it is a whole copy that a run may have made, and has not yet put into the manifest.

    Such a copy is of the row's artifact by its own metadata, was written after the row and after `since`, and its bytes
    have the SHA-256 that it names itself. An object of many parts names none.
    """
    stored = looked.stored
    if stored is None or stored.copy_id is None or not stored.belongs_to(row.task_id, row.artifact):
        return False
    if stored.modified_at is None or stored.modified_at < since:
        return False
    if row.copied_at is not None and stored.modified_at < row.copied_at.replace(microsecond=0):
        return False
    return stored.sha256 is None or stored.sha256 == looked.digest


def differences(row: ManifestRow, looked: Looked, partition: str) -> list[Finding]:
    """What of an object is not as its row says; the worst first."""
    stored = looked.stored

    def finding(kind: Kind, expected: str, found: str) -> Finding:
        return Finding(kind, expected, found, partition, row.task_id, row.artifact, row.key)

    if stored is None:
        return [finding(Kind.MISSING, f"{row.size_bytes} bytes", "no object")]
    found: list[Finding] = []
    if stored.size_bytes != row.size_bytes:
        kind = Kind.TRUNCATED if stored.size_bytes < (row.size_bytes or 0) else Kind.WRONG_SIZE
        found.append(finding(kind, f"{row.size_bytes} bytes", f"{stored.size_bytes} bytes"))
    else:
        found += _of_bytes(row, looked, stored, finding)
    if compare(row.content_type, stored.content_type) is Match.DIFFERENT:
        found.append(finding(Kind.WRONG_CONTENT_TYPE, str(row.content_type), str(stored.content_type)))
    if stored.task_id is not None and not stored.belongs_to(row.task_id, row.artifact):
        named = f"task {stored.task_id}, artifact {stored.artifact}"
        found.append(finding(Kind.OTHER_TASK, f"task {row.task_id}, artifact {row.artifact}", named))
    if not found and is_later(row, stored):
        same = "not read" if looked.digest is None else "the same bytes"
        found.append(finding(Kind.REWRITTEN, f"copied at {row.copied_at}", f"written at {stored.modified_at}, {same}"))
    return found


def _of_bytes(
    row: ManifestRow, looked: Looked, stored: StoredObject, finding: Callable[[Kind, str, str], Finding]
) -> list[Finding]:
    """What is wrong with an object of the right size: by its digest where that is known, else by its ETag."""
    digest = compare(row.sha256, looked.digest) if row.has_digest else Match.UNKNOWN
    is_other_etag = compare(row.etag, stored.etag) is Match.DIFFERENT
    etags = f"ETag {row.etag}", f"ETag {stored.etag}"
    if digest is Match.DIFFERENT:
        kind = Kind.CHANGED if is_other_etag else Kind.DIGEST_DIFFERS
        return [finding(kind, f"SHA-256 {row.sha256}", f"SHA-256 {looked.digest}")]
    if is_other_etag and digest is Match.SAME:
        return [finding(Kind.ETAG_DIFFERS, etags[0], f"{etags[1]}, the same bytes")]
    if is_other_etag:
        return [finding(Kind.CHANGED, etags[0], f"{etags[1]}; its bytes could not be compared")]
    return []
