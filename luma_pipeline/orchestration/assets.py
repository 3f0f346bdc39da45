"""The multi-asset: many partitions in one run, each worked on, reported and kept by itself.

Asking and copying are one step, so that a video is copied while other tasks are still being asked for: its link can
die within the hour. A partition's materializations are logged the moment it is done; a run that is killed, or in
which other partitions fail, keeps them.
"""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from luma_pipeline.dataset import Written
from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS, Partition, PartitionReport
from luma_pipeline.engine.progress import Progress
from luma_pipeline.engine.run import PipelineRun
from luma_pipeline.engine.settings import EngineSettings, Policies, RunOptions
from luma_pipeline.engine.videos import artifacts_from
from luma_pipeline.orchestration.checks import DatasetChecks
from luma_pipeline.orchestration.earlier_tries import done_before
from luma_pipeline.orchestration.endings import (
    PartitionsFailedError,
    cancelled_when_interrupted,
    checked_when_failed,
    retried_once,
)
from luma_pipeline.orchestration.evaluations import Thresholds
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.links import ObjectLinks
from luma_pipeline.orchestration.metadata import generations_metadata, left_metadata, tasks_metadata, videos_metadata
from luma_pipeline.orchestration.outputs import already_logged
from luma_pipeline.orchestration.partitions import folder_of
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.run_config import LumaRunConfig

__all__ = ["Event", "Execute", "LumaRun", "PipelineSettings", "build_pipeline"]

_ORDER = (TASKS, GENERATIONS, VIDEOS)

Event = dg.DagsterEvent
Execute = Callable[[dg.AssetExecutionContext, "LumaRun"], Iterable[Event]]
"""A function in the place of `LumaRun.execute`, given the run."""


@dataclass(frozen=True)
class PipelineSettings:
    """What the multi-asset does in every run, before the run's own config."""

    policies: Policies = field(default_factory=Policies)
    thresholds: Thresholds = field(default_factory=Thresholds)
    partitions_per_run: int = 50
    retry_delay_seconds: float = 30.0
    """Seconds until partitions that failed are tried once more in the same run."""


def build_pipeline(
    specs: Mapping[str, dg.AssetSpec],
    partitions: dg.PartitionsDefinition[str],
    settings: PipelineSettings,
    instance: Instance = UNNAMED,
    execute: Execute | None = None,
) -> dg.AssetsDefinition:
    """The one op behind luma_tasks, luma_generations and luma_videos, any of which may be selected.

    `specs` are those of `asset_specs`, and `instance` has their keys (`Instance.with_keys`). `execute` takes the place
    of `LumaRun.execute`, to do something before, after or with its events.
    """
    resource_keys = {instance.source_key, instance.provider_key, instance.dataset_key, instance.bucket_key}

    # No retry policy: Dagster takes Terminate for a failure of an op that has one, and begins the op again.
    @dg.multi_asset(
        name=instance.op_name,
        specs=list(specs.values()),
        can_subset=True,
        pool=instance.pool,
        required_resource_keys=resource_keys,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=settings.partitions_per_run),
    )
    def luma_pipeline(context: dg.AssetExecutionContext, config: LumaRunConfig) -> Iterator[Event]:
        run = LumaRun(context, config, partitions, settings, instance)
        yield from run.execute() if execute is None else execute(context, run)

    return luma_pipeline


@dataclass(frozen=True)
class LumaRun:
    """One run of the op: its resources and its options, and the work itself."""

    context: dg.AssetExecutionContext
    config: LumaRunConfig
    partitions: dg.PartitionsDefinition[str]
    settings: PipelineSettings
    instance: Instance

    @property
    def source(self) -> LumaSource:
        """The source table."""
        found: LumaSource = getattr(self.context.resources, self.instance.source_key)
        return found

    @property
    def provider(self) -> LumaProvider:
        """The provider."""
        found: LumaProvider = getattr(self.context.resources, self.instance.provider_key)
        return found

    @property
    def bucket(self) -> VideoBucket:
        """The bucket of the videos."""
        found: VideoBucket = getattr(self.context.resources, self.instance.bucket_key)
        return found

    @property
    def dataset(self) -> LumaDataset:
        """The root of the datasets."""
        found: LumaDataset = getattr(self.context.resources, self.instance.dataset_key)
        return found

    @property
    def selected(self) -> list[str]:
        """The plain names of the assets that are to be made, in the order of the data."""
        return [name for name in _ORDER if self.instance.asset_key(name) in self.context.selected_asset_keys]

    def execute(self) -> Iterator[Event]:
        """Work on the run's partitions. The partitions' materializations are logged at once, and not among the events.

        Raises:
            dg.Failure: The run, or some of its partitions, failed.
            dg.RetryRequested: The same, and a second try may help.
        """
        context, selected = self.context, self.selected
        with (
            cancelled_when_interrupted(context),
            checked_when_failed(context, self._evaluations),
            retried_once(context, self.settings.retry_delay_seconds),
        ):
            engine = EngineSettings(
                self.source.open(),
                self.provider.config(),
                self.bucket.config(),
                self.dataset.url,
                self.settings.policies,
                self.provider.shared_limit_url(context.instance),
            )
            work = _AssetRun(self)
            run = PipelineRun(
                engine, _options(self.config), datasets=frozenset(selected), on_progress=work.tell, on_warning=work.warn
            )
            failures = work.do(run)
            if failures:
                raise PartitionsFailedError(failures, len(context.partition_keys))
        for name in selected:
            yield already_logged(context, self.instance.asset_key(name))

    def _evaluations(self) -> list[dg.AssetCheckEvaluation]:
        spec, policies = self.provider.config().spec, self.settings.policies
        checks = DatasetChecks(self.partitions, self.settings.thresholds, policies.objects_checked, spec, self.instance)
        return checks.evaluations_of(self.dataset.url, self.bucket.config())


class _AssetRun:
    """A run of the asset: what the engine does is logged as Dagster's events."""

    def __init__(self, run: LumaRun) -> None:
        self._context = run.context
        self._settings = run.settings
        self._instance = run.instance
        self._partitions = run.partitions
        self._last = run.instance.asset_key(run.selected[-1])
        self._links = ObjectLinks.by_settings(run.bucket.bucket)

    def do(self, engine: PipelineRun) -> Mapping[str, Exception]:
        """Work on the partitions that no earlier try has done; returns why partitions failed, by key."""
        context = self._context
        with engine:
            if engine.rows_outside:
                context.log.warning(
                    f"rows of {engine.source_table} that are in no partition of now: {engine.rows_outside}"
                )
            done = done_before(context, self._last)
            left = [_partition(self._partitions, key) for key in context.partition_keys if key not in done]
            failures = engine.do(left, self._report)
            for key, error in failures.items():
                context.log.error(f"partition {key} failed", exc_info=error)
        _tag(context, self._instance, engine, len(failures))
        return failures

    def tell(self, progress: Progress) -> None:
        """Say in the log how far the run is."""
        self._context.log.info(str(progress))

    def warn(self, message: str) -> None:
        """Say in the log what somebody should look at."""
        self._context.log.warning(message)

    def _report(self, report: PartitionReport) -> None:
        if report.is_plan:
            self._report_plan(report)
            return
        key = report.partition.key
        if report.tasks is not None:
            self._log(TASKS, key, tasks_metadata(report.tasks), report.tasks.written)
        if report.generations is not None:
            metadata = generations_metadata(report.generations, report.earlier.generations)
            self._log(GENERATIONS, key, metadata, report.generations.written)
        if report.videos is not None:
            tasks = report.generations.preview if report.generations is not None else ()
            earlier = report.earlier.videos
            metadata = videos_metadata(report.videos, earlier, tasks=tasks, link_of=self._links.of)
            self._log(VIDEOS, key, metadata, report.videos.written)
        for asset in _ORDER:
            # A backfill counts a partition without a materialization as failed.
            if asset in report.left:
                self._log(asset, key, left_metadata(report.left[asset]), report.left[asset])

    def _report_plan(self, report: PartitionReport) -> None:
        key = report.partition.key
        if report.to_reflatten is not None:
            would = f"make the columns of {report.to_reflatten} rows of {GENERATIONS} again"
        else:
            asked, copied = report.to_ask or 0, report.to_copy or 0
            would = f"ask for {asked} tasks and copy {copied} artifacts of tasks already completed"
        self._context.log.info(f"dry run, partition {key}: would {would}")
        for asset, name, count in (
            (GENERATIONS, "would_ask", report.to_ask),
            (VIDEOS, "would_copy", report.to_copy),
            (GENERATIONS, "would_make_columns_again", report.to_reflatten),
        ):
            if count is not None:
                asset_key = self._instance.asset_key(asset)
                self._context.log_event(dg.AssetObservation(asset_key, partition=key, metadata={name: count}))

    def _log(self, asset: str, key: str, metadata: Mapping[str, Any], written: Written | None) -> None:
        # Of the version tags only the data's: a code version would need the inputs' tags beside it.
        tags = {"dagster/data_version": written.digest} if written is not None and written.digest else None
        asset_key = self._instance.asset_key(asset)
        self._context.log_event(dg.AssetMaterialization(asset_key, partition=key, metadata=metadata, tags=tags))


def _options(config: LumaRunConfig) -> RunOptions:
    return RunOptions(
        refresh=config.refresh,
        retry_failed=config.retry_failed,
        artifacts=None if config.artifacts is None else artifacts_from(config.artifacts),
        limit=config.limit,
        overwrite=config.overwrite,
        allow_empty=config.allow_empty,
        verify=config.verify,
        reflatten=config.reflatten,
        dry_run=config.dry_run,
    )


def _tag(context: dg.AssetExecutionContext, instance: Instance, engine: PipelineRun, failed: int) -> None:
    """Put the run's numbers into its tags, added to those of earlier tries: the list of runs is filtered by them."""
    run = context.instance.get_run_by_id(context.run_id)
    progress, shared_limit = engine.progress, engine.shared_limit
    earlier = run.tags if run is not None and context.retry_number else {}
    counts = {
        instance.tag("partitions_done"): progress.partitions_done,
        instance.tag("tasks_asked"): progress.asked,
        instance.tag("copied"): progress.copied,
    }
    tags = {name: str(count + int(earlier.get(name, 0))) for name, count in counts.items()}
    tags[instance.tag("partitions_failed")] = str(failed)
    if shared_limit is not None:
        tags[instance.tag("shared_limit")] = str(shared_limit)
    context.instance.add_run_tags(context.run_id, tags)


def _partition(definition: dg.PartitionsDefinition[str], key: str) -> Partition:
    window = definition.time_window_for_partition_key(key)  # type: ignore[attr-defined]
    return Partition(key, folder_of(definition, key), window.start, window.end)
