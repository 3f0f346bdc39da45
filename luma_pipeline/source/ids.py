"""The source room: task IDs out of any table of the source database, such as the requests to forget tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from luma_pipeline.source.columns import IdColumn, column_named, reflect
from luma_pipeline.source.errors import ErrorTranslator, SourceTableError
from luma_pipeline.source.times import as_stored
from luma_pipeline.source.url import open_engine, secrets_of

__all__ = ["IdTable", "TableIds"]

_ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class TableIds:
    """The IDs of a table as they are read; null for a row without one. `unreadable` values are no IDs."""

    ids: Sequence[str | None]
    unreadable: int = 0


@dataclass(frozen=True)
class IdTable:
    """A table or view with task IDs in a column, and an SQL condition that its rows must meet.

    The names are those of a run's options: errors name them.
    """

    table: str
    column: str = "task_id"
    where: str | None = None

    def read(self, url: str) -> TableIds:
        """The IDs, through the connection settings of the source (an SQLAlchemy URL), in the order of the database.

        A value that cannot be an ID is counted, and does not keep the others back.

        Raises:
            SourceTableError: There is no such table or column, or the database refuses to read it.
            SourceUnavailableError: The database was locked, too busy or gone.
        """
        errors = ErrorTranslator(self.table, secrets_of(url), "LUMA_SOURCE_URL, table, column and where")
        engine = open_engine(url)
        try:
            with errors.translated_options():
                engine.connect().close()
            with errors.translated(at_start=True), engine.connect() as connection:
                return self._read(connection)
        finally:
            engine.dispose()

    def _read(self, connection: sa.Connection) -> TableIds:
        column = column_named(reflect(connection, self.table, "table"), self.column, "column")
        as_id = IdColumn(column, "column")
        statement = sa.select(as_stored(column))
        if self.where is not None and self.where.strip():
            # As it is written, as for the source: no `sa.text`, which would read `:name` in it.
            statement = statement.where(sa.literal_column(f"({self.where}\n)"))
        streaming = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_A_TIME)
        ids: list[str | None] = []
        unreadable = 0
        for rows in streaming.execute(statement).partitions():
            values = [value for (value,) in rows]
            try:
                ids += as_id.texts(values).to_pylist()
            except SourceTableError:
                for value in values:
                    try:
                        ids += as_id.texts([value]).to_pylist()
                    except SourceTableError:
                        unreadable += 1
        return TableIds(ids, unreadable)
