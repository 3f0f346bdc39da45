"""luma_generations: the columns of a partition made again, out of the answers that its rows keep.

A field that is new in `luma/schema.py` has no values in files that are there. They are in `raw_response` all the same.
Nobody is asked: the rows stay the same rows in their order, with the columns that this version makes of their answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pyarrow as pa

from luma_pipeline.dataset import Dataset, Forgotten, PartitionFile, PartitionReader, StaleVersionError, Written
from luma_pipeline.engine.candidates import Tasks
from luma_pipeline.engine.partition import (
    GENERATIONS,
    OPEN_MARKS,
    TASKS,
    VIDEOS,
    MissingPartitionError,
    Partition,
    PartitionReport,
    mark_of,
)
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.removal import remove_rows
from luma_pipeline.engine.report import COUNTED_COLUMNS, GenerationsReport, preview_columns
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.luma import ProviderSpec
from luma_pipeline.luma.stored_answers import reflatten

__all__ = ["ReflattenWork", "reflatten_generations", "rows_to_reflatten"]

_log = logging.getLogger(__name__)


def reflatten_generations(
    file: PartitionFile,
    tasks: Tasks | None,
    spec: ProviderSpec,
    give_up: GiveUpPolicy,
    stopping: threading.Event,
    judge: Judge | None = None,
) -> GenerationsReport:
    """Replace the partition's file by one whose typed columns are made again; not where every row stays as it is.

    The drift is that of all answers as this version reads them. `tasks` are those of luma_tasks; None where they are
    not known. Memory: one row group. If another run replaces the file meanwhile, the rows of that one are taken.

    Raises:
        UnreadableFileError: The file cannot be read.
        LumaPipelineError: `stopping` was set before the file was written.
    """
    started = time.monotonic()
    while True:
        try:
            with file.open() as reader:
                report = _Reflattening(reader, spec, stopping).write(file, tasks, give_up, judge)
        except StaleVersionError as error:
            _log.info("%s; the partition is read again", error)
        else:
            report.seconds = time.monotonic() - started
            return report


def rows_to_reflatten(file: PartitionFile, spec: ProviderSpec, stopping: threading.Event) -> int:
    """How many rows `reflatten_generations` would write; 0 where it would leave the file as it is."""
    while True:
        try:
            with file.open() as reader:
                return 0 if _Reflattening(reader, spec, stopping).unchanged() is not None else reader.rows
        except StaleVersionError:
            continue  # another run has replaced the file


@dataclass(frozen=True)
class ReflattenWork:
    """What a run that makes columns again does with each partition. Takes the place of `PartitionWork`; thread-safe.

    Of the selected `datasets` luma_generations alone is written; the others are reported as they are. `stopping` is set
    when the run is to end.
    """

    dataset: Dataset
    datasets: AbstractSet[str]
    spec: ProviderSpec
    give_up: GiveUpPolicy
    stopping: threading.Event

    def share_out(self, partitions: Sequence[Partition]) -> None:
        """See `PartitionWork.share_out`: partitions have nothing in common here."""

    def do(self, partition: Partition) -> PartitionReport:
        """Make the columns of one partition again. Raises DatasetError where one of the datasets has not got it."""
        judge = Judge(self.dataset.verdicts(), mark_of(partition.key), self.spec)
        try:
            return self._do(partition, judge)
        except BaseException:
            judge.take_back()
            raise

    def plan(self, partition: Partition) -> PartitionReport:
        """What `do` would write; writes nothing."""
        file = self._file(GENERATIONS, partition)
        return PartitionReport(partition, to_reflatten=rows_to_reflatten(file, self.spec, self.stopping), is_plan=True)

    def _do(self, partition: Partition, judge: Judge) -> PartitionReport:
        file = self._file(GENERATIONS, partition)
        left = {name: _found(self._file(name, partition)) for name in self.datasets - {GENERATIONS}}
        tasks_file, videos_file = (self.dataset.partition(name, partition.folder) for name in (TASKS, VIDEOS))
        tasks = Tasks.of(tasks_file.read(["task_id", "submitted_at"])) if tasks_file.exists() else None
        version = file.version()
        report = reflatten_generations(file, tasks, self.spec, self.give_up, self.stopping, judge)
        judge.settle()
        written: Mapping[str, Written] = {}
        forgotten = Forgotten()
        if file.version() != version:
            # After the writing, as in any run: a folder leaves a moment between the look at a file and its renaming.
            forgotten = self.dataset.tombstones().now()
            if len(forgotten):
                written = remove_rows(self.dataset, partition.folder, forgotten, self.spec, judge, [GENERATIONS])
            # What the answers say of the videos may be something else now.
            judge.judge_videos_again(videos_file, file)
            judge.settle()
        open_marks, name = self.dataset.marks(OPEN_MARKS), mark_of(partition.key)
        if report.open_tasks and open_marks.set_at(name) is None:
            open_marks.set(name)
        faults = str(report.row_faults)
        done = PartitionReport(partition, generations=report, row_faults=faults, earlier=judge.earlier, left=left)
        return done.without(forgotten, written) if written else done

    def _file(self, dataset: str, partition: Partition) -> PartitionFile:
        file = self.dataset.partition(dataset, partition.folder)
        if not file.exists():
            raise MissingPartitionError(dataset, partition)
        return file


def _found(file: PartitionFile) -> Written:
    with file.open() as reader:
        return reader.found()


class _Reflattening:
    """One version of a file, and what is counted of its answers as they are read again."""

    def __init__(self, reader: PartitionReader, spec: ProviderSpec, stopping: threading.Event) -> None:
        self._reader = reader
        self._spec = spec
        self._stopping = stopping
        self._report = GenerationsReport()

    def write(
        self, file: PartitionFile, tasks: Tasks | None, give_up: GiveUpPolicy, judge: Judge | None
    ) -> GenerationsReport:
        """Replace the file, or leave it as it is; the verdict is put in both cases."""
        schema = self._spec.schema
        written = self.unchanged()
        report = self._report
        rows = self._counted_again() if written is not None else (new for _, new in self._again())
        rows = report.counted(rows, tasks, give_up)
        rows = rows if judge is None else judge.on_reflattened(rows, report)
        if written is None:
            # All columns: whoever reads the data version is to see that one of them was filled.
            written = file.replace(schema, rows, schema.names, self._reader.version)
        else:
            deque(rows, maxlen=0)
        report.written, report.kept = written, written.rows
        return report

    def unchanged(self) -> Written | None:
        """What is told of the file where each of its rows stays as it is; None where it is to be written."""
        written = self._reader.written(self._spec.schema)
        typed = [field.name for field in self._spec.fields]
        if written is not None and any(not new.select(typed).equals(old.select(typed)) for old, new in self._again()):
            return None
        return written

    def _again(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Each row group as it is and as it is made now; counts its answers and their drift."""
        report = self._report
        report.reflattened, report.without_answer, report.drift = 0, 0, {}
        for old in self._reader.batches(schema=self._spec.schema):
            if self._stopping.is_set():
                raise LumaPipelineError("the run was stopped before its rows were written")
            found = reflatten(old, self._spec)
            report.reflattened += found.answers
            report.without_answer += len(old) - found.answers
            report.count_drift(found.drift)
            yield old, found.table
            del old, found  # not held while the next is made

    def _counted_again(self) -> Iterator[pa.Table]:
        columns = dict.fromkeys([*COUNTED_COLUMNS, *preview_columns(self._spec.schema)])
        return self._reader.batches(list(columns), self._spec.schema)
