"""The source room's face: the table in which the product keeps its task IDs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar
from zoneinfo import ZoneInfo

import pyarrow as pa
import sqlalchemy as sa

from luma_pipeline.source.cancel import StatementCanceller
from luma_pipeline.source.columns import CarriedColumn, IdColumn, check_carried_names, column_named, reflect
from luma_pipeline.source.errors import ConnectionLostError, ErrorTranslator, SourceTableError, SourceUnavailableError
from luma_pipeline.source.queries import SourceQueries
from luma_pipeline.source.reader import RowsOutside, SourceReader, SourceRows, SourceTasks
from luma_pipeline.source.times import check_time_column, to_utc, zone_named
from luma_pipeline.source.uniqueness import is_enforced_unique
from luma_pipeline.source.url import open_engine, secrets_of

__all__ = ["RowsOutside", "SourceTable", "SourceTableError", "SourceTasks", "SourceUnavailableError"]

T = TypeVar("T")

_DAY = timedelta(days=1)
_SHARED_SECONDS = 600.0
"""What several windows share is read again after this time: rows may have been committed."""
_MOST_SHARED = 2


class Shared(Generic[T]):
    """What was read for one window and serves others, for ten minutes; the newest two. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[datetime, datetime], tuple[float, T]] = {}

    def get(self, window: tuple[datetime, datetime], read: Callable[[], T]) -> T:
        """What `read` returned for the window."""
        with self._lock:
            found = self._found.pop(window, None)
            if found is None or found[0] < time.monotonic() - _SHARED_SECONDS:
                found = time.monotonic(), read()
            self._found[window] = found
            for oldest in list(self._found)[:-_MOST_SHARED]:
                del self._found[oldest]
            return found[1]


@dataclass
class SourceTable:
    """The table in which the product keeps its task IDs; a context manager that closes its connections.

    Rows are read through a server-side cursor in batches and kept as Arrow columns: a million IDs are about 50 MB,
    never a million Python objects.

    Args:
        url: SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database.
        table: Table or view, with its schema if it has one: `generations`, `app.generations`.
        id_column: Column with the provider's task IDs: texts, numbers, or UUIDs, also as 16 bytes.
        time_column: Column with the time a task was submitted: timestamps, dates, epoch numbers or ISO 8601 texts.
        columns: Further columns to carry along into luma_tasks.
        where: An SQL condition that rows must meet, such as kind = 'luma'. The database gets it as it is written.
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
    _reader: SourceReader | None = field(default=None, init=False, repr=False)
    _errors: ErrorTranslator = field(init=False, repr=False)
    _canceller: StatementCanceller | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _run_window: tuple[datetime, datetime] | None = field(default=None, init=False, repr=False)
    _repeats: Shared[pa.Table] = field(default_factory=lambda: Shared(), init=False, repr=False)
    _shared: Shared[SourceRows] = field(default_factory=lambda: Shared(), init=False, repr=False)

    def __enter__(self) -> SourceTable:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, start: datetime, end: datetime) -> SourceTasks:
        """The tasks submitted in [start, end), both aware, that have no earlier row in another partition.

        A connection that is lost meanwhile is opened once more.

        Raises:
            SourceTableError: A setting is wrong, or the table holds an ID that cannot be one.
            SourceUnavailableError: The database was locked, too busy or gone. A later try may succeed.
        """
        _, reader = self._ready()
        day = self._day_of(reader, start, end)
        if day is None:
            rows = self._asked(lambda connection: reader.rows(connection, start, end))
        else:
            rows = self._shared.get(day, lambda: self._asked(lambda connection: reader.rows(connection, *day)))
        earlier = None
        if not reader.ids_are_unique and len(rows.table):
            covers = self._run_window is not None and self._run_window[0] <= start and end <= self._run_window[1]
            if self._run_window is not None and covers and self._run_window != (start, end):
                window = self._run_window
                earlier = self._repeats.get(
                    window, lambda: self._asked(lambda connection: reader.repeats(connection, *window))
                )
            else:
                earlier = self._asked(lambda connection: reader.ids_elsewhere(connection, start, end))
        return reader.tasks(rows, start, end, earlier)

    def expect(self, start: datetime, end: datetime) -> None:
        """Several windows of [start, end) will be read: what they have in common is asked for once in ten minutes."""
        self._run_window = start, end

    def check(self) -> None:
        """Raise SourceTableError or SourceUnavailableError unless the table can be read with these settings."""
        engine, _ = self._ready()
        with self._errors.translated(at_start=True):
            engine.connect().close()

    def rows_outside(self) -> RowsOutside:
        """How many rows are in no partition, and why, as far as a bounded sample shows.

        Raises:
            SourceTableError: As `read`, and where the database cannot be reached.
            SourceUnavailableError: The database was locked or too busy.
        """
        engine, reader = self._ready()
        with self._errors.translated(at_start=True), engine.connect() as connection:
            return reader.rows_outside(connection)

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

    def _day_of(self, reader: SourceReader, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
        """The day of UTC of which hours are read, where each would be read with the days around it."""
        if self._run_window is None or not reader.is_coarse or end - start >= _DAY:
            return None
        first = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        is_alone = self._run_window == (start, end)
        return None if is_alone or end > first + _DAY else (first, first + _DAY)

    def _asked(self, ask: Callable[[sa.Connection], T]) -> T:
        """Ask the database, and once more if the connection is lost."""
        engine, _ = self._ready()
        try:
            with self._errors.translated(), engine.connect() as connection:
                return ask(connection)
        except ConnectionLostError:
            with self._errors.translated(), engine.connect() as connection:
                return ask(connection)

    def _ready(self) -> tuple[sa.Engine, SourceReader]:
        """The engine, and the reader of the table, whose columns are asked for once."""
        with self._lock:
            if self._engine is None:
                self._engine = open_engine(self.url)
                self._canceller = StatementCanceller(self._engine)
                self._errors = ErrorTranslator(self.table, secrets_of(self.url))
            if self._reader is None:
                self._reader = self._new_reader(self._engine)
            return self._engine, self._reader

    def _new_reader(self, engine: sa.Engine) -> SourceReader:
        zone = zone_named(self.timezone)
        check_carried_names(self.columns)
        with self._errors.translated_options():
            engine.connect().close()
        with self._errors.translated(at_start=True), engine.connect() as connection:
            table = reflect(connection, self.table)
            id_column = IdColumn(column_named(table, self.id_column, "LUMA_SOURCE_ID_COLUMN"))
            time_column = column_named(table, self.time_column, "LUMA_SOURCE_TIME_COLUMN")
            check_time_column(time_column)
            carried = [CarriedColumn(column_named(table, name, "LUMA_SOURCE_COLUMNS"), zone) for name in self.columns]
            return SourceReader(
                id_column,
                carried,
                SourceQueries(id_column.column, time_column, [c.column for c in carried], self.where, zone),
                ids_are_unique=is_enforced_unique(connection, table, id_column.column),
                since=None if self.since is None else to_utc(self.since, ZoneInfo("UTC")),
            )
