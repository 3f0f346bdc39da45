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
from luma_pipeline.orchestration.partitions import folder_of
from luma_pipeline.orchestration.resources.dataset import LumaDataset

__all__ = ["JOB_NAME", "SCHEDULE_NAME", "SENSOR_NAME", "RevisitPolicy", "build_job", "build_schedule", "build_sensor"]

JOB_NAME = "luma_job"
SCHEDULE_NAME = "luma_schedule"
SENSOR_NAME = "luma_open_tasks_sensor"

_ASSETS = frozenset(dg.AssetKey(name) for name in (TASKS, GENERATIONS, VIDEOS))
_UNDER_WAY = [
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


def build_job() -> UnresolvedAssetJobDefinition:
    """The job that the schedule and the sensor run: all three assets over their partitions."""
    return dg.define_asset_job(
        JOB_NAME,
        selection=dg.AssetSelection.assets(TASKS, GENERATIONS, VIDEOS),
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
) -> dg.ScheduleDefinition:
    """The schedule of the open period.

    It also asks for the period before that one until nothing of it can come any more, and for those that nobody has
    read, because nothing ran or because the schedule is rarer than they are.
    """

    @dg.schedule(
        name=SCHEDULE_NAME,
        job=job,
        cron_schedule=cron,
        execution_timezone=partitions.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Asks for the tasks of the open period.",
    )
    def luma_schedule(
        context: dg.ScheduleEvaluationContext, luma_dataset: LumaDataset
    ) -> list[dg.RunRequest] | dg.SkipReason:
        now = context.scheduled_execution_time.astimezone(UTC)
        dataset = luma_dataset.open()
        state = State(
            partitions,
            _was_read(partitions, dataset),
            partitions_per_run,
            unfinished_marks=_marked(dataset, UNFINISHED_MARKS),
            busy=_busy_time(_runs_under_way(context.instance), partitions),
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
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """The sensor that comes back to closed partitions with tasks or videos still open, or not read to their end.

    What is open the pipeline has recorded itself, as marks in the dataset: one listing tells all of them.
    """

    @dg.sensor(
        name=SENSOR_NAME,
        job=job,
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks again, with growing pauses, for tasks of closed periods that were not final.",
    )
    def luma_open_tasks_sensor(context: dg.SensorEvaluationContext, luma_dataset: LumaDataset) -> dg.SensorResult:
        runs = _runs_under_way(context.instance)
        queued = _queued_by_sensor(runs)
        if queued is not None:  # or a queue that stands still would get one more run with each partition that is due
            return dg.SensorResult(skip_reason=f"run {queued.run_id} for open tasks is still in the queue")
        dataset = luma_dataset.open()
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


def _runs_under_way(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs under way over our assets, whoever asked for them: a backfill's are of Dagster's own job."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY))
    return [run for run in runs if run.job_name == JOB_NAME or _ASSETS & (run.asset_selection or frozenset())]


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
    for key in decision.to_clear_open:
        dataset.marks(OPEN_MARKS).clear(mark_of(key))


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
