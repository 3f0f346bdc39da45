"""The engine: the numbers of luma_generations for one partition."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import Written
from luma_pipeline.engine.candidates import STATE_COLUMNS, Tasks, is_final
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import Outcome, TaskResult
from luma_pipeline.luma.flatten import Drift

__all__ = ["COUNTED_COLUMNS", "TASK_ID_MISMATCH", "GenerationsReport", "RowFaults", "preview_columns", "row_faults"]

TASK_ID_MISMATCH = "task_id_mismatch"
"""The error code of a task that was answered with another task's body."""

COUNTED_COLUMNS = (*STATE_COLUMNS, "error_code")
"""The columns that the numbers are counted from."""
_PREVIEW_ROWS = 10
_PREVIEW_COLUMNS = ["task_id", "state", "outcome", "request_prompt", "thumbnail_url", "error_message"]
_MISMATCHED_EXAMPLES = 10


class RowFaults(NamedTuple):
    """How many rows are repeated, missing, or without a task; false where rows are exactly one for each task."""

    repeated: int = 0
    missing: int = 0
    without_task: int = 0

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        counts = {"repeated": self.repeated, "missing": self.missing, "without a task": self.without_task}
        return ", ".join(f"{count} {fault}" for fault, count in counts.items() if count)


@dataclass
class GenerationsReport:
    """The numbers of one partition. Times are seconds.

    `dropped` counts the rows of the replaced file whose tasks are not in the source any more. `mismatched` counts all
    rows of tasks that were answered with another task's body; the examples are up to 10 of their IDs. `row_faults` says
    how the written rows are not exactly one for each task. `reflattened` rows had their columns made again from the
    answers that they keep, and `without_answer` have none that can be read; both are None but in a run that does so.
    """

    asked: int = 0
    kept: int = 0
    resumed: int = 0
    dropped: int = 0
    unreadable_checkpoints: int = 0
    reflattened: int | None = None
    without_answer: int | None = None
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    waited_seconds: float = 0.0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    open_tasks: int = 0
    mismatched: int = 0
    mismatched_examples: list[str] = field(default_factory=list)
    drift: dict[tuple[str, str, bool], Drift] = field(default_factory=dict)
    preview: list[dict[str, Any]] = field(default_factory=list)
    row_faults: RowFaults = field(default_factory=RowFaults)
    written: Written | None = None
    _latencies: array[float] = field(default_factory=lambda: array("d"), repr=False)

    @property
    def is_just_read(self) -> bool:
        """Whether the file was read or written a moment ago: no answer has been waited for since."""
        return not self.asked or (self.written is not None and self.written.is_new)

    def latency(self, quantile: float) -> float | None:
        """A quantile (0..1) of the seconds from a request to the last byte of its answer; None without requests."""
        return float(np.quantile(np.frombuffer(self._latencies), quantile)) if self._latencies else None

    def count_answers(self, results: Sequence[TaskResult], drift: Iterable[Drift]) -> None:
        """Take in answers."""
        self.asked += len(results)
        for result in results:
            self.requests += result.requests
            self.retries += max(0, result.attempts - 1)
            self.throttled += result.throttled
            self.waited_seconds += result.waited_seconds
            if result.requests:
                self._latencies.append(result.seconds)
        self.count_drift(drift)

    def count_drift(self, drift: Iterable[Drift]) -> None:
        """Take in drift."""
        for new in drift:
            key = (new.field, new.found, new.unknown)
            old = self.drift.get(key)
            example = new.example_task_id if old is None else old.example_task_id
            count = new.count + (old.count if old else 0)
            self.drift[key] = Drift(new.field, new.found, new.unknown, count, example)

    def counted(self, tables: Iterable[pa.Table], tasks: Tasks | None, give_up: GiveUpPolicy) -> Iterator[pa.Table]:
        """The rows that are written, counted as they pass. Without `tasks` only repeated rows are faults."""
        self.count_from_start()
        is_in_order, seen, ids = tasks is not None, 0, []
        for table in tables:
            self.count_rows(table, give_up)
            self.show_first(table)
            ids.append(table["task_id"])
            if tasks is not None and is_in_order:
                is_in_order = table["task_id"].combine_chunks().equals(tasks.ids[seen : seen + len(table)])
            seen += len(table)
            yield table
            del table  # not held while the next is made
        if tasks is not None and is_in_order and seen == len(tasks.ids):
            self.row_faults = RowFaults()
        else:
            written = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
            rows = written.combine_chunks()
            self.row_faults = row_faults(pc.unique(rows) if tasks is None else tasks.ids, rows)

    def count_from_start(self) -> None:
        """Forget the rows that were counted."""
        self.outcomes, self.states, self.open_tasks, self.preview = Counter(), Counter(), 0, []
        self.mismatched, self.mismatched_examples = 0, []

    def count_rows(self, table: pa.Table, give_up: GiveUpPolicy) -> None:
        """Count rows with COUNTED_COLUMNS."""
        _count_values(self.outcomes, table["outcome"])
        _count_values(self.states, table["state"].filter(pc.equal(table["outcome"], Outcome.RESOLVED.value)))
        # A task that is still open after all that time is asked for by backfills, but awaited no longer.
        open_rows = pc.invert(pc.or_(is_final(table, give_up), give_up.on_all(table["submitted_at"])))
        self.open_tasks += pc.sum(open_rows).as_py() or 0
        mismatched = table["task_id"].filter(pc.equal(table["error_code"], TASK_ID_MISMATCH))
        self.mismatched += len(mismatched)
        self.mismatched_examples += mismatched[: _MISMATCHED_EXAMPLES - len(self.mismatched_examples)].to_pylist()

    def show_first(self, table: pa.Table) -> None:
        """Take the first rows into the preview, as long as there are too few."""
        rows = table.select(preview_columns(table.schema)).slice(0, _PREVIEW_ROWS - len(self.preview))
        self.preview += rows.to_pylist()


def preview_columns(schema: pa.Schema) -> list[str]:
    """The columns that the preview shows, of those that there are."""
    return [name for name in _PREVIEW_COLUMNS if name in schema.names]


def row_faults(task_ids: pa.Array, written: pa.Array) -> RowFaults:
    """How the task IDs of written rows are not exactly one for each task.

    >>> str(row_faults(pa.array(["a", "b"]), pa.array(["a", "a", "c"])))
    '1 repeated, 1 missing, 1 without a task'
    """
    repeated = len(written) - pc.count_distinct(written).as_py()
    missing = len(task_ids) - pc.sum(pc.is_in(task_ids, value_set=written)).as_py() if len(task_ids) else 0
    without_task = len(written) - pc.sum(pc.is_in(written, value_set=task_ids)).as_py() if len(written) else 0
    return RowFaults(repeated, missing, without_task)


def _count_values(counter: Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        counter[entry["values"] or "unknown"] += entry["counts"]
