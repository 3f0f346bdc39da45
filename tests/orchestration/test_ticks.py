"""Ticks of the schedule and the sensor where days are odd, marks many, and periods never read to their end."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import mark_of
from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.sandbox.server import Answer, HttpServer, Request
from tests.settings import component_with

UTC = UTC
NOON = datetime(2024, 12, 24, 12, tzinfo=UTC)
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("luma_pipeline.definitions"), "__repository__"),
    UNNAMED.job_name,
)
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


# Dagster keeps the storage of the last instance for the whole process, and the storage a weak reference to that
# instance: a context of a tick opens one of its own.
_kept: list[Any] = []


@dataclass
class Clockwork:
    """A component's schedule and sensor over an instance and a root of datasets."""

    root: str
    instance: dg.DagsterInstance
    settings: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None

    def repository(self) -> dg.RepositoryDefinition:
        settings = {"partitions_start": "2024-01-01", **self.settings}
        return component_with(data_url=self.root, **settings).definitions().get_repository_def()

    def tick_schedule(self, at: datetime) -> tuple[list[str | None], str | None]:
        """The partitions asked for, or why there are none."""
        data = self._evaluated_schedule(at)
        return [request.partition_key for request in data.run_requests or ()], data.skip_message

    def schedule_requests(self, at: datetime) -> list[dg.RunRequest]:
        """The runs asked for."""
        return list(self._evaluated_schedule(at).run_requests or ())

    def _evaluated_schedule(self, at: datetime) -> ScheduleExecutionData:
        repository = self.repository()
        context = dg.build_schedule_context(
            self.instance,
            scheduled_execution_time=at,
            repository_def=repository,
            resources={"luma_dataset": LumaDataset(url=self.root)},
        )
        _kept.append(context.instance)
        return repository.get_schedule_def(UNNAMED.schedule_name).evaluate_tick(context)

    def tick_sensor(self) -> tuple[list[tuple[str, str]], str | None]:
        """The ranges asked for, or why there are none."""
        repository = self.repository()
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            repository_def=repository,
            resources={"luma_dataset": LumaDataset(url=self.root)},
        )
        _kept.append(context.instance)
        data = repository.get_sensor_def(UNNAMED.sensor_name).evaluate_tick(context)
        self.cursor = data.cursor
        return [(request.tags[_RANGE[0]], request.tags[_RANGE[1]]) for request in data.run_requests or ()], (
            data.skip_message
        )

    def mark(self, name: str, key: str, age: timedelta = timedelta(days=1)) -> None:
        """A mark that was set some time ago."""
        Dataset(url=self.root).marks(name).set(mark_of(key))
        at = (datetime.now(UTC) - age).timestamp()
        os.utime(Path(self.root) / f"_{name}" / mark_of(key), (at, at))

    def marks(self, name: str) -> set[str]:
        return set(Dataset(url=self.root).marks(name).listed())

    def begin_run(
        self, status: dg.DagsterRunStatus, *, job: str = UNNAMED.job_name, assets: Sequence[str] = (), **tags: str
    ) -> None:
        """A run that has come so far; a tag's name has its slash as an underscore."""
        run = dg.DagsterRun(
            job,
            run_id=str(uuid.uuid4()),
            tags={name.replace("_", "/", 1): value for name, value in tags.items()},
            asset_selection=frozenset(dg.AssetKey(asset) for asset in assets) or None,
            remote_job_origin=ORIGIN,
            status=status,
        )
        self.instance.add_run(run)

    def keep_videos(self, *keys: str) -> None:
        """The partitions' manifests, as of partitions that were read."""
        for key in keys:
            file = Path(self.root) / "luma_videos" / f"date={key}" / "part-0.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


@pytest.fixture
def clockwork(tmp_path: Path) -> Clockwork:
    home, root = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    root.mkdir()
    instance = dg.DagsterInstance.local_temp(str(home))
    _kept.append(instance)
    return Clockwork(str(root), instance)


def days_ago(number: int) -> str:
    return f"{datetime.now(UTC).date() - timedelta(days=number)}"


def span(first: int, last: int) -> tuple[str, str]:
    return (days_ago(first), days_ago(last))


TICKS = [
    ("daily", "UTC", "2024-12-24T23:59:59+00:00", "2024-12-24"),
    ("daily", "UTC", "2024-12-25T00:00:00+00:00", "2024-12-25"),
    ("daily", "Asia/Tokyo", "2024-12-24T15:00:00+00:00", "2024-12-25"),
    ("daily", "Europe/Berlin", "2024-10-27T22:59:00+00:00", "2024-10-27"),
    ("daily", "Europe/Berlin", "2025-03-30T21:59:00+00:00", "2025-03-30"),
    ("daily", "Europe/Berlin", "2025-03-30T22:00:00+00:00", "2025-03-31"),
    ("hourly", "Europe/Berlin", "2024-10-27T00:30:00+00:00", "2024-10-27-02:00"),
    ("hourly", "Europe/Berlin", "2024-10-27T01:30:00+00:00", "2024-10-27-02:00+0100"),
    ("hourly", "Europe/Berlin", "2025-03-30T01:00:00+00:00", "2025-03-30-03:00"),
    ("weekly", "UTC", "2024-12-22T23:59:00+00:00", "2024-12-16"),
    ("monthly", "UTC", "2024-12-31T23:59:00+00:00", "2024-12-01"),
    ("daily", "UTC", "2024-01-01T00:00:00+00:00", "2024-01-01"),
]


@pytest.mark.parametrize(("frequency", "zone", "at", "expected"), TICKS)
def test_a_tick_asks_for_the_period_that_is_open_in_the_partitions_zone(
    clockwork: Clockwork, frequency: str, zone: str, at: str, expected: str
) -> None:
    clockwork.settings = {"partitions": frequency, "partitions_timezone": zone}
    assert clockwork.tick_schedule(datetime.fromisoformat(at)) == ([expected], None)


def test_a_tick_before_the_first_period_says_when_that_begins(clockwork: Clockwork) -> None:
    clockwork.settings = {"partitions_start": "2024-12-24"}
    requested, skipped = clockwork.tick_schedule(datetime(2024, 12, 23, 23, 59, tzinfo=UTC))
    assert requested == []
    assert skipped is not None
    assert "2024-12-24" in skipped


def test_every_kind_of_run_under_way_holds_the_next_back_and_no_run_that_has_ended(clockwork: Clockwork) -> None:
    for status in dg.DagsterRunStatus:
        key = f"2024-12-{list(dg.DagsterRunStatus).index(status) + 1:02}"
        clockwork.begin_run(status, dagster_partition=key)
    held = set()
    for number, status in enumerate(dg.DagsterRunStatus, start=1):
        requested, skipped = clockwork.tick_schedule(datetime(2024, 12, number, 12, tzinfo=UTC))
        if not requested:
            held.add(status.value)
            assert skipped == f"the run for 2024-12-{number:02} is still under way"
    assert held == {"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"}


def test_the_last_run_of_a_closed_period_is_asked_for_until_it_has_begun(clockwork: Clockwork) -> None:
    for key in ("2024-12-20", "2024-12-23", "2024-12-24"):
        clockwork.mark("unfinished", key)
    assert clockwork.tick_schedule(NOON) == (["2024-12-23", "2024-12-24"], None)
    clockwork.begin_run(dg.DagsterRunStatus.QUEUED, dagster_partition="2024-12-23")
    assert clockwork.tick_schedule(NOON) == (["2024-12-24"], None)
    clockwork.begin_run(dg.DagsterRunStatus.QUEUED, dagster_partition="2024-12-24")
    assert clockwork.tick_schedule(NOON) == ([], "the runs for 2024-12-23, 2024-12-24 are still under way")


STARTED, QUEUED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED
EVERY_ASSET = ("luma_tasks", "luma_generations", "luma_videos")
BACKFILL: dict[str, Any] = {"job": "__ASSET_JOB", "assets": EVERY_ASSET}
RUNS = [
    ("a run of the job", {}, True),
    ("a run of a backfill", BACKFILL, True),
    ("a person's run of one asset among others", {"job": "nightly", "assets": ("luma_videos", "report")}, True),
    ("a backfill of another's assets", {"job": "__ASSET_JOB", "assets": ("report",)}, False),
    ("a run of another's job", {"job": "nightly"}, False),
]


@pytest.mark.parametrize(("run", "holds"), [(run, holds) for _, run, holds in RUNS], ids=[name for name, _, _ in RUNS])
@pytest.mark.parametrize("by_range", [True, False])
def test_neither_schedule_nor_sensor_asks_for_a_partition_that_a_run_under_way_works_on(
    clockwork: Clockwork, run: dict[str, Any], holds: bool, by_range: bool
) -> None:
    clockwork.settings = {"give_up_after_hours": 24 * 365}
    for number in (2, 6):
        clockwork.mark("open", days_ago(number))
    tags = {_RANGE[0]: days_ago(3), _RANGE[1]: days_ago(0)} if by_range else {"dagster/partition": days_ago(2)}
    clockwork.begin_run(STARTED, **run, **{name.replace("/", "_", 1): key for name, key in tags.items()})
    rest = [] if holds else [span(2, 2)]
    assert clockwork.tick_sensor() == ([span(6, 6), *rest], None)
    if holds:
        assert clockwork.tick_sensor()[1] == (
            "1 partitions are due, and runs under way work on them; "
            "1 partitions have open tasks or an open period, none is due yet"
        )
    requested, _ = clockwork.tick_schedule(datetime.now(UTC))
    assert requested == ([] if holds and by_range else [days_ago(0)])


def test_a_range_does_not_pass_over_a_partition_that_a_run_under_way_works_on(clockwork: Clockwork) -> None:
    clockwork.settings = {"give_up_after_hours": 24 * 365}
    for number in (15, 13, 12, 10):
        clockwork.mark("open", days_ago(number))
    clockwork.begin_run(STARTED, **BACKFILL, dagster_partition=days_ago(11))
    assert clockwork.tick_sensor()[0] == [span(15, 12), span(10, 10)]


def test_the_sensor_adds_nothing_to_a_queue_in_which_its_last_run_still_waits(clockwork: Clockwork) -> None:
    clockwork.mark("open", days_ago(2))
    clockwork.begin_run(QUEUED, luma_trigger="open_tasks", dagster_partition=days_ago(3))
    requested, skipped = clockwork.tick_sensor()
    assert requested == []
    assert skipped is not None
    assert skipped.endswith("for open tasks is still in the queue")


def test_the_schedule_asks_for_the_periods_that_nobody_has_read_since_the_last_one(clockwork: Clockwork) -> None:
    clockwork.keep_videos("2024-12-21")
    [missed, regular] = clockwork.schedule_requests(NOON)
    assert regular.partition_key == "2024-12-24"
    assert [missed.tags[tag] for tag in _RANGE] == ["2024-12-22", "2024-12-23"]
    assert (missed.tags["luma/trigger"], missed.tags["luma/partitions"]) == ("schedule", "2")
    assert clockwork.marks("unfinished") == {"2024-12-22", "2024-12-23"}


def test_the_sensor_asks_for_the_periods_that_nobody_has_read_since_an_unfinished_one(clockwork: Clockwork) -> None:
    clockwork.mark("unfinished", days_ago(3))
    clockwork.keep_videos(days_ago(1))
    assert clockwork.tick_sensor() == ([span(3, 2)], None)
    assert clockwork.marks("unfinished") == {days_ago(3), days_ago(2)}
    # One that was read is not looked for again at once either.
    assert set(json.loads(clockwork.cursor or "")) == {days_ago(3), days_ago(2), days_ago(1)}


def test_how_long_ago_a_period_closed_is_no_matter_of_the_clock_on_the_wall(clockwork: Clockwork) -> None:
    """The first of these days closed 71.5 hours before the tick, with an hour left out in between."""
    clockwork.settings = {"partitions_timezone": "Europe/Berlin"}
    clockwork.keep_videos("2025-03-28")
    at = datetime(2025, 4, 2, 0, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert clockwork.tick_schedule(at) == ([None, "2025-04-02"], None)
    assert clockwork.marks("unfinished") == {"2025-03-29", "2025-03-30", "2025-03-31", "2025-04-01"}


def test_on_the_first_deployment_nothing_is_asked_for_but_the_open_period(clockwork: Clockwork) -> None:
    for number in range(3):
        at = NOON + timedelta(minutes=10 * number)
        assert clockwork.tick_schedule(at) == (["2024-12-24"], None)
        assert clockwork.tick_sensor() == ([], "no open tasks")
    assert clockwork.marks("unfinished") == set()


@pytest.mark.parametrize("running", [True, False])
def test_schedule_and_sensor_are_on_unless_they_are_switched_off(clockwork: Clockwork, running: bool) -> None:
    clockwork.settings = {
        "schedule_enabled": running,
        "schedule_cron": "5 * * * *",
        "partitions_timezone": "Asia/Tokyo",
    }
    schedule = clockwork.repository().get_schedule_def(UNNAMED.schedule_name)
    sensor = clockwork.repository().get_sensor_def(UNNAMED.sensor_name)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 * * * *", "Asia/Tokyo")
    assert {schedule.default_status.value, sensor.default_status.value} == {"RUNNING" if running else "STOPPED"}


def test_a_partition_that_is_open_and_unfinished_counts_once(clockwork: Clockwork) -> None:
    clockwork.mark("open", days_ago(2), age=timedelta(minutes=1))
    clockwork.mark("unfinished", days_ago(2), age=timedelta(minutes=1))
    clockwork.mark("open", days_ago(0))
    clockwork.keep_videos(days_ago(1))
    assert clockwork.tick_sensor() == ([], "2 partitions have open tasks or an open period, none is due yet")


def test_due_partitions_go_into_few_runs_and_are_not_asked_for_twice_at_once(clockwork: Clockwork) -> None:
    clockwork.settings = {"give_up_after_hours": 24 * 365}
    marked = (50, 49, 48, 45, 40, 39, 20)
    for number in marked:
        clockwork.mark("open", days_ago(number))
    clockwork.mark("unfinished", days_ago(30))
    clockwork.keep_videos(*(days_ago(number) for number in range(1, 30)))
    assert clockwork.tick_sensor() == ([span(50, 45), span(40, 39), span(30, 30), span(20, 20)], None)
    assert clockwork.tick_sensor() == ([], "8 partitions have open tasks or an open period, none is due yet")
    assert set(json.loads(clockwork.cursor or "")) >= {days_ago(number) for number in (*marked, 30)}


def test_a_range_is_no_longer_than_a_run_may_be(clockwork: Clockwork) -> None:
    clockwork.settings = {"give_up_after_hours": 24 * 365, "partitions_per_run": 4}
    for number in range(20, 10, -1):
        clockwork.mark("open", days_ago(number))
    assert clockwork.tick_sensor()[0] == [span(20, 17), span(16, 13), span(12, 11)]


def test_a_period_never_read_to_its_end_is_read_once_more_however_old_it_is(clockwork: Clockwork) -> None:
    """What was submitted after its last reading is in no other partition; open tasks are given up in time."""
    clockwork.mark("open", days_ago(10))
    clockwork.mark("unfinished", days_ago(20))
    clockwork.keep_videos(*(days_ago(number) for number in range(1, 20)))
    assert clockwork.tick_sensor() == ([span(20, 20)], None)
    assert clockwork.marks("open") == set()
    assert clockwork.marks("unfinished") == {days_ago(20)}


def test_marks_of_another_setting_of_the_partitions_are_left_alone(clockwork: Clockwork) -> None:
    for mark in ("2019-01-01", "2024-12-24-18:00", "no partition at all"):
        clockwork.mark("open", mark)
    assert clockwork.tick_sensor() == ([], "no open tasks")
    assert len(clockwork.marks("open")) == 3


def test_the_hour_that_comes_twice_is_asked_for_again_as_two(clockwork: Clockwork) -> None:
    clockwork.settings = {"partitions": "hourly", "partitions_timezone": "Europe/Berlin", "give_up_after_hours": 10**6}
    clockwork.mark("open", "2024-10-27-02:00+0100")
    assert clockwork.tick_sensor() == ([("2024-10-27-02:00+0100", "2024-10-27-02:00+0100")], None)
    for key in ("2024-10-27-01:00", "2024-10-27-02:00", "2024-10-27-03:00"):
        clockwork.mark("open", key)
    clockwork.cursor = None
    assert clockwork.tick_sensor() == ([("2024-10-27-01:00", "2024-10-27-03:00")], None)


def _listing(keys: list[str]) -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        "<Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>lake</Name><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
        f"{entries}</ListBucketResult>"
    ).encode()


def test_a_tick_over_a_thousand_open_partitions_is_one_listing_for_each_set_of_marks(
    clockwork: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=number) for number in range(1000)]
    keys = [f"luma/_open/{quote(f'{hour:%Y-%m-%d-%H:%M}', safe='')}" for hour in hours]
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        asked.append(f"{request.method} {request.path}?{request.query}")
        found = keys if "_open" in request.query else []
        return Answer(200, {"Content-Type": "application/xml"}, _listing(found))

    with HttpServer(answer) as server:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": server.base_url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        clockwork.root = "s3://lake/luma"
        clockwork.settings = {"partitions": "hourly", "give_up_after_hours": 10**6, "partitions_per_run": 500}
        requested, _ = clockwork.tick_sensor()
    assert requested == [
        ("2025-01-01-00:00", f"{hours[499]:%Y-%m-%d-%H:%M}"),
        (f"{hours[500]:%Y-%m-%d-%H:%M}", f"{hours[999]:%Y-%m-%d-%H:%M}"),
    ]
    listings = [line for line in asked if "list-type=2" in line]
    assert sorted("_open" in line for line in listings) == [False, True], asked
    assert len(asked) <= 4, asked
