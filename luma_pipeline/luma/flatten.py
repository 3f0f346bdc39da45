"""The provider's room: results into typed columns, with nothing lost on the way.

Columns are built one at a time over all rows. A column whose values all have the type on the provider's page goes to
Arrow as it is. Only a column that holds something else is read value by value. That is where the speed comes from, and
why one unusual answer costs no more than a second pass over its own column. What an answer says twice is read once.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.luma.responses import json_type
from luma_pipeline.luma.results import TaskResult, printable
from luma_pipeline.luma.schema import FIELDS, TIMESTAMP, Field, generations_schema
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


def to_table(
    results: Iterable[TaskResult],
    submitted_at: Sequence[datetime | None] | None = None,
    fields: tuple[Field, ...] = FIELDS,
) -> pa.Table:
    """One row per result, in their order, with GENERATIONS_SCHEMA.

    `submitted_at`, if given, has one aware time (or None) per result. It comes from the source table, which the
    provider knows nothing of. `fields` are the typed columns: those of the client's `spec`.

    >>> from luma_pipeline.luma import Outcome
    >>> answer = {"id": "t", "state": "completed", "video": {"width": 1360}}
    >>> result = TaskResult("t", Outcome.RESOLVED, datetime.now(UTC), generation=answer)
    >>> to_table([result]).select(["task_id", "outcome", "state", "video_width"]).to_pylist()
    [{'task_id': 't', 'outcome': 'resolved', 'state': 'completed', 'video_width': 1360}]
    """
    return flatten(results, submitted_at, fields).table


def flatten(
    results: Iterable[TaskResult],
    submitted_at: Sequence[datetime | None] | None = None,
    fields: tuple[Field, ...] = FIELDS,
) -> Flattened:
    """As `to_table`, with the drift."""
    rows = list(results)
    page = _page(fields)
    task_ids = [row.task_id for row in rows]
    columns: dict[str, pa.Array] = {
        "task_id": _text_array(task_ids),
        "submitted_at": pa.nulls(len(rows), TIMESTAMP) if submitted_at is None else pa.array(submitted_at, TIMESTAMP),
        "outcome": pa.array([row.outcome for row in rows], pa.string()),
        "http_status": pa.array([row.http_status for row in rows], pa.int32()),
        "error_code": _text_array([row.error_code for row in rows]),
        "error_message": _text_array([row.error_message for row in rows]),
        "attempts": pa.array([row.attempts for row in rows], pa.int32()),
        "polled_at": _time_array([row.polled_at for row in rows]),
        "raw_response": _text_array([row.raw_response for row in rows], pa.large_string()),
    }
    note = _DriftNotes(task_ids)
    answers = [row.generation if isinstance(row.generation, dict) else None for row in rows]
    _Reading(columns, note).read(page.answer, answers)
    table = pa.Table.from_arrays([columns[name] for name in page.schema.names], schema=page.schema)
    return Flattened(table, note.drift())


_REPEATING = "artifact"
"""The object that says again what stands beside it: `artifact.video` is `video` once more, and so on."""


class _Object:
    """An object on the page: the keys it has there, those with a typed column first, then those of objects in it."""

    def __init__(self, fields: tuple[Field, ...], path: _Path = ()) -> None:
        depth = len(path)
        inside = [field for field in fields if field.path[:depth] == path]
        children = dict.fromkeys(field.path[: depth + 1] for field in inside if len(field.path) > depth + 1)
        self.path = path
        self.fields = [field for field in inside if len(field.path) == depth + 1]
        # What repeats others first: each of those is compared as soon as it is read, still in the processor's cache.
        first = sorted(children, key=lambda child: child != (_REPEATING,))
        self.children = [_Object(fields, child) for child in first]
        self.columns = [field.name for field in inside]
        self.numbers = [field.name for field in inside if field.type in (pa.int64(), pa.float64())]
        self.booleans = [field.name for field in inside if field.type == pa.bool_()]
        beside = (
            [field for field in fields if field.path[: depth - 1] == path[1:]] if path[:-1] == (_REPEATING,) else []
        )
        is_same = [(field.path, field.type) for field in beside] == [(field.path[1:], field.type) for field in inside]
        self.repeats = path[1:] if beside and is_same else None
        self.keys = tuple([field.path[-1] for field in self.fields] + [child.path[-1] for child in self.children])
        self.known = frozenset(self.keys)
        self.missing: dict[str, Any] = dict.fromkeys(self.keys)
        # A key at a time: a tuple for every row costs more than it saves.
        self.getters = [itemgetter(key) for key in self.keys]


class _Page(NamedTuple):
    """An answer's objects, and the columns of its table."""

    answer: _Object
    schema: pa.Schema


@cache
def _page(fields: tuple[Field, ...]) -> _Page:
    return _Page(_Object(fields), generations_schema(fields))


class _Reading:
    """Answers on their way into `columns`, an object of the page at a time."""

    def __init__(self, columns: dict[str, pa.Array], note: _DriftNotes) -> None:
        self._columns = columns
        self._note = note
        self._repeats: dict[_Path, tuple[_Object, _Values]] = {}

    def read(self, page: _Object, rows: _Values) -> None:
        """Make the columns of an object and of those in it. `rows` has the object in each row."""
        drift_before = self._note.total()
        values = _values(page, rows, self._note)
        for field, column in zip(page.fields, values, strict=False):
            self._columns[field.name] = _column(column, field, self._note)
        for child, its_rows in zip(page.children, values[len(page.fields) :], strict=True):
            if child.repeats:
                self._repeats[child.repeats] = child, its_rows
            else:
                self.read(child, its_rows)
        if page.path in self._repeats:
            again, its_rows = self._repeats.pop(page.path)
            # Compared only where all is as on the page: anything else may be nested too deep for that.
            if self._note.total() == drift_before and its_rows == rows and not self._may_equal_booleans(page):
                same = zip(again.columns, page.columns, strict=True)
                self._columns |= {name: self._columns[repeated] for name, repeated in same}
            else:
                self.read(again, its_rows)

    def _may_equal_booleans(self, page: _Object) -> bool:
        """Whether an equal object may have true or false for a number: to Python they equal 1 and 0."""
        lowest = [pc.min(self._columns[name]).as_py() for name in page.numbers]
        has_booleans = any(self._columns[name].null_count < len(self._columns[name]) for name in page.booleans)
        return has_booleans or any(number is not None and number <= 1 for number in lowest)


def _values(page: _Object, rows: _Values, note: _DriftNotes) -> list[_Values]:
    """For each key of an object its value in every row; None where it, or the object, is missing."""
    try:
        values = [list(map(getter, rows)) for getter in page.getters]
        if sum(map(len, rows)) == len(page.keys) * len(rows):
            return values  # every row has each key of the page, and no more of them
    except (KeyError, TypeError):  # in some row a key is missing, or there is no object
        if rows.count(None) == len(rows):
            return [rows] * len(page.keys)
        note.no_objects(page.path, rows)
        rows = [row if isinstance(row, dict) else page.missing for row in rows]
        values = [list(map(dict.get, rows, repeat(key))) for key in page.keys]
    _note_unknown(page, rows, note)
    return values


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

    def total(self) -> int:
        return self._counts.total()

    def add(self, path: _Path, value: object, row: int, *, unknown: bool = False) -> None:
        key = (printable(".".join(path)), json_type(value), unknown)
        self._counts[key] += 1
        self._examples.setdefault(key, printable(self._task_ids[row]))

    def no_objects(self, path: _Path, values: _Values) -> None:
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, dict):
                self.add(path, value, row)

    def drift(self) -> tuple[Drift, ...]:
        return tuple(
            Drift(field, found, unknown, count, self._examples[field, found, unknown])
            for (field, found, unknown), count in sorted(self._counts.items())
        )


def _column(values: _Values, field: Field, note: _DriftNotes) -> pa.Array:
    kind = _KINDS[field.type]
    if kind.types is None or kind.types.issuperset(map(type, values)):
        try:
            return kind.fast(values)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            pass  # one of the values is of another type or out of range: find out which
    plain: _Values = []
    for row, value in enumerate(values):
        if value is None or value == "" or value == {} or value == []:
            plain.append(None)
            continue
        result = kind.read(value)
        if result is None and not _is_no_time(value, field):
            note.add(field.path, value, row)
        plain.append(result)
    return pa.array(plain, field.type)


# Whole columns at once, for values that are what the page says.


def _fast_text(values: _Values) -> pa.Array:
    if "" in values:
        values = [None if value == "" else value for value in values]
    return pa.array(values, pa.string())


def _fast_time(values: _Values) -> pa.Array:
    missing = values.count(_NO_TIME)
    if missing == len(values):
        return pa.nulls(len(values), TIMESTAMP)
    if missing:
        values = [None if value == _NO_TIME else value for value in values]
    times = _fast_text(values).cast(TIMESTAMP)
    bounds = pc.min_max(times)
    if (bounds["min"].value or 0) < _FIRST_REAL_TIME or (bounds["max"].value or 0) > _LAST_TIME:
        raise OverflowError
    return times


_NO_TIME = "0001-01-01T00:00:00Z"
"""The provider writes "no time" as the zero of Go's clock."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_TIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
"""Arrow reads later times too, from text with an offset. Python cannot say them."""
_FIRST_REAL_TIME = (datetime(2, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def _fast_boolean(values: _Values) -> pa.Array:
    return pa.array(values, pa.bool_())


def _fast_integer(values: _Values) -> pa.Array:
    return pa.array(values, pa.int64())


def _fast_float(values: _Values) -> pa.Array:
    numbers = pa.array(values, pa.float64())
    if pc.all(pc.is_finite(numbers)).as_py() is False:
        raise OverflowError
    return numbers


# Value by value. None means: not of this type.


def _read_text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
        return None
    return value


def _read_boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


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
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _is_no_time(value: object, field: Field) -> bool:
    """Whether a text says "no time": a moment of the first year, or of the one before, which Python has not."""
    if field.type != TIMESTAMP or not isinstance(value, str):
        return False
    time = parse_timestamp(value)
    return value.startswith("0000-") if time is None else time.year <= 1


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class _Kind:
    """How values become a column: all at once, which may raise, or one by one where that is not possible.

    Arrow itself refuses what is no text, but takes true and 1.5 for numbers: there `types` are looked at first.
    """

    fast: Callable[[_Values], pa.Array]
    read: Callable[[object], Any]
    types: frozenset[type] | None = None


_KINDS: dict[pa.DataType, _Kind] = {
    pa.string(): _Kind(_fast_text, _read_text),
    pa.bool_(): _Kind(_fast_boolean, _read_boolean, frozenset({bool, type(None)})),
    pa.int64(): _Kind(_fast_integer, _read_integer, frozenset({int, type(None)})),
    pa.float64(): _Kind(_fast_float, _read_float, frozenset({int, float, type(None)})),
    TIMESTAMP: _Kind(_fast_time, _read_time),
}


def _text_array(values: Sequence[str | None], type_: pa.DataType | None = None) -> pa.Array:
    """An array of text that may hold what UTF-8 cannot say (a task ID is any string): that is shown as `?`."""
    type_ = type_ or pa.string()
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:
        return pa.array([None if value is None else printable(value) for value in values], type_)


def _time_array(times: Sequence[datetime]) -> pa.Array:
    """An array of aware times. Arrow alone would call each one's zone, which takes four times as long."""
    try:
        return pa.array([time - _EPOCH for time in times], pa.duration("us")).view(TIMESTAMP)
    except TypeError:  # a time without a zone is UTC to Arrow
        return pa.array(times, TIMESTAMP)
