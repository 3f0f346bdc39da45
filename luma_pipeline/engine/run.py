"""The engine: one run over one or many partitions, without Dagster.

The caller's thread only waits, so that Ctrl-C, SIGTERM or an orchestrator's Terminate reaches it at once. All work is
done in daemon threads. `PipelineRun.stop` breaks them off in order and abandons those that a stalled server holds.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import NamedTuple, TypeVar

from luma_pipeline.dataset import SWEEP_AFTER_SECONDS, Dataset
from luma_pipeline.engine.client import SharedLimitReport, open_limiter
from luma_pipeline.engine.generations import ResolvePolicy
from luma_pipeline.engine.learnt import LimitMemory
from luma_pipeline.engine.looks import VERIFIED_MARKS, Looks
from luma_pipeline.engine.partition import (
    GENERATIONS,
    TASKS,
    VIDEOS,
    Partition,
    PartitionReport,
    PartitionWork,
)
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.progress import Progress, ProgressCounter
from luma_pipeline.engine.provider_links import ProviderLinks
from luma_pipeline.engine.reflatten import ReflattenWork
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.settings import EngineSettings, RunOptions
from luma_pipeline.engine.threads import finish, start
from luma_pipeline.engine.videos import ManifestPolicy
from luma_pipeline.limit import SharedRateLimiter
from luma_pipeline.luma import LumaClient, LumaError
from luma_pipeline.media import BucketError, MediaCopier
from luma_pipeline.source.table import RowsOutside, SourceTable, SourceTableError

__all__ = ["ALL_DATASETS", "STOPS_THE_RUN", "PipelineRun", "plan_partition", "run_partition"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_DEFAULTS = RunOptions()
ALL_DATASETS = frozenset({TASKS, GENERATIONS, VIDEOS})
STOPS_THE_RUN = (LumaError, BucketError, SourceTableError)
"""Errors that concern every partition: no other one is begun."""

_PARTITIONS_AT_ONCE = 8
_ROWS_OUTSIDE = "rows-outside"
_PROGRESS_SECONDS = 5.0


def run_partition(
    settings: EngineSettings,
    start: datetime,
    end: datetime,
    *,
    options: RunOptions = _DEFAULTS,
    on_progress: Callable[[Progress], None] | None = None,
) -> PartitionReport:
    """Read, ask, copy and write the partition of the window [start, end), a whole hour, day, week or month.

    `start` and `end` are aware; their zone is that of the partitions. `on_progress` is called in this thread, every
    five seconds and at the end. Ctrl-C stops within ten seconds, whatever stalls: answers so far are kept, and the next
    call takes them up.

    Raises:
        ValueError: The window is no partition, or a setting is out of its range.
        ConfigurationError: A setting, an account or a permission is wrong.
        PassingError: A server or a connection failed for now.
    """
    partition = Partition.of(start, end)
    reports: list[PartitionReport] = []
    with PipelineRun(settings, options, on_progress=on_progress) as run:
        if run.rows_outside:
            _log.warning("rows of %s that are in no partition of now: %s", settings.source.table, run.rows_outside)
        failures = run.do([partition], reports.append)
    for error in failures.values():
        raise error
    return reports[0]


def plan_partition(
    settings: EngineSettings, start: datetime, end: datetime, *, options: RunOptions = _DEFAULTS
) -> PartitionReport:
    """What `run_partition` would ask and copy, as `to_ask` and `to_copy` of the report. Nothing is written.

    Raises as `run_partition`.
    """
    return run_partition(settings, start, end, options=replace(options, dry_run=True))


class PipelineRun:
    """A run over partitions, side by side; a context manager, to be used by one thread.

    Entering opens what `datasets` need, and raises if any of it does not work. Left by an exception, the run is
    stopped: see `stop`.

    Raises:
        ValueError: A setting is out of its range.
        LumaPipelineError: The source, the bucket or the root of the datasets does not work.
    """

    def __init__(
        self,
        settings: EngineSettings,
        options: RunOptions = _DEFAULTS,
        *,
        datasets: AbstractSet[str] = ALL_DATASETS,
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] = _log.warning,
    ) -> None:
        self._settings = settings
        self._options = options
        self._datasets = datasets
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._warnings: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._limiter: SharedRateLimiter | None = None
        self._counter = ProgressCounter()
        self._opened = OpenResources()
        self._copier: MediaCopier | None = None
        self._work: PartitionWork | ReflattenWork | None = None
        self._limit: LimitMemory | None = None
        self._ended: queue.SimpleQueue[_Ended | None] = queue.SimpleQueue()
        self._workers = 0
        self.rows_outside: RowsOutside | None = None
        """Rows of the source table that are in no partition; None where they were not counted in this run."""

    def __enter__(self) -> PipelineRun:
        try:
            self._work = self._in_thread(self._open, "open")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
            return
        try:
            self._in_thread(self._close, "close")
        except BaseException:
            self.stop()
            raise

    @property
    def source_table(self) -> str:
        """The name of the source table."""
        return self._settings.source.table

    @property
    def is_dry_run(self) -> bool:
        """Whether the run asks, copies and writes nothing."""
        return self._options.dry_run

    @property
    def shared_limit(self) -> SharedLimitReport | None:
        """How the shared limit was kept; None without one."""
        return None if self._limiter is None else SharedLimitReport(self._limiter.lost_seconds)

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self._counter.now(self._copier.bytes_downloaded if self._copier is not None else 0)

    def do(
        self, partitions: Sequence[Partition], on_report: Callable[[PartitionReport], None]
    ) -> Mapping[str, Exception]:
        """Work on every partition; returns why partitions failed, by key.

        `on_report` is called in this thread, with each partition as soon as it is done. If the run is interrupted or
        stopped, it is called for those that are done by then.

        Raises one of STOPS_THE_RUN; no further partition is begun, and those under way end first.
        """
        if not partitions:
            return {}
        self._counter.begin(len(partitions))
        if self._work is not None:
            self._work.share_out(partitions)
        failures: dict[str, Exception] = {}
        stop: Exception | None = None
        self._start_workers(partitions)
        told_at = time.monotonic()
        try:
            while self._workers:
                ended = self._next(told_at + _PROGRESS_SECONDS)
                if ended is not None and isinstance(ended.result, STOPS_THE_RUN):
                    stop = stop or ended.result
                    self._opened.ask_nothing_more()
                elif ended is not None:
                    self._take(ended, on_report, failures)
                if time.monotonic() - told_at >= _PROGRESS_SECONDS:
                    told_at = time.monotonic()
                    self._tell()
        except BaseException:
            self.stop()
            self._take_rest(on_report)
            raise
        self._tell()
        if stop is not None:
            raise stop
        return failures

    def stop(self) -> None:
        """Break everything off and return within about ten seconds, whatever stalls.

        The client is closed first, since copies may be waiting for it; then the copier, which aborts its uploads; then
        the statements of the source are cancelled. Partitions keep their answers as checkpoints, until requests to the
        datasets' root are cut too. A second interrupt does not cut this short.
        """
        late = finish(self._opened.stop, "luma-stop")
        if late:
            _log.warning("stopped without waiting any longer for: %s", ", ".join(late))

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> PartitionWork | ReflattenWork:
        settings, options, policies = self._settings, self._options, self._settings.policies
        dataset = self._opened.keep_dataset(Dataset(url=settings.data_url))
        dataset.check()
        if not options.dry_run:
            dataset.sweep(min(SWEEP_AFTER_SECONDS, policies.orphans_older_than_seconds))
        give_up = GiveUpPolicy(policies.give_up_after_seconds, datetime.now(UTC), never=options.retry_failed)
        if options.reflatten:
            return self._open_reflatten(dataset, give_up)
        client = self._open_client(dataset) if self._datasets & {GENERATIONS, VIDEOS} else None
        links = ProviderLinks(client, policies.link_preference) if client is not None else None
        overwrite = options.overwrite or settings.videos.overwrite
        if links is not None and VIDEOS in self._datasets:
            self._copier = self._open_copier(links, overwrite=overwrite)
        return PartitionWork(
            dataset=dataset,
            source=self._open_source(dataset) if TASKS in self._datasets else None,
            client=client if GENERATIONS in self._datasets else None,
            copier=self._copier,
            resolve=ResolvePolicy(
                give_up, policies.checkpoint_seconds, options.refresh, options.limit, options.allow_empty
            ),
            manifest=ManifestPolicy(
                options.artifacts if options.artifacts is not None else policies.artifacts,
                policies.link_preference,
                give_up,
                links.unwatermarked if links is not None else None,
                bucket=settings.videos.bucket,
                overwrite=overwrite,
                spec=settings.provider.spec,
            ),
            tombstones=dataset.tombstones(),
            late_rows=timedelta(seconds=policies.late_rows_seconds),
            progress=self._counter,
            checkpointed=dataset.checkpointed(GENERATIONS),
            looks=None if self._copier is None or options.dry_run else self._open_looks(dataset),
        )

    def _open_reflatten(self, dataset: Dataset, give_up: GiveUpPolicy) -> ReflattenWork:
        """The work of a run that makes columns again. It needs the datasets alone."""
        if GENERATIONS not in self._datasets:
            raise ValueError(f"`reflatten` makes the columns of {GENERATIONS} again: select it")
        return ReflattenWork(dataset, self._datasets, self._settings.provider.spec, give_up, self._opened.stopping)

    def _open_looks(self, dataset: Dataset) -> Looks:
        policies = self._settings.policies
        return Looks(dataset, policies.objects_checked, policies.verify_after_seconds, verify=self._options.verify)

    def _open_client(self, dataset: Dataset) -> LumaClient:
        provider, shared_limit = self._settings.provider, self._settings.shared_limit
        self._limiter = open_limiter(provider, shared_limit, self._warnings.put)
        if provider.requests_per_second is None:
            self._limit = self._opened.keep_limit(LimitMemory(dataset, provider))
        limiter = self._limiter if self._limit is None else self._limit.limiter
        return self._opened.keep_client(LumaClient(provider, limiter))

    def _open_copier(self, links: ProviderLinks, *, overwrite: bool) -> MediaCopier:
        config = replace(self._settings.videos, overwrite=overwrite)
        copier = self._opened.keep_copier(MediaCopier(config, refresh=links.renewed))
        copier.check_bucket()
        if not self._options.dry_run:
            copier.sweep_orphans(self._settings.policies.orphans_older_than_seconds)
        return copier

    def _open_source(self, dataset: Dataset) -> SourceTable:
        """The source table; once in a while its rows that are in no partition are counted."""
        source = self._opened.keep_source(self._settings.source)
        source.check()
        marks = dataset.marks(VERIFIED_MARKS)
        counted_at = None if self._options.verify else marks.set_at(_ROWS_OUTSIDE)
        age = timedelta(seconds=self._settings.policies.verify_after_seconds)
        if counted_at is None or datetime.now(UTC) - counted_at >= age:
            self.rows_outside = source.rows_outside()
            if not self._options.dry_run:
                marks.set(_ROWS_OUTSIDE)
        return source

    def _close(self) -> None:
        if self._limit is not None:
            self._limit.keep()
        self._opened.close()

    # -- threads ----------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[[], T], name: str) -> T:
        """Call `work` in a thread and wait for it: a thread that waits for a server may not see a signal."""
        future = start(work, f"luma-{name}")
        self._opened.keep_thread(future)
        return future.result()

    def _start_workers(self, partitions: Sequence[Partition]) -> None:
        if self._work is None:
            raise RuntimeError("the run has not been entered")
        step = self._work.plan if self._options.dry_run else self._work.do
        to_do: queue.SimpleQueue[Partition] = queue.SimpleQueue()
        for partition in partitions:
            to_do.put(partition)
        self._workers = min(_PARTITIONS_AT_ONCE, len(partitions))
        for number in range(self._workers):
            worker = partial(_work_off, to_do, step, self._ended, self._opened.stopping)
            self._opened.keep_thread(start(worker, f"luma-partition-{number}"))

    def _next(self, until: float) -> _Ended | None:
        """The next partition that has ended; None when there is none by then, or when a worker has ended."""
        try:
            ended = self._ended.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None
        self._workers -= ended is None
        return ended

    def _take(
        self, ended: _Ended, on_report: Callable[[PartitionReport], None], failures: dict[str, Exception]
    ) -> None:
        if isinstance(ended.result, PartitionReport):
            on_report(ended.result)
            self._counter.add(ended.result)
        else:
            failures[ended.partition.key] = ended.result

    def _take_rest(self, on_report: Callable[[PartitionReport], None]) -> None:
        """Report the partitions that were done before the stop, or during it."""
        while True:
            try:
                ended = self._ended.get_nowait()
            except queue.Empty:
                return
            if ended is not None and isinstance(ended.result, PartitionReport):
                on_report(ended.result)

    def _tell(self) -> None:
        while not self._warnings.empty():
            self._on_warning(self._warnings.get())
        if self._on_progress is not None:
            self._on_progress(self.progress)


class _Ended(NamedTuple):
    """A partition, and its report or why there is none."""

    partition: Partition
    result: PartitionReport | Exception


def _work_off(
    to_do: queue.SimpleQueue[Partition],
    step: Callable[[Partition], PartitionReport],
    ended: queue.SimpleQueue[_Ended | None],
    stopping: threading.Event,
) -> None:
    try:
        while not stopping.is_set():
            partition = to_do.get_nowait()
            try:
                result: PartitionReport | Exception = step(partition)
            except Exception as error:  # noqa: BLE001 - the run tells which partitions failed, and why
                result = error
            ended.put(_Ended(partition, result))
    except queue.Empty:
        pass
    finally:
        ended.put(None)
