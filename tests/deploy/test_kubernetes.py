"""`deploy/kubernetes/`: what Dagster's launcher makes of the values is a Job that Kubernetes takes.

The chart itself is not here. `rendered` writes `dagster.yaml` as the chart's templates do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext

from luma_pipeline.limit.account_table import AccountTable
from luma_pipeline.orchestration.shared_limit import shared_limit_url
from tests.deploy.containers import DEPLOY, postgres_environment

VALUES = DEPLOY / "kubernetes" / "values.yaml"
# A run's memory by ARCHITECTURE.md, with a million tasks and as many videos.
LARGE_RUN_BYTES = 420_000_000 + 1_000_000 * (250 + 350)
STOP_SECONDS = 13


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return found


class JobsApi:
    """The part of a Kubernetes API server that takes Jobs."""

    def __init__(self) -> None:
        jobs: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                jobs.append(json.loads(body))
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.jobs = jobs
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> JobsApi:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self) -> dict[str, Any]:
        """A configuration whose cluster is this server."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }


def rendered(kubeconfig: Path) -> dict[str, Any]:
    """The values as the `dagster.yaml` that the chart makes of them."""
    given = values()
    launcher = given["runLauncher"]["config"]["k8sRunLauncher"]
    run = launcher["runK8sConfig"]
    logs = given["computeLogManager"]["config"]["s3ComputeLogManager"]
    monitoring = given["dagsterDaemon"]["runMonitoring"]
    database = given["postgresql"]
    storage = {
        "postgres_db": {
            "scheme": database["postgresqlScheme"],
            "username": {"env": "DAGSTER_POSTGRES_USER"},
            "password": {"env": "DAGSTER_POSTGRES_PASSWORD"},
            "hostname": {"env": "DAGSTER_POSTGRES_HOST"},
            "db_name": {"env": "DAGSTER_POSTGRES_DB"},
            "port": database["service"]["port"],
        }
    }
    retention = {
        name: {"purge_after_days": given["retention"][key]["purgeAfterDays"]}
        for name, key in (("schedule", "schedule"), ("sensor", "sensor"), ("auto_materialize", "autoMaterialize"))
    }
    return {
        "storage": {"postgres": storage},
        "run_launcher": {
            "module": "dagster_k8s",
            "class": given["runLauncher"]["type"],
            "config": {
                "load_incluster_config": False,
                "kubeconfig_file": str(kubeconfig),
                "job_namespace": "data",
                "image_pull_policy": launcher["imagePullPolicy"],
                "service_account_name": "dagster",
                "dagster_home": "/opt/dagster/dagster_home",
                "instance_config_map": "dagster-instance",
                "postgres_password_secret": given["global"]["postgresqlSecretName"],
                "env_secrets": [secret["name"] for secret in launcher["envSecrets"]],
                "fail_pod_on_run_failure": launcher["failPodOnRunFailure"],
                "run_k8s_config": {
                    "container_config": run["containerConfig"],
                    "pod_spec_config": run["podSpecConfig"],
                    "job_spec_config": run["jobSpecConfig"],
                },
            },
        },
        "run_coordinator": {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"},
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": "S3ComputeLogManager",
            "config": {
                "bucket": logs["bucket"],
                "prefix": logs["prefix"],
                "skip_empty_files": logs["skipEmptyFiles"],
                "upload_interval": logs["uploadInterval"],
            },
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "retention": retention,
        "telemetry": given["telemetry"],
        **given["additionalInstanceConfig"],
    }


def container_context() -> dict[str, Any]:
    """What the chart hands from the code server's values to the runs."""
    [server] = values()["dagster-user-deployments"]["deployments"]
    if not server["includeConfigInLaunchedRuns"]["enabled"]:
        return {}
    secrets = [secret["name"] for secret in server["envSecrets"]]
    return {"k8s": {"env_secrets": secrets, "resources": server["resources"]}}


@pytest.fixture(scope="module")
def api() -> Iterator[JobsApi]:
    with JobsApi() as running:
        yield running


@pytest.fixture(scope="module")
def instance(
    api: JobsApi, tmp_path_factory: pytest.TempPathFactory, postgres_server: sa.URL
) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("kubernetes")
    (home / "kubeconfig").write_text(json.dumps(api.kubeconfig()))
    (home / "dagster.yaml").write_text(json.dumps(rendered(home / "kubeconfig")))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in postgres_environment(postgres_server.render_as_string(hide_password=False)).items():
            patch.setenv(name, value)
        patch.setenv("AWS_REGION", "eu-central-1")
        for name in ("API_TOKEN", "SOURCE_URL", "SOURCE_TABLE", "DATA_URL", "S3_BUCKET"):
            patch.setenv(f"LUMA_{name}", "from-the-secret")
        with dg.DagsterInstance.from_config(str(home)) as made:
            yield made


@pytest.fixture
def job(launched: dict[str, Any]) -> dict[str, Any]:
    return deepcopy(launched)


@pytest.fixture(scope="module")
def launched(api: JobsApi, instance: dg.DagsterInstance) -> dict[str, Any]:
    """The Job of one run of ours."""
    image = values()["dagsterDaemon"]["image"]
    repository = ReconstructableRepository.for_module(
        "luma_pipeline.definitions",
        "defs",
        container_image=f"{image['repository']}:{image['tag']}",
        container_context=container_context(),
    )
    origin = repository.get_reconstructable_job("luma_job")
    run = instance.create_run_for_job(origin.get_definition(), job_code_origin=origin.get_python_origin())
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    [job] = api.jobs
    return job


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def test_kubernetes_takes_the_job(job: dict[str, Any]) -> None:
    for version in ("1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(job, version, strict=True)


def test_the_schema_refuses_what_kubernetes_would(job: dict[str, Any]) -> None:
    pod(job)["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_a_large_run_fits_into_its_memory(job: dict[str, Any]) -> None:
    [container] = pod(job)["containers"]
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert int(limit[:-2]) * 2**20 >= 1.2 * LARGE_RUN_BYTES
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_a_run_has_the_time_to_stop(job: dict[str, Any]) -> None:
    assert pod(job)["terminationGracePeriodSeconds"] > 2 * STOP_SECONDS
    assert values()["dagsterDaemon"]["runMonitoring"]["cancelTimeoutSeconds"] > 2 * STOP_SECONDS
    assert job["spec"]["backoffLimit"] == 0


def test_secrets_are_references(job: dict[str, Any]) -> None:
    [container] = pod(job)["containers"]
    assert {"secretRef": {"name": "luma-pipeline"}} in container["envFrom"]
    plain = {variable["name"] for variable in container["env"] if "value" in variable}
    assert plain <= {"DAGSTER_HOME", "DAGSTER_RUN_JOB_NAME"}
    text = VALUES.read_text()
    assert "postgresqlPassword:" not in text
    assert "AWS_SECRET" not in text


def test_the_pod_is_nobodys_and_may_nothing(job: dict[str, Any]) -> None:
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert pod(job)["automountServiceAccountToken"] is False
    [container] = pod(job)["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_code_servers_probes_wait_longer_than_a_health_check_takes() -> None:
    [server] = values()["dagster-user-deployments"]["deployments"]
    assert server["readinessProbe"]["timeoutSeconds"] >= 10
    assert server["livenessProbe"]["timeoutSeconds"] >= 10


def test_the_instance_is_the_one_of_the_other_deployments(instance: dg.DagsterInstance) -> None:
    assert type(instance.run_storage).__module__.startswith("dagster_postgres")
    assert instance.get_concurrency_config().pool_config.default_pool_limit is None
    assert instance.run_monitoring_enabled
    assert instance.run_launcher.supports_check_run_worker_health
    assert (instance.run_retries_max_retries, instance.run_retries_retry_on_asset_or_op_failure) == (2, False)


def test_runs_reach_the_database_of_their_shared_limit(job: dict[str, Any], instance: dg.DagsterInstance) -> None:
    url = shared_limit_url("instance", instance)
    assert url is not None
    assert sa.make_url(url).drivername == values()["postgresql"]["postgresqlScheme"]
    AccountTable(url).change("a" * 64, lambda state, _: (state, None))
    [container] = pod(job)["containers"]
    assert [variable["name"] for variable in container["env"] if "valueFrom" in variable] == ["DAGSTER_PG_PASSWORD"]


def test_one_key_of_the_instance_is_not_written_twice() -> None:
    given = values()
    assert given["dagsterDaemon"]["runRetries"] == {"enabled": False}
    assert "concurrency" not in given
