"""Hours of ticks and runs on a simulated clock: which periods are read, how often, and by whom."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import VIDEOS, key_of_mark, mark_of
from luma_pipeline.orchestration.automation import RevisitPolicy, build_job, build_sensor
from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.orchestration.partitions import Frequency, folder_of, partitions_definition
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from tests.orchestration.test_ticks import ORIGIN
from tests.settings import component_with

UTC = UTC
MINUTE = timedelta(minutes=1)
GRACE = timedelta(minutes=15)

# Dagster keeps the storage of the last instance for the whole process, and the storage a weak reference to it.
_kept: list[dg.DagsterInstance] = []


@dataclass(frozen=True)
class Asked:
    """A run that was asked for."""

    at: datetime
    trigger: str
    keys: tuple[str, ...]


Begin = Callable[..., "Timeline"]
"""Begins a timeline at a time HH:MM of 2025-03-04."""


@dataclass
class Timeline:
    """Schedule and sensor over an instance, a root of datasets and a clock, with runs that leave what runs leave."""

    root: Path
    instance: dg.DagsterInstance
    now: datetime
    frequency: str = "hourly"
    cron_minutes: int = 10
    sensor_minutes: int = 1
    give_up_after: float = 72 * 3600.0
    run_takes: timedelta = timedelta(seconds=30)
    breaks: Callable[[str, datetime], bool] = lambda key, at: False
    """Whether a partition fails in a run that begins at that time."""
    asked: list[Asked] = field(default_factory=list)
    read: dict[str, datetime] = field(default_factory=dict)
    """When each partition was last read."""
    _runs: list[tuple[datetime, datetime, tuple[str, ...], str]] = field(default_factory=list)
    _cursor: str | None = None

    def __post_init__(self) -> None:
        self._dataset = Dataset(url=str(self.root))
        component = component_with(data_url=str(self.root), partitions=self.frequency, partitions_start="2025-01-01")
        self._repository = component.definitions().get_repository_def()
        self._schedule = self._repository.get_schedule_def(UNNAMED.schedule_name)
        self.partitions = partitions_definition(Frequency(self.frequency), "2025-01-01", "UTC")
        self._sensor = build_sensor(
            build_job(),
            self.partitions,
            RevisitPolicy(self.give_up_after),
            partitions_per_run=50,
            running=True,
            clock=lambda: self.now,
        )

    def go(self, until: str, *, schedule: bool = True, sensor: bool = True) -> None:
        """Let the time pass, minute by minute, up to a time HH:MM of this day or the next."""
        end = datetime.combine(self.now.date(), datetime.strptime(until, "%H:%M").time(), UTC)  # noqa: DTZ007
        end += timedelta(days=end <= self.now)
        while self.now < end:
            self._end_runs()
            minutes = (self.now.hour * 60) + self.now.minute
            if schedule and minutes % self.cron_minutes == 0:
                self._tick_schedule()
            self.now += timedelta(seconds=10)
            self._end_runs()
            if sensor and minutes % self.sensor_minutes == 0:
                self._tick_sensor()
            self.now += timedelta(seconds=50)

    def leave(self, key: str, read_at: str) -> None:
        """What a run leaves that has read the partition at that time, HH:MM of this day or with its date."""
        at = datetime.fromisoformat(f"{read_at if ' ' in read_at else f'{self.now:%Y-%m-%d} {read_at}'}+00:00")
        self._leave(key, at)
        self._date_marks(at)

    def unfinished(self) -> set[str]:
        return {key_of_mark(mark) for mark in self._dataset.marks("unfinished").listed()}

    def finished(self) -> set[str]:
        """Partitions that were read after their end and the grace, and have no mark."""
        late = {key for key, at in self.read.items() if at >= self._window(key).end + GRACE}
        return late - self.unfinished()

    def times_asked(self, key: str) -> int:
        return sum(key in asked.keys for asked in self.asked)

    def _window(self, key: str) -> dg.TimeWindow:
        return self.partitions.time_window_for_partition_key(key)

    def _tick_schedule(self) -> None:
        context = dg.build_schedule_context(
            self.instance,
            scheduled_execution_time=self.now,
            repository_def=self._repository,
            resources={"luma_dataset": LumaDataset(url=str(self.root))},
        )
        _kept.append(context.instance)
        self._begin(self._schedule.evaluate_tick(context).run_requests or ())

    def _tick_sensor(self) -> None:
        context = dg.build_sensor_context(
            self.instance,
            cursor=self._cursor,
            repository_def=self._repository,
            resources={"luma_dataset": LumaDataset(url=str(self.root))},
        )
        _kept.append(context.instance)
        data = self._sensor.evaluate_tick(context)
        self._cursor = data.cursor or self._cursor
        self._begin(data.run_requests or ())

    def _begin(self, requests: Any) -> None:
        for request in requests:
            tags = dict(request.tags)
            first = tags.get("dagster/partition") or tags["dagster/asset_partition_range_start"]
            last = tags.get("dagster/partition") or tags["dagster/asset_partition_range_end"]
            window = dg.TimeWindow(self._window(first).start, self._window(last).end)
            keys = tuple(self.partitions.get_partition_keys_in_time_window(window))
            busy = {key for _, _, others, _ in self._runs for key in others}
            assert not busy & set(keys), f"{busy & set(keys)} asked for at {self.now} while a run works on them"
            run = dg.DagsterRun(
                "luma_job",
                run_id=str(uuid.uuid4()),
                tags=tags,
                remote_job_origin=ORIGIN,
                status=dg.DagsterRunStatus.STARTED,
            )
            self.instance.add_run(run)
            self.asked.append(Asked(self.now, tags["luma/trigger"], keys))
            self._runs.append((self.now + self.run_takes, self.now, keys, run.run_id))
        self._date_marks(self.now)

    def _end_runs(self) -> None:
        for run in [run for run in self._runs if run[0] <= self.now]:
            self._runs.remove(run)
            _, began, keys, run_id = run
            for key in keys:
                if not self.breaks(key, began):
                    self._leave(key, began)
            self.instance.run_storage.delete_run(run_id)  # what has ended counts no more, however it did
        self._date_marks(self.now)

    def _leave(self, key: str, read_at: datetime) -> None:
        self.read[key] = read_at
        file = Path(self._dataset.partition(VIDEOS, folder_of(self.partitions, key)).path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        marks = self._dataset.marks("unfinished")
        if read_at < self._window(key).end + GRACE:
            marks.set(mark_of(key))
        else:
            marks.clear(mark_of(key))

    def _date_marks(self, at: datetime) -> None:
        """Marks that were set just now by the machine's clock were set at that time by ours."""
        for path in (self.root / "_unfinished").glob("*"):
            if path.stat().st_mtime > self.now.timestamp():
                os.utime(path, (at.timestamp(), at.timestamp()))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> dg.DagsterInstance:
    opened = dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home")))
    _kept.append(opened)
    return opened


@pytest.fixture
def begin(tmp_path: Path, instance: dg.DagsterInstance) -> Begin:
    for run_id in instance.get_run_ids():
        instance.run_storage.delete_run(run_id)
    return lambda start, **settings: Timeline(
        tmp_path, instance, datetime.fromisoformat(f"2025-03-04T{start}+00:00"), **settings
    )


def hours(*numbers: int) -> list[str]:
    return [f"2025-03-04-{number:02}:00" for number in numbers]


@pytest.mark.parametrize("minutes", [0.5, 25])
def test_the_period_that_has_just_closed_is_asked_for_by_the_schedule_alone(begin: Begin, minutes: float) -> None:
    """However long a run takes: none is asked for while another works on the period, and none by the sensor too."""
    timeline = begin("23:40", frequency="daily", run_takes=timedelta(minutes=minutes))
    timeline.go("01:09")
    asked = [run for run in timeline.asked if "2025-03-04" in run.keys]
    assert {run.trigger for run in asked} == {"schedule"}
    assert len(asked) == (5 if minutes < 10 else 3)
    assert timeline.finished() == {"2025-03-04"}
    assert timeline.unfinished() == {"2025-03-05"}


def test_hours_in_which_nothing_ran_are_read_when_it_runs_again(begin: Begin) -> None:
    timeline = begin("12:05")
    timeline.leave("2025-03-04-09:00", read_at="10:20")
    timeline.leave("2025-03-04-10:00", read_at="10:50")
    timeline.go("12:40")
    assert timeline.finished() == set(hours(9, 10, 11))
    assert timeline.unfinished() == set(hours(12))
    assert [timeline.times_asked(key) for key in hours(9, 10, 11)] == [0, 1, 2]


def test_every_hour_is_read_to_its_end_by_a_schedule_of_every_six(begin: Begin) -> None:
    timeline = begin("06:00", cron_minutes=360, sensor_minutes=10)
    timeline.go("12:45")
    assert timeline.finished() == set(hours(*range(6, 12)))
    assert timeline.unfinished() == set(hours(12))
    assert max(timeline.times_asked(key) for key in hours(*range(6, 12))) <= 3


def test_a_schedule_that_is_off_leaves_the_sensor_to_finish_and_catches_up_when_it_is_on(begin: Begin) -> None:
    timeline = begin("10:50", sensor_minutes=10)
    timeline.go("13:05", schedule=False)
    assert timeline.asked == []
    timeline.leave("2025-03-04-13:00", read_at="13:04")
    timeline.go("15:00", schedule=False)
    assert timeline.finished() == set(hours(13))
    assert timeline.unfinished() == set()
    assert {key for run in timeline.asked for key in run.keys} == set(hours(13))
    timeline.go("17:00", schedule=False)
    timeline.go("17:40")
    assert timeline.finished() == set(hours(13, 14, 15, 16))
    assert timeline.unfinished() == set(hours(17))


def test_hours_whose_runs_all_failed_are_read_when_runs_succeed_again(begin: Begin) -> None:
    down = (datetime(2025, 3, 4, 8, 25, tzinfo=UTC), datetime(2025, 3, 4, 12, 5, tzinfo=UTC))
    timeline = begin("12:00", sensor_minutes=10, breaks=lambda key, at: down[0] <= at < down[1])
    timeline.leave("2025-03-04-08:00", read_at="08:20")
    timeline.go("13:25")
    assert timeline.finished() == set(hours(8, 9, 10, 11, 12))


def test_an_hour_that_fails_among_others_is_asked_for_until_it_is_read(begin: Begin) -> None:
    mended = datetime(2025, 3, 4, 12, 30, tzinfo=UTC)
    timeline = begin("12:05", sensor_minutes=10, breaks=lambda key, at: key == "2025-03-04-09:00" and at < mended)
    timeline.leave("2025-03-04-08:00", read_at="08:20")
    timeline.go("13:25")
    assert timeline.finished() == set(hours(8, 9, 10, 11, 12))


def test_an_hour_that_cannot_be_read_does_not_have_all_later_ones_asked_again(begin: Begin) -> None:
    timeline = begin("10:50", sensor_minutes=10, breaks=lambda key, at: key == "2025-03-04-06:00")
    timeline.leave("2025-03-04-06:00", read_at="06:20")
    for hour in (7, 8, 9):
        timeline.leave(f"2025-03-04-{hour:02}:00", read_at=f"{hour + 1:02}:20")
    timeline.go("12:40")
    assert [timeline.times_asked(key) for key in hours(7, 8, 9)] == [0, 0, 0]
    assert timeline.times_asked("2025-03-04-06:00") >= 2
    assert timeline.unfinished() == set(hours(6, 12))


def test_what_was_missed_longer_ago_than_open_tasks_are_awaited_is_a_backfill_s(begin: Begin) -> None:
    timeline = begin("12:05", frequency="daily", sensor_minutes=10)
    timeline.leave("2025-02-20", read_at="12:00")  # of today, so to its end: nothing tells when the schedule stopped
    timeline.go("12:15")
    assert {key for run in timeline.asked for key in run.keys} == {"2025-03-04"}


def test_a_gap_of_more_periods_than_one_tick_asks_for_is_read_in_several(begin: Begin) -> None:
    timeline = begin("12:05", sensor_minutes=2, run_takes=timedelta(seconds=20), give_up_after=24 * 3600.0 * 30)
    timeline.leave("2025-02-20-10:00", read_at="2025-02-20 10:50")
    timeline.go("12:30", schedule=False)
    first = datetime(2025, 2, 20, 10, tzinfo=UTC)
    every_hour = [f"{first + timedelta(hours=number):%Y-%m-%d-%H:%M}" for number in range(12 * 24 + 2)]
    assert every_hour[-1] == "2025-03-04-11:00"
    assert timeline.read.keys() | timeline.unfinished() == set(every_hour)
    timeline.now += timedelta(hours=6)
    timeline.go("18:35", schedule=False)
    assert timeline.finished() >= set(every_hour)
    assert timeline.unfinished() == set()
    assert max(len(run.keys) for run in timeline.asked) == 50
    assert len([run for run in timeline.asked if run.at == timeline.asked[0].at]) <= 5
