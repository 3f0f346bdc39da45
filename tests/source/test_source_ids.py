"""Task IDs of every type: padding, bytes, numbers; and when the database is believed that they are unique."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle

from luma_pipeline.source.columns import CarriedColumn, IdColumn
from luma_pipeline.source.table import SourceTableError
from luma_pipeline.source.times import zone_named
from tests.source.databases import AT, END, START, Database, database_of, generations

DAY = timedelta(days=1)
ONE, TWO = uuid.UUID("e70fdf3c-ce95-4dd1-a967-220ce957aff5"), uuid.UUID(int=2**127 + 255)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database_of(request, tmp_path)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'source.db'}")


def days(database: Database, *numbers: int, **settings: Any) -> list[list[str]]:
    return [database.ids(start=START + n * DAY, end=END + n * DAY, **settings) for n in numbers]


# Padding.


@pytest.mark.parametrize("kind", ["CHAR(64)", "padded", "padded_again", 'CHAR(64) COLLATE "C"'])
def test_what_postgresql_adds_to_short_texts_is_cut_off(postgres_url: str, kind: str) -> None:
    database = Database(postgres_url)
    database.run(
        "CREATE DOMAIN padded AS CHAR(20)",
        "CREATE DOMAIN padded_again AS padded CHECK (value <> '')",
        f"CREATE TABLE generations (task_id {kind}, submitted_at TIMESTAMP, a {kind}, b VARCHAR(9), c CHAR(3)[])",
        "INSERT INTO generations VALUES ('abc-1', '2024-12-24', 'x', 'y ', '{z,zz}')",
        "INSERT INTO generations VALUES ('  b', '2024-12-24', NULL, '', NULL)",
        "INSERT INTO generations VALUES ('abc-1', '2024-12-30', 'x', 'y ')",
    )
    found = database.read(columns=["a", "b", "c"])
    assert found.table["task_id"].to_pylist() == ["  b", "abc-1"]
    assert found.table["a"].to_pylist() == [None, "x"]
    assert found.table["b"].to_pylist() == ["", "y "]
    assert found.table["c"].to_pylist() == [None, '["z", "zz"]']
    assert days(database, 6) == [[]]


VIEWS = [
    "SELECT task_id, submitted_at, array_agg(task_id) AS c FROM g GROUP BY 1, 2",
    "SELECT coalesce(task_id, 'none'::CHAR(9)) AS task_id, submitted_at, ARRAY[task_id]::padded[] AS c FROM g",
    "SELECT max(task_id) AS task_id, submitted_at, array_agg(max(task_id)) OVER () AS c FROM g GROUP BY 2",
    "SELECT task_id, submitted_at, '{a}'::CHAR(5)[] AS c FROM g UNION SELECT 'a'::CHAR(20), '2024-12-25', NULL FROM g",
]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
@pytest.mark.parametrize("query", VIEWS, ids=["column", "coalesce", "max", "union"])
def test_what_a_view_makes_of_a_padded_column_is_padded(postgres_url: str, query: str, kind: str) -> None:
    """PostgreSQL calls it bpchar, which has no length."""
    database = Database(postgres_url)
    database.run(
        "CREATE DOMAIN padded AS CHAR(20)",
        "CREATE TABLE g (task_id CHAR(8), submitted_at TIMESTAMP)",
        "INSERT INTO g VALUES ('a', '2024-12-24')",
        f"CREATE {kind} generations AS {query}",
    )
    found = database.read(columns=["c"]).table
    assert (found["task_id"].to_pylist(), found["c"].to_pylist()) == (["a"], ['["a"]'])


def test_blanks_that_no_type_has_added_stay(database: Database) -> None:
    """SQLite fills up nothing, whatever the type is called."""
    kind = sa.Text if database.is_postgres else sa.CHAR(9)
    rows = [{"task_id": task_id, "submitted_at": AT, "extra": "x "} for task_id in ("a", "a ", " a")]
    database.create(generations(sa.DateTime, sa.Column("extra", kind), id_type=kind), rows)
    found = database.read(columns=["extra"]).table
    assert sorted(found["task_id"].to_pylist()) == [" a", "a", "a "]
    assert set(found["extra"].to_pylist()) == {"x "}


PADDED = [sa.CHAR(5), sa.NCHAR(5), mysql.CHAR(5), mssql.NCHAR(5), oracle.NCHAR(5)]


@pytest.mark.parametrize("kind", [*PADDED, sa.String(5), mysql.VARCHAR(5)], ids=repr)
def test_the_type_tells_whether_blanks_are_padding(kind: Any) -> None:
    column: sa.Column[Any] = sa.Column("x", kind)
    expected = "ab" if kind in PADDED else "ab   "
    assert IdColumn(column).texts(["ab   ", None]).to_pylist() == [expected, None]
    assert CarriedColumn(column, zone_named("UTC")).read(["ab   "])[0].to_pylist() == [expected]


# Bytes and other values.


@pytest.mark.parametrize("type_name", ["BLOB", "BINARY(16)", "TEXT", ""])
def test_sixteen_bytes_are_a_uuid(database: Database, type_name: str) -> None:
    kind = "BYTEA" if database.is_postgres else type_name
    database.run(f"CREATE TABLE generations (task_id {kind}, submitted_at TIMESTAMP)")
    literal = "'\\x{}'" if database.is_postgres else "x'{}'"
    for value, day in ((ONE, 24), (TWO, 24), (ONE, 25)):
        database.run(f"INSERT INTO generations VALUES ({literal.format(value.hex)}, '2024-12-{day} 10:00:00')")
    assert days(database, 0, 1) == [sorted([str(ONE), str(TWO)]), []]


BYTES = [b"", b"e70fdf3c", bytes(15), bytes(17), b"\xff\xfe", str(ONE).encode(), b"a" * 1000]


@pytest.mark.parametrize("stored", BYTES, ids=lambda stored: f"{len(stored)} bytes")
def test_other_bytes_stop_the_run_with_what_to_do(database: Database, stored: bytes) -> None:
    rows = [{"task_id": task_id, "submitted_at": AT} for task_id in (ONE.bytes, stored)]
    database.create(generations(sa.DateTime, id_type=sa.LargeBinary), rows)
    with pytest.raises(SourceTableError, match=f"'task_id'.*{len(stored)} bytes.*view.*LUMA_SOURCE_WHERE") as error:
        database.read()
    assert len(str(error.value)) < 500
    assert database.read(START + 9 * DAY, END + 9 * DAY).source_rows == 0


TEXTS: list[tuple[Any, str]] = [
    (1, "1"),
    (-1, "-1"),
    (2**63 - 1, "9223372036854775807"),
    (2**53 + 1, "9007199254740993"),
    (Decimal("1.0"), "1"),
    (Decimal("1E+20"), "100000000000000000000"),
    (Decimal("9007199254740993"), "9007199254740993"),
    (Decimal("1.50"), "1.5"),
    (Decimal("100"), "100"),
    (Decimal("-0.0"), "0"),
    (7.0, "7"),
    (0.1, "0.1"),
    (1e-7, "0.0000001"),
    (-0.0, "0"),
    (2.0**53 - 1, "9007199254740991"),
    (ONE, str(ONE)),
    (ONE.bytes, str(ONE)),
    (memoryview(ONE.bytes), str(ONE)),
    ("a\0", "a\0"),
    ("e\u0301", "e\u0301"),
    ("é", "é"),
    ("1.0", "1.0"),
    ("01", "01"),
]
NO_IDS: list[Any] = [
    2.0**53,
    1e300,
    float("nan"),
    float("inf"),
    Decimal("NaN"),
    Decimal("Infinity"),
    True,
    AT,
    AT.date(),
    {"a": 1},
    ["a"],
    b"abc",
    memoryview(b"abc"),
]


def test_every_value_has_its_text_and_two_have_two() -> None:
    column: sa.Column[Any] = sa.Column("task_id", sa.types.NullType())
    assert IdColumn(column).texts([value for value, _ in TEXTS]).to_pylist() == [text for _, text in TEXTS]


@pytest.mark.parametrize("value", NO_IDS, ids=[str(number) for number in range(len(NO_IDS))])
def test_a_value_that_is_no_id_stops_the_run(value: Any) -> None:
    with pytest.raises(SourceTableError, match="LUMA_SOURCE_ID_COLUMN"):
        IdColumn(sa.Column("task_id", sa.types.NullType())).texts(["a", value])


@pytest.mark.parametrize(
    "kind", ["JSON", "JSONB", "TEXT[]", "ids", "BOOLEAN", "TIMESTAMP", "DATE", "INTERVAL", "int4range"]
)
def test_a_type_that_holds_no_ids_is_refused(postgres_url: str, kind: str) -> None:
    database = Database(postgres_url)
    values = {"TEXT[]": "{a}", "ids": "{a}", "BOOLEAN": "t", "INTERVAL": "1 day", "JSON": '"a"', "JSONB": '"a"'}
    value = values.get(kind, "[1,2)" if kind == "int4range" else "2024-12-24")
    database.run(
        "CREATE DOMAIN ids AS TEXT[]",
        f"CREATE TABLE generations (task_id {kind}, submitted_at TIMESTAMP)",
        f"INSERT INTO generations VALUES ('{value}', '2024-12-24')",
    )
    with pytest.raises(SourceTableError, match="LUMA_SOURCE_ID_COLUMN"):
        database.read()


@pytest.mark.parametrize(
    "kind",
    [
        "JSONB",
        "TIMESTAMP[]",
        "whens",
        "BOOLEAN",
        "TIME",
        "INTERVAL",
        "UUID",
        "BYTEA",
        "mood",
        "INET",
        "tsrange",
        "money",
    ],
)
def test_a_type_that_holds_no_times_is_refused(postgres_url: str, kind: str) -> None:
    database = Database(postgres_url)
    database.run(
        "CREATE DOMAIN one AS TIMESTAMP",
        "CREATE DOMAIN whens AS one[]",
        "CREATE TYPE mood AS ENUM ('sad')",
        f"CREATE TABLE generations (task_id TEXT, submitted_at {kind})",
    )
    with pytest.raises(SourceTableError, match="LUMA_SOURCE_TIME_COLUMN"):
        database.read()


def test_text_of_sqlite_that_is_not_utf_8_is_told_with_what_to_do(sqlite: Database) -> None:
    sqlite.create(generations(sa.DateTime))
    sqlite.run("INSERT INTO generations VALUES (CAST(x'61ff' AS TEXT), '2024-12-24 10:00:00')")
    with pytest.raises(SourceTableError, match=r"not UTF-8.*task_id.*LUMA_SOURCE_WHERE"):
        sqlite.read()
    assert sqlite.read(where="typeof(task_id) <> 'text'").source_rows == 0


MIXED = ["1", "'1'", "1.0", f"x'{ONE.hex}'", f"'{ONE}'", "2.5", "'2.5'"]


@pytest.mark.parametrize("declared", ["", "BLOB", "PRIMARY KEY", "UNIQUE"])
def test_values_of_several_types_with_one_text_are_one_task_of_the_first_day(sqlite: Database, declared: str) -> None:
    """SQLite takes them for different, even under a unique index."""
    sqlite.run(f"CREATE TABLE generations (task_id {declared}, submitted_at TEXT)")
    for number, value in enumerate(MIXED):
        sqlite.run(f"INSERT OR IGNORE INTO generations VALUES ({value}, '2024-12-{10 + 2 * number} 10:00:00')")
    found = [ids for ids in days(sqlite, *range(-20, 5)) if ids]
    assert found == [["1"], [str(ONE)], ["2.5"]]


# Domains.

DOMAINS = [
    ("timestamptz", "2024-12-24 10:00+00"),
    ("timestamp(3)", "2024-12-24 10:00"),
    ("date", "2024-12-24"),
    ("integer", "1735034400"),
    ("numeric(20, 3)", "1735034400.25"),
    ("float8", "1735034400250"),
    ("text", "2024-12-24T10:00:00Z"),
    ("varchar(40)", "1735034400"),
    ("char(30)", "1735034400"),
]


@pytest.mark.parametrize(("kind", "stored"), DOMAINS, ids=[kind for kind, _ in DOMAINS])
def test_a_time_of_a_domain_is_one_of_the_type_under_it(postgres_url: str, kind: str, stored: str) -> None:
    database = Database(postgres_url)
    database.run(
        f"CREATE DOMAIN inner_type AS {kind}",
        "CREATE SCHEMA app",
        "CREATE DOMAIN app.\"Outer Type\" AS inner_type NOT NULL CHECK (value::text <> '')",
        'CREATE TABLE generations (task_id TEXT, submitted_at app."Outer Type")',
        f"INSERT INTO generations VALUES ('a', '{stored}')",
    )
    assert days(database, -1, 0, 1) == [[], ["a"], []]


CARRIED = [
    ("integer", "7", "int64", 7),
    ("numeric(9, 2)", "1.5", "decimal128(38, 2)", Decimal("1.50")),
    ("numeric(30, 15)", "0.000000000000001", "decimal128(38, 15)", Decimal("1E-15")),
    ("numeric", "1.5", "decimal128(38, 9)", Decimal("1.5")),
    ("boolean", "t", "bool", True),
    ("date", "2024-12-24", "date32[day]", AT.date()),
    ("timestamptz", "2024-12-24 00:00+00", "timestamp[us, tz=UTC]", START),
    ("uuid", str(ONE), "string", str(ONE)),
    ("char(9)", "ab", "string", "ab"),
    ("numeric(5, -2)", "1234", "decimal128(38, 0)", Decimal(1200)),
    ("numeric(40, 39)", "0.5", "decimal128(38, 38)", Decimal("0.5")),
    ("integer[]", "{1,2}", "string", "[1, 2]"),
]


@pytest.mark.parametrize(("kind", "stored", "arrow", "expected"), CARRIED, ids=[case[0] for case in CARRIED])
def test_a_carried_column_of_a_domain_has_the_type_under_it(
    postgres_url: str, kind: str, stored: str, arrow: str, expected: Any
) -> None:
    database = Database(postgres_url)
    database.run(
        f"CREATE DOMAIN inner_type AS {kind}",
        "CREATE DOMAIN outer_type AS inner_type",
        "CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP, extra outer_type)",
        f"INSERT INTO generations VALUES ('a', '2024-12-24', '{stored}')",
    )
    found = database.read(columns=["extra"]).table["extra"]
    assert (str(found.type), found.to_pylist()) == (arrow, [expected])


ITEMS = [
    ("integer", "{1,NULL}", "[1, null]"),
    ("char(5)", "{{a,b}}", '[["a", "b"]]'),
    ("timestamp", "{infinity}", '["infinity"]'),
    ("interval", "{1 mon}", '["1 mon"]'),
    ("text", '{"a,b"}', '["a,b"]'),
]


@pytest.mark.parametrize(("kind", "stored", "expected"), ITEMS, ids=[case[0] for case in ITEMS])
def test_an_array_of_a_domain_is_one_of_its_items(postgres_url: str, kind: str, stored: str, expected: str) -> None:
    database = Database(postgres_url)
    database.run(
        f"CREATE DOMAIN item AS {kind}",
        "CREATE DOMAIN list AS item[]",
        "CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP, a item[], b list)",
        f"INSERT INTO generations VALUES ('a', '2024-12-24', '{stored}', '{stored}')",
    )
    found = database.read(columns=["a", "b"]).table
    assert found["a"].to_pylist() == found["b"].to_pylist() == [expected]


@pytest.mark.parametrize("kind", ["uuid", "bigint", "numeric", "bytea", "char(40)", "varchar(40)", "choice"])
def test_an_id_of_a_domain_is_one_of_the_type_under_it(postgres_url: str, kind: str) -> None:
    database = Database(postgres_url)
    stored = {"uuid": str(ONE), "bytea": f"\\x{ONE.hex}"}.get(kind, "4711")
    database.run(
        "CREATE TYPE choice AS ENUM ('4711')",
        f"CREATE DOMAIN id_type AS {kind}",
        "CREATE TABLE generations (task_id id_type, submitted_at TIMESTAMP)",
        f"INSERT INTO generations VALUES ('{stored}', '2024-12-24'), ('{stored}', '2024-12-30')",
    )
    assert days(database, 0, 6) == [[str(ONE) if kind in ("uuid", "bytea") else "4711"], []]


# Uniqueness.

_ROWS = "INSERT INTO generations (task_id, submitted_at) VALUES ('a', '2024-12-24'), ('b', '2024-12-24')"
_TABLE = "CREATE TABLE generations (task_id VARCHAR(40), submitted_at TIMESTAMP, n INT)"
ENFORCED: list[tuple[str, Sequence[str], bool]] = [
    ("covering index", [_TABLE, "CREATE UNIQUE INDEX u ON generations (task_id) INCLUDE (n)"], True),
    ("index of two columns", [_TABLE, "CREATE UNIQUE INDEX u ON generations (task_id, n)"], False),
    ("partial index", [_TABLE, "CREATE UNIQUE INDEX u ON generations (task_id) WHERE n IS NULL"], False),
    ("index of an expression", [_TABLE, "CREATE UNIQUE INDEX u ON generations ((task_id || ''))"], False),
    ("nulls not distinct", [_TABLE, "CREATE UNIQUE INDEX u ON generations (task_id) NULLS NOT DISTINCT"], True),
    ("deferred", [_TABLE, "ALTER TABLE generations ADD UNIQUE (task_id) DEFERRABLE INITIALLY DEFERRED"], True),
    (
        "unlogged",
        [_TABLE.replace("TABLE", "UNLOGGED TABLE", 1), "CREATE UNIQUE INDEX u ON generations (task_id)"],
        True,
    ),
    (
        "exclusion",
        [_TABLE, "ALTER TABLE generations ADD EXCLUDE USING btree (task_id WITH =)"],
        False,
    ),
    (
        "inherited",
        [_TABLE, "ALTER TABLE generations ADD PRIMARY KEY (task_id)", "CREATE TABLE more () INHERITS (generations)"],
        False,
    ),
    (
        "partitions by ID",
        [
            f"{_TABLE} PARTITION BY HASH (task_id)",
            "CREATE TABLE one PARTITION OF generations FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "ALTER TABLE generations ADD PRIMARY KEY (task_id)",
        ],
        True,
    ),
    (
        "partitions by time",
        [
            f"{_TABLE} PARTITION BY RANGE (submitted_at)",
            "CREATE TABLE one PARTITION OF generations DEFAULT",
            "CREATE UNIQUE INDEX u ON one (task_id)",
        ],
        False,
    ),
    (
        "another schema's table",
        [
            _TABLE,
            "CREATE SCHEMA other",
            "CREATE TABLE other.generations (task_id VARCHAR(40) PRIMARY KEY)",
        ],
        False,
    ),
]


def _asks_for_repeats(database: Database, **settings: Any) -> bool:
    """Whether a window with tasks costs a second statement."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert len(database.read(**settings).table)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return any(" IN (SELECT" in statement for statement in seen)


@pytest.mark.parametrize(("schema", "is_enforced"), [case[1:] for case in ENFORCED], ids=[case[0] for case in ENFORCED])
def test_postgresql_is_believed_where_it_enforces_unique_ids(
    postgres_url: str, schema: Sequence[str], is_enforced: bool
) -> None:
    database = Database(postgres_url)
    database.run(*schema, _ROWS)
    assert _asks_for_repeats(database) is not is_enforced


def test_an_index_that_postgresql_could_not_build_is_not_believed(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.run(_TABLE, _ROWS, "INSERT INTO generations (task_id, submitted_at) VALUES ('a', '2024-12-30')")
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.exec_driver_sql("CREATE UNIQUE INDEX CONCURRENTLY u ON generations (task_id)")
    assert _asks_for_repeats(database)
    assert days(database, 0, 6) == [["a", "b"], []]


def test_a_row_of_a_child_table_is_not_taken_for_unique(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.run(_TABLE, "ALTER TABLE generations ADD PRIMARY KEY (task_id)", _ROWS)
    database.run("CREATE TABLE more () INHERITS (generations)", "INSERT INTO more VALUES ('a', '2024-12-30')")
    assert days(database, 0, 6) == [["a", "b"], []]


def test_names_that_need_quotes_are_found_in_the_catalog(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.run(
        'CREATE SCHEMA "My ""App"" 100%%"',
        'CREATE TABLE "My ""App"" 100%%"."Gen%%s" ("Task" TEXT PRIMARY KEY, submitted_at TIMESTAMP)',
        'INSERT INTO "My ""App"" 100%%"."Gen%%s" VALUES (\'a\', \'2024-12-24\')',
    )
    assert not _asks_for_repeats(database, table='My "App" 100%.Gen%s', id_column="Task")


ON_SQLITE = [
    ("integer key", ["CREATE TABLE generations (task_id INTEGER PRIMARY KEY, submitted_at TEXT)"], True),
    ("text key", ["CREATE TABLE generations (task_id TEXT PRIMARY KEY, submitted_at TEXT) WITHOUT ROWID"], True),
    ("without a type", ["CREATE TABLE generations (task_id PRIMARY KEY, submitted_at TEXT)"], False),
    ("nocase", ["CREATE TABLE generations (task_id TEXT COLLATE NOCASE UNIQUE, submitted_at TEXT)"], True),
    (
        "partial",
        [
            "CREATE TABLE generations (task_id TEXT, submitted_at TEXT)",
            "CREATE UNIQUE INDEX u ON generations (task_id) WHERE task_id > ''",
        ],
        False,
    ),
]


@pytest.mark.parametrize(
    ("schema", "is_enforced"), [case[1:] for case in ON_SQLITE], ids=[case[0] for case in ON_SQLITE]
)
def test_sqlite_is_believed_where_it_enforces_unique_ids(
    sqlite: Database, schema: Sequence[str], is_enforced: bool
) -> None:
    sqlite.run(*schema, "INSERT INTO generations VALUES (7, '2024-12-24')")
    assert _asks_for_repeats(sqlite) is not is_enforced


def test_a_view_over_a_table_with_unique_ids_is_asked(database: Database) -> None:
    database.run("CREATE TABLE t (task_id VARCHAR(40) PRIMARY KEY, submitted_at TIMESTAMP)")
    database.run("INSERT INTO t VALUES ('a', '2024-12-24 00:00:00')")
    database.run("CREATE VIEW generations AS SELECT * FROM t UNION ALL SELECT * FROM t")
    assert _asks_for_repeats(database)
