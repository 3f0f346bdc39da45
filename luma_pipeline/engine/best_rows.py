"""The engine: the best row of each task, out of all rows that there are for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import ROW_GROUP_ROWS
from luma_pipeline.dataset.rows import Positions, take_rows
from luma_pipeline.engine.candidates import Candidates, Tasks

__all__ = ["BestRows"]

_PIECE_ROWS = 1_000
"""Rows that are put in order together: a copy of a whole row group would be 50 MB more."""


class BestRows:
    """The best row of each task: one in a final state before any other, then the newest.

    >>> best = BestRows(tasks)  # doctest: +SKIP
    >>> best.add(candidates)  # doctest: +SKIP
    >>> file.replace(spec.schema, best.tables())  # doctest: +SKIP
    """

    def __init__(self, tasks: Tasks, candidates: Iterable[Candidates] = ()) -> None:
        self._tasks = tasks
        self._candidates = list(candidates)
        self._best: Positions | None = None

    def add(self, candidates: Candidates) -> None:
        """Take in rows."""
        self._candidates.append(candidates)
        self._best = None

    def missing(self) -> Positions:
        """The indices of tasks without a row."""
        return np.flatnonzero(self._chosen() < 0)

    def values(self, column: str, missing: int) -> npt.NDArray[np.int64]:
        """For each task what a column of Candidates says of its best row; `missing` where it has no row."""
        best = self._chosen()
        found = np.full(len(best), missing, dtype=np.int64)
        found[best >= 0] = self._joined(column)[best[best >= 0]]
        return found

    def are_all_of(self, candidates: Sequence[Candidates]) -> bool:
        """Whether the best rows are all rows of the first `candidates`, in their order and with the source's times."""
        count = sum(len(some.index) for some in candidates)
        is_timely = all(some.is_timely for some in candidates)
        return is_timely and np.array_equal(self._chosen(), np.arange(count))

    def is_of_shard(self) -> npt.NDArray[np.bool_]:
        """For each task whether its best row is of another run's checkpoint."""
        is_shard = [np.full(len(some.index), some.shard is not None) for some in self._candidates]
        return np.append(np.concatenate([*is_shard, []]), False).astype(bool)[self._chosen()]

    def tables(self) -> Iterator[pa.Table]:
        """The best rows whole, in the order of the tasks, a row group at a time. Each task must have one.

        A row group is put together from pieces. What is loaded is kept until the last piece that needs it.
        """
        ends = np.cumsum([len(some.index) for some in self._candidates])
        best = self._chosen()
        for start in range(0, len(best), ROW_GROUP_ROWS):
            rows = best[start : start + ROW_GROUP_ROWS]
            part = np.searchsorted(ends, rows, side="right")
            table = pa.concat_tables(self._pieces(part, rows - np.append(0, ends)[part]))
            # The source may have corrected the time since the row was written.
            column = table.schema.get_field_index("submitted_at")
            times = self._tasks.submitted_at[start : start + ROW_GROUP_ROWS]
            yield table.set_column(column, table.schema.field(column), times)
            del table  # not held while the next is made

    def _pieces(self, part: npt.NDArray[np.integer], rows: Positions) -> Iterator[pa.Table]:
        """Row `rows[i]` of candidates number `part[i]`, for each i in order, a piece at a time."""
        last_use = dict(zip(part.tolist(), range(len(part)), strict=True))
        loaded: dict[int, pa.Table] = {}

        def load(number: int) -> pa.Table:
            if number not in loaded:
                loaded[number] = self._candidates[number].load()
            return loaded[number]

        for start in range(0, len(rows), _PIECE_ROWS):
            end = start + _PIECE_ROWS
            yield take_rows(load, part[start:end], rows[start:end])
            loaded = {number: table for number, table in loaded.items() if last_use[number] >= end}

    def _chosen(self) -> Positions:
        """For each task the number of its best row among all candidates, -1 where it has none."""
        if self._best is None:
            self._best = np.full(len(self._tasks.ids), -1, dtype=np.int64)
            rows = pa.table({name: self._joined(name) for name in ("index", "rank", "polled_at")})
            # Of rows as good as each other the first is taken, which comes last.
            rows = rows.append_column("number", pa.array(np.arange(len(rows))))
            keys = [("index", "ascending"), ("rank", "ascending"), ("polled_at", "ascending"), ("number", "descending")]
            order = np.asarray(pc.sort_indices(rows, keys))
            index = np.asarray(rows["index"])[order]
            is_last = np.append(index[1:] != index[:-1], True)[: len(index)]
            best = is_last & (index >= 0)
            self._best[index[best]] = order[best]
        return self._best

    def _joined(self, name: str) -> npt.NDArray[Any]:
        columns = [getattr(some, name) for some in self._candidates]
        return np.concatenate(columns) if columns else np.empty(0, dtype=np.int64)
