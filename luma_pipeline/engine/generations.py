"""luma_generations: every task of a partition asked for, and exactly one row for each.

Memory stays flat however many tasks a partition has: answers become Arrow tables a few hundred at a time and, in a
large partition, go to disk as checkpoints; the final file is put together a row group at a time.

A task may have several rows: in the partition's file, in checkpoints of broken runs and of others that are still at
work, and among the new answers. The best of them is written: one in a final state before any other, then the newest.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset.files import (
    ROW_GROUP_ROWS,
    Checkpoints,
    DatasetError,
    PartitionFile,
    Shard,
    StaleVersionError,
    Written,
)
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import FINAL_STATES, GENERATIONS_SCHEMA, LumaClient, Outcome, TaskResult, flatten
from luma_pipeline.luma.flatten import Drift

__all__ = ["EmptiedError", "GenerationsReport", "ResolvePolicy", "refuse_to_empty", "resolve_generations"]

_log = logging.getLogger(__name__)

_Positions = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

SHARD_ROWS = 500
"""Answers that become one table. Small enough to stay in the processor's cache while it is flattened."""
SHARD_SECONDS = 10.0
"""Answers are saved when the next one comes this many seconds after the last saving."""
_LOOKUP_ROWS = 100_000
"""Rows whose tasks are looked up together: each look-up hashes all IDs of the partition."""
_ROWS_IN_MEMORY = 4 * SHARD_ROWS
_PREVIEW_ROWS = 10
_DIGEST_COLUMNS = ("task_id", "outcome", "state", "raw_response")


class EmptiedError(DatasetError):
    """A partition that has rows would be replaced by one without any."""


@dataclass(frozen=True)
class ResolvePolicy:
    """What is asked for again. `checkpoint_seconds` is the age up to which answers of a broken run are taken up.

    `allow_empty` lets a partition that has rows become empty. `save_seconds` is the time whose answers a kill may cost.
    """

    give_up: GiveUpPolicy
    checkpoint_seconds: float
    refresh: bool = False
    limit: int | None = None
    allow_empty: bool = False
    save_seconds: float = SHARD_SECONDS


@dataclass
class GenerationsReport:
    """The numbers of one partition. Times are seconds.

    `dropped` counts the rows of the replaced file whose tasks are not in the source any more.
    """

    asked: int = 0
    kept: int = 0
    resumed: int = 0
    dropped: int = 0
    unreadable_checkpoints: int = 0
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

    def count(self, outcomes: Sequence[TaskResult], drift: Iterable[Drift]) -> None:
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
    on_answer: Callable[[TaskResult, datetime], None] | None = None,
) -> GenerationsReport:
    """Ask for the tasks that are not final and replace the partition's file with one row for every task.

    `tasks` has distinct `task_id` and `submitted_at`; the rows are written in its order. `on_answer` is called with
    each new answer and its task's time as soon as it is there. What stops the run (`LumaError`) passes through, after
    the answers so far are kept as checkpoints.

    Several runs may be at work on one partition: if another replaces the file while this one asks or writes, its rows
    are looked at anew, and none that is better than this run's is lost.

    Raises:
        EmptiedError: There are no tasks, but the file has rows; nothing is changed.
    """
    started = time.monotonic()
    refuse_to_empty(tasks, file, policy)
    wanted = _Tasks(tasks["task_id"].combine_chunks(), tasks["submitted_at"].combine_chunks())
    known = _look(wanted, file, checkpoints, policy)
    report = GenerationsReport(
        kept=known.kept, resumed=known.resumed, unreadable_checkpoints=known.unreadable_checkpoints
    )
    on_disk = len(known.to_ask) > _ROWS_IN_MEMORY
    with _Answers(checkpoints, report, policy.save_seconds, known.refresh_since, on_disk=on_disk) as answers:
        to_ask = known.to_ask
        while report.written is None:
            _ask(wanted, to_ask, client, answers, on_answer)
            try:
                choice = _choose(wanted, file, checkpoints, known, answers, policy.give_up)
                to_ask = choice.lost
                if not len(to_ask):
                    report.dropped = choice.dropped
                    final = _counted(choice.rows, report, policy.give_up)
                    report.written = file.replace(GENERATIONS_SCHEMA, final, _DIGEST_COLUMNS, choice.version)
            except StaleVersionError as error:
                to_ask = known.to_ask[:0]
                _log.info("%s; its rows are looked at anew", error)
    checkpoints.remove([*choice.taken_up, *known.ended, *answers.paths])
    report.seconds = time.monotonic() - started
    return report


def tasks_to_ask(tasks: pa.Table, file: PartitionFile, checkpoints: Checkpoints, policy: ResolvePolicy) -> int:
    """How many tasks `resolve_generations` would ask for."""
    wanted = _Tasks(tasks["task_id"].combine_chunks(), tasks["submitted_at"].combine_chunks())
    return len(_look(wanted, file, checkpoints, policy).to_ask)


def refuse_to_empty(tasks: pa.Table, file: PartitionFile, policy: ResolvePolicy) -> None:
    """Raise EmptiedError if `file`, of any dataset, has rows for a partition that has no `tasks` any more.

    Purged source rows, a wrong condition or another table look the same from here: rows of answers that the provider
    may have forgotten are not given up for them unasked.
    """
    if len(tasks) or policy.allow_empty:
        return
    rows = file.row_count()
    if rows:
        raise EmptiedError(
            f"the source has no task any more for a partition that has {rows} rows in {file.path}; nothing was "
            "replaced. If the tasks are gone for good and their rows shall go too, run the partition with "
            "`allow_empty: true`; if not, check LUMA_SOURCE_TABLE, LUMA_SOURCE_WHERE and LUMA_SOURCE_TIME_COLUMN."
        )


def row_faults(task_ids: pa.Array, file: PartitionFile) -> str:
    """How the rows of a written partition are not exactly one for each task; empty when they are."""
    written = file.read(["task_id"])["task_id"].combine_chunks()
    repeated = len(written) - pc.count_distinct(written).as_py()
    missing = len(task_ids) - pc.sum(pc.is_in(task_ids, value_set=written)).as_py() if len(task_ids) else 0
    strange = len(written) - pc.sum(pc.is_in(written, value_set=task_ids)).as_py() if len(written) else 0
    faults = {"repeated": repeated, "missing": missing, "without a task": strange}
    return ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)


class _Tasks(NamedTuple):
    """The tasks of the partition, in the order of its rows."""

    ids: pa.Array
    submitted_at: pa.Array


class _Part(NamedTuple):
    """Some rows by their state columns, and how to load all of them whole. The rows may be on disk."""

    states: pa.Table
    load: Callable[[], pa.Table]
    shard: Shard | None = None


class _Rows:
    """The best row of each task, as far as rows have been offered, and where it lies."""

    def __init__(self, tasks: _Tasks, give_up: GiveUpPolicy) -> None:
        self._tasks = tasks
        self._give_up = give_up
        count = len(tasks.ids)
        self._rank = np.full(count, _NO_ROW, dtype=np.int8)
        self._polled_at = np.zeros(count, dtype=np.int64)
        self._is_final = np.zeros(count, dtype=bool)
        self._part = np.zeros(count, dtype=np.int32)
        self._row = np.zeros(count, dtype=np.int32)
        self._loads: list[Callable[[], pa.Table]] = []
        self._is_checkpoint: list[bool] = []

    def offer(self, parts: Sequence[_Part], positions: _Positions | None = None, *, is_own: bool = False) -> list[int]:
        """Take every row that is better than what its task has; returns for each part how many rows have no task.

        `positions` are the places of the rows' tasks, if they are known. Of rows as good as each other one is taken.
        """
        lengths = [len(part.states) for part in parts]
        if not sum(lengths):
            return lengths
        states = pa.concat_tables(part.states for part in parts)
        places = self._places(states["task_id"]) if positions is None else positions
        rank, polled_at = _ranks(states, is_own=is_own), _numpy(states["polled_at"].cast(pa.int64()))
        order = np.lexsort((polled_at, rank, places))
        is_best = np.append(np.diff(places[order]) != 0, True) & (places[order] >= 0)
        rows = order[is_best]
        at = places[rows]
        better = (rank[rows] > self._rank[at]) | (
            (rank[rows] == self._rank[at]) & (polled_at[rows] > self._polled_at[at])
        )
        rows, at = rows[better], at[better]
        parts_of_rows = np.repeat(np.arange(len(parts)), lengths)[rows]
        self._rank[at], self._polled_at[at] = rank[rows], polled_at[rows]
        self._is_final[at] = _numpy(_is_final(states, self._give_up))[rows]
        self._part[at] = parts_of_rows + len(self._loads)
        self._row[at] = rows - (np.cumsum(lengths) - lengths)[parts_of_rows]
        self._loads += [part.load for part in parts]
        self._is_checkpoint += [part.shard is not None for part in parts]
        return [int((of_part < 0).sum()) for of_part in np.split(places, np.cumsum(lengths)[:-1])]

    def missing(self) -> _Positions:
        """The places of tasks without a row."""
        return np.flatnonzero(self._rank == _NO_ROW)

    def known(self, policy: ResolvePolicy, refresh_since: datetime | None) -> tuple[_Mask, _Mask]:
        """Which tasks need no request, and which of these have their row from a checkpoint."""
        of_checkpoint = np.zeros(len(self._rank), dtype=bool)
        if any(self._is_checkpoint):
            of_checkpoint = np.array(self._is_checkpoint)[self._part] & (self._rank != _NO_ROW)
        if policy.refresh:
            since = np.iinfo(np.int64).max if refresh_since is None else (refresh_since - _EPOCH) // _MICROSECOND
            known = self._polled_at >= since
        else:
            known = self._is_final | of_checkpoint
        known &= self._rank > _FAILED
        return known, known & of_checkpoint

    def tables(self) -> Iterator[pa.Table]:
        """The final rows in order, a row group at a time."""
        count = len(self._rank)
        for start in range(0, count, ROW_GROUP_ROWS):
            yield self._group(start, min(start + ROW_GROUP_ROWS, count))

    def _group(self, start: int, end: int) -> pa.Table:
        part, row = self._part[start:end], self._row[start:end]
        tables: list[pa.Table] = []
        indices = np.empty(end - start, dtype=np.int64)
        held = 0
        for number in np.unique(part).tolist():
            inside = np.flatnonzero(part == number)
            table = _conformed(self._loads[number]())
            if len(inside) < len(table):
                table = table.take(pa.array(row[inside]))
                indices[inside] = held + np.arange(len(inside))
            else:
                indices[inside] = held + row[inside]
            tables.append(table)
            held += len(table)
        table = pa.concat_tables(tables).take(pa.array(indices))
        # The source may have corrected the time since the row was written.
        column = table.schema.get_field_index("submitted_at")
        times = self._tasks.submitted_at[start:end]
        return table.set_column(column, GENERATIONS_SCHEMA.field("submitted_at"), times)

    def _places(self, task_ids: pa.ChunkedArray) -> _Positions:
        places = pc.index_in(task_ids, value_set=self._tasks.ids)
        return _numpy(pc.fill_null(places, -1)).astype(np.int64)


_NO_ROW, _FAILED, _ANSWERED, _FINAL = -1, 0, 1, 2
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def _ranks(states: pa.Table, *, is_own: bool) -> npt.NDArray[np.int8]:
    """How much rows say. A failed request says least, but of this run's own it is news of a task that was open."""
    ranks = np.full(len(states), _ANSWERED, dtype=np.int8)
    if not is_own:
        ranks[_numpy(pc.equal(states["outcome"], Outcome.REQUEST_FAILED.value))] = _FAILED
    ranks[_numpy(_has_final_state(states))] = _FINAL
    return ranks


def _numpy(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    return np.asarray(column)


def _conformed(table: pa.Table) -> pa.Table:
    """A table of an older version with the columns of this one."""
    if table.schema.equals(GENERATIONS_SCHEMA):
        return table
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in GENERATIONS_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=GENERATIONS_SCHEMA)


@dataclass(frozen=True)
class _Known:
    """What a run has found before it asks.

    `is_left_out` is for each task whether it is beyond the limit. `shards` are those that could be read, `ended` the
    paths of those that a refresh makes an end of.
    """

    to_ask: _Positions
    is_left_out: _Mask
    kept: int
    resumed: int
    shards: list[Shard]
    unreadable_checkpoints: int
    refresh_since: datetime | None
    ended: list[str]


def _look(tasks: _Tasks, file: PartitionFile, checkpoints: Checkpoints, policy: ResolvePolicy) -> _Known:
    """Find out what needs no request.

    A refresh takes up one that was broken off, and counts from the beginning of that: whatever was answered since
    then, by whichever run, is fresh.
    """
    now = datetime.now(timezone.utc)
    listed = checkpoints.shards(now - timedelta(seconds=policy.checkpoint_seconds))
    broken_off = min((shard.refresh_since for shard in listed if shard.refresh_since is not None), default=None)
    while True:
        rows = _Rows(tasks, policy.give_up)
        try:
            _offer_file(rows, file, file.version())
        except StaleVersionError:
            continue
        break
    shards: list[Shard] = []
    unreadable: list[Shard] = []
    for batch in _batched(_readable(listed, checkpoints, unreadable)):
        rows.offer(batch)
        shards += [part.shard for part in batch if part.shard is not None]
    known, of_checkpoint = rows.known(policy, broken_off)
    unknown = np.flatnonzero(~known)
    limit = len(unknown) if policy.limit is None else policy.limit
    is_left_out = np.zeros(len(known), dtype=bool)
    is_left_out[unknown[limit:]] = True
    is_whole_refresh = policy.refresh and limit >= len(unknown)
    return _Known(
        to_ask=unknown[:limit],
        is_left_out=is_left_out,
        kept=int((known & ~of_checkpoint).sum()),
        resumed=int(of_checkpoint.sum()),
        shards=shards,
        unreadable_checkpoints=len(unreadable),
        refresh_since=now if policy.refresh else None,
        ended=[shard.path for shard in listed if shard.refresh_since is not None] if is_whole_refresh else [],
    )


class _Choice(NamedTuple):
    """The best row of each task, and the version of the file that was looked at.

    `dropped` is how many of the file's rows have no task, `taken_up` the paths of checkpoints that may go when the
    rows are written. Tasks that are `lost` have no row, though they are not beyond the limit: another run has dropped
    it from the file.
    """

    rows: _Rows
    version: str
    dropped: int
    taken_up: list[str]
    lost: _Positions


def _choose(
    tasks: _Tasks,
    file: PartitionFile,
    checkpoints: Checkpoints,
    known: _Known,
    answers: _Answers,
    give_up: GiveUpPolicy,
) -> _Choice:
    """Choose the rows to be written.

    What they are chosen from can change until the last of them is read: other runs replace the file, and remove
    checkpoints when they have. StaleVersionError tells so, here or while the rows are read.
    """
    version = file.version()
    rows = _Rows(tasks, give_up)
    dropped = _offer_file(rows, file, version)
    taken_up = _offer_shards(rows, known.shards, checkpoints)
    answers.offer_to(rows)
    missing = rows.missing()
    is_left_out = known.is_left_out[missing]
    _offer_refusals(rows, tasks, missing[is_left_out])
    return _Choice(rows, version, dropped, taken_up, missing[~is_left_out])


_STATE_COLUMNS = ("task_id", "outcome", "state", "submitted_at", "polled_at")


def _offer_file(rows: _Rows, file: PartitionFile, version: str) -> int:
    """Offer the rows of the file of that version; returns how many of them have no task."""
    if not version:
        return 0
    groups = enumerate(file.batches(_STATE_COLUMNS, version))
    parts = (_Part(states, partial(file.row_group, number, version)) for number, states in groups)
    return sum(sum(rows.offer(batch)) for batch in _batched(parts))


def _offer_shards(rows: _Rows, shards: Sequence[Shard], checkpoints: Checkpoints) -> list[str]:
    """Offer the rows of other runs' checkpoints; returns those that may go when the rows are written.

    One with rows of tasks that this run does not know of is not among them, nor is any of a refresh.
    """
    taken_up = []
    for batch in _batched(_still_there(shards, checkpoints)):
        for part, strangers in zip(batch, rows.offer(batch), strict=True):
            if part.shard is not None and part.shard.refresh_since is None and not strangers:
                taken_up.append(part.shard.path)
    return taken_up


def _readable(shards: Sequence[Shard], checkpoints: Checkpoints, unreadable: list[Shard]) -> Iterator[_Part]:
    """The shards that can be read to their end; those that a crash of a machine has cut are told of."""
    for shard in shards:
        try:
            states = checkpoints.load(shard.path).select(_STATE_COLUMNS)
        except StaleVersionError:
            continue
        except DatasetError as error:
            unreadable.append(shard)
            _log.warning("%s. It is left out, and what it held is asked for again.", error)
            continue
        yield _Part(states, partial(checkpoints.load, shard.path), shard)


def _still_there(shards: Sequence[Shard], checkpoints: Checkpoints) -> Iterator[_Part]:
    for shard in shards:
        try:
            states = checkpoints.load(shard.path, _STATE_COLUMNS)
        except StaleVersionError:
            continue
        yield _Part(states, partial(checkpoints.load, shard.path), shard)


def _batched(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    batch: list[_Part] = []
    count = 0
    for part in parts:
        batch.append(part)
        count += len(part.states)
        if count >= _LOOKUP_ROWS:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _has_final_state(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.is_in(table["state"], value_set=pa.array(sorted(FINAL_STATES))), False)


def _is_final(table: pa.Table, give_up: GiveUpPolicy) -> pa.ChunkedArray:
    """For each row whether its task is never asked for again."""
    final = _has_final_state(table)
    if give_up.before is not None:
        unknown = pc.equal(table["outcome"], Outcome.NOT_FOUND.value)
        old = pc.fill_null(pc.less(table["submitted_at"], pa.scalar(give_up.before, pa.timestamp("us", "UTC"))), False)
        final = pc.or_(final, pc.and_(unknown, old))
    return final


def _ask(
    tasks: _Tasks,
    positions: _Positions,
    client: LumaClient,
    answers: _Answers,
    on_answer: Callable[[TaskResult, datetime], None] | None,
) -> None:
    """Ask for the tasks at `positions`."""
    if not len(positions):
        return
    under_way: dict[str, int] = {}

    def task_ids() -> Iterator[str]:
        for position in map(int, positions):
            task_id = tasks.ids[position].as_py()
            under_way[task_id] = position
            yield task_id

    for outcome in client.fetch(task_ids()):
        position = under_way.pop(outcome.task_id)
        answers.add(position, outcome)
        if on_answer is not None:
            on_answer(outcome, tasks.submitted_at[position].as_py())
    answers.flush()


class _Read(Protocol):
    """Reads the rows of a table, all columns or some; StaleVersionError if it was on disk and is not there any more."""

    def __call__(self, columns: Sequence[str] | None = None) -> pa.Table: ...


class _Answers:
    """Turns answers into tables as they come. Left by an exception, it keeps everything answered as checkpoints."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: GenerationsReport,
        save_seconds: float,
        refresh_since: datetime | None,
        *,
        on_disk: bool,
    ) -> None:
        self._checkpoints = checkpoints
        self._report = report
        self._save_seconds = save_seconds
        self._refresh_since = refresh_since
        self._on_disk = on_disk
        self._positions: list[int] = []
        self._outcomes: list[TaskResult] = []
        self._unsaved: list[pa.Table] = []
        self._saved_at = time.monotonic()
        self._parts: list[tuple[_Positions, _Read]] = []
        self.paths: list[str] = []

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        try:
            self.flush()
            self._save()
        except DatasetError as error:
            # What has gone wrong before is what the run ends with.
            _log.warning("answers are lost, and asked for again by the next run: %s", error)

    def add(self, position: int, outcome: TaskResult) -> None:
        self._positions.append(position)
        self._outcomes.append(outcome)
        if len(self._outcomes) >= SHARD_ROWS:
            self.flush()
        if time.monotonic() - self._saved_at > self._save_seconds:
            self.flush()
            self._save()

    def flush(self) -> None:
        """Make a table of what has come."""
        if not self._outcomes:
            return
        flattened = flatten(self._outcomes)
        table = flattened.table
        if self._on_disk:
            read: _Read = partial(self._checkpoints.load, self._keep(table))
        else:
            self._unsaved.append(table)
            read = partial(_columns_of, table)
        self._report.count(self._outcomes, flattened.drift)
        self._parts.append((np.array(self._positions, dtype=np.int64), read))
        self._positions, self._outcomes = [], []

    def offer_to(self, rows: _Rows) -> None:
        """Offer all answers. For those that another run took up, and removed when it had written them, see its file."""
        for positions, read in self._parts:
            try:
                states = read(_STATE_COLUMNS)
            except StaleVersionError:
                continue
            rows.offer([_Part(states, read)], positions, is_own=True)

    def _save(self) -> None:
        """Put what is only in memory on disk as well."""
        if self._unsaved:
            self._keep(pa.concat_tables(self._unsaved))
            self._unsaved = []

    def _keep(self, table: pa.Table) -> str:
        path = self._checkpoints.save(table, self._refresh_since)
        self.paths.append(path)
        self._saved_at = time.monotonic()
        return path


def _columns_of(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    return table if columns is None else table.select(columns)


def _offer_refusals(rows: _Rows, tasks: _Tasks, left_out: _Positions) -> None:
    """Rows for tasks that the run's limit has left out."""
    now = datetime.now(timezone.utc)
    for start in range(0, len(left_out), ROW_GROUP_ROWS):
        positions = left_out[start : start + ROW_GROUP_ROWS]
        load = partial(_refusals, tasks, positions, now)
        rows.offer([_Part(load().select(_STATE_COLUMNS), load)], positions)


def _refusals(tasks: _Tasks, positions: _Positions, now: datetime) -> pa.Table:
    outcomes = [
        TaskResult(
            tasks.ids[position].as_py(),
            Outcome.REQUEST_FAILED,
            now,
            attempts=0,
            requests=0,
            error_code="not_asked",
            error_message="not asked: the run's `limit` was reached; a run without it asks",
        )
        for position in positions.tolist()
    ]
    return flatten(outcomes).table


def _counted(rows: _Rows, report: GenerationsReport, give_up: GiveUpPolicy) -> Iterator[pa.Table]:
    """The final rows, counted as they pass."""
    report.outcomes, report.states, report.open_tasks, report.preview = Counter(), Counter(), 0, []
    for table in rows.tables():
        _count_values(report.outcomes, table["outcome"])
        _count_values(report.states, table["state"].filter(pc.equal(table["outcome"], Outcome.RESOLVED.value)))
        open_rows = pc.invert(_is_final(table, give_up))
        if give_up.before is not None:
            # A task that is still open after all that time is asked for by backfills, but awaited no longer.
            recent = pc.greater_equal(table["submitted_at"], pa.scalar(give_up.before, pa.timestamp("us", "UTC")))
            open_rows = pc.and_(open_rows, pc.fill_null(recent, True))
        report.open_tasks += pc.sum(open_rows).as_py() or 0
        if len(report.preview) < _PREVIEW_ROWS:
            columns = ["task_id", "state", "outcome", "request_prompt", "thumbnail_url", "error_message"]
            report.preview += table.select(columns).slice(0, _PREVIEW_ROWS - len(report.preview)).to_pylist()
        yield table


def _count_values(counter: Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        counter[entry["values"] or "unknown"] += entry["counts"]
