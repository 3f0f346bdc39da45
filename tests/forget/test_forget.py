"""A forgotten task is gone from everywhere, and stays gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.dataset import Dataset, GenerationsVerdict, Verdict, VideosVerdict, digest_of
from luma_pipeline.forget import ForgetRequest, forget_tasks, restore_tasks
from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.provider import ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from luma_pipeline.sandbox.server import Answer, Request
from tests.forget.forgetting import (
    DATASETS,
    DAY,
    NEXT_DAY,
    forget,
    keep_versions,
    numbers,
    records,
    run_job,
    said,
    settings_of,
    submit,
    task_ids,
    traces,
    versions,
)
from tests.world import World, evaluations, failure, materialized, metadata

GONE = "gone-4711"


def test_a_forgotten_task_is_gone_and_stays_gone_through_a_refresh_and_a_backfill(world: World) -> None:
    world.settings |= {"gallery_enabled": True, "artifacts": ["video", "thumbnail"]}
    keep_versions(world)
    submit(world, "kept", GONE, "other")
    submit(world, "next", day=NEXT_DAY)
    assert world.run(DAY, NEXT_DAY).success
    assert world.run(DAY, config={"overwrite": True}).success
    # The manifests, the objects in two versions, the pages, the entry and the index of the gallery.
    assert len(traces(world, GONE)) >= 8, traces(world, GONE)

    result = run_job(world, task_ids=[GONE], reason="ticket 12", requested_by="privacy desk")

    assert result.success, failure(result)
    assert traces(world, GONE) == []
    for name in DATASETS:
        assert sorted(set(task_ids(world, name))) == ["kept", "next", "other"]
    found = numbers(result)
    assert (found["removed_objects"], found["removed_versions"], found["removed_video_rows"]) == (2, 4, 2)
    assert (found["partitions_written"], found["gallery_partitions_written"], found["unknown_tasks"]) == (1, 1, 0)
    assert materialized(world, result.run_id) == [(name, DAY) for name in sorted(DATASETS)]
    asked = len(world.provider.requests)
    refreshed = world.run(DAY, NEXT_DAY, config={"refresh": True, "verify": True, "retry_failed": True})
    assert refreshed.success
    assert {task for request in world.provider.requests[asked:] for task in request.task_ids} == {
        "kept",
        "other",
        "next",
    }
    assert metadata(world, refreshed.run_id, "luma_tasks", DAY)["forgotten"] == 1
    assert traces(world, GONE) == []
    assert all(evaluation.passed for evaluation in evaluations(world, refreshed.run_id).values())
    (record,) = records(world)
    assert record["id_sha256"] == digest_of(GONE).hex()
    assert (record["reason"], record["requested_by"], record["run_id"]) == ("ticket 12", "privacy desk", result.run_id)
    assert (record["versions"], record["generation_rows"], record["is_complete"]) == (4, 1, True)


def test_a_partition_whose_tasks_are_all_forgotten_is_empty_and_its_checks_pass(world: World) -> None:
    submit(world, "a", "b")
    world.run(DAY)
    before = Dataset(url=str(world.directory / "data")).partition("luma_generations", f"date={DAY}")
    with before.open() as reader:
        schema = reader.schema
    forget(world, "a", "b")
    with before.open() as reader:
        assert reader.schema.equals(schema, check_metadata=True)
    again = world.run(DAY, config={"refresh": True})
    assert again.success, failure(again)
    assert [task_ids(world, name) for name in DATASETS] == [[], [], []]
    assert world.object_keys() == set()
    assert all(evaluation.passed for evaluation in evaluations(world, again.run_id).values())


def test_what_the_files_say_agrees_after_rows_are_taken_out(world: World) -> None:
    """A run over the rest finds nothing to write: rows, digests and verdicts are those that it would write itself."""
    submit(world, "a", "b", GONE)
    world.run(DAY)
    forget(world, GONE)
    root = world.directory / "data"
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "_tomb" not in str(path)}
    verdicts = Dataset(url=str(root)).verdicts().listed().by_mark
    assert verdicts[DAY] == Verdict(GenerationsVerdict(tasks=2), VideosVerdict(in_bucket=2))
    again = world.run(DAY)
    assert metadata(world, again.run_id, "luma_tasks", DAY)["forgotten"] == 1
    changed = [str(path.relative_to(root)) for path in files if path.stat().st_mtime_ns != files[path]]
    assert [name for name in changed if name.startswith(("luma_", "_verdicts"))] == []


def test_a_dry_run_says_what_would_be_removed_and_touches_nothing(world: World) -> None:
    keep_versions(world)
    submit(world, "kept", GONE)
    world.run(DAY)
    world.run(DAY, config={"overwrite": True})
    root = world.directory / "data"
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    objects = versions(world)
    result = run_job(world, task_ids=[GONE], dry_run=True)
    assert result.success
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == files
    assert versions(world) == objects
    found = numbers(result)
    counts = {name.removeprefix("would_remove_"): count for name, count in found.items() if name.startswith("would_")}
    assert {name: count for name, count in counts.items() if count and name != "size_bytes"} == {
        "objects": 1,
        "versions": 2,
        "task_rows": 1,
        "generation_rows": 1,
        "video_rows": 1,
    }
    for key, version in objects:
        assert (f"s3://{world.bucket}/{key} version {version}" in said(world, result)) == (GONE in key)


def test_a_version_under_a_lock_is_told_with_the_rest_done_and_goes_when_the_lock_is_gone(world: World) -> None:
    client, bucket = world.store.client(), f"{world.bucket}-locked"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    world.bucket = bucket
    submit(world, GONE, "second", "kept")
    world.run(DAY)
    key = f"{GONE}/video.mp4"
    client.put_object_legal_hold(Bucket=bucket, Key=key, LegalHold={"Status": "ON"})

    result = run_job(world, task_ids=[GONE, "second"])

    assert not result.success
    assert f"s3://{bucket}/{key} version" in failure(result)
    assert "AccessDenied" in failure(result)
    assert {key for key, _ in versions(world)} == {key, "kept/video.mp4"}
    assert [task_ids(world, name) for name in DATASETS] == [["kept"]] * 3
    of_gone, of_second = sorted(records(world), key=lambda row: row["id_sha256"] != digest_of(GONE).hex())
    assert (of_gone["is_complete"], of_gone["versions"], of_second["is_complete"]) == (False, 0, True)
    assert GONE not in str(records(world))
    assert run_job(world, task_ids=[GONE, "second"]).success is False
    assert len(records(world)) == 2

    client.put_object_legal_hold(Bucket=bucket, Key=key, LegalHold={"Status": "OFF"})
    assert run_job(world, task_ids=[GONE]).success
    assert {key for key, _ in versions(world)} == {"kept/video.mp4"}
    assert [row["is_complete"] for row in records(world) if row["id_sha256"] == of_gone["id_sha256"]] == [False, True]


def test_ids_come_from_a_table_and_what_is_none_is_told_with_the_rest_done(world: World) -> None:
    submit(world, "a", "b", "c", "kept")
    world.run(DAY)
    with sqlite3.connect(world.directory / "source.db") as connection:
        connection.execute("CREATE TABLE gdpr (ident, state TEXT)")
        rows = [("a", "new"), ("a", "new"), (None, "new"), (" ", "new"), (b"x", "new"), ("kept", "done"), (7, "new")]
        connection.executemany("INSERT INTO gdpr VALUES (?, ?)", rows)
    result = run_job(world, task_ids=["b", "nobody"], table="gdpr", column="ident", where="state = 'new'")
    assert not result.success
    assert "2 blank IDs were given, and left out. 1 values that are no task IDs" in failure(result)
    assert [task_ids(world, name) for name in DATASETS] == [["c", "kept"]] * 3
    text = said(world, result)
    assert "nothing was found of 2 of 4 tasks" in text
    assert digest_of("nobody").hex() in text
    assert Dataset(url=str(world.directory / "data")).tombstones().now().has("nobody")
    missing = run_job(world, task_ids=["c"], table="gdpr_requests")
    assert "there is no table 'gdpr_requests' (table) in the source database; there is: gdpr" in failure(missing)
    assert [task_ids(world, name) for name in DATASETS] == [["kept"]] * 3
    assert run_job(world, task_ids=["nobody"]).success
    assert len([row for row in records(world) if row["id_sha256"] == digest_of("nobody").hex()]) == 1


ODD = ["a", "a.b", "ab", "a/b", "a-video", "ä ö", "..", "~", "x" * 300, "a\nb", "video"]


TEMPLATES = [
    "{task_id}-{artifact}.{extension}",
    pytest.param("{task_id}/{artifact}.{extension}", marks=pytest.mark.deployment),
    pytest.param("{artifact}/{task_id}.{extension}", marks=pytest.mark.deployment),
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_of_ids_that_begin_alike_or_are_odd_exactly_the_forgotten_go(world: World, template: str) -> None:
    """All videos are the same file: what has the same digest is an object of its own."""
    world.settings |= {"key_template": template}
    submit(world, *ODD)
    world.run(DAY)
    keys = {row["task_id"]: row["key"] for row in world.rows("luma_videos")}
    assert len(set(keys.values())) == len(ODD)
    for number in (0, 1):
        gone, kept = ODD[number : len(ODD) : 2], ODD[1 - number : len(ODD) : 2]
        root = str(world.directory / "data")
        forget_tasks(settings_of(world, key_template=template), ForgetRequest.of(gone))
        assert world.object_keys() == {keys[task_id] for task_id in kept}
        assert sorted(task_ids(world, "luma_videos")) == sorted(kept)
        if number == 0:
            restore_tasks(root, ForgetRequest.of(gone))
            world.run(DAY)
            assert world.object_keys() == set(keys.values())


def test_objects_of_earlier_settings_go_too(world: World) -> None:
    """Under another template and prefix, in another bucket, and without a row, as a killed run leaves them."""
    first = f"{world.bucket}-first"
    world.store.create_bucket(first)
    submit(world, GONE, "kept")
    old: dict[str, Any] = {"key_template": "{artifact}/{task_id}.{extension}", "s3_prefix": "old{1}"}
    world.run(DAY, s3_bucket=first, **old)
    world.run(DAY, **old)
    submit(world, "other", day=NEXT_DAY)
    world.run(DAY, NEXT_DAY, config={"overwrite": True})
    client = world.store.client()
    client.put_object(Bucket=world.bucket, Key=f"old{{1}}/thumbnail/{GONE}.jpg", Body=b"left by a killed run")
    client.put_object(Bucket=world.bucket, Key=f"{GONE}/notes.txt", Body=b"another's")
    # The manifest has lost the old keys of this day; another day shows how they were made.
    world.run(NEXT_DAY, config={"overwrite": True}, **old)
    forget(world, GONE)
    left = world.object_keys()
    assert {key for key in left if GONE in key} == {f"{GONE}/notes.txt"}
    assert len(left) > 3


def test_restoring_a_task_brings_back_what_the_provider_has(world: World) -> None:
    submit(world, GONE, "kept")
    world.run(DAY)
    forget(world, GONE)
    assert numbers(run_job(world, task_ids=[GONE, "kept"], restore=True, dry_run=True))["tombstones_removed"] == 1
    world.run(DAY)
    assert task_ids(world, "luma_videos") == ["kept"]
    assert numbers(run_job(world, task_ids=[GONE], restore=True))["tombstones_removed"] == 1
    world.run(DAY)
    assert [sorted(task_ids(world, name)) for name in DATASETS] == [[GONE, "kept"]] * 3
    assert forget(world, GONE).counts.objects == 1


def test_without_an_id_what_came_back_from_a_backup_is_forgotten_again(world: World) -> None:
    submit(world, GONE, "kept")
    world.run(DAY)
    root = world.directory / "data"
    backup = {path: path.read_bytes() for path in root.rglob("part-0.parquet")}
    objects = world.objects()
    forget(world, GONE)
    for path, content in backup.items():
        path.write_bytes(content)
    for key, body in objects.items():
        world.store.client().put_object(Bucket=world.bucket, Key=key, Body=body)
    result = run_job(world)
    assert result.success
    assert "1 tasks that were forgotten earlier had rows again" in said(world, result)
    assert traces(world, GONE) == []
    assert len(records(world)) == 2


class _Hook:
    """Something that is done once, while a server is asked for something."""

    def __init__(self) -> None:
        self.do: Callable[[], object] | None = None

    @property
    def is_done(self) -> bool:
        return self.do is None

    def __call__(self) -> None:
        do, self.do = self.do, None
        if do is not None:
            do()


class _Cdn(CdnServer):
    hook = _Hook()

    def _answer(self, request: Request) -> Answer:
        self.hook()
        return super()._answer(request)


class _Provider(ProviderServer):
    hook = _Hook()

    def _answer(self, request: Request) -> Answer:
        self.hook()
        return super()._answer(request)


MOMENTS = ["while it is asked for", "while it is copied", "while it is copied later", "while another is copied"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_at_work_does_not_bring_back_what_is_forgotten_meanwhile(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"meanwhile-{MOMENTS.index(moment)}"
    store.create_bucket(bucket)
    with _Cdn() as cdn, _Provider(cdn=cdn) as provider:
        world = World(tmp_path, provider, cdn, store, bucket)
        world.settings["gallery_enabled"] = True
        submit(world, GONE, "kept")
        if moment == "while it is copied later":
            world.run(DAY, only=["luma_tasks", "luma_generations"])
        elif moment == "while another is copied":
            world.run(DAY)
            submit(world, "another")
        hook = _Provider.hook if moment == "while it is asked for" else _Cdn.hook
        hook.do = lambda: forget(world, GONE)
        result = world.run(DAY)
        assert hook.is_done
        assert result.success, failure(result)
        assert traces(world, GONE) == []
        rest = ["another", "kept"] if moment == "while another is copied" else ["kept"]
        assert [sorted(task_ids(world, name)) for name in DATASETS] == [rest] * 3
        assert all(evaluation.passed for evaluation in evaluations(world, result.run_id).values())
        entries = world.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert GONE.replace("-", "\\-") not in str([entry.dagster_event for entry in entries])
