"""Which runs the code server's container tells as failed once more, by what a real instance keeps of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from tests.deploy.containers import DEPLOY

LOCATION = "luma_pipeline"
GIVEN_UP = "Failed to retry run"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = DEPLOY / "docker-compose" / "start_code_server.py"
    spec = importlib.util.spec_from_file_location("start_code_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def failed_run(instance: dg.DagsterInstance, location: str = LOCATION, **tags: str) -> dg.DagsterRun:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    run: dg.DagsterRun = create_run_for_test(
        instance,
        status=dg.DagsterRunStatus.STARTED,
        remote_job_origin=RemoteJobOrigin(repository, "luma_job"),
        tags=tags,
    )
    instance.report_run_failed(run, "its container ended")
    return run


def give_up(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_engine_event(GIVEN_UP, run)


def manual_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    give_up(instance, run)
    create_run_for_test(
        instance, root_run_id=run.run_id, parent_run_id=run.run_id, tags={"dagster/parent_run_id": run.run_id}
    )


def told_again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    give_up(instance, run)
    instance.report_run_failed(run, "told once more")


def given_up_twice(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    told_again(instance, run)
    give_up(instance, run)


@pytest.mark.parametrize(
    ("happened", "is_told"),
    [
        (lambda *_: None, False),
        (give_up, True),
        (told_again, False),
        (given_up_twice, True),
        (manual_retry, False),
    ],
    ids=["failed", "given up", "told again", "given up twice", "retried by hand"],
)
def test_a_run_is_told_again_where_its_retry_was_given_up(
    script: ModuleType,
    instance: dg.DagsterInstance,
    happened: Callable[[dg.DagsterInstance, dg.DagsterRun], None],
    is_told: bool,
) -> None:
    run = failed_run(instance)
    happened(instance, run)
    assert script.runs_given_up(instance, LOCATION) == [run.run_id] * is_told


def test_a_run_of_another_location_and_one_that_was_retried_are_not_told(
    script: ModuleType, instance: dg.DagsterInstance
) -> None:
    give_up(instance, failed_run(instance, "other"))
    give_up(instance, failed_run(instance, **{"dagster/auto_retry_run_id": "x"}))
    assert script.runs_given_up(instance, LOCATION) == []


def test_a_run_that_was_given_up_is_told_until_it_is_started_again(
    script: ModuleType, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_RETRY_SECONDS", 0.01)
    run = failed_run(instance)
    give_up(instance, run)
    turns = iter(range(4))

    def is_serving() -> bool:
        turn = next(turns)
        if turn == 1:
            assert not script.is_given_up(instance, run.run_id)
            give_up(instance, run)
        elif turn == 2:
            instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": "x"})
        return True

    script.tell_until_started_again(instance, [run.run_id], is_serving)
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert len(failures) == 3
    assert next(turns) == 3
