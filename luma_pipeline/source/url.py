"""The source room: the database URL, from its text to an engine, and the secrets that it holds."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import sqlalchemy as sa

from luma_pipeline.source.errors import SourceTableError

__all__ = ["SourceAddress", "address_of", "open_engine", "secrets_of"]

_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "luma-pipeline[postgres]"),
    "mysql": ("mysql+pymysql", "pymysql"),
    "mariadb": ("mariadb+pymysql", "pymysql"),
    "mssql": ("mssql+pyodbc", "pyodbc"),
    "oracle": ("oracle+oracledb", "oracledb"),
}
"""For each dialect a synchronous driver: how the URL begins, and the package to install."""
_OTHER_NAMES = {"pg": "postgresql", "pgsql": "postgresql", "psql": "postgresql", "sqlserver": "mssql"}
_FORM = "dialect+driver://user:password@host/database"


def open_engine(url: str) -> sa.Engine:
    """An engine for the URL; nothing is connected yet.

    Raises:
        SourceTableError: The text is no URL, the dialect is unknown, the driver is not installed or cannot be used, or
            an option has a wrong value. The error has no cause: a text that cannot be parsed may be the password.
    """
    try:
        parsed, arguments = _with_typed_options(_with_driver(_parsed(url)))
        engine = sa.create_engine(parsed, pool_pre_ping=True, connect_args=arguments)
    except sa.exc.NoSuchModuleError:
        problem = f"LUMA_SOURCE_URL begins with {_scheme(url)}://, a dialect that SQLAlchemy does not know"
    except (sa.exc.ArgumentError, ValueError):
        problem = (
            f"LUMA_SOURCE_URL cannot be used as a database URL, such as {_FORM}; special characters in the password "
            "are percent-encoded: %40 for @"
        )
    except ModuleNotFoundError as error:
        problem = f"LUMA_SOURCE_URL begins with {_scheme(url)}://, whose driver {error.name} is not installed"
    else:
        if not engine.dialect.is_async:
            _name_types(engine.dialect)
            return engine
        problem = f"LUMA_SOURCE_URL begins with {_scheme(url)}://, an asynchronous driver, which cannot be used here"
    raise SourceTableError(problem + _advice(url))


def _name_types(dialect: Any) -> None:
    """Let reflection know `bpchar`, which CHAR of no certain length is called: coalesce(), max() and UNION make it."""
    if dialect.name == "postgresql":
        dialect.ischema_names = {**dialect.ischema_names, "bpchar": sa.CHAR}


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _advice(url: str) -> str:
    """Which beginning of the URL to write instead, where the dialect can be told."""
    word = re.split(r"[:+]", _scheme(url).lower().removeprefix("jdbc:"))[0]
    near = [_OTHER_NAMES.get(word, word), *difflib.get_close_matches(word, [*_DRIVERS, "sqlite"], n=1, cutoff=0.7)]
    for dialect in near:
        if dialect in _DRIVERS:
            start, package = _DRIVERS[dialect]
            return f". Write {start}://... and run: pip install '{package}'"
        if dialect == "sqlite":
            return ". Write sqlite:////folder/file.db"
    return "."


def _parsed(url: str) -> sa.URL:
    """The URL's parts; ValueError where an @ after the credentials shows that their password was cut in two."""
    parsed = sa.make_url(url)
    rest = url.partition("://")[2]
    if parsed.password is not None:
        rest = rest.partition(":")[2].partition("@")[2]
    elif parsed.username is not None or parsed.host is None:
        return parsed
    location, _, query = rest.partition("?")
    if "@" in location or ("@" in query and parsed.host is not None):
        raise ValueError("an @ that is not percent-encoded")
    return parsed


def _with_driver(url: sa.URL) -> sa.URL:
    """A URL that begins with postgresql:// takes psycopg, where it is installed: SQLAlchemy 2.0 would take psycopg2."""
    is_bare = url.drivername == "postgresql" and find_spec("psycopg") is not None
    return url.set(drivername="postgresql+psycopg") if is_bare else url


_FALSE = ("false", "0", "no", "off")
_OF_PYTHON = ("context", "cursor_factory", "row_factory")


def _with_typed_options(url: sa.URL) -> tuple[sa.URL, dict[str, Any]]:
    """The URL without the options that psycopg takes as Python values, and these options converted.

    Every option of a URL is text. libpq reads its own options as text, psycopg does not read its own.
    """
    if url.get_driver_name() != "psycopg":
        return url, {}
    arguments: dict[str, Any] = {}
    threshold = url.query.get("prepare_threshold")
    if threshold is not None:
        arguments["prepare_threshold"] = _prepare_threshold(threshold)
    autocommit = url.query.get("autocommit", "false")
    if str(autocommit).lower() not in _FALSE:
        raise SourceTableError(
            "LUMA_SOURCE_URL has the option autocommit, but rows are read through a cursor of the server, "
            "which needs a transaction: leave the option out."
        )
    for name in _OF_PYTHON:
        if name in url.query:
            raise SourceTableError(f"LUMA_SOURCE_URL has the option {name}, which a URL cannot hold: leave it out.")
    return url.difference_update_query(["prepare_threshold", "autocommit"]), arguments


def _prepare_threshold(text: str | tuple[str, ...]) -> int | None:
    if isinstance(text, str):
        if text.strip().lower() == "none":
            return None
        if text.strip().isdecimal():
            return int(text)
    raise SourceTableError(
        "the option prepare_threshold of LUMA_SOURCE_URL must be a whole number of executions, or None for no prepared "
        "statements."
    )


_SECRET_OPTION = re.compile(
    r"(?:password|passwd|passcode|pwd|token|secret|private_key)\s*=\s*(\{[^}]*\}|[^;&]+)", re.IGNORECASE
)


def secrets_of(url: str) -> set[str]:
    """The passwords that a URL holds, in every spelling in which a driver may repeat them."""
    found = set()
    password = sa.make_url(url).password
    if password is not None:
        found = {str(password), url.partition("://")[2].partition(":")[2].partition("@")[0]}
    query = url.partition("?")[2]
    # Options, and ODBC's whole connection strings in one of them.
    for text in (query, unquote_plus(query)):
        found.update(_SECRET_OPTION.findall(text))
    spellings = set()
    for text in found:
        for plain in (text, unquote(text), unquote_plus(text)):
            spellings |= {plain, quote(plain, safe=""), quote(plain), quote_plus(plain), repr(plain)[1:-1]}
    return spellings - {""}


@dataclass(frozen=True)
class SourceAddress:
    """Where a database is, without user, password and options. `database` is None for a file."""

    dialect: str
    uri: str
    database: str | None


def address_of(url: str) -> SourceAddress | None:
    """The address of a database, to be shown to people; None for a text that is no URL.

    >>> address_of("postgresql+psycopg://me:secret@db:5432/app?sslmode=require").uri
    'postgresql://db:5432/app'
    """
    try:
        parsed = _parsed(url)
    except (sa.exc.ArgumentError, ValueError):
        return None
    dialect, database = parsed.get_backend_name(), parsed.database or ""
    host = f"[{parsed.host}]" if ":" in (parsed.host or "") else parsed.host or ""
    if set("@?;=&") & set(host + database):  # what is left of options, or of a secret that was cut in two
        return SourceAddress(dialect, f"{dialect}://", None)
    uri = f"{dialect}://{host}{f':{parsed.port}' if parsed.port else ''}{f'/{database}' if database else ''}"
    return SourceAddress(dialect, uri, database if host and database else None)
