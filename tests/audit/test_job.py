"""The audit as a user of Dagster has it: the job, its schedule, and the check that keeps saying what it found."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.component import LumaPipelineComponent
from luma_pipeline.dataset import Dataset
from tests.audit.scene import DAY, Scene
from tests.settings import component_with
from tests.stalling import StallingProxy
from tests.world import World, evaluations, failure

CHECK = "bucket_matches_manifest"
STALLED_SECONDS = 14.0


@pytest.fixture
def scene(world: World) -> Scene:
    world.settings["audit_read_within_days"] = 0
    world.submit(*((task, f"{DAY}T01:00:00Z") for task in ("a", "b")))
    scene = Scene(world)
    assert world.run(DAY).success
    return scene


def audit(scene: Scene, config: dict[str, Any] | None = None, **settings: Any) -> dg.ExecuteInProcessResult:
    job = scene.world.component(**settings).definitions().resolve_job_def("luma_audit")
    run_config = {"ops": {"luma_audit_op": {"config": config or {}}}}
    return job.execute_in_process(instance=scene.world.instance, run_config=run_config, raise_on_error=False)


def check_of(scene: Scene, result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return evaluations(scene.world, result.run_id)[CHECK]


def tags(scene: Scene, result: dg.ExecuteInProcessResult) -> dict[str, str]:
    run = scene.world.instance.get_run_by_id(result.run_id)
    assert run is not None
    return {name: value for name, value in run.tags.items() if name.startswith("luma/")}


def test_an_audit_is_a_check_that_stays_until_the_damage_is_repaired(scene: Scene) -> None:
    world = scene.world
    well = audit(scene)
    assert (well.success, check_of(scene, well).passed) == (True, True)
    scene.delete("a")
    result = audit(scene)
    assert result.success
    check = check_of(scene, result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 missing" in (check.description or "")
    assert check.metadata["missing"].value == 1
    table = check.metadata["examples"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["what"] for record in table.records] == ["a/video.mp4"]
    assert {"luma/audited": "2", "luma/audit_errors": "1", "luma/audit_missing": "1"}.items() <= tags(
        scene, result
    ).items()

    # Any later run repeats it, also one over another day.
    world.submit(("c", "2024-12-25T01:00:00Z"))
    later = world.run("2024-12-25")
    assert (later.success, check_of(scene, later).passed) == (True, False)
    in_bucket = evaluations(world, later.run_id)["videos_in_bucket"]
    assert (in_bucket.passed, in_bucket.metadata["lost"].value) == (False, 1)

    repaired = audit(scene, {"repair": True})
    assert check_of(scene, repaired).passed
    assert check_of(scene, repaired).metadata["repaired_missing"].value == 1
    after = evaluations(world, world.run("2024-12-25").run_id)
    assert (after[CHECK].passed, after["videos_in_bucket"].passed) == (True, True)


def test_a_run_that_could_not_look_at_everything_is_red_and_says_what(scene: Scene) -> None:
    scene.manifest_path("2024-12-23").parent.mkdir()
    scene.manifest_path("2024-12-23").write_bytes(b"garbage")
    result = audit(scene)
    assert not result.success
    assert "date=2024-12-23" in failure(result)
    check = check_of(scene, result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.metadata["rows"].value == 2


def test_a_wrong_date_in_the_config_is_told(scene: Scene) -> None:
    result = audit(scene, {"first": "yesterday"})
    assert not result.success
    assert "the option first must be a date such as 2024-12-24, not 'yesterday'" in failure(result)


def test_an_interrupt_ends_an_audit_as_cancelled_within_seconds_whatever_stalls(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at: list[float] = []
    with StallingProxy(scene.world.store.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.stalled.set()

        def interrupt() -> None:
            interrupted_at.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        timer = threading.Timer(1.5, interrupt)
        timer.start()
        result = audit(scene)
        timer.join()
    assert time.monotonic() - interrupted_at[0] < STALLED_SECONDS
    run = scene.world.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.job_name, run.status) == ("luma_audit", dg.DagsterRunStatus.CANCELED)
    assert Dataset(url=scene.root).folders("luma_audit") == set()


def test_the_names_are_those_of_the_instance_and_the_schedule_is_off_unless_asked_for() -> None:
    definitions = component_with(name="eu").definitions()
    schedule = definitions.resolve_schedule_def("eu_luma_audit_schedule")
    assert (schedule.job_name, schedule.cron_schedule) == ("eu_luma_audit", "30 3 * * *")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    on = component_with(audit_enabled=True, audit_cron="0 0 * * 0", audit_repair=True, partitions_timezone="Asia/Tokyo")
    schedule = on.definitions().resolve_schedule_def("luma_audit_schedule")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 0 * * 0", "Asia/Tokyo")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert (
        LumaPipelineComponent.from_environment({"LUMA_AUDIT_READ_WITHIN_DAYS": "none"}).audit.read_within_days is None
    )
    context = dg.build_schedule_context()
    (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.run_config == {"ops": {"luma_audit_op": {"config": {"repair": True}}}}
