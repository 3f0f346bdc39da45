"""Whatever is submitted, finished, lost and run in whatever order: the datasets and the bucket are what a model says.

The pipeline runs in this process against real servers: the sandbox's provider and CDN, and an S3 store.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from luma_pipeline import (
    EngineSettings,
    PartitionReport,
    Policies,
    ProviderConfig,
    RunOptions,
    SourceTable,
    TransferConfig,
    run_partition,
)
from luma_pipeline.dataset import DatasetError
from luma_pipeline.media import Artifact
from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import TOKEN, Answer, Generation, ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.properties.effort import TIMES, examples
from tests.properties.wild import task_ids

BUCKET = "state-machine"
DAYS = [datetime(2024, 12, 24, tzinfo=UTC), datetime(2024, 12, 25, tzinfo=UTC)]
FINAL = ("completed", "failed")
UNKNOWN = Answer.of_json({"code": "task_not_exist", "message": "no such task"}, 404)
OPTIONS = [
    *[RunOptions()] * 4,
    RunOptions(refresh=True),
    RunOptions(retry_failed=True),
    RunOptions(verify=True),
    RunOptions(limit=1),
    RunOptions(allow_empty=True),
    RunOptions(reflatten=True),
    RunOptions(dry_run=True),
    RunOptions(refresh=True, retry_failed=True, verify=True),
]


@dataclass
class Task:
    """A task: what the source and the provider say of it."""

    task_id: str
    day: int
    number: int
    is_known: bool
    state: str = "pending"
    is_alive: bool = True
    is_in_source: bool = True

    @property
    def answer(self) -> tuple[str, str | None]:
        """Outcome and state of a request for it."""
        return ("resolved", self.state) if self.is_known else ("not_found", None)


@dataclass
class Day:
    """A partition as the model has it: outcome and state by task, and whether each video is there."""

    rows: dict[str, tuple[str, str | None]] | None = None
    videos: dict[str, bool] = field(default_factory=dict)
    is_open: bool = False


class PipelineMachine(RuleBasedStateMachine):
    """The pipeline beside a model of it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.client = store.client()
        self.cdn = CdnServer().start()
        self.provider = ProviderServer(cdn=self.cdn).start()
        self.prefix = prefix
        self.tasks: dict[str, Task] = {}
        self.days = [Day(), Day()]
        self.objects: set[str] = set()
        self.gives_up = False
        with closing(self._source()) as source:
            source.execute("CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP)")

    @initialize(gives_up=st.booleans())
    def begin(self, gives_up: bool) -> None:
        """Old tasks are given up at once, or never."""
        self.gives_up = gives_up

    def teardown(self) -> None:
        self.provider.stop()
        self.cdn.stop()
        shutil.rmtree(self.folder)

    # -- what happens outside of the pipeline ------------------------------------------------------------------------

    @rule(
        task_id=task_ids.filter(lambda text: "\0" not in text), day=st.sampled_from([0, 0, 1]), is_known=st.booleans()
    )
    def submit(self, task_id: str, day: int, is_known: bool) -> None:
        if task_id in self.tasks:
            return
        task = Task(task_id, day, len(self.tasks), is_known)
        self.tasks[task_id] = task
        self._tell(task)
        with closing(self._source()) as source:
            at = (DAYS[day] + timedelta(seconds=task.number)).isoformat()
            source.execute("INSERT INTO generations VALUES (?, ?)", (task_id, at))
            source.commit()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), state=st.sampled_from(["completed", "completed", "failed"]))
    def finish(self, data: st.DataObject, state: str) -> None:
        task = self._any(data)
        if task.state == "pending":
            task.state, task.is_known = state, True
            self._tell(task)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def forget_at_the_provider(self, data: st.DataObject) -> None:
        task = self._any(data)
        task.is_known = False
        self._tell(task)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), is_alive=st.booleans())
    def expire_or_renew(self, data: st.DataObject, is_alive: bool) -> None:
        task = self._any(data)
        task.is_alive = is_alive
        urls = self.cdn.publish(task.task_id)
        if not is_alive:
            self.cdn.revoke(urls.video)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        task = self._any(data)
        task.is_in_source = False
        with closing(self._source()) as source:
            source.execute("DELETE FROM generations WHERE task_id = ?", (task.task_id,))
            source.commit()

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.objects)))
        self.objects.remove(task_id)
        self.client.delete_object(Bucket=BUCKET, Key=self._key(task_id))

    # -- runs --------------------------------------------------------------------------------------------------------

    @rule(number=st.sampled_from([0, 0, 1]), options=st.sampled_from(OPTIONS))
    def run(self, number: int, options: RunOptions) -> None:
        self.provider.clear_log()
        self.cdn.clear_log()
        expected = _Expected(self, number, options)
        error: DatasetError | None = None
        try:
            report = run_partition(self._settings(), DAYS[number], DAYS[number] + timedelta(days=1), options=options)
        except DatasetError as raised:
            error = raised
        assert (type(error).__name__ if error else "") == expected.error
        if not expected.error:
            self._look_at_report(report, expected, options)
            self.days[number] = expected.day
            self.objects = expected.objects
        asked = {task_id for request in self.provider.requests for task_id in request.task_ids}
        assert asked == expected.asked | expected.renewed
        fetched = {urlsplit(request.path).path for request in self.cdn.requests}
        assert fetched == {urlsplit(self.cdn.publish(each).video).path for each in expected.fetched}, expected.fetched
        for task in self.tasks.values():
            if not task.is_alive:
                self.cdn.revoke(self.cdn.publish(task.task_id).video)
        self._look(number)

    def _look_at_report(self, report: PartitionReport, expected: _Expected, options: RunOptions) -> None:
        if options.dry_run:
            assert report.to_ask == expected.to_ask
        elif not options.reflatten:
            assert report.generations is not None
            assert report.generations.asked == len(expected.asked)
            assert not report.row_faults

    def _look(self, number: int) -> None:
        """Look at the datasets and at the bucket from outside."""
        day, folder = self.days[number], f"date={DAYS[number]:%Y-%m-%d}"
        rows = self._rows("luma_generations", folder)
        found = None if rows is None else {row["task_id"]: (row["outcome"], row["state"]) for row in rows}
        assert found == day.rows
        assert list(found or ()) == list(day.rows or ())
        assert len(rows or ()) == len(day.rows or ())
        manifest = self._rows("luma_videos", folder) or []
        assert len(manifest) == len(day.videos)
        assert {row["task_id"]: row["key"] is not None for row in manifest} == day.videos
        assert {row["key"] for row in manifest if row["key"]} <= {self._key(task_id) for task_id in self.tasks}
        assert (self.folder / "data" / "_open" / f"{DAYS[number]:%Y-%m-%d}").exists() == day.is_open
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        assert {item["Key"] for item in listed} == {self._key(task_id) for task_id in self.objects}
        for item in listed:
            body = self.client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
            assert body == self.cdn.content(self.cdn.publish(self._task_of(item["Key"])).video)
        for task in self.tasks.values():
            if not task.is_alive:
                self.cdn.revoke(self.cdn.publish(task.task_id).video)

    def _rows(self, dataset: str, folder: str) -> list[dict[str, Any]] | None:
        path = self.folder / "data" / dataset / folder / "part-0.parquet"
        found: list[dict[str, Any]] | None = pq.ParquetFile(path).read().to_pylist() if path.exists() else None
        return found

    # -- the world ---------------------------------------------------------------------------------------------------

    def _any(self, data: st.DataObject) -> Task:
        return data.draw(st.sampled_from(list(self.tasks.values())), label="task")

    def _tell(self, task: Task) -> None:
        """Have the provider know what the model knows of a task."""
        generation = Generation(task.task_id, (Phase(0, task.state),)).published(self.cdn)
        self.provider.add(generation)
        if not task.is_alive:
            self.cdn.revoke(generation.urls.video)
        self.provider.script(task.task_id, [None if task.is_known else UNKNOWN])

    def _source(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "source.db")

    def _settings(self) -> EngineSettings:
        return EngineSettings(
            SourceTable(url=f"sqlite:///{self.folder / 'source.db'}", table="generations"),
            ProviderConfig(token=TOKEN, base_url=self.provider.base_url, requests_per_second=1e6),
            self._transfer(),
            str(self.folder / "data"),
            Policies(give_up_after_seconds=0.0 if self.gives_up else 1e10, objects_checked=0),
        )

    def _transfer(self) -> TransferConfig:
        return TransferConfig(bucket=BUCKET, prefix=self.prefix, allow_private_addresses=True, max_workers=2)

    def _key(self, task_id: str) -> str:
        return self._transfer().template.key(task_id, Artifact.VIDEO, "mp4")

    def _task_of(self, key: str) -> str:
        return next(task_id for task_id in self.tasks if self._key(task_id) == key)


class _Expected:
    """What a run over a day has to come to."""

    def __init__(self, machine: PipelineMachine, number: int, options: RunOptions) -> None:
        self._options = options
        self._tasks = machine.tasks
        before = machine.days[number]
        self.day, self.objects = before, set(machine.objects)
        self.asked: set[str] = set()
        self.renewed: set[str] = set()
        self.fetched: set[str] = set()
        self.gives_up = machine.gives_up and not options.retry_failed
        self.to_ask = 0
        tasks = sorted(
            (task for task in machine.tasks.values() if task.day == number and task.is_in_source),
            key=lambda task: task.number,
        )
        self.error = self._error(before, tasks)
        if self.error or options.reflatten:
            return
        unknown = [
            task for task in tasks if options.refresh or not self._is_final((before.rows or {}).get(task.task_id))
        ]
        to_ask = unknown[: options.limit]
        self.to_ask = len(to_ask)
        if options.dry_run:
            return
        self.asked = {task.task_id for task in to_ask}
        rows = {task.task_id: self._row(task, (before.rows or {}).get(task.task_id)) for task in tasks}
        videos = self._videos([task for task in tasks if rows[task.task_id][1] == "completed"], before.videos)
        is_open = not all(self._is_final(row) for row in rows.values()) or not all(videos.values())
        self.day = Day(rows, videos, is_open=is_open and not self.gives_up)

    def _error(self, before: Day, tasks: list[Task]) -> str:
        if self._options.reflatten:
            return "MissingPartitionError" if before.rows is None else ""
        is_emptied = not tasks and bool(before.rows) and not self._options.allow_empty
        return "EmptiedError" if is_emptied else ""

    def _is_final(self, row: tuple[str, str | None] | None) -> bool:
        return row is not None and (row[1] in FINAL or (row[0] == "not_found" and self.gives_up))

    def _row(self, task: Task, before: tuple[str, str | None] | None) -> tuple[str, str | None]:
        """The best row: a final state before any other, then the newest answer."""
        if task.task_id not in self.asked:
            return before or ("request_failed", None)
        is_kept = before is not None and before[1] in FINAL and task.answer[1] not in FINAL
        return before if is_kept and before is not None else task.answer

    def _videos(self, completed: list[Task], before: dict[str, bool]) -> dict[str, bool]:
        """Whether the video of each completed task is there; rows of other tasks stay if their object is there."""
        found = {task.task_id: self._video(task, before.get(task.task_id)) for task in completed}
        return found | {task_id: True for task_id, is_there in before.items() if is_there and task_id not in found}

    def _video(self, task: Task, before: bool | None) -> bool:
        task_id = task.task_id
        is_believed = before is True and not (self._options.verify and task_id not in self.objects)
        if is_believed:
            return True
        has_new_answer = task_id in self.asked and task.answer[1] == "completed"
        if before is False and self.gives_up and not has_new_answer:
            return False
        self.fetched.add(task_id)
        if not task.is_alive:
            self.renewed.add(task_id)
        else:
            self.objects.add(task_id)
        return task.is_alive


prefixes = itertools.count(1)


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    store.create_bucket(BUCKET)
    return store


@pytest.mark.timeout(180 * TIMES)
def test_the_datasets_and_the_bucket_are_what_the_model_says(bucket: ObjectStore) -> None:
    run_state_machine_as_test(
        lambda: PipelineMachine(bucket, f"machine-{next(prefixes)}"),  # type: ignore[arg-type]
        settings=settings(examples(6), stateful_step_count=25),
    )
