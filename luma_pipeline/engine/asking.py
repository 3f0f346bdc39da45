"""The engine: which tasks of a partition are asked for, and the asking."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType

import numpy as np
import pyarrow as pa

from luma_pipeline.dataset import (
    Checkpoints,
    Forgotten,
    PartitionFile,
    PartitionReader,
    Shard,
    StaleVersionError,
    UnreadableFileError,
    Written,
)
from luma_pipeline.dataset.rows import Positions
from luma_pipeline.engine.answers import Answers
from luma_pipeline.engine.best_rows import BestRows
from luma_pipeline.engine.candidates import FAILED, NO_ROW, STATE_COLUMNS, Candidates, Part, Tasks, candidates_of
from luma_pipeline.engine.garbage import imports_left_out
from luma_pipeline.engine.hand_over import HandOver, OnAnswer
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.report import COUNTED_COLUMNS, GenerationsReport, preview_columns
from luma_pipeline.luma import LumaClient, ProviderSpec

__all__ = ["AskPlan", "ResolvePolicy", "StoredRows", "ask", "plan_asking"]

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_READ_IDS = 500


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
    save_seconds: float = 10.0


class StoredRows:
    """The rows of a partition's file, to be used in a `with` block. The report counts them as they are read."""

    def __init__(
        self,
        file: PartitionFile,
        tasks: Tasks,
        spec: ProviderSpec,
        give_up: GiveUpPolicy,
        report: GenerationsReport | None = None,
    ) -> None:
        self._file = file
        self._tasks = tasks
        self._schema = spec.schema
        self._give_up = give_up
        self._report = report or GenerationsReport()
        self._reader: PartitionReader | None = None
        self._candidates: list[Candidates] = []

    def __enter__(self) -> StoredRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    @property
    def version(self) -> str:
        """The version of the file that the rows are of; empty if there is no file."""
        return self._reader.version if self._reader is not None else ""

    @property
    def dropped(self) -> int:
        """How many rows have no task."""
        return sum(candidates.strangers for candidates in self._candidates)

    def candidates(self, *, is_as_now: bool = False) -> list[Candidates]:
        """The rows of the file as it was when it was read, or with `is_as_now` as it is now."""
        if is_as_now and self._reader is not None and self._file.version() != self._reader.version:
            self.forget()
        while self._reader is None:
            self._reader = self._file.open()
            try:
                self._candidates = list(candidates_of(self._parts(self._reader), self._tasks, self._give_up))
            except StaleVersionError as error:
                _log.info("%s; its rows are read again", error)
                self.forget()
        return self._candidates

    def forget(self) -> None:
        """Have the file read again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def written(self) -> Written | None:
        """What the report says of the file that is kept; None where the same rows are to be written."""
        written = None if self._reader is None else self._reader.written(self._schema)
        if written is not None and written.rows and self._reader is not None:
            self._report.show_first(self._reader.row_group(0, preview_columns(self._schema), self._schema))
        return written

    def _parts(self, reader: PartitionReader) -> Iterator[Part]:
        self._report.count_from_start()
        for number, states in enumerate(reader.batches(COUNTED_COLUMNS, self._schema)):
            self._report.count_rows(states, self._give_up)
            yield states, partial(reader.row_group, number, schema=self._schema), None


@dataclass(frozen=True)
class AskPlan:
    """What a run asks for, and what it found before.

    `to_ask` are the indices of tasks. `is_left_out` says for each task whether it is beyond the limit. `shards` are the
    rows of other runs' checkpoints, `ended` the paths of the checkpoints that a refresh makes an end of.
    """

    to_ask: Positions
    is_left_out: np.ndarray[tuple[int], np.dtype[np.bool_]]
    kept: int
    resumed: int
    shards: list[Candidates]
    unreadable_checkpoints: int
    refresh_since: datetime | None
    ended: list[str]


def plan_asking(
    tasks: Tasks,
    stored: StoredRows,
    checkpoints: Checkpoints,
    spec: ProviderSpec,
    policy: ResolvePolicy,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
) -> AskPlan:
    """Find out which tasks need a request.

    A refresh takes up one that was broken off, and counts from the beginning of that: whatever was answered since
    then, by whichever run, is fresh. Rows of `forgotten` tasks count as none.
    """
    now = datetime.now(UTC)
    listed = checkpoints.shards(now - timedelta(seconds=policy.checkpoint_seconds))
    broken_off = min((shard.refresh_since for shard in listed if shard.refresh_since is not None), default=None)
    unreadable: list[Shard] = []
    shards = list(candidates_of(_readable(listed, checkpoints, spec, forgotten, unreadable), tasks, policy.give_up))
    best = BestRows(tasks, [*stored.candidates(), *shards])
    is_known = best.values("rank", NO_ROW) > FAILED
    is_of_shard = best.is_of_shard()
    if policy.refresh:
        since = np.iinfo(np.int64).max if broken_off is None else (broken_off - _EPOCH) // _MICROSECOND
        is_known &= best.values("polled_at", 0) >= since
    else:
        is_known &= best.values("is_final", 0).astype(bool) | is_of_shard
    unknown = np.flatnonzero(~is_known)
    limit = len(unknown) if policy.limit is None else policy.limit
    is_left_out = np.zeros(len(is_known), dtype=bool)
    is_left_out[unknown[limit:]] = True
    is_whole_refresh = policy.refresh and limit >= len(unknown)
    return AskPlan(
        to_ask=unknown[:limit],
        is_left_out=is_left_out,
        kept=int((is_known & ~is_of_shard).sum()),
        resumed=int((is_known & is_of_shard).sum()),
        shards=shards,
        unreadable_checkpoints=len(unreadable),
        refresh_since=now if policy.refresh else None,
        ended=[shard.path for shard in listed if shard.refresh_since is not None] if is_whole_refresh else [],
    )


def _readable(
    listed: Sequence[Shard],
    checkpoints: Checkpoints,
    spec: ProviderSpec,
    forgotten: Forgotten,
    unreadable: list[Shard],
) -> Iterator[Part]:
    """The shards that can be read to their end; those that a crash of a machine has cut are told of."""
    for shard in listed:
        load = partial(_loaded, checkpoints, shard.path, spec, forgotten)
        try:
            states = load().select(STATE_COLUMNS)
        except StaleVersionError:
            continue
        except UnreadableFileError as error:
            unreadable.append(shard)
            _log.warning("%s. It is left out, and what it held is asked for again.", error)
            continue
        yield states, load, shard


def _loaded(checkpoints: Checkpoints, path: str, spec: ProviderSpec, forgotten: Forgotten) -> pa.Table:
    return forgotten.without(checkpoints.load(path, schema=spec.schema))


def ask(tasks: Tasks, to_ask: Positions, client: LumaClient, answers: Answers, on_answer: OnAnswer | None) -> None:
    """Ask for the tasks with these indices, and hand each answer to `answers` at once and to `on_answer` in its turn.

    Raises what stops the run, and what `on_answer` raised.
    """
    if not len(to_ask):
        return
    with ExitStack() as stack:
        stack.enter_context(imports_left_out())
        stack.enter_context(answers.saving())
        hand_over = stack.enter_context(HandOver(on_answer)) if on_answer is not None else None
        under_way: dict[str, int] = {}
        left = _with_ids(tasks, to_ask)
        is_done = False

        def task_ids() -> Iterator[str]:
            """The IDs of the tasks that are left, up to where `on_answer` has enough to do."""
            nonlocal is_done
            while hand_over is None or not hand_over.is_full():
                task = next(left, None)
                if task is None:
                    is_done = True
                    return
                index, task_id = task
                under_way[task_id] = index
                yield task_id

        while not is_done:
            for results in client.fetch_batches(task_ids()):
                index = [under_way.pop(result.task_id) for result in results]
                answers.add(index, results)
                if hand_over is not None:
                    hand_over.put(zip(results, tasks.submitted_at.take(pa.array(index)).to_pylist(), strict=True))
            if hand_over is not None:
                hand_over.wait_for_room()


def _with_ids(tasks: Tasks, to_ask: Positions) -> Iterator[tuple[int, str]]:
    """The indices with their tasks' IDs, read some hundreds at a time."""
    for start in range(0, len(to_ask), _READ_IDS):
        some = to_ask[start : start + _READ_IDS]
        yield from zip(some.tolist(), tasks.ids.take(pa.array(some)).to_pylist(), strict=True)
