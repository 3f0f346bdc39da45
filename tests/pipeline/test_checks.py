"""The asset checks: what passes, what fails, and what of it stops the assets downstream."""

# No postponed annotations in this module: Dagster reads those of assets as types.

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS, Partition, PartitionReport
from luma_pipeline.engine.report import GenerationsReport, row_faults
from luma_pipeline.engine.videos import VideosReport
from luma_pipeline.media import BucketError, MediaCopier, TransferConfig
from luma_pipeline.orchestration.checks import RunChecks, Thresholds, check_specs
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Answer, Oddity
from tests.world import World, evaluations, failure

DAY = "2024-12-24"
CHECKS = {"one_row_per_task", "failed_share", "not_found_share", "error_share", "schema_drift", "videos_in_bucket"}
CHECKS |= {"answers_match_tasks"}


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
            assert [record.data["what"] for record in table.records] == ["task-1"]
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
    for asset, expected in (("luma_tasks", set()), ("luma_videos", {"videos_in_bucket"})):
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
    assert latest["videos_in_bucket"].metadata["copied"].value == 1

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
    assert latest["videos_in_bucket"].metadata["copied"].value == 2


def test_a_store_that_does_not_answer_the_check_is_told_by_it() -> None:
    checks = RunChecks(Thresholds())
    partition = Partition(DAY, f"date={DAY}", datetime(2024, 12, 24, tzinfo=UTC), datetime.now(UTC))
    checks.add(PartitionReport(partition, videos=VideosReport(to_check=[("there", 5)])))

    def sizes(_: object) -> dict[str, int | None]:
        raise BucketError("bucket 'videos' cannot be looked at")

    checks.look_up(sizes, None)
    [found] = checks.evaluations([dg.AssetCheckKey(dg.AssetKey(VIDEOS), "videos_in_bucket")])
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.metadata["not_looked_up"].value == "bucket 'videos' cannot be looked at"


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


@pytest.mark.parametrize(
    ("manifest", "gone"),
    [
        ([("there", 5)], None),
        ([("there", 4)], "has 5 bytes, the manifest says 4 bytes"),
        ([("there", 5), ("away", 9)], "is not there, the manifest says 9 bytes"),
    ],
)
def test_an_object_that_the_store_has_lost_stops_the_assets_downstream(
    world: World, manifest: list[tuple[str, int]], gone: str | None
) -> None:
    world.store.client().put_object(Bucket=world.bucket, Key="there", Body=b"12345")
    start = datetime(2024, 12, 24, tzinfo=UTC)
    checks = RunChecks(Thresholds())
    checks.add(
        PartitionReport(Partition(DAY, f"date={DAY}", start, start), None, None, VideosReport(to_check=manifest), "")
    )
    with MediaCopier(TransferConfig(bucket=world.bucket)) as copier:
        checks.look_up(copier.stored_sizes, most=None)
    (evaluation,) = checks.evaluations([dg.AssetCheckKey(dg.AssetKey(VIDEOS), "videos_in_bucket")])
    assert evaluation.passed is (gone is None)
    assert evaluation.metadata["looked_up"].value == len(manifest)
    if gone is not None:
        assert evaluation.blocking
        assert evaluation.severity is dg.AssetCheckSeverity.ERROR
        assert gone in str(evaluation.metadata["gone"].value)


@pytest.mark.parametrize(("setting", "looked_up"), [(-1, 3), (2, 2), (0, 0)])
def test_how_many_objects_are_looked_up_is_a_setting(world: World, setting: int, looked_up: int) -> None:
    world.submit(*((f"task-{number}", f"{DAY}T0{number}:00:00Z") for number in range(3)))
    result = world.run(DAY, objects_checked=setting)
    (evaluation,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "videos_in_bucket")
    assert evaluation.metadata["looked_up"].value == looked_up


def test_a_check_alone_says_how_it_is_run(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    job = world.component().definitions().resolve_implicit_global_asset_job_def()
    alone = job.get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey(VIDEOS), "videos_in_bucket")}
    )
    result = alone.execute_in_process(instance=world.instance, raise_on_error=False)
    assert not result.success
    assert "materialize it for the partitions to be checked" in failure(result)


def _report(faults: str) -> PartitionReport:
    start = datetime(2024, 12, 24, tzinfo=UTC)
    return PartitionReport(Partition(DAY, f"date={DAY}", start, start), None, GenerationsReport(), None, faults)


@pytest.mark.parametrize("faults", ["", "1 missing"])
def test_a_task_without_its_row_stops_the_assets_downstream(faults: str) -> None:
    specs = [spec for spec in check_specs() if spec.asset_key == dg.AssetKey(GENERATIONS)]
    ran: list[str] = []

    @dg.multi_asset(specs=[dg.AssetSpec(GENERATIONS)], check_specs=specs, can_subset=True)
    def made(context: dg.AssetExecutionContext) -> Iterator[Any]:
        checks = RunChecks(Thresholds())
        checks.add(_report(faults))
        yield dg.MaterializeResult(asset_key=GENERATIONS)
        yield from checks.evaluations(context.selected_asset_check_keys)

    @dg.asset(deps=[GENERATIONS])
    def downstream() -> None:
        ran.append("downstream")

    result = dg.materialize([made, downstream], raise_on_error=False)
    assert result.success is not bool(faults)
    assert ran == ([] if faults else ["downstream"])
    (evaluation,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "one_row_per_task")
    assert (evaluation.passed, evaluation.severity) == (not faults, dg.AssetCheckSeverity.ERROR)
