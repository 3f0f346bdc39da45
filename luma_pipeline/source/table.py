"""The source room's face: the table in which the product keeps its task IDs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from luma_pipeline.source.cancel import StatementCanceller
from luma_pipeline.source.columns import CarriedColumn, IdColumn, check_carried_names, column_named, reflect
from luma_pipeline.source.errors import ConnectionLostError, ErrorTranslator, SourceTableError, SourceUnavailableError
from luma_pipeline.source.queries import SourceQueries
from luma_pipeline.source.reader import RowsOutside, SourceReader, SourceTasks
from luma_pipeline.source.times import check_time_column, to_utc, zone_named
from luma_pipeline.source.uniqueness import is_enforced_unique
from luma_pipeline.source.url import open_engine, secrets_of

__all__ = ["RowsOutside", "SourceTable", "SourceTableError", "SourceTasks", "SourceUnavailableError"]


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
        engine, reader = self._ready()
        try:
            with self._errors.translated(), engine.connect() as connection:
                return reader.read(connection, start, end)
        except ConnectionLostError:
            with self._errors.translated(), engine.connect() as connection:
                return reader.read(connection, start, end)

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
