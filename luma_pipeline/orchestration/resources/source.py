"""The source table as a resource: settings in, a `SourceTable` out."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from luma_pipeline.source.table import SourceTable

__all__ = ["LumaSource"]


class LumaSource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where the task IDs are. The fields are those of `SourceTable`."""

    url: str = Field(
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database.",
    )
    table: str = Field(description="Table or view, with its schema if it has one: `generations`, `app.generations`.")
    id_column: str = Field(default=SourceTable.id_column, description="Column with the provider's task IDs.")
    time_column: str = Field(default=SourceTable.time_column, description="Column with the time a task was submitted.")
    columns: list[str] = Field(default=[], description="Further columns to carry along into luma_tasks.")
    where: str | None = Field(default=None, description="An SQL condition that rows must meet, such as kind = 'luma'.")
    timezone: str = Field(default=SourceTable.timezone, description="Zone of times that are stored without one.")
    since: str | None = Field(
        default=None, description="Beginning of the first partition, as an ISO 8601 time: earlier rows are in none."
    )

    def open(self) -> SourceTable:
        """The table, to be closed by its `with` block; nothing is connected yet."""
        return SourceTable(
            url=self.url,
            table=self.table,
            id_column=self.id_column,
            time_column=self.time_column,
            columns=self.columns,
            where=self.where,
            timezone=self.timezone,
            since=self.since,
        )
