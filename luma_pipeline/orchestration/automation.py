"""What runs by itself: a schedule for the open period, and a sensor that comes back for what is still open.

What they ask for is decided in `decisions`; this module gathers what is known, and applies what was decided.
"""

# No postponed annotations in this module: Dagster reads those of schedules and sensors as types.

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import dagster as dg
from dagster import TimeWindowPartitionsDefinition
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import (
    GENERATIONS,
    OPEN_MARKS,
    TASKS,
    UNFINISHED_MARKS,
    VIDEOS,
    key_of_mark,
    mark_of,
)
from luma_pipeline.orchestration.decisions import (
    BusyTime,
    Decision,
    RevisitPolicy,
    Span,
    State,
    decide_regular,
    decide_revisits,
)
from luma_pipeline.orchestration.gallery import GALLERY
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.partitions import folder_of

__all__ = ["UNDER_WAY", "RevisitPolicy", "build_job", "build_schedule", "build_sensor"]

_ASSETS = (TASKS, GENERATIONS, VIDEOS)
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_PARTITION = "dagster/partition"
_TRIGGER = "luma/trigger"
_BY_SCHEDULE, _BY_SENSOR = "schedule", "open_tasks"
_COUNT = "luma/partitions"
_SENSOR_SECONDS = 60


def build_job(instance: Instance = UNNAMED, *, gallery: bool = False) -> UnresolvedAssetJobDefinition:
    """The job that the schedule and the sensor run: all three assets over their partitions, and the gallery if any."""
    names = (*_ASSETS, GALLERY) if gallery else _ASSETS
    return dg.define_asset_job(
        instance.job_name,
        selection=dg.AssetSelection.assets(*(instance.asset_key(name) for name in names)),
        description="Read task IDs, ask the provider, copy finished videos.",
    )


def build_schedule(
    job: UnresolvedAssetJobDefinition,
    partitions: TimeWindowPartitionsDefinition,
    cron: str,
    policy: RevisitPolicy,
    *,
    partitions_per_run: int,
    running: bool,
    instance: Instance = UNNAMED,
) -> dg.ScheduleDefinition:
    """The schedule of the open period.

    It also asks for the period before that one until nothing of it can come any more, and for those that nobody has
    read, because nothing ran or because the schedule is rarer than they are.
    """

    @dg.schedule(
        name=instance.schedule_name,
        job=job,
        cron_schedule=cron,
        execution_timezone=partitions.timezone,
        required_resource_keys={instance.dataset_key},
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Asks for the tasks of the open period.",
    )
    def luma_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        now = context.scheduled_execution_time.astimezone(UTC)
        dataset = getattr(context.resources, instance.dataset_key).open()
        state = State(
            partitions,
            _was_read(partitions, dataset),
            partitions_per_run,
            unfinished_marks=_marked(dataset, UNFINISHED_MARKS),
            busy=_busy_time(_runs_under_way(context, instance), partitions),
            policy=policy,
        )
        decision = decide_regular(state, now)
        _apply_marks(decision, dataset)
        return [_scheduled(span, now) for span in decision.runs] or dg.SkipReason(decision.reason)

    return luma_schedule


def build_sensor(
    job: UnresolvedAssetJobDefinition,
    partitions: TimeWindowPartitionsDefinition,
    policy: RevisitPolicy,
    *,
    partitions_per_run: int,
    running: bool,
    instance: Instance = UNNAMED,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """The sensor that comes back to closed partitions with tasks or videos still open, or not read to their end.

    What is open the pipeline has recorded itself, as marks in the dataset: one listing tells all of them.
    """

    @dg.sensor(
        name=instance.sensor_name,
        job=job,
        minimum_interval_seconds=_SENSOR_SECONDS,
        required_resource_keys={instance.dataset_key},
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks again, with growing pauses, for tasks of closed periods that were not final.",
    )
    def luma_open_tasks_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        runs = _runs_under_way(context, instance)
        queued = _queued_by_sensor(runs)
        if queued is not None:  # or a queue that stands still would get one more run with each partition that is due
            return dg.SensorResult(skip_reason=f"run {queued.run_id} for open tasks is still in the queue")
        dataset = getattr(context.resources, instance.dataset_key).open()
        state = State(
            partitions,
            _was_read(partitions, dataset),
            partitions_per_run,
            _marked(dataset, OPEN_MARKS),
            _marked(dataset, UNFINISHED_MARKS),
            _busy_time(runs, partitions),
            _read_cursor(context.cursor),
            policy,
        )
        decision = decide_revisits(state, clock())
        _apply_marks(decision, dataset)
        cursor = _write_cursor(decision.requested)
        if not decision.runs:
            return dg.SensorResult(skip_reason=decision.reason, cursor=cursor)
        return dg.SensorResult(run_requests=[_revisit(span) for span in decision.runs], cursor=cursor)

    return luma_open_tasks_sensor


# -- what is known ----------------------------------------------------------------------------------------------------


def _runs_under_way(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext, instance: Instance
) -> list[dg.DagsterRun]:
    """The runs under way over our assets, whoever asked for them: a backfill's are of Dagster's own job.

    Another code location may have a job and assets of the same names.
    """
    ours = {instance.asset_key(name) for name in _ASSETS}
    location = _location_of_tick(context)
    return [
        run
        for run in context.instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
        if (run.job_name == instance.job_name or not ours.isdisjoint(run.asset_selection or ()))
        and (location is None or _location_of_run(run) in (location, None))
    ]


def _location_of_tick(context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext) -> str | None:
    """The name of the code location that evaluates; None where Dagster does not tell."""
    if isinstance(context, dg.SensorEvaluationContext) and context.code_location_origin is not None:
        return context.code_location_origin.location_name
    return DefinitionsLoadContext.get().code_location_name if DefinitionsLoadContext.is_set() else None


def _location_of_run(run: dg.DagsterRun) -> str | None:
    return run.remote_job_origin.location_name if run.remote_job_origin is not None else None


def _queued_by_sensor(runs: list[dg.DagsterRun]) -> dg.DagsterRun | None:
    """A run of the sensor's that has not left the queue."""
    queued = (run for run in runs if run.status is dg.DagsterRunStatus.QUEUED)
    return next((run for run in queued if run.tags.get(_TRIGGER) == _BY_SENSOR), None)


def _busy_time(runs: list[dg.DagsterRun], partitions: TimeWindowPartitionsDefinition) -> BusyTime:
    return BusyTime(span for run in runs for span in _begins(run, partitions))


def _begins(run: dg.DagsterRun, partitions: TimeWindowPartitionsDefinition) -> Iterator[tuple[float, float]]:
    """When the first and the last partition of a run begin, by its tags."""
    for first, last in ((_PARTITION, _PARTITION), (_RANGE_START, _RANGE_END)):
        if first in run.tags and last in run.tags:
            with suppress(ValueError, OverflowError):  # no partitions of this setting
                begins = [partitions.start_time_for_partition_key(run.tags[tag]) for tag in (first, last)]
                yield begins[0].timestamp(), begins[1].timestamp()


def _marked(dataset: Dataset, name: str) -> dict[str, datetime]:
    """By partition key when its mark was set."""
    return {key_of_mark(mark): marked_at for mark, marked_at in dataset.marks(name).listed().items()}


def _was_read(partitions: TimeWindowPartitionsDefinition, dataset: Dataset) -> Callable[[str], bool]:
    """Tells whether a run has gone through a partition: it has the file written last, just before the marks are set.

    If it has, and no mark says unfinished, it was read to its end.
    """
    return lambda key: dataset.partition(VIDEOS, folder_of(partitions, key)).exists()


# -- what was decided -------------------------------------------------------------------------------------------------


def _apply_marks(decision: Decision, dataset: Dataset) -> None:
    for key in decision.to_mark_unfinished:
        dataset.marks(UNFINISHED_MARKS).set(mark_of(key))
    dataset.marks(OPEN_MARKS).clear_all([mark_of(key) for key in decision.to_clear_open])


def _scheduled(span: Span, now: datetime) -> dg.RunRequest:
    # The run key keeps a tick that is evaluated twice from asking twice.
    tags = {_TRIGGER: _BY_SCHEDULE}
    if span.partitions == 1:
        return dg.RunRequest(run_key=f"{span.first} at {now.isoformat()}", partition_key=span.first, tags=tags)
    return dg.RunRequest(run_key=f"{span.first} to {span.last} at {now.isoformat()}", tags=tags | _range_tags(span))


def _revisit(span: Span) -> dg.RunRequest:
    return dg.RunRequest(tags={_TRIGGER: _BY_SENSOR, **_range_tags(span)})


def _range_tags(span: Span) -> dict[str, str]:
    return {_RANGE_START: span.first, _RANGE_END: span.last, _COUNT: str(span.partitions)}


def _read_cursor(cursor: str | None) -> dict[str, datetime]:
    """When the sensor last asked for each partition, so that a run that failed is not asked for again at once."""
    entries: Mapping[str, float] = json.loads(cursor) if cursor else {}
    return {key: datetime.fromtimestamp(at, UTC) for key, at in entries.items()}


def _write_cursor(requested: Mapping[str, datetime]) -> str:
    return json.dumps({key: round(at.timestamp(), 3) for key, at in sorted(requested.items())})
