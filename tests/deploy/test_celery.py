"""`deploy/celery/`: runs are executed by Celery's workers, and stop, die and come back as elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests.deploy.containers import BIN, DEPLOY
from tests.deploy.deployment import Deployment, running_deployment
from tests.ports import free_ports
from tests.programs import program

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
