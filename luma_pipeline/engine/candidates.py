"""The engine: what decides between the rows of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import Shard
from luma_pipeline.dataset.rows import Positions
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import FINAL_STATES, Outcome

__all__ = ["FAILED", "NO_ROW", "STATE_COLUMNS", "Candidates", "Part", "Tasks", "candidates_of", "is_final"]

STATE_COLUMNS = ("task_id", "outcome", "state", "submitted_at", "polled_at")
"""The columns that decide between rows."""

NO_ROW, FAILED, ANSWERED, FINAL = -1, 0, 1, 2
"""The ranks of rows. FAILED: neither the provider's answer nor its word that it does not know the task."""
_ANSWERS = (Outcome.RESOLVED.value, Outcome.NOT_FOUND.value)
_LOOKUP_ROWS = 100_000
"""Rows whose tasks are looked up together: each look-up hashes all IDs of the partition."""


class Tasks(NamedTuple):
    """The tasks of the partition, in the order of its rows."""

    ids: pa.Array
    submitted_at: pa.Array

    @classmethod
    def of(cls, table: pa.Table) -> Tasks:
        """The tasks of a table with `task_id` and `submitted_at`."""
        return cls(table["task_id"].combine_chunks(), table["submitted_at"].combine_chunks())


Part = tuple[pa.Table, Callable[[], pa.Table], "Shard | None"]
"""A table with STATE_COLUMNS, how to load its rows whole, and the shard that holds them."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What decides about some rows, 18 bytes each, and how to load all of them whole.

    `index` is each row's task as its index in the partition, -1 for a row without a task. `path` is that of the
    checkpoint which the rows are loaded from, if they are; `shard` is another run's. `is_timely` says that the rows of
    tasks have the times of the source.
    """

    index: Positions
    rank: npt.NDArray[np.int8]
    polled_at: npt.NDArray[np.int64]
    is_final: npt.NDArray[np.bool_]
    load: Callable[[], pa.Table]
    path: str | None = None
    shard: Shard | None = None
    is_timely: bool = False

    @classmethod
    def of(
        cls,
        states: pa.Table,
        index: Positions,
        load: Callable[[], pa.Table],
        give_up: GiveUpPolicy,
        *,
        shard: Shard | None = None,
        is_own: bool = False,
        is_timely: bool = False,
    ) -> Candidates:
        """The candidates of a table with STATE_COLUMNS. A failed request of this run's own is news of its task."""
        rank = np.full(len(states), ANSWERED, dtype=np.int8)
        if not is_own:
            rank[~_numpy(pc.is_in(states["outcome"], value_set=_text_set(*_ANSWERS)))] = FAILED
        rank[_numpy(_has_final_state(states))] = FINAL
        polled_at = _numpy(states["polled_at"].cast(pa.int64()))
        final = _numpy(is_final(states, give_up))
        return cls(index, rank, polled_at, final, load, shard.path if shard is not None else None, shard, is_timely)

    @property
    def strangers(self) -> int:
        """How many rows have no task."""
        return int((self.index < 0).sum())


def candidates_of(parts: Iterable[Part], tasks: Tasks, give_up: GiveUpPolicy) -> Iterator[Candidates]:
    """The candidates of each part."""
    for batch in _batched(parts):
        ids = pa.chunked_array([chunk for states, _, _ in batch for chunk in states["task_id"].chunks], pa.string())
        index = _numpy(pc.fill_null(pc.index_in(ids, value_set=tasks.ids), -1)).astype(np.int64)
        ends = np.cumsum([len(states) for states, _, _ in batch])[:-1]
        for (states, load, shard), of_part in zip(batch, np.split(index, ends), strict=True):
            times = pc.take(tasks.submitted_at, pa.array(of_part, mask=of_part < 0))
            is_timely = bool(pc.all(pc.equal(states["submitted_at"], times)).as_py())
            yield Candidates.of(states, of_part, load, give_up, shard=shard, is_timely=is_timely)


def is_final(table: pa.Table, give_up: GiveUpPolicy) -> pa.ChunkedArray:
    """For each row with STATE_COLUMNS whether its task is never asked for again."""
    unknown = pc.equal(table["outcome"], Outcome.NOT_FOUND.value)
    return pc.or_(_has_final_state(table), pc.and_(unknown, give_up.on_all(table["submitted_at"])))


def _has_final_state(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.is_in(table["state"], value_set=_text_set(*sorted(FINAL_STATES))), False)


@cache
def _text_set(*texts: str) -> pa.Array:
    """An array of texts. Not made at import, because Arrow imports pandas for it."""
    return pa.array(texts)


def _numpy(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    return np.asarray(column)


def _batched(parts: Iterable[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    count = 0
    for part in parts:
        batch.append(part)
        count += len(part[0])
        if count >= _LOOKUP_ROWS:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch
