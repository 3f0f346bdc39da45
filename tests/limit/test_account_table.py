"""The table of the accounts in real databases: written by many at once, missing, forbidden, another's, gone."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from luma_pipeline.errors import ConfigurationError
from luma_pipeline.limit import account_name
from luma_pipeline.limit.account import AccountState, Grant, Wish
from luma_pipeline.limit.account_table import (
    TABLE_NAME,
    AccountTable,
    SharedLimitSettingsError,
    statements,
)
from luma_pipeline.limit.shared import SharedLimitUnavailableError
from tests.limit.relay import Relay
from tests.postgres import new_role

ACCOUNT = account_name("api.example.com", "token")


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'limits.db'}"
    return str(request.getfixturevalue("postgres_url"))


def take(table: AccountTable, run: str, slots: int = 3) -> Grant:
    return table.change(ACCOUNT, lambda state, now: state.granted(Wish(run, 1000.0, slots=slots), now))


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_runs_that_write_at_once_never_have_one_slot(url: str) -> None:
    grants: list[Grant] = []

    def work(name: str) -> None:
        table = AccountTable(url)
        grants.extend(take(table, name) for _ in range(10))
        table.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(grants) == 40
    times = sorted(grant.first + number * grant.gap for grant in grants for number in range(grant.slots))
    assert min(later - time for time, later in pairwise(times)) > 0.0009


def test_the_time_is_the_databases(url: str) -> None:
    table = AccountTable(url)
    first, later = (table.change(ACCOUNT, lambda state, now: (state, now)) for _ in range(2))
    assert 0.0 <= later - first < 60.0
    assert first > 1_700_000_000
    table.close()


def test_nothing_of_the_token_is_in_the_row(url: str) -> None:
    table = AccountTable(url)
    account = account_name("api.example.com", "sk-secret-token")
    table.change(account, lambda state, now: state.granted(Wish("a", 1.0), now))
    table.close()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        [row] = connection.exec_driver_sql(f"SELECT * FROM {TABLE_NAME}")
    assert len(row.account) == 16
    assert "sk-" not in str(row)


def test_a_table_that_may_not_be_made_is_told_with_its_statement(postgres_url: str) -> None:
    execute(postgres_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with new_role(postgres_url) as url:
        table = AccountTable(url.render_as_string(hide_password=False))
        with pytest.raises(SharedLimitUnavailableError, match="permission denied") as told:
            take(table, "a")
        statement = str(told.value).partition("may make it run: ")[2]
        assert str(url.password) not in str(told.value)
        execute(postgres_url, statement, f"GRANT SELECT, INSERT, UPDATE ON {TABLE_NAME} TO {url.username}")
        assert take(table, "a").slots == 3
        table.close()


def test_the_table_of_another_program_is_told(url: str) -> None:
    execute(url, f"CREATE TABLE {TABLE_NAME} (account TEXT, tokens INTEGER)")
    table = AccountTable(url)
    with pytest.raises(SharedLimitUnavailableError, match=r"no column version, state.*CREATE TABLE"):
        take(table, "a")
    table.close()


def test_a_row_that_another_program_wrote_is_begun_again(url: str) -> None:
    table = AccountTable(url)
    take(table, "a")
    execute(url, f"UPDATE {TABLE_NAME} SET state = 'nonsense'")
    assert take(table, "a").runs == 1
    table.close()


def test_a_table_that_was_dropped_is_made_again(url: str) -> None:
    table = AccountTable(url)
    take(table, "a")
    execute(url, f"DROP TABLE {TABLE_NAME}")
    with pytest.raises(SharedLimitUnavailableError):
        take(table, "a")
    assert take(table, "a").slots == 3
    table.close()


def test_a_database_that_is_gone_is_told_without_the_password(postgres_url: str) -> None:
    with Relay(postgres_url) as relay:
        url = sa.make_url(relay.url).set(password="pass-word/1").render_as_string(hide_password=False)
        table = AccountTable(url)
        assert take(table, "a").slots == 3
        relay.cut()
        for _ in range(2):
            with pytest.raises(SharedLimitUnavailableError) as told:
                take(table, "a")
            assert "pass-word" not in str(told.value)
            assert told.value.__cause__ is None
        relay.mend()
        assert take(table, "a").slots == 3
        table.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "cannot be used as a database URL"),
        ("redis://host/0", "cannot be used as a database URL"),
        ("no url pass-word", "cannot be used as a database URL"),
        ("postgresql://u:pass-word@host:port/db", "cannot be used as a database URL"),
        ("postgresql+asyncpg://u:pass-word@host/db", "not installed|synchronous"),
        ("mysql+pymysql://u:pass-word@host/db", "pymysql is not installed"),
        ("mssql+pyodbc://u:pass-word@host/db", "not installed|PostgreSQL, MySQL"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(url: str, told: str) -> None:
    with pytest.raises(SharedLimitSettingsError, match=told) as error:
        AccountTable(url)
    assert isinstance(error.value, ConfigurationError)
    assert "LUMA_SHARED_LIMIT" in str(error.value)
    assert "pass-word" not in str(error.value)
    assert error.value.__cause__ is None


def test_the_statements_are_those_of_mysql_too() -> None:
    dialect = mysql.dialect()
    texts = [str(statement.compile(dialect=dialect)) for statement in statements(ACCOUNT, 1, AccountState())]
    assert any("unix_timestamp" in text for text in texts)
    assert {text.split()[0] for text in texts} == {"CREATE", "SELECT", "INSERT", "UPDATE"}
    assert not any("RETURNING" in text for text in texts)
