"""The limit room: a table of a database with a row for each account. No other module of the room knows SQL.

A row is read, the next state is worked out here, and the row is written if nobody has written it meanwhile. So no
lock is held on the way, one statement is one transaction, and each statement is one that every database has.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.functions import FunctionElement

from luma_pipeline.errors import ConfigurationError
from luma_pipeline.limit.account import AccountState
from luma_pipeline.limit.shared import SharedLimitUnavailableError

__all__ = ["TABLE_NAME", "AccountTable", "SharedLimitSettingsError", "statements"]

TABLE_NAME = "luma_pipeline_limits"
T = TypeVar("T")

_TABLE = sa.Table(
    TABLE_NAME,
    sa.MetaData(),
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
_CONNECT_SECONDS = 5
_TRIES = 50
"""How often a row that others write at the same time is read again."""
_PG_ARGUMENTS = {
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": _CONNECT_SECONDS,
    "tcp_user_timeout": 1000 * _CONNECT_SECONDS,
    "application_name": "luma_pipeline limit",
}
"""libpq's: a server that is gone without a word is noticed after seconds, not after a quarter of an hour."""
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "psycopg": _PG_ARGUMENTS | {"prepare_threshold": None},  # a pooler in front may not know prepared statements
    "psycopg2": _PG_ARGUMENTS,
    "pymysql": {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _CONNECT_SECONDS},
    "pysqlite": {"timeout": 2.0},
}


class SharedLimitSettingsError(ConfigurationError):
    """The URL of the shared limit cannot be used. The message says what to write."""


class _Clock(FunctionElement[float]):
    """Seconds since 1970 by the database's own clock, at this moment and not at the transaction's start."""

    type = sa.Float()
    inherit_cache = True


@compiles(_Clock, "postgresql")
def _postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(_Clock, "sqlite")
def _sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Clock, "mysql")
@compiles(_Clock, "mariadb")
def _mysql(*_: Any, **__: Any) -> str:
    return "unix_timestamp(sysdate(6))"


class AccountTable:
    """The rows of a database's `luma_pipeline_limits`. Thread-safe; connects when it is first used.

    Raises:
        SharedLimitSettingsError: The text is no URL, or no database that is known here.
    """

    def __init__(self, url: str) -> None:
        self._engine, self._secrets = _open(url)
        self._is_there = False

    @property
    def definition(self) -> str:
        """The statement that makes the table."""
        return str(CreateTable(_TABLE, if_not_exists=True).compile(dialect=self._engine.dialect)).strip() + ";"

    def change(self, account: str, changed: Callable[[AccountState, float], tuple[AccountState, T]]) -> T:
        """Change the row of an account, made if there is none; returns what `changed` returns beside the new state.

        `changed` is given the state and the time by the database's clock, in seconds since 1970. It may be called
        several times.

        Raises:
            SharedLimitUnavailableError: The database cannot be reached, or has no such table and may not make it.
        """
        with self._translated(), self._engine.connect() as connection:
            if not self._is_there:
                self._make(connection)
            for tries in range(_TRIES):
                version, state, now = self._read(connection, account)
                after, result = changed(state, now)
                if self._write(connection, account, version, after):
                    return result
                time.sleep(random.uniform(0.0, 0.002 * min(tries, 10)))  # noqa: S311 - no secret
        raise SharedLimitUnavailableError("the row is written by too many runs at a time")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _read(self, connection: sa.Connection, account: str) -> tuple[int | None, AccountState, float]:
        row: Any = connection.execute(_reading(account)).one()
        now, version, state = row
        return version, AccountState.from_json(state or ""), float(now)

    def _write(self, connection: sa.Connection, account: str, version: int | None, state: AccountState) -> bool:
        """Whether nobody has written the row since it was read."""
        if version is not None:
            return connection.execute(_writing(account, version, state)).rowcount == 1
        try:
            connection.execute(_first_writing(account, state))
        except sa.exc.IntegrityError:
            return False
        return True

    def _make(self, connection: sa.Connection) -> None:
        """Make the table unless it is there. Another run may make it at the same moment."""
        refused = ""
        if not sa.inspect(connection).has_table(TABLE_NAME):
            try:
                connection.execute(CreateTable(_TABLE, if_not_exists=True))
            except sa.exc.DBAPIError as error:
                refused = self._words(error)
        found = sa.inspect(connection)
        if not found.has_table(TABLE_NAME):
            raise SharedLimitUnavailableError(
                f"the table {TABLE_NAME} is not there and cannot be made: {refused}. Let somebody who may make it run: "
                f"{_one_line(self.definition)}"
            )
        columns = {column["name"] for column in found.get_columns(TABLE_NAME)}
        if missing := [column.name for column in _TABLE.columns if column.name not in columns]:
            raise SharedLimitUnavailableError(
                f"the table {TABLE_NAME} is another's: it has no column {', '.join(missing)}. It must be as this "
                f"statement makes it: {_one_line(self.definition)}"
            )
        self._is_there = True

    def _translated(self) -> _Translated:
        return _Translated(self)

    def _words(self, error: BaseException) -> str:
        """The driver's words in one line, without the URL's secrets."""
        said = _one_line(str(getattr(error, "orig", None) or error)) or type(error).__name__
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said


def statements(account: str, version: int, state: AccountState) -> list[sa.ClauseElement]:
    """Every statement that the table is used by."""
    return [
        CreateTable(_TABLE, if_not_exists=True),
        _reading(account),
        _first_writing(account, state),
        _writing(account, version, state),
    ]


def _reading(account: str) -> sa.Select[Any]:
    """The time, and the row if there is one."""
    clock = sa.select(_Clock().label("now")).subquery()
    joined = clock.outerjoin(_TABLE, _TABLE.c.account == account)
    return sa.select(clock.c.now, _TABLE.c.version, _TABLE.c.state).select_from(joined)


def _first_writing(account: str, state: AccountState) -> sa.Insert:
    return sa.insert(_TABLE).values(account=account, version=1, state=state.to_json())


def _writing(account: str, version: int, state: AccountState) -> sa.Update:
    is_as_read = sa.and_(_TABLE.c.account == account, _TABLE.c.version == version)
    return sa.update(_TABLE).where(is_as_read).values(version=version + 1, state=state.to_json())


class _Translated:
    """Raises SharedLimitUnavailableError for what the database raises in the block, with nothing of the URL in it."""

    def __init__(self, table: AccountTable) -> None:
        self._table = table

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.SQLAlchemyError | OSError):
            self._table._is_there = False
            raise SharedLimitUnavailableError(self._table._words(error)) from None


def _open(url: str) -> tuple[sa.Engine, list[str]]:
    """An engine for the URL, and the texts that no message may show. Nothing is connected yet."""
    name = "provider.shared_limit (LUMA_SHARED_LIMIT)"
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        driver = parsed.get_dialect()
        if driver.name not in ("postgresql", "sqlite", "mysql", "mariadb") or driver.is_async:
            problem = "must be the URL of PostgreSQL, MySQL, MariaDB or SQLite with a synchronous driver"
        else:
            arguments = _ARGUMENTS.get(driver.driver, {})
            options = {name: value for name, value in arguments.items() if name not in parsed.query}
            engine = sa.create_engine(
                parsed, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=1, connect_args=options
            )
            return engine, _secrets(parsed)
    except ModuleNotFoundError as error:
        problem = f"names a database whose driver {error.name} is not installed"
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError):
        problem = "cannot be used as a database URL, such as postgresql://user:password@host/database"
    raise SharedLimitSettingsError(f"{name} {problem}; or write instance for the database of the Dagster instance")


def _secrets(url: sa.URL) -> list[str]:
    password = str(url.password or "")
    spellings = {password, quote(password), quote(password, safe=""), quote_plus(password), repr(password)[1:-1]}
    spellings |= {str(value) for name, value in url.query.items() if "pass" in name.lower()}
    return sorted(spellings - {""}, key=len, reverse=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())
