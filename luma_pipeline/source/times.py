"""The times of a source table: every form in which they are stored, read in Python and bounded in SQL."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from luma_pipeline.luma.timestamps import parse_timestamp

__all__ = [
    "as_stored",
    "before",
    "is_free_form",
    "mark_stored_freely",
    "near",
    "not_before",
    "selected",
    "surely_between",
    "to_utc",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_EPOCH_UNITS = (1, 10**3, 10**6, 10**9)
"""Epoch numbers in seconds, milliseconds, microseconds or nanoseconds: for any date from 1973 to 5138 the four ranges
do not meet, so that the number itself tells its unit."""
_LARGEST_SECONDS = 10**11
_LARGEST_INTEGER = 2**63 - 1
_EPOCH_TEXT = re.compile(r"([0-9]{10})(?:[0-9]{3}){0,3}")
"""Epoch digits as text: from 2001 to 2286 seconds have ten digits, and with any other unit the first ten are the
seconds. Other lengths could be a date without hyphens."""


def to_utc(value: object, zone: ZoneInfo) -> datetime | None:
    """The moment a stored value means, or None where it means none. Times without a zone are in `zone`."""
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time())
    elif isinstance(value, str):
        if _EPOCH_TEXT.fullmatch(value):
            return _from_epoch(int(value))
        # Behind a blank no window's condition would find it.
        moment = None if value[:1].isspace() else parse_timestamp(value)
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
    return _EPOCH + timedelta(microseconds=microseconds)


# Windows, roughly: what a table is read by.


def near(column: sa.Column[Any], start: datetime, end: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """A condition the database can answer from an index and that no row of [start, end) fails.

    It lets a few neighbours through where the stored form cannot be compared exactly (text with offsets, local times
    around a clock change); the rows are filtered by their real time after that.
    """
    kind = column.type
    if not is_free_form(column):
        if isinstance(kind, sa.DateTime) and kind.timezone:
            return sa.and_(column >= start, column < end)
        if isinstance(kind, sa.DateTime):
            pad = timedelta(hours=3)
            return sa.and_(column >= _naive(start - pad, zone), column < _naive(end + pad, zone))
        if isinstance(kind, sa.Date):
            return sa.and_(column >= start.astimezone(zone).date(), column <= end.astimezone(zone).date())
        return _near_epoch(column, start, end)
    # The date stands first in ISO text; a day on either side covers every offset.
    first, behind = (start - timedelta(days=1)).date(), (end + timedelta(days=2)).date()
    as_text = sa.or_(
        _text_between(column, first.isoformat(), behind.isoformat()),
        _text_between(column, _basic(first), _basic(behind)),
        _text_between(column, _ten_digits(start), _ten_digits(end + timedelta(seconds=1))),
    )
    return sa.or_(as_text, _near_epoch(column, start, end)) if _stored_freely(column) else as_text


def _near_epoch(column: sa.Column[Any], start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    number = as_stored(column)
    behind = end + timedelta(seconds=1)  # a fraction of a second is cut off
    return sa.or_(*(sa.and_(number >= _in_unit(start, unit), number < _in_unit(behind, unit)) for unit in _EPOCH_UNITS))


def _text_between(column: sa.Column[Any], low: str, high: str) -> sa.ColumnElement[bool]:
    text = as_stored(column)
    return sa.and_(text >= sa.literal(low, sa.String), text < sa.literal(high, sa.String))


def _naive(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _basic(day: date) -> str:
    return day.isoformat().replace("-", "")


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _ten_digits(moment: datetime) -> str:
    return str(min(max(_seconds(moment), 10**9), 10**10 - 1))


def _in_unit(moment: datetime, unit: int) -> sa.ColumnElement[int]:
    return sa.literal(min(max(_seconds(moment) * unit, -_LARGEST_INTEGER), _LARGEST_INTEGER), sa.BigInteger)


# What lies outside of a window, exactly: what is told of rows in no partition.


def before(column: sa.Column[Any], moment: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """Whether a time of a column that is no free form is before the moment."""
    if not _is_number(column):
        return column < _comparable(column, moment, zone)
    return sa.or_(*(sa.and_(column >= low, column < _in_unit(moment, unit)) for unit, low, _ in _unit_ranges()))


def not_before(column: sa.Column[Any], moment: datetime, zone: ZoneInfo) -> sa.ColumnElement[bool]:
    """Whether a time of a column that is no free form is the moment or after it."""
    if not _is_number(column):
        return column >= _comparable(column, moment, zone)
    return sa.or_(*(sa.and_(column >= _in_unit(moment, unit), column < high) for unit, _, high in _unit_ranges()))


def _comparable(column: sa.Column[Any], moment: datetime, zone: ZoneInfo) -> date:
    kind = column.type
    if isinstance(kind, sa.Date):
        # A date is the beginning of its day: the first that is not before the moment.
        return (moment.astimezone(zone) - timedelta(microseconds=1)).date() + timedelta(days=1)
    return moment if isinstance(kind, sa.DateTime) and kind.timezone else _naive(moment, zone)


def _unit_ranges() -> list[tuple[int, sa.ColumnElement[int], sa.ColumnElement[int]]]:
    """Each unit with the numbers that are in it, as far as databases have integers."""
    bounds = [-_LARGEST_SECONDS, *(unit * _LARGEST_SECONDS for unit in _EPOCH_UNITS[:-1]), _LARGEST_INTEGER]
    literals = [sa.literal(bound, sa.BigInteger) for bound in bounds]
    return list(zip(_EPOCH_UNITS, literals[:-1], literals[1:], strict=True))


_DAY_OF_YEAR = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_ISO = (
    f"^[12][0-9]{{3}}-{_DAY_OF_YEAR}([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{{1,12}})?)?"
    "( ?(Z|z|UTC|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?))?)?$"
)
_DIGITS = "^[0-9]{10}([0-9]{3}){0,3}$"


def surely_between(column: sa.Column[Any], start: datetime, end: datetime) -> sa.ColumnElement[bool]:
    """A condition that only times in [start, end) meet, and most of them, on a column of free form.

    It has what the regular expressions of every database have. What they vouch for, `to_utc` can read.
    """
    # Up to a day of offset, and a day is as long as it is.
    first, behind = (start + timedelta(days=2)).date(), (end - timedelta(days=1)).date()
    as_text = sa.or_(
        sa.and_(_text_between(column, first.isoformat(), behind.isoformat()), _matches(column, _ISO)),
        sa.and_(_text_between(column, _ten_digits(start), _ten_digits(end)), _matches(column, _DIGITS)),
    )
    if not _stored_freely(column):
        return as_text
    number = as_stored(column)
    as_number = sa.or_(
        *(
            sa.and_(number >= low, number >= _in_unit(start, unit), number < _in_unit(end, unit))
            for unit, low, _ in _unit_ranges()
        )
    )
    return sa.or_(as_text, sa.and_(sa.func.typeof(column).in_(["integer", "real"]), as_number))


def _matches(column: sa.Column[Any], pattern: str) -> sa.ColumnElement[bool]:
    matches = as_stored(column).regexp_match(pattern)
    # The function that SQLAlchemy gives SQLite takes nothing but text.
    is_text = sa.func.typeof(column) == "text"
    return sa.case((is_text, matches), else_=sa.false()) if _stored_freely(column) else matches


# Columns.

_STORED_FREELY = "stored_freely"


def mark_stored_freely(column: sa.Column[Any]) -> None:
    """Note that the column may hold values of any type, whatever it was declared as: SQLite's way."""
    column.info[_STORED_FREELY] = True


def _stored_freely(column: sa.Column[Any]) -> bool:
    return bool(column.info.get(_STORED_FREELY))


def _is_number(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, (sa.Integer, sa.Numeric, sa.Float))


def is_free_form(column: sa.Column[Any]) -> bool:
    """Whether a time may be text, which can say anything."""
    return _stored_freely(column) or not (isinstance(column.type, (sa.DateTime, sa.Date)) or _is_number(column))


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column without the reading of SQLAlchemy's, which would refuse some of what SQLite keeps."""
    return sa.type_coerce(column, sa.types.NullType()) if _stored_freely(column) else column


_EARLIEST, _LATEST = datetime(2, 1, 1, tzinfo=timezone.utc), datetime(9998, 12, 31, tzinfo=timezone.utc)


def selected(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column as it is asked for. Times that Python cannot hold (PostgreSQL's `infinity`, years before 1) are null:
    the driver would refuse the whole result for one of them."""
    kind = column.type
    if _stored_freely(column) or not isinstance(kind, (sa.DateTime, sa.Date)):
        return as_stored(column)
    earliest: date = _EARLIEST
    latest: date = _LATEST
    if isinstance(kind, sa.Date):
        earliest, latest = _EARLIEST.date(), _LATEST.date()
    elif not kind.timezone:
        earliest, latest = _EARLIEST.replace(tzinfo=None), _LATEST.replace(tzinfo=None)
    return sa.case((column.between(earliest, latest), column), else_=None)
