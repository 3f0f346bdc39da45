"""`reflatten`: columns made again from the answers that rows keep, with nobody asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import luma_pipeline
from luma_pipeline import EngineSettings, ProviderConfig, RunOptions, SourceTable, TransferConfig, run_partition
from luma_pipeline.dataset import Dataset
from luma_pipeline.dataset.tombstones import digest_of
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.reflatten import reflatten_generations
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.luma.schema import FIELDS, Field
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import TOKEN, Oddity
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.world import World, evaluations, failure, materialized, metadata, running_world

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"
START = datetime(2024, 12, 24, tzinfo=UTC)
REFLATTEN: dict[str, Any] = {"config": {"reflatten": True}}
WITH_USER = replace(GATEWAY, fields=(*FIELDS, Field("user_id", ("user_id",), pa.string())))
GENERATIONS = "luma_generations"


def file(world: World, dataset: str = GENERATIONS, day: str = DAY) -> Path:
    return world.directory / "data" / dataset / f"date={day}" / "part-0.parquet"


def written_at(world: World) -> dict[str, int]:
    root = world.directory / "data"
    paths = (path for path in root.rglob("*") if path.is_file() and "_verified" not in path.parts)
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in paths}


def change(world: World, day: str = DAY, drop: tuple[str, ...] = (), **values: Mapping[str, Any]) -> None:
    """Make the file one of a version without some columns, or with other values in some rows (by task)."""
    path = file(world, day=day)
    table = pq.ParquetFile(path).read()
    rows = [
        row | {name: by_task[row["task_id"]] for name, by_task in values.items() if row["task_id"] in by_task}
        for row in table.to_pylist()
    ]
    changed = pa.Table.from_pylist(rows, table.schema).drop_columns(list(drop))
    pq.write_table(changed, path)


def by_task(world: World) -> dict[str, dict[str, Any]]:
    files = (world.directory / "data" / GENERATIONS).rglob("*.parquet")
    return {row["task_id"]: row for file in files for row in pq.ParquetFile(file).read().to_pylist()}


def engine_run(world: World, spec: ProviderSpec, **options: Any) -> luma_pipeline.PartitionReport:
    settings = EngineSettings(
        SourceTable(url=world.source_url, table="generations"),
        ProviderConfig(token=TOKEN, base_url=world.provider.base_url, spec=spec),
        TransferConfig(bucket=world.bucket, allow_private_addresses=True),
        str(world.directory / "data"),
    )
    return run_partition(settings, START, START + timedelta(days=1), options=RunOptions(**options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Iterator[World]:
    """Two days that a run has done: an answer with fields that are on no page, an open task, and one not found."""
    with (
        pytest.MonkeyPatch.context() as environment,
        running_world(tmp_path_factory.mktemp("finished"), store, "videos-finished") as world,
    ):
        for name, value in store.environment().items():
            environment.setenv(name, value)
        world.submit(("odd", f"{DAY}T01:00:00Z"), oddities=(Oddity.EXTRA_FIELDS,))
        world.submit(("plain", f"{DAY}T02:00:00Z"), ("other", f"{DAY}T03:00:00Z"), ("next", f"{NEXT_DAY}T01:00:00Z"))
        world.submit(("open", f"{DAY}T04:00:00Z"), phases=(Phase(0, "pending"),))
        world.submit(("unknown", f"{DAY}T05:00:00Z"), known=False)
        assert world.run(DAY, NEXT_DAY).success
        shutil.copytree(world.directory / "data", world.directory / "as it was")
        yield world


@pytest.fixture
def done(finished: World) -> World:
    """The two days as the run has left them."""
    data = finished.directory / "data"
    shutil.rmtree(data)
    shutil.copytree(finished.directory / "as it was", data)
    finished.provider.clear_log()
    finished.cdn.clear_log()
    finished.instance = dg.DagsterInstance.ephemeral()
    return finished


def test_a_new_field_is_filled_in_for_answers_that_came_before_it(done: World) -> None:
    before, files = by_task(done), written_at(done)
    report = engine_run(done, WITH_USER, reflatten=True).generations
    assert report is not None
    assert (report.asked, report.reflattened, report.without_answer, report.kept) == (0, 4, 1, 5)
    assert (done.provider.total, done.cdn.total) == (0, 0)
    assert by_task(done) == {
        task_id: row | ({} if task_id == "next" else {"user_id": "u-20" if task_id == "odd" else None})
        for task_id, row in before.items()
    }
    assert pq.read_schema(file(done)).equals(WITH_USER.schema)
    # What is on the page is no drift any more; `prompt` and `batch_id` still are.
    assert {drift.field for drift in report.drift.values()} == {"prompt", "batch_id"}
    now = written_at(done)
    assert now.keys() ^ files.keys() == {f"_verdicts/{DAY}.1.g5t1n{count}d.v3c" for count in (2, 3)}
    assert {name for name in files.keys() & now.keys() if now[name] != files[name]} == {
        f"{GENERATIONS}/date={DAY}/part-0.parquet"
    }

    again = engine_run(done, WITH_USER, reflatten=True).generations
    assert again is not None
    assert (again.reflattened, again.written) == (4, report.written)
    assert written_at(done) == now


def test_a_field_of_the_page_is_one_line_in_one_place(done: World, tmp_path: Path) -> None:
    package = tmp_path / "changed" / "luma_pipeline"
    shutil.copytree(Path(luma_pipeline.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    schema = package / "luma" / "schema.py"
    line = '    "failure_reason": pa.string(),\n'
    text = schema.read_text()
    assert text.count(line) == 1
    schema.write_text(text.replace(line, f'{line}    "user_id": pa.string(),\n'))
    script = f"""
from luma_pipeline.definitions import defs
run = defs.resolve_implicit_global_asset_job_def().execute_in_process(
    partition_key={DAY!r}, run_config={{"ops": {{"luma_pipeline": {REFLATTEN}}}}}
)
(spec,) = [spec for spec in defs.resolve_all_asset_specs() if spec.key.path == [{GENERATIONS!r}]]
print([column.description for column in spec.metadata["dagster/column_schema"].columns if column.name == "user_id"])
"""
    environment = {**os.environ, **done.environment(), "PYTHONPATH": str(package.parent)}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(["`user_id` of the provider's answer."])
    assert by_task(done)["odd"]["user_id"] == "u-20"
    assert done.provider.total == 0


def test_all_partitions_of_a_backfill_have_their_columns_filled_and_are_reported(done: World) -> None:
    before = by_task(done)
    for day in (DAY, NEXT_DAY):
        change(done, day, drop=("video_width", "failure_reason"))
    files = written_at(done)
    result = done.run(DAY, NEXT_DAY, **REFLATTEN)
    assert result.success
    assert by_task(done) == before
    assert (done.provider.total, done.cdn.total) == (0, 0)
    changed = {name for name, at in written_at(done).items() if files.get(name) != at}
    assert changed == {f"{GENERATIONS}/date={day}/part-0.parquet" for day in (DAY, NEXT_DAY)}
    # A backfill counts a partition without a materialization as failed.
    assert materialized(done, result.run_id) == sorted(
        (asset, day) for asset in ("luma_tasks", GENERATIONS, "luma_videos") for day in (DAY, NEXT_DAY)
    )
    found = metadata(done, result.run_id, GENERATIONS, DAY)
    assert (found["columns_made_again"], found["without_readable_answer"], found["asked"]) == (4, 1, 0)
    assert metadata(done, result.run_id, "luma_videos", DAY)["dagster/partition_row_count"] == 3
    assert not evaluations(done, result.run_id)["schema_drift"].passed


def test_rows_without_an_answer_that_can_be_read_stay_as_they_are(done: World) -> None:
    lost = {"odd": None, "plain": '{"id": "plain", "sta', "open": "[1]", "other": '{"id": "other"}'}
    seen = dict.fromkeys([*lost, "unknown"], 42)
    change(done, raw_response=lost, video_width=seen, attempts=seen)
    before, files = by_task(done), written_at(done)
    result = done.run(DAY, **REFLATTEN)
    assert result.success
    assert metadata(done, result.run_id, GENERATIONS, DAY)["without_readable_answer"] == 5
    assert by_task(done) == before
    # The file that was changed by hand tells no digest, so it is written once more.
    assert written_at(done) != files


def test_nothing_is_written_where_nothing_changes_and_the_drift_is_judged_again(done: World) -> None:
    verdicts = done.directory / "data" / "_verdicts"
    (old,) = verdicts.glob(f"{DAY}*")
    old.unlink()
    files = written_at(done)
    assert done.run(DAY, NEXT_DAY, **REFLATTEN).success
    now = written_at(done)
    (new,) = verdicts.glob(f"{DAY}*")
    assert new.name == f"{DAY}.1.g5t1n3d.v"
    assert {name: at for name, at in now.items() if name in files} == files
    assert now.keys() - files.keys() == {f"_verdicts/{new.name}"}


def test_a_dry_run_says_how_many_rows_it_would_write(done: World) -> None:
    change(done, drop=("video_width",))
    files = written_at(done)
    result = done.run(DAY, NEXT_DAY, config={"reflatten": True, "dry_run": True})
    assert result.success
    assert written_at(done) == files
    found = {
        event.partition: event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    }
    assert {day: one.metadata["would_make_columns_again"].value for day, one in found.items()} == {DAY: 5, NEXT_DAY: 0}


def test_a_task_with_a_tombstone_does_not_come_back(done: World) -> None:
    Dataset(url=str(done.directory / "data")).tombstones().add([digest_of("odd")])
    change(done, drop=("video_width",))
    assert done.run(DAY, **REFLATTEN).success
    assert set(by_task(done)) == {"plain", "other", "open", "unknown", "next"}
    assert by_task(done)["plain"]["video_width"]


def test_a_run_that_is_stopped_leaves_the_file_as_it_was(done: World) -> None:
    stopping = threading.Event()

    def read(answer: Mapping[str, Any]) -> Mapping[str, Any]:
        stopping.set()
        return answer

    partition = Dataset(url=str(done.directory / "data")).partition(GENERATIONS, f"date={DAY}")
    table = partition.read()
    partition.replace(GATEWAY.schema, [table.slice(0, 2), table.slice(2)])
    before = file(done).read_bytes()
    never = GiveUpPolicy(0.0, START, never=True)
    with pytest.raises(LumaPipelineError, match="the run was stopped before its rows were written"):
        reflatten_generations(partition, None, replace(WITH_USER, read=read), never, stopping)
    assert file(done).read_bytes() == before
    stopping.clear()
    assert reflatten_generations(partition, None, WITH_USER, never, stopping).reflattened == 4


def test_videos_are_judged_beside_the_answers_as_they_are_now(done: World) -> None:
    answer = json.loads(by_task(done)["plain"]["raw_response"])
    answer["video"]["width"] += 2
    change(done, raw_response={"plain": json.dumps(answer)})
    files = written_at(done)
    result = done.run(DAY, **REFLATTEN)
    assert not evaluations(done, result.run_id)["videos_match_answers"].passed
    name = f"luma_videos/date={DAY}/part-0.parquet"
    assert written_at(done)[name] == files[name]


@pytest.mark.parametrize(
    ("config", "only", "message"),
    [
        ({"reflatten": True, "refresh": True}, None, "it does not go with refresh. Do the one in this run"),
        (
            {"reflatten": True, "limit": 3, "verify": True, "artifacts": ["video"], "dry_run": True},
            None,
            "it does not go with artifacts, limit, verify.",
        ),
        ({"reflatten": True}, ["luma_videos"], "`reflatten` makes the columns of luma_generations again: select it"),
    ],
)
def test_what_does_not_go_with_it_is_told(
    done: World, config: dict[str, Any], only: list[str] | None, message: str
) -> None:
    files = written_at(done)
    result = done.run(DAY, config=config, only=only)
    assert message in failure(result)
    assert written_at(done) == files


def test_a_partition_that_has_not_been_written_is_told_and_the_others_are_done(done: World) -> None:
    change(done, drop=("video_width",))
    result = done.run("2024-12-23", DAY, **REFLATTEN)
    assert "luma_generations has no partition 2024-12-23: materialize it first" in failure(result)
    assert by_task(done)["plain"]["video_width"]


@pytest.mark.parametrize("is_gone", [True, False], ids=["a task is forgotten", "a task is answered"])
def test_what_another_run_writes_meanwhile_is_neither_lost_nor_brought_back(done: World, is_gone: bool) -> None:
    dataset = Dataset(url=str(done.directory / "data"))
    partition = dataset.partition(GENERATIONS, f"date={DAY}")
    has_replaced = False

    def read(answer: Mapping[str, Any]) -> Mapping[str, Any]:
        nonlocal has_replaced
        if not has_replaced:
            has_replaced = True
            table = partition.read()
            other = table.slice(0, 2) if is_gone else pa.concat_tables([table, table.slice(0, 1)])
            partition.replace(GATEWAY.schema, [other])
        return answer

    engine_run(done, replace(WITH_USER, read=read), reflatten=True)
    ids = [row["task_id"] for row in pq.ParquetFile(file(done)).read().to_pylist()]
    assert ids == (["odd", "plain"] if is_gone else ["odd", "plain", "other", "open", "unknown", "odd"])
    assert by_task(done)["odd"]["user_id"] == "u-20"
