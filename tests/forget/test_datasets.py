"""Rows of forgotten tasks in checkpoints, in reports of audits, and in old versions of files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from luma_pipeline.audit import AUDIT, AUDIT_SCHEMA
from luma_pipeline.dataset import AuditSummary, Dataset
from luma_pipeline.forget import ForgetRequest, ForgetRequestError, ForgetSettings, forget_tasks
from luma_pipeline.forget.records import RECORDS_SCHEMA
from luma_pipeline.media import TransferConfig
from luma_pipeline.orchestration.instance import Instance
from tests.forget.forgetting import DAY, forget, keep_versions, submit, traces
from tests.world import World

GONE = "gone-4711"
OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


def answers(*task_ids: str) -> pa.Table:
    return pa.table({"task_id": list(task_ids), "state": ["completed"] * len(task_ids)})


def test_checkpoints_lose_the_rows_and_keep_those_of_others(world: World) -> None:
    checkpoints = Dataset(url=str(world.directory / "data")).checkpoints("luma_generations", f"date={DAY}")
    checkpoints.save(answers("a", GONE))
    checkpoints.save(answers("b"))
    checkpoints.save(answers(GONE), refresh_since=datetime(2024, 12, 24, tzinfo=UTC))
    damaged = Path(checkpoints.save(answers("c")))
    damaged.write_bytes(damaged.read_bytes()[:50])
    report = forget(world, GONE)
    shards = checkpoints.shards(OLDEST)
    assert sorted(checkpoints.load(shard.path)["task_id"].to_pylist() for shard in shards) == [["a"], ["b"]]
    assert report.counts.checkpoint_rows == 2
    assert report.unreached == []


def test_a_run_takes_up_what_a_killed_run_has_answered_of_others(world: World) -> None:
    """A checkpoint with rows of a forgotten task, saved by a run that was killed after the forgetting."""
    submit(world, "a", GONE)
    world.run(DAY)
    dataset = Dataset(url=str(world.directory / "data"))
    rows = dataset.partition("luma_generations", f"date={DAY}").read()
    forget(world, GONE)
    checkpoints = dataset.checkpoints("luma_generations", f"date={DAY}")
    checkpoints.save(rows)
    assert world.run(DAY, config={"refresh": True}).success
    assert checkpoints.shards(OLDEST) == []
    assert traces(world, GONE) == []


def test_reports_of_audits_lose_the_rows_that_name_a_task(world: World) -> None:
    dataset = Dataset(url=str(world.directory / "data"))
    now = datetime.now(UTC)
    common = {"kind": "orphaned", "severity": "warning", "repaired": False, "audited_at": now}
    rows = [
        {**common, "task_id": GONE, "key": "x"},
        {**common, "key": f"{GONE}/video.mp4"},
        {**common, "task_id": "a", "found": f"the same bytes as {GONE}/video.mp4, 4711 bytes"},
        {**common, "task_id": "a", "key": "a/video.mp4"},
        {**common, "task_id": f"{GONE}0", "key": f"{GONE}0/video.mp4"},
    ]
    file = dataset.partition(AUDIT, "audit=2024-12-24T000000Z")
    file.replace(AUDIT_SCHEMA, [pa.Table.from_pylist(rows, AUDIT_SCHEMA)])
    examples = [{"kind": "orphaned", "what": f"{name}/video.mp4"} for name in (GONE, "a")]
    dataset.audits().put_last(AuditSummary(now, examples=examples))
    report = forget(world, GONE)
    assert file.read(["task_id"])["task_id"].to_pylist() == ["a", f"{GONE}0"]
    assert report.counts.report_rows == 1
    last = dataset.audits().last()
    assert last is not None
    assert [example["what"] for example in last.examples] == ["a/video.mp4"]


def test_old_versions_of_the_datasets_files_go_too(world: World) -> None:
    lake = f"{world.bucket}-lake"
    world.store.create_bucket(lake)
    keep_versions(world, lake)
    world.settings["data_url"] = f"s3://{lake}/data"
    submit(world, GONE, "kept")
    world.run(DAY)
    submit(world, "later")
    world.run(DAY)
    checkpoints = Dataset(url=f"s3://{lake}/data").checkpoints("luma_generations", f"date={DAY}")
    checkpoints.remove([checkpoints.save(answers(GONE))])
    assert len(traces(world, GONE, lake)) > 6
    forget(world, GONE)
    assert traces(world, GONE, lake) == []


def test_a_file_that_cannot_be_read_is_told_with_the_rest_done(world: World) -> None:
    submit(world, GONE, "kept")
    world.run(DAY)
    damaged = world.directory / "data" / "luma_tasks" / "date=2024-12-01" / "part-0.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no Parquet")
    report = forget(world, GONE)
    (left,) = report.unreached
    assert "cannot be read as Parquet" in left.reason
    assert report.counts.generation_rows == 1
    assert (world.rows("luma_forgotten")[0]["is_complete"]) is False


def test_a_bucket_that_is_not_there_is_told_with_the_rest_done(world: World) -> None:
    submit(world, GONE, "kept")
    world.run(DAY)
    root = str(world.directory / "data")
    report = forget_tasks(ForgetSettings(root, TransferConfig(bucket="no-such-bucket")), ForgetRequest.of([GONE]))
    told = {each.what: each.reason for each in report.unreached}
    assert "does not exist" in told["bucket no-such-bucket"]
    assert [row["task_id"] for row in world.rows("luma_generations")] == ["kept"]
    # The bucket of the manifest's rows is known all the same.
    assert world.object_keys() == {"kept/video.mp4"}
    assert Dataset(url=root).tombstones().now().has(GONE)


@pytest.mark.parametrize("text", ["two\nlines", "x" * 1001])
def test_a_reason_is_one_line(text: str) -> None:
    with pytest.raises(ForgetRequestError, match="reason: up to 1000 printable characters on one line"):
        ForgetRequest.of(["a"], reason=text)


def test_the_records_hold_no_id() -> None:
    assert "task_id" not in RECORDS_SCHEMA.names


def test_the_job_has_the_name_of_its_instance(world: World) -> None:
    job = world.component(name="eu").definitions().resolve_job_def("eu_luma_forget")
    assert job.name == Instance("eu").forget_name
