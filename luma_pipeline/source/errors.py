"""What can be wrong with the source database, in our words and without its password."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import sqlalchemy as sa

from luma_pipeline.errors import ConfigurationError, PassingError

__all__ = ["ConnectionLostError", "Explainer", "SourceTableError", "SourceUnavailableError", "open_engine"]


class SourceTableError(ConfigurationError):
    """The source table cannot be read, and no second try will mend that; the message says what to check."""


class SourceUnavailableError(PassingError):
    """The source database could not be read this time: locked, too busy, timed out. A second try may find it well."""


class ConnectionLostError(SourceUnavailableError):
    """The connection was lost under a statement."""


def open_engine(url: str) -> sa.Engine:
    """An engine for the URL; nothing is connected yet.

    Raises:
        SourceTableError: It is no URL, or its driver is not installed.
    """
    try:
        return sa.create_engine(_parsed(url), pool_pre_ping=True)
    except (sa.exc.ArgumentError, ValueError):
        # Without the cause: what cannot be parsed may be the password.
        raise SourceTableError(
            "LUMA_SOURCE_URL cannot be used as a database URL, such as dialect+driver://user:password@host/database; "
            "special characters in the password are percent-encoded: %40 for @."
        ) from None
    except ModuleNotFoundError as error:
        raise SourceTableError(
            f"the driver named in LUMA_SOURCE_URL is not installed ({error.name}). For PostgreSQL: "
            "pip install 'luma-pipeline[postgres]' and a URL that starts with postgresql+psycopg://"
        ) from None


def _parsed(url: str) -> sa.URL:
    """The URL's parts; ValueError where an @ behind the credentials tells that their password has been cut in two."""
    parsed = sa.make_url(url)
    rest = url.partition("://")[2]
    if parsed.password is not None:
        rest = rest.partition(":")[2].partition("@")[2]
    elif parsed.username is not None or parsed.host is None:
        return parsed
    place, _, query = rest.partition("?")
    if "@" in place or ("@" in query and parsed.host is not None):
        raise ValueError("an @ that is not percent-encoded")
    return parsed


class Explainer:
    """Turns errors of the database into ours, and keeps what the driver says of them but for the URL's secrets."""

    def __init__(self, url: str, table: str) -> None:
        self._table = table
        self._secrets = sorted(_secrets(url), key=len, reverse=True)

    @contextmanager
    def explained(self, *, at_start: bool = False) -> Iterator[None]:
        """Raise SourceTableError or SourceUnavailableError for what the database raises in the block.

        `at_start`: nothing has been read so far, and a database that cannot be reached is more likely a wrong setting
        than one that passes.
        """
        try:
            yield
        except sa.exc.DBAPIError as error:
            said = self._without_secrets(str(error.orig))
            passes = _passes(error)
            if passes or (passes is None and not at_start):
                kind = ConnectionLostError if error.connection_invalidated else SourceUnavailableError
                raise kind(f"the source database could not read {self._table!r} this time: {said}") from None
            raise SourceTableError(
                f"the source database refused to read {self._table!r}: {said}. Check LUMA_SOURCE_URL, "
                "LUMA_SOURCE_TABLE and LUMA_SOURCE_WHERE."
            ) from None

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


_PASSWORD_OPTION = re.compile(r"(?:password|passwd|pwd)\s*=\s*(\{[^}]*\}|[^;&]+)", re.IGNORECASE)


def _secrets(url: str) -> set[str]:
    """The passwords that a URL holds, in every spelling in which a driver may repeat them."""
    found = set()
    password = sa.make_url(url).password
    if password is not None:
        found = {str(password), url.partition("://")[2].partition(":")[2].partition("@")[0]}
    query = url.partition("?")[2]
    # Options, and ODBC's whole connection strings in one of them.
    for text in (query, unquote_plus(query)):
        found.update(_PASSWORD_OPTION.findall(text))
    spellings = set()
    for text in found:
        for plain in (text, unquote(text), unquote_plus(text)):
            spellings |= {plain, quote(plain, safe=""), quote(plain), quote_plus(plain), repr(plain)[1:-1]}
    return spellings - {""}


_PASSING_STATES = re.compile(r"08...|40...|53...|57...|58...|55P03|25P03")
"""SQLSTATE of PostgreSQL: connection, rollback (deadlock), resources, intervention (statement time-out, shutdown),
system, lock not available, idle in a transaction for too long."""
_DATABASE_DROPPED = "57P04"


def _passes(error: sa.exc.DBAPIError) -> bool | None:
    """Whether a second try may not meet the error; None where that cannot be told from a setting that is wrong."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if isinstance(state, str):
        return bool(_PASSING_STATES.fullmatch(state)) and state != _DATABASE_DROPPED
    if isinstance(error.orig, sqlite3.Error):
        # Python 3.10 has no codes of SQLite's errors.
        if re.search("unable to open", str(error.orig)):
            return None
        return bool(re.search("locked|busy|disk I/O error|interrupted", str(error.orig)))
    if error.connection_invalidated or isinstance(error, sa.exc.OperationalError):
        return None
    return False
