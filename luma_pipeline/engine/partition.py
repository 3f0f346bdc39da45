"""One partition, from the source table to the manifest: the steps of the way, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa

from luma_pipeline.dataset import Checkpoints, Dataset, DatasetError, Forgotten, Tombstones, Verdict, Written
from luma_pipeline.engine.datasets import DATASETS, GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.generations import (
    GenerationsReport,
    ResolvePolicy,
    refuse_to_empty,
    resolve_generations,
    tasks_to_ask,
)
from luma_pipeline.engine.looks import Looks
from luma_pipeline.engine.marks import OPEN_MARKS, UNFINISHED_MARKS, PartitionMarks
from luma_pipeline.engine.removal import remove_rows
from luma_pipeline.engine.tasks import TasksReport, read_tasks
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.engine.videos import ManifestPolicy, PartitionVideos, VideosReport, artifacts_to_copy
from luma_pipeline.engine.windows import folder_of_window, frequency_of, key_of_window
from luma_pipeline.luma import LumaClient, TaskResult
from luma_pipeline.media import MediaCopier
from luma_pipeline.source.table import SourceTable

__all__ = [
    "GENERATIONS",
    "OPEN_MARKS",
    "TASKS",
    "UNFINISHED_MARKS",
    "VIDEOS",
    "MissingPartitionError",
    "Partition",
    "PartitionReport",
    "PartitionWork",
    "key_of_mark",
    "mark_of",
]

_log = logging.getLogger(__name__)


def mark_of(partition_key: str) -> str:
    """The name of a partition's mark: its key, quoted, since an hour's key has colons."""
    return quote(partition_key, safe="")


def key_of_mark(mark: str) -> str:
    """The partition key of a mark."""
    # A key of hours has colons alone: this costs a tenth of `unquote`, which is called for each of many marks.
    key = mark.replace("%3A", ":")
    return unquote(key) if "%" in key else key


@dataclass(frozen=True)
class Partition:
    """A partition's key, its folder in the datasets, and its window [start, end), aware."""

    key: str
    folder: str
    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime, end: datetime) -> Partition:
        """The partition of the window [start, end): a whole hour, day, week or month of the zone of `start`.

        >>> day = datetime(2024, 12, 24, tzinfo=timezone.utc)
        >>> Partition.of(day, day + timedelta(days=1)).folder
        'date=2024-12-24'

        Raises:
            ValueError: The window is none of these.
        """
        frequency = frequency_of(start, end)
        return cls(key_of_window(frequency, start), folder_of_window(frequency, start), start, end)


@dataclass(frozen=True)
class PartitionReport:
    """What was done; None for a dataset that was not selected.

    `row_faults` says how the rows of luma_generations are not one for each task; empty when they are. `to_ask` and
    `to_copy` are a dry run's answer, which `is_plan`; so is `to_reflatten`, the rows whose columns would be made again.
    `earlier` is the verdict before a file was written again. `left` are the files of selected datasets that the run
    had nothing to do with.
    """

    partition: Partition
    tasks: TasksReport | None = None
    generations: GenerationsReport | None = None
    videos: VideosReport | None = None
    row_faults: str = ""
    to_ask: int | None = None
    to_copy: int | None = None
    to_reflatten: int | None = None
    is_plan: bool = False
    earlier: Verdict = field(default_factory=Verdict)
    left: Mapping[str, Written] = field(default_factory=dict)

    @property
    def has_changed(self) -> bool:
        """Whether a file was written or something was fetched."""
        written = [part.written for part in (self.tasks, self.generations) if part is not None]
        is_one_new = any(each is not None and each.is_new for each in written)
        return is_one_new or (self.videos is not None and self.videos.has_changed)

    def without(self, forgotten: Forgotten, written: Mapping[str, Written]) -> PartitionReport:
        """This report when rows of forgotten tasks have been taken out, and what was written then."""
        return replace(
            self,
            tasks=_without(self.tasks, forgotten, written.get(TASKS)),
            generations=_without(self.generations, forgotten, written.get(GENERATIONS)),
            videos=_without(self.videos, forgotten, written.get(VIDEOS)),
        )


class MissingPartitionError(DatasetError):
    """A partition that is read has not been written."""

    def __init__(self, dataset: str, partition: Partition) -> None:
        super().__init__(f"{dataset} has no partition {partition.key}: materialize it first, or select it too")


_Report = TypeVar("_Report", TasksReport, GenerationsReport, VideosReport)


def _without(report: _Report | None, forgotten: Forgotten, written: Written | None) -> _Report | None:
    if report is None:
        return None
    preview = [row for row in report.preview if not forgotten.has(row["task_id"])]
    return replace(report, preview=preview, written=written or report.written)


class WorkProgress(Protocol):
    """Is told how far the partitions are. Called from several threads."""

    def found(self, tasks: int) -> None:
        """A partition has so many tasks, some of which may be final."""

    def answered(self) -> None:
        """A task has been asked for."""


@dataclass(frozen=True)
class PartitionWork:
    """What a run does with each of its partitions. Thread-safe: partitions are worked on side by side.

    A part that is None was not selected: what it would have made is read from the datasets. `late_rows` is how long
    after a window's end rows of it may still be committed to the source table. `checkpointed` are the folders that had
    checkpoints when the run began; None if that is not known. `looks` chooses the objects that are looked at in the
    store although the manifest knows them; None: none are.

    Tasks with a tombstone are left out. Some may get theirs while the partition is worked on: so the tombstones are
    looked at again after each file has been written, and what was brought back is taken out again.
    """

    dataset: Dataset
    source: SourceTable | None
    client: LumaClient | None
    copier: MediaCopier | None
    resolve: ResolvePolicy
    manifest: ManifestPolicy
    tombstones: Tombstones
    late_rows: timedelta = timedelta(minutes=15)
    progress: WorkProgress | None = None
    checkpointed: AbstractSet[str] | None = None
    looks: Looks | None = None

    def share_out(self, partitions: Sequence[Partition]) -> None:
        """These partitions will be worked on: what they have in common is done once."""
        if self.looks is not None:
            self.looks.share_out(len(partitions))
        if self.source is not None:
            self.source.expect(min(each.start for each in partitions), max(each.end for each in partitions))
        for marks in (self._open_marks, self._unfinished_marks):
            marks.share_out([mark_of(each.key) for each in partitions])

    @cached_property
    def _open_marks(self) -> PartitionMarks:
        return PartitionMarks(self.dataset, OPEN_MARKS)

    @cached_property
    def _unfinished_marks(self) -> PartitionMarks:
        return PartitionMarks(self.dataset, UNFINISHED_MARKS)

    def do(self, partition: Partition) -> PartitionReport:
        """Read, ask, copy and write one partition."""
        read_at = datetime.now(UTC)
        judge = Judge(self.dataset.verdicts(), mark_of(partition.key), self.manifest.spec)
        try:
            with ExitStack() as stack:
                return self._do(partition, read_at, judge, stack)
        except BaseException:
            judge.take_back()
            raise

    def _do(self, partition: Partition, read_at: datetime, judge: Judge, stack: ExitStack) -> PartitionReport:
        # Before the source is read: what comes later counts as a change, and is looked for at the end.
        forgotten = self.tombstones.recent()
        tasks, tasks_report = self._tasks(partition)
        generations_file = self.dataset.partition(GENERATIONS, partition.folder)
        videos = self._videos(partition, forgotten)
        if videos is not None:
            stack.enter_context(videos)
        generations = videos_report = None
        faults = ""
        if self.client is not None:
            tasks = tasks if tasks is not None else self._stored_tasks(partition)
            generations = resolve_generations(
                tasks,
                generations_file,
                self._checkpoints(partition),
                self.client,
                self._policy(tasks_report),
                self._on_answer(len(tasks), videos),
                judge,
                forgotten,
            )
            judge.settle()
            faults = str(generations.row_faults)
        report = PartitionReport(partition, tasks_report, generations, None, faults)
        now, report = self._take_out(forgotten, report, judge, (TASKS, GENERATIONS))
        if videos is not None:
            if generations is None:
                self._require(GENERATIONS, partition)
            is_just_read = generations is not None and generations.is_just_read and now is forgotten
            videos_report = videos.finish(generations_file, judge, is_just_read=is_just_read)
            judge.settle()
            report = replace(report, videos=videos_report)
            if videos_report.has_changed:
                now, report = self._take_out(forgotten, report, judge, DATASETS)
            if now is not forgotten:
                videos.purge(now)
        self._mark(partition, read_at, generations, videos_report)
        return replace(report, earlier=judge.earlier)

    def _take_out(
        self, known: Forgotten, report: PartitionReport, judge: Judge, names: Sequence[str]
    ) -> tuple[Forgotten, PartitionReport]:
        """Take out what this run has brought back of tasks that have been forgotten since it looked.

        Looked at after the writing: a tombstone that comes later finds the rows, since whoever sets it reads the files
        afterwards.
        """
        if not report.has_changed:
            return known, report
        now = self.tombstones.now()
        if now is known:
            return known, report
        written = remove_rows(self.dataset, report.partition.folder, now, self.manifest.spec, judge, names)
        if written:
            _log.info("tasks of partition %s were forgotten meanwhile: their rows are out again", report.partition.key)
        return now, report.without(now, written)

    def _on_answer(self, tasks: int, videos: PartitionVideos | None) -> Callable[[TaskResult, datetime], None]:
        progress = self.progress
        if progress is not None:
            progress.found(tasks)

        def on_answer(outcome: TaskResult, submitted_at: datetime) -> None:
            if progress is not None:
                progress.answered()
            if videos is not None:
                videos.copy_answer(outcome, submitted_at)

        return on_answer

    def plan(self, partition: Partition) -> PartitionReport:
        """What `do` would ask and copy; writes nothing. Raises EmptiedError where `do` would."""
        generations_file = self.dataset.partition(GENERATIONS, partition.folder)
        tasks: pa.Table | None = None
        tasks_report = to_ask = to_copy = None
        if self.source is not None:
            tasks, tasks_report = read_tasks(self.source, partition.start, partition.end, self.tombstones.recent)
            self._refuse_to_empty(tasks, tasks_report, partition)
        if self.client is not None:
            stored = tasks if tasks is not None else self._stored_tasks(partition)
            to_ask = tasks_to_ask(
                stored, generations_file, self._checkpoints(partition), self.client.spec, self.resolve
            )
        if self.copier is not None:
            manifest_file = self.dataset.partition(VIDEOS, partition.folder)
            is_asked_again = self.client is not None and self.resolve.refresh
            to_copy = artifacts_to_copy(generations_file, manifest_file, self.manifest, is_asked_again=is_asked_again)
        return PartitionReport(partition, tasks_report, to_ask=to_ask, to_copy=to_copy, is_plan=True)

    def _tasks(self, partition: Partition) -> tuple[pa.Table | None, TasksReport | None]:
        if self.source is None:
            return None, None
        file = self.dataset.partition(TASKS, partition.folder)
        table, report = read_tasks(self.source, partition.start, partition.end, self.tombstones.recent)
        self._refuse_to_empty(table, report, partition)
        return table, replace(report, written=file.replace_unless_same(table))

    def _checkpoints(self, partition: Partition) -> Checkpoints:
        folders, folder = self.checkpointed, partition.folder
        return self.dataset.checkpoints(GENERATIONS, folder, is_empty=folders is not None and folder not in folders)

    def _refuse_to_empty(self, tasks: pa.Table, report: TasksReport, partition: Partition) -> None:
        for dataset in (TASKS, GENERATIONS):
            refuse_to_empty(tasks, self.dataset.partition(dataset, partition.folder), self._policy(report))

    def _policy(self, tasks: TasksReport | None) -> ResolvePolicy:
        """Where the source has rows, all of whose tasks are an earlier partition's, nothing is lost by emptying."""
        return replace(self.resolve, allow_empty=True) if tasks is not None and tasks.source_rows else self.resolve

    def _stored_tasks(self, partition: Partition) -> pa.Table:
        self._require(TASKS, partition)
        stored = self.dataset.partition(TASKS, partition.folder).read(["task_id", "submitted_at"])
        return self.tombstones.recent().without(stored)

    def _videos(self, partition: Partition, forgotten: Forgotten) -> PartitionVideos | None:
        if self.copier is None:
            return None
        choose_look = None if self.looks is None else partial(self.looks.of, mark_of(partition.key))
        file = self.dataset.partition(VIDEOS, partition.folder)
        return PartitionVideos(self.copier, file, self.manifest, choose_look, forgotten)

    def _require(self, dataset: str, partition: Partition) -> None:
        if not self.dataset.partition(dataset, partition.folder).exists():
            raise MissingPartitionError(dataset, partition)

    def _mark(
        self,
        partition: Partition,
        read_at: datetime,
        generations: GenerationsReport | None,
        videos: VideosReport | None,
    ) -> None:
        """Leave word for the schedule and the sensor that there is something to come back for, or that there is not."""
        name = mark_of(partition.key)
        if self.looks is not None and videos is not None and videos.is_verified:
            self.looks.note(name)
        open_marks, unfinished_marks = self._open_marks, self._unfinished_marks
        if (generations and generations.open_tasks) or (videos and videos.open_artifacts):
            open_marks.set(name)
        elif generations and videos:
            open_marks.clear(name)
        if self.source is not None:
            if read_at < partition.end + self.late_rows:
                # When it is set counts from the window's end on: it tells the sensor of the last try.
                if read_at >= partition.end or not unfinished_marks.is_set(name):
                    unfinished_marks.set(name)
            elif generations:
                # Tasks that were read alone have yet to be asked for.
                unfinished_marks.clear(name)
