"""Wild IDs and times, drawn by hypothesis: every row is in one window or told of, and no two IDs become one."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luma_pipeline.source.columns import IdColumn
from luma_pipeline.source.table import SourceTable
from luma_pipeline.source.times import to_utc
from tests.source.databases import Database

UTC = UTC
DAY = timedelta(days=1)
FIRST, LAST = datetime(2024, 12, 22, tzinfo=UTC), datetime(2025, 1, 4, tzinfo=UTC)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

bounds = (FIRST + DAY).replace(tzinfo=None), (LAST - DAY).replace(tzinfo=None)
moments = st.datetimes(*bounds, timezones=st.just(UTC))
blanks = st.text(" \t\n", max_size=2)


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NUMBERS: list[Callable[[datetime], str]] = [
    lambda t: str(Decimal(_microseconds(t)).scaleb(-6)),
    lambda t: str(Decimal(_microseconds(t)).scaleb(-3)),
    lambda t: f"{_microseconds(t)}",
    lambda t: f"{_microseconds(t)}.0",
    lambda t: f"{_microseconds(t)}000",
    lambda t: f"{_microseconds(t)}000.25",
    lambda t: f"+{_microseconds(t)}",
    lambda t: f"{Decimal(_microseconds(t)):.16e}",
    lambda t: f"{Decimal(_microseconds(t)).scaleb(-6):.16E}",
    lambda t: f"{int(t.timestamp())}.",
]
TEXTS: list[Callable[[datetime], str]] = [
    lambda t: t.isoformat(),
    lambda t: t.isoformat(" "),
    lambda t: f"{t:%Y%m%dT%H%M%S.%fZ}",
    lambda t: f"{t.astimezone(timezone(timedelta(hours=14))):%Y-%m-%d %H:%M:%S.%f%z}",
    lambda t: f"{t.astimezone(timezone(timedelta(hours=-12))):%Y%m%dt%H%M%S.%f%z}",
]
times_as_text = st.tuples(moments, st.sampled_from(NUMBERS + TEXTS), blanks, blanks)


def _days(source: SourceTable) -> list[list[str]]:
    count = (LAST - FIRST).days
    return [source.read(FIRST + n * DAY, FIRST + (n + 1) * DAY).table["task_id"].to_pylist() for n in range(count)]


def _filled(path: Path, columns: str, rows: list[tuple[Any, Any]]) -> SourceTable:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE generations ({columns})")
        connection.executemany("INSERT INTO generations VALUES (?, ?)", rows)
        connection.commit()
    return SourceTable(url=f"sqlite:///{path}", table="generations")


@MANY
@given(drawn=st.lists(times_as_text, min_size=1, max_size=20), kind=st.sampled_from(["TEXT", "", "TIMESTAMP"]))
def test_a_time_in_any_form_of_text_is_in_the_window_of_its_moment(tmp_path: Path, drawn: list[Any], kind: str) -> None:
    rows = [(f"t{n}", f"{before}{form(at)}{after}") for n, (at, form, before, after) in enumerate(drawn)]
    with _filled(tmp_path / "source.db", f"task_id TEXT, submitted_at {kind}", rows) as source:
        found = {task_id: number for number, ids in enumerate(_days(source)) for task_id in ids}
    # A column that SQLite takes for one of numbers rounds texts of many digits to a float.
    slack = timedelta(milliseconds=1 if kind == "TIMESTAMP" else 0)
    for number, (at, *_) in enumerate(drawn):
        assert found[f"t{number}"] in {(at + off - FIRST) // DAY for off in (-slack, slack)}


@pytest.fixture(scope="module")
def shared(postgres_server: sa.URL) -> Database:
    return Database(postgres_server.render_as_string(hide_password=False))


@settings(MANY, max_examples=15)
@given(drawn=st.lists(times_as_text, min_size=1, max_size=20))
def test_a_time_in_any_form_of_text_on_postgresql(shared: Database, drawn: list[Any]) -> None:
    shared.run("DROP TABLE IF EXISTS wild", "CREATE TABLE wild (task_id TEXT, submitted_at TEXT)")
    table = sa.table("wild", sa.column("task_id"), sa.column("submitted_at"))
    engine = sa.create_engine(shared.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for number, (at, form, before, after) in enumerate(drawn):
            connection.execute(table.insert().values(task_id=f"t{number}", submitted_at=f"{before}{form(at)}{after}"))
    with SourceTable(url=shared.url, table="wild") as source:
        found = {task_id: number for number, ids in enumerate(_days(source)) for task_id in ids}
    assert found == {f"t{number}": (at - FIRST) // DAY for number, (at, *_) in enumerate(drawn)}


@MANY
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), min_size=1, max_size=30))
def test_any_text_as_time_is_read_or_told_of(tmp_path: Path, texts: list[str]) -> None:
    rows = [(f"t{number}", text) for number, text in enumerate(texts)]
    with _filled(tmp_path / "source.db", "task_id TEXT, submitted_at TEXT", rows) as source:
        outside = source.rows_outside()
        near = source.read(datetime(2001, 9, 10, tzinfo=UTC), datetime.now(UTC))
    times = [to_utc(text, ZoneInfo("UTC")) for text in texts]
    assert outside.unreadable + near.unreadable_times >= sum(at is None for at in times)
    assert near.source_rows == sum(at is not None and datetime(2001, 9, 10, tzinfo=UTC) <= at for at in times)


of_any_type = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(-(2**53) + 1, 2**53 - 1),
    st.binary(min_size=16, max_size=16),
    st.uuids().map(lambda value: value.bytes),
    st.uuids().map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.integers(-20, 20),
    st.integers(-20, 20).map(str),
    st.integers(-20, 20).map(float),
)


@MANY
@given(values=st.lists(of_any_type, min_size=1, max_size=40), kind=st.sampled_from(["", "BLOB"]))
def test_every_id_of_a_column_without_a_type_is_in_the_window_of_its_first_row(
    tmp_path: Path, values: list[Any], kind: str
) -> None:
    days = (LAST - FIRST).days
    rows = [(value, (FIRST + number % days * DAY).isoformat()) for number, value in enumerate(values)]
    with _filled(tmp_path / "source.db", f"task_id {kind}, submitted_at TEXT", rows) as source:
        found = [(task_id, number) for number, ids in enumerate(_days(source)) for task_id in ids]
    first: dict[str, int] = {}
    texts = IdColumn(sa.Column("task_id", sa.types.NullType())).texts(values).to_pylist()
    for text, number in sorted(zip(texts, (n % days for n in range(len(values))), strict=True), key=lambda p: p[1]):
        first.setdefault(text, number)
    assert sorted(found) == sorted((text, number) for text, number in first.items() if text.strip())


one_type = st.one_of(
    st.lists(st.integers()),
    st.lists(st.decimals(allow_nan=False, allow_infinity=False)),
    st.lists(st.floats(-(2**53) + 1, 2**53 - 1)),
    st.lists(st.binary(min_size=16, max_size=16)),
    st.lists(st.uuids()),
    st.lists(st.text(st.characters(codec="utf-8"))),
)


@settings(MANY, max_examples=300)
@given(one_type)
def test_values_of_one_type_have_one_text_only_if_they_are_equal(values: list[Any]) -> None:
    texts = IdColumn(sa.Column("task_id", sa.types.NullType())).texts(values).to_pylist()
    assert len(set(texts)) == len(set(values))
    if values and isinstance(values[0], bytes):
        assert [uuid.UUID(text).bytes for text in texts] == values
