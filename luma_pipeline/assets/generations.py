"""luma_generations: every task of a partition asked for, and exactly one row for each.

Memory stays flat however many tasks a partition has: answers become Arrow tables a few hundred at a time and, in a
large partition, go to disk as checkpoints; the final file is put together a row group at a time.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.assets.run_config import GiveUp
from luma_pipeline.luma import FINAL_STATES, GENERATIONS_SCHEMA, LumaClient, Outcome, OutcomeKind, flatten
from luma_pipeline.luma.flatten import Drift
from luma_pipeline.resources.dataset import ROW_GROUP_ROWS, Checkpoints, PartitionFile, Written

__all__ = ["GenerationsReport", "ResolvePolicy", "resolve_generations"]

_Positions = npt.NDArray[np.int64]

SHARD_ROWS = 500
"""Answers that become one table. Small enough to stay in the processor's cache while it is flattened."""
SHARD_SECONDS = 10.0
"""Answers are on disk after this many seconds at the latest."""
_ROWS_IN_MEMORY = 4 * SHARD_ROWS
_PREVIEW_ROWS = 10
_DIGEST_COLUMNS = ("task_id", "outcome", "state", "raw_response")


@dataclass(frozen=True)
class ResolvePolicy:
    """What is asked for again. `checkpoint_seconds` is the age up to which answers of a broken run are taken up."""

    give_up: GiveUp
    checkpoint_seconds: float
    refresh: bool = False
    limit: int | None = None


@dataclass
class GenerationsReport:
    """The numbers of one partition. Times are seconds."""

    asked: int = 0
    kept: int = 0
    resumed: int = 0
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    waited_seconds: float = 0.0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    open_tasks: int = 0
    drift: dict[tuple[str, str, bool], Drift] = field(default_factory=dict)
    preview: list[dict[str, Any]] = field(default_factory=list)
    written: Written | None = None
    _latencies: array[float] = field(default_factory=lambda: array("d"), repr=False)

    def latency(self, quantile: float) -> float | None:
        """A quantile (0..1) of the seconds from a request to the last byte of its answer; None without requests."""
        return float(np.quantile(np.frombuffer(self._latencies), quantile)) if self._latencies else None

    def count(self, outcomes: Sequence[Outcome], drift: Iterable[Drift]) -> None:
        """Take in answers."""
        self.asked += len(outcomes)
        for outcome in outcomes:
            self.requests += outcome.requests
            self.retries += max(0, outcome.attempts - 1)
            self.throttled += outcome.throttled
            self.waited_seconds += outcome.waited_seconds
            if outcome.requests:
                self._latencies.append(outcome.seconds)
        for new in drift:
            key = (new.field, new.found, new.unknown)
            old = self.drift.get(key)
            example = new.example_task_id if old is None else old.example_task_id
            count = new.count + (old.count if old else 0)
            self.drift[key] = Drift(new.field, new.found, new.unknown, count, example)


def resolve_generations(
    tasks: pa.Table,
    file: PartitionFile,
    checkpoints: Checkpoints,
    client: LumaClient,
    policy: ResolvePolicy,
    on_answer: Callable[[Outcome, datetime], None] | None = None,
) -> GenerationsReport:
    """Ask for the tasks that are not final and replace the partition's file with one row for every task.

    `tasks` has distinct `task_id` and `submitted_at`; the rows are written in its order. `on_answer` is called with
    each new answer and its task's time as soon as it is there. What stops the run (`LumaError`) passes through, after
    the answers so far are kept as checkpoints.
    """
    started = time.monotonic()
    report = GenerationsReport()
    rows = _Rows(tasks)
    resumed, report.resumed = _take_known(rows, file, checkpoints, policy)
    report.kept = rows.answered_count - report.resumed
    shards = _ask(rows, _to_ask(rows, policy), client, checkpoints, report, on_answer)
    if file.exists():
        # A refresh that failed for a task leaves the final row that it had, and a limit whatever row there was.
        _take_rows(rows, file)
    _refuse(rows, rows.missing())
    report.written = file.replace(GENERATIONS_SCHEMA, _counted(rows, report, policy.give_up), _DIGEST_COLUMNS)
    checkpoints.remove([*resumed, *shards])
    report.seconds = time.monotonic() - started
    return report


def tasks_to_ask(tasks: pa.Table, file: PartitionFile, checkpoints: Checkpoints, policy: ResolvePolicy) -> int:
    """How many tasks `resolve_generations` would ask for."""
    rows = _Rows(tasks)
    _take_known(rows, file, checkpoints, policy)
    return len(_to_ask(rows, policy))


def row_faults(task_ids: pa.Array, file: PartitionFile) -> str:
    """How the rows of a written partition are not exactly one for each task; empty when they are."""
    written = file.read(["task_id"])["task_id"].combine_chunks()
    repeated = len(written) - pc.count_distinct(written).as_py()
    missing = len(task_ids) - pc.sum(pc.is_in(task_ids, value_set=written)).as_py() if len(task_ids) else 0
    strange = len(written) - pc.sum(pc.is_in(written, value_set=task_ids)).as_py() if len(written) else 0
    faults = {"repeated": repeated, "missing": missing, "without a task": strange}
    return ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)


@dataclass(frozen=True)
class _Part:
    """Some rows and their places in the final file. The rows may still be on disk."""

    positions: _Positions
    load: Callable[[], pa.Table]


class _Rows:
    """The rows of the final file, as they come together."""

    def __init__(self, tasks: pa.Table) -> None:
        self.ids = tasks["task_id"].combine_chunks()
        self.submitted_at = tasks["submitted_at"].combine_chunks()
        self._answered = np.zeros(len(tasks), dtype=bool)
        self._final_before = np.zeros(len(tasks), dtype=bool)
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answered_count(self) -> int:
        return int(self._answered.sum())

    def missing(self) -> _Positions:
        return np.flatnonzero(~self._answered)

    def add(self, positions: _Positions, load: Callable[[], pa.Table]) -> None:
        self._answered[positions] = True
        self._parts.append(_Part(positions, load))

    def add_known(self, task_ids: pa.Array, usable: pa.Array, load: Callable[[], pa.Table]) -> None:
        """Add rows of an earlier table: those that are `usable`, belong to a task, and are not here yet."""
        positions = pc.index_in(task_ids, value_set=self.ids)
        places = pc.fill_null(positions, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        wanted = (places >= 0) & usable.to_numpy(zero_copy_only=False)
        wanted[wanted] = ~self._answered[places[wanted]]
        indices = np.flatnonzero(wanted)
        if len(indices):
            self.add(places[indices], lambda: load().take(pa.array(indices)))

    def add_answers(self, positions: _Positions, outcomes: Sequence[Outcome], load: Callable[[], pa.Table]) -> None:
        """Add new answers, but none that says less than the final row its task already has."""
        usable = np.array([outcome.kind is OutcomeKind.RESOLVED for outcome in outcomes])
        usable |= ~self._final_before[positions]
        if usable.all():
            self.add(positions, load)
        elif usable.any():
            self.add(positions[usable], lambda: load().filter(pa.array(usable)))

    def note_final(self, task_ids: pa.Array, final: pa.Array) -> None:
        """Remember which tasks have a final row, than which nothing worse is taken."""
        places = pc.index_in(task_ids.filter(final), value_set=self.ids).drop_null()
        self._final_before[places.to_numpy(zero_copy_only=False)] = True

    def had_final(self, task_ids: pa.Array) -> pa.Array:
        """For each of the IDs whether its task has a final row."""
        places = pc.fill_null(pc.index_in(task_ids, value_set=self.ids), -1)
        places = places.to_numpy(zero_copy_only=False).astype(np.int64)
        return pa.array((places >= 0) & self._final_before[places] if len(self) else places >= 0)

    def tables(self) -> Iterator[pa.Table]:
        """The final rows in order, a row group at a time."""
        for start in range(0, len(self), ROW_GROUP_ROWS):
            yield self._group(start, min(start + ROW_GROUP_ROWS, len(self)))

    def _group(self, start: int, end: int) -> pa.Table:
        tables, places = [], []
        for part in self._parts:
            if part.positions.max() < start or part.positions.min() >= end:
                continue
            inside = (part.positions >= start) & (part.positions < end)
            table = _conformed(part.load())
            tables.append(table if inside.all() else table.filter(pa.array(inside)))
            places.append(part.positions[inside])
        order = np.argsort(np.concatenate(places), kind="stable")
        if len(order) != end - start:
            raise AssertionError(f"{len(order)} rows for {end - start} tasks")
        table = pa.concat_tables(tables).take(pa.array(order))
        # The source may have corrected the time since the row was written.
        column = table.schema.get_field_index("submitted_at")
        return table.set_column(column, GENERATIONS_SCHEMA.field("submitted_at"), self.submitted_at[start:end])


def _conformed(table: pa.Table) -> pa.Table:
    """A table of an older version with the columns of this one."""
    if table.schema.equals(GENERATIONS_SCHEMA):
        return table
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in GENERATIONS_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=GENERATIONS_SCHEMA)


def _take_known(
    rows: _Rows, file: PartitionFile, checkpoints: Checkpoints, policy: ResolvePolicy
) -> tuple[list[str], int]:
    """Take what needs no request; returns the checkpoints that were taken up, and how many rows came from them."""
    if file.exists():
        _note_final_rows(rows, file, policy.give_up)
    if policy.refresh:
        return [], 0
    resumed = _take_checkpoints(rows, checkpoints, policy)
    count = rows.answered_count
    if file.exists():
        _take_rows(rows, file, policy.give_up)
    return resumed, count


def _to_ask(rows: _Rows, policy: ResolvePolicy) -> _Positions:
    missing = rows.missing()
    return missing if policy.limit is None else missing[: policy.limit]


_STATE_COLUMNS = ("task_id", "outcome", "state", "submitted_at")


def _take_rows(rows: _Rows, file: PartitionFile, give_up: GiveUp | None = None) -> None:
    """Keep the rows of tasks that have none yet; with `give_up` those alone that need no request any more."""
    for number, table in enumerate(file.batches(_STATE_COLUMNS)):
        usable = pa.array(np.ones(len(table), dtype=bool)) if give_up is None else _is_final(table, give_up)
        rows.add_known(table["task_id"].combine_chunks(), usable, lambda number=number: file.row_group(number))  # type: ignore[misc]


def _note_final_rows(rows: _Rows, file: PartitionFile, give_up: GiveUp) -> None:
    for table in file.batches(_STATE_COLUMNS):
        rows.note_final(table["task_id"].combine_chunks(), _is_final(table, give_up))


def _take_checkpoints(rows: _Rows, checkpoints: Checkpoints, policy: ResolvePolicy) -> list[str]:
    """Take up what a broken run was answered, newest first; failed requests are not answers.

    An answer that is not final says less than the final row its task may have by now.
    """
    newer_than = datetime.now(timezone.utc) - timedelta(seconds=policy.checkpoint_seconds)
    shards = checkpoints.shards(newer_than)
    for path in reversed(shards):
        table = checkpoints.load(path)
        task_ids = table["task_id"].combine_chunks()
        answered = pc.not_equal(table["outcome"].combine_chunks(), OutcomeKind.REQUEST_FAILED.value)
        better = pc.or_(_is_final(table, policy.give_up), pc.invert(rows.had_final(task_ids)))
        rows.add_known(task_ids, pc.and_(answered, better), lambda path=path: checkpoints.load(path))  # type: ignore[misc]
    return shards


def _is_final(table: pa.Table, give_up: GiveUp) -> pa.Array:
    """For each row whether its task is never asked for again."""
    final = pc.fill_null(pc.is_in(table["state"], value_set=pa.array(sorted(FINAL_STATES))), False)
    if give_up.before is not None:
        unknown = pc.equal(table["outcome"], OutcomeKind.NOT_FOUND.value)
        old = pc.fill_null(pc.less(table["submitted_at"], pa.scalar(give_up.before, pa.timestamp("us", "UTC"))), False)
        final = pc.or_(final, pc.and_(unknown, old))
    return final.combine_chunks()


def _ask(
    rows: _Rows,
    positions: _Positions,
    client: LumaClient,
    checkpoints: Checkpoints,
    report: GenerationsReport,
    on_answer: Callable[[Outcome, datetime], None] | None,
) -> list[str]:
    """Ask for the tasks at `positions`; returns the checkpoints written."""
    if not len(positions):
        return []
    under_way: dict[str, int] = {}

    def task_ids() -> Iterator[str]:
        for position in positions.tolist():
            task_id = rows.ids[position].as_py()
            under_way[task_id] = position
            yield task_id

    with _Shards(rows, checkpoints, report, len(positions) > _ROWS_IN_MEMORY) as shards:
        for outcome in client.fetch(task_ids()):
            position = under_way.pop(outcome.task_id)
            shards.add(position, outcome)
            if on_answer is not None:
                on_answer(outcome, rows.submitted_at[position].as_py())
    return shards.paths


class _Shards:
    """Turns answers into tables as they come. Left by an exception, it keeps everything answered as checkpoints."""

    def __init__(self, rows: _Rows, checkpoints: Checkpoints, report: GenerationsReport, on_disk: bool) -> None:
        self._rows = rows
        self._checkpoints = checkpoints
        self._report = report
        self._on_disk = on_disk
        self._positions: list[int] = []
        self._outcomes: list[Outcome] = []
        self._in_memory: list[pa.Table] = []
        self._flushed_at = time.monotonic()
        self.paths: list[str] = []

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._flush()
        if kind is not None:
            self._save()

    def add(self, position: int, outcome: Outcome) -> None:
        self._positions.append(position)
        self._outcomes.append(outcome)
        if len(self._outcomes) >= SHARD_ROWS:
            self._flush()
        elif time.monotonic() - self._flushed_at > SHARD_SECONDS:
            self._flush()
            self._save()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if not self._outcomes:
            return
        outcomes, positions = self._outcomes, np.array(self._positions, dtype=np.int64)
        self._positions, self._outcomes = [], []
        flattened = flatten(outcomes)
        table = flattened.table
        self._report.count(outcomes, flattened.drift)
        if self._on_disk:
            path = self._checkpoints.save(table)
            self.paths.append(path)
            self._rows.add_answers(positions, outcomes, lambda: self._checkpoints.load(path))
        else:
            self._in_memory.append(table)
            self._rows.add_answers(positions, outcomes, lambda: table)

    def _save(self) -> None:
        """Put what is only in memory on disk as well."""
        if self._in_memory:
            self.paths.append(self._checkpoints.save(pa.concat_tables(self._in_memory)))
            self._in_memory = []


def _refuse(rows: _Rows, positions: _Positions) -> None:
    """Rows for tasks that the run's limit has left out."""
    now = datetime.now(timezone.utc)
    for start in range(0, len(positions), ROW_GROUP_ROWS):
        part = positions[start : start + ROW_GROUP_ROWS]
        outcomes = [
            Outcome(
                rows.ids[position].as_py(),
                OutcomeKind.REQUEST_FAILED,
                now,
                attempts=0,
                requests=0,
                error_code="not_asked",
                error_message="not asked: the run's `limit` was reached; a run without it asks",
            )
            for position in part.tolist()
        ]
        table = flatten(outcomes).table
        rows.add(part, lambda table=table: table)  # type: ignore[misc]


def _counted(rows: _Rows, report: GenerationsReport, give_up: GiveUp) -> Iterator[pa.Table]:
    """The final rows, counted as they pass."""
    for table in rows.tables():
        _count_values(report.outcomes, table["outcome"])
        _count_values(report.states, table["state"].filter(pc.equal(table["outcome"], OutcomeKind.RESOLVED.value)))
        open_rows = pc.invert(_is_final(table, give_up))
        if give_up.before is not None:
            # A task that is still open after all that time is asked for by backfills, but awaited no longer.
            recent = pc.greater_equal(table["submitted_at"], pa.scalar(give_up.before, pa.timestamp("us", "UTC")))
            open_rows = pc.and_(open_rows, pc.fill_null(recent, True).combine_chunks())
        report.open_tasks += pc.sum(open_rows).as_py() or 0
        if len(report.preview) < _PREVIEW_ROWS:
            columns = ["task_id", "state", "outcome", "request_prompt", "thumbnail_url", "error_message"]
            report.preview += table.select(columns).slice(0, _PREVIEW_ROWS - len(report.preview)).to_pylist()
        yield table


def _count_values(counter: Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        counter[entry["values"] or "unknown"] += entry["counts"]
