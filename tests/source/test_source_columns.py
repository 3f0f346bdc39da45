"""The source table's columns on SQLite and PostgreSQL: names, IDs and carried values of every type, and the cursor."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.source.table import SourceTable
from tests.source.databases import AT, END, START, Database, database_of, generations

AWARE = sa.DateTime(timezone=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database_of(request, tmp_path)


# Names.

NAMES = [
    ("select", "from", "order"),
    ("My Generations", "Task ID", "Submitted At"),
    ("odd\"name'with;quotes", 'i"d', "t'ime"),
    ("ALLCAPS", "ID", "WHEN"),
    ("größe-✓", "ключ", "時刻"),
    ("percent%table", "id%s", "time:at"),
    ("tasks(1)", "id(2)", "at(3)"),
]


@pytest.mark.parametrize(("table", "id_column", "time_column"), NAMES)
def test_any_name_of_a_table_or_column_works(database: Database, table: str, id_column: str, time_column: str) -> None:
    columns = (sa.Column(id_column, sa.Text), sa.Column(time_column, sa.DateTime), sa.Column("group by", sa.Integer))
    database.create(sa.Table(table, sa.MetaData(), *columns), [{id_column: "a", time_column: AT, "group by": 7}])
    found = database.read(table=table, id_column=id_column, time_column=time_column, columns=["group by"])
    assert found.table.to_pylist() == [{"task_id": "a", "submitted_at": START, "group by": 7}]


def test_a_table_with_its_schema_is_that_schemas(database: Database) -> None:
    schema = "App Data" if database.is_postgres else "main"
    columns = (sa.Column("task_id", sa.Text), sa.Column("submitted_at", sa.DateTime))
    theirs = sa.Table("generations", sa.MetaData(), *columns, schema=schema)
    database.create(theirs, [{"task_id": "theirs", "submitted_at": AT}])
    if database.is_postgres:
        database.create(generations(sa.DateTime), [{"task_id": "public", "submitted_at": AT}])
        assert database.ids() == ["public"]
    assert database.ids(table=f"{schema}.generations") == ["theirs"]


def test_a_view_is_as_good_as_a_table(database: Database) -> None:
    database.create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    database.run("CREATE VIEW recent AS SELECT * FROM generations")
    assert database.ids(table="recent") == ["a"]


# IDs and times.

ID = uuid.UUID("e70fdf3c-ce95-4dd1-a967-220ce957aff5")
IDS: list[tuple[str, Any, Any, str]] = [
    ("UUID", sa.Uuid, ID, str(ID)),
    ("big integer", sa.BigInteger, 2**53 + 1, "9007199254740993"),
    ("zero", sa.Integer, 0, "0"),
    ("numeric", sa.Numeric(30, 0), Decimal("12345678901234567890"), "12345678901234567890"),
    ("text with spaces around", sa.Text, " a b ", " a b "),
    ("unicode", sa.Text, "ünï-✓-漢", "ünï-✓-漢"),
    ("bytes", sa.LargeBinary, ID.bytes, str(ID)),
    ("number of whole value", sa.Double, 7.0, "7"),
]


@pytest.mark.parametrize(("kind", "stored", "expected"), [case[1:] for case in IDS], ids=[case[0] for case in IDS])
def test_an_id_of_any_type_is_the_text_of_it(database: Database, kind: Any, stored: Any, expected: str) -> None:
    if not database.is_postgres and isinstance(stored, (uuid.UUID, Decimal)):
        kind, stored = sa.Text, expected  # SQLite has no such types; as numbers they would be rounded.
    database.create(generations(sa.DateTime, id_type=kind), [{"task_id": stored, "submitted_at": AT}])
    assert database.ids() == [expected]


def test_epoch_seconds_of_an_exact_number_keep_their_fraction(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.create(generations(sa.Numeric))
    times = ["1735084799.999999", "1734998399.999999", "1734998400", "NaN"]
    database.run(*(f"INSERT INTO generations VALUES ('{text}', '{text}')" for text in times))
    found = database.read().table
    assert found["task_id"].to_pylist() == ["1734998400", "1735084799.999999"]
    assert found["submitted_at"].to_pylist() == [START, END - timedelta(microseconds=1)]


# Carried columns.

CARRIED: list[tuple[str, Any, Any, pa.DataType, Any]] = [
    ("integer", sa.Integer, 7, pa.int64(), 7),
    ("smallint", sa.SmallInteger, -7, pa.int64(), -7),
    ("bigint", sa.BigInteger, 2**62, pa.int64(), 2**62),
    ("double", sa.Double, 0.1, pa.float64(), 0.1),
    ("numeric", sa.Numeric(12, 3), Decimal("1234.5"), pa.decimal128(38, 3), Decimal("1234.500")),
    ("text", sa.Text, "ünï", pa.string(), "ünï"),
    ("varchar", sa.String(9), "", pa.string(), ""),
    ("boolean", sa.Boolean, False, pa.bool_(), False),
    ("timestamp", sa.DateTime, AT, TIMESTAMP, START),
    ("timestamptz", AWARE, START, TIMESTAMP, START),
    ("date", sa.Date, date(2024, 12, 24), pa.date32(), date(2024, 12, 24)),
    ("bytes", sa.LargeBinary, b"abc", pa.string(), "abc"),
    ("json", sa.JSON, {"a": [1, "u"]}, pa.string(), '{"a": [1, "u"]}'),
]
POSTGRES_CARRIED: list[tuple[str, Any, Any, pa.DataType, Any]] = [
    ("uuid", postgresql.UUID, ID, pa.string(), str(ID)),
    ("jsonb", postgresql.JSONB, {"a": "ü"}, pa.string(), '{"a": "ü"}'),
    ("array", postgresql.ARRAY(sa.Text), ["x", "y"], pa.string(), '["x", "y"]'),
    ("time", sa.Time, time(10, 30), pa.string(), "10:30:00"),
    ("inet", postgresql.INET, "10.0.0.1/24", pa.string(), "10.0.0.1/24"),
    ("numeric without scale", sa.Numeric, Decimal("1.5"), pa.decimal128(38, 9), Decimal("1.5")),
]


@pytest.mark.parametrize(
    ("kind", "stored", "arrow", "expected"), [case[1:] for case in CARRIED], ids=[case[0] for case in CARRIED]
)
def test_a_carried_column_has_one_type_also_where_it_is_null_in_every_row(
    database: Database, kind: Any, stored: Any, arrow: pa.DataType, expected: Any
) -> None:
    _carry(database, kind, stored, arrow, expected)


@pytest.mark.parametrize(
    ("kind", "stored", "arrow", "expected"),
    [case[1:] for case in POSTGRES_CARRIED],
    ids=[case[0] for case in POSTGRES_CARRIED],
)
def test_a_carried_column_of_a_type_of_postgresql_alone(
    postgres_url: str, kind: Any, stored: Any, arrow: pa.DataType, expected: Any
) -> None:
    _carry(Database(postgres_url), kind, stored, arrow, expected)


UNUSUAL: list[tuple[str, str, Any]] = [
    ("time", "24:00", "24:00:00"),
    ("interval", "1 mon 2 days", "1 mon 2 days"),
    ("tsrange", "[2024-12-24,infinity)", '["2024-12-24 00:00:00",infinity)'),
    ("daterange", "[0044-03-15 BC,)", '["0044-03-15 BC",)'),
    ("datemultirange", "{[2024-12-24,infinity)}", "{[2024-12-24,infinity)}"),
    ("timestamp[]", "{infinity,NULL,2024-12-24}", '["infinity", null, "2024-12-24T00:00:00"]'),
    ("date[]", "{-infinity}", '["-infinity"]'),
    ("numeric(38,30)", "1.5", Decimal("1.5")),
    ("numeric(38,0)", "9" * 38, Decimal("9" * 38)),
    ("numeric", "12345678901234567890123456.123456789", Decimal("12345678901234567890123456.123456789")),
    ("int[]", "{1,NULL}", "[1, null]"),
    ("jsonpath", "$.a", '$."a"'),
]


@pytest.mark.parametrize(("kind", "stored", "expected"), UNUSUAL, ids=[f"{case[0]} {case[1][:9]}" for case in UNUSUAL])
def test_a_carried_value_that_python_has_not_is_read_all_the_same(
    postgres_url: str, kind: str, stored: str, expected: Any
) -> None:
    database = Database(postgres_url)
    database.run(
        f"CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP, extra {kind})",
        f"INSERT INTO generations VALUES ('a', '2024-12-24', '{stored}'), ('b', '2024-12-24', NULL)",
    )
    found = database.read(columns=["extra"])
    assert (found.table["extra"].to_pylist(), found.unreadable_values) == ([expected, None], 0)


def _carry(database: Database, kind: Any, stored: Any, arrow: pa.DataType, expected: Any) -> None:
    rows = [
        {"task_id": "a", "submitted_at": AT, "extra": stored},
        {"task_id": "b", "submitted_at": AT, "extra": sa.null()},
        {"task_id": "c", "submitted_at": AT + timedelta(days=1), "extra": sa.null()},
    ]
    database.create(generations(sa.DateTime, sa.Column("extra", kind)), rows)
    windows = [(START + timedelta(days=number), END + timedelta(days=number)) for number in (0, 1, 9)]
    found = [database.read(*window, columns=["extra"]) for window in windows]
    assert [part.table["extra"].to_pylist() for part in found] == [[expected, None], [None], []]
    assert {part.table.schema.field("extra").type for part in found} == {arrow}
    assert [part.unreadable_values for part in found] == [0, 0, 0]


def test_a_value_that_is_not_of_its_columns_type_is_null_and_counted(tmp_path: Path) -> None:
    """SQLite keeps whatever is stored, whatever the column was declared as."""
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    database.create(generations(sa.DateTime, sa.Column("n", sa.Integer), sa.Column("d", sa.Numeric(10, 2))))
    database.run(
        "INSERT INTO generations VALUES ('a', '2024-12-24 01:00:00', 'seven', 'lots')",
        "INSERT INTO generations VALUES ('b', '2024-12-24 02:00:00', 99999999999999999999, 'NaN')",
        "INSERT INTO generations VALUES ('c', '2024-12-24 03:00:00', 7, 1.25)",
        "INSERT INTO generations VALUES ('d', 'yesterday', 7, 1.25)",
    )
    found = database.read(columns=["n", "d"])
    assert found.table["n"].to_pylist() == [None, None, 7]
    assert found.table["d"].to_pylist() == [None, None, Decimal("1.25")]
    assert found.unreadable_values == 4


def test_numbers_that_arrow_cannot_hold_are_null_and_counted(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.create(generations(sa.DateTime, sa.Column("n", sa.Numeric)))
    values = ["NaN", "Infinity", "1e40", "1.25"]
    database.run(*(f"INSERT INTO generations VALUES ('{value}', '2024-12-24', '{value}')" for value in values))
    found = database.read(columns=["n"])
    assert dict(zip(*found.table.select(["task_id", "n"]).to_pydict().values(), strict=True)) == {
        "NaN": None,
        "Infinity": None,
        "1e40": None,
        "1.25": Decimal("1.25"),
    }
    assert found.unreadable_values == 3


def test_times_that_postgresql_has_and_python_has_not_are_null(postgres_url: str) -> None:
    database = Database(postgres_url)
    extras: list[sa.Column[Any]] = [sa.Column("t", sa.DateTime), sa.Column("tz", AWARE), sa.Column("d", sa.Date)]
    database.create(generations(sa.DateTime, *extras))
    for number, value in enumerate(["infinity", "-infinity", "4000-01-01 BC", "20000-01-01", "2024-12-24 UTC"]):
        database.run(f"INSERT INTO generations VALUES ('{number}', '2024-12-24', '{value}', '{value}', '{value}')")
    database.run("INSERT INTO generations VALUES ('never', 'infinity', NULL, NULL, NULL)")
    found = database.read(columns=["t", "tz", "d"]).table.to_pydict()
    assert found["task_id"] == ["0", "1", "2", "3", "4"]
    assert found["t"] == found["tz"] == [None, None, None, None, START]
    assert found["d"] == [None, None, None, None, date(2024, 12, 24)]


# Cursors.


@pytest.fixture
def large(postgres_url: str) -> Database:
    database = Database(postgres_url)
    database.run(
        "CREATE TABLE generations AS SELECT 'task-' || n AS task_id,"
        " timestamp '2024-12-24' + n * interval '100 milliseconds' AS submitted_at FROM generate_series(0, 29999) AS n"
    )
    return database


def test_rows_of_postgresql_come_through_a_cursor_on_the_server(large: Database) -> None:
    """`pg_cursors` has the cursors of the session that asks: the one of this very read, none for a plain SELECT."""
    engine = sa.create_engine(large.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_cursors").scalar_one() == 0
    assert len(large.ids(where="(SELECT count(*) FROM pg_cursors) = 1")) == 30_000


def test_rows_are_in_order_of_time_and_id_and_all_there(large: Database) -> None:
    large.run("UPDATE generations SET submitted_at = timestamp '2024-12-24' WHERE task_id < 'task-15'")
    table = large.read().table
    pairs = list(zip(table["submitted_at"].to_pylist(), table["task_id"].to_pylist(), strict=True))
    assert pairs == sorted(pairs)
    assert len(set(table["task_id"].to_pylist())) == 30_000


def test_partitions_read_side_by_side_share_the_pool(large: Database) -> None:
    source = SourceTable(url=large.url, table="generations")
    starts = [START + timedelta(minutes=5 * number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        counts = list(pool.map(lambda start: len(source.read(start, start + timedelta(minutes=5)).table), starts))
    source.close()
    assert counts == [3000] * 10 + [0] * 2
