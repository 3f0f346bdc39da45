"""The source room: rows of the source table, read as a stream into Arrow columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.source.columns import CarriedColumn, IdColumn
from luma_pipeline.source.queries import SourceQueries
from luma_pipeline.source.times import to_utc

__all__ = ["RowsOutside", "SourceReader", "SourceTasks"]

_ROWS_AT_A_TIME = 10_000
_MOST_SAMPLED = 10_000
"""Rows of which the times are looked at for `rows_outside`, before the first partition and elsewhere."""
_FUTURE = timedelta(days=7)
_FIRST_TIME = datetime(1000, 1, 1, tzinfo=UTC)
_FIRST_EPOCH_TIME = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
"""From here on the four units of epoch numbers can be told apart by a condition."""


@dataclass(frozen=True)
class SourceTasks:
    """The tasks of one window of time.

    Attributes:
        table: `task_id`, `submitted_at` (UTC) and the carried columns: one row per distinct ID, ordered by time and ID.
        source_rows: Rows of the source in the window.
        blank_ids: Rows of these whose ID is null or blank. They are not in the table.
        repeated_ids: Rows of these that repeat an ID. The earliest row is in the table.
        ids_of_earlier_partitions: IDs with an earlier row in another partition. They are not in the table.
        unreadable_values: Carried values that do not have their column's type. They are null in the table.
        unreadable_times: Rows around the window whose time cannot be read. They are in no table.
        unreadable_example: A time of these, as text.
    """

    table: pa.Table
    source_rows: int
    blank_ids: int
    repeated_ids: int
    ids_of_earlier_partitions: int
    unreadable_values: int
    unreadable_times: int = 0
    unreadable_example: str = ""


@dataclass(frozen=True)
class RowsOutside:
    """Rows of the source that are in no partition, or in none that comes soon, as far as a sample shows.

    `unreadable` have a time that cannot be read, such as `example`. `before_start` are before the first partition,
    `in_future` more than a week ahead. `complete` is False if there may be more rows than were looked at.
    """

    without_time: int
    unreadable: int = 0
    before_start: int = 0
    in_future: int = 0
    example: str = ""
    complete: bool = True

    def __bool__(self) -> bool:
        return bool(self.without_time or self.unreadable or self.before_start or self.in_future)

    def __str__(self) -> str:
        counts = [
            (self.without_time, "without a time"),
            (self.unreadable, f"with a time that cannot be read, such as {self.example!r}"),
            (self.before_start, "before LUMA_PARTITIONS_START"),
            (self.in_future, "more than a week in the future"),
        ]
        told = ", ".join(f"{count} {what}" for count, what in counts if count)
        return told + ("" if self.complete else " (and maybe more: not every row was looked at)")


class SourceReader:
    """Reads the rows of a table whose columns are known.

    Args:
        id_column: The column with the task IDs.
        carried: The columns to carry along.
        queries: The statements.
        ids_are_unique: Whether no two rows of the table have the same ID.
        since: Beginning of the first partition: earlier rows are in none.
    """

    def __init__(
        self,
        id_column: IdColumn,
        carried: Sequence[CarriedColumn],
        queries: SourceQueries,
        *,
        ids_are_unique: bool,
        since: datetime | None,
    ) -> None:
        self._id = id_column
        self._carried = carried
        self._queries = queries
        self._zone: ZoneInfo = queries.zone
        self._ids_are_unique = ids_are_unique
        self._since = since
        self._schema = pa.schema(
            [
                pa.field("task_id", pa.string(), nullable=False),
                pa.field("submitted_at", TIMESTAMP, nullable=False),
                *(pa.field(column.name, column.type) for column in carried),
            ]
        )

    def read(self, connection: sa.Connection, start: datetime, end: datetime) -> SourceTasks:
        """The tasks of [start, end)."""
        rows = blanks = unreadable = unreadable_times = 0
        example = ""
        batches: list[pa.RecordBatch] = []
        earlier: list[pa.Array] = []
        for part in _streamed(connection, self._queries.window(start, end)):
            times = [to_utc(row[1], self._zone) for row in part]
            odd = [row[1] for row, at in zip(part, times, strict=True) if at is None and _begins_like_a_time(row[1])]
            unreadable_times += len(odd)
            example = example or _example(odd)
            inside = [(row, at) for row, at in zip(part, times, strict=True) if at is not None and start <= at < end]
            rows += len(inside)
            batch, bad = self._batch([row for row, _ in inside], [at for _, at in inside])
            blanks += len(inside) - len(batch)
            unreadable += bad
            batches.append(batch)
            if not self._ids_are_unique:
                earlier.append(self._ids_of_earlier(part, times, start))
        table, repeated = _distinct(pa.Table.from_batches(batches, self._schema))
        if not self._ids_are_unique and len(table):
            earlier.append(self._ids_of_other_windows(connection, start, end))
        mine = table.filter(pc.invert(pc.is_in(table["task_id"], value_set=_unique(earlier))))
        earlier_ids = len(table) - len(mine)
        return SourceTasks(mine, rows, blanks, repeated, earlier_ids, unreadable, unreadable_times, example)

    def rows_outside(self, connection: sa.Connection) -> RowsOutside:
        """How many rows of a bounded sample are in no partition, and why."""
        now = datetime.now(UTC)
        since, future = self._since, now + _FUTURE
        first = _FIRST_EPOCH_TIME if since is None else min(since, _FIRST_EPOCH_TIME)
        statements = [self._queries.times_outside(first, future, _MOST_SAMPLED)]
        if since is not None:
            statements.append(self._queries.times_in(first, since, _MOST_SAMPLED))
        sampled = [
            [value for part in _streamed(connection, statement) for (value,) in part] for statement in statements
        ]
        stored = [value for values in sampled for value in values]
        times = [to_utc(value, self._zone) for value in stored]
        unreadable = [value for value, at in zip(stored, times, strict=True) if at is None and value is not None]
        return RowsOutside(
            without_time=sum(value is None for value in stored),
            unreadable=len(unreadable),
            before_start=sum(at is not None and since is not None and at < since for at in times),
            in_future=sum(at is not None and at >= future for at in times),
            example=_example(unreadable),
            complete=all(len(values) < _MOST_SAMPLED for values in sampled),
        )

    def _ids_of_other_windows(self, connection: sa.Connection, start: datetime, end: datetime) -> pa.Array:
        """The IDs with an earlier row, among those of the window and of rows far from it.

        A window's own rows and those around it were read already. So the database is asked for the rest alone, which
        usually is nothing.
        """
        found = pa.array([], pa.string())
        for part in _streamed(connection, self._queries.same_ids_elsewhere(start, end)):
            times = [to_utc(row[1], self._zone) for row in part]
            found = _unique([found, self._ids_of_earlier(part, times, start)])
        return found

    def _ids_of_earlier(
        self, rows: Sequence[Sequence[Any]], times: Sequence[datetime | None], start: datetime
    ) -> pa.Array:
        """The IDs of the rows that are in a partition before `start`."""
        first = self._since or _FIRST_TIME
        earlier = [row[0] for row, at in zip(rows, times, strict=True) if at is not None and first <= at < start]
        return self._id.texts(earlier)

    def _batch(self, rows: Sequence[Sequence[Any]], times: Sequence[datetime]) -> tuple[pa.RecordBatch, int]:
        """The rows that have an ID, and how many of their carried values cannot be read."""
        ids = self._id.texts([row[0] for row in rows])
        has_id = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(ids), ""), False)
        if not pc.all(has_id).as_py():
            named = has_id.to_pylist()
            ids = ids.filter(has_id)
            rows = [row for row, is_named in zip(rows, named, strict=True) if is_named]
            times = [at for at, is_named in zip(times, named, strict=True) if is_named]
        arrays = [ids, pa.array(times, TIMESTAMP)]
        unreadable = 0
        for index, column in enumerate(self._carried, start=2):
            values, bad = column.read([row[index] for row in rows])
            arrays.append(values)
            unreadable += bad
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema), unreadable


def _streamed(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows in batches, through a cursor of the server's where it has one."""
    streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_A_TIME)
    return streaming.execute(statement).partitions()


def _begins_like_a_time(value: object) -> bool:
    """Whether the text is read for few windows. Others are read for all, and told of by `rows_outside`."""
    return isinstance(value, str) and value[:1].isdigit()


def _example(values: Sequence[object]) -> str:
    return str(values[0])[:40] if values else ""


def _unique(parts: Sequence[pa.Array]) -> pa.Array:
    return pc.unique(pa.chunked_array(parts, pa.string()))


def _distinct(table: pa.Table) -> tuple[pa.Table, int]:
    """One row per ID, the earliest, ordered by time and ID; and how many rows were left out."""
    ordered = table.sort_by([("submitted_at", "ascending"), ("task_id", "ascending")])
    ids = ordered["task_id"].combine_chunks()
    if pc.count_distinct(ids).as_py() == len(ids):
        return ordered, 0
    numbered = pa.table({"task_id": ids, "row": pa.array(range(len(ids)), pa.int64())})
    first = numbered.group_by("task_id").aggregate([("row", "min")])["row_min"]
    kept = ordered.take(pc.take(first, pc.sort_indices(first)))
    return kept, len(ids) - len(kept)
