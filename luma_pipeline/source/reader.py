"""The source room: rows of the source table, read as a stream into Arrow columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.source.columns import CarriedColumn, IdColumn
from luma_pipeline.source.queries import SourceQueries
from luma_pipeline.source.times import to_utc

__all__ = ["RowsOutside", "SourceReader", "SourceRows", "SourceTasks"]

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


_IDENTIFIED = pa.schema([pa.field("task_id", pa.string()), pa.field("submitted_at", TIMESTAMP)])


@dataclass(frozen=True)
class SourceRows:
    """The rows of a window as they were read, those without an ID too, and ID and time of rows before it."""

    table: pa.Table
    before: pa.Table
    unreadable_times: int
    unreadable_example: str


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
        extra = [pa.field("has_id", pa.bool_()), pa.field("unreadable", pa.int64())]
        self._row_schema = pa.schema([*_IDENTIFIED, *list(self._schema)[2:], *extra])

    @property
    def ids_are_unique(self) -> bool:
        """Whether no two rows of the table have the same ID."""
        return self._ids_are_unique

    @property
    def is_coarse(self) -> bool:
        """Whether a window is read with the days around it."""
        return self._queries.is_coarse

    def rows(self, connection: sa.Connection, start: datetime, end: datetime) -> SourceRows:
        """The rows of [start, end)."""
        batches: list[pa.RecordBatch] = []
        before: list[pa.RecordBatch] = []
        unreadable_times, example = 0, ""
        for part in _streamed(connection, self._queries.window(start, end)):
            times = [to_utc(row[1], self._zone) for row in part]
            odd = [row[1] for row, at in zip(part, times, strict=True) if at is None and _begins_like_a_time(row[1])]
            unreadable_times += len(odd)
            example = example or _example(odd)
            inside = [(row, at) for row, at in zip(part, times, strict=True) if at is not None and start <= at < end]
            batches.append(self._batch([row for row, _ in inside], [at for _, at in inside]))
            if not self._ids_are_unique:
                before.append(self._identified(part, times, start))
        table = pa.Table.from_batches(batches, self._row_schema)
        return SourceRows(table, pa.Table.from_batches(before, _IDENTIFIED), unreadable_times, example)

    def tasks(self, rows: SourceRows, start: datetime, end: datetime, earlier: pa.Table | None) -> SourceTasks:
        """The tasks of [start, end) out of `rows`, which hold them. `earlier` is of `ids_elsewhere` or `repeats`."""
        begins, ends = pa.scalar(start, TIMESTAMP), pa.scalar(end, TIMESTAMP)
        times = rows.table["submitted_at"]
        inside = _those(rows.table, pc.and_(pc.greater_equal(times, begins), pc.less(times, ends)))
        named = _those(inside, inside["has_id"])
        table, repeated = _distinct(named.select(self._schema.names).cast(self._schema))
        none = _IDENTIFIED.empty_table()
        before = [rows.before, rows.table.select(_IDENTIFIED.names)]
        others = pa.concat_tables([part.cast(_IDENTIFIED) for part in before if not self._ids_are_unique] or [none])
        if earlier is not None:
            others = pa.concat_tables([others, earlier])
        first = pa.scalar(self._since or _FIRST_TIME, TIMESTAMP)
        at = others["submitted_at"]
        ids = others.filter(pc.and_(pc.greater_equal(at, first), pc.less(at, begins)))["task_id"]
        mine = table.filter(pc.invert(pc.is_in(table["task_id"], value_set=pc.unique(ids)))) if len(ids) else table
        return SourceTasks(
            mine,
            len(inside),
            len(inside) - len(named),
            repeated,
            len(table) - len(mine),
            pc.sum(named["unreadable"]).as_py() or 0,
            rows.unreadable_times,
            rows.unreadable_example,
        )

    def ids_elsewhere(self, connection: sa.Connection, start: datetime, end: datetime) -> pa.Table:
        """ID and time of rows far from [start, end) whose ID a row in it has. Usually there are none."""
        return self._all_identified(connection, self._queries.same_ids_elsewhere(start, end), start)

    def repeats(self, connection: sa.Connection, start: datetime, end: datetime) -> pa.Table:
        """`ids_elsewhere`, and the rows of [start, end) whose ID another of them has: for all windows in it."""
        within = self._all_identified(connection, self._queries.repeated(start, end), end)
        return pa.concat_tables([within, self.ids_elsewhere(connection, start, end)])

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

    def _all_identified(self, connection: sa.Connection, statement: sa.Select[Any], before: datetime) -> pa.Table:
        batches = (
            self._identified(part, [to_utc(row[1], self._zone) for row in part], before)
            for part in _streamed(connection, statement)
        )
        return pa.Table.from_batches(batches, _IDENTIFIED)

    def _identified(
        self, rows: Sequence[Sequence[Any]], times: Sequence[datetime | None], before: datetime
    ) -> pa.RecordBatch:
        """ID and time of the rows that are in a partition and `before` a time."""
        first = self._since or _FIRST_TIME
        earlier = [(row[0], at) for row, at in zip(rows, times, strict=True) if at is not None and first <= at < before]
        ids = self._id.texts([value for value, _ in earlier])
        return pa.RecordBatch.from_arrays([ids, pa.array([at for _, at in earlier], TIMESTAMP)], schema=_IDENTIFIED)

    def _batch(self, rows: Sequence[Sequence[Any]], times: Sequence[datetime]) -> pa.RecordBatch:
        """The rows, whether they have an ID, and how many of their carried values cannot be read."""
        ids = self._id.texts([row[0] for row in rows])
        has_id = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(ids), ""), False)
        unreadable = np.zeros(len(rows), dtype=np.int64)
        values = []
        for index, column in enumerate(self._carried, start=2):
            stored = [row[index] for row in rows]
            read, bad = column.read(stored)
            values.append(read)
            if bad:
                unreadable += np.asarray(read.is_null()) & np.array([value is not None for value in stored])
        arrays = [ids, pa.array(times, TIMESTAMP), *values, has_id, pa.array(unreadable)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._row_schema)


def _streamed(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows in batches, through a cursor of the server's where it has one."""
    streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_A_TIME)
    return streaming.execute(statement).partitions()


def _begins_like_a_time(value: object) -> bool:
    """Whether the text is read for few windows. Others are read for all, and told of by `rows_outside`."""
    return isinstance(value, str) and value[:1].isdigit()


def _example(values: Sequence[object]) -> str:
    return str(values[0])[:40] if values else ""


def _those(table: pa.Table, wanted: pa.ChunkedArray) -> pa.Table:
    """The rows that are wanted: usually all of them, which need no copy."""
    return table if pc.all(wanted, min_count=0).as_py() else table.filter(wanted)


def _distinct(table: pa.Table) -> tuple[pa.Table, int]:
    """One row per ID, the earliest, ordered by time and ID; and how many rows were left out."""
    ordered = table.sort_by([("submitted_at", "ascending"), ("task_id", "ascending")])
    if pc.count_distinct(ordered["task_id"]).as_py() == len(ordered):
        return ordered, 0
    ids = ordered["task_id"].combine_chunks()
    numbered = pa.table({"task_id": ids, "row": pa.array(range(len(ids)), pa.int64())})
    first = numbered.group_by("task_id").aggregate([("row", "min")])["row_min"]
    kept = ordered.take(pc.take(first, pc.sort_indices(first)))
    return kept, len(ids) - len(kept)
