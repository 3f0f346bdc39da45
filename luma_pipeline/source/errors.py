"""The source room: what can be wrong with the source database, said without the secrets of its URL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import sqlalchemy as sa

from luma_pipeline.errors import ConfigurationError, PassingError

__all__ = ["ConnectionLostError", "ErrorTranslator", "SourceTableError", "SourceUnavailableError"]


class SourceTableError(ConfigurationError):
    """The source table cannot be read, and another try fails alike. The message says what to check."""


class SourceUnavailableError(PassingError):
    """The source database could not be read this time: locked, too busy, timed out. Another try may succeed."""


class ConnectionLostError(SourceUnavailableError):
    """The connection was lost during a statement."""


class ErrorTranslator:
    """Turns errors of the database into ours. The driver's words are kept, the URL's secrets are not.

    Args:
        table: The table as the settings name it.
        secrets: Texts to cut out of the driver's words.
        to_check: The settings that a refusal may be about.
    """

    def __init__(
        self,
        table: str,
        secrets: Iterable[str],
        to_check: str = "LUMA_SOURCE_URL, LUMA_SOURCE_TABLE and LUMA_SOURCE_WHERE",
    ) -> None:
        self._table = table
        self._to_check = to_check
        self._secrets = sorted(secrets, key=len, reverse=True)

    @contextmanager
    def translated(self, *, at_start: bool = False) -> Iterator[None]:
        """Raise SourceTableError or SourceUnavailableError for what the database raises in the block.

        `at_start`: nothing has been read so far, so a database that cannot be reached is likely a wrong setting.
        """
        try:
            yield
        except sa.exc.DBAPIError as error:
            translated: SourceTableError | SourceUnavailableError = self._translation(error, at_start)
        except sa.exc.StatementError as error:
            # SQLAlchemy 2.0 takes %(name)s in a condition for a parameter of its own.
            translated = self._refused(str(error.orig))
        else:
            return
        _raise_without_context(translated)

    @contextmanager
    def translated_options(self) -> Iterator[None]:
        """Raise SourceTableError for an option of the URL that the driver does not take, besides `translated`."""
        try:
            with self.translated(at_start=True):
                yield
        except (TypeError, ValueError, sa.exc.ArgumentError) as error:
            said = self._without_secrets(str(error))
        else:
            return
        _raise_without_context(SourceTableError(f"the driver does not take an option of LUMA_SOURCE_URL: {said}"))

    def _translation(self, error: sa.exc.DBAPIError, at_start: bool) -> SourceTableError | SourceUnavailableError:
        said = self._without_secrets(str(error.orig))
        passes = _passes(error)
        if passes or (passes is None and not at_start):
            kind = ConnectionLostError if error.connection_invalidated else SourceUnavailableError
            return kind(f"the source database could not read {self._table!r} this time: {said}")
        if "Could not decode to UTF-8" in said:
            return SourceTableError(
                f"a text of {self._table!r} is not UTF-8: {said}. Correct it in the source table, or leave the row out "
                "with LUMA_SOURCE_WHERE."
            )
        return self._refused(said)

    def _refused(self, said: str) -> SourceTableError:
        return SourceTableError(
            f"the source database refused to read {self._table!r}: {self._without_secrets(said)}. "
            f"Check {self._to_check}."
        )

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _raise_without_context(error: Exception) -> NoReturn:
    """Raise an error that does not lead to the one in whose handling it is raised: a driver's may hold the password."""
    try:
        raise error
    except type(error):
        error.__context__ = None
        raise


_PASSING_STATES = re.compile(r"08...|40...|53...|57...|58...|55P03|25P03")
"""SQLSTATE of PostgreSQL: connection, rollback (deadlock), resources, intervention (statement time-out, shutdown),
system, lock not available, idle in a transaction for too long."""
_DATABASE_DROPPED = "57P04"


def _passes(error: sa.exc.DBAPIError) -> bool | None:
    """Whether another try may not meet the error; None where it may be a wrong setting as well."""
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
