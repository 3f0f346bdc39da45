"""The asset checks: what passes, what fails, and what of it stops the assets downstream."""

# No postponed annotations in this module: Dagster reads those of assets as types.

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from luma_pipeline.dataset import Dataset, GenerationsVerdict, Verdict, VideosVerdict
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.engine.report import row_faults
from luma_pipeline.orchestration.checks import build_checks
from luma_pipeline.orchestration.evaluations import Thresholds
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Answer, Generation, Oddity
from tests.world import World, evaluations, failure

DAY = "2024-12-24"
CHECKS = {"one_row_per_task", "failed_share", "not_found_share", "error_share", "schema_drift", "videos_in_bucket"}
CHECKS |= {"answers_match_tasks", "videos_match_answers", "bucket_matches_manifest"}
OF_VIDEOS = {"videos_in_bucket", "videos_match_answers", "bucket_matches_manifest"}


@dataclass(frozen=True)
class Task:
    """A task of a case; `known` to the provider or not, with a living link or not."""

    state: str = "completed"
    known: bool = True
    oddities: tuple[Oddity, ...] = ()
    is_gone: bool = False


GOOD, FAILED, UNKNOWN = Task(), Task("failed"), Task(known=False)
CASES: list[tuple[str, list[Task], set[str]]] = [
    ("all is well", [GOOD, GOOD, FAILED], set()),
    ("no tasks", [], set()),
    ("most have failed", [GOOD, FAILED, FAILED], {"failed_share"}),
    ("too many are unknown", [GOOD, GOOD, UNKNOWN], {"not_found_share"}),
    ("too many answers are unreadable", [GOOD] * 4 + [Task(oddities=(Oddity.NOT_AN_OBJECT,))], {"error_share"}),
    ("a field that is on no page", [GOOD, Task(oddities=(Oddity.EXTRA_FIELDS,))], {"schema_drift"}),
    ("a link that has died", [GOOD, Task(is_gone=True)], {"videos_in_bucket"}),
]


@pytest.mark.parametrize(("tasks", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_check_fails_when_it_should_and_harms_no_run(world: World, tasks: list[Task], expected: set[str]) -> None:
    world.submit()
    for number, task in enumerate(tasks):
        task_id = f"task-{number}"
        phases = (Phase(0, task.state),)
        world.submit((task_id, f"{DAY}T0{number}:00:00Z"), known=task.known, phases=phases, oddities=task.oddities)
        if task.is_gone:
            world.cdn.revoke(world.cdn.publish(task_id).video)
    result = world.run(DAY)
    assert result.success
    evaluations = {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}
    assert set(evaluations) == CHECKS
    assert {name for name, evaluation in evaluations.items() if not evaluation.passed} == expected
    for name in expected:
        assert evaluations[name].severity is dg.AssetCheckSeverity.WARN


def test_an_answer_of_another_task_is_told_with_the_task_until_it_is_mended(world: World) -> None:
    world.submit(*((f"task-{number}", f"{DAY}T0{number}:00:00Z") for number in range(3)))
    other = {"id": "task-2", "state": "completed", "video": {"url": world.cdn.publish("task-2").video}}
    world.provider.script("task-1", [Answer.of_json(other), Answer.of_json(other), None])
    for mismatched in (1, 1, 0):
        result = world.run(DAY)
        assert result.success
        check = evaluations(world, result.run_id)["answers_match_tasks"]
        assert check.passed is (mismatched == 0)
        assert check.metadata["mismatched"].value == mismatched
        if mismatched:
            table = check.metadata["examples"]
            assert isinstance(table, dg.TableMetadataValue)
            assert [record.data["task_id"] for record in table.records] == ["task-1"]
            assert "task-1/video.mp4" not in world.object_keys()
    assert "task-1/video.mp4" in world.object_keys()


def test_a_gateway_that_numbers_otherwise_is_believed_where_a_setting_says_so(world: World) -> None:
    world.submit(("task-1", f"{DAY}T01:00:00Z"))
    own = {"id": "4711", "state": "completed", "video": {"url": world.cdn.publish("task-1").video}}
    world.provider.script("task-1", [Answer.of_json(own)])
    result = world.run(DAY, verify_task_id=False)
    assert evaluations(world, result.run_id)["answers_match_tasks"].passed
    assert [row["state"] for row in world.rows("luma_generations")] == ["completed"]


def test_thresholds_are_settings(world: World) -> None:
    world.submit(("good", f"{DAY}T01:00:00Z"))
    world.submit(("bad", f"{DAY}T02:00:00Z"), phases=(Phase(0, "failed"),))
    for limit, passed in ((0.5, True), (0.4, False)):
        result = world.run(DAY, max_failed_share=limit)
        (evaluation,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "failed_share")
        assert evaluation.passed is passed
        assert evaluation.metadata["share"].value == 0.5


def test_only_checks_of_assets_that_were_made_are_evaluated(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.run(DAY)
    for asset, expected in (("luma_tasks", set()), ("luma_videos", OF_VIDEOS)):
        result = world.run(DAY, only=[asset])
        assert {evaluation.check_name for evaluation in result.get_asset_check_evaluations()} == expected


def test_a_second_try_of_some_partitions_evaluates_the_run_as_a_whole(world: World) -> None:
    world.submit(("odd", f"{DAY}T01:00:00Z"), oddities=(Oddity.EXTRA_FIELDS,))
    world.submit(("bad", f"{DAY}T02:00:00Z"), phases=(Phase(0, "failed"),))
    world.submit(("good", "2024-12-25T01:00:00Z"))
    broken = world.directory / "data" / GENERATIONS / "date=2024-12-25" / "part-0.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1 this is no Parquet file")
    result = world.run(DAY, "2024-12-25")
    assert not result.success
    latest = evaluations(world, result.run_id)
    assert latest["one_row_per_task"].metadata["partitions"].value == 1
    assert not latest["schema_drift"].passed
    assert (latest["failed_share"].metadata["tasks"].value, latest["failed_share"].metadata["count"].value) == (2, 1)
    assert latest["videos_in_bucket"].metadata["in_bucket"].value == 1
    assert not any(evaluation.blocking for evaluation in latest.values())

    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    counts = {"luma/partitions_done": "1", "luma/partitions_failed": "1", "luma/tasks_asked": "2", "luma/copied": "1"}
    assert {name: run.tags.get(name) for name in counts} == counts

    broken.unlink()
    again = world.re_execute_from_failure(result.run_id)
    latest = evaluations(world, again.run_id)
    assert latest["one_row_per_task"].metadata["partitions"].value == 2
    assert not latest["schema_drift"].passed
    assert latest["failed_share"].metadata["tasks"].value == 3
    assert latest["videos_in_bucket"].metadata["in_bucket"].value == 2


ROWS = [
    (["a", "b"], ["b", "a"], ""),
    ([], [], ""),
    (["a", "b"], ["a"], "1 missing"),
    (["a"], ["a", "a", "a"], "2 repeated"),
    (["a"], ["a", "x"], "1 without a task"),
    (["a", "b"], ["a", "a", "x"], "1 repeated, 1 missing, 1 without a task"),
    (["a"], [], "1 missing"),
    ([], ["x"], "1 without a task"),
]


@pytest.mark.parametrize(("tasks", "written", "expected"), ROWS)
def test_rows_that_are_not_one_for_each_task_are_counted(
    tmp_path: Path, tasks: list[str], written: list[str], expected: str
) -> None:
    file = Dataset(url=str(tmp_path)).partition(GENERATIONS, f"date={DAY}")
    table = pa.table({"task_id": pa.array(written, pa.string())})
    file.replace(table.schema, [table])
    ids = file.read(["task_id"])["task_id"].combine_chunks()
    assert str(row_faults(pa.array(tasks, pa.string()), ids)) == expected


@pytest.mark.parametrize(("setting", "looked_up"), [(-1, 3), (2, 2), (0, 0)])
def test_how_many_objects_are_looked_up_is_a_setting(world: World, setting: int, looked_up: int) -> None:
    world.submit(*((f"task-{number}", f"{DAY}T0{number}:00:00Z") for number in range(3)))
    result = world.run(DAY, objects_checked=setting)
    (evaluation,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "videos_in_bucket")
    assert evaluation.metadata["looked_up"].value == looked_up


OTHER_DAY = "2024-12-20"


def checked(world: World, run: dg.ExecuteInProcessResult | dg.DagsterRun) -> dict[str, dg.AssetCheckEvaluation]:
    """The evaluations of a run that has succeeded."""
    assert world.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]
    return evaluations(world, run.run_id)


def execute(world: World, *checks: str, **settings: Any) -> dg.ExecuteInProcessResult:
    """Run checks alone, as the UI's "Execute" does."""
    job = world.component(**settings).definitions().resolve_implicit_global_asset_job_def()
    keys = {key for key in job.asset_layer.asset_graph.asset_check_keys if not checks or key.name in checks}
    alone = job.get_subset(asset_selection=set(), asset_check_selection=keys)
    return alone.execute_in_process(instance=world.instance, raise_on_error=False)


def named(evaluation: dg.AssetCheckEvaluation, table: str = "wrong") -> list[str]:
    """The partitions in a table of an evaluation."""
    found = evaluation.metadata.get(table)
    return (
        [str(record.data["partition"]) for record in found.records] if isinstance(found, dg.TableMetadataValue) else []
    )


def verdict_names(world: World) -> list[str]:
    return sorted(path.name for path in (world.directory / "data" / "_verdicts").glob("20*"))


OLD: list[tuple[str, list[Task]]] = [
    ("failed_share", [GOOD] + [FAILED] * 9),
    ("not_found_share", [GOOD] * 7 + [UNKNOWN] * 3),
    ("error_share", [GOOD] * 8 + [Task(oddities=(Oddity.NOT_AN_OBJECT,))] * 2),
    ("schema_drift", [GOOD] * 9 + [Task(oddities=(Oddity.EXTRA_FIELDS,))]),
    ("videos_in_bucket", [GOOD] * 9 + [Task(is_gone=True)]),
]


@pytest.mark.parametrize(("check", "tasks"), OLD, ids=[case[0] for case in OLD])
def test_what_is_wrong_on_an_old_day_stays_wrong_after_runs_of_another_day(
    world: World, check: str, tasks: list[Task]
) -> None:
    for number, task in enumerate(tasks):
        task_id, phases = f"old-{number}", (Phase(0, task.state),)
        world.submit(
            (task_id, f"{OTHER_DAY}T0{number}:00:00Z"), known=task.known, phases=phases, oddities=task.oddities
        )
        if task.is_gone:
            world.cdn.revoke(world.cdn.publish(task_id).video)
    world.submit(*((f"new-{number}", f"{DAY}T0{number}:00:00Z") for number in range(10)))
    assert not checked(world, world.run(OTHER_DAY))[check].passed
    for _ in range(2):
        found = checked(world, world.run(DAY))
        assert {name for name, evaluation in found.items() if not evaluation.passed} == {check}
        assert named(found[check]) == [OTHER_DAY]
        assert OTHER_DAY in (found[check].description or "")
        assert found[check].metadata["partitions"].value == 2

    # Mended at its source, and run again.
    for number, task in enumerate(tasks):
        if task is not GOOD:
            world.provider.add(Generation(f"old-{number}").published(world.cdn))
    assert not checked(world, world.run(DAY))[check].passed
    found = checked(world, world.run(OTHER_DAY, config={"refresh": True, "retry_failed": True}))
    assert all(evaluation.passed for evaluation in found.values())
    assert all(evaluation.passed for evaluation in checked(world, world.run(DAY)).values())


def test_a_video_that_is_not_what_its_answer_says_is_told_with_what_both_say(world: World) -> None:
    world.submit(("small", f"{OTHER_DAY}T01:00:00Z"), width=99_999)
    world.submit(("good", f"{OTHER_DAY}T02:00:00Z"), ("new", f"{DAY}T01:00:00Z"))
    world.run(OTHER_DAY)
    check = checked(world, world.run(DAY))["videos_match_answers"]
    assert (check.passed, check.severity, named(check)) == (False, dg.AssetCheckSeverity.WARN, [OTHER_DAY])
    table = check.metadata["examples"]
    assert isinstance(table, dg.TableMetadataValue)
    [record] = table.records
    assert (record.data["partition"], record.data["task_id"]) == (OTHER_DAY, "small")
    assert str(record.data["answer"]).startswith("99999x")


def test_a_small_partition_is_judged_with_the_other_small_ones_and_a_large_one_by_itself(world: World) -> None:
    def submit(day: str, tasks: int, failed: int) -> None:
        for number in range(tasks):
            phases = (Phase(0, "failed" if number < failed else "completed"),)
            world.submit((f"{day}-{number}", f"{day}T{number:02}:00:00Z"), phases=phases)

    submit("2024-12-20", 10, 6)
    submit("2024-12-21", 9, 9)
    submit("2024-12-22", 9, 0)
    found = checked(world, world.run("2024-12-20", "2024-12-22"))["failed_share"]
    assert named(found) == ["2024-12-20"]  # of the small ones exactly half
    assert (found.metadata["share_together"].value, found.metadata["partitions_judged_together"].value) == (0.5, 2)
    submit("2024-12-23", 1, 1)
    found = checked(world, world.run("2024-12-23"))["failed_share"]
    assert named(found) == ["2024-12-23", "2024-12-21", "2024-12-20"]


def test_a_check_names_20_partitions_and_says_how_many_more_there_are(world: World) -> None:
    for day in range(1, 26):
        world.submit((f"{day}", f"2024-12-{day:02}T00:00:00Z"), phases=(Phase(0, "failed"),))
    found = checked(world, world.run("2024-12-01", "2024-12-25"))["failed_share"]
    assert named(found) == [f"2024-12-{day:02}" for day in range(25, 5, -1)]
    assert (found.metadata["wrong_partitions"].value, found.metadata["wrong_not_shown"].value) == (25, 5)


def test_a_check_that_passes_because_nothing_was_judged_says_so(world: World) -> None:
    world.submit()
    for result in (execute(world), world.run(DAY)):
        for evaluation in checked(world, result).values():
            assert evaluation.passed
            words = "no audit yet" if evaluation.check_name == "bucket_matches_manifest" else "nothing was judged"
            assert words in (evaluation.description or ""), evaluation.check_name
    world.submit(("a", f"{DAY}T01:00:00Z"))
    for evaluation in checked(world, world.run(DAY)).values():
        assert "nothing was judged" not in (evaluation.description or ""), evaluation.check_name


def test_each_part_of_a_verdict_is_renewed_by_its_own_asset_alone(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.submit(("b", f"{DAY}T02:00:00Z"), phases=(Phase(0, "failed"),))
    world.run(DAY)
    assert verdict_names(world) == [f"{DAY}.1.g2t1f.v1c"]
    world.submit(("c", f"{DAY}T03:00:00Z"))
    world.run(DAY, only=["luma_tasks", "luma_generations"])
    assert verdict_names(world) == [f"{DAY}.1.g3t1f.v1c"]
    world.run(DAY, only=["luma_videos"])
    assert verdict_names(world) == [f"{DAY}.1.g3t1f.v2c"]


def test_a_dry_run_changes_no_verdict_and_an_emptied_partition_has_one_of_zeros(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.run(DAY)
    world.submit(("b", f"{DAY}T02:00:00Z"))
    world.store.client().delete_object(Bucket=world.bucket, Key="a/video.mp4")
    assert world.run(DAY, config={"dry_run": True}).success
    assert verdict_names(world) == [f"{DAY}.1.g1t.v1c"]
    assert world.run(DAY).success
    world.unsubmit_all()
    assert not world.run(DAY).success
    assert verdict_names(world) == [f"{DAY}.1.g2t.v2c"]
    assert world.run(DAY, config={"allow_empty": True}).success
    # The objects of tasks that are gone are still in the manifest.
    assert verdict_names(world) == [f"{DAY}.1.g0t.v2c"]


def test_partitions_that_the_definition_no_longer_has_are_left_out_and_told(world: World) -> None:
    world.submit(("old", f"{OTHER_DAY}T01:00:00Z"), phases=(Phase(0, "failed"),))
    world.submit(("new", f"{DAY}T01:00:00Z"))
    assert not checked(world, world.run(OTHER_DAY))["failed_share"].passed
    found = checked(world, world.run(DAY, partitions_start="2024-12-22"))["failed_share"]
    assert found.passed
    assert found.metadata["verdicts_of_other_partitions"].value == 1


def test_a_dataset_of_an_earlier_version_is_told_as_not_judged_until_a_check_is_executed(world: World) -> None:
    days = ["2024-12-18", "2024-12-19", OTHER_DAY]
    for day in days:
        world.submit((day, f"{day}T01:00:00Z"), phases=(Phase(0, "failed" if day == OTHER_DAY else "completed"),))
    world.submit((f"{OTHER_DAY}-odd", f"{OTHER_DAY}T02:00:00Z"), oddities=(Oddity.EXTRA_FIELDS,))
    world.run(days[0], days[-1])
    before = verdict_names(world)
    for path in (world.directory / "data" / "_verdicts").iterdir():
        path.unlink()
    world.submit(("new", f"{DAY}T01:00:00Z"))
    for _ in range(2):
        found = checked(world, world.run(DAY))
        del found["bucket_matches_manifest"]  # an audit's, not a verdict's
        for evaluation in found.values():
            assert (evaluation.metadata["not_yet_judged"].value, evaluation.passed) == (3, True)
            assert "3 partitions of an earlier version are not yet judged" in (evaluation.description or "")
    drift = checked(world, execute(world, "schema_drift"))["schema_drift"]
    assert (named(drift), drift.metadata["partitions"].value) == ([OTHER_DAY], 4)
    assert "not_yet_judged" not in drift.metadata
    assert verdict_names(world)[:3] == before
    assert "not_yet_judged" not in checked(world, world.run(DAY))["schema_drift"].metadata


def test_a_name_that_is_no_verdict_is_told(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.run(DAY)
    (world.directory / "data" / "_verdicts" / "Thumbs.db").touch()
    found = checked(world, world.run(DAY))["one_row_per_task"]
    assert (found.metadata["unknown_names"].value, found.metadata["unknown_example"].value) == (1, "Thumbs.db")


@pytest.mark.parametrize("replaced_by", [None, b"12345"], ids=["deleted", "of another size"])
def test_executing_the_check_finds_a_lost_object_which_stays_wrong_until_its_partition_is_run_again(
    world: World, replaced_by: bytes | None
) -> None:
    world.submit(("old", f"{OTHER_DAY}T01:00:00Z"), ("new", f"{DAY}T01:00:00Z"))
    world.run(OTHER_DAY)
    world.run(DAY)
    if replaced_by is None:
        world.store.client().delete_object(Bucket=world.bucket, Key="old/video.mp4")
    else:
        world.store.client().put_object(Bucket=world.bucket, Key="old/video.mp4", Body=replaced_by)
    world.provider.clear_log()
    found = checked(world, execute(world, "videos_in_bucket"))
    assert set(found) == {"videos_in_bucket"}
    check = found["videos_in_bucket"]
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.ERROR, False)
    assert (named(check), named(check, "gone")) == ([OTHER_DAY], [OTHER_DAY])
    assert "old/video.mp4" in str(check.metadata["gone"].value)
    assert check.metadata["looked_up"].value == 2
    assert world.provider.requests == []

    for _ in range(2):
        check = checked(world, world.run(DAY))["videos_in_bucket"]
        assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.ERROR, False)
        assert named(check) == [OTHER_DAY]
    check = checked(world, world.run(OTHER_DAY))["videos_in_bucket"]
    if replaced_by is None:
        assert check.passed
        assert "old/video.mp4" in world.object_keys()
    else:
        assert not check.passed  # what is not ours is not written over


def test_executing_the_check_over_all_objects_sees_one_that_was_put_back(world: World) -> None:
    world.submit(("old", f"{OTHER_DAY}T01:00:00Z"), ("new", f"{DAY}T01:00:00Z"))
    world.run(OTHER_DAY, DAY)
    client = world.store.client()
    body = client.get_object(Bucket=world.bucket, Key="old/video.mp4")["Body"].read()
    client.delete_object(Bucket=world.bucket, Key="old/video.mp4")
    assert not checked(world, execute(world, objects_checked=-1))["videos_in_bucket"].passed
    client.put_object(Bucket=world.bucket, Key="old/video.mp4", Body=body)
    assert checked(world, execute(world, objects_checked=-1))["videos_in_bucket"].passed


def test_a_sample_of_a_partition_does_not_clear_what_the_look_at_all_of_it_has_found(world: World) -> None:
    world.submit(*((f"{number}", f"{DAY}T{number:02}:00:00Z") for number in range(12)))
    world.run(DAY)
    for number in range(3):
        world.store.client().delete_object(Bucket=world.bucket, Key=f"{number}/video.mp4")
    assert checked(world, execute(world, objects_checked=-1))["videos_in_bucket"].metadata["lost"].value == 3
    for most in (1, 0, 5):
        found = checked(world, execute(world, objects_checked=most))["videos_in_bucket"]
        assert (found.metadata["lost"].value, found.metadata["looked_up"].value) == (3, most)


def test_a_check_needs_no_token_and_no_source(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.run(DAY)
    world.provider.clear_log()
    unset: dict[str, Any] = {name: dg.EnvVar(f"LUMA_NOT_SET_{name}") for name in ("api_token", "source_url")}
    with pytest.raises(dg.DagsterInvalidConfigError, match="LUMA_NOT_SET_api_token"):
        world.run(DAY, **unset)
    assert set(checked(world, execute(world, **unset))) == CHECKS
    assert world.provider.requests == []


def test_a_store_that_does_not_answer_the_check_is_told_by_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    world.run(DAY)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    check = checked(world, execute(world))["videos_in_bucket"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "127.0.0.1:9" in str(check.metadata["not_looked_up"].value)
    assert "The store could not be asked" in (check.description or "")


def test_a_dataset_that_cannot_be_read_is_told_with_the_setting(world: World) -> None:
    (world.directory / "data").write_text("a file, not a folder")
    result = execute(world)
    assert not result.success
    said = failure(result)
    assert "the checks could not be evaluated" in said
    assert "LUMA_DATA_URL" in said


def test_a_run_that_stops_leaves_the_alarms_on(world: World) -> None:
    world.submit(*((f"{number}", f"{OTHER_DAY}T0{number}:00:00Z") for number in range(2)), phases=(Phase(0, "failed"),))
    world.run(OTHER_DAY)
    world.submit(("a", f"{DAY}T01:00:00Z"))
    result = world.run(DAY, api_token="wrong")
    assert not result.success
    found = evaluations(world, result.run_id)
    assert set(found) == CHECKS
    assert named(found["failed_share"]) == [OTHER_DAY]


@pytest.mark.parametrize("is_good", [True, False])
def test_the_log_of_a_run_has_no_lines_about_outputs_that_are_missing_and_no_key_of_dagsters_own(
    world: World, is_good: bool
) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    if not is_good:
        broken = world.directory / "data" / GENERATIONS / f"date={DAY}" / "part-0.parquet"
        broken.parent.mkdir(parents=True)
        broken.write_bytes(b"PAR1 this is no Parquet file")
    result = world.run(DAY)
    assert result.success is is_good
    records = world.instance.all_logs(result.run_id)
    text = "\n".join(dg.serialize_value(record) for record in records)
    assert "did not yield" not in text
    assert "__source_asset_observation__" not in text
    kinds = [record.dagster_event.event_type_value for record in records if record.dagster_event is not None]
    assert kinds.count("ASSET_MATERIALIZATION") == (3 if is_good else 0)
    assert kinds.count("ASSET_CHECK_EVALUATION") == len(CHECKS)


# -- what stops the assets downstream ---------------------------------------------------------------------------------

LOST = Verdict(GenerationsVerdict(tasks=2), VideosVerdict(in_bucket=2, lost=1))
MISSING = Verdict(GenerationsVerdict(tasks=2, missing=1), VideosVerdict(in_bucket=2))
WELL = Verdict(GenerationsVerdict(tasks=2), VideosVerdict(in_bucket=2))


@pytest.mark.parametrize(
    ("of_run", "of_other", "wrong", "is_stopped"),
    [
        (WELL, WELL, set(), False),
        (MISSING, WELL, {"one_row_per_task"}, True),
        (LOST, WELL, {"videos_in_bucket"}, True),
        (WELL, MISSING, {"one_row_per_task"}, False),
        (WELL, LOST, {"videos_in_bucket"}, False),
    ],
)
def test_a_fault_stops_the_assets_downstream_of_its_own_partition_alone(
    tmp_path: Path, s3_environment: object, of_run: Verdict, of_other: Verdict, wrong: set[str], is_stopped: bool
) -> None:
    ran: list[str] = []
    partitions = partitions_definition(Frequency.DAILY, "2024-12-01", "UTC")
    url = str(tmp_path)

    @dg.multi_asset(
        name="luma_pipeline",
        specs=[dg.AssetSpec(name, partitions_def=partitions) for name in (GENERATIONS, VIDEOS)],
    )
    def made(context: dg.AssetExecutionContext) -> Iterator[Any]:
        for key, verdict in ((OTHER_DAY, of_other), (context.partition_key, of_run)):
            Dataset(url=url).verdicts().of(key).put(verdict)
        for name in (GENERATIONS, VIDEOS):
            yield dg.MaterializeResult(asset_key=name)

    @dg.asset(deps=[VIDEOS, GENERATIONS], partitions_def=partitions)
    def downstream() -> None:
        ran.append("downstream")

    definitions = dg.Definitions(
        assets=[made, downstream],
        asset_checks=[build_checks(partitions, Thresholds(), objects=0)],
        resources={"luma_dataset": LumaDataset(url=url), "luma_bucket": VideoBucket(bucket="lake")},
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(partition_key=DAY, raise_on_error=False)
    assert ran == ([] if is_stopped else ["downstream"])
    assert result.success is not is_stopped
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert {name for name, evaluation in found.items() if not evaluation.passed} == wrong
    for name in wrong:
        assert (found[name].severity, found[name].blocking) == (dg.AssetCheckSeverity.ERROR, is_stopped)
