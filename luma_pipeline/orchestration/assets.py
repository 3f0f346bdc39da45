"""The multi-asset: many partitions in one run, each worked on, reported and kept by itself.

Asking and copying are one step, so that a video is copied while other tasks are still being asked for: its link can
die within the hour. A partition's materializations are logged the moment it is done; a run that is killed, or in
which other partitions fail, keeps them.
"""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from luma_pipeline.dataset import Dataset, DatasetError, Written
from luma_pipeline.engine.generations import ResolvePolicy
from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS, Partition, PartitionReport, PartitionWork
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.videos import ManifestPolicy, artifacts_from, link_of_answer
from luma_pipeline.luma import LinkUnavailableError, LumaClient, LumaError, Outcome
from luma_pipeline.media import Artifact, BucketError, CopyError, CopyStatus, ErrorCode, LinkSource, MediaCopier
from luma_pipeline.orchestration.checks import RunChecks, Thresholds, check_specs
from luma_pipeline.orchestration.metadata import generations_metadata, tasks_metadata, videos_metadata
from luma_pipeline.orchestration.partitions import folder_of
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.run_config import LumaRunConfig
from luma_pipeline.source.table import SourceTableError

__all__ = ["OP_NAME", "POOL", "PipelineSettings", "build_pipeline"]

OP_NAME = "luma_pipeline"
POOL = "luma_api"
"""The concurrency pool: a limit of one slot keeps two runs from sharing the provider's limit unknowingly."""

_ORDER = (TASKS, GENERATIONS, VIDEOS)
_PARTITIONS_AT_ONCE = 8
_PROGRESS_SECONDS = 5.0

_ALREADY_LOGGED = {"__source_asset_observation__": True}
"""Metadata of an output for which Dagster emits no event of its own: its partitions' materializations have been
logged. Undocumented; tests/test_upstream_characterization.py tells when a release changes it."""

_STOPS_THE_RUN = (LumaError, BucketError, SourceTableError)


@dataclass(frozen=True)
class PipelineSettings:
    """What the multi-asset does in every run, before the run's own config."""

    artifacts: tuple[Artifact, ...]
    link_preference: tuple[LinkSource, ...]
    give_up_after_seconds: float
    checkpoint_seconds: float
    partitions_per_run: int
    thresholds: Thresholds
    retry_delay_seconds: float
    objects_checked: int | None
    """Objects that the check videos_in_bucket looks up in the store in a run; None: all."""
    late_rows_seconds: float = 900.0
    """Seconds after a period's end until which rows of it may still be committed to the source table."""
    orphans_older_than_seconds: float = 24 * 3600.0
    """Age from which uploads that killed runs left below our prefix are aborted."""


def build_pipeline(
    specs: Sequence[dg.AssetSpec], partitions: dg.PartitionsDefinition[str], settings: PipelineSettings
) -> dg.AssetsDefinition:
    """The one op behind luma_tasks, luma_generations and luma_videos, any of which may be selected."""

    @dg.multi_asset(
        name=OP_NAME,
        specs=specs,
        check_specs=check_specs(),
        can_subset=True,
        pool=POOL,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=settings.partitions_per_run),
        retry_policy=dg.RetryPolicy(max_retries=1, delay=settings.retry_delay_seconds),
    )
    def luma_pipeline(
        context: dg.AssetExecutionContext,
        config: LumaRunConfig,
        luma_source: LumaSource,
        luma_provider: LumaProvider,
        luma_dataset: LumaDataset,
        luma_bucket: VideoBucket,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckEvaluation]:
        selected = [name for name in _ORDER if dg.AssetKey(name) in context.selected_asset_keys]
        if not selected:
            raise dg.Failure(
                description="the checks are evaluated in the run that makes their asset: materialize it for the "
                "partitions to be checked; what is final and copied costs no request to the provider",
                allow_retries=False,
            )
        run = _Run(context, settings, selected, config, luma_bucket, luma_dataset.open())
        with ExitStack() as stack:
            try:
                work = _prepared(stack, run, luma_source, luma_provider)
                done, evaluated = _done_before(context, selected[-1])
                run.checks.resume(evaluated)
                left = [_partition(partitions, key) for key in context.partition_keys if key not in done]
                failures = run.do_all(left, work)
                if work.copier is not None and not config.dry_run:
                    run.checks.look_up(work.copier.stored_sizes, settings.objects_checked)
            except _STOPS_THE_RUN as error:
                where = " (LUMA_S3_BUCKET)" if isinstance(error, BucketError) else ""
                raise dg.Failure(description=f"{error}{where}", allow_retries=False) from error
        yield from run.checks.evaluations(context.selected_asset_check_keys)
        _tag(context, run.progress.counts(), len(failures))
        if failures:
            raise _failure(failures, len(context.partition_keys))
        for name in selected:
            yield dg.MaterializeResult(asset_key=name, metadata=_ALREADY_LOGGED)

    return luma_pipeline


def _prepared(stack: ExitStack, run: "_Run", source: LumaSource, provider: LumaProvider) -> PartitionWork:
    """As `_prepare`; what is wrong with a setting is not tried again."""
    try:
        return _prepare(stack, run, source, provider)
    except (DatasetError, ValueError) as error:
        raise dg.Failure(description=f"{error}", allow_retries=False) from error


def _prepare(stack: ExitStack, run: "_Run", source: LumaSource, provider: LumaProvider) -> PartitionWork:
    """Open what the selection needs, and fail here, with what to do, if any of it does not work."""
    config, settings = run.config, run.settings
    run.dataset.check()
    client = copier = links = None
    overwrite = config.overwrite or run.bucket.overwrite
    give_up = GiveUpPolicy(settings.give_up_after_seconds, datetime.now(timezone.utc), never=config.retry_failed)
    artifacts = artifacts_from(config.artifacts) if config.artifacts is not None else settings.artifacts
    if GENERATIONS in run.selected or VIDEOS in run.selected:
        client = stack.enter_context(provider.client())
    if VIDEOS in run.selected and client is not None:
        links = _Links(client, settings.link_preference)
        copier = stack.enter_context(run.bucket.copier(links.refreshed, overwrite=overwrite))
        copier.check_bucket()
        if not config.dry_run:
            copier.sweep_orphans(settings.orphans_older_than_seconds)
    table = None
    if TASKS in run.selected:
        table = stack.enter_context(source.open())
        outside = table.rows_outside()
        if outside:
            run.context.log.warning(f"rows of {source.table} that are in no partition of now: {outside}")
    return PartitionWork(
        dataset=run.dataset,
        source=table,
        client=client if GENERATIONS in run.selected else None,
        copier=copier,
        resolve=ResolvePolicy(give_up, settings.checkpoint_seconds, config.refresh, config.limit, config.allow_empty),
        manifest=ManifestPolicy(
            artifacts,
            settings.link_preference,
            give_up,
            links.unwatermarked if links is not None else None,
            settings.objects_checked,
            bucket=run.bucket.bucket,
            overwrite=overwrite,
        ),
        late_rows=timedelta(seconds=settings.late_rows_seconds),
        progress=run.progress,
    )


class _Links:
    """Asks the provider for links while videos are copied."""

    def __init__(self, client: LumaClient, preference: Sequence[LinkSource]) -> None:
        self._client = client
        self._preference = preference

    def unwatermarked(self, task_id: str) -> str | None:
        """A link to the video without watermark; None where there is none."""
        try:
            return self._client.unwatermarked_link(task_id)
        except LinkUnavailableError as error:
            raise CopyError(ErrorCode.LINK_UNAVAILABLE, str(error)) from None

    def refreshed(self, task_id: str, artifact: Artifact) -> str | None:
        """A living link in place of a dead one; None where the answer has none."""
        outcome = self._client.fetch_one(task_id)
        if outcome.outcome in (Outcome.REQUEST_FAILED, Outcome.INVALID_RESPONSE):
            # Without this, an hour's trouble of the provider's would look like a video that is gone for good.
            message = f"the provider could not be asked for a living link: {outcome.error_message}"
            raise CopyError(ErrorCode.LINK_UNAVAILABLE, message)
        if outcome.generation is None:
            return None
        link, is_better_asked = link_of_answer(outcome.generation, artifact, self._preference)
        return (self.unwatermarked(task_id) if is_better_asked else None) or link


class _Run:
    """The partitions of one run, side by side."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: PipelineSettings,
        selected: Sequence[str],
        config: LumaRunConfig,
        bucket: VideoBucket,
        dataset: Dataset,
    ) -> None:
        self.context = context
        self.settings = settings
        self.selected = selected
        self.config = config
        self.bucket = bucket
        self.dataset = dataset
        self.checks = RunChecks(settings.thresholds)
        self.progress = _Progress(context)

    def do_all(self, partitions: Sequence[Partition], work: PartitionWork) -> dict[str, str]:
        """Work on every partition and report each as it is done; returns why partitions failed, by key.

        Raises what stops the whole run; partitions done by then are reported.
        """
        if not partitions:
            return {}
        progress = self.progress
        progress.begin(len(partitions), work.copier)
        failures: dict[str, str] = {}
        step = work.plan if self.config.dry_run else work.do
        stopping = threading.Event()

        def guarded(partition: Partition) -> PartitionReport | None:
            return None if stopping.is_set() else step(partition)

        pool = ThreadPoolExecutor(min(_PARTITIONS_AT_ONCE, len(partitions)), thread_name_prefix="luma-partition")
        try:
            under_way: dict[Future[PartitionReport | None], Partition] = {
                pool.submit(guarded, partition): partition for partition in partitions
            }
            stop: BaseException | None = None
            while under_way:
                done, _ = wait(under_way, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    partition = under_way.pop(future)
                    try:
                        report = future.result()
                    except _STOPS_THE_RUN as error:
                        stopping.set()
                        stop = stop or error
                        work.stop()
                    except Exception as error:
                        failures[partition.key] = f"{type(error).__name__}: {error}"
                        self.context.log.exception(f"partition {partition.key} failed", exc_info=error)
                    else:
                        if report is not None:
                            self._report(report)
                            progress.add(report)
                progress.tick()
            if stop is not None:
                raise stop
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return failures

    def _report(self, report: PartitionReport) -> None:
        key = report.partition.key
        if self.config.dry_run:
            self.context.log.info(
                f"dry run, partition {key}: would ask for {report.to_ask or 0} tasks and copy {report.to_copy or 0} "
                "artifacts of tasks already completed"
            )
            for asset, name, count in (
                (GENERATIONS, "would_ask", report.to_ask),
                (VIDEOS, "would_copy", report.to_copy),
            ):
                if count is not None:
                    self.context.log_event(dg.AssetObservation(asset, partition=key, metadata={name: count}))
            return
        self.checks.add(report)
        if report.tasks is not None:
            self._log(TASKS, key, tasks_metadata(report.tasks), report.tasks.written)
        if report.generations is not None:
            self._log(GENERATIONS, key, generations_metadata(report.generations), report.generations.written)
        if report.videos is not None:
            location = f"s3://{self.bucket.bucket}/{self.bucket.prefix}"
            self._log(VIDEOS, key, videos_metadata(report.videos, location), report.videos.written)

    def _log(self, asset: str, key: str, metadata: Mapping[str, Any], written: Written | None) -> None:
        # Of the version tags only the data's: a code version would need the inputs' tags beside it.
        tags = {"dagster/data_version": written.digest} if written is not None else None
        self.context.log_event(dg.AssetMaterialization(asset, partition=key, metadata=metadata, tags=tags))


class _Progress:
    """Says in the log every few seconds how far the run is, and in the run's tags what it came to."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._log = context.log
        self._copier: MediaCopier | None = None
        self._partitions = self._done = self._tasks = self._answered = self._copied = 0
        self._started = self._said = time.monotonic()
        self._lock = threading.Lock()

    def begin(self, partitions: int, copier: MediaCopier | None) -> None:
        self._partitions, self._copier = partitions, copier
        self._started = self._said = time.monotonic()

    def found(self, tasks: int) -> None:
        """See `WorkProgress.found`."""
        with self._lock:
            self._tasks += tasks

    def answered(self) -> None:
        """See `WorkProgress.answered`."""
        with self._lock:
            self._answered += 1

    def add(self, report: PartitionReport) -> None:
        self._done += 1
        if report.videos is not None:
            self._copied += report.videos.statuses[CopyStatus.COPIED.value]

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._said < _PROGRESS_SECONDS and self._done < self._partitions:
            return
        self._said = now
        seconds = max(now - self._started, 1e-9)
        megabytes = self._copier.bytes_downloaded / 1e6 if self._copier is not None else 0.0
        self._log.info(
            f"{self._done} of {self._partitions} partitions done, {self._answered} tasks asked "
            f"({self._answered / seconds:.1f}/s), {megabytes:.1f} MB copied ({megabytes / seconds:.1f} MB/s)"
            + self._left(seconds)
        )

    def _left(self, seconds: float) -> str:
        if self._done:
            left = (self._partitions - self._done) * seconds / self._done
            return f", about {left:.0f} s left" if left else ""
        # Some of the tasks may be final, and so are not asked for.
        left = (self._tasks - self._answered) * seconds / self._answered if self._answered else 0.0
        return f", at most {left:.0f} s left for the first {self._tasks} tasks" if left else ""

    def counts(self) -> dict[str, int]:
        """What the list of runs can be filtered by."""
        return {"luma/partitions_done": self._done, "luma/tasks_asked": self._answered, "luma/copied": self._copied}


def _tag(context: dg.AssetExecutionContext, counts: Mapping[str, int], failed: int) -> None:
    """Put the run's numbers into its tags, added to those of the tries before."""
    run = context.instance.get_run_by_id(context.run_id)
    earlier = run.tags if run is not None and context.retry_number else {}
    tags = {name: str(count + int(earlier.get(name, 0))) for name, count in counts.items()}
    context.instance.add_run_tags(context.run_id, {**tags, "luma/partitions_failed": str(failed)})


def _done_before(context: dg.AssetExecutionContext, asset: str) -> tuple[set[str], dict[str, dg.AssetCheckEvaluation]]:
    """Partitions that earlier tries have reported, and what those evaluated last, by the check's name.

    Earlier tries are those of this step, and of the run that is re-executed from failure.
    """
    run: dg.DagsterRun | None = context.run if context.retry_number else _resumed(context, context.run)
    done: set[str] = set()
    evaluated: dict[str, dg.AssetCheckEvaluation] = {}
    while run is not None:
        evaluations = _evaluations(context.instance, run)
        # What a blocking check has stopped is done anew, or a second try would pass it by looking at nothing.
        if any(_has_blocked(evaluation) for evaluation in evaluations.values()):
            break
        # An evaluation holds those of the tries before its own.
        evaluated = evaluated or evaluations
        done |= _reported(context.instance, run, asset)
        run = _resumed(context, run)
    if done:
        context.log.info(f"{len(done)} partitions were done by an earlier try and are left as they are")
    return done, evaluated


def _reported(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: str) -> set[str]:
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    return {event.partition for event in events if event.asset_key == dg.AssetKey(asset) and event.partition}


def _evaluations(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, dg.AssetCheckEvaluation]:
    """The latest evaluation of each check in a run."""
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    found = [event.asset_check_evaluation_data for event in events]
    return {evaluation.check_name: evaluation for evaluation in found}


def _has_blocked(evaluation: dg.AssetCheckEvaluation) -> bool:
    is_error = evaluation.severity is dg.AssetCheckSeverity.ERROR
    return bool(evaluation.blocking) and not evaluation.passed and is_error


def _resumed(context: dg.AssetExecutionContext, run: dg.DagsterRun) -> dg.DagsterRun | None:
    if run.parent_run_id is None or run.tags.get("dagster/is_resume_retry") != "true":
        return None
    parent: dg.DagsterRun | None = context.instance.get_run_by_id(run.parent_run_id)
    return parent


def _partition(definition: dg.PartitionsDefinition[str], key: str) -> Partition:
    window = definition.time_window_for_partition_key(key)  # type: ignore[attr-defined]
    return Partition(key, folder_of(definition, key), window.start, window.end)


def _failure(failures: Mapping[str, str], total: int) -> dg.Failure:
    shown = "; ".join(f"{key}: {reason}" for key, reason in list(failures.items())[:3])
    return dg.Failure(
        description=f"{len(failures)} of {total} partitions failed, the others are done. {shown}. Run the failed "
        "partitions again: what was answered and copied is not asked for or copied again.",
        metadata={
            "failed_partitions": dg.TableMetadataValue(
                [dg.TableRecord({"partition": key, "reason": reason}) for key, reason in failures.items()],
                dg.TableSchema([dg.TableColumn("partition"), dg.TableColumn("reason")]),
            )
        },
    )
