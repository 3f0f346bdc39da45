"""Terminate, SIGTERM and SIGINT in a real Dagster: the run is CANCELED in seconds, and what was done stays done."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from luma_pipeline.sandbox.cdn import ArtifactUrls
from luma_pipeline.sandbox.provider import Generation
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.e2e.conftest import AS_THE_DOCS_ADVISE, ASSETS, Plant
from tests.e2e.dagster_deployment import DagsterDeployment
from tests.e2e.graphql import Run
from tests.stalling import StallingProxy
from tests.world import running_world

pytestmark = pytest.mark.timeout(420)

QUIET_SECONDS = 5.0
STALLED_SECONDS = 15.0


@dataclass
class StallingPlant(Plant):
    """A plant behind proxies that can stall."""

    provider: StallingProxy | None = None
    cdn: StallingProxy | None = None
    store: StallingProxy | None = None

    def begin(self, days: list[str], tasks: int) -> str:
        """Begin one run over the days, the videos of which come through the proxy; returns its ID."""
        assert self.cdn is not None
        self.submit(days, tasks, known=False)
        for task_id in (f"{day}-{number}" for day in days for number in range(tasks)):
            video = self.world.cdn.publish(task_id).video.replace(self.world.cdn.base_url, self.cdn.url)
            self.world.provider.add(Generation(task_id, urls=ArtifactUrls(video, video, video, video)))
        return self.client.launch_run(ASSETS, partition_range=(days[0], days[-1]))

    def wait_for_partitions(self, count: int) -> list[str]:
        """The days whose partitions have been materialized, when there are so many."""
        written = self.world.directory / "data" / "luma_videos"

        def done() -> list[str]:
            return [path.parent.name.removeprefix("date=") for path in written.glob("*/part-0.parquet")]

        return self.dagster.wait_until(done, lambda days: len(days) >= count)

    def wait_for_status(self, run_id: str, status: str) -> Run:
        return self.dagster.wait_until(lambda: self.client.run(run_id), lambda run: run.status == status)

    def ended(self, run_id: str) -> tuple[str, float]:
        """How the run ended, and after how many seconds from now."""
        began = time.monotonic()
        run = self.dagster.wait_for_run(run_id)
        return run.status, time.monotonic() - began

    def well(self) -> None:
        """Let nothing stall any more."""
        for proxy in (self.provider, self.cdn, self.store):
            assert proxy is not None
            proxy.stalled.clear()
        self.world.provider.latency_seconds = 0.0


@pytest.fixture(scope="module")
def stalling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StallingPlant]:
    directory = tmp_path_factory.mktemp("stalling")
    with ExitStack() as stack:
        store = stack.enter_context(ObjectStore(directory / "s3"))
        world = stack.enter_context(running_world(directory, store, "videos"))
        servers = (world.provider.base_url, world.cdn.base_url, store.endpoint_url)
        proxies = [stack.enter_context(StallingProxy(url)) for url in servers]
        environment = world.environment(
            LUMA_SCHEDULE_ENABLED="false", LUMA_RETRY_DELAY_SECONDS="30", LUMA_BASE_URL=proxies[0].url
        )
        environment["AWS_ENDPOINT_URL_S3"] = proxies[2].url
        dagster = DagsterDeployment(directory, env=environment, instance=AS_THE_DOCS_ADVISE)
        yield StallingPlant(world, stack.enter_context(dagster), provider=proxies[0], cdn=proxies[1], store=proxies[2])


@pytest.fixture
def plant(stalling: StallingPlant) -> Iterator[StallingPlant]:
    yield stalling
    stalling.well()


def slow(plant: StallingPlant) -> None:
    plant.world.provider.latency_seconds = 1.0


def stall(name: str) -> Callable[[StallingPlant], None]:
    return lambda plant: getattr(plant, name).stalled.set()


def terminate(plant: StallingPlant, run_id: str) -> None:
    plant.client.terminate(run_id)


def signals(number: signal.Signals, times: int = 1) -> Callable[[StallingPlant, str], None]:
    def send(plant: StallingPlant, run_id: str) -> None:
        for _ in range(times):
            os.kill(plant.client.process_ids(run_id)[0], number)
            time.sleep(0.5)

    return send


# The others wait for the same: tests/engine has each server that stalls in a process of its own.
SLOW = {"Terminate, provider stalls", "Terminate, media host stalls", "SIGINT, quiet"}
CASES = [
    ("Terminate, quiet", slow, terminate, QUIET_SECONDS),
    ("Terminate, provider stalls", stall("provider"), terminate, STALLED_SECONDS),
    ("Terminate, media host stalls", stall("cdn"), terminate, STALLED_SECONDS),
    ("Terminate, store stalls", stall("store"), terminate, STALLED_SECONDS),
    ("SIGTERM, quiet", slow, signals(signal.SIGTERM), QUIET_SECONDS),
    ("SIGINT, quiet", slow, signals(signal.SIGINT), QUIET_SECONDS),
    ("SIGTERM twice, provider stalls", stall("provider"), signals(signal.SIGTERM, 2), STALLED_SECONDS),
]


@pytest.mark.parametrize(
    ("name", "spoil", "stop", "bound"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.deployment] * (case[0] in SLOW)) for case in CASES],
)
def test_a_run_is_canceled_in_seconds_and_keeps_what_it_did(
    plant: StallingPlant,
    name: str,
    spoil: Callable[[StallingPlant], None],
    stop: Callable[[StallingPlant, str], None],
    bound: float,
    record_property: Callable[[str, object], None],
) -> None:
    days = plant.days(12)
    before = len(plant.wait_for_partitions(0))
    # Eight partitions are worked on at once; so some are done while others are not begun.
    plant.world.provider.latency_seconds = 0.3
    run_id = plant.begin(days, 12)
    plant.wait_for_partitions(before + 2)
    spoil(plant)
    time.sleep(1.0)
    processes = plant.client.process_ids(run_id)
    stop(plant, run_id)
    status, seconds = plant.ended(run_id)
    record_property(name, round(seconds, 1))
    assert status == "CANCELED"
    assert seconds < bound
    plant.dagster.wait_until(lambda: [pid for pid in processes if is_alive(pid)], lambda left: not left, timeout=20)
    plant.well()
    assert plant.world.store.client().list_multipart_uploads(Bucket="videos").get("Uploads", []) == []
    done = [day for day, event in plant.client.latest_materializations("luma_videos", days).items() if event]
    assert 2 <= len(done) < len(days)
    plant.asked()
    again = plant.client.launch_run(ASSETS, partition_range=(days[0], days[-1]))
    assert plant.dagster.wait_for_run(again).status == "SUCCESS"
    assert not {task_id for task_id in plant.asked() if task_id[:10] in done}
    assert {f"{day}-{number}/video.mp4" for day in days for number in range(12)} <= plant.world.object_keys()


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_terminate_while_the_step_waits_for_its_second_try(plant: StallingPlant) -> None:
    run_id = plant.begin(plant.days(2), 2)
    with closing(sqlite3.connect(plant.world.directory / "source.db", isolation_level=None)) as locking:
        locking.execute("BEGIN EXCLUSIVE")
        told = "the step is tried once more in 30 s"
        plant.dagster.wait_until(
            lambda: plant.client.run_events(run_id), lambda events: any(told in event.message for event in events)
        )
        plant.client.terminate(run_id)
        status, seconds = plant.ended(run_id)
    assert (status, seconds < QUIET_SECONDS) == ("CANCELED", True)


@pytest.mark.parametrize("when", [["QUEUED"], ["STARTING"], ["STARTED"]])
def test_terminate_before_the_step_begins(plant: StallingPlant, when: list[str]) -> None:
    plant.world.provider.latency_seconds = 30.0
    run_id = plant.begin(plant.days(2), 2)
    later = ["STARTED", "SUCCESS", "FAILURE"]
    plant.dagster.wait_until(lambda: plant.client.run(run_id), lambda run: run.status in when + later)

    def terminated() -> str:
        plant.client.terminate(run_id)
        return plant.client.run(run_id).status

    # While a run's process starts, Dagster may refuse: the button is pressed again.
    plant.dagster.wait_until(terminated, lambda status: status in {"CANCELING", "CANCELED"})
    status, seconds = plant.ended(run_id)
    # The interpreter and the definitions are loaded first.
    assert (status, seconds < STALLED_SECONDS) == ("CANCELED", True)


def test_a_cancelled_backfill_keeps_what_it_did_and_leaves_the_rest_missing(
    plant: StallingPlant,
) -> None:
    days = plant.days(60)
    plant.submit(days, 1)
    plant.world.provider.latency_seconds = 2.0
    before = len(plant.wait_for_partitions(0))
    backfill_id = plant.client.launch_backfill(ASSETS, days)
    plant.wait_for_partitions(before + 10)
    plant.client.cancel_backfill(backfill_id)
    began = time.monotonic()
    backfill = plant.dagster.wait_for_backfill(backfill_id)
    seconds = time.monotonic() - began
    assert backfill.status == "CANCELED"
    assert {run.status for run in backfill.runs} == {"CANCELED"}
    assert seconds < STALLED_SECONDS  # the daemon looks for cancelled backfills once a second here
    done = plant.client.latest_materializations("luma_videos", days).keys()
    assert 10 <= len(done) < len(days)
    statuses = plant.client.partition_statuses("luma_videos")
    assert {statuses[day] for day in done} == {"MATERIALIZED"}
    begun = {statuses[day] for day in days[:50] if day not in done}
    never_begun = {statuses[day] for day in days[50:]}
    assert (begun, never_begun) == ({"MISSING"}, {"MISSING"})
    # Dagster's count on the backfill's page knows no third kind.
    progress = backfill.assets["luma_videos"]
    assert (progress.materialized, progress.failed) == (len(done), len(days) - len(done))
