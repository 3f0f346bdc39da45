"""The audit's room: what can be wrong between manifest and bucket, and the rows of the report."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa

from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["AUDIT_COLUMNS", "AUDIT_SCHEMA", "Finding", "Findings", "Kind", "Repair", "Severity", "finding_of"]


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Bytes are lost, or are others, or could not be looked at."""
    WARNING = "warning"
    """The bytes are there, and something about them is wrong."""
    INFO = "info"
    """Worth knowing; the check passes."""

    def __str__(self) -> str:
        return self.value


class Kind(StrEnum):
    """What is wrong; the `kind` of a row of the report."""

    MISSING = "missing"
    """The manifest has an object that the bucket has not."""
    TRUNCATED = "truncated"
    """The object is shorter than the manifest says."""
    WRONG_SIZE = "wrong_size"
    """The object is longer than the manifest says."""
    CHANGED = "changed"
    """The object has other bytes under another ETag: somebody has written it. Also where the bytes were not read."""
    DIGEST_DIFFERS = "digest_differs"
    """Size and ETag are those of the manifest, and the bytes are others."""
    UNREADABLE_OBJECT = "unreadable_object"
    """The store does not give the object."""
    UNREADABLE_PARTITION = "unreadable_partition"
    """A file of the manifest cannot be read, so that its objects were not looked at."""
    NO_KEY = "no_key"
    """A row says that its object is in the bucket, and does not say where, or how large it is."""
    ETAG_DIFFERS = "etag_differs"
    """The bytes are those of the manifest under another ETag."""
    OTHER_TASK = "other_task"
    """The object's own metadata names another task or artifact."""
    WRONG_CONTENT_TYPE = "wrong_content_type"
    """The object's Content-Type is not that of the manifest."""
    ORPHANED = "orphaned"
    """An object with a key of ours that no row of a manifest has."""
    FORGOTTEN = "forgotten"
    """A row or an object is of a task that was forgotten."""
    REPEATED_KEY = "repeated_key"
    """More than one row of the manifests has this key."""
    NO_DIGEST = "no_digest"
    """A row has no SHA-256, so that its bytes cannot be compared."""
    MISSING_PARTITION = "missing_partition"
    """luma_generations has the partition, and luma_videos has not."""
    DUPLICATE = "duplicate"
    """Two keys hold the same bytes."""
    REWRITTEN = "rewritten"
    """The object was written again after it was copied, with the same bytes."""

    def __str__(self) -> str:
        return self.value

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        if self in _ERRORS:
            return Severity.ERROR
        return Severity.INFO if self in _INFORMATION else Severity.WARNING

    @property
    def is_loss(self) -> bool:
        """Whether the bytes of the manifest are not in the bucket."""
        return self in _LOSSES


_LOSSES = frozenset({Kind.MISSING, Kind.TRUNCATED, Kind.WRONG_SIZE, Kind.CHANGED, Kind.DIGEST_DIFFERS})
_ERRORS = _LOSSES | {Kind.UNREADABLE_OBJECT, Kind.UNREADABLE_PARTITION, Kind.NO_KEY}
_INFORMATION = frozenset({Kind.DUPLICATE, Kind.REWRITTEN})


class Repair(StrEnum):
    """What was done about a finding; the `repair` of a row of the report."""

    COPIED_AGAIN = "copied_again"
    """The provider still had it: it is in the bucket, and in the manifest."""
    ROW_RENEWED = "row_renewed"
    """The bytes were right: the row says now what the store says of them."""
    DELETED = "deleted"
    """The orphaned object was deleted."""
    LOST = "lost"
    """The bucket has not its bytes, and the provider has it no more."""
    FAILED = "failed"
    """It was tried, and can be tried again."""

    def __str__(self) -> str:
        return self.value

    @property
    def is_done(self) -> bool:
        """Whether what was found is no more."""
        return self in {Repair.COPIED_AGAIN, Repair.ROW_RENEWED, Repair.DELETED}


AUDIT_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("severity", pa.string(), nullable=False),
        pa.field("partition", pa.string()),
        pa.field("task_id", pa.string()),
        pa.field("artifact", pa.string()),
        pa.field("key", pa.string()),
        pa.field("expected", pa.string()),
        pa.field("found", pa.string()),
        pa.field("repaired", pa.bool_(), nullable=False),
        pa.field("repair", pa.string()),
        pa.field("audited_at", TIMESTAMP, nullable=False),
    ]
)
"""One row per finding."""
AUDIT_COLUMNS: Mapping[str, str] = {
    "kind": "What is wrong, as a word.",
    "severity": "error, warning or info.",
    "partition": "The folder of the manifest, such as `date=2024-12-24`; null for an object without a row.",
    "task_id": "The task; of an object without a row, the one that its metadata names.",
    "artifact": "The artifact.",
    "key": "The object's key.",
    "expected": "What the manifest says, in words.",
    "found": "What the store says, in words, and how a repair went.",
    "repaired": "Whether it is no more.",
    "repair": "`copied_again`, `row_renewed`, `deleted`, `lost` or `failed`; null where nothing was tried.",
    "audited_at": "When the audit began (UTC).",
}
"""What each column is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `expected` is what the manifest says, `found` what the store says, both in words."""

    kind: Kind
    expected: str
    found: str
    partition: str | None = None
    task_id: str | None = None
    artifact: str | None = None
    key: str | None = None
    repair: Repair | None = None

    @property
    def is_repaired(self) -> bool:
        """Whether it is no more."""
        return self.repair is not None and self.repair.is_done

    def with_repair(self, repair: Repair, words: str = "") -> Finding:
        """The finding with what was done about it."""
        return replace(self, repair=repair, found=f"{self.found}; {words}" if words else self.found)


def finding_of(row: Mapping[str, Any]) -> Finding:
    """The finding of a row of an earlier report."""
    values = {field.name: row[field.name] for field in fields(Finding)}
    return Finding(**{**values, "kind": Kind(row["kind"]), "repair": None})


_BATCH_ROWS = 1000
_BYTES_IN_MEMORY = 4 * 1024 * 1024
_MOST_EXAMPLES = 20


class Findings:
    """The findings of one audit on their way into the report: counted, and above 4 MiB in a temporary file.

    >>> findings = Findings(datetime(2024, 12, 24, tzinfo=timezone.utc))
    >>> findings.add(Finding(Kind.MISSING, "5 bytes", "no object", key="a/video.mp4"))
    >>> findings.errors, [len(table) for table in findings.tables()]
    (1, [1])
    """

    def __init__(self, audited_at: datetime) -> None:
        self.counts: Counter[Kind] = Counter()
        self.repaired: Counter[Kind] = Counter()
        self.errors = 0
        self.warnings = 0
        self.examples: list[Finding] = []
        self._audited_at = audited_at
        self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115  (`close` closes it)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), AUDIT_SCHEMA)
        self._new: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Take in a finding."""
        kind = finding.kind
        self.counts[kind] += 1
        self.repaired[kind] += finding.is_repaired
        if not finding.is_repaired:
            self.errors += kind.severity is Severity.ERROR
            self.warnings += kind.severity is Severity.WARNING
            if kind.severity is not Severity.INFO and len(self.examples) < _MOST_EXAMPLES:
                self.examples.append(finding)
        self._new.append(finding)
        if len(self._new) >= _BATCH_ROWS:
            self._write()

    def tables(self) -> Iterator[pa.Table]:
        """The rows of the report, once; no finding can be added after that."""
        self._write()
        self._writer.close()
        self._file.seek(0)
        reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"))
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])

    def close(self) -> None:
        """Free the rows."""
        self._file.close()

    def _write(self) -> None:
        new, self._new = self._new, []
        if new:
            self._writer.write_batch(pa.RecordBatch.from_pylist([self._row(each) for each in new], AUDIT_SCHEMA))

    def _row(self, finding: Finding) -> dict[str, object]:
        row = {field.name: getattr(finding, field.name) for field in fields(finding)}
        return {
            **{name: str(value) if isinstance(value, StrEnum) else value for name, value in row.items()},
            "severity": str(finding.kind.severity),
            "repaired": finding.is_repaired,
            "audited_at": self._audited_at,
        }
