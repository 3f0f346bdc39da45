"""Whatever is submitted, finished, lost and run in whatever order: the datasets and the bucket are what a model says.

The pipeline runs in this process against real servers: the sandbox's provider and CDN, and an S3 store.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hypothesis
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

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
from luma_pipeline.dataset import Dataset, DatasetError
from luma_pipeline.dataset.verdicts import GenerationsVerdict, VideosVerdict
from luma_pipeline.media import Artifact
from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.cdn import ArtifactUrls, CdnServer
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import TOKEN, Answer, Generation, ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.properties.effort import TIMES, examples
from tests.properties.wild import task_ids

BUCKET = "state-machine"
DAYS = [datetime(2024, 12, 24, tzinfo=UTC), datetime(2024, 12, 25, tzinfo=UTC)]
FINAL = ("completed", "failed")
REFRESH = RunOptions(refresh=True)
OPTIONS = [
    *[RunOptions()] * 8,
    *[None] * 3,
    *[REFRESH] * 6,
    RunOptions(retry_failed=True),
    RunOptions(verify=True),
    RunOptions(limit=1),
    RunOptions(allow_empty=True),
    RunOptions(reflatten=True),
    RunOptions(dry_run=True),
    RunOptions(refresh=True, retry_failed=True, verify=True),
    RunOptions(refresh=True, limit=1),
]
"""Of the run that follows something that has happened; None: none follows."""


class Says(Enum):
    """What the provider answers a request for a task with."""

    STATE = None
    NOT_FOUND = Answer.of_json({"code": "task_not_exist", "message": "no such task"}, 404)
    REFUSED = Answer.of_json({"detail": "busy"}, 400)


class Row(NamedTuple):
    """A row of luma_generations."""

    outcome: str
    state: str | None = None
    link: str | None = None


NOT_ASKED = Row("request_failed")

number_of_task = st.integers(0, 3)
new_task = (
    task_ids.filter(lambda text: "\0" not in text),
    st.sampled_from([0, 1]),
    st.sampled_from(["completed", "pending", "failed", "pending", "completed", None]),
)
"""An ID, a day, and a state; None for a task that the provider does not know."""


def event(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """The name of a method of PipelineMachine, and what it is called with."""
    return st.tuples(st.just(name), *arguments)


states = st.sampled_from(["completed", "completed", "failed"])
less = event("answer_with_less", number_of_task, st.sampled_from([*Says, *Says, Says.NOT_FOUND]), st.booleans())
events = st.one_of(
    event("finish", number_of_task, states, st.booleans()),
    less,
    event("finish_all", states),
    less,
    event("expire", number_of_task),
    event("expire", number_of_task),
    event("renew", number_of_task, st.booleans()),
    event("refuse_a_living_link", number_of_task),
    event("purge_or_submit_again", number_of_task),
    event("lose", number_of_task),
    event("submit", *new_task),
    event("run", st.sampled_from([0, 0, 1])),
)


@dataclass
class Task:
    """A task: what the source, the provider and the CDN say of it."""

    task_id: str
    day: int
    number: int
    says: Says
    state: str = "pending"
    link: str = ""
    is_in_source: bool = True

    @property
    def answer(self) -> Row:
        """The row that a request for it comes to."""
        if self.says is Says.NOT_FOUND:
            return Row("not_found")
        if self.says is Says.REFUSED:
            return Row("request_failed")
        return Row("resolved", self.state, self.link if self.state == "completed" else None)


@dataclass
class Day:
    """A partition as the model has it: its rows, and what the manifest says of each video; empty: it is there."""

    rows: dict[str, Row] | None = None
    videos: dict[str, str] = field(default_factory=dict)
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
        self.links: dict[str, str] = {}
        """Of each link the task."""
        self.dead: set[str] = set()
        self.objects: dict[str, str] = {}
        """Of each task whose object is in the bucket the link that it was copied from."""
        self.gives_up = False
        with closing(self._source()) as source:
            source.execute("CREATE TABLE generations (task_id TEXT, submitted_at TIMESTAMP)")

    @initialize(gives_up=st.booleans(), tasks=st.lists(st.tuples(*new_task), min_size=2, max_size=4))
    def begin(self, gives_up: bool, tasks: list[tuple[str, int, str | None]]) -> None:
        """Old tasks are given up at once, or never."""
        self.gives_up = gives_up
        for task in tasks:
            self.submit(*task)

    @rule(what=events, options=st.sampled_from(OPTIONS))
    def happen(self, what: tuple[Any, ...], options: RunOptions | None) -> None:
        """Something happens to a task, and a run follows over its day.

        One rule, since hypothesis leaves out most of many rules in each example.
        """
        name, *arguments = what
        day = getattr(self, name)(*arguments)
        if options is not None:
            self._run(day, options)

    def teardown(self) -> None:
        self.provider.stop()
        self.cdn.stop()
        shutil.rmtree(self.folder)

    # -- what happens: each tells the day in which it does -----------------------------------------------------------

    def submit(self, task_id: str, day: int, state: str | None) -> int:
        if task_id not in self.tasks and len(self.tasks) < 4:
            says = Says.NOT_FOUND if state is None else Says.STATE
            task = Task(task_id, day, len(self.tasks), says, state or "pending")
            self.tasks[task_id] = task
            self._new_link(task)
            self._put_into_source(task)
        return day

    def finish(self, which: int, state: str, is_dead: bool) -> int:
        """A task finishes or fails, also one that has done the other before. The link may be dead from the start."""
        task = self._task(which, lambda task: not self._has_final_row(task))
        if is_dead:
            self._kill_link(task)
        return self._answer(task, Says.STATE, state)

    def finish_all(self, state: str) -> int:
        for task in self.tasks.values():
            if task.link in self.dead:
                self._new_link(task)
            self._answer(task, Says.STATE, task.state if task.state in FINAL else state)
        return self.run(0)

    def answer_with_less(self, which: int, says: Says, is_asked: bool) -> int:
        """The provider forgets a task, refuses to tell, or has it as pending, whatever it has said before."""
        day = self._answer(self._task(which, self._has_final_row), says, "pending")
        if is_asked:
            self._run(day, REFRESH)
        return day

    def expire(self, which: int) -> int:
        return self._kill_link(self._task(which, self._has_no_object))

    def renew(self, which: int, is_old_dead: bool) -> int:
        """The provider has another link, which lives."""
        task = self._task(which, self._has_no_object)
        if is_old_dead:
            self._kill_link(task)
        self._new_link(task)
        return task.day

    def refuse_a_living_link(self, which: int) -> int:
        """The link of a finished task dies before its video is copied, and the provider tells nothing of the task."""
        task = self._task(which, self._has_no_object)
        self._kill_link(task)
        self._answer(task, Says.STATE, "completed")
        self._run(task.day, RunOptions())
        return self._answer(task, Says.REFUSED, "completed")

    def purge_or_submit_again(self, which: int) -> int:
        task = self._task(which)
        if task.is_in_source:
            task.is_in_source = False
            with closing(self._source()) as source:
                source.execute("DELETE FROM generations WHERE task_id = ?", (task.task_id,))
                source.commit()
        else:
            self._put_into_source(task)
        return task.day

    def lose(self, which: int) -> int:
        """An object goes that the manifest knows."""
        task = self._task(which, lambda task: not self._has_no_object(task))
        if self.objects.pop(task.task_id, None) is not None:
            self.client.delete_object(Bucket=BUCKET, Key=self._key(task.task_id))
        return task.day

    def run(self, day: int) -> int:
        self._run(day, RunOptions())
        return day

    # -- runs --------------------------------------------------------------------------------------------------------

    def _run(self, number: int, options: RunOptions) -> None:
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
        asked = Counter(task_id for request in self.provider.requests for task_id in request.task_ids)
        assert asked == Counter(expected.asked) + Counter(expected.renewed)
        fetched = {self.cdn.base_url + urlsplit(request.path).path for request in self.cdn.requests}
        assert fetched == expected.fetched
        self._look_at_bucket()
        for each in range(len(DAYS)):
            self._look_at_day(each)
        marks = {path.name for path in (self.folder / "data" / "_open").glob("*")}
        assert marks == {f"{DAYS[each]:%Y-%m-%d}" for each, day in enumerate(self.days) if day.is_open}

    def _look_at_report(self, report: PartitionReport, expected: _Expected, options: RunOptions) -> None:
        if options.dry_run:
            assert report.to_ask == expected.to_ask
        elif not options.reflatten:
            assert report.generations is not None
            assert report.generations.asked == len(expected.asked)
            assert not report.row_faults

    def _look_at_day(self, number: int) -> None:
        """Look at the datasets from outside."""
        day, folder = self.days[number], f"date={DAYS[number]:%Y-%m-%d}"
        rows = self._rows("luma_generations", folder)
        found = {row["task_id"]: Row(row["outcome"], row["state"], row["video_url"]) for row in rows or ()}
        assert (None if rows is None else found) == day.rows
        assert [row["task_id"] for row in rows or ()] == list(day.rows or ())
        manifest = self._rows("luma_videos", folder) or []
        assert len(manifest) == len(day.videos)
        assert {row["task_id"]: row["error_code"] or "" for row in manifest} == day.videos
        for row in manifest:
            is_there = row["status"] in ("copied", "already_present")
            assert row["key"] == (self._key(row["task_id"]) if is_there else None)
            if row["task_id"] in self.objects:
                assert row["sha256"] == hashlib.sha256(self._content(row["task_id"])).hexdigest()
        verdict = Dataset(url=str(self.folder / "data")).verdicts().of(f"{DAYS[number]:%Y-%m-%d}").now
        if day.rows is not None:
            assert verdict.generations is not None
            assert verdict.videos is not None
            assert (verdict.generations, replace(verdict.videos, differing=0)) == _verdict(day)

    def _look_at_bucket(self) -> None:
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        there = {self._key(task_id): task_id for task_id in self.objects}
        assert sorted(item["Key"] for item in listed) == sorted(there)
        for key, task_id in there.items():
            assert self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == self._content(task_id)

    def _rows(self, dataset: str, folder: str) -> list[dict[str, Any]] | None:
        path = self.folder / "data" / dataset / folder / "part-0.parquet"
        found: list[dict[str, Any]] | None = (
            pq.ParquetFile(path).read(use_threads=False).to_pylist() if path.exists() else None
        )
        return found

    # -- the world ---------------------------------------------------------------------------------------------------

    def _task(self, which: int, is_liked: Callable[[Task], bool] = lambda task: True) -> Task:
        """One of the tasks that are liked, or if there is none one of all."""
        tasks = [task for task in self.tasks.values() if is_liked(task)] or [*self.tasks.values()]
        return tasks[which % len(tasks)]

    def _has_final_row(self, task: Task) -> bool:
        row = (self.days[task.day].rows or {}).get(task.task_id)
        return row is not None and row.state in FINAL

    def _has_no_object(self, task: Task) -> bool:
        return task.task_id not in self.objects

    def _answer(self, task: Task, says: Says, state: str) -> int:
        task.says, task.state = says, state
        self._tell(task)
        return task.day

    def _kill_link(self, task: Task) -> int:
        self.cdn.revoke(task.link)
        self.dead.add(task.link)
        return task.day

    def _new_link(self, task: Task) -> None:
        number = len(self.links)
        task.link = self.cdn.add(f"/videos/{number}.mp4", samples.video(f"{self.prefix} {number}"), "video/mp4")
        self.links[task.link] = task.task_id
        self._tell(task)

    def _tell(self, task: Task) -> None:
        """Have the provider know what the model knows of a task."""
        urls = ArtifactUrls(task.link, task.link, task.link, task.link)
        self.provider.add(Generation(task.task_id, (Phase(0, task.state),), urls=urls))
        self.provider.script(task.task_id, [task.says.value])

    def _put_into_source(self, task: Task) -> None:
        task.is_in_source = True
        with closing(self._source()) as source:
            at = (DAYS[task.day] + timedelta(seconds=task.number)).isoformat()
            source.execute("INSERT INTO generations VALUES (?, ?)", (task.task_id, at))
            source.commit()

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

    def _content(self, task_id: str) -> bytes:
        return self.cdn.content(self.objects[task_id])


def _verdict(day: Day) -> tuple[GenerationsVerdict, VideosVerdict]:
    """What the checks have to be told of a day."""
    rows, videos = list((day.rows or {}).values()), list(day.videos.values())
    of_rows = GenerationsVerdict(
        tasks=len(rows),
        failed=sum(row.state == "failed" for row in rows),
        not_found=sum(row.outcome == "not_found" for row in rows),
        in_error=sum(row.outcome == "request_failed" for row in rows),
    )
    of_videos = VideosVerdict(
        in_bucket=videos.count(""), expired=videos.count("link_expired"), failed=videos.count("link_unavailable")
    )
    return of_rows, of_videos


class _Expected:
    """What a run over a day has to come to."""

    def __init__(self, machine: PipelineMachine, number: int, options: RunOptions) -> None:
        self._options = options
        self._tasks = machine.tasks
        self._dead = machine.dead
        before = machine.days[number]
        self.day, self.objects = before, dict(machine.objects)
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
        videos = self._videos({each: row for each, row in rows.items() if row.state == "completed"}, before.videos)
        is_open = not all(self._is_final(row) for row in rows.values()) or any(videos.values())
        self.day = Day(rows, videos, is_open=is_open and not self.gives_up)

    def _error(self, before: Day, tasks: list[Task]) -> str:
        if self._options.reflatten:
            return "MissingPartitionError" if before.rows is None else ""
        is_emptied = not tasks and bool(before.rows) and not self._options.allow_empty
        return "EmptiedError" if is_emptied else ""

    def _is_final(self, row: Row | None) -> bool:
        return row is not None and (row.state in FINAL or (row.outcome == "not_found" and self.gives_up))

    def _row(self, task: Task, before: Row | None) -> Row:
        """The best row: a final state before any other, then the newest answer."""
        if task.task_id not in self.asked:
            return before or NOT_ASKED
        is_kept = before is not None and before.state in FINAL and task.answer.state not in FINAL
        return before if is_kept and before is not None else task.answer

    def _videos(self, completed: dict[str, Row], before: dict[str, str]) -> dict[str, str]:
        """What is said of the video of each completed task; rows of other tasks stay if their object is there."""
        found = {task_id: self._video(task_id, row.link, before.get(task_id)) for task_id, row in completed.items()}
        return found | {task_id: "" for task_id, error in before.items() if not error and task_id not in found}

    def _video(self, task_id: str, link: str | None, before: str | None) -> str:
        assert link is not None
        if before == "" and not (self._options.verify and task_id not in self.objects):
            return ""
        has_new_answer = task_id in self.asked and self._tasks[task_id].answer.state == "completed"
        if before == "link_expired" and self.gives_up and not has_new_answer:
            return "link_expired"
        self.fetched.add(link)
        if link in self._dead:
            self.renewed.add(task_id)
            renewed = self._tasks[task_id].answer
            if renewed.outcome == "request_failed":
                return "link_unavailable"
            if renewed.link in (None, link):
                return "link_expired"
            self.fetched.add(link := renewed.link or "")
            if link in self._dead:
                return "link_expired"
        self.objects[task_id] = link
        return ""


prefixes = itertools.count(1)


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    store.create_bucket(BUCKET)
    return store


# To make a failure smaller takes minutes: `make properties` does.
PHASES = (hypothesis.Phase.generate,) if TIMES == 1 else tuple(hypothesis.Phase)


@pytest.mark.timeout(180 * TIMES)
def test_the_datasets_and_the_bucket_are_what_the_model_says(bucket: ObjectStore) -> None:
    run_state_machine_as_test(
        lambda: PipelineMachine(bucket, f"machine-{next(prefixes)}"),  # type: ignore[arg-type]
        settings=hypothesis.settings(examples(8), stateful_step_count=16, phases=PHASES),
    )
