"""The source room: the times of a source table, read in Python and bounded in SQL, in every form they are stored in."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import sqlalchemy as sa

from luma_pipeline.luma.timestamps import parse_timestamp
from luma_pipeline.source.errors import SourceTableError

__all__ = [
    "as_stored",
    "check_time_column",
    "is_free_form",
    "is_stored_freely",
    "mark_stored_freely",
    "nearest_zones",
    "outside_filter",
    "selected",
    "to_utc",
    "window_filter",
    "zone_named",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNITS = (1, 10**3, 10**6, 10**9)
"""Epoch numbers in seconds, milliseconds, microseconds or nanoseconds: for any date from 1973 to 5138 the four ranges
do not meet, so that the number itself tells its unit."""
_LARGEST_SECONDS = 10**11
_LARGEST_INTEGER = 2**63 - 1
_EPOCH_TEXT = re.compile(
    r"[0-9]{10}([0-9]{3}){0,3}(\.[0-9]*)?|[+-][0-9]+(\.[0-9]*)?([eE]\+?[0-9]{1,2})?|1\.[0-9]+[eE]\+?[0-9]{1,2}"
)
"""Epoch numbers as text. From 2001 to 2286 seconds have ten digits, and with any other unit the first ten are the
seconds; other lengths could be a date without hyphens. With an exponent seconds begin with 1 until 2033."""
_BLANKS = " \t\n\r\v\f"
_SUGGESTED_ZONES = 3


def zone_named(name: str) -> ZoneInfo:
    """The time zone of LUMA_SOURCE_TIMEZONE; SourceTableError, with the nearest names, where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of zones, such as Europe
        near = nearest_zones(name)
    hint = f"; do you mean {' or '.join(near)}?" if near else ", such as Europe/Berlin"
    raise SourceTableError(f"LUMA_SOURCE_TIMEZONE is {name[:40]!r}, which is no time zone of the IANA database{hint}")


def nearest_zones(name: str) -> list[str]:
    """Up to three time zones that a text may mean: by the city or the region, else by the spelling."""
    known = {zone.casefold(): zone for zone in available_timezones()}
    wanted = name.strip().casefold()
    cities = [zone for key, zone in sorted(known.items()) if wanted and wanted in key.split("/")]
    near = cities or [known[key] for key in difflib.get_close_matches(wanted, known, _SUGGESTED_ZONES)]
    return near[:_SUGGESTED_ZONES]


def to_utc(value: object, zone: ZoneInfo) -> datetime | None:
    """The moment that a stored value means, in UTC, or None if it means none.

    Times without a zone are in `zone`. Numbers, also as text, are seconds, milliseconds, microseconds or nanoseconds
    since 1970; their size tells which.

    >>> to_utc("2024-12-24 10:00", ZoneInfo("Europe/Berlin")).isoformat()
    '2024-12-24T09:00:00+00:00'
    >>> to_utc("1735034400.25", ZoneInfo("UTC")).isoformat()
    '2024-12-24T10:00:00.250000+00:00'
    """
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time())
    elif isinstance(value, str):
        text = value.strip(_BLANKS)
        if _EPOCH_TEXT.fullmatch(text):
            return _from_epoch(Decimal(text))
        # Before a text that begins with another blank, `window_filter` would not find it.
        moment = None if text[:1].isspace() else parse_timestamp(text)
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _from_epoch(value)
    if moment is None:
        return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
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
    return _EPOCH + timedelta(microseconds=microseconds)


# Conditions.


def window_filter(column: sa.Column[Any], start: datetime, end: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """A condition that every row of [start, end) meets and that the database can answer from an index.

    A few other rows meet it where the stored form cannot be compared exactly: texts with offsets, local times around a
    clock change. The caller compares the real times.
    """
    if not is_free_form(column):
        return _typed_filter(column, start, end, zone)
    # A blank, a sign, and a point after the first digit sort before digits. SQLite would take "0" for a number.
    unusual = sa.or_(_text_between(column, "\t", "0!"), _text_between(column, "1.", "10"))
    return sa.or_(_text_filter(column, start, end, zone), unusual)


def outside_filter(column: sa.Column[Any], start: datetime, end: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """A condition for rows without a time or far from [start, end), with times that cannot be read among them.

    `start` is 2001-09-09T01:46:40Z or later for numbers: before it the four units of epoch numbers meet.
    """
    filtered = _text_filter if is_free_form(column) else _typed_filter
    return sa.or_(column.is_(None), sa.not_(filtered(column, start, end, zone)))


def _typed_filter(column: sa.Column[Any], start: datetime, end: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    kind = column.type
    if isinstance(kind, sa.DateTime) and kind.timezone:
        return sa.and_(column >= start, column < end)
    if isinstance(kind, sa.DateTime):
        pad = timedelta(hours=3)
        return sa.and_(column >= _naive(start - pad, zone), column < _naive(end + pad, zone))
    if isinstance(kind, sa.Date):
        return sa.and_(column >= start.astimezone(zone).date(), column <= end.astimezone(zone).date())
    return _epoch_filter(column, start, end)


def _text_filter(column: sa.Column[Any], start: datetime, end: datetime, _: ZoneInfo) -> sa.ColumnElement[bool]:
    # The date stands first in ISO text; a day on either side covers every offset.
    first, behind = (start - timedelta(days=1)).date(), (end + timedelta(days=2)).date()
    as_text = sa.or_(
        _text_between(column, first.isoformat(), behind.isoformat()),
        *(_text_between(column, low, high) for low, high in _basic_ranges(first - timedelta(days=1), behind)),
        _text_between(column, _ten_digits(start), _ten_digits(end + timedelta(seconds=1))),
    )
    return sa.or_(as_text, _epoch_filter(column, start, end)) if is_stored_freely(column) else as_text


def _epoch_filter(column: sa.Column[Any], start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    number = as_stored(column)
    behind = end + timedelta(seconds=1)  # a fraction of a second is cut off
    ranges = [(number >= _in_unit(start, unit), number < _in_unit(behind, unit)) for unit in _EPOCH_UNITS]
    if not isinstance(column.type, (sa.Integer, sa.Numeric)):
        # SQLite takes text for greater than every number, so that for most rows the upper bound alone is looked at.
        ranges = [(high, low) for low, high in ranges]
    return sa.or_(*(sa.and_(*bounds) for bounds in ranges))


def _text_between(column: sa.Column[Any], low: str, high: str) -> sa.ColumnElement[bool]:
    text = as_stored(column)
    return sa.and_(text >= sa.literal(low, sa.String), text < sa.literal(high, sa.String))


def _naive(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _basic_ranges(first: date, behind: date) -> list[tuple[str, str]]:
    """The ranges of texts without hyphens. Those of the last year begin behind its texts with hyphens.

    No bound looks like a number: SQLite would compare it as one in a column of type TIMESTAMP, and texts are greater.
    """
    low, high = (f"{day:%Y%m%d}!" for day in (first, behind))
    if first.year == behind.year:
        return [(low, high)]
    return [(low, f"{behind:%Y}!"), (f"{behind:%Y}/", high)]


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _ten_digits(moment: datetime) -> str:
    return str(min(max(_seconds(moment), 10**9), 10**10 - 1))


def _in_unit(moment: datetime, unit: int) -> sa.ColumnElement[int]:
    return sa.literal(min(max(_seconds(moment) * unit, -_LARGEST_INTEGER), _LARGEST_INTEGER), sa.BigInteger)


# Columns.

_STORED_FREELY = "stored_freely"
_WITH_TIMES = (sa.DateTime, sa.Date, sa.Integer, sa.Numeric, sa.Float, sa.String, sa.types.NullType)


def check_time_column(column: sa.Column[Any]) -> None:
    """Raise SourceTableError for a type that holds no times."""
    has_times = isinstance(column.type, _WITH_TIMES) and not isinstance(column.type, sa.Enum)
    if not has_times and not is_stored_freely(column):
        raise SourceTableError(
            f"the column {column.name!r} (LUMA_SOURCE_TIME_COLUMN) is of type {column.type!s}, which holds no times: "
            "name a column of timestamps, dates, epoch numbers or ISO 8601 texts"
        )


def mark_stored_freely(column: sa.Column[Any]) -> None:
    """Note that the column may hold values of any type, whatever its own type is: so SQLite stores them."""
    column.info[_STORED_FREELY] = True


def is_stored_freely(column: sa.Column[Any]) -> bool:
    """Whether the column may hold values of any type."""
    return bool(column.info.get(_STORED_FREELY))


def is_free_form(column: sa.Column[Any]) -> bool:
    """Whether a time may be text, which can say anything."""
    return is_stored_freely(column) or not isinstance(
        column.type, (sa.DateTime, sa.Date, sa.Integer, sa.Numeric, sa.Float)
    )


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column without SQLAlchemy's reading of it, which would refuse some values that SQLite stores."""
    return sa.type_coerce(column, sa.types.NullType()) if is_stored_freely(column) else column


_EARLIEST, _LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)


def selected(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column as it is asked for. Times that Python cannot hold (PostgreSQL's `infinity`, years before 1) are null:
    the driver would refuse the whole result for one of them."""
    kind = column.type
    if is_stored_freely(column) or not isinstance(kind, (sa.DateTime, sa.Date)):
        return as_stored(column)
    earliest: date = _EARLIEST
    latest: date = _LATEST
    if isinstance(kind, sa.Date):
        earliest, latest = _EARLIEST.date(), _LATEST.date()
    elif not kind.timezone:
        earliest, latest = _EARLIEST.replace(tzinfo=None), _LATEST.replace(tzinfo=None)
    return sa.case((column.between(earliest, latest), column), else_=None)
