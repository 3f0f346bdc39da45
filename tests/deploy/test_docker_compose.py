"""`deploy/docker-compose/`: the files are well-formed, and its very commands run runs, killed ones included."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.definitions.run_request import InstigatorType

from luma_pipeline.sandbox.provider import Account
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.deploy.containers import BIN, DEPLOY, Containers, postgres_environment
from tests.e2e.graphql import Run
from tests.waiting import wait_until
from tests.world import World, running_world

FOLDER = DEPLOY / "docker-compose"
COMPOSE = FOLDER / "compose.yaml"
ROOT = DEPLOY.parent
LOGS_BUCKET = "dagster-logs"
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")

pytestmark = pytest.mark.timeout(420)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_the_compose_file_meets_the_specification() -> None:
    check = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run(
        [str(BIN / "hadolint"), str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_nobody_and_says_whether_it_is_well() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_the_build_context_holds_what_the_dockerfile_copies_and_no_more() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", ["postgres", "code-server", "webserver", "daemon"])
def test_every_service_is_watched_and_bounded(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries", "start_period"} == service["healthcheck"].keys()
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    if name != "postgres":
        assert service["cap_drop"] == ["ALL"]
        assert service["mem_limit"]
        waits = {waited: state["condition"] for waited, state in service["depends_on"].items()}
        assert set(waits.values()) == {"service_healthy"}
        assert ("code-server" in waits) == (name in {"webserver", "daemon"})


def test_secrets_come_from_files_and_only_to_the_services_that_need_them() -> None:
    files = {name: service["env_file"] for name, service in services().items()}
    assert [name for name, of_it in files.items() if "luma.env" in of_it] == ["code-server"]
    assert not any("environment" in service for service in services().values())
    for name in {file for of_it in files.values() for file in of_it}:
        assert (FOLDER / f"{name}.example").exists()
        ignored = subprocess.run(["git", "check-ignore", "-q", str(FOLDER / name)], cwd=ROOT, check=False)
        assert ignored.returncode == 0, f"git would take {name}"


def test_only_this_machine_reaches_the_ui() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"webserver": ["127.0.0.1:${WEBSERVER_PORT:-3000}:3000"]}


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


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: sa.URL) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("compose")
    server = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE compose")
    database = postgres_server.set(database="compose").render_as_string(hide_password=False)
    with (
        ObjectStore(directory / "s3") as store,
        running_world(directory, store, "videos") as world,
    ):
        store.create_bucket(LOGS_BUCKET)
        environment = world.environment(LUMA_SCHEDULE_ENABLED="false") | postgres_environment(database)
        with Containers(
            COMPOSE,
            directory,
            environment | {"DAGSTER_LOGS_BUCKET": LOGS_BUCKET},
            ("code-server", "webserver", "daemon"),
        ) as containers:
            yield Deployment(world, containers, database)


def test_a_run_succeeds_and_everything_it_leaves_is_in_postgresql_and_s3(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-01-01", days=2)
    run = deployment.wait_for(run_id, "SUCCESS", "FAILURE")
    assert run.status == "SUCCESS"
    assert {"2025-01-01-0/video.mp4", "2025-01-02-7/video.mp4"} <= deployment.world.object_keys()

    assert deployment.ask_postgres(f"SELECT status FROM runs WHERE run_id = '{run_id}'") == "SUCCESS"
    assert deployment.ask_postgres("SELECT count(*) FROM event_logs") > 0
    assert not list(deployment.containers.home.rglob("*.db"))
    client = deployment.world.store.client()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=LOGS_BUCKET).get("Contents", [])]
    assert [key for key in keys if key.startswith(f"dagster-logs/storage/{run_id}/")]


def test_a_second_run_waits_in_the_queue_for_the_pool(deployment: Deployment) -> None:
    first = deployment.begin("2025-02-01", days=1, seconds_an_answer=3.0)
    deployment.wait_until_asked()
    second = deployment.begin("2025-02-03", days=1, seconds_an_answer=3.0)
    assert deployment.wait_for(first, "SUCCESS", "FAILURE").status == "SUCCESS"
    assert deployment.wait_for(second, "SUCCESS", "FAILURE").status == "SUCCESS"
    began = deployment.ask_postgres(f"SELECT start_time FROM runs WHERE run_id = '{second}'")
    assert began >= deployment.ask_postgres(f"SELECT end_time FROM runs WHERE run_id = '{first}'")


def test_a_killed_run_is_told_and_started_again(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-03-01", days=3, seconds_an_answer=1.0)
    deployment.wait_until_asked()
    [process_id, *_] = deployment.containers.client.process_ids(run_id)
    subprocess.run(["kill", "-9", str(process_id)], check=True)
    assert deployment.wait_for(run_id, "FAILURE").status == "FAILURE"
    deployment.world.provider.latency_seconds = 0.0
    again = deployment.retry_of(run_id)
    assert deployment.wait_for(again, "SUCCESS", "FAILURE").status == "SUCCESS"
    assert {f"2025-03-0{day}-7/video.mp4" for day in (1, 2, 3)} <= deployment.world.object_keys()


def test_a_run_that_the_provider_refuses_is_not_started_again(deployment: Deployment) -> None:
    deployment.world.provider.account = Account.OUT_OF_QUOTA
    try:
        run_id = deployment.begin("2025-04-01", days=1)
        deployment.wait_for(run_id, "FAILURE")
        with deployment.instance() as instance:
            failed = instance.get_run_by_id(run_id)
            assert failed is not None
            assert failed.tags["dagster/will_retry"] == "false"
    finally:
        deployment.world.provider.account = Account.ACTIVE


def test_runs_that_died_with_the_container_are_told_at_its_start_and_started_again(deployment: Deployment) -> None:
    containers = deployment.containers
    run_id = deployment.begin("2025-05-01", days=3, seconds_an_answer=1.0)
    deployment.wait_until_asked()
    containers.kill("code-server")
    assert containers.health("code-server").returncode != 0
    assert containers.client.run(run_id).status == "STARTED"

    deployment.world.provider.latency_seconds = 0.0
    containers.start("code-server")
    run = deployment.wait_for(run_id, "FAILURE")
    assert run.status == "FAILURE"
    containers.wait_until_healthy()
    again = deployment.retry_of(run_id)
    assert deployment.wait_for(again, "SUCCESS", "FAILURE").status == "SUCCESS"
    assert {f"2025-05-0{day}-7/video.mp4" for day in (1, 2, 3)} <= deployment.world.object_keys()
    assert f"run {run_id}: The code server's container ended" in containers.log_tail()


def test_the_instance_has_limits_monitoring_retries_and_retention(deployment: Deployment) -> None:
    with deployment.instance() as instance:
        assert type(instance.run_storage).__module__.startswith("dagster_postgres")
        assert type(instance.event_log_storage).__module__.startswith("dagster_postgres")
        assert type(instance.schedule_storage).__module__.startswith("dagster_postgres")
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 4
        assert instance.run_monitoring_enabled
        # Longer than a run of ours takes to stop, which is 13 seconds.
        assert instance.run_monitoring_cancel_timeout_seconds >= 30
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        for kind in InstigatorType:
            assert all(days > 0 for days in instance.get_tick_retention_settings(kind).values())
        assert not instance.telemetry_enabled
