"""One Dagster over one world for the module: starting it costs more than most of what is done with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.e2e.dagster_deployment import DagsterDeployment
from tests.e2e.graphql import DagsterClient
from tests.world import World, running_world

AS_THE_DOCS_ADVISE = {
    "concurrency": {"pools": {"default_limit": 1}},
    # Seconds here, half a minute there.
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 2},
}
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")


@dataclass
class Plant:
    """A Dagster that runs on a world, and a calendar out of which every test takes days of its own."""

    world: World
    dagster: DagsterDeployment
    _next_day: date = field(default=date(2025, 1, 1))

    @property
    def client(self) -> DagsterClient:
        return self.dagster.client

    @staticmethod
    def last_days(count: int) -> list[str]:
        """Keys of the partitions up to yesterday, which are no other test's; the UI plots the newest alone."""
        today = datetime.now(UTC).date()
        return [(today - timedelta(days=number)).isoformat() for number in range(count, 0, -1)]

    def days(self, count: int) -> list[str]:
        """Keys of partitions that no other test uses, next to each other; one day is left free after them."""
        first = self._next_day
        self._next_day += timedelta(days=count + 1)
        return [(first + timedelta(days=number)).isoformat() for number in range(count)]

    def submit(self, days: list[str], tasks: int, **generation: Any) -> None:
        """So many tasks on each of the days, named after it."""
        self.world.submit(
            *((f"{day}-{number}", f"{day} {number:02}:00:00") for day in days for number in range(tasks)), **generation
        )

    def asked(self) -> list[str]:
        """The task IDs of the provider's requests since the last call."""
        found = sorted(task_id for request in self.world.provider.requests for task_id in request.task_ids)
        self.world.provider.clear_log()
        return found


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    directory = tmp_path_factory.mktemp("plant")
    with (
        ObjectStore(directory / "s3") as store,
        running_world(directory, store, "videos") as world,
        DagsterDeployment(
            directory,
            # Every minute, once it is started: a test cannot wait for the default's ten.
            env=world.environment(
                LUMA_SCHEDULE_ENABLED="false", LUMA_SCHEDULE_CRON="* * * * *", LUMA_FRESHNESS_HOURS="1"
            ),
            instance=AS_THE_DOCS_ADVISE,
        ) as dagster,
    ):
        yield Plant(world, dagster)
