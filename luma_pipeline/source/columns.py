"""The source room: a table's columns, their types, and their values as IDs and as carried columns."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Context, Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.source.errors import SourceTableError
from luma_pipeline.source.times import is_stored_freely, mark_stored_freely, to_utc

__all__ = ["CarriedColumn", "IdColumn", "check_carried_names", "column_named", "is_stored_freely", "reflect"]

_RESERVED = ("task_id", "submitted_at", "date", "hour", "week", "month")
"""The columns of luma_tasks, and the names of partition folders, which readers show as columns."""


def check_carried_names(names: Sequence[str]) -> None:
    """Raise SourceTableError for names that readers of the dataset cannot tell apart. Many ignore capitals."""
    seen: set[str] = set()
    for name in names:
        key = name.casefold()
        if key in _RESERVED:
            raise SourceTableError(
                f"the carried column {name!r} has the name of a column of luma_tasks or of its partition folders: "
                "leave it out of LUMA_SOURCE_COLUMNS, or name a view that calls it otherwise as LUMA_SOURCE_TABLE"
            )
        if key in seen:
            raise SourceTableError(
                f"LUMA_SOURCE_COLUMNS has {name!r} twice, if capitals do not count: many readers of Parquet cannot "
                "tell such columns apart"
            )
        seen.add(key)


def reflect(connection: sa.Connection, name: str, setting: str = "LUMA_SOURCE_TABLE") -> sa.Table:
    """The table or view with its columns, as the database describes them. `setting` is what names it.

    Raises:
        SourceTableError: There is no such table.
    """
    schema, _, short = name.rpartition(".")
    try:
        table = sa.Table(short, sa.MetaData(), schema=schema or None, autoload_with=connection)
    except sa.exc.NoSuchTableError:
        inspector = sa.inspect(connection)
        names = sorted({*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)})
    else:
        for column in table.c:
            if isinstance(column.type, postgresql.DOMAIN):
                column.type = _type_under_domain(column.type)
                _ask_for_scale(connection, column)
            if connection.dialect.name == "sqlite":
                mark_stored_freely(column)
        return table
    there = ", ".join(names[:20]) or "no table at all"
    raise SourceTableError(f"there is no table {name!r} ({setting}) in the source database; there is: {there}")


def _type_under_domain(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    while isinstance(kind, postgresql.DOMAIN):
        kind = kind.data_type
    return kind


def _ask_for_scale(connection: sa.Connection, column: sa.Column[Any]) -> None:
    """Complete a numeric type under a domain: reflection leaves its digits out."""
    if isinstance(column.type, sa.Numeric) and not isinstance(column.type, sa.Float):
        with connection.execute(sa.select(column).limit(0)) as result:
            *_, precision, scale, _ = result.cursor.description[0] if result.cursor else (None,) * 7
        column.type = sa.Numeric(precision, scale)


def column_named(table: sa.Table, name: str, setting: str) -> sa.Column[Any]:
    """The table's column; SourceTableError, with the columns that there are, where there is none of the name."""
    column = table.c.get(name)
    if column is None:
        there = ", ".join(sorted(table.c.keys()))
        raise SourceTableError(f"table {table.fullname!r} has no column {name!r} ({setting}); it has: {there}")
    return column


def _is_padded(column: sa.Column[Any]) -> bool:
    """Whether the type fills up short texts with blanks. SQLite stores texts as they are, whatever the type."""
    return isinstance(column.type, (sa.CHAR, sa.NCHAR)) and not is_stored_freely(column)


def _unpadded(texts: pa.Array) -> pa.Array:
    return pc.utf8_rtrim(texts, " ")


# IDs.

_LARGEST_EXACT = 2**53
_UUID_BYTES = 16
_NO_IDS = (sa.JSON, sa.ARRAY, sa.Boolean, sa.DateTime, sa.Date, sa.Time, sa.Interval, postgresql.INTERVAL)


class IdColumn:
    """The column with the task IDs, whose values are texts, numbers or UUIDs.

    Equal texts are one task, because the provider is asked by the text. No two values of a type have the same text,
    but for those that the database takes for equal: `abc` and `abc ` as CHAR, 7 and 7.00 as NUMERIC.
    """

    def __init__(self, column: sa.Column[Any], setting: str = "LUMA_SOURCE_ID_COLUMN") -> None:
        if isinstance(column.type, _NO_IDS) and not is_stored_freely(column):
            raise SourceTableError(
                f"the column {column.name!r} ({setting}) is of type {column.type!s}, which holds no task "
                "IDs: name a column of texts, numbers or UUIDs"
            )
        self.column = column
        self._setting = setting
        self._is_padded = _is_padded(column)

    def texts(self, values: Sequence[object]) -> pa.Array:
        """The IDs as texts; null where there is none.

        Raises:
            SourceTableError: A value cannot be the ID of a task.
        """
        texts = pa.array([v if type(v) is str or v is None else self._text(v) for v in values], pa.string())
        return _unpadded(texts) if self._is_padded else texts

    def _text(self, value: object) -> str:
        if isinstance(value, (str, uuid.UUID)):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, Decimal) and value.is_finite():
            return _plain(value)
        if isinstance(value, float) and abs(value) < _LARGEST_EXACT:
            return _plain(Decimal(repr(value)))
        if isinstance(value, (bytes, memoryview)):
            binary = bytes(value)
            if len(binary) == _UUID_BYTES:
                return str(uuid.UUID(bytes=binary))
            shown = f"{len(binary)} bytes, X'{binary[:_UUID_BYTES].hex()}'"
        else:
            shown = f"{value!r:.60}"
        raise SourceTableError(
            f"the column {self.column.name!r} ({self._setting}) holds a value that is no task ID: {shown}. An ID "
            f"is text, a whole number below 2^53 if it is stored as a floating point number, or a UUID of {_UUID_BYTES}"
            " bytes. Name a column or a view that has the IDs as text, or leave the row out with LUMA_SOURCE_WHERE"
        )


def _plain(number: Decimal) -> str:
    """The number without an exponent and without zeros at the end of its fraction, which databases do not compare."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


# Carried columns.


class CarriedColumn:
    """A column to carry along. Its Arrow type follows from the SQL type alone, so that every file has the same."""

    def __init__(self, column: sa.Column[Any], zone: ZoneInfo) -> None:
        self.column = column
        self.name = column.name
        self.type, self._convert = _conversion(column.type, zone)
        self._is_padded = _is_padded(column)
        self._is_text = isinstance(column.type, sa.String)

    def read(self, values: Sequence[object]) -> tuple[pa.Array, int]:
        """The values as an Arrow array, and how many are null in it because they do not have the column's type."""
        if self._is_text:
            read = pa.array([v if type(v) is str else self._read(v) for v in values], self.type)
        else:
            read = pa.array([self._read(value) for value in values], self.type)
        unreadable = read.null_count - sum(value is None for value in values)
        return (_unpadded(read) if self._is_padded else read), unreadable

    def _read(self, value: object) -> Any:
        if value is None:
            return None
        try:
            return self._convert(value)
        except (ValueError, TypeError, OverflowError, InvalidOperation):
            return None


def _conversion(kind: sa.types.TypeEngine[Any], zone: ZoneInfo) -> tuple[pa.DataType, Callable[[Any], Any]]:
    if isinstance(kind, sa.Boolean):
        return pa.bool_(), _boolean
    if isinstance(kind, sa.Integer):
        return pa.int64(), _int64
    if isinstance(kind, (sa.Float, sa.Double)):
        return pa.float64(), float
    if isinstance(kind, sa.Numeric):
        # Parquet has no scale below 0 or above its digits.
        scale = 9 if kind.scale is None else min(max(kind.scale, 0), _DIGITS)
        return pa.decimal128(_DIGITS, scale), lambda value: _decimal(value, scale)
    if isinstance(kind, sa.DateTime):
        return TIMESTAMP, lambda value: to_utc(value, zone)
    if isinstance(kind, sa.Date):
        return pa.date32(), lambda value: value if isinstance(value, date) else date.fromisoformat(value[:10])
    if isinstance(kind, sa.ARRAY) and isinstance(_type_under_domain(kind.item_type), (sa.CHAR, sa.NCHAR)):
        return pa.string(), lambda value: _text(_items_unpadded(json.loads(value)))
    return pa.string(), _text


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _int64(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    if not isinstance(value, str) and number != value:
        raise ValueError(value)
    return number


_DIGITS = 38
_EXACT = Context(prec=2 * _DIGITS)
"""Python's own context has 28 digits, fewer than databases and Arrow have."""


def _decimal(value: Any, scale: int) -> Decimal | None:
    number = Decimal(str(value))
    if not number.is_finite() or number.adjusted() >= _DIGITS - scale:
        return None
    return number.quantize(Decimal((0, (1,), -scale)), context=_EXACT)


def _items_unpadded(value: Any) -> Any:
    if isinstance(value, list):
        return [_items_unpadded(item) for item in value]
    return value.rstrip(" ") if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = bytes(value).decode() if isinstance(value, (bytes, memoryview)) else str(value)
    # JSON may name half a character, which Parquet cannot hold.
    return text.encode("utf-8", "replace").decode()
