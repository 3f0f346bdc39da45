"""A process that forgets is killed at chosen requests to the store; the next one finishes what it has begun."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from luma_pipeline.dataset import Dataset, digest_of
from tests.forget.forgetting import DATASETS, DAY, keep_versions, submit, traces
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.world import World

MOMENTS = {
    "before the tombstone": ("PUT", "/_tombstones/", False),
    "after the tombstone": ("PUT", "/_tombstones/", True),
    "after the journal": ("PUT", "/_forgotten/", True),
    "before the objects": ("POST", "^/videos[^/]*$", False),
    "after the objects": ("POST", "^/videos[^/]*$", True),
    "after a page": ("PUT", "/_gallery/.*index.html", True),
    "after the tasks": ("PUT", "/luma_tasks/", True),
    "before the generations": ("PUT", "/luma_generations/", False),
    "after the manifest": ("PUT", "/luma_videos/", True),
    "after the record": ("PUT", "/luma_forgotten/", True),
    "after the journal's end": ("DELETE", "/_forgotten/", True),
}


@dataclass
class Killer:
    """Kills a process at the first request of a kind, before or after the store has done it."""

    moment: tuple[str, str, bool] | None = None
    pid: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)

    def __call__(self, request: StoreRequest, _: int) -> Fault | None:
        if self.moment is None:
            return None
        method, path, afterwards = self.moment
        if request.method != method or not re.search(path, request.path):
            return None
        self.moment = None
        os.kill(self.pid.get(timeout=10), signal.SIGKILL)
        return Fault(status=0, afterwards=afterwards)


@contextmanager
def forgetting(world: World, data_url: str, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.forget.one_forgetting", data_url, world.bucket]
    environment = {**os.environ, **world.store.environment(), "AWS_ENDPOINT_URL_S3": endpoint}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


FEW = ["after the tombstone", "after the objects", "before the generations", "after the record"]


@pytest.mark.parametrize(
    "moments", [FEW, pytest.param(list(MOMENTS), marks=pytest.mark.deployment)], ids=["few", "all"]
)
def test_a_forgetting_killed_at_any_moment_is_finished_by_the_next(world: World, moments: list[str]) -> None:
    lake = f"{world.bucket}-lake"
    world.store.create_bucket(lake)
    for bucket in (world.bucket, lake):
        keep_versions(world, bucket)
    data_url = f"s3://{lake}/data"
    world.settings |= {"data_url": data_url, "gallery_enabled": True}
    ids = {moment: f"gone-{number:02}" for number, moment in enumerate(moments)}
    submit(world, "kept", *ids.values())
    assert world.run(DAY).success
    assert world.run(DAY, config={"overwrite": True}).success
    dataset, killer = Dataset(url=data_url), Killer()
    port = int(world.store.endpoint_url.rpartition(":")[2])
    with FaultyStore(port, killer) as proxy, forgetting(world, data_url, proxy.endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for moment, task_id in ids.items():
            killer.moment = MOMENTS[moment]
            statuses = []
            for _ in range(2):
                process.stdin.write(f"{task_id}\n")
                process.stdin.flush()
                pid = int(process.stdout.readline())
                if killer.moment is not None:
                    killer.pid.put(pid)
                statuses.append(int(process.stdout.readline()))
                if moment == "after the objects" and len(statuses) == 1:
                    assert world.run(DAY, config={"refresh": True}).success
            assert statuses == [-signal.SIGKILL, 0], moment
            rows = dataset.partition("luma_forgotten", sorted(dataset.folders("luma_forgotten"))[-1]).read().to_pylist()
            (row,) = [row for row in rows if row["id_sha256"] == digest_of(task_id).hex()]
            counts = [row[name] for name in ("objects", "versions", "task_rows", "generation_rows", "video_rows")]
            assert (counts, row["is_complete"]) == ([1, 2, 1, 1, 1], True), moment
    assert traces(world, "gone-", lake) == []
    for name in DATASETS:
        assert dataset.partition(name, f"date={DAY}").read(["task_id"])["task_id"].to_pylist() == ["kept"]
    assert dataset.folders("_forgotten") == set()
