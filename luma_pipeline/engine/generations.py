"""luma_generations: every task of a partition asked for, and exactly one row for each.

Memory stays flat however many tasks a partition has: answers become Arrow tables a few hundred at a time, which go to
disk as checkpoints when they are many; the final file is put together a row group at a time.

A task may have several rows: in the partition's file, in checkpoints of broken runs and of others that are still at
work, and among the new answers. The best of them is written: one in a final state before any other, then the newest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from luma_pipeline.dataset import ROW_GROUP_ROWS, Checkpoints, DatasetError, Forgotten, PartitionFile, StaleVersionError
from luma_pipeline.dataset.rows import Positions
from luma_pipeline.engine.answers import Answers
from luma_pipeline.engine.asking import AskPlan, ResolvePolicy, StoredRows, ask, plan_asking
from luma_pipeline.engine.best_rows import BestRows
from luma_pipeline.engine.candidates import STATE_COLUMNS, Candidates, Tasks
from luma_pipeline.engine.hand_over import OnAnswer
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.report import GenerationsReport
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.errors import ConfigurationError
from luma_pipeline.luma import LumaClient, Outcome, ProviderSpec, TaskResult, to_table

__all__ = [
    "DIGEST_COLUMNS",
    "EmptiedError",
    "GenerationsReport",
    "ResolvePolicy",
    "refuse_to_empty",
    "resolve_generations",
    "tasks_to_ask",
]

_log = logging.getLogger(__name__)

DIGEST_COLUMNS = ("task_id", "outcome", "state", "raw_response")
_OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


class EmptiedError(DatasetError, ConfigurationError):
    """A partition that has rows would be replaced by one without any."""


def resolve_generations(
    tasks: pa.Table,
    file: PartitionFile,
    checkpoints: Checkpoints,
    client: LumaClient,
    policy: ResolvePolicy,
    on_answer: OnAnswer | None = None,
    judge: Judge | None = None,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
) -> GenerationsReport:
    """Ask for the tasks that are not final and replace the partition's file with one row for every task.

    `tasks` has distinct `task_id` and `submitted_at`; the rows are written in its order, with the columns of the
    client's `spec`. `on_answer` is called with each new answer and its task's time, one after the other, in a thread of
    its own: it may wait. `judge` puts the verdict on the rows. `forgotten` tasks are none of `tasks`; checkpoints that
    have rows of them go as others do. What stops the run (`LumaError`, or what `on_answer`
    raises) passes through, after the answers so far are kept as checkpoints.

    Nothing is written where every task keeps its row.

    Several runs may be at work on one partition: if another replaces the file while this one asks or writes, the file
    is read again, and none of its rows that is better than this run's is lost.

    Raises:
        EmptiedError: There are no tasks, but the file has rows; nothing is changed.
        UnreadableFileError: The file cannot be read.
    """
    started = time.monotonic()
    refuse_to_empty(tasks, file, policy)
    partition = Tasks.of(tasks)
    spec = client.spec
    report = GenerationsReport()
    with StoredRows(file, partition, spec, policy.give_up, report) as stored:
        plan = plan_asking(partition, stored, checkpoints, spec, policy, forgotten)
        report.kept, report.resumed = plan.kept, plan.resumed
        report.unreadable_checkpoints = plan.unreadable_checkpoints
        to_ask = plan.to_ask
        with Answers(checkpoints, report, spec, policy.give_up, policy.save_seconds, plan.refresh_since) as answers:
            while report.written is None:
                ask(partition, to_ask, client, answers, on_answer)
                try:
                    choice = _choose(partition, stored, checkpoints, plan, answers, spec, policy.give_up)
                    to_ask = choice.lost
                    if not len(to_ask) and choice.rows.are_all_of(stored.candidates()):
                        report.written = stored.written()
                    if not len(to_ask) and report.written is None:
                        rows = report.counted(choice.rows.tables(), partition, policy.give_up)
                        rows = rows if judge is None else judge.on_generations(rows, report)
                        report.written = file.replace(spec.schema, rows, DIGEST_COLUMNS, stored.version)
                        report.dropped = stored.dropped
                except StaleVersionError as error:
                    to_ask = plan.to_ask[:0]
                    stored.forget()
                    _log.info("%s; the partition is read again", error)
    checkpoints.remove([*choice.taken_up, *plan.ended, *answers.paths])
    report.seconds = time.monotonic() - started
    return report


def tasks_to_ask(
    tasks: pa.Table, file: PartitionFile, checkpoints: Checkpoints, spec: ProviderSpec, policy: ResolvePolicy
) -> int:
    """How many tasks `resolve_generations` would ask for."""
    partition = Tasks.of(tasks)
    with StoredRows(file, partition, spec, policy.give_up) as stored:
        return len(plan_asking(partition, stored, checkpoints, spec, policy).to_ask)


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


class _Choice(NamedTuple):
    """The best row of each task.

    `taken_up` are the paths of checkpoints that may go when the rows are written. Tasks that are `lost` have no row,
    though they are not beyond the limit: another run has dropped it from the file.
    """

    rows: BestRows
    taken_up: list[str]
    lost: Positions


def _choose(
    tasks: Tasks,
    stored: StoredRows,
    checkpoints: Checkpoints,
    plan: AskPlan,
    answers: Answers,
    spec: ProviderSpec,
    give_up: GiveUpPolicy,
) -> _Choice:
    """Choose the rows to be written.

    What they are chosen from can change until the last of them is loaded: other runs replace the file, and remove
    checkpoints when they have. StaleVersionError tells so while the rows are loaded, and when the file is replaced.
    """
    others = [*plan.shards, *answers.candidates()]
    there = _still_there(others, checkpoints)
    # Another run that has removed a checkpoint has replaced the file before.
    has_checkpoints = any(some.path is not None for some in others)
    rows = BestRows(tasks, [*stored.candidates(is_as_now=has_checkpoints), *there])
    missing = rows.missing()
    is_left_out = plan.is_left_out[missing]
    for refusals in _refusals(tasks, missing[is_left_out], spec, give_up):
        rows.add(refusals)
    # A checkpoint with rows of tasks that this run does not know of stays, and so does one of a refresh.
    taken_up = [some.shard.path for some in there if some.shard and not some.shard.refresh_since and not some.strangers]
    return _Choice(rows, taken_up, missing[~is_left_out])


def _still_there(candidates: Iterable[Candidates], checkpoints: Checkpoints) -> list[Candidates]:
    """Those that no other run has taken up and removed since: their rows are in the file then."""
    candidates = list(candidates)
    if all(some.path is None for some in candidates):
        return candidates
    paths = {shard.path for shard in checkpoints.shards(_OLDEST)}
    return [some for some in candidates if some.path is None or some.path in paths]


def _refusals(tasks: Tasks, left_out: Positions, spec: ProviderSpec, give_up: GiveUpPolicy) -> Iterable[Candidates]:
    """Rows for tasks that the run's limit has left out."""
    now = datetime.now(UTC)
    for start in range(0, len(left_out), ROW_GROUP_ROWS):
        index = left_out[start : start + ROW_GROUP_ROWS]
        load = partial(_refused, tasks, index, spec, now)
        yield Candidates.of(load().select(STATE_COLUMNS), index, load, give_up)


def _refused(tasks: Tasks, index: Positions, spec: ProviderSpec, now: datetime) -> pa.Table:
    results = [
        TaskResult(
            task_id,
            Outcome.REQUEST_FAILED,
            now,
            attempts=0,
            requests=0,
            error_code="not_asked",
            error_message="not asked: the run's `limit` was reached; a run without it asks",
        )
        for task_id in tasks.ids.take(pa.array(index)).to_pylist()
    ]
    return to_table(results, fields=spec.fields)
