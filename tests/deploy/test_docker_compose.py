"""`deploy/docker-compose/`: the files are well-formed, and its very commands run runs, killed ones included."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from dagster._core.definitions.run_request import InstigatorType

from luma_pipeline.sandbox.provider import Account
from tests.deploy.containers import BIN, DEPLOY
from tests.deploy.deployment import LOGS_BUCKET, Deployment, running_deployment

FOLDER = DEPLOY / "docker-compose"
COMPOSE = FOLDER / "compose.yaml"
# What stands in luma.env.example as a proposal.
SHARED = {"LUMA_REQUESTS_PER_SECOND": "100", "LUMA_SHARED_LIMIT": "instance"}
ROOT = DEPLOY.parent

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


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: sa.URL) -> Iterator[Deployment]:
    dagster = {name: service for name, service in services().items() if name != "postgres"}
    directory = tmp_path_factory.mktemp("compose")
    with running_deployment(dagster, FOLDER, directory, postgres_server, SHARED) as running:
        yield running


@pytest.mark.deployment
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


@pytest.mark.deployment
def test_two_runs_at_once_share_the_limit(deployment: Deployment) -> None:
    runs = [deployment.begin(first, days=1, tasks=60, seconds_an_answer=2.0) for first in ("2025-02-01", "2025-02-03")]
    ended = [deployment.wait_for(run_id, "SUCCESS", "FAILURE") for run_id in runs]
    assert [run.status for run in ended] == ["SUCCESS", "SUCCESS"]
    first, second = runs
    began = deployment.ask_postgres(f"SELECT start_time FROM runs WHERE run_id = '{second}'")
    assert began < deployment.ask_postgres(f"SELECT end_time FROM runs WHERE run_id = '{first}'")
    assert deployment.ask_postgres("SELECT count(*) FROM luma_pipeline_limits") == 1
    with deployment.instance() as instance:
        kept = [instance.get_run_by_id(run_id) for run_id in runs]
    assert [run.tags["luma/shared_limit"] for run in kept if run is not None] == ["kept", "kept"]


@pytest.mark.deployment
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


@pytest.mark.deployment
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


@pytest.mark.deployment
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


@pytest.mark.deployment
def test_the_instance_has_limits_monitoring_retries_and_retention(deployment: Deployment) -> None:
    with deployment.instance() as instance:
        assert type(instance.run_storage).__module__.startswith("dagster_postgres")
        assert type(instance.event_log_storage).__module__.startswith("dagster_postgres")
        assert type(instance.schedule_storage).__module__.startswith("dagster_postgres")
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit is None
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


@pytest.mark.deployment
def test_a_run_may_end_when_the_code_server_is_asked_to_stop(deployment: Deployment) -> None:
    run_id = deployment.begin("2025-06-01", days=2, seconds_an_answer=2.0)
    deployment.wait_until_asked()
    deployment.containers.stop("code-server")
    assert deployment.wait_for(run_id, "SUCCESS", "FAILURE", "CANCELED").status == "SUCCESS"
    deployment.world.provider.latency_seconds = 0.0
    deployment.containers.start("code-server")
    deployment.containers.wait_until_healthy()
