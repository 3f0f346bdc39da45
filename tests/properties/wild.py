"""What the properties are tried with: IDs, JSON and times of any form."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

UNICODE = st.characters(codec="utf-8")
ANY_CHARACTER = st.characters(exclude_categories=())
"""Half surrogate pairs too, which JSON and Python can say and UTF-8 cannot."""

PATHS = ["..", ".", "...", "../x", "a/../b", "/", "//", "/etc/passwd", "a\\..\\b", "C:\\x", "\\\\host\\share"]
ESCAPES = [
    "%2e%2e",
    "%2F",
    "a%2Fb",
    "%00",
    "%",
    "%zz",
    "a+b",
    "a b",
    "?x=1",
    "#f",
    "a;b",
    "a&b=c",
    "@host",
    "http://h/x",
]
ODD = [
    "\0",
    "a\nb",
    "a\r\nX-Evil: 1",
    "\u2028",
    "\ufeff",
    "é",
    "e\u0301",
    "\U0001f600",
    "A",
    "a",
    "~",
    "a~b",
    "video",
    "-x",
]
PIECES = st.sampled_from([*PATHS, *ESCAPES, *ODD, "x" * 128, "x" * 129, "raw_1", "_raw", ".mp4", "{task_id}"])

task_ids = st.lists(PIECES | st.text(UNICODE, max_size=5), min_size=1, max_size=4).map("".join).filter(str.strip)
"""Any text that a database can hold and that is not blank."""
any_ids = st.lists(PIECES | st.text(ANY_CHARACTER, max_size=5), min_size=1, max_size=4).map("".join).filter(str.strip)
"""Any text that is not blank."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2),
    st.integers(2**62, 2**65),
    st.floats(),
    st.text(ANY_CHARACTER, max_size=8),
    st.sampled_from(
        ["", "1360", "5.04", "1e3", "0001-01-01T00:00:00Z", "2024-12-24T18:01:25.319Z", "completed", "null"]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(ANY_CHARACTER, max_size=6), inner, max_size=3),
    max_leaves=8,
)
"""Any JSON, with what Python's parser takes beside it: NaN and infinities."""


@st.composite
def pages(draw: st.DrawFn, page: dict[str, Any], depth: int = 0) -> Any:
    """JSON with the keys of a page: values as they are there, others, or none; and keys that are not there."""
    if draw(st.integers(0, 7)) == 0:
        return draw(anything)
    found: dict[str, Any] = {}
    for key, value in page.items():
        turn = draw(st.integers(0, 9))
        if turn == 0:
            continue
        if turn <= 2:
            found[key] = draw(anything)
        elif isinstance(value, dict):
            found[key] = draw(pages(value, depth + 1))
        else:
            found[key] = value
    if draw(st.integers(0, 3)) == 0:
        found |= draw(st.dictionaries(st.text(ANY_CHARACTER, max_size=6), anything, max_size=2))
    return found


def as_body(value: Any) -> bytes:
    """A value as a server sends it: some servers escape what is not ASCII, some do not."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


moments = st.timedeltas(timedelta(days=2), timedelta(days=3652055)).map(
    lambda age: datetime(1, 1, 1, tzinfo=UTC) + age
) | st.timedeltas(timedelta(0), timedelta(days=1000)).map(lambda age: datetime(2023, 1, 1, tzinfo=UTC) + age)
offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def _offset(at: datetime, colon: str = ":") -> str:
    minutes = int((at.utcoffset() or timedelta()).total_seconds() // 60)
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}{colon}{rest:02}"


def _clock(at: datetime, separator: str = "T") -> str:
    return f"{at.year:04}-{at.month:02}-{at.day:02}{separator}{at.hour:02}:{at.minute:02}:{at.second:02}"


def _basic(at: datetime) -> str:
    return _clock(at).replace("-", "").replace(":", "")


FORMS: list[Callable[[datetime, str], str]] = [
    lambda at, digits: f"{_clock(at.astimezone(UTC))}{digits}Z",
    lambda at, digits: f"{_clock(at.astimezone(UTC), ' ')}{digits}z",
    lambda at, digits: f"{_clock(at.astimezone(UTC))}{digits} UTC",
    lambda at, digits: f"{_clock(at.astimezone(UTC))}{digits}",
    lambda at, digits: f"{_clock(at)}{digits}{_offset(at)}",
    lambda at, digits: f"{_clock(at, 't')}{digits} {_offset(at, '')}",
    lambda at, digits: f"{_basic(at.astimezone(UTC))}{digits}Z",
    lambda at, digits: f"{_basic(at)}{digits}{_offset(at, '')}",
    lambda at, digits: f"  {_clock(at)}{digits.replace('.', ',')}{_offset(at)}\n",
]
"""Ways in which servers write a moment; `digits` are those of a second, with the dot."""
