"""The source table: every way to keep a time, on SQLite and PostgreSQL, and each task in exactly one window."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from luma_pipeline.source.table import RowsOutside, SourceTable, SourceTableError
from luma_pipeline.source.times import to_utc

UTC = UTC
START = datetime(2024, 12, 24, tzinfo=UTC)
END = START + timedelta(days=1)
INSIDE = [START, datetime(2024, 12, 24, 18, 1, 25, 319000, tzinfo=UTC), END - timedelta(microseconds=1)]
OUTSIDE = [START - timedelta(microseconds=1), END, START - timedelta(days=400)]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'source.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address


def make(url: str, column_type: str, values: list[Any], table: str = "generations") -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {table} (task_id TEXT, submitted_at {column_type})")
        statement = sa.text(f"INSERT INTO {table} VALUES (:task_id, :at)")
        for number, value in enumerate(values):
            connection.execute(statement, {"task_id": f"t{number}", "at": value})
    engine.dispose()


def read(url: str, start: datetime = START, end: datetime = END, **settings: Any) -> list[str]:
    source = SourceTable(url=url, **{"table": "generations", **settings})
    try:
        found: list[str] = source.read(start, end).table["task_id"].to_pylist()
        return found
    finally:
        source.close()


def outside(url: str, **settings: Any) -> RowsOutside:
    source = SourceTable(url=url, **{"table": "generations", **settings})
    try:
        return source.rows_outside()
    finally:
        source.close()


BERLIN = ZoneInfo("Europe/Berlin")
FORMS: dict[str, tuple[str, Callable[[datetime], Any], str]] = {
    "ISO text, Z": ("TEXT", lambda t: t.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "UTC"),
    "ISO text, blank": ("TEXT", lambda t: t.strftime("%Y-%m-%d %H:%M:%S.%f"), "UTC"),
    "ISO text, offset": ("TEXT", lambda t: t.astimezone(timezone(timedelta(hours=-11))).isoformat(), "UTC"),
    "ISO text, local": ("TEXT", lambda t: t.astimezone(BERLIN).replace(tzinfo=None).isoformat(), "Europe/Berlin"),
    "ISO text, basic format": ("TEXT", lambda t: t.strftime("%Y%m%dT%H%M%S.%fZ"), "UTC"),
    "epoch text, microseconds": ("TEXT", lambda t: str(microseconds(t)), "UTC"),
    "epoch microseconds": ("BIGINT", lambda t: round(t.timestamp()) * 10**6 + t.microsecond, "UTC"),
    "naive UTC": ("TIMESTAMP", lambda t: t.replace(tzinfo=None).isoformat(" "), "UTC"),
    "naive local": (
        "TIMESTAMP",
        lambda t: t.astimezone(BERLIN).replace(tzinfo=None).isoformat(" "),
        "Europe/Berlin",
    ),
}


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize("form", FORMS)
def test_a_window_holds_exactly_its_tasks_however_times_are_kept(url: str, form: str) -> None:
    kind, write, zone = FORMS[form]
    values = [microseconds(t) if kind == "BIGINT" else write(t) for t in INSIDE + OUTSIDE]
    if url.startswith("postgresql") and kind == "TIMESTAMP":
        values = [datetime.fromisoformat(str(value)) for value in values]
    make(url, kind, values)
    assert read(url, timezone=zone) == ["t0", "t1", "t2"]
    assert not outside(url, timezone=zone)


@pytest.mark.parametrize("kind", ["TIMESTAMP", "DATETIME", "DATE", "NUMERIC", "INTEGER", "REAL", "TEXT", ""])
@pytest.mark.parametrize("start", [START, datetime(2024, 12, 31, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)])
def test_text_without_hyphens_is_found_whatever_type_sqlite_was_told(
    tmp_path: Path, kind: str, start: datetime
) -> None:
    """SQLite compares text with numbers where the type is one of numbers, and a bound that looks like one is one."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    end = start + timedelta(days=1)
    moments = [start, end - timedelta(seconds=1), start - timedelta(seconds=1), end]
    offsets = [timezone(timedelta(hours=hours)) for hours in (-12, 0, 14)]
    make(url, kind, [t.astimezone(offset).strftime("%Y%m%dT%H%M%S%z") for t in moments for offset in offsets])
    assert read(url, start, end) == ["t0", "t1", "t2", "t3", "t4", "t5"]


@pytest.mark.parametrize("column_type", ["BIGINT", "TEXT"])
@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_an_epoch_number_tells_its_own_unit(url: str, unit: int, column_type: str) -> None:
    seconds = [int(moment.timestamp()) for moment in (START, END - timedelta(seconds=1), END)]
    numbers = [second * unit for second in seconds]
    make(url, column_type, numbers if column_type == "BIGINT" else [str(number) for number in numbers])
    assert read(url) == ["t0", "t1"]


def test_the_end_of_a_day_and_a_leap_second_are_the_next_moment(url: str) -> None:
    before, after = (
        ["2024-12-23T24:00:00Z", "2024-12-23T23:59:60.5Z"],
        ["2024-12-24 24:00", "2024-12-24T15:59:60-08:00"],
    )
    make(url, "TEXT", [*before, *after])
    assert read(url) == ["t0", "t1"]
    assert read(url, END, END + timedelta(days=1)) == ["t2", "t3"]


def test_timestamps_with_a_zone(url: str) -> None:
    if url.startswith("sqlite"):
        make(url, "TEXT", [moment.isoformat() for moment in INSIDE + OUTSIDE])
    else:
        make(url, "TIMESTAMPTZ", INSIDE + OUTSIDE)
    assert read(url, timezone="Asia/Tokyo") == ["t0", "t1", "t2"]


CLOCK_CHANGES = [(datetime(2024, 3, 31), 23), (datetime(2024, 10, 27), 25)]  # noqa: DTZ001 - local days of Berlin


@pytest.mark.parametrize(("day", "hours"), CLOCK_CHANGES)
def test_days_of_23_and_25_hours_have_every_task_once(url: str, day: datetime, hours: int) -> None:
    starts = [(day + timedelta(days=n)).replace(tzinfo=BERLIN).astimezone(UTC) for n in range(-1, 3)]
    moment, values = starts[0], []
    while moment < starts[-1]:
        values.append(moment.isoformat())
        moment += timedelta(minutes=30)
    make(url, "TEXT", values)
    found = [read(url, start, end) for start, end in itertools.pairwise(starts)]
    assert len(found[1]) == 2 * hours
    assert sorted(task_id for day in found for task_id in day) == sorted(f"t{number}" for number in range(len(values)))


def test_odd_names_are_quoted(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE "order; drop" ("Task ID" TEXT, "select" TEXT, "it\'s" INTEGER)')
        connection.exec_driver_sql(f"INSERT INTO \"order; drop\" VALUES ('a', '{START.isoformat()}', 7)")
    engine.dispose()
    settings: dict[str, Any] = {
        "table": "order; drop",
        "id_column": "Task ID",
        "time_column": "select",
        "columns": ["it's"],
    }
    assert read(url, **settings) == ["a"]


def test_a_condition_is_taken_as_it_is_written(url: str) -> None:
    make(url, "TEXT", [moment.isoformat() for moment in INSIDE])
    assert read(url, where="task_id LIKE 't%' AND submitted_at < '2024-12-24T12:00:00:x'") == ["t0"]


def test_blank_and_repeated_ids_are_counted(url: str) -> None:
    make(url, "TEXT", [INSIDE[0].isoformat()] * 3)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for value in ("NULL", "''", "'  '", "'t0'"):
            connection.exec_driver_sql(f"INSERT INTO generations VALUES ({value}, '{INSIDE[1].isoformat()}')")
        connection.exec_driver_sql("INSERT INTO generations VALUES ('timeless', NULL)")
    engine.dispose()
    source = SourceTable(url=url, table="generations")
    tasks = source.read(START, END)
    assert (len(tasks.table), tasks.source_rows, tasks.blank_ids, tasks.repeated_ids) == (3, 7, 3, 1)
    assert tasks.table["submitted_at"].to_pylist()[0] == INSIDE[0]
    assert source.rows_outside() == RowsOutside(without_time=1)
    source.close()


UNREADABLE = [
    "Tue, 24 Dec 2024 10:00:00 GMT",
    "2024-12-24T10:00:00+01:00[Europe/Berlin]",
    "2024-12-24 10:00:00 CET",
    "2024-12-24 10:00:00 PM",
    "24.12.2024",
    "2024-02-30T10:00:00Z",
    "2024-12-24T25:00:00Z",
    "173508480012",
    "20241224.5",
    "\u00a02024-12-24",
    "yesterday",
    "",
]


def test_rows_in_no_partition_are_told_by_their_reason(url: str) -> None:
    """Rows near a window are counted by the reading of it, the others by one look at a sample."""
    readable = ["2024-12-24", "2024-12-31 23:59:60", "20241224T1000Z", "2024-12-24t10:00:00.123456789+0530"]
    early = ["2023-12-31T23:59:59Z", "2024-01-01T05:00:00+05:01", "1999-01-01", "1704067199", "20231231"]
    late = ["2999-01-01T00:00:00Z", "9999999999"]
    # The second moment of the first partition, and of what is text in the same zone.
    first = ["2024-01-01T00:00:01Z", "2024-01-01T05:00:00+05:00", "1704067200"]
    make(url, "TEXT", [None, None, *UNREADABLE, *readable, *early, *late, *first])
    source = SourceTable(url=url, table="generations", since="2024-01-01T00:00:00+00:00")
    found = source.rows_outside()
    near = source.read(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC))
    source.close()
    assert (found.without_time, found.before_start, found.in_future) == (2, len(early), len(late))
    assert found.unreadable + near.unreadable_times == len(UNREADABLE)
    assert found.complete
    assert {found.example, near.unreadable_example} <= set(UNREADABLE)
    for words in ("2 without a time", f"{found.unreadable} with a time that cannot be read", "5 before LUMA", "2 more"):
        assert words in str(found)


def test_a_look_at_rows_outside_is_bounded(url: str) -> None:
    """A history of any length before the first partition costs no more, and does not hide other rows."""
    make(url, "TEXT", ["never"])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        rows = [{"at": "2023-05-05T00:00:00Z"} for _ in range(10_001)]
        connection.execute(sa.text("INSERT INTO generations VALUES ('old', :at)"), rows)
    engine.dispose()
    found = outside(url, since="2024-01-01T00:00:00+00:00")
    assert (found.before_start, found.unreadable, found.example, found.complete) == (10_000, 1, "never", False)
    assert "maybe more" in str(found)


KINDS: list[tuple[str, Callable[[datetime], Any], str]] = [
    ("TIMESTAMPTZ", lambda t: t, "UTC"),
    ("TIMESTAMP", lambda t: t.astimezone(BERLIN).replace(tzinfo=None), "Europe/Berlin"),
    ("BIGINT", microseconds, "UTC"),
    ("BIGINT", lambda t: int(t.timestamp()), "UTC"),
    ("FLOAT8", lambda t: t.timestamp() * 1000, "UTC"),
    ("DATE", lambda t: t.date(), "UTC"),
]


@pytest.mark.parametrize(("kind", "stored", "zone"), KINDS)
def test_rows_before_the_first_partition_and_in_the_future_are_counted(
    url: str, kind: str, stored: Callable[[datetime], Any], zone: str
) -> None:
    since = datetime(2024, 1, 1, tzinfo=UTC)
    day = timedelta(days=1)
    early, inside = [since - 400 * day, since - day], [since, since + day, datetime.now(UTC) + day]
    late = [datetime.now(UTC) + 9 * day, datetime(2200, 1, 1, tzinfo=UTC)]
    values = [stored(moment) for moment in early + inside + late]
    if url.startswith("sqlite"):
        values = [str(value) if isinstance(value, date) else value for value in values]
    make(url, kind, [*values, None])
    found = outside(url, since=since.isoformat(), timezone=zone)
    assert found == RowsOutside(without_time=1, before_start=2, in_future=2)


# As times are written by many, and some that are none.
DATES = ["2024-12-24", "20241224", "2024-02-29", "2023-02-29", "2024-11-31", "2024-13-01", "24-12-24"]
CLOCKS = ["", "T10:00", " 23:59:59", "T100000", "t10:00:00.5", "T24:00:00", "T10:61", "T09:59:60", " 10:00:00,25"]
ZONES = ["", "Z", "z", " UTC", "+02", "-0530", "+14:00", "-23:59", "+24:00", " CET"]


def test_every_text_is_in_the_window_of_its_time_or_told_as_unreadable(url: str) -> None:
    texts = ["".join(parts) for parts in itertools.product(DATES, CLOCKS, ZONES)]
    make(url, "TEXT", texts)
    source = SourceTable(url=url, table="generations")
    days = [datetime(2024, 2, 26, tzinfo=UTC) + timedelta(days=n) for n in range(6)]
    days += [datetime(2024, 12, 21, tzinfo=UTC) + timedelta(days=n) for n in range(7)]
    windows = [source.read(day, day + timedelta(days=1)).source_rows for day in days]
    unreadable = sum(to_utc(text, ZoneInfo("UTC")) is None for text in texts)
    found = source.rows_outside()
    near = source.read(datetime(2001, 9, 10, tzinfo=UTC), datetime.now(UTC))
    source.close()
    assert found.complete
    assert found.unreadable + near.unreadable_times == unreadable
    assert sum(windows) == near.source_rows == len(texts) - unreadable


def test_a_carried_column_keeps_its_type_when_it_is_null_in_every_row(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    columns = {"i": "bigint", "f": "float8", "n": "numeric(12, 3)", "b": "bool", "d": "date", "z": "timestamptz"}
    columns |= {"t": "text", "u": "uuid", "j": "jsonb"}
    typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS carried")
        connection.exec_driver_sql(f"CREATE TABLE carried (task_id text, submitted_at timestamptz, {typed})")
        connection.exec_driver_sql(f"INSERT INTO carried (task_id, submitted_at) VALUES ('a', '{START.isoformat()}')")
    engine.dispose()
    source = SourceTable(url=postgres_url, table="carried", columns=list(columns))
    schema = source.read(START, END).table.schema
    source.close()
    types = {name: str(schema.field(name).type) for name in columns}
    assert types == {
        "i": "int64",
        "f": "double",
        "n": "decimal128(38, 3)",
        "b": "bool",
        "d": "date32[day]",
        "z": "timestamp[us, tz=UTC]",
        "t": "string",
        "u": "string",
        "j": "string",
    }


WRONG = [
    ({"url": "not a url"}, "LUMA_SOURCE_URL"),
    ({"url": "postgresql+psycopg://user:geheim@127.0.0.1:1/x"}, "LUMA_SOURCE_URL"),
    ({"url": "mysql+nodriver://user:geheim@127.0.0.1/x"}, "LUMA_SOURCE_URL"),
    ({"url": "postgresql+psycopg://user:ge@heim:x@127.0.0.1:port/x"}, "LUMA_SOURCE_URL"),
    ({"timezone": "Mars/Olympus"}, "LUMA_SOURCE_TIMEZONE"),
    ({"columns": ["nope"]}, "LUMA_SOURCE_COLUMNS"),
    ({"time_column": "nope"}, "LUMA_SOURCE_TIME_COLUMN"),
    ({"where": "no sql at all ="}, "LUMA_SOURCE_WHERE"),
]


@pytest.mark.parametrize(("settings", "advice"), WRONG)
def test_what_is_wrong_is_named_without_the_password(tmp_path: Path, settings: dict[str, Any], advice: str) -> None:
    url = f"sqlite:///{tmp_path / 'source.db'}"
    make(url, "TEXT", [])
    source = SourceTable(**{"url": url, "table": "generations", **settings})
    with pytest.raises(SourceTableError, match=advice) as caught:
        source.read(START, END)
    assert "heim" not in str(caught.value) + repr(source)
