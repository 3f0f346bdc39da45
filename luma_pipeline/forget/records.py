"""The forget room: what was done, for the records, and the journal that a killed run leaves for the next."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import Dataset, PartitionFile, StaleVersionError
from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["RECORDS", "RECORDS_SCHEMA", "Counts", "Journal", "Record", "recorded", "write_records"]

RECORDS = "luma_forgotten"
"""The dataset of the records: a partition for each day (UTC) on which tasks were forgotten."""
_JOURNAL = "_forgotten"
_MOST_TRIES = 16


@dataclass
class Counts:
    """What was found or removed of one task. `objects` are keys; `versions` count without the delete markers."""

    objects: int = 0
    versions: int = 0
    delete_markers: int = 0
    uploads: int = 0
    size_bytes: int = 0
    task_rows: int = 0
    generation_rows: int = 0
    video_rows: int = 0
    checkpoint_rows: int = 0
    report_rows: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def plus(self, other: Counts) -> Counts:
        """The sum."""
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def less(self, versions: int, keys: int) -> Counts:
        """Without versions that were found and not removed, under so many keys."""
        return replace(self, versions=max(0, self.versions - versions), objects=max(0, self.objects - keys))

    def at_least(self, other: Counts) -> Counts:
        """The larger of both, count by count."""
        return Counts(*(max(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))


_COUNTS = [each.name for each in fields(Counts)]

RECORDS_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("id_sha256", pa.string(), nullable=False),
        pa.field("forgotten_at", TIMESTAMP, nullable=False),
        pa.field("reason", pa.string()),
        pa.field("requested_by", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("is_complete", pa.bool_(), nullable=False),
        pa.field("not_reached", pa.string()),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
    ]
)
"""One row per task; another one only where a later run has removed more, or has reached what an earlier could not."""
_JOURNAL_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("id_sha256", pa.string(), nullable=False),
        pa.field("folders", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
    ]
)


@dataclass(frozen=True)
class Record:
    """What was done about one task. `digest` is the SHA-256 of its ID; `not_reached` says what is still there.

    `is_news`: this run has removed something, and not only an earlier one that was killed.
    """

    digest: bytes
    counts: Counts = field(default_factory=Counts)
    not_reached: str = ""
    is_news: bool = False


class Journal:
    """What was found of tasks, written before it is removed.

    A run that is killed leaves its journal. The next one takes the counts from there, since it finds less, and the
    folders of the partitions: what a store keeps of their earlier files and pages may still be there.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._run = uuid.uuid4().hex
        self._written: list[str] = []

    def write(self, found: Mapping[bytes, Counts], folders: Mapping[bytes, Collection[str]]) -> None:
        """Keep counts, if there are any, and the folders of the partitions with rows. Raises DatasetError."""
        rows = [
            {**_as_row(digest, counts), "folders": sorted(folders.get(digest, ()))}
            for digest, counts in found.items()
            if counts
        ]
        if rows:
            folder = f"{self._run}-{len(self._written):06}"
            self._file(folder).replace(_JOURNAL_SCHEMA, [pa.Table.from_pylist(rows, _JOURNAL_SCHEMA)])
            self._written.append(folder)

    def earlier(self, digests: Collection[bytes]) -> dict[bytes, Counts]:
        """The counts that killed runs have left of tasks. Raises DatasetError."""
        found: dict[bytes, Counts] = {}
        for folders in self._by_run().values():
            of_run: dict[bytes, Counts] = {}
            for folder in folders:
                for digest, counts in self._read(folder).items():
                    if digest in digests:
                        of_run[digest] = of_run.get(digest, Counts()).plus(counts)
            for digest, counts in of_run.items():
                found[digest] = found.get(digest, Counts()).at_least(counts)
        return found

    def folders(self) -> set[str]:
        """The partitions that killed runs have worked on. Raises DatasetError."""
        tables = (
            table
            for folders in self._by_run().values()
            for folder in folders
            for table in self._file(folder).batches(["folders"])
        )
        return {folder for table in tables for some in table["folders"].to_pylist() for folder in some}

    def close(self, recorded: Collection[bytes]) -> None:
        """Delete this run's journal, and those of killed runs all of whose tasks have their records now."""
        for folder in self._written:
            self._file(folder).delete()
        for folders in self._by_run().values():
            if all(self._read(folder).keys() <= set(recorded) for folder in folders):
                for folder in folders:
                    self._file(folder).delete()

    def _by_run(self) -> dict[str, list[str]]:
        """The folders of others, by their run."""
        found: dict[str, list[str]] = {}
        for folder in sorted(self._dataset.folders(_JOURNAL)):
            run = folder.partition("-")[0]
            if run != self._run:
                found.setdefault(run, []).append(folder)
        return found

    def _read(self, folder: str) -> dict[bytes, Counts]:
        rows: list[dict[str, object]] = [row for table in self._file(folder).batches() for row in table.to_pylist()]
        return {bytes.fromhex(str(row["id_sha256"])): _counts_in(row) for row in rows}

    def _file(self, folder: str) -> PartitionFile:
        return self._dataset.partition(_JOURNAL, folder)


def write_records(dataset: Dataset, records: Iterable[Record], *, reason: str, requested_by: str, run_id: str) -> int:
    """Append the records that say something new; returns how many. Raises DatasetError.

    A task that is recorded gets another row only where something was removed since, or where nothing is left now that
    was not reached then.
    """
    now = datetime.now(UTC)
    file = dataset.partition(RECORDS, f"date={now:%Y-%m-%d}")
    by_digest = {record.digest: record for record in records}
    for attempt in range(1, _MOST_TRIES + 1):
        known = recorded(dataset, by_digest)
        new = [record for digest, record in by_digest.items() if _is_news(record, known.get(digest))]
        if not new:
            return 0
        rows = [
            {
                **_as_row(record.digest, record.counts),
                "forgotten_at": now,
                "reason": reason or None,
                "requested_by": requested_by or None,
                "run_id": run_id or None,
                "is_complete": not record.not_reached,
                "not_reached": record.not_reached or None,
            }
            for record in new
        ]
        try:
            with file.open() as reader:
                before = list(reader.batches(schema=RECORDS_SCHEMA))
                tables = [*before, pa.Table.from_pylist(rows, RECORDS_SCHEMA)]
                file.replace(RECORDS_SCHEMA, [pa.concat_tables(tables)], ("id_sha256", "forgotten_at"), reader.version)
        except StaleVersionError:
            if attempt == _MOST_TRIES:
                raise
            continue
        return len(new)
    raise AssertionError("unreachable")


def _is_news(record: Record, was_complete: bool | None) -> bool:
    if was_complete is None or record.is_news:
        return True
    return not was_complete and not record.not_reached


def recorded(dataset: Dataset, digests: Collection[bytes]) -> dict[bytes, bool]:
    """For each digest that is recorded whether a row says that all was reached. Raises DatasetError."""
    asked = pa.array([digest.hex() for digest in digests], pa.string())
    found: dict[bytes, bool] = {}
    for folder in dataset.folders(RECORDS):
        for table in dataset.partition(RECORDS, folder).batches(["id_sha256", "is_complete"]):
            some = table.filter(pc.is_in(table["id_sha256"], value_set=asked))
            for text, is_complete in zip(*(some[name].to_pylist() for name in some.schema.names), strict=True):
                digest = bytes.fromhex(text)
                found[digest] = found.get(digest, False) or is_complete
    return found


def _as_row(digest: bytes, counts: Counts) -> dict[str, object]:
    return {"id_sha256": digest.hex(), **{name: getattr(counts, name) for name in _COUNTS}}


def _counts_in(row: Mapping[str, object]) -> Counts:
    return Counts(**{name: row[name] for name in _COUNTS})  # type: ignore[arg-type]
