"""The provider's room: outcomes into typed columns, with nothing lost on the way.

Columns are built one at a time over all rows. A column whose values all have the type on the provider's page goes to
Arrow as it is; only a column that holds something else is looked at value by value. That is where the speed comes
from, and why one odd answer costs nothing but its own column's second look.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.luma.outcome import Outcome
from luma_pipeline.luma.schema import FIELDS, GENERATIONS_SCHEMA, TIMESTAMP, Field
from luma_pipeline.luma.timestamps import parse_timestamp

__all__ = ["Drift", "Flattened", "flatten", "to_table"]

_Values = list[Any]
_Path = tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """A field that is not on the provider's page (`unknown`), or has another type than the page says.

    The value is in `raw_response`; its typed column is null. `found` is the JSON type that came.
    """

    field: str
    found: str
    unknown: bool
    count: int
    example_task_id: str


@dataclass(frozen=True)
class Flattened:
    """A table with GENERATIONS_SCHEMA, and the drift met in it."""

    table: pa.Table
    drift: tuple[Drift, ...]


def to_table(outcomes: Iterable[Outcome], submitted_at: Sequence[datetime | None] | None = None) -> pa.Table:
    """One row per outcome, in their order, with GENERATIONS_SCHEMA.

    `submitted_at`, if given, has one aware time (or None) per outcome: it comes from the source table, which the
    provider knows nothing of.
    """
    return flatten(outcomes, submitted_at).table


def flatten(outcomes: Iterable[Outcome], submitted_at: Sequence[datetime | None] | None = None) -> Flattened:
    """As `to_table`, with the drift."""
    rows = list(outcomes)
    answers = [row.generation if isinstance(row.generation, dict) else _OBJECTS[()].missing for row in rows]
    note = _DriftNotes([row.task_id for row in rows])
    columns: dict[str, pa.Array] = {
        "task_id": _text_array([row.task_id for row in rows]),
        "submitted_at": pa.array(submitted_at if submitted_at is not None else [None] * len(rows), TIMESTAMP),
        "outcome": pa.array([row.kind.value for row in rows], pa.string()),
        "http_status": pa.array([row.http_status for row in rows], pa.int32()),
        "error_code": _text_array([row.error_code for row in rows]),
        "error_message": _text_array([row.error_message for row in rows]),
        "attempts": pa.array([row.attempts for row in rows], pa.int32()),
        "polled_at": pa.array([row.polled_at for row in rows], TIMESTAMP),
        "raw_response": _text_array([row.raw_response for row in rows], pa.large_string()),
    }
    for field, values in _leaves(answers, note):
        columns[field.name] = _column(values, field, note)
    table = pa.Table.from_arrays([columns[name] for name in GENERATIONS_SCHEMA.names], schema=GENERATIONS_SCHEMA)
    return Flattened(table, note.drift())


def _paths() -> list[_Path]:
    """Paths of every object on the page, parents first."""
    found: dict[_Path, None] = {(): None}
    for field in FIELDS:
        for depth in range(1, len(field.path)):
            found.setdefault(field.path[:depth], None)
    return sorted(found, key=len)


class _Object:
    """An object on the page: the keys it has there, those with a typed column first, then those of objects in it."""

    def __init__(self, path: _Path, paths: Sequence[_Path]) -> None:
        self.path = path
        self.fields = [field for field in FIELDS if field.path[:-1] == path]
        self.children = [child for child in paths if child and child[:-1] == path]
        self.keys = tuple([field.path[-1] for field in self.fields] + [child[-1] for child in self.children])
        self.known = frozenset(self.keys)
        self.missing: dict[str, Any] = dict.fromkeys(self.keys)
        # A key at a time: a tuple for every row would keep the garbage collector busy for longer than all the rest.
        self.getters = [itemgetter(key) for key in self.keys]


_PATHS = _paths()
_OBJECTS = {path: _Object(path, _PATHS) for path in _PATHS}


def _leaves(answers: _Values, note: _DriftNotes) -> Iterator[tuple[Field, _Values]]:
    """Every field of the page with its value in each row; None where it, or an object on the way to it, is missing."""
    found: dict[_Path, _Values] = {(): answers}
    for path, page in _OBJECTS.items():
        rows = found.pop(path)
        if set(map(type, rows)) != {dict}:
            note.wrong_types(path, rows, dict)
            rows = [value if type(value) is dict else page.missing for value in rows]
        try:
            values = [list(map(getter, rows)) for getter in page.getters]
            complete = True
        except KeyError:
            values = [[row.get(key) for row in rows] for key in page.keys]
            complete = False
        # A row with every key of the page and no more of them has no unknown one.
        if not complete or max(map(len, rows), default=0) > len(page.keys):
            _note_unknown(page, rows, note)
        yield from zip(page.fields, values, strict=False)
        found.update(zip(page.children, values[len(page.fields) :], strict=True))


def _note_unknown(page: _Object, rows: _Values, note: _DriftNotes) -> None:
    # Answers share few sets of keys: compare each once.
    odd = {keys for keys in set(map(tuple, rows)) if not page.known.issuperset(keys)}
    if odd:
        for index, row in enumerate(rows):
            if tuple(row) in odd:
                for name in row.keys() - page.known:
                    if row[name] is not None:
                        note.add((*page.path, name), row[name], index, unknown=True)


class _DriftNotes:
    """Counts drift by field and type, with the first task it was met in."""

    def __init__(self, task_ids: Sequence[str]) -> None:
        self._task_ids = task_ids
        self._counts: Counter[tuple[str, str, bool]] = Counter()
        self._examples: dict[tuple[str, str, bool], str] = {}

    def add(self, path: _Path, value: object, row: int, *, unknown: bool = False) -> None:
        key = (_printable(".".join(path)), _json_type(value), unknown)
        self._counts[key] += 1
        self._examples.setdefault(key, _printable(self._task_ids[row]))

    def wrong_types(self, path: _Path, values: _Values, wanted: type) -> None:
        for row, value in enumerate(values):
            if value is not None and type(value) is not wanted:
                self.add(path, value, row)

    def drift(self) -> tuple[Drift, ...]:
        return tuple(
            Drift(field, found, unknown, count, self._examples[field, found, unknown])
            for (field, found, unknown), count in sorted(self._counts.items())
        )


def _column(values: _Values, field: Field, note: _DriftNotes) -> pa.Array:
    # Arrow itself refuses what is no text, but takes true and 1.5 for numbers.
    wanted = _FAST_TYPES.get(field.type)
    if wanted is None or wanted.issuperset(map(type, values)):
        try:
            return _FAST[field.type](values)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            pass  # one of the values is of another type or out of range: find out which
    read = _READERS[field.type]
    plain: _Values = []
    for row, value in enumerate(values):
        if value is None or value == "" or value == {} or value == []:
            plain.append(None)
            continue
        result = read(value)
        if result is None and not _is_no_time(value, field):
            note.add(field.path, value, row)
        plain.append(result)
    return pa.array(plain, field.type)


# Whole columns at once, for values that are what the page says.


def _fast_text(values: _Values) -> pa.Array:
    if "" in values:
        values = [value or None for value in values]
    return pa.array(values, pa.string())


def _fast_time(values: _Values) -> pa.Array:
    times = _fast_text(values).cast(TIMESTAMP)
    times = pc.if_else(pc.equal(times, _NO_TIME), pa.scalar(None, TIMESTAMP), times)
    if pc.any(pc.less(times, _FIRST_REAL_TIME)).as_py():
        raise OverflowError
    return times


_NO_TIME = pa.scalar(datetime(1, 1, 1, tzinfo=timezone.utc), TIMESTAMP)
"""The provider writes "no time" as the first moment of year 1, the zero of Go's clock."""
_FIRST_REAL_TIME = pa.scalar(datetime(2, 1, 1, tzinfo=timezone.utc), TIMESTAMP)


def _fast_float(values: _Values) -> pa.Array:
    numbers = pa.array(values, pa.float64())
    if pc.all(pc.is_finite(numbers)).as_py() is False:
        raise OverflowError
    return numbers


_FAST: dict[pa.DataType, Callable[[_Values], pa.Array]] = {
    pa.string(): _fast_text,
    pa.int64(): lambda values: pa.array(values, pa.int64()),
    pa.float64(): _fast_float,
    TIMESTAMP: _fast_time,
}
_FAST_TYPES: dict[pa.DataType, frozenset[type]] = {
    pa.int64(): frozenset({int, type(None)}),
    pa.float64(): frozenset({int, float, type(None)}),
}


# Value by value. None means: not of this type.


def _read_text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
        return None
    return value


def _read_integer(value: object) -> int | None:
    number: int | None = None
    if type(value) is int:
        number = value
    elif (type(value) is float and value.is_integer()) or (type(value) is str and _INTEGER.fullmatch(value)):
        number = int(value)
    return number if number is not None and -(2**63) <= number < 2**63 else None


def _read_float(value: object) -> float | None:
    try:
        if type(value) in (int, float) or (type(value) is str and _DECIMAL.fullmatch(value)):
            number = float(value)  # type: ignore[arg-type]
            return number if math.isfinite(number) else None
    except OverflowError:
        pass
    return None


def _read_time(value: object) -> datetime | None:
    time = parse_timestamp(value) if isinstance(value, str) else None
    if time is None or time.year <= 1:
        return None
    # The provider means UTC where it names no zone, as in its examples.
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def _is_no_time(value: object, field: Field) -> bool:
    return field.type == TIMESTAMP and isinstance(value, str) and value.startswith(("0000-", "0001-"))


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")
_READERS: dict[pa.DataType, Callable[[object], Any]] = {
    pa.string(): _read_text,
    pa.int64(): _read_integer,
    pa.float64(): _read_float,
    TIMESTAMP: _read_time,
}


def _text_array(values: Sequence[str | None], type_: pa.DataType | None = None) -> pa.Array:
    """An array of text that may hold what UTF-8 cannot say (a task ID is any string): that is shown as `?`."""
    type_ = type_ or pa.string()
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array([None if value is None else _printable(value) for value in values], type_)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _json_type(value: object) -> str:
    if isinstance(value, Mapping):
        return "object"
    names: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return names.get(type(value), "null")
