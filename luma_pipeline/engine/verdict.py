"""The engine: the verdict on a partition, counted from all of its rows as they are written.

The verdict is written before the file that it is on. So a kill at any moment leaves no file without its verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import (
    DatasetError,
    Forgotten,
    GenerationsVerdict,
    PartitionFile,
    Verdict,
    Verdicts,
    VideosVerdict,
)
from luma_pipeline.dataset.verdicts import PartitionVerdict
from luma_pipeline.engine.candidates import Tasks
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.report import COUNTED_COLUMNS, GenerationsReport
from luma_pipeline.engine.video_answers import differing_of_file
from luma_pipeline.luma import Outcome, ProviderSpec, State
from luma_pipeline.luma.stored_answers import drift_in
from luma_pipeline.media import CopyStatus

if TYPE_CHECKING:
    from luma_pipeline.engine.videos import VideosReport

__all__ = ["Judge", "generations_verdict", "judge_generations", "judge_videos", "videos_verdict"]

_NEVER = GiveUpPolicy(0.0, datetime.now(UTC), never=True)
_JUDGED_COLUMNS = ("task_id", "submitted_at", "outcome", "state", "error_code", "raw_response", "polled_at")


class Judge:
    """Puts the verdict on one partition, before the file is written. To be used by one thread at a time.

    `settle` is called when the file has been written, `take_back` when it could not be.
    """

    def __init__(self, verdicts: Verdicts, mark: str, spec: ProviderSpec) -> None:
        self._verdicts = verdicts
        self._mark = mark
        self._spec = spec
        self._stored: PartitionVerdict | None = None
        self._before: Verdict | None = None
        self.earlier = Verdict()
        """The verdict of earlier runs, as far as it has been looked up."""

    @property
    def stored(self) -> Verdict:
        """The verdict as it is kept now."""
        return self._opened().now

    def on_generations(self, rows: Iterable[pa.Table], report: GenerationsReport) -> Iterator[pa.Table]:
        """The rows that are written, which `report` counts. At their end the verdict on them is put."""
        before = self._opened().now.generations
        is_new = not report.kept and not report.resumed
        # Rows that were kept have drift only if the last verdict says so.
        is_known = is_new or (before is not None and not before.drifted and not report.resumed)
        drifted = sum(drift.count for drift in report.drift.values()) if is_known else 0
        for table in rows:
            if not is_known:
                drifted += sum(drift.count for drift in drift_in(table, self._spec))
            yield table
            del table  # not held while the next is made
        self.put(generations=generations_verdict(report, drifted))

    def on_reflattened(self, rows: Iterable[pa.Table], report: GenerationsReport) -> Iterator[pa.Table]:
        """Rows all of whose answers have been read again: `report` has counted them, and their drift."""
        yield from rows
        self.put(generations=generations_verdict(report, sum(drift.count for drift in report.drift.values())))

    def on_videos(self, rows: Iterable[pa.Table], report: VideosReport) -> Iterator[pa.Table]:
        """The rows of a manifest that are written, which `report` counts. At their end the verdict on them is put."""
        statuses: Counter[str] = Counter()
        for table in rows:
            _count(statuses, table["status"])
            yield table
        self.put(videos=videos_verdict(statuses, report.differing))

    def judge_videos_again(self, file: PartitionFile, generations_file: PartitionFile) -> None:
        """Put the verdict on a manifest that stays as it is beside other answers, if it has been judged."""
        before = self._opened().now.videos
        if before is not None and file.exists():
            self.put(videos=replace(judge_videos(file, generations_file, self._spec), lost=before.lost))

    def put(self, generations: GenerationsVerdict | None = None, videos: VideosVerdict | None = None) -> Verdict:
        """Replace the parts that are given; the others stay as they are. Returns the verdict."""
        stored = self._opened()
        if self._before is None:
            self._before = stored.now
        stored.put(Verdict(generations or stored.now.generations, videos or stored.now.videos))
        return stored.now

    def lose(self, objects: int, seen: VideosVerdict) -> Verdict:
        """Keep that so many objects of the manifest are not in the bucket. Returns the verdict.

        A verdict that is not as it was `seen` stays: a run has written the manifest since.
        """
        now = self._opened().now
        return self.put(videos=replace(seen, lost=objects)) if now.videos == seen else now

    def settle(self) -> None:
        """The file that the verdict is on has been written."""
        self._before = None

    def take_back(self) -> None:
        """The file was not written: the verdict is again what it was before. A fault is left to the next run."""
        if self._before is not None:
            with suppress(DatasetError):
                self._opened().put(self._before)
        self._before = None

    def _opened(self) -> PartitionVerdict:
        if self._stored is None:
            self._stored = self._verdicts.of(self._mark)
            self.earlier = self._stored.now
        return self._stored


def generations_verdict(report: GenerationsReport, drifted: int) -> GenerationsVerdict:
    """The verdict on the rows that `report` has counted. `drifted` values are not as on the provider's page."""
    outcomes, faults = report.outcomes, report.row_faults
    return GenerationsVerdict(
        tasks=sum(outcomes.values()),
        failed=report.states[State.FAILED.value],
        not_found=outcomes[Outcome.NOT_FOUND.value],
        in_error=outcomes[Outcome.INVALID_RESPONSE.value] + outcomes[Outcome.REQUEST_FAILED.value],
        mismatched=report.mismatched,
        drifted=drifted,
        repeated=faults.repeated,
        missing=faults.missing,
        without_task=faults.without_task,
    )


def videos_verdict(statuses: Counter[str], differing: int) -> VideosVerdict:
    """The verdict on the rows of a manifest with these statuses, of which so many are not what the answers say."""
    return VideosVerdict(
        in_bucket=statuses[CopyStatus.COPIED.value] + statuses[CopyStatus.ALREADY_PRESENT.value],
        expired=statuses[CopyStatus.EXPIRED.value],
        failed=statuses[CopyStatus.FAILED.value],
        differing=differing,
    )


def judge_generations(
    file: PartitionFile,
    tasks_file: PartitionFile,
    spec: ProviderSpec,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
    *,
    counts_drift: bool = True,
) -> GenerationsVerdict:
    """The verdict on a file of luma_generations as it is, beside that of luma_tasks. Memory: one row group.

    Rows of `forgotten` tasks are not counted, in either file. Without `counts_drift` there is known to be none.

    Raises DatasetError.
    """
    tasks = None
    if tasks_file.exists():
        tasks = Tasks.of(forgotten.without(tasks_file.read(["task_id", "submitted_at"])))
    columns = _JUDGED_COLUMNS if counts_drift else COUNTED_COLUMNS
    report, drifted = GenerationsReport(), 0
    with file.open() as reader:
        rows = (forgotten.without(table) for table in reader.batches(columns, spec.schema))
        for table in report.counted(rows, tasks, _NEVER):
            drifted += sum(drift.count for drift in drift_in(table, spec)) if counts_drift else 0
    return generations_verdict(report, drifted)


def judge_videos(file: PartitionFile, generations_file: PartitionFile, spec: ProviderSpec) -> VideosVerdict:
    """The verdict on a manifest as it is, beside the file of luma_generations. Raises DatasetError."""
    statuses: Counter[str] = Counter()
    for table in file.batches(["status"]):
        _count(statuses, table["status"])
    differing = sum(len(found) for found in differing_of_file(file, generations_file, spec))
    return videos_verdict(statuses, differing)


def _count(statuses: Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        statuses[entry["values"]] += entry["counts"]
