"""The source table: task IDs and their times out of any SQL database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.luma.timestamps import parse_timestamp

__all__ = ["SourceTable", "SourceTableError", "SourceTasks"]

_ROWS_AT_A_TIME = 10_000


class SourceTableError(Exception):
    """The source table cannot be read; the message says what to check. Never holds the URL's password."""


@dataclass(frozen=True)
class SourceTasks:
    """The tasks of one window of time.

    `table` has `task_id`, `submitted_at` (UTC) and the carried columns, one row per distinct ID, ordered by time and
    ID. The counts tell of rows that are in the source but not in the table: IDs that are null or blank, and rows that
    repeat an ID (the earliest is kept). `unreadable_values` counts carried values that do not have their column's
    type; they are null in the table.
    """

    table: pa.Table
    source_rows: int
    blank_ids: int
    repeated_ids: int
    unreadable_values: int


class SourceTable(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The table in which the product keeps its task IDs.

    Rows are read through a server-side cursor in batches and kept as Arrow columns: a million IDs are about 50 MB,
    never a million Python objects.
    """

    url: str = Field(
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database.",
    )
    table: str = Field(description="Table or view, with its schema if it has one: `generations`, `app.generations`.")
    id_column: str = Field(default="task_id", description="Column with the provider's task IDs.")
    time_column: str = Field(default="submitted_at", description="Column with the time a task was submitted.")
    columns: list[str] = Field(default=[], description="Further columns to carry along into luma_tasks.")
    where: str | None = Field(default=None, description="An SQL condition that rows must meet, such as kind = 'luma'.")
    timezone: str = Field(default="UTC", description="Zone of times that are stored without one.")

    _engine: sa.Engine | None = PrivateAttr(default=None)
    _reader: _Reader | None = PrivateAttr(default=None)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def read(self, start: datetime, end: datetime) -> SourceTasks:
        """The tasks submitted in [start, end), both aware.

        Raises:
            SourceTableError: The database, the table or a column is not there, or the condition is no SQL.
        """
        return self._ready().read(start, end)

    def rows_without_time(self) -> int:
        """How many rows have no time and therefore are in no partition."""
        return self._ready().rows_without_time()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Close the pool of connections."""
        self.close()

    def close(self) -> None:
        """Close the pool of connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = self._reader = None

    def _ready(self) -> _Reader:
        with self._lock:
            if self._reader is None:
                self._engine = _engine(self.url)
                with _explained(self.table):
                    self._reader = _Reader(self._engine, self)
            return self._reader


class _Reader:
    """Reads a table whose columns are known."""

    def __init__(self, engine: sa.Engine, settings: SourceTable) -> None:
        self._engine = engine
        self._table_name = settings.table
        try:
            self._zone = ZoneInfo(settings.timezone)
        except (KeyError, ValueError):
            raise SourceTableError(f"no such time zone: {settings.timezone!r} (LUMA_SOURCE_TIMEZONE)") from None
        schema_name, _, name = settings.table.rpartition(".")
        try:
            table = sa.Table(name, sa.MetaData(), schema=schema_name or None, autoload_with=engine)
        except sa.exc.NoSuchTableError:
            raise SourceTableError(_no_table(engine, schema_name or None, settings.table)) from None
        for column in table.c:
            column.info[_STORED_FREELY] = engine.dialect.name == "sqlite"
        self._id = _column_of(table, settings.id_column, "LUMA_SOURCE_ID_COLUMN")
        self._time = _column_of(table, settings.time_column, "LUMA_SOURCE_TIME_COLUMN")
        carried = [_column_of(table, column, "LUMA_SOURCE_COLUMNS") for column in settings.columns]
        taken = {"task_id", "submitted_at"} & {column.name for column in carried}
        if taken:
            raise SourceTableError(
                f"the carried column {sorted(taken)[0]!r} has the name of a column of luma_tasks: leave it out of "
                "LUMA_SOURCE_COLUMNS"
            )
        self._carried = [_Carried(column, self._zone) for column in carried]
        self._where = settings.where
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
        # SQLite keeps a time as whatever was stored, and so its own reading of dates would refuse some of them.
        columns = [_as_stored(self._id), _as_stored(self._time), *(_selected(part.column) for part in self._carried)]
        statement = sa.select(*columns).where(_near(self._time, start, end, self._zone))
        if self._where:
            statement = statement.where(sa.literal_column(f"({self._where})", sa.Boolean))
        with _explained(self._table_name), self._engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_A_TIME)
            for part in streaming.execute(statement).partitions():
                inside = [row for row in part if (at := self._time_of(row[1])) is not None and start <= at < end]
                rows += len(inside)
                named: list[Sequence[Any]] = [row for row in inside if _task_id(row[0])]
                blanks += len(inside) - len(named)
                batch, bad = self._batch(named)
                unreadable += bad
                batches.append(batch)
        table, repeated = _distinct(pa.Table.from_batches(batches, self.schema))
        return SourceTasks(table, rows, blanks, repeated, unreadable)

    def rows_without_time(self) -> int:
        statement = sa.select(sa.func.count()).where(self._time.is_(None))
        if self._where:
            statement = statement.where(sa.literal_column(f"({self._where})", sa.Boolean))
        with _explained(self._table_name), self._engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def _batch(self, rows: Sequence[Sequence[Any]]) -> tuple[pa.RecordBatch, int]:
        arrays = [
            pa.array([_task_id(row[0]) for row in rows], pa.string()),
            pa.array([self._time_of(row[1]) for row in rows], TIMESTAMP),
        ]
        unreadable = 0
        for index, column in enumerate(self._carried, start=2):
            values = [column.read(row[index]) for row in rows]
            unreadable += sum(
                1 for row, value in zip(rows, values, strict=True) if value is None and row[index] is not None
            )
            arrays.append(pa.array(values, column.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), unreadable

    def _time_of(self, value: object) -> datetime | None:
        return _to_utc(value, self._zone)


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


# Times.

_EPOCH_UNITS = (1, 10**3, 10**6, 10**9)
"""Epoch numbers in seconds, milliseconds, microseconds or nanoseconds: for any date from 1973 to 5138 the four ranges
do not meet, so that the number itself tells its unit."""
_LARGEST_SECONDS = 10**11


def _to_utc(value: object, zone: ZoneInfo) -> datetime | None:
    """The moment a stored value means, or None where it means none. Times without a zone are in `zone`."""
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time())
    elif isinstance(value, str):
        moment = parse_timestamp(value)
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _from_epoch(value)
    if moment is None:
        return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(timezone.utc)
    except (OverflowError, ValueError):
        return None


def _from_epoch(number: float | Decimal) -> datetime | None:
    if isinstance(number, Decimal) and number.is_nan():
        return None
    limits = ((unit, _LARGEST_SECONDS * unit) for unit in _EPOCH_UNITS)
    unit = next((unit for unit, limit in limits if -limit < number < limit), None)
    if unit is None:
        return None
    # In whole microseconds: a float of seconds with six digits would round.
    microseconds: int = round(number * (10**6 // unit)) if unit <= 10**6 else int(number) // 1000
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)


def _near(column: sa.Column[Any], start: datetime, end: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """A condition the database can answer from an index and that no row of [start, end) fails.

    It lets a few neighbours through where the stored form cannot be compared exactly (text with offsets, local times
    around a clock change); the rows are filtered by their real time after that.
    """
    kind = column.type
    is_sqlite = _stored_freely(column)
    if isinstance(kind, sa.DateTime) and kind.timezone and not is_sqlite:
        return sa.and_(column >= start, column < end)
    if isinstance(kind, sa.DateTime) and not is_sqlite:
        pad = timedelta(hours=3)
        low, high = ((moment.astimezone(zone).replace(tzinfo=None)) for moment in (start - pad, end + pad))
        return sa.and_(column >= low, column < high)
    if isinstance(kind, sa.Date) and not is_sqlite:
        return sa.and_(column >= start.astimezone(zone).date(), column <= end.astimezone(zone).date())
    text = _as_stored(column)
    # The date stands first in ISO text; a day on either side covers every offset.
    low_text, high_text = ((start - timedelta(days=1)).date().isoformat(), (end + timedelta(days=2)).date().isoformat())
    as_text = sa.and_(text >= sa.literal(low_text, sa.String), text < sa.literal(high_text, sa.String))
    as_epoch = sa.or_(
        *(
            sa.and_(text >= _epoch(start, unit), text < _epoch(end, unit) + (unit if is_sqlite else 1))
            for unit in _EPOCH_UNITS
        )
    )
    if is_sqlite:
        return sa.or_(as_text, as_epoch)
    return as_epoch if isinstance(kind, (sa.Integer, sa.Numeric, sa.Float)) else as_text


def _epoch(moment: datetime, unit: int) -> sa.ColumnElement[int]:
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1))
    return sa.literal(seconds * unit, sa.BigInteger)


_STORED_FREELY = "stored_freely"


def _stored_freely(column: sa.Column[Any]) -> bool:
    """Whether the column may hold values of any type, whatever it was declared as: SQLite's way."""
    return bool(column.info[_STORED_FREELY])


def _as_stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.type_coerce(column, sa.types.NullType()) if _stored_freely(column) else column


# Carried columns.

_EARLIEST, _LATEST = datetime(2, 1, 1, tzinfo=timezone.utc), datetime(9998, 12, 31, tzinfo=timezone.utc)


def _selected(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column as it is asked for. Times that Python cannot hold (PostgreSQL's `infinity`, years before 1) are null:
    the driver would refuse the whole result for one of them."""
    kind = column.type
    if _stored_freely(column) or not isinstance(kind, (sa.DateTime, sa.Date)):
        return _as_stored(column)
    earliest: date = _EARLIEST
    latest: date = _LATEST
    if isinstance(kind, sa.Date):
        earliest, latest = _EARLIEST.date(), _LATEST.date()
    elif not kind.timezone:
        earliest, latest = _EARLIEST.replace(tzinfo=None), _LATEST.replace(tzinfo=None)
    return sa.case((column.between(earliest, latest), column), else_=None)


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
        return TIMESTAMP, lambda value: _to_utc(value, zone)
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


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url, pool_pre_ping=True)
    except (sa.exc.ArgumentError, ValueError):
        # Without the cause: what cannot be parsed may be the password.
        raise SourceTableError(
            "LUMA_SOURCE_URL cannot be used as a database URL, such as dialect+driver://user:password@host/database; "
            "special characters in the password are percent-encoded."
        ) from None
    except ModuleNotFoundError as error:
        raise SourceTableError(
            f"the driver named in LUMA_SOURCE_URL is not installed ({error.name}). For PostgreSQL: "
            "pip install 'luma-pipeline[postgres]' and a URL that starts with postgresql+psycopg://"
        ) from None


@contextmanager
def _explained(table: str) -> Iterator[None]:
    """Database errors in our words. The driver's own text is kept: it names hosts and users, never passwords."""
    try:
        yield
    except SourceTableError:
        raise
    except sa.exc.DBAPIError as error:
        raise SourceTableError(
            f"the source database refused to read {table!r}: {error.orig}. Check LUMA_SOURCE_URL, LUMA_SOURCE_TABLE "
            "and LUMA_SOURCE_WHERE."
        ) from None
