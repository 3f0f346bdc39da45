"""Webserver, daemon and code server are killed and restarted during a backfill, with schedule and sensor on.

The deployment is that of `deploy/docker-compose/`: its very commands and files, as processes.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml

from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Generation
from tests.deploy.containers import DEPLOY
from tests.deploy.deployment import ASSETS, Deployment, running_deployment
from tests.waiting import wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1200)]

FOLDER = DEPLOY / "docker-compose"
FIRST_DAY = date(2025, 1, 1)
DAYS = [(FIRST_DAY + timedelta(days=number)).isoformat() for number in range(24)]
TASKS_A_DAY = 4
DAYS_A_RUN = 4
OPEN_DAY = DAYS[3]
SHOTS = ("daemon", "code-server", "webserver", "daemon", "code-server", "webserver", "daemon")
"""What is killed, in this order. Dagster starts a killed run twice more, so two shots at the runs' server are the most.
"""
_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_TOLD = {
    dg.DagsterEventType.ENGINE_EVENT,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_ENQUEUED,
}
_SECONDS = 400.0


@pytest.fixture
def deployment(tmp_path: Path, postgres_server: sa.URL) -> Iterator[Deployment]:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    dagster: dict[str, Any] = {name: service for name, service in services.items() if name != "postgres"}
    settings = {
        **_of_example("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"),
        "LUMA_SCHEDULE_ENABLED": "true",
        "LUMA_SCHEDULE_CRON": "* * * * *",
        "LUMA_PARTITIONS_PER_RUN": str(DAYS_A_RUN),
        "LUMA_LATE_ROWS_MINUTES": "0",
    }
    with running_deployment(dagster, FOLDER, tmp_path, postgres_server, settings) as running:
        yield running


def _of_example(name: str) -> dict[str, str]:
    """A variable as `dagster.env.example` has it."""
    lines = (FOLDER / "dagster.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith(f"{name}="))


@pytest.mark.parametrize("seed", [int(os.environ.get("FIRE_SEED", "1"))])
def test_killed_servers_cost_a_backfill_a_schedule_and_a_sensor_nothing(deployment: Deployment, seed: int) -> None:
    chance = random.Random(seed)
    world, containers = deployment.world, deployment.containers
    world.submit(*((f"{day}-{n}", f"{day} {n:02}:00:00") for day in DAYS for n in range(TASKS_A_DAY)))
    still_open = f"{OPEN_DAY}-open"
    world.submit((still_open, f"{OPEN_DAY} 20:00:00"), phases=(Phase(0.0, "processing"),))
    world.provider.latency_seconds = 0.5
    backfill_id = containers.client.launch_backfill(ASSETS, DAYS)

    today = []
    for number, service in enumerate(SHOTS):
        time.sleep(chance.uniform(3.0, 10.0))
        containers.kill(service)
        now = datetime.now(UTC)
        today.append(f"today-{number}")
        world.submit((today[-1], now.strftime("%Y-%m-%d %H:%M:%S")))
        time.sleep(chance.uniform(0.5, 4.0))
        containers.start(service)
    world.provider.latency_seconds = 0.0
    containers.wait_until_healthy()

    with deployment.instance() as instance:
        wait_until(lambda: _backfill(instance, backfill_id), _is_over, timeout=_SECONDS, or_tell=containers.log_tail)
        backfill = instance.get_backfill(backfill_id)
        assert backfill is not None
        assert (backfill.status.value, backfill.error) == ("COMPLETED_SUCCESS", None), (
            f"{_story(instance)}\n{backfill.error}"
        )
        _let_the_sensor_come_back(world.directory / "data", world, still_open)
        expected = {f"{day}-{n}" for day in DAYS for n in range(TASKS_A_DAY)} | {still_open, *today}
        keys = {f"{task_id}/video.mp4" for task_id in expected}
        wait_until(world.object_keys, lambda found: keys <= found, timeout=_SECONDS, or_tell=containers.log_tail)
        wait_until(lambda: _under_way(instance), lambda runs: not runs, timeout=_SECONDS, or_tell=containers.log_tail)

        runs = instance.get_runs()
    # No partition is forgotten.
    for asset in ASSETS:
        statuses = containers.client.partition_statuses(asset)
        assert {day: statuses[day] for day in DAYS} == dict.fromkeys(DAYS, "MATERIALIZED")
    # Nothing is lost, and nothing is there twice.
    for dataset in ASSETS:
        assert _task_ids(world.directory / "data" / dataset) == Counter(expected)
    assert world.object_keys() == keys
    # Nothing is done twice: what a killed run was in the middle of is all that may be asked and fetched again.
    asked = Counter(task_id for request in world.provider.requests for task_id in request.task_ids)
    again = sum(count - 1 for task_id, count in asked.items() if task_id not in {still_open})
    assert again <= SHOTS.count("code-server") * DAYS_A_RUN * TASKS_A_DAY + len(today)
    _assert_each_tick_and_partition_has_one_run(runs, backfill_id)


def _backfill(instance: dg.DagsterInstance, backfill_id: str) -> str:
    backfill = instance.get_backfill(backfill_id)
    assert backfill is not None
    return str(backfill.status.value)


def _story(instance: dg.DagsterInstance) -> str:
    """What became of the runs, for whoever reads why the test failed."""
    lines = []
    for run in reversed(instance.get_runs()):
        begin = run.tags.get("dagster/asset_partition_range_start", run.tags.get("dagster/partition"))
        events = [entry for entry in instance.all_logs(run.run_id) if entry.dagster_event is not None]
        said = [entry.message[:400] for entry in events if entry.dagster_event_type in _TOLD]
        lines += [f"{run.run_id[:8]} of {str(run.parent_run_id)[:8]} from {begin}: {run.status.value}", *said[-6:]]
    return "\n".join(lines)


def _is_over(status: str) -> bool:
    return status in {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}


def _under_way(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in instance.get_runs() if run.status not in _OVER]


def _let_the_sensor_come_back(root: Path, world: Any, task_id: str) -> None:
    """The open task has ended, and the pause since it was last asked for is over."""
    world.provider.add(Generation(task_id).published(world.cdn))
    [mark] = [path for path in (root / "_open").iterdir() if path.name == OPEN_DAY]
    seven_hours_ago = time.time() - 7 * 3600
    os.utime(mark, (seven_hours_ago, seven_hours_ago))


def _task_ids(folder: Path) -> Counter[str]:
    files = sorted(folder.rglob("*.parquet"))
    return Counter(task_id for file in files for task_id in pq.ParquetFile(file).read()["task_id"].to_pylist())


def _assert_each_tick_and_partition_has_one_run(runs: Sequence[dg.DagsterRun], backfill_id: str) -> None:
    """A run that Dagster started again in the place of a killed one is no second one."""
    first = [run for run in runs if run.parent_run_id is None]
    ticks = Counter(run.tags["dagster/run_key"] for run in first if run.tags.get("luma/trigger") == "schedule")
    assert ticks
    assert max(ticks.values()) == 1
    assert [run for run in runs if run.tags.get("luma/trigger") == "open_tasks" and run.is_success]
    spans = [
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"])
        for run in first
        if run.tags.get("dagster/backfill") == backfill_id
    ]
    covered = Counter(day for begin, end in spans for day in DAYS if begin <= day <= end)
    assert covered == Counter(DAYS)
    assert {run.status for run in runs if run.tags.get("luma/trigger") == "schedule"} <= set(_OVER)
    assert UNNAMED.job_name in {run.job_name for run in runs}
