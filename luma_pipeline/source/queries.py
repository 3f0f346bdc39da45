"""The source room: the SELECT statements, for every database that SQLAlchemy speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from luma_pipeline.source.times import (
    as_stored,
    is_free_form,
    is_stored_freely,
    outside_filter,
    selected,
    window_filter,
)

__all__ = ["SourceQueries"]


@dataclass(frozen=True)
class SourceQueries:
    """What is asked of a table.

    Attributes:
        id: Column with the task IDs.
        time: Column with the times.
        carried: Further columns.
        where: SQL condition of the user's.
        zone: Zone of times that are stored without one.
    """

    id: sa.Column[Any]
    time: sa.Column[Any]
    carried: Sequence[sa.Column[Any]]
    where: str | None
    zone: ZoneInfo

    def window(self, start: datetime, end: datetime) -> sa.Select[Any]:
        """The rows of [start, end) and a few around it: ID, time, carried columns."""
        columns = [selected(self.id), selected(self.time), *(_carried(column) for column in self.carried)]
        return sa.select(*columns).where(*self._in_window(start, end))

    def same_ids_elsewhere(self, start: datetime, end: datetime) -> sa.Select[Any]:
        """ID and time of the rows that `window` leaves out and whose ID a row of the window has.

        Databases may compare IDs by a collation or without the blanks at the end: the caller compares the texts.
        """
        compared = _comparable_id(self.id)
        ids = self._ids(start, end)
        outside = sa.not_(window_filter(self.time, start, end, self.zone))
        # Both name the table by its own name, since the condition may do so. The inner one is no part of the outer.
        same = compared.in_(ids.correlate(None))
        return sa.select(selected(self.id), selected(self.time)).where(outside, same, *self._condition())

    def repeated(self, start: datetime, end: datetime) -> sa.Select[Any]:
        """ID and time of the rows of [start, end) and a few around it whose ID another of these rows has."""
        compared = _comparable_id(self.id)
        ids = self._ids(start, end).group_by(compared).having(sa.func.count() > 1)
        same = compared.in_(ids.correlate(None))
        return sa.select(selected(self.id), selected(self.time)).where(*self._in_window(start, end), same)

    def _ids(self, start: datetime, end: datetime) -> sa.Select[Any]:
        ids = sa.select(_comparable_id(self.id)).where(*self._in_window(start, end))
        if isinstance(self.id.type, sa.String) and not isinstance(self.id.type, sa.Enum):
            # Blank IDs can be many, and are no tasks.
            ids = ids.where(sa.func.char_length(sa.func.trim(self.id)) > 0)
        return ids

    @property
    def is_coarse(self) -> bool:
        """Whether a window is read with the days around it, since texts tell their offset at their end."""
        return is_free_form(self.time)

    def times_in(self, start: datetime, end: datetime, limit: int) -> sa.Select[Any]:
        """Up to `limit` times of [start, end) and a few around it."""
        return sa.select(selected(self.time)).where(*self._in_window(start, end)).limit(limit)

    def times_outside(self, start: datetime, end: datetime, limit: int) -> sa.Select[Any]:
        """Up to `limit` times that are missing, cannot be read, or are far from [start, end)."""
        outside = outside_filter(self.time, start, end, self.zone)
        return sa.select(selected(self.time)).where(outside, *self._condition()).limit(limit)

    def _in_window(self, start: datetime, end: datetime) -> list[sa.ColumnElement[bool]]:
        return [window_filter(self.time, start, end, self.zone), *self._condition()]

    def _condition(self) -> list[sa.ColumnElement[bool]]:
        if self.where is None or not self.where.strip():
            return []
        # No `sa.text`, which would read `:name` in it; and no type, for which some dialects would add a comparison. The
        # line break ends a comment.
        return [sa.literal_column(f"({self.where}\n)")]


_TEXT_OF_POSTGRESQL = (postgresql.TIME, postgresql.INTERVAL, postgresql.ranges.AbstractRange)
_ITEMS_AS_JSON = (sa.DateTime, sa.Date, sa.CHAR, postgresql.DOMAIN, *_TEXT_OF_POSTGRESQL)
"""Items of arrays that Python may not have. Of an array of a domain the driver gives the text, `{a,b}`."""


def _carried(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column as it is asked for: as text where Python has no such values (24:00, a month, `infinity` in a range).

    The driver would refuse the whole result for one of them.
    """
    kind = column.type
    if isinstance(kind, _TEXT_OF_POSTGRESQL):
        return sa.cast(column, sa.Text)
    if isinstance(kind, sa.ARRAY) and isinstance(kind.item_type, _ITEMS_AS_JSON):
        return sa.cast(sa.func.to_jsonb(column), sa.Text)
    return selected(column)


def _comparable_id(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The ID in a form in which the database takes equal texts for equal.

    A column of SQLite without a type can hold 1, 1.0, '1' and the 16 bytes of a UUID beside its text. PostgreSQL has no
    comparison for a domain over an enumeration.
    """
    if isinstance(column.type, postgresql.ENUM):
        return sa.cast(column, sa.Text)
    if not is_stored_freely(column) or not isinstance(column.type, (sa.types.NullType, sa.LargeBinary)):
        return column
    stored = as_stored(column)
    digits = sa.func.lower(sa.func.hex(stored))
    bounds = [(1, 8), (9, 4), (13, 4), (17, 4), (21, 12)]
    first, *others = [sa.func.substr(digits, *bound, type_=sa.Text) for bound in bounds]
    dashed: sa.ColumnElement[Any] = first
    for part in others:
        dashed = dashed.concat("-").concat(part)
    whole = sa.cast(stored, sa.Integer)
    kind = sa.func.typeof(stored)
    is_whole = sa.and_(kind == "real", stored == whole)
    return sa.case((kind == "blob", dashed), (is_whole, sa.cast(whole, sa.Text)), else_=sa.cast(stored, sa.Text))
