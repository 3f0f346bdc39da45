"""The source: statements under way, and how another thread breaks them off."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa

__all__ = ["StatementCanceller"]

_WAYS = ("cancel", "interrupt")
"""What drivers call it: psycopg, psycopg2 and oracledb the first, sqlite3 and duckdb the second."""


class StatementCanceller:
    """Knows the connections of an engine that are in use. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._in_use: dict[int, Any] = {}
        self._lock = threading.Lock()
        sa.event.listen(engine, "checkout", self._begin)
        sa.event.listen(engine, "checkin", self._end)

    def cancel(self) -> None:
        """Break off every statement under way; the thread that waits for it gets the driver's error.

        A driver that knows no way is left alone. May block while the server does not answer.
        """
        with self._lock:
            connections = list(self._in_use.values())
        for connection in connections:
            ways = (getattr(connection, name, None) for name in _WAYS)
            way = next((found for found in ways if callable(found)), None)
            if way is not None:
                way()

    def _begin(self, connection: Any, record: object, proxy: object) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        with self._lock:
            self._in_use[id(connection)] = connection

    def _end(self, connection: Any, record: object) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        with self._lock:
            self._in_use.pop(id(connection), None)
