"""Schedule, sensor and partitions: what runs by itself, when, and over which windows."""

from __future__ import annotations

import json
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import TimeWindow, TimeWindowPartitionsDefinition
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.definitions.sensor_definition import SensorExecutionData
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import OPEN_MARKS, UNFINISHED_MARKS, mark_of
from luma_pipeline.orchestration.automation import RevisitPolicy
from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.orchestration.partitions import (
    Frequency,
    folder_of,
    partitions_definition,
    periods_before,
    window_of,
)
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from tests.settings import component_with

UTC = UTC
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


# Dagster keeps the storage of the last instance for the whole process, and the storage only a weak reference to it.
_instances: list[dg.DagsterInstance] = []


class Setting:
    """Definitions over a folder of their own, and what an evaluation of schedule and sensor says."""

    def __init__(self, directory: Path, **fields: Any) -> None:
        self.dataset = Dataset(url=str(directory))
        start = (datetime.now(UTC) - timedelta(days=1100)).date().isoformat()
        required = dict.fromkeys(("api_token", "source_url", "source_table", "s3_bucket"), "unused")
        values = {**required, "data_url": str(directory), "partitions_start": start, **fields}
        self.component = component_with(**values)
        self.definitions = self.component.definitions()
        # The contexts take an instance that has a folder.
        self.instance = dg.DagsterInstance.local_temp(tempfile.mkdtemp(dir=directory))
        _instances.append(self.instance)
        self.resources = {"luma_dataset": LumaDataset(url=str(directory))}

    def mark(self, key: str, age: timedelta, marks: str = OPEN_MARKS) -> None:
        self.dataset.marks(marks).set(mark_of(key))
        at = time.time() - age.total_seconds()
        os.utime(Path(self.component.data_url) / f"_{marks}" / mark_of(key), (at, at))

    def schedule(self, at: datetime) -> ScheduleExecutionData:
        repository = self.definitions.get_repository_def()
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=at, resources=self.resources, repository_def=repository
        )
        _instances.append(context.instance)
        return repository.get_schedule_def(UNNAMED.schedule_name).evaluate_tick(context)

    def sensor(self, cursor: str | None = None) -> SensorExecutionData:
        repository = self.definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance, cursor=cursor, resources=self.resources, repository_def=repository
        )
        _instances.append(context.instance)
        return repository.get_sensor_def(UNNAMED.sensor_name).evaluate_tick(context)

    def under_way(self, tags: dict[str, str]) -> None:
        self.instance.create_run_for_job(
            self.definitions.resolve_job_def(UNNAMED.job_name), tags=tags, status=dg.DagsterRunStatus.STARTED
        )


def day(days_ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days_ago)).date().isoformat()


def asked(tick: ScheduleExecutionData) -> list[str | None]:
    return [request.partition_key for request in tick.run_requests or ()]


def spans(result: SensorExecutionData) -> list[tuple[str, ...]]:
    return [tuple(request.tags[tag] for tag in RANGE) for request in result.run_requests or ()]


def test_the_schedule_runs_the_open_period(tmp_path: Path) -> None:
    tick = Setting(tmp_path).schedule(datetime(2025, 3, 4, 12, 10, tzinfo=UTC))
    assert asked(tick) == ["2025-03-04"]


def test_a_tick_does_not_pile_up_on_a_run_under_way(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.under_way({"dagster/partition": "2025-03-04"})
    tick = setting.schedule(datetime(2025, 3, 4, 12, 20, tzinfo=UTC))
    assert (asked(tick), tick.skip_message) == ([], "the run for 2025-03-04 is still under way")


def test_the_period_that_just_closed_gets_its_last_run(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.mark("2025-03-03", timedelta(0), UNFINISHED_MARKS)
    assert asked(setting.schedule(datetime(2025, 3, 4, 0, 0, tzinfo=UTC))) == ["2025-03-03", "2025-03-04"]
    setting.dataset.marks(UNFINISHED_MARKS).clear("2025-03-03")
    assert asked(setting.schedule(datetime(2025, 3, 4, 0, 10, tzinfo=UTC))) == ["2025-03-04"]


def test_the_sensor_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    result = Setting(tmp_path).sensor()
    assert (result.run_requests or [], result.skip_message) == ([], "no open tasks")


def test_open_partitions_go_into_few_runs(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24 * 60)
    for days_ago in (2, 3, 5, 20, 21):
        setting.mark(day(days_ago), timedelta(hours=12))
    assert spans(setting.sensor()) == [(day(21), day(20)), (day(5), day(2))]


def test_the_cursor_keeps_a_failed_run_from_being_asked_for_at_once(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24 * 60)
    setting.mark(day(3), timedelta(hours=12))
    first = setting.sensor()
    assert spans(first) == [(day(3), day(3))]
    assert list(json.loads(first.cursor or "")) == [day(3)]
    again = setting.sensor(first.cursor)
    assert spans(again) == []
    assert again.skip_message is not None
    assert "1 partitions have open tasks" in again.skip_message


def test_a_partition_is_given_up_after_its_time(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24)
    setting.mark(day(4), timedelta(hours=80))
    assert spans(setting.sensor()) == []
    assert setting.dataset.marks(OPEN_MARKS).listed() == {}


def test_the_open_period_is_left_to_the_schedule(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.mark(day(0), timedelta(hours=1))
    assert spans(setting.sensor()) == []


def test_partitions_of_a_run_under_way_are_left_out(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24 * 60)
    for days_ago in (3, 4, 5, 9):
        setting.mark(day(days_ago), timedelta(hours=12))
    setting.under_way({RANGE[0]: day(4), RANGE[1]: day(3), "luma/trigger": "open_tasks"})
    result = setting.sensor()
    assert spans(result) == [(day(9), day(9)), (day(5), day(5))]
    assert list(json.loads(result.cursor or "")) == [day(9), day(5)]
    again = setting.sensor(result.cursor)
    assert again.skip_message is not None
    assert again.skip_message == (
        "2 partitions are due, and runs under way work on them; "
        "2 partitions have open tasks or an open period, none is due yet"
    )


def test_runs_say_what_they_are_for(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24 * 60)
    for days_ago in (3, 5):
        setting.mark(day(days_ago), timedelta(hours=12))
    [revisit] = setting.sensor().run_requests or ()
    assert own_tags(revisit) == {
        "luma/trigger": "open_tasks",
        "luma/partitions": "3",  # the day between costs less than a run of its own
    }
    [regular] = setting.schedule(datetime(2025, 3, 4, 12, 10, tzinfo=UTC)).run_requests or ()
    assert own_tags(regular) == {"luma/trigger": "schedule"}


def own_tags(request: dg.RunRequest) -> dict[str, str]:
    return {name: tag for name, tag in request.tags.items() if name.startswith("luma/")}


def test_a_thousand_open_partitions_are_few_runs(tmp_path: Path) -> None:
    setting = Setting(tmp_path, give_up_after_hours=24 * 2000, partitions_per_run=400)
    for days_ago in range(1, 1001):
        setting.mark(day(days_ago), timedelta(hours=12))
    assert len(spans(setting.sensor())) == 3


def test_pauses_grow_with_age_within_their_bounds() -> None:
    policy = RevisitPolicy(give_up_after=1e6)
    end = datetime(2025, 1, 1, tzinfo=UTC)
    for age, pause in ((600, 600), (4 * 3600, 3600), (400 * 3600, 6 * 3600)):
        now = end + timedelta(seconds=age)
        assert policy.is_due(end, now - timedelta(seconds=pause), now)
        assert not policy.is_due(end, now - timedelta(seconds=pause - 1), now)
    for age in (-1, 0, 599):  # the period that has just closed is the schedule's
        assert not policy.is_due(end, end - timedelta(days=1), end + timedelta(seconds=age))


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
_DEFINITIONS = {
    (frequency, zone): partitions_definition(frequency, "2024-01-10", zone) for frequency in Frequency for zone in ZONES
}


@given(
    st.sampled_from(sorted(_DEFINITIONS, key=str)),
    st.datetimes(datetime(2024, 1, 11), datetime(2025, 10, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
@settings(max_examples=200, deadline=None)
def test_every_instant_is_in_exactly_one_window_with_a_folder_of_its_own(
    which: tuple[Frequency, str], instant: datetime
) -> None:
    definition = _DEFINITIONS[which]
    assert isinstance(definition, TimeWindowPartitionsDefinition)
    key = definition.get_partition_key_for_timestamp(instant.timestamp())
    window = definition.time_window_for_partition_key(key)
    assert window.start.timestamp() <= instant.timestamp() < window.end.timestamp()
    following = _key_after(definition, window)
    assert window_of(definition, key) == window
    assert next(periods_before(definition, definition.time_window_for_partition_key(following))) == (key, window)
    assert definition.time_window_for_partition_key(following).start.timestamp() == window.end.timestamp()
    folders = {folder_of(definition, key), folder_of(definition, following)}
    assert len(folders) == 2
    assert not any(":" in folder for folder in folders)


FIRST = [("weekly", "2024-01-08"), ("monthly", "2024-01-01"), ("daily", "2024-01-10")]


@pytest.mark.parametrize(("frequency", "first"), FIRST)
def test_the_first_window_holds_the_start(frequency: str, first: str) -> None:
    definition = partitions_definition(Frequency(frequency), "2024-01-10", "UTC")
    assert definition.get_first_partition_key() == first
    window = definition.time_window_for_partition_key(first)
    assert list(periods_before(definition, window)) == []
    assert list(
        periods_before(definition, definition.time_window_for_partition_key(_key_after(definition, window)))
    ) == [(first, window)]


def _key_after(definition: TimeWindowPartitionsDefinition, window: TimeWindow) -> str:
    return definition.get_partition_key_for_timestamp(window.end.timestamp())


NO_KEYS = ["2024-01-09", "2024-01-10-18:00", "2024-1-10", "0001-01-01", "9999-12-31", "", "no partition at all"]


@pytest.mark.parametrize("key", NO_KEYS)
def test_what_is_no_key_of_the_partitions_has_no_window(key: str) -> None:
    assert window_of(partitions_definition(Frequency.DAILY, "2024-01-10", "Europe/Berlin"), key) is None
