"""The source table: task IDs and their times out of any SQL database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.source.cancel import StatementCanceller
from luma_pipeline.source.errors import (
    ConnectionLostError,
    Explainer,
    SourceTableError,
    SourceUnavailableError,
    open_engine,
)
from luma_pipeline.source.times import (
    as_stored,
    before,
    is_free_form,
    mark_stored_freely,
    near,
    not_before,
    selected,
    surely_between,
    to_utc,
)

__all__ = ["RowsOutside", "SourceTable", "SourceTableError", "SourceTasks", "SourceUnavailableError"]

_ROWS_AT_A_TIME = 10_000
_MOST_LOOKED_AT = 100_000
"""Rows that are looked at one by one, in a run, for a time that cannot be read."""
_FUTURE = timedelta(days=7)
_FIRST_TIME = datetime(1000, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class SourceTasks:
    """The tasks of one window of time.

    `table` has `task_id`, `submitted_at` (UTC) and the carried columns, one row per distinct ID, ordered by time and
    ID. The counts tell of rows that are in the source but not in the table: IDs that are null or blank, rows that
    repeat an ID (the earliest is kept), and IDs that have an earlier row in another partition, whose they are.
    `unreadable_values` counts carried values that do not have their column's type; they are null in the table.
    """

    table: pa.Table
    source_rows: int
    blank_ids: int
    repeated_ids: int
    ids_of_earlier_partitions: int
    unreadable_values: int


@dataclass(frozen=True)
class RowsOutside:
    """Rows of the source that are in no partition, or in none that will come soon.

    `unreadable` have a time that cannot be read, such as `example`; `before_start` one before the first partition;
    `in_future` one that is more than a week away. `complete` is False where the counts but `without_time` are of the
    rows that could be looked at.
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


@dataclass
class SourceTable:
    """The table in which the product keeps its task IDs; a context manager that closes its connections.

    Rows are read through a server-side cursor in batches and kept as Arrow columns: a million IDs are about 50 MB,
    never a million Python objects.

    Args:
        url: SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database.
        table: Table or view, with its schema if it has one: `generations`, `app.generations`.
        id_column: Column with the provider's task IDs.
        time_column: Column with the time a task was submitted.
        columns: Further columns to carry along into luma_tasks.
        where: An SQL condition that rows must meet, such as kind = 'luma'.
        timezone: Zone of times that are stored without one.
        since: Beginning of the first partition, as an ISO 8601 time: earlier rows are in none.
    """

    url: str = field(repr=False)
    table: str
    id_column: str = "task_id"
    time_column: str = "submitted_at"
    columns: Sequence[str] = ()
    where: str | None = None
    timezone: str = "UTC"
    since: str | None = None

    _engine: sa.Engine | None = field(default=None, init=False, repr=False)
    _reader: _Reader | None = field(default=None, init=False, repr=False)
    _canceller: StatementCanceller | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __enter__(self) -> SourceTable:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, start: datetime, end: datetime) -> SourceTasks:
        """The tasks submitted in [start, end), both aware, that have no earlier row in another partition.

        A connection that is lost meanwhile is opened once more.

        Raises:
            SourceTableError: The database, the table or a column is not there, or the condition is no SQL.
            SourceUnavailableError: The database was locked, too busy or gone; it may be well in a while.
        """
        reader = self._ready()
        try:
            return reader.read(start, end)
        except ConnectionLostError:
            return reader.read(start, end)

    def rows_outside(self) -> RowsOutside:
        """How many rows are in no partition, and why.

        Raises:
            SourceTableError: As `read`, and where the database cannot be reached.
            SourceUnavailableError: The database was locked or too busy.
        """
        return self._ready().rows_outside()

    def close(self) -> None:
        """Close the pool of connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = self._reader = self._canceller = None

    def cancel(self) -> None:
        """Break off the statements that other threads wait for, where the driver knows how."""
        canceller = self._canceller
        if canceller is not None:
            canceller.cancel()

    def _ready(self) -> _Reader:
        with self._lock:
            if self._reader is None:
                if self._engine is None:
                    self._engine = open_engine(self.url)
                    self._canceller = StatementCanceller(self._engine)
                explainer = Explainer(self.url, self.table)
                with explainer.explained(at_start=True):
                    self._reader = _Reader(self._engine, self, explainer)
            return self._reader


class _Reader:
    """Reads a table whose columns are known."""

    def __init__(self, engine: sa.Engine, settings: SourceTable, explainer: Explainer) -> None:
        self._engine = engine
        self._explainer = explainer
        try:
            self._zone = ZoneInfo(settings.timezone)
        except (KeyError, ValueError):
            raise SourceTableError(f"no such time zone: {settings.timezone!r} (LUMA_SOURCE_TIMEZONE)") from None
        self._since = None if settings.since is None else to_utc(settings.since, ZoneInfo("UTC"))
        schema_name, _, name = settings.table.rpartition(".")
        try:
            table = sa.Table(name, sa.MetaData(), schema=schema_name or None, autoload_with=engine)
        except sa.exc.NoSuchTableError:
            raise SourceTableError(_no_table(engine, schema_name or None, settings.table)) from None
        if engine.dialect.name == "sqlite":
            for column in table.c:
                mark_stored_freely(column)
        self._id = _column_of(table, settings.id_column, "LUMA_SOURCE_ID_COLUMN")
        self._ids_are_unique = _is_unique(table, self._id)
        self._time = _column_of(table, settings.time_column, "LUMA_SOURCE_TIME_COLUMN")
        carried = [_column_of(table, column, "LUMA_SOURCE_COLUMNS") for column in settings.columns]
        taken = {"task_id", "submitted_at"} & {column.name for column in carried}
        if taken:
            raise SourceTableError(
                f"the carried column {sorted(taken)[0]!r} has the name of a column of luma_tasks: leave it out of "
                "LUMA_SOURCE_COLUMNS"
            )
        self._carried = [_Carried(column, self._zone) for column in carried]
        self._where = sa.literal_column(f"({settings.where})", sa.Boolean) if settings.where else sa.true()
        self.schema = pa.schema(
            [
                pa.field("task_id", pa.string(), nullable=False),
                pa.field("submitted_at", TIMESTAMP, nullable=False),
                *(pa.field(column.name, column.type) for column in self._carried),
            ]
        )

    def read(self, start: datetime, end: datetime) -> SourceTasks:
        rows = blanks = unreadable = 0
        batches: list[pa.RecordBatch] = []
        earlier: list[pa.Array] = []
        # SQLite keeps a time as whatever was stored, and so its own reading of dates would refuse some of them.
        columns = [as_stored(self._id), as_stored(self._time), *(selected(part.column) for part in self._carried)]
        with self._explainer.explained(), self._engine.connect() as connection:
            for part in _streamed(connection, sa.select(*columns).where(self._near(start, end), self._where)):
                timed = [(row, at) for row in part if (at := to_utc(row[1], self._zone)) is not None]
                inside = [(row, at) for row, at in timed if start <= at < end]
                named = [(row, at) for row, at in inside if _task_id(row[0])]
                rows += len(inside)
                blanks += len(inside) - len(named)
                batch, bad = self._batch(named)
                unreadable += bad
                batches.append(batch)
                if not self._ids_are_unique:
                    earlier.append(self._ids_of_earlier(timed, start))
            table, repeated = _distinct(pa.Table.from_batches(batches, self.schema))
            if not self._ids_are_unique and len(table):
                earlier.append(self._ids_of_other_windows(connection, start, end))
        others = pc.is_in(table["task_id"], value_set=_unique(earlier))
        mine = table.filter(pc.invert(others))
        return SourceTasks(mine, rows, blanks, repeated, len(table) - len(mine), unreadable)

    def _near(self, start: datetime, end: datetime) -> sa.ColumnElement[bool]:
        return near(self._time, start, end, self._zone)

    def _ids_of_other_windows(self, connection: sa.Connection, start: datetime, end: datetime) -> pa.Array:
        """The IDs with an earlier row, among those of the window and of rows far from it.

        A window's own rows and their neighbours have been read already, so the database is asked for the rest alone,
        which usually is nothing. It may take IDs for the same that are not, by its collation.
        """
        ids = sa.select(self._id).where(self._near(start, end), self._where)
        if isinstance(self._id.type, sa.String) and not isinstance(self._id.type, sa.Enum):
            # Blank IDs can be many, and are nobody's.
            ids = ids.where(sa.func.char_length(sa.func.trim(self._id)) > 0)
        # Both name the table by its own name, since the condition may do so; the inner one is no part of the outer.
        elsewhere = sa.and_(sa.not_(self._near(start, end)), self._id.in_(ids.correlate(None)), self._where)
        found = pa.array([], pa.string())
        for part in _streamed(connection, sa.select(as_stored(self._id), selected(self._time)).where(elsewhere)):
            timed = [(row, at) for row in part if (at := to_utc(row[1], self._zone)) is not None]
            found = _unique([found, self._ids_of_earlier(timed, start)])
        return found

    def _ids_of_earlier(self, rows: Iterable[tuple[Sequence[Any], datetime]], start: datetime) -> pa.Array:
        """The IDs of the rows that are in a partition before `start`."""
        first = self._since or _FIRST_TIME
        return pa.array([_task_id(row[0]) for row, at in rows if first <= at < start], pa.string())

    def rows_outside(self) -> RowsOutside:
        with self._explainer.explained(at_start=True), self._engine.connect() as connection:
            without_time = self._count(connection, self._time.is_(None))
        try:
            with self._explainer.explained(), self._engine.connect() as connection:
                future = datetime.now(timezone.utc) + _FUTURE
                look = self._look_for_outside if is_free_form(self._time) else self._count_outside
                return look(connection, without_time, future)
        except (SourceTableError, SourceUnavailableError, sa.exc.CompileError):
            # The numbers are news for a person; a database that cannot give them, or not in time, can still be read.
            return RowsOutside(without_time, complete=False)

    def _count(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
        return int(connection.execute(sa.select(sa.func.count()).where(condition, self._where)).scalar_one())

    def _count_outside(self, connection: sa.Connection, without_time: int, future: datetime) -> RowsOutside:
        early = self._count(connection, before(self._time, self._since, self._zone)) if self._since else 0
        late = self._count(connection, not_before(self._time, future, self._zone))
        return RowsOutside(without_time, before_start=early, in_future=late)

    def _look_for_outside(self, connection: sa.Connection, without_time: int, future: datetime) -> RowsOutside:
        since = self._since or _FIRST_TIME
        surely_early = surely_between(self._time, _FIRST_TIME, since)
        surely_inside = surely_between(self._time, since, future)
        unsure = sa.and_(self._time.is_not(None), sa.not_(surely_inside), sa.not_(surely_early))
        early = self._count(connection, surely_early) if self._since else 0
        statement = sa.select(as_stored(self._time)).where(unsure, self._where).limit(_MOST_LOOKED_AT)
        looked_at = unreadable = late = 0
        example = ""
        for part in _streamed(connection, statement):
            looked_at += len(part)
            for (value,) in part:
                at = to_utc(value, self._zone)
                if at is None:
                    example = example or _text(value)[:40]
                    unreadable += 1
                else:
                    early += at < since
                    late += at >= future
        return RowsOutside(without_time, unreadable, early, late, example, complete=looked_at < _MOST_LOOKED_AT)

    def _batch(self, rows: Sequence[tuple[Sequence[Any], datetime]]) -> tuple[pa.RecordBatch, int]:
        arrays = [
            pa.array([_task_id(row[0]) for row, _ in rows], pa.string()),
            pa.array([at for _, at in rows], TIMESTAMP),
        ]
        unreadable = 0
        for index, column in enumerate(self._carried, start=2):
            values = [column.read(row[index]) for row, _ in rows]
            unreadable += sum(
                1 for (row, _), value in zip(rows, values, strict=True) if value is None and row[index] is not None
            )
            arrays.append(pa.array(values, column.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), unreadable


def _streamed(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows in batches, through a cursor of the server's where it has one."""
    streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_A_TIME)
    return streaming.execute(statement).partitions()


def _is_unique(table: sa.Table, column: sa.Column[Any]) -> bool:
    """Whether the schema says that no two rows of the table have the same value there. Views say nothing."""
    rules = [rule for rule in table.constraints if isinstance(rule, (sa.PrimaryKeyConstraint, sa.UniqueConstraint))]
    keys = [[part.name for part in rule.columns] for rule in rules]
    for index in table.indexes:
        is_partial = any(name.endswith("_where") and rule is not None for name, rule in index.dialect_kwargs.items())
        if index.unique and not is_partial:
            keys.append([getattr(part, "name", "") for part in index.expressions])
    return [column.name] in keys


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


def _task_id(value: object) -> str:
    """The ID as text, with nothing taken off or added; empty for null and blank ones."""
    text = "" if value is None else _text(value)
    return text if text.strip() else ""


# Carried columns.


class _Carried:
    """A column to carry along: its Arrow type, fixed by the column's SQL type so that every file has the same."""

    def __init__(self, column: sa.Column[Any], zone: ZoneInfo) -> None:
        self.column = column
        self.name = column.name
        self.type, self._convert = _conversion(column.type, zone)

    def read(self, value: object) -> Any:
        if value is None:
            return None
        try:
            return self._convert(value)
        except (ValueError, TypeError, OverflowError, InvalidOperation):
            return None


def _conversion(kind: sa.types.TypeEngine[Any], zone: ZoneInfo) -> tuple[pa.DataType, Callable[[Any], Any]]:
    if isinstance(kind, sa.Boolean):
        return pa.bool_(), bool
    if isinstance(kind, sa.Integer):
        return pa.int64(), _int64
    if isinstance(kind, (sa.Float, sa.Double)):
        return pa.float64(), float
    if isinstance(kind, sa.Numeric):
        scale = kind.scale if kind.scale is not None else 9
        return pa.decimal128(38, scale), lambda value: _decimal(value, scale)
    if isinstance(kind, sa.DateTime):
        return TIMESTAMP, lambda value: to_utc(value, zone)
    if isinstance(kind, sa.Date):
        return pa.date32(), lambda value: value if isinstance(value, date) else date.fromisoformat(value[:10])
    return pa.string(), _text


def _int64(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _decimal(value: Any, scale: int) -> Decimal | None:
    number = Decimal(str(value))
    if not number.is_finite() or number.adjusted() >= 38 - scale:
        return None
    return round(number, scale)


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = bytes(value).decode("utf-8", "replace") if isinstance(value, (bytes, memoryview)) else str(value)
    return text.encode("utf-8", "replace").decode()


# What can be wrong.


def _column_of(table: sa.Table, name: str, setting: str) -> sa.Column[Any]:
    column = table.c.get(name)
    if column is None:
        there = ", ".join(sorted(table.c.keys()))
        raise SourceTableError(f"table {table.fullname!r} has no column {name!r} ({setting}); it has: {there}")
    return column


def _no_table(engine: sa.Engine, schema: str | None, table: str) -> str:
    names = sorted(sa.inspect(engine).get_table_names(schema))
    there = ", ".join(names[:20]) or "no table at all"
    return f"there is no table {table!r} (LUMA_SOURCE_TABLE) in the source database; there is: {there}"
