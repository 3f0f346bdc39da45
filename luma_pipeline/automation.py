"""What runs by itself: a schedule for the open period, and a sensor that comes back for what is still open."""

# No postponed annotations in this module: Dagster reads those of schedules and sensors as types.

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg
from dagster import TimeWindowPartitionsDefinition
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from luma_pipeline.assets.partition import (
    GENERATIONS,
    OPEN_MARKS,
    TASKS,
    UNFINISHED_MARKS,
    VIDEOS,
    key_of_mark,
    mark_of,
)
from luma_pipeline.resources.dataset import Dataset

__all__ = ["JOB_NAME", "SCHEDULE_NAME", "SENSOR_NAME", "RevisitPolicy", "build_job", "build_schedule", "build_sensor"]

JOB_NAME = "luma_job"
SCHEDULE_NAME = "luma_schedule"
SENSOR_NAME = "luma_open_tasks_sensor"

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
_SENSOR_SECONDS = 60


@dataclass(frozen=True)
class RevisitPolicy:
    """When the sensor comes back to a closed partition with open tasks. All in seconds.

    The pause is a share of the partition's age, within its bounds: a task that has been open for minutes may end any
    minute, one that has been open for days will not. After `give_up_after` the partition is left alone.
    """

    give_up_after: float
    shortest_pause: float = 600.0
    longest_pause: float = 6 * 3600.0
    share_of_age: float = 0.25

    def is_due(self, window_end: datetime, asked_at: datetime, now: datetime) -> bool:
        """Whether to ask again; all times aware."""
        age = (now - window_end).total_seconds()
        pause = min(max(age * self.share_of_age, self.shortest_pause), self.longest_pause)
        return age >= 0 and now - asked_at >= timedelta(seconds=pause)

    def is_over(self, window_end: datetime, now: datetime) -> bool:
        """Whether the partition is given up."""
        return now - window_end > timedelta(seconds=self.give_up_after)


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
    *,
    running: bool,
) -> dg.ScheduleDefinition:
    """The schedule of the open period. It also gives the period that has just closed its last run."""

    @dg.schedule(
        name=SCHEDULE_NAME,
        job=job,
        cron_schedule=cron,
        execution_timezone=partitions.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Asks for the tasks of the open period.",
    )
    def luma_schedule(
        context: dg.ScheduleEvaluationContext, luma_dataset: Dataset
    ) -> list[dg.RunRequest] | dg.SkipReason:
        now = context.scheduled_execution_time
        open_key = partitions.get_partition_key_for_timestamp(now.timestamp())
        if now.timestamp() < partitions.start_timestamp:
            return dg.SkipReason(f"the first period begins at {partitions.start}")
        keys = [open_key]
        closed = _unfinished_before(partitions, open_key, luma_dataset)
        if closed is not None:
            keys.insert(0, closed)
        requests = [
            dg.RunRequest(run_key=f"{key} at {now.isoformat()}", partition_key=key, tags={_TRIGGER: "schedule"})
            for key in keys
            if not _is_under_way(context.instance, key)
        ]
        return requests or dg.SkipReason(f"the run for {open_key} is still under way")

    return luma_schedule


def _unfinished_before(partitions: TimeWindowPartitionsDefinition, open_key: str, dataset: Dataset) -> str | None:
    """The period before the open one, if it was read while it was open and not since."""
    window = partitions.get_prev_partition_window(partitions.time_window_for_partition_key(open_key).start)
    if window is None:
        return None
    key = partitions.get_partition_key_for_timestamp(window.start.timestamp())
    return key if mark_of(key) in dataset.marks(UNFINISHED_MARKS).listed() else None


def _is_under_way(instance: dg.DagsterInstance, partition_key: str) -> bool:
    tags = {_PARTITION: partition_key}
    return bool(instance.get_runs(dg.RunsFilter(job_name=JOB_NAME, statuses=_UNDER_WAY, tags=tags), limit=1))


def build_sensor(
    job: UnresolvedAssetJobDefinition,
    partitions: TimeWindowPartitionsDefinition,
    policy: RevisitPolicy,
    *,
    partitions_per_run: int,
    running: bool,
) -> dg.SensorDefinition:
    """The sensor that comes back to closed partitions with tasks or videos still open.

    What is open the pipeline has recorded itself, as marks in the dataset: one listing tells all of them.
    """

    @dg.sensor(
        name=SENSOR_NAME,
        job=job,
        minimum_interval_seconds=_SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks again, with growing pauses, for tasks of closed periods that were not final.",
    )
    def luma_open_tasks_sensor(context: dg.SensorEvaluationContext, luma_dataset: Dataset) -> dg.SensorResult:
        under_way = context.instance.get_runs(
            dg.RunsFilter(job_name=JOB_NAME, statuses=_UNDER_WAY, tags={_TRIGGER: "open_tasks"}), limit=1
        )
        if under_way:
            return dg.SensorResult(skip_reason=f"run {under_way[0].run_id} is still asking for open tasks")
        now = datetime.now(timezone.utc)
        requested = _read_cursor(context.cursor)
        due, waiting = _due(partitions, luma_dataset, policy, requested, now)
        cursor = {key: at for key, at in requested.items() if now - at < timedelta(seconds=policy.longest_pause)}
        if not due:
            reason = (
                f"{waiting} partitions have open tasks or an open period, none is due yet"
                if waiting
                else "no open tasks"
            )
            return dg.SensorResult(skip_reason=reason, cursor=_write_cursor(cursor))
        spans = _spans(partitions, sorted(due, key=lambda key: due[key]), partitions_per_run)
        cursor.update(dict.fromkeys(due, now))
        return dg.SensorResult(run_requests=[_request(span) for span in spans], cursor=_write_cursor(cursor))

    return luma_open_tasks_sensor


def _due(
    partitions: TimeWindowPartitionsDefinition,
    dataset: Dataset,
    policy: RevisitPolicy,
    requested: Mapping[str, datetime],
    now: datetime,
) -> tuple[dict[str, datetime], int]:
    """Partitions to ask again, with the start of their window, and how many others are waiting for their time.

    A partition that has not been read since it closed is the schedule's to finish; here it is due like any other, and
    never too old: what was submitted after its last reading is in no other partition.
    """
    due: dict[str, datetime] = {}
    waiting: set[str] = set()
    for name in (OPEN_MARKS, UNFINISHED_MARKS):
        marks = dataset.marks(name)
        for mark, marked_at in marks.listed().items():
            key = key_of_mark(mark)
            if key in due or not partitions.has_partition_key(key):
                continue  # or left by another setting of the partitions
            window = partitions.time_window_for_partition_key(key)
            if name == OPEN_MARKS and policy.is_over(window.end, now):
                marks.clear(mark)
            elif policy.is_due(window.end, max(marked_at, requested.get(key, marked_at)), now):
                due[key] = window.start
            else:
                waiting.add(key)
    return due, len(waiting - due.keys())


_LARGEST_GAP = 2
"""Partitions between two due ones that are asked along: they cost a look into two files, a run of its own seconds."""


def _spans(
    partitions: TimeWindowPartitionsDefinition, keys: Sequence[str], partitions_per_run: int
) -> list[tuple[str, str]]:
    """Few contiguous ranges, first and last key each, that hold all keys (in the order of time)."""
    windows = [partitions.time_window_for_partition_key(key) for key in keys]
    spans: list[tuple[str, str]] = []
    first = 0
    for here in range(1, len(keys) + 1):
        if here < len(keys):
            gap = partitions.get_num_partitions_in_window(dg.TimeWindow(windows[here - 1].end, windows[here].start))
            length = partitions.get_num_partitions_in_window(dg.TimeWindow(windows[first].start, windows[here].end))
            if gap <= _LARGEST_GAP and length <= partitions_per_run:
                continue
        spans.append((keys[first], keys[here - 1]))
        first = here
    return spans


def _request(span: tuple[str, str]) -> dg.RunRequest:
    return dg.RunRequest(tags={_RANGE_START: span[0], _RANGE_END: span[1], _TRIGGER: "open_tasks"})


def _read_cursor(cursor: str | None) -> dict[str, datetime]:
    """When the sensor last asked for each partition, so that a run that failed is not asked for again at once."""
    entries: Mapping[str, float] = json.loads(cursor) if cursor else {}
    return {key: datetime.fromtimestamp(at, timezone.utc) for key, at in entries.items()}


def _write_cursor(requested: Mapping[str, datetime]) -> str:
    return json.dumps({key: round(at.timestamp(), 3) for key, at in sorted(requested.items())})
