"""Ctrl-C ends a run within seconds, whatever stalls, and costs nothing that was done."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import FrameType

import psycopg
import pytest
import sqlalchemy as sa

from luma_pipeline.engine.partition import Partition, PartitionReport
from luma_pipeline.engine.run import PipelineRun
from luma_pipeline.engine.settings import EngineSettings, Policies
from luma_pipeline.luma import ProviderConfig
from luma_pipeline.media import TransferConfig
from luma_pipeline.sandbox.cdn import ArtifactUrls
from luma_pipeline.sandbox.provider import TOKEN, Generation
from luma_pipeline.source.table import SourceTable
from tests.stalling import StallingProxy
from tests.world import World

DAY = datetime(2024, 12, 24, tzinfo=UTC)
TASKS = 40
QUIET_SECONDS = 5.0
STALLED_SECONDS = 14.0


@dataclass
class Plant:
    """A world behind proxies that can stall."""

    world: World
    provider: StallingProxy
    cdn: StallingProxy
    store: StallingProxy

    def settings(self) -> EngineSettings:
        return EngineSettings(
            SourceTable(url=self.world.source_url, table="generations"),
            ProviderConfig(token=TOKEN, base_url=self.provider.url),
            TransferConfig(bucket=self.world.bucket, allow_private_addresses=True),
            str(self.world.directory / "data"),
            Policies(give_up_after_seconds=1e9),
        )

    def submit(self, day: datetime, count: int) -> list[str]:
        ids = [f"{day:%m-%d}-{number}" for number in range(count)]
        self.world.submit(*((task_id, f"{day:%Y-%m-%d}T01:00:00Z") for task_id in ids), known=False)
        for task_id in ids:
            video = self.world.cdn.publish(task_id).video.replace(self.world.cdn.base_url, self.cdn.url)
            self.world.provider.add(Generation(task_id, urls=ArtifactUrls(video, video, video, video)))
        return ids


@pytest.fixture
def plant(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    with ExitStack() as stack:
        servers = (world.provider.base_url, world.cdn.base_url, world.store.endpoint_url)
        proxies = [stack.enter_context(StallingProxy(url)) for url in servers]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxies[2].url)
        yield Plant(world, *proxies)


def day_after(days: int) -> Partition:
    start = DAY + timedelta(days=days)
    return Partition.of(start, start + timedelta(days=1))


@contextmanager
def interrupted_when(is_time: Callable[[], bool], *, times: int = 1, pause: float = 0.3) -> Iterator[list[float]]:
    """Ctrl-C in this thread as soon as `is_time`, so many times; the block must raise KeyboardInterrupt.

    Yields a list that has the seconds from the first Ctrl-C to the end of the block.
    """
    at: list[float] = []
    seconds: list[float] = []

    def handler(number: int, frame: FrameType | None) -> None:
        at.append(time.monotonic())
        if not seconds:
            raise KeyboardInterrupt

    def watch() -> None:
        while not is_time():
            time.sleep(0.02)
        for _ in range(times):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(pause)

    before = signal.signal(signal.SIGUSR1, handler)
    threading.Thread(target=watch, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield seconds
        seconds.append(time.monotonic() - at[0])
    finally:
        while len(at) < times:
            time.sleep(0.02)
        signal.signal(signal.SIGUSR1, before)


def nothing(plant: Plant) -> None:
    """Nothing stalls, but there is much to do."""
    plant.world.provider.latency_seconds = 1.0


STALLS: dict[str, tuple[Callable[[Plant], None], float]] = {
    "nothing": (nothing, QUIET_SECONDS),
    "provider": (lambda plant: plant.provider.stalled.set(), QUIET_SECONDS),
    "media host": (lambda plant: plant.cdn.stalled.set(), QUIET_SECONDS),
    "store": (lambda plant: plant.store.stalled.set(), STALLED_SECONDS),
}


@pytest.mark.parametrize("what", STALLS)
@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_ends_a_run_in_seconds_and_what_was_done_stays(plant: Plant, what: str, interrupts: int) -> None:
    stall, bound = STALLS[what]
    done = plant.submit(DAY, 3)
    ids = plant.submit(DAY + timedelta(days=1), TASKS)
    reports: list[PartitionReport] = []

    def keep(report: PartitionReport) -> None:
        reports.append(report)
        stall(plant)
        stalled_at.append(time.monotonic())

    stalled_at: list[float] = []
    asked = plant.world.provider
    with (
        interrupted_when(
            lambda: bool(stalled_at) and time.monotonic() > stalled_at[0] + 1.5, times=interrupts
        ) as seconds,
        PipelineRun(plant.settings()) as run,
    ):
        run.do([day_after(0)], keep)
        run.do([day_after(1)], keep)
    assert seconds[0] < bound
    assert [report.partition for report in reports][:1] == [day_after(0)]
    for proxy in (plant.provider, plant.cdn, plant.store):
        proxy.stalled.clear()
    plant.world.provider.latency_seconds = 0
    uploads = plant.world.store.client().list_multipart_uploads(Bucket=plant.world.bucket)
    assert uploads.get("Uploads", []) == []
    answered = {task_id for request in asked.requests for task_id in request.task_ids}
    plant.world.provider.clear_log()
    with PipelineRun(plant.settings()) as run:
        assert run.do([day_after(0), day_after(1)], reports.append) == {}
    again = [task_id for request in plant.world.provider.requests for task_id in request.task_ids]
    assert not set(again) & set(done)
    if what != "provider":  # its requests were counted and then not answered
        assert len(set(again) & answered) <= 16  # those under way
    assert {row["state"] for row in plant.world.rows("luma_generations")} == {"completed"}
    assert len(plant.world.object_keys()) == len(done) + len(ids)


def test_an_interrupt_ends_the_opening_while_the_store_stalls(plant: Plant) -> None:
    plant.submit(DAY, 3)
    plant.store.stalled.set()
    began = time.monotonic()
    with (
        interrupted_when(lambda: time.monotonic() > began + 1) as seconds,
        PipelineRun(plant.settings()) as run,
    ):
        run.do([day_after(0)], lambda report: None)
    assert seconds[0] < STALLED_SECONDS


def test_an_interrupt_ends_what_waits_for_a_data_root_that_stalls(plant: Plant) -> None:
    plant.submit(DAY, 3)
    plant.submit(DAY + timedelta(days=1), TASKS)
    settings = replace(plant.settings(), data_url=f"s3://{plant.world.bucket}/data")
    stalled_at: list[float] = []

    def stall(report: PartitionReport) -> None:
        plant.store.stalled.set()
        stalled_at.append(time.monotonic())

    with (
        interrupted_when(lambda: bool(stalled_at) and time.monotonic() > stalled_at[0] + 1.5) as seconds,
        PipelineRun(settings) as run,
    ):
        run.do([day_after(0)], stall)
        run.do([day_after(1)], stall)
    assert seconds[0] < STALLED_SECONDS
    time.sleep(1)
    # Threads that are left behind would go on with a run that is over.
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("luma-", "s3-", "media-"))]


def test_an_interrupt_cancels_the_statement_that_waits_in_the_database(plant: Plant, postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE generations (task_id text, submitted_at timestamptz)")
    settings = replace(plant.settings(), source=SourceTable(url=postgres_url, table="generations"))
    with engine.connect() as locking:
        with interrupted_when(lambda: waits_for_a_lock(postgres_url)) as seconds, PipelineRun(settings) as run:
            locking.exec_driver_sql("LOCK TABLE generations IN ACCESS EXCLUSIVE MODE")
            run.do([day_after(0)], lambda report: None)
        assert seconds[0] < QUIET_SECONDS
        assert not waits_for_a_lock(postgres_url)
    engine.dispose()


def waits_for_a_lock(url: str) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(waiting).fetchone()
    return row is not None and row[0] > 0
