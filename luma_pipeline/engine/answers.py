"""The engine: new answers as tables, saved as checkpoints on time, whatever the rest of the run waits for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luma_pipeline.dataset import Checkpoints, DatasetError
from luma_pipeline.engine.candidates import STATE_COLUMNS, Candidates
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.report import GenerationsReport
from luma_pipeline.luma import ProviderSpec, TaskResult, flatten

__all__ = ["Answers"]

_log = logging.getLogger(__name__)

FLATTENED_ROWS = 500
"""Answers that become one table. Small enough to stay in the processor's cache while it is flattened."""
SPILLED_ROWS = 1_000
"""Answers of one checkpoint, once the answers of the run are too many for memory."""
_SAVED_BATCHES = 4
"""Tables of one checkpoint at most."""
_STALLED_SECONDS = 10.0
"""How long the end of a broken run waits for a saving that is under way."""


class MemoryBudget:
    """Bytes that may be held at once by whoever shares the budget. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take bytes, if there are so many left."""
        with self._lock:
            is_granted = self._held + count <= self.limit
            self._held += count if is_granted else 0
            return is_granted

    def give_back(self, count: int) -> None:
        """Give bytes back that were taken."""
        with self._lock:
            self._held -= count


BUDGET = MemoryBudget(32 * 1024 * 1024)
"""For the answers that all partitions of the process hold in memory: about 4,500. A partition that gets no more holds
its answers on disk."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some answers: in memory (`table`), on disk (`path`), or both."""

    candidates: Candidates
    table: pa.Table | None
    path: str | None = None


class Answers:
    """The new answers of one partition, to be used in a `with` block; `add` by one thread at a time.

    While `saving`, a thread saves what is not saved yet, so that a kill costs the answers of `save_seconds` at most.
    Left by an exception, the block saves everything answered.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: GenerationsReport,
        spec: ProviderSpec,
        give_up: GiveUpPolicy,
        save_seconds: float,
        refresh_since: datetime | None,
    ) -> None:
        self._checkpoints = checkpoints
        self._report = report
        self._spec = spec
        self._give_up = give_up
        self._save_seconds = save_seconds
        self._refresh_since = refresh_since
        self._lock = threading.Lock()  # of what follows
        self._new: list[tuple[int, TaskResult]] = []
        self._batches: list[_Batch] = []
        self._oldest_unsaved: float | None = None
        self._is_on_disk = False
        self._bytes_in_memory = 0
        self._failure: Exception | None = None
        self._saves = threading.Lock()  # one saving at a time
        self.paths: list[str] = []
        """The checkpoints of this run."""

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._save(wait_seconds=_STALLED_SECONDS)
        except DatasetError as error:
            # What has gone wrong before is what the run ends with.
            _log.warning("answers are lost, and asked for again by the next run: %s", error)
        finally:
            with self._lock:
                self._give_memory_back()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save answers on time while the block runs. An exception does not wait for a saving that is under way."""
        stop = threading.Event()
        thread = threading.Thread(target=self._save_on_time, args=(stop,), name="luma-checkpoints", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            stop.set()
            raise
        stop.set()
        thread.join()
        self._raise_failure()

    def add(self, index: Sequence[int], results: Sequence[TaskResult]) -> None:
        """Take in answers, each for the task at its `index`. Raises DatasetError if earlier ones could not be saved."""
        self._raise_failure()
        with self._lock:
            self._new.extend(zip(index, results, strict=True))
            if self._oldest_unsaved is None:
                self._oldest_unsaved = time.monotonic()
            if len(self._new) < FLATTENED_ROWS:
                return
            self._flatten()
            unsaved = sum(len(batch.candidates.index) for batch in self._batches if batch.path is None)
            is_spilled = self._is_on_disk and unsaved >= SPILLED_ROWS
        if is_spilled:
            self._save()

    def candidates(self) -> list[Candidates]:
        """All answers, to choose from."""
        with self._lock:
            self._flatten()
        if self._is_on_disk:
            self._save()
        return [batch.candidates for batch in self._batches]

    def _flatten(self) -> None:
        """Make tables of what has come. To be called with the lock."""
        new, self._new = self._new, []
        for start in range(0, len(new), FLATTENED_ROWS):
            self._flatten_together(new[start : start + FLATTENED_ROWS])

    def _flatten_together(self, new: Sequence[tuple[int, TaskResult]]) -> None:
        results = [result for _, result in new]
        flattened = flatten(results, fields=self._spec.fields)
        self._report.count_answers(results, flattened.drift)
        table = flattened.table
        index = np.array([index for index, _ in new], dtype=np.int64)
        states = table.select(STATE_COLUMNS)
        load = partial(_itself, table)
        self._batches.append(_Batch(Candidates.of(states, index, load, self._give_up, is_own=True), table))
        if self._is_on_disk:
            return
        if BUDGET.take(table.nbytes):
            self._bytes_in_memory += table.nbytes
            return
        self._is_on_disk = True
        self._give_memory_back()
        self._batches = [self._on_disk(batch, batch.path) if batch.path else batch for batch in self._batches]

    def _give_memory_back(self) -> None:
        BUDGET.give_back(self._bytes_in_memory)
        self._bytes_in_memory = 0

    def _save(self, wait_seconds: float = -1) -> None:
        """Save what is in memory alone as checkpoints, each small enough to be loaded beside a row group."""
        if not self._saves.acquire(timeout=wait_seconds):
            raise DatasetError(f"an earlier checkpoint was not written within {wait_seconds:.0f} seconds")
        try:
            with self._lock:
                self._flatten()
                unsaved = [batch for batch in self._batches if batch.path is None]
                self._oldest_unsaved = None
            for start in range(0, len(unsaved), _SAVED_BATCHES):
                self._save_together(unsaved[start : start + _SAVED_BATCHES])
        finally:
            self._saves.release()

    def _save_together(self, unsaved: list[_Batch]) -> None:
        table = pa.concat_tables([batch.table for batch in unsaved if batch.table is not None])
        path = self._checkpoints.save(table, self._refresh_since)
        self.paths.append(path)
        with self._lock:
            saved = _Batch(_merged([batch.candidates for batch in unsaved], table), table, path)
            self._batches = [batch for batch in self._batches if batch not in unsaved]
            self._batches.append(self._on_disk(saved, path) if self._is_on_disk else saved)

    def _on_disk(self, batch: _Batch, path: str) -> _Batch:
        load = partial(self._checkpoints.load, path, schema=self._spec.schema)
        return _Batch(replace(batch.candidates, load=load, path=path), None, path)

    def _save_on_time(self, stop: threading.Event) -> None:
        while not stop.wait(self._save_seconds / 8):
            oldest = self._oldest_unsaved
            # Half of the time is left to write it.
            if oldest is not None and time.monotonic() - oldest >= self._save_seconds / 2:
                try:
                    self._save()
                except Exception as error:  # noqa: BLE001 - it is raised again where answers are added
                    self._failure = error
                    return

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _merged(batches: list[Candidates], table: pa.Table) -> Candidates:
    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(batch, name) for batch in batches])

    load = partial(_itself, table)
    return Candidates(joined("index"), joined("rank"), joined("polled_at"), joined("is_final"), load)


def _itself(table: pa.Table) -> pa.Table:
    return table
