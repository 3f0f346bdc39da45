"""A deployment on a world of its own, and what the tests of every kind of deployment do with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.deploy.containers import Containers, postgres_environment
from tests.e2e.graphql import Run
from tests.waiting import wait_until
from tests.world import World, running_world

LOGS_BUCKET = "dagster-logs"
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")


@dataclass
class Deployment:
    """What `docker compose up` starts, on a world of its own."""

    world: World
    containers: Containers
    database: str

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The instance as a container has it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.containers.environment.items():
                patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(self.containers.home)) as instance:
                yield instance

    def ask_postgres(self, query: str) -> Any:
        """The one value that a query of Dagster's own database has."""
        engine = sa.create_engine(self.database, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar_one()

    def begin(self, first: str, days: int, tasks: int = 8, *, seconds_an_answer: float = 0.0) -> str:
        """Begin one run over days of new tasks; returns its ID."""
        start = date.fromisoformat(first)
        keys = [(start + timedelta(days=number)).isoformat() for number in range(days)]
        self.world.submit(*((f"{key}-{n}", f"{key} {n:02}:00:00") for key in keys for n in range(tasks)))
        self.world.provider.latency_seconds = seconds_an_answer
        return self.containers.client.launch_run(ASSETS, partition_range=(keys[0], keys[-1]))

    def wait_for(self, run_id: str, *statuses: str, timeout: float = 120) -> Run:
        return wait_until(
            lambda: self.containers.client.run(run_id),
            lambda run: run.status in statuses,
            timeout=timeout,
            or_tell=self.containers.log_tail,
        )

    def wait_until_asked(self) -> None:
        """Wait until a run asks the provider."""
        self.world.provider.clear_log()
        wait_until(lambda: len(self.world.provider.requests), lambda count: count > 0, timeout=120)

    def retry_of(self, run_id: str) -> str:
        """The run that Dagster started in the place of a killed one."""
        found = wait_until(
            lambda: self.containers.client.runs(tags={"dagster/parent_run_id": run_id}),
            lambda runs: bool(runs),
            timeout=120,
            or_tell=self.containers.log_tail,
        )
        return found[0].run_id


@contextmanager
def running_deployment(
    services: dict[str, Any], folder: Path, directory: Path, server: sa.URL, environment: dict[str, str]
) -> Iterator[Deployment]:
    """The services that run Dagster, on a world and in a database of their own."""
    name = directory.name.replace("-", "_")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    database = server.set(database=name).render_as_string(hide_password=False)
    with ObjectStore(directory / "s3") as store, running_world(directory, store, "videos") as world:
        store.create_bucket(LOGS_BUCKET)
        variables = {
            **world.environment(LUMA_SCHEDULE_ENABLED="false"),
            **postgres_environment(database),
            "DAGSTER_LOGS_BUCKET": LOGS_BUCKET,
            **environment,
        }
        with Containers(services, folder, directory, variables) as containers:
            yield Deployment(world, containers, database)
