"""What runs by itself: a schedule for the open period, and a sensor that comes back for what is still open."""

# No postponed annotations in this module: Dagster reads those of schedules and sensors as types.

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice, takewhile

import dagster as dg
from dagster import TimeWindow, TimeWindowPartitionsDefinition
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
from luma_pipeline.orchestration.partitions import folder_of, periods_before, window_of
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
_MOST_LOOKS = 200
"""Periods of which one tick looks whether they were ever read: four runs' worth by default, each a request to S3."""
_FARTHEST = 2000
"""Periods before the open one that a tick goes back over: 83 days of hours, 0.1 s."""
_NEVER = datetime.fromtimestamp(0, timezone.utc)

_Windows = dict[str, TimeWindow]
"""Windows by partition key."""


@dataclass(frozen=True)
class RevisitPolicy:
    """When the sensor comes back to a closed partition with open tasks. All in seconds.

    The pause is a share of the partition's age, within its bounds: a task that has been open for minutes may end any
    minute, one that has been open for days will not. After `give_up_after` the partition is left alone.
    """

    give_up_after: float = 72 * 3600.0
    shortest_pause: float = 600.0
    longest_pause: float = 6 * 3600.0
    share_of_age: float = 0.25

    def is_due(self, window_end: datetime, asked_at: datetime, now: datetime) -> bool:
        """Whether to ask again; all times aware. A period that has just closed is the schedule's for a while."""
        age = (now - window_end).total_seconds()
        pause = min(max(age * self.share_of_age, self.shortest_pause), self.longest_pause)
        return age >= self.shortest_pause and now - asked_at >= timedelta(seconds=pause)

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


class _UnderWay:
    """The runs under way over our assets, whoever asked for them, and the time that their partitions cover.

    A backfill's runs are of Dagster's own job for all assets, a person's of any job.
    """

    def __init__(self, instance: dg.DagsterInstance, partitions: TimeWindowPartitionsDefinition) -> None:
        runs = instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY))
        self.runs = [run for run in runs if run.job_name == JOB_NAME or _ASSETS & (run.asset_selection or frozenset())]
        # When the first and the last partition of each begin: disjoint, in order, so that a look is quick with a
        # thousand partitions to look for and as many runs of a backfill.
        self._firsts: list[float] = []
        self._lasts: list[float] = []
        for first, last in sorted(span for run in self.runs for span in _begins(run, partitions)):
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def in_queue(self, trigger: str) -> dg.DagsterRun | None:
        """A run with that trigger which has not left the queue."""
        queued = (run for run in self.runs if run.status is dg.DagsterRunStatus.QUEUED)
        return next((run for run in queued if run.tags.get(_TRIGGER) == trigger), None)

    def holds(self, start: datetime, end: datetime) -> bool:
        """Whether a run under way works on any partition within that time."""
        before_end = bisect_left(self._firsts, end.timestamp())
        return before_end > 0 and self._lasts[before_end - 1] >= start.timestamp()


def _begins(run: dg.DagsterRun, partitions: TimeWindowPartitionsDefinition) -> Iterator[tuple[float, float]]:
    """When the first and the last partition of a run begin, by its tags."""
    for first, last in ((_PARTITION, _PARTITION), (_RANGE_START, _RANGE_END)):
        if first in run.tags and last in run.tags:
            with suppress(ValueError, OverflowError):  # no partitions of this setting
                begins = [partitions.start_time_for_partition_key(run.tags[tag]) for tag in (first, last)]
                yield begins[0].timestamp(), begins[1].timestamp()


def build_schedule(
    job: UnresolvedAssetJobDefinition,
    partitions: TimeWindowPartitionsDefinition,
    cron: str,
    policy: RevisitPolicy = RevisitPolicy(),
    *,
    partitions_per_run: int = 50,
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
        # In UTC: Python takes the difference of two times of one zone by the clock on the wall.
        now = context.scheduled_execution_time.astimezone(timezone.utc)
        if now.timestamp() < partitions.start_timestamp:
            return dg.SkipReason(f"the first period begins at {partitions.start}")
        open_key = partitions.get_partition_key_for_timestamp(now.timestamp())
        open_window = partitions.time_window_for_partition_key(open_key)
        under_way = _UnderWay(context.instance, partitions)
        windows = {**_left_to_read(partitions, luma_dataset.open(), policy, open_window, now), open_key: open_window}
        held = [key for key, window in windows.items() if under_way.holds(window.start, window.end)]
        free = {key: window for key, window in windows.items() if key not in held}
        # The open period has a run of its own: it is asked for most often, and seen in the UI by its partition.
        is_open = free.pop(open_key, None) is not None
        spans = _spans(partitions, free, partitions_per_run, under_way)
        if is_open:
            spans.append(_Span(open_key, open_key, open_window, 1))
        return [_scheduled(span, now) for span in spans] or dg.SkipReason(_still_under_way(held))

    return luma_schedule


def _left_to_read(
    partitions: TimeWindowPartitionsDefinition,
    dataset: Dataset,
    policy: RevisitPolicy,
    open_window: TimeWindow,
    now: datetime,
) -> _Windows:
    """The period before the open one if it is unfinished, or those since the last one that was read.

    If none was read in the time that the policy comes back for, the first deployment's included, there are none:
    what is older is a backfill's.
    """
    marked = dataset.marks(UNFINISHED_MARKS).listed()
    missed: _Windows = {}
    for key, window in islice(periods_before(partitions, open_window), _MOST_LOOKS):
        if mark_of(key) in marked and not missed:
            return {key: window}
        if mark_of(key) in marked or _was_read(partitions, dataset, key):
            return _marked_as_unfinished(missed, dataset)
        if policy.is_over(window.end, now):
            break
        missed[key] = window
    return {}


def _was_read(partitions: TimeWindowPartitionsDefinition, dataset: Dataset, key: str) -> bool:
    """Whether a run has gone through the partition: it has the file written last, just before the marks are set.

    If it has, and no mark says unfinished, it was read to its end.
    """
    return dataset.partition(VIDEOS, folder_of(partitions, key)).exists()


def _marked_as_unfinished(missed: _Windows, dataset: Dataset) -> _Windows:
    """Leave a mark for each, which stands until it is read, whatever becomes of the run that is asked for."""
    for key in missed:
        dataset.marks(UNFINISHED_MARKS).set(mark_of(key))
    return missed


def _still_under_way(keys: list[str]) -> str:
    if len(keys) == 1:
        return f"the run for {keys[0]} is still under way"
    return f"the runs for {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''} are still under way"


def build_sensor(
    job: UnresolvedAssetJobDefinition,
    partitions: TimeWindowPartitionsDefinition,
    policy: RevisitPolicy,
    *,
    partitions_per_run: int,
    running: bool,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
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
        under_way = _UnderWay(context.instance, partitions)
        queued = under_way.in_queue(_BY_SENSOR)
        if queued is not None:  # or a queue that stands still would get one more run with each partition that is due
            return dg.SensorResult(skip_reason=f"run {queued.run_id} for open tasks is still in the queue")
        now = clock()
        requested = _read_cursor(context.cursor)
        found = _Revisits(partitions, luma_dataset.open(), policy, requested, under_way, now)
        cursor = {key: at for key, at in requested.items() if now - at < timedelta(seconds=policy.longest_pause)}
        if not found.due:
            return dg.SensorResult(skip_reason=found.why_nothing_is_due(), cursor=_write_cursor(cursor))
        cursor.update(dict.fromkeys(found.due, now))
        spans = _spans(partitions, found.due, partitions_per_run, under_way)
        return dg.SensorResult(run_requests=[_revisit(span) for span in spans], cursor=_write_cursor(cursor))

    return luma_open_tasks_sensor


class _Revisits:
    """What a tick of the sensor finds: the partitions to ask again, and those that are left for another tick."""

    def __init__(
        self,
        partitions: TimeWindowPartitionsDefinition,
        dataset: Dataset,
        policy: RevisitPolicy,
        requested: dict[str, datetime],
        under_way: _UnderWay,
        now: datetime,
    ) -> None:
        self._partitions = partitions
        self._dataset = dataset
        self._policy = policy
        self._requested = requested
        self._under_way = under_way
        self._now = now
        self.due: _Windows = {}
        self._held: set[str] = set()
        self._waiting: set[str] = set()
        open_marks, unfinished = self._marked(OPEN_MARKS), self._marked(UNFINISHED_MARKS)
        for key, (window, marked_at) in (open_marks | unfinished).items():
            asked_at = min(marked_at, open_marks.get(key, (window, marked_at))[1])
            if self._is_due(key, window, asked_at):
                self._add(key, window)
            else:
                self._waiting.add(key)
        closed = [window.start.timestamp() for window, _ in unfinished.values() if window.end <= now]
        if closed:
            self._look_for_missed(min(closed), open_marks.keys() | unfinished.keys())

    def why_nothing_is_due(self) -> str:
        """The reason for a tick without requests."""
        reasons = []
        if self._held:
            reasons.append(f"{len(self._held)} partitions are due, and runs under way work on them")
        if self._waiting:
            reasons.append(f"{len(self._waiting)} partitions have open tasks or an open period, none is due yet")
        return "; ".join(reasons) or "no open tasks"

    def _marked(self, name: str) -> dict[str, tuple[TimeWindow, datetime]]:
        """The partitions with such a mark, and when it was set.

        Open tasks are given up after their time. A period that was not read to its end is never too old: what was
        submitted after its last reading is in no other partition.
        """
        marks = self._dataset.marks(name)
        found = {}
        for mark, marked_at in marks.listed().items():
            window = window_of(self._partitions, key_of_mark(mark))
            if window is None or window.start > self._now:
                continue  # left by another setting of the partitions
            if name == OPEN_MARKS and self._policy.is_over(window.end, self._now):
                marks.clear(mark)
            else:
                found[key_of_mark(mark)] = (window, marked_at)
        return found

    def _look_for_missed(self, since: float, marked: AbstractSet[str]) -> None:
        """Add the periods that nobody has read since the oldest unfinished one, for want of a schedule that ran.

        Those that were read to their end have no mark either; they are remembered like the ones asked for.
        """
        open_key = self._partitions.get_partition_key_for_timestamp(self._now.timestamp())
        open_window = self._partitions.time_window_for_partition_key(open_key)
        periods = takewhile(
            lambda period: period[1].start.timestamp() > since and not self._policy.is_over(period[1].end, self._now),
            islice(periods_before(self._partitions, open_window), _FARTHEST),
        )
        unknown = [period for period in periods if period[0] not in marked and self._is_due(*period, _NEVER)]
        unknown.reverse()
        looked_at, rest = dict(unknown[:_MOST_LOOKS]), unknown[_MOST_LOOKS:]
        self._requested.update(dict.fromkeys(looked_at, self._now))
        missed = {
            key: window for key, window in looked_at.items() if not _was_read(self._partitions, self._dataset, key)
        }
        for key, window in _marked_as_unfinished(missed, self._dataset).items():
            self._add(key, window)
        # A mark for the rest, from which the next tick goes on when those before it have been read.
        _marked_as_unfinished(dict(rest[:1]), self._dataset)

    def _is_due(self, key: str, window: TimeWindow, asked_at: datetime) -> bool:
        return self._policy.is_due(window.end, max(asked_at, self._requested.get(key, asked_at)), self._now)

    def _add(self, key: str, window: TimeWindow) -> None:
        if self._under_way.holds(window.start, window.end):
            self._held.add(key)
        else:
            self.due[key] = window


_LARGEST_GAP = 2
"""Partitions between two due ones that are asked along: they cost a look into two files, a run of its own seconds."""


@dataclass(frozen=True)
class _Span:
    """Partitions next to each other, for one run."""

    first: str
    last: str
    window: TimeWindow
    partitions: int


def _spans(
    partitions: TimeWindowPartitionsDefinition, windows: _Windows, partitions_per_run: int, under_way: _UnderWay
) -> list[_Span]:
    """Few spans that hold all these windows and nothing that a run under way works on, in the order of time."""
    spans: list[_Span] = []
    for key, window in sorted(windows.items(), key=lambda item: item[1].start.timestamp()):
        if spans:
            last = spans[-1]
            gap = partitions.get_num_partitions_in_window(TimeWindow(last.window.end, window.start))
            longer = last.partitions + gap + 1
            free = not under_way.holds(last.window.end, window.start)
            if free and gap <= _LARGEST_GAP and longer <= partitions_per_run:
                spans[-1] = _Span(last.first, key, TimeWindow(last.window.start, window.end), longer)
                continue
        spans.append(_Span(key, key, window, 1))
    return spans


def _scheduled(span: _Span, now: datetime) -> dg.RunRequest:
    # The run key keeps a tick that is evaluated twice from asking twice.
    tags = {_TRIGGER: _BY_SCHEDULE}
    if span.partitions == 1:
        return dg.RunRequest(run_key=f"{span.first} at {now.isoformat()}", partition_key=span.first, tags=tags)
    return dg.RunRequest(run_key=f"{span.first} to {span.last} at {now.isoformat()}", tags=tags | _range_tags(span))


def _revisit(span: _Span) -> dg.RunRequest:
    return dg.RunRequest(tags={_TRIGGER: _BY_SENSOR, **_range_tags(span)})


def _range_tags(span: _Span) -> dict[str, str]:
    return {_RANGE_START: span.first, _RANGE_END: span.last, _COUNT: str(span.partitions)}


def _read_cursor(cursor: str | None) -> dict[str, datetime]:
    """When the sensor last asked for each partition, so that a run that failed is not asked for again at once."""
    entries: Mapping[str, float] = json.loads(cursor) if cursor else {}
    return {key: datetime.fromtimestamp(at, timezone.utc) for key, at in entries.items()}


def _write_cursor(requested: Mapping[str, datetime]) -> str:
    return json.dumps({key: round(at.timestamp(), 3) for key, at in sorted(requested.items())})
