"""luma_tasks: the task IDs of a partition, out of the source table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from luma_pipeline.dataset import Forgotten, Written
from luma_pipeline.source.table import SourceTable

__all__ = ["TasksReport", "read_tasks"]

_PREVIEW_ROWS = 10


@dataclass(frozen=True)
class TasksReport:
    """The numbers of one partition. `forgotten` tasks of the source have a tombstone, and are in no dataset."""

    tasks: int
    source_rows: int
    blank_ids: int
    repeated_ids: int
    ids_of_earlier_partitions: int
    unreadable_values: int
    unreadable_times: int
    preview: list[dict[str, Any]]
    written: Written | None
    forgotten: int = 0


def read_tasks(
    source: SourceTable, start: datetime, end: datetime, look: Callable[[], Forgotten] = Forgotten
) -> tuple[pa.Table, TasksReport]:
    """The tasks first submitted in [start, end), without those that are forgotten.

    `look` gives the tombstones. It is called when the source has been read.
    """
    found = source.read(start, end)
    table = look().without(found.table)
    report = TasksReport(
        tasks=len(table),
        source_rows=found.source_rows,
        blank_ids=found.blank_ids,
        repeated_ids=found.repeated_ids,
        ids_of_earlier_partitions=found.ids_of_earlier_partitions,
        unreadable_values=found.unreadable_values,
        unreadable_times=found.unreadable_times,
        preview=table.slice(0, _PREVIEW_ROWS).to_pylist(),
        written=None,
        forgotten=len(found.table) - len(table),
    )
    return table, report
