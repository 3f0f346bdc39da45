"""`deploy/celery/`: runs are executed by Celery's workers, and stop, die and come back as elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from luma_pipeline.dataset import Dataset
from luma_pipeline.sandbox.provider import Generation, RateLimit
from tests.deploy.containers import BIN, DEPLOY
from tests.deploy.deployment import ASSETS, Deployment, running_deployment
from tests.e2e.process_group import ProcessGroup
from tests.ports import free_ports
from tests.programs import program
from tests.waiting import wait_until

FOLDER = DEPLOY / "celery"
BASE = DEPLOY / "docker-compose"

pytestmark = pytest.mark.timeout(420)


def services() -> dict[str, Any]:
    """The services of both files, the second put over the first as compose does."""
    base, over = (yaml.safe_load((folder / "compose.yaml").read_text())["services"] for folder in (BASE, FOLDER))
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in base | over}


def instance(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "dagster.yaml").read_text())
    return found


def test_the_compose_file_meets_the_specification() -> None:
    check = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FOLDER / "compose.yaml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_only_the_launcher_differs_from_the_other_deployment() -> None:
    ours, other = instance(FOLDER), instance(BASE)
    assert ours["run_launcher"]["class"] == "CeleryRunLauncher"
    assert ours | {"run_launcher": None} == other | {"run_launcher": None}


def test_no_run_is_given_to_a_second_worker_while_the_first_may_have_it() -> None:
    ours = instance(FOLDER)
    seconds = ours["run_launcher"]["config"]["config_source"]["broker_transport_options"]["visibility_timeout"]
    assert seconds > ours["run_monitoring"]["max_runtime_seconds"]


def test_the_settings_go_to_the_workers_and_the_code_server_only() -> None:
    files = {name: service["env_file"] for name, service in services().items()}
    assert {name for name, of_it in files.items() if "luma.env" in of_it} == {"code-server", "worker"}
    for file in ("celery.env", "redis.env"):
        assert (FOLDER / f"{file}.example").exists()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = program("redis-server", "redis-server")
    [port] = free_ports(1)
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", ""],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://:secret@127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: sa.URL, redis: str) -> Iterator[Deployment]:
    dagster = {name: service for name, service in services().items() if name not in {"postgres", "redis"}}
    broker = {"DAGSTER_CELERY_BROKER_URL": f"{redis}/0", "DAGSTER_CELERY_BACKEND_URL": f"{redis}/1"}
    directory = tmp_path_factory.mktemp("celery")
    with running_deployment(dagster, BASE, directory, postgres_server, broker) as running:
        yield running


@pytest.mark.deployment
def test_a_worker_executes_a_run(deployment: Deployment) -> None:
    run = deployment.wait_for(deployment.begin("2025-01-01", days=2), "SUCCESS", "FAILURE")
    assert run.status == "SUCCESS"
    assert {"2025-01-01-0/video.mp4", "2025-01-02-7/video.mp4"} <= deployment.world.object_keys()


@pytest.mark.deployment
def test_terminate_cancels_a_run_within_seconds(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-02-01", days=3, seconds_an_answer=1.0)
    deployment.wait_until_asked()
    deployment.containers.client.terminate(run_id)
    assert deployment.wait_for(run_id, "CANCELED", "SUCCESS", "FAILURE").status == "CANCELED"
    assert "Run timed out" not in str(deployment.containers.client.run_events(run_id))


@pytest.mark.deployment
def test_a_killed_run_is_told_and_started_again(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-03-01", days=3, seconds_an_answer=1.0)
    deployment.wait_until_asked()
    [process_id, *_] = deployment.containers.client.process_ids(run_id)
    subprocess.run(["kill", "-9", str(process_id)], check=True)
    deployment.world.provider.latency_seconds = 0.0
    deployment.wait_for(run_id, "FAILURE")
    assert deployment.wait_for(deployment.retry_of(run_id), "SUCCESS", "FAILURE").status == "SUCCESS"


@pytest.mark.deployment
def test_runs_that_died_with_their_worker_are_told_when_a_worker_starts(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-04-01", days=3, seconds_an_answer=1.0)
    deployment.wait_until_asked()
    deployment.containers.kill("worker")
    deployment.world.provider.latency_seconds = 0.0
    deployment.containers.start("worker")
    deployment.wait_for(run_id, "FAILURE")
    assert deployment.wait_for(deployment.retry_of(run_id), "SUCCESS", "FAILURE").status == "SUCCESS"


@pytest.mark.deployment
def test_a_run_may_end_when_a_worker_is_asked_to_stop(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-06-01", days=2, seconds_an_answer=2.0)
    deployment.wait_until_asked()
    deployment.containers.stop("worker")
    assert deployment.wait_for(run_id, "SUCCESS", "FAILURE", "CANCELED").status == "SUCCESS"
    deployment.world.provider.latency_seconds = 0.0
    deployment.containers.start("worker")
    deployment.containers.wait_until_healthy()


# -- two machines -----------------------------------------------------------------------------------------------------

RATE = 25.0
DAYS, TASKS = 8, 100


class Machine:
    """A worker on a machine of its own: it has no file, folder and name in common with the rest of the deployment."""

    def __init__(self, deployment: Deployment, directory: Path) -> None:
        containers = deployment.containers
        here = containers.home.parent
        self._root = directory / "opt"
        shutil.copytree(here, self._root)
        for file in (self._root / "dagster_home").glob("*.yaml"):
            file.write_text(file.read_text().replace(str(here), str(self._root)))
        self._logs = directory / "logs"
        (directory / "tmp").mkdir()
        own = {
            "DAGSTER_HOME": str(self._root / "dagster_home"),
            "HOSTNAME": "second",
            "HOME": str(directory),
            "TMPDIR": str(directory / "tmp"),
        }
        self._environment = containers.environment | own
        self._command = [*services()["worker"]["command"], "--hostname=celery@second"]
        self._group: ProcessGroup | None = None

    def start(self) -> None:
        self._group = ProcessGroup(
            {"worker": self._command}, env=self._environment, directory=self._root, logs=self._logs
        )
        self._group.__enter__()

    def lose(self) -> None:
        """SIGKILL for everything on it."""
        if self._group is not None:
            self._group.__exit__(None, None, None)
            self._group = None

    def log_tail(self) -> str:
        return self._group.log_tail() if self._group is not None else ""


@contextmanager
def source_table(url: sa.URL, deployment: Deployment, keys: list[str]) -> Iterator[list[str]]:
    """The source table in PostgreSQL, since machines have no file in common; gives the IDs of its tasks."""
    ids = [f"{key}-{number}" for key in keys for number in range(TASKS)]
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE two_machines (task_id TEXT, submitted_at TIMESTAMPTZ)")
        insert = sa.text("INSERT INTO two_machines VALUES (:id, :at)")
        connection.execute(insert, [{"id": task_id, "at": f"{task_id[:10]} 12:00:00+00"} for task_id in ids])
    for task_id in ids:
        deployment.world.provider.add(replace(Generation(task_id).published(deployment.world.cdn)))
    yield ids
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE two_machines")


@pytest.fixture
def two_machines(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: sa.URL, redis: str
) -> Iterator[tuple[Deployment, Machine]]:
    dagster = {name: service for name, service in services().items() if name not in {"postgres", "redis"}}
    settings = {
        "DAGSTER_CELERY_BROKER_URL": f"{redis}/2",
        "DAGSTER_CELERY_BACKEND_URL": f"{redis}/3",
        "LUMA_SOURCE_URL": postgres_server.render_as_string(hide_password=False),
        "LUMA_SOURCE_TABLE": "two_machines",
        "LUMA_DATA_URL": "s3://lake/luma",
        "LUMA_PARTITIONS_PER_RUN": "2",
        "LUMA_REQUESTS_PER_SECOND": str(RATE),
        "LUMA_SHARED_LIMIT": "instance",
    }
    directory = tmp_path_factory.mktemp("two-machines")
    with running_deployment(dagster, BASE, directory / "first", postgres_server, settings) as running:
        running.world.store.create_bucket("lake")
        second = Machine(running, directory / "second")
        second.start()
        try:
            yield running, second
        finally:
            second.lose()


@pytest.mark.deployment
@pytest.mark.timeout(900)
def test_a_backfill_over_two_machines_loses_nothing_when_one_is_lost(
    two_machines: tuple[Deployment, Machine], postgres_server: sa.URL
) -> None:
    deployment, second = two_machines
    client, provider = deployment.containers.client, deployment.world.provider
    # What stands still on a busy machine comes at once then: a second's requests are no breach.
    provider.rate_limit = RateLimit(RATE, burst=int(RATE))
    provider.latency_seconds = 0.2
    keys = [(date(2025, 1, 1) + timedelta(days=number)).isoformat() for number in range(DAYS)]
    with source_table(postgres_server, deployment, keys) as ids:
        client.launch_backfill(ASSETS, keys)
        # Both have runs, and each run has answers that it has kept.
        wait_until(lambda: provider.total, lambda total: total > 0.7 * len(ids), timeout=180, or_tell=second.log_tail)
        workers = hosts_of(deployment)
        second.lose()
        lost_at = time.time()
        time.sleep(3)
        second.start()
        wait_until_all_ended(deployment)
        # Dagster's reader of events now and then passes over one that is committed late, and then starts no retry.
        with suppress(TimeoutError):
            wait_until(lambda: not_retried(deployment), lambda left: not left)
        for run_id in not_retried(deployment):
            client.reexecute_from_failure(run_id)
        wait_until_all_ended(deployment)
    assert len(workers) == 2
    assert {run.status for run in client.runs()} == {"SUCCESS", "FAILURE"}
    assert {f"{task_id}/video.mp4" for task_id in ids} == deployment.world.object_keys()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.world.store.environment().items():
            patch.setenv(name, value)
        rows = rows_of(Dataset(url="s3://lake/luma"), "luma_generations", keys)
    assert Counter(rows) == Counter(ids)
    # A kill costs what was answered in the last ten seconds, and what was on its way.
    asked = [request for request in provider.requests if request.status == 200]
    lately = {task_id for request in asked if lost_at - 12 < request.at <= lost_at for task_id in request.task_ids}
    twice = {task_id for task_id, count in Counter(id_ for one in asked for id_ in one.task_ids).items() if count > 1}
    assert twice <= lately
    assert provider.count_status(429) < 0.02 * provider.total


def wait_until_all_ended(deployment: Deployment) -> None:
    wait_until(
        lambda: [run for run in deployment.containers.client.runs() if not run.is_finished],
        lambda left: not left,
        timeout=240,
        or_tell=deployment.containers.log_tail,
    )


def not_retried(deployment: Deployment) -> list[str]:
    """The runs that failed, and that no other was started for."""
    client = deployment.containers.client
    failed = [run.run_id for run in client.runs() if run.status == "FAILURE"]
    return [run_id for run_id in failed if not client.runs(tags={"dagster/parent_run_id": run_id})]


def hosts_of(deployment: Deployment) -> set[str]:
    """The workers that runs under way are with, as the launcher's log of events says."""
    with deployment.instance() as instance:
        launcher: Any = instance.run_launcher
        active = launcher.celery.control.inspect(timeout=5).active() or {}
    return {name for name, tasks in active.items() if tasks}


def rows_of(dataset: Dataset, name: str, keys: list[str]) -> list[str]:
    """The task IDs of a dataset's rows."""
    tables = [dataset.partition(name, f"date={key}").read(["task_id"]) for key in keys]
    return [task_id for table in tables for task_id in table["task_id"].to_pylist()]
