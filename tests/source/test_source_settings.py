"""Settings of the source: URLs, zones and column names that cannot be used, told with what to write instead."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luma_pipeline.source.table import SourceTable, SourceTableError
from luma_pipeline.source.url import open_engine
from tests.source.databases import AT, END, START, Database, generations

SECRET = "hunter2-secret"
URLS: list[tuple[str, list[str]]] = [
    ("postgres://app:{}@h/db", ["postgres://", "postgresql+psycopg://", "luma-pipeline[postgres]"]),
    ("postgres+psycopg://app:{}@h/db", ["postgresql+psycopg://"]),
    ("postgresql+pg8000://app:{}@h/db", ["pg8000", "postgresql+psycopg://"]),
    ("PostgreSQL://app:{}@h/db", ["postgresql+psycopg://"]),
    ("jdbc:postgresql://app:{}@h/db", ["postgresql+psycopg://"]),
    ("postgresql+psycopg3://app:{}@h/db", ["postgresql+psycopg://"]),
    ("postgresql+psycopg_async://app:{}@h/db", ["asynchronous", "postgresql+psycopg://"]),
    ("postgresql+asyncpg://app:{}@h/db", ["asyncpg", "postgresql+psycopg://"]),
    ("pgsql://app:{}@h/db", ["postgresql+psycopg://"]),
    ("mysql://app:{}@h/db", ["mysql+pymysql://", "pymysql"]),
    ("mysql+mysqldb://app:{}@h/db", ["mysql+pymysql://"]),
    ("mariadb://app:{}@h/db", ["mariadb+pymysql://"]),
    ("mssql://app:{}@h/db", ["pyodbc", "mssql+pyodbc://"]),
    ("sqlserver://app:{}@h/db", ["mssql+pyodbc://"]),
    ("oracle+oracledb://app:{}@h/db", ["oracledb"]),
    ("sqlite3:///x.db?password={}", ["sqlite:////"]),
    ("snowflake://app:{}@h/db", ["snowflake://"]),
    ("app:{}@h/db", ["dialect+driver://"]),
    ("{}", ["dialect+driver://"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?autocommit=true", ["autocommit", "leave the option out"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?row_factory=dict_row", ["row_factory"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?prepare_threshold=often", ["prepare_threshold", "None"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?prepare_threshold=-1", ["prepare_threshold"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?prepare_threshold=1&prepare_threshold=2", ["prepare_threshold"]),
    ("postgresql+psycopg://app:{}@127.0.0.1:1/db?connect_timeout=soon", ["connect_timeout"]),
    ("postgresql+psycopg://app@127.0.0.1:1/db?sslpassword={}&nonsense=1", ["nonsense"]),
    ("sqlite:///x.db?detect_types=many&token={}", ["LUMA_SOURCE_URL"]),
]


def test_a_postgresql_url_without_a_driver_takes_the_one_that_the_extra_installs() -> None:
    """Also with SQLAlchemy 2.0, whose own default is psycopg2: the lowest versions are tested too."""
    engine = open_engine("postgresql://app@h/db?connect_timeout=7")
    assert (engine.driver, engine.url.query["connect_timeout"]) == ("psycopg", "7")
    with pytest.raises(SourceTableError, match="prepare_threshold"):
        open_engine("postgresql://h/db?prepare_threshold=often")


@pytest.mark.parametrize(("url", "words"), URLS)
def test_a_url_that_cannot_be_used_is_told_with_what_to_write_and_no_secret(url: str, words: list[str]) -> None:
    url = url.format(SECRET)
    source = SourceTable(url=url, table="generations")
    with pytest.raises(SourceTableError) as caught:
        source.read(START, END)
    source.close()
    for word in ["LUMA_SOURCE_URL", *words]:
        assert word in str(caught.value)
    _check_no_secret(caught.value)
    assert SECRET not in repr(source)


def _check_no_secret(error: BaseException) -> None:
    """Not in what the error leads to either, shown or not."""
    chain: list[BaseException | None] = [error]
    while chain:
        at = chain.pop()
        if at is not None:
            assert SECRET not in f"{at}{at!r}{at.args}"
            chain += [at.__cause__, at.__context__]


def test_an_option_that_the_driver_refuses_as_python_does_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do PyMySQL and others, which take options as arguments of a function."""

    def connect(*_: object, **__: object) -> None:
        raise TypeError(f"connect() got an unexpected keyword argument 'nonsense', beside {SECRET}")

    monkeypatch.setattr("sqlite3.dbapi2.connect", connect)
    source = SourceTable(url=f"sqlite:///x.db?token={SECRET}", table="generations")
    with source, pytest.raises(SourceTableError, match=r"an option of LUMA_SOURCE_URL: .*'nonsense'") as caught:
        source.read(START, END)
    _check_no_secret(caught.value)


@pytest.mark.parametrize("name", ["postgresql", "mysql", "mariadb", "mssql", "oracle"])
def test_the_driver_of_each_advice_is_one_of_the_dialect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2", "pymysql", "MySQLdb", "pyodbc", "oracledb", "cx_Oracle"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceTableError) as caught:
        open_engine(f"{name}://h/db")
    start = str(caught.value).rpartition("Write ")[2].partition("://")[0]
    assert sa.make_url(f"{start}://").get_dialect().driver == start.partition("+")[2]


THRESHOLDS = [("0", 0), ("5", 5), ("None", None), ("none", None)]


@pytest.mark.parametrize(("text", "value"), THRESHOLDS)
def test_options_that_psycopg_does_not_take_as_text_are_converted(
    postgres_url: str, text: str, value: int | None
) -> None:
    Database(postgres_url).create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    separator = "&" if "?" in postgres_url else "?"
    url = f"{postgres_url}{separator}prepare_threshold={text}&connect_timeout=7&autocommit=false&application_name=luma"
    assert Database(url).ids(where="current_setting('application_name') = 'luma'") == ["a"]
    engine = open_engine(url)
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert (driver.prepare_threshold, driver.info.get_parameters()["connect_timeout"]) == (value, "7")
    engine.dispose()


# Zones.

ZONES = [
    ("Europe/Berln", "Europe/Berlin"),
    ("europe/berlin", "Europe/Berlin"),
    ("Berlin", "Europe/Berlin"),
    ("new_york", "America/New_York"),
    ("utc", "UTC"),
    (" UTC", "UTC"),
    ("Europe", "Europe/"),
    ("", "such as Europe/Berlin"),
    ("../etc/passwd", "such as"),
    ("/etc/passwd", ""),
    ("Mars/Olympus", ""),
    ("Europe/Berlin\0", ""),
    ("x" * 5000, ""),
    ("+02:00", ""),
]


@pytest.mark.parametrize(("zone", "near"), ZONES, ids=[str(number) for number in range(len(ZONES))])
def test_a_zone_that_there_is_not_is_told_with_its_setting_and_the_nearest(
    tmp_path: Path, zone: str, near: str
) -> None:
    url = f"sqlite:///{tmp_path / 'source.db'}"
    Database(url).create(generations(sa.DateTime))
    with pytest.raises(SourceTableError, match="LUMA_SOURCE_TIMEZONE") as caught:
        Database(url).read(timezone=zone)
    assert near in str(caught.value)
    assert len(str(caught.value)) < 300


# Names of carried columns.

NAMES = ["date", "Date", "DATE", "hour", "week", "Month", "task_id", "TASK_ID", "submitted_at", "Submitted_At"]


@pytest.mark.parametrize("name", NAMES)
def test_a_carried_column_with_the_name_of_another_or_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    database.run('CREATE TABLE generations (task_id TEXT, submitted_at TEXT, "date", "hour", "week", "month")')
    source = SourceTable(url=database.url, table="generations", columns=[name])
    for read in (lambda: source.read(START, END), source.rows_outside):
        with pytest.raises(SourceTableError, match=f"'{name}'.*LUMA_SOURCE_COLUMNS"):
            read()
    source.close()


@pytest.mark.parametrize("names", [["kind", "kind"], ["kind", "Kind"], ["STRASSE", "x", "straße"]])
def test_carried_columns_that_differ_in_capitals_alone_are_refused(postgres_url: str, names: list[str]) -> None:
    database = Database(postgres_url)
    database.create(generations(sa.DateTime, *(sa.Column(name, sa.Text) for name in dict.fromkeys(names))))
    with pytest.raises(SourceTableError, match=r"LUMA_SOURCE_COLUMNS.*twice"):
        database.read(columns=names)


def test_names_that_only_look_like_those_of_folders_are_carried(tmp_path: Path) -> None:
    names = ["_date", "date_", "day", "year", "created date", "_task_id", "submitted at"]
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    columns = [sa.Column(name, sa.Integer) for name in names]
    row = {"task_id": "a", "submitted_at": AT, **dict.fromkeys(names, 7)}
    database.create(generations(sa.DateTime, *columns), [row])
    assert database.read(columns=names).table.column_names == ["task_id", "submitted_at", *names]


def test_the_source_columns_of_id_and_time_may_have_any_name(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    database.run(
        "CREATE TABLE generations (date TEXT, hour TEXT)", "INSERT INTO generations VALUES ('a', '2024-12-24')"
    )
    assert database.ids(id_column="date", time_column="hour") == ["a"]
