"""Databases as source: tables with tasks, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luma_pipeline.source.table import SourceTable, SourceTasks

UTC = UTC
START, END = datetime(2024, 12, 24, tzinfo=UTC), datetime(2024, 12, 25, tzinfo=UTC)
AT = datetime(2024, 12, 24)  # noqa: DTZ001 - as columns without a zone have it


@dataclass(frozen=True)
class Database:
    """A database of a test's own."""

    url: str

    @property
    def is_postgres(self) -> bool:
        return self.url.startswith("postgresql")

    def create(self, table: sa.Table, rows: Sequence[dict[str, Any]] = ()) -> None:
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            if table.schema is not None and self.is_postgres:
                connection.execute(sa.schema.CreateSchema(table.schema, if_not_exists=True))
            table.create(connection)
            for row in rows:
                connection.execute(table.insert().values(row))

    def run(self, *statements: str) -> None:
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def read(self, start: datetime = START, end: datetime = END, **settings: Any) -> SourceTasks:
        source = SourceTable(**{"url": self.url, "table": "generations", **settings})
        try:
            return source.read(start, end)
        finally:
            source.close()

    def ids(self, **settings: Any) -> list[str]:
        ids: list[str] = self.read(**settings).table["task_id"].to_pylist()
        return ids


def database_of(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database of the kind that the fixture's parameter names."""
    if request.param == "postgresql":
        return Database(request.getfixturevalue("postgres_url"))
    return Database(f"sqlite:///{tmp_path / 'source.db'}")


def generations(time_type: Any, *more: sa.Column[Any], id_type: Any = sa.Text) -> sa.Table:
    columns = (sa.Column("task_id", id_type), sa.Column("submitted_at", time_type), *more)
    return sa.Table("generations", sa.MetaData(), *columns)
