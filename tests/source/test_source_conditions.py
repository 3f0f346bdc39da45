"""LUMA_SOURCE_WHERE stands in every statement as it was written, on every database."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from luma_pipeline.source.queries import SourceQueries
from luma_pipeline.source.table import SourceTable, SourceTableError
from tests.source.databases import AT, END, START, Database, database_of, generations


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database_of(request, tmp_path)


NOT_ON_2_0 = pytest.mark.skipif(
    sa.__version__.startswith("2.0."), reason="SQLAlchemy 2.0 takes %(name)s for its own on SQLite and MySQL"
)
KINDS = {
    "backslash": r"a\:b",
    "binds": ":name %s ?",
    "colon": "a:b",
    "comment": "a -- b",
    "lines": "a\nb",
    "named": "%(name)s",
    "percent": "100%",
    "plain": "x",
    "quote": 'it\'s; "x"',
}
EVERYWHERE: list[Any] = [
    ("kind = 'a:b'", ["colon"]),
    ("kind LIKE '%100%%'", ["percent"]),
    ("kind = 'x' OR kind = 'a:b'", ["colon", "plain"]),
    ("kind = ':name %s ?'", ["binds"]),
    pytest.param("kind = '%(name)s'", ["named"], marks=NOT_ON_2_0),
    (r"kind = 'a\:b'", ["backslash"]),
    ("kind = 'it''s; \"x\"'", ["quote"]),
    ("kind = 'a\nb'", ["lines"]),
    ("kind = 'a -- b'", ["comment"]),
    ("kind = 'x' -- the plain one", ["plain"]),
    ("lower(kind) IN ('x') -- only these\n", ["plain"]),
    ("kind /* OR */ = 'x'", ["plain"]),
    ("\n\tkind = 'x'\n\tAND task_id IS NOT NULL\n", ["plain"]),
    ("generations.kind = 'x'", ["plain"]),
    ("EXISTS (SELECT 1 FROM generations AS g WHERE g.kind = generations.kind AND g.kind = 'x')", ["plain"]),
    ("  ", sorted(KINDS)),
    ("", sorted(KINDS)),
]
ON_SQLITE = [
    ("flags & 4", ["binds", "colon"]),
    ("flags", ["backslash", "binds", "colon", "named"]),
    ("NOT flags & 4", sorted({*KINDS} - {"binds", "colon"})),
    ("kind GLOB 'a:[a-c]'", ["colon"]),
]
ON_POSTGRESQL = [
    ("(flags & 4)::boolean", ["binds", "colon"]),
    ("flags::text = '4'", ["colon"]),
    ("details ? 'a' AND details @> '{\"a\": 4}'", ["colon"]),
    ("details ->> 'a' = '4' AND (details #>> '{a}')::int % 3 = 1", ["colon"]),
    ("details ?| array['b', 'a'] AND details @? '$.a ? (@ > 4)'", ["binds"]),
    ("kind ~ '^a:[a-c]$'", ["colon"]),
    ("kind = E'a\\nb'", ["lines"]),
    ('kind = $tag$it\'s; "x"$tag$', ["quote"]),
]
FLAGS = {"colon": 4, "binds": 5, "backslash": 1, "named": 2}


def _created(database: Database) -> Database:
    columns: list[sa.Column[Any]] = [sa.Column("kind", sa.Text), sa.Column("flags", sa.Integer)]
    columns.append(sa.Column("details", postgresql.JSONB().with_variant(sa.JSON(), "sqlite")))
    rows = [
        {"task_id": name, "submitted_at": AT, "kind": kind, "flags": flags, "details": {"a": flags}}
        for name, kind in KINDS.items()
        for flags in [FLAGS.get(name, 0)]
    ]
    elsewhere = {**rows[0], "task_id": "yesterday", "submitted_at": AT - timedelta(days=1), "kind": "x", "flags": 0}
    database.create(generations(sa.DateTime, *columns), [*rows, elsewhere])
    return database


def _check(database: Database, condition: str, expected: list[str]) -> None:
    """In the statement of a window, in that for repeated IDs, and in that for rows outside."""
    assert database.ids(where=condition) == expected
    database.run("INSERT INTO generations SELECT task_id, NULL, kind, flags, details FROM generations")
    source = SourceTable(url=database.url, table="generations", where=condition)
    # The row of another day has the kind of "plain", and no flag.
    assert source.rows_outside().without_time == len(expected) + ("plain" in expected)
    source.close()


@pytest.mark.parametrize(("condition", "expected"), EVERYWHERE)
def test_a_condition_stands_as_it_was_written(database: Database, condition: str, expected: list[str]) -> None:
    _check(_created(database), condition, expected)


@pytest.mark.parametrize(("condition", "expected"), ON_SQLITE)
def test_a_condition_of_sqlite(tmp_path: Path, condition: str, expected: list[str]) -> None:
    _check(_created(Database(f"sqlite:///{tmp_path / 'source.db'}")), condition, expected)


@pytest.mark.parametrize(("condition", "expected"), ON_POSTGRESQL)
def test_a_condition_of_postgresql(postgres_url: str, condition: str, expected: list[str]) -> None:
    _check(_created(Database(postgres_url)), condition, expected)


@pytest.mark.parametrize(
    "condition", ["no sql at all =", "kind = 'x';", "kind = 'x", "kind = 'x')", "-- nothing", "/*"]
)
def test_a_condition_that_is_no_sql_is_told_with_its_setting(database: Database, condition: str) -> None:
    source = SourceTable(url=_created(database).url, table="generations", where=condition)
    for read in (lambda: source.read(START, END), source.rows_outside):
        with pytest.raises(SourceTableError, match="LUMA_SOURCE_WHERE") as caught:
            read()
        # The driver's own error may repeat a secret.
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    source.close()


CONDITIONS = [
    "flags & 4",
    "kind = ':a %s ?' OR kind = '100%' -- c",
    r"a\:b = N'x'",
    pytest.param("kind = '%(b)s'", marks=NOT_ON_2_0),
]
DIALECTS = ["mssql+pyodbc", "mssql+pymssql", "oracle+oracledb", "mysql+pymysql", "postgresql+psycopg", "sqlite"]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_dialect_adds_anything_to_a_condition(name: str, condition: str) -> None:
    dialect = sa.make_url(f"{name}://").get_dialect()()
    table = generations(sa.DateTime, id_type=sa.CHAR(64))
    queries = SourceQueries(table.c.task_id, table.c.submitted_at, (), condition, ZoneInfo("UTC"))
    stands = condition.replace("%", "%%") if dialect.paramstyle in ("format", "pyformat") else condition
    statements = [
        queries.window(START, END),
        queries.same_ids_elsewhere(START, END),
        queries.times_in(START, END, 10),
        queries.times_outside(START, END, 10),
    ]
    for statement in statements:
        sql = str(statement.compile(dialect=dialect))
        # A parenthesis of ours that a comment cannot hide, and no comparison with a truth value after it.
        assert re.search(re.escape(f"({stands}\n)") + r"(?!\s*[=<>])", sql), sql
        assert sql.count(stands) == (2 if statement is statements[1] else 1)


def test_what_looks_like_a_parameter_of_sqlalchemy_is_read_or_refused(tmp_path: Path) -> None:
    """Version 2.0 reads it as its own on SQLite, and the error names the setting."""
    database = _created(Database(f"sqlite:///{tmp_path / 'source.db'}"))
    if sa.__version__.startswith("2.0."):
        with pytest.raises(SourceTableError, match="LUMA_SOURCE_WHERE"):
            database.ids(where="kind = '%(name)s'")
    else:
        assert database.ids(where="kind = '%(name)s'") == ["named"]
