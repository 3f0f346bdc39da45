"""What can be wrong with the source database: said without its password, and told apart from what passes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from luma_pipeline.source.table import SourceTable, SourceTableError, SourceUnavailableError
from tests.postgres import new_role
from tests.source.databases import AT, END, START, Database, generations

PASSWORD = "hunter2-secret"
URLS: list[tuple[str, str, list[str]]] = [
    ("no URL", f"user {PASSWORD}", ["LUMA_SOURCE_URL"]),
    ("unknown dialect", f"oracel://user:{PASSWORD}@127.0.0.1/db", ["LUMA_SOURCE_URL"]),
    ("missing driver", f"postgresql+pg8000://user:{PASSWORD}@127.0.0.1/db", ["pg8000", "luma-pipeline[postgres]"]),
    ("bad port", f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:port/db", ["LUMA_SOURCE_URL"]),
    ("unescaped", f"postgresql+psycopg://user:p@ss/{PASSWORD}@127.0.0.1/db", ["LUMA_SOURCE_URL"]),
    ("unescaped in the host", f"postgresql+psycopg://app:s3cr@{PASSWORD}@127.0.0.1/db", ["LUMA_SOURCE_URL", "%40"]),
    ("unescaped in the query", f"postgresql+psycopg://app:s3cr@x?{PASSWORD}@127.0.0.1/db", ["LUMA_SOURCE_URL", "%40"]),
    ("without user", f"postgresql+psycopg://s3cr/{PASSWORD}@127.0.0.1/db", ["LUMA_SOURCE_URL", "%40"]),
    ("nobody there", f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/db", ["LUMA_SOURCE_URL", "refused"]),
    ("bad option", f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/db?nonsense=1", ["LUMA_SOURCE_URL"]),
    ("no folder", "sqlite:////no/such/folder/source.db", ["LUMA_SOURCE_URL", "unable to open"]),
]


@pytest.mark.parametrize(("url", "said"), [case[1:] for case in URLS], ids=[case[0] for case in URLS])
def test_a_database_that_cannot_be_reached_is_told_of_without_its_password(url: str, said: list[str]) -> None:
    source = SourceTable(url=url, table="generations")
    with pytest.raises(SourceTableError) as error:
        source.read(START, END)
    for words in said:
        assert words in str(error.value)
    chain: BaseException | None = error.value
    while chain is not None:
        assert PASSWORD not in f"{chain}{chain!r}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert PASSWORD not in repr(source)


def test_a_database_or_role_that_postgresql_does_not_have_is_named(postgres_server: sa.URL) -> None:
    for url, name in (
        (postgres_server.set(database="nothing"), "nothing"),
        (postgres_server.set(username="no"), '"no"'),
    ):
        source = SourceTable(url=url.set(password=PASSWORD).render_as_string(hide_password=False), table="generations")
        with pytest.raises(SourceTableError, match=name) as error:
            source.read(START, END)
        assert PASSWORD not in str(error.value)


@pytest.mark.parametrize("password", [PASSWORD, "p@ss:w/rd 100%", "it's"])
def test_a_password_that_the_driver_repeats_is_cut_out(postgres_url: str, password: str) -> None:
    """Here the condition makes the server repeat it, as it is and as the URL has it."""
    Database(postgres_url).create(generations(sa.DateTime))
    url = sa.make_url(postgres_url).set(password=password).render_as_string(hide_password=False)
    for spelling in (password, quote(password, safe="")):
        name = f"x {spelling} y"
        source = SourceTable(url=url, table="generations", where=f'"{name}" = 1')
        with pytest.raises(SourceTableError, match=r'column "x \*\*\* y" does not exist') as error:
            source.read(START, END)
        assert spelling not in str(error.value)
        source.close()


def test_an_at_sign_where_no_password_is_has_its_meaning(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a@b.db'}"
    Database(url).create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    assert Database(url).ids() == ["a"]


# What passes.


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[SourceTable, sqlite3.Connection]]:
    """A source that has been read, and the connection that has locked it since."""
    path = tmp_path / "source.db"
    Database(f"sqlite:///{path}").create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    source = SourceTable(url=f"sqlite:///{path}?timeout=0.05", table="generations")
    assert len(source.read(START, END).table) == 1
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield source, other
    source.close()


def test_a_locked_database_is_not_taken_for_a_wrong_setting(locked: tuple[SourceTable, sqlite3.Connection]) -> None:
    source, other = locked
    for read in (lambda: source.read(START, END), source.rows_outside):
        with pytest.raises(SourceUnavailableError, match="locked"):
            read()
    other.execute("COMMIT")
    assert len(source.read(START, END).table) == 1


def test_a_statement_that_takes_too_long_is_not_taken_for_a_wrong_setting(postgres_url: str) -> None:
    Database(postgres_url).create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    slow = SourceTable(url=postgres_url, table="generations", where="pg_sleep(60) IS NOT NULL")
    Database(postgres_url).run(f"ALTER DATABASE {sa.make_url(postgres_url).database} SET statement_timeout = '1s'")
    with pytest.raises(SourceUnavailableError, match="statement timeout"):
        slow.read(START, END)
    slow.close()


def test_a_connection_that_is_lost_is_opened_once_more(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.create(generations(sa.DateTime), [{"task_id": "a", "submitted_at": AT}])
    database.run("CREATE SEQUENCE reads")
    # A sequence does not roll back: the first row that is looked at ends the session, and later ones do not.
    once = "CASE WHEN nextval('reads') <= {} THEN pg_terminate_backend(pg_backend_pid()) ELSE true END"
    assert database.ids(where=once.format(1)) == ["a"]
    with pytest.raises(SourceUnavailableError):
        database.ids(where=once.format(10**6))


DENIED = [
    ("no permission", "REVOKE SELECT ON generations FROM {role}", "permission denied"),
    ("table gone", "DROP TABLE generations", "does not exist"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in DENIED], ids=[case[0] for case in DENIED])
def test_what_does_not_pass_is_said_to_be_a_setting(postgres_url: str, change: str, said: str) -> None:
    database = Database(postgres_url)
    database.create(generations(sa.DateTime))
    with new_role(postgres_url) as url:
        database.run(f"GRANT SELECT ON generations TO {url.username}")
        source = SourceTable(url=url.render_as_string(hide_password=False), table="generations")
        source.read(START, END)
        database.run(change.format(role=url.username))
        with pytest.raises(SourceTableError, match=said):
            source.read(START, END)
        source.close()
