"""A backfill of 365 days with 20 tasks each: many partitions in a run, one run a partition, and no Dagster.

Usage: python -m benchmarks.backfill [--days N] [--singly N]. Dagster's own webserver, daemon and run processes do the
work, over the sandbox's provider, CDN and store. Prints a table and writes it to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from benchmarks.results import write_section
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.e2e.dagster_deployment import DagsterDeployment
from tests.world import World, running_world

_FIRST = date(2025, 1, 1)
_ASSETS = ("luma_tasks", "luma_generations", "luma_videos")
_POLL_SECONDS = 2.0
_OVERLAPPED = 60
_LATENCY_SECONDS = 0.2
_DAEMON_SECONDS = 30.0
"""Dagster's own pause between two looks at the backfills under way."""


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and seconds of CPU, and the runs that were launched."""

    seconds: float
    cpu_seconds: float
    runs: int = 0


def days(count: int) -> list[str]:
    """The keys of so many partitions."""
    return [(_FIRST + timedelta(days=number)).isoformat() for number in range(count)]


@contextmanager
def world(count: int, tasks: int) -> Iterator[World]:
    """New servers with an empty bucket and nothing done yet."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ObjectStore(Path(directory) / "s3") as store,
        running_world(Path(directory), store, "videos") as made,
    ):
        made.submit(
            *((f"{day}-{number}", f"{day} {number:02}:00:00") for day in days(count) for number in range(tasks))
        )
        yield made


def backfill(count: int, tasks: int, partitions_per_run: int) -> Cost:
    """Through the daemon, as from the UI."""
    with world(count, tasks) as made:
        settings = {"LUMA_PARTITIONS_PER_RUN": str(partitions_per_run), "LUMA_SCHEDULE_ENABLED": "false"}
        with DagsterDeployment(
            made.directory, env=made.environment(**settings), daemon_interval=_DAEMON_SECONDS
        ) as dagster:
            time.sleep(5)  # what the processes still do after their start is not the backfill's
            cpu = _cpu_of_dagster(dagster)
            backfill_id = dagster.client.launch_backfill(_ASSETS, days(count))
            found = dagster.client.backfill(backfill_id)
            while not found.runs or not all(run.is_finished for run in found.runs):
                time.sleep(_POLL_SECONDS)
                found = dagster.client.backfill(backfill_id)
            cpu = _cpu_of_dagster(dagster) - cpu
        assert {run.status for run in found.runs} == {"SUCCESS"}, found
        # Until the daemon looks for new backfills there is nothing but waiting.
        ended = max(run.ended_at or 0.0 for run in found.runs)
        cost = Cost(ended - min(run.created_at for run in found.runs), cpu, len(found.runs))
        assert len(made.object_keys()) == count * tasks
        return cost


def pure_work(count: int, tasks: int, *, latency_seconds: float = 0.0, apart: bool = False) -> tuple[Cost, float]:
    """The same partitions in one process, without Dagster's runs and events.

    Also the age of links: seconds from a task's answer to its video's copy, of which 95 % are no older. `apart` copies
    after all tasks have been asked for, as two steps would.
    """
    with world(count, tasks) as made:
        made.provider.latency_seconds = latency_seconds
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.backfill", "--work", str(count)]
        command += ["--apart"] if apart else []
        done = subprocess.run(command, env=os.environ | made.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        assert len(made.object_keys()) == count * tasks
        polled = {row["task_id"]: row["polled_at"] for row in made.rows("luma_generations")}
        ages = [(row["copied_at"] - polled[row["task_id"]]).total_seconds() for row in made.rows("luma_videos")]
        return Cost(**json.loads(done.stdout.strip().splitlines()[-1])), statistics.quantiles(ages, n=20)[-1]


def work_here(count: int, *, apart: bool) -> None:
    """In a process of its own: do the work and print what it cost."""
    from luma_pipeline.dataset import Dataset
    from luma_pipeline.engine.generations import ResolvePolicy
    from luma_pipeline.engine.partition import Partition, PartitionWork
    from luma_pipeline.engine.policy import GiveUpPolicy
    from luma_pipeline.engine.videos import ManifestPolicy
    from luma_pipeline.luma import LumaClient, ProviderConfig
    from luma_pipeline.media import Artifact, LinkSource
    from luma_pipeline.orchestration.resources.bucket import VideoBucket
    from luma_pipeline.source.table import SourceTable

    now = datetime.now(UTC)
    give_up = GiveUpPolicy(1e9, now)
    variable = os.environ
    bucket = VideoBucket(bucket=variable["LUMA_S3_BUCKET"], allow_private_media=True)
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with (
        LumaClient(ProviderConfig(token=variable["LUMA_API_TOKEN"], base_url=variable["LUMA_BASE_URL"])) as client,
        bucket.copier(lambda *_: None) as copier,
    ):
        work = PartitionWork(
            Dataset(url=variable["LUMA_DATA_URL"]),
            SourceTable(url=variable["LUMA_SOURCE_URL"], table=variable["LUMA_SOURCE_TABLE"]),
            client,
            copier,
            ResolvePolicy(give_up, 0.0),
            ManifestPolicy((Artifact.VIDEO,), (LinkSource.DOWNLOAD_URL, LinkSource.URL), give_up),
            Dataset(url=variable["LUMA_DATA_URL"]).tombstones(),
        )
        windows = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days(count)]
        partitions = [
            Partition(f"{start:%Y-%m-%d}", f"date={start:%Y-%m-%d}", start, start + timedelta(days=1))
            for start in windows
        ]
        steps = [replace(work, copier=None), replace(work, source=None, client=None)] if apart else [work]
        with ThreadPoolExecutor(8) as pool:
            for step in steps:
                list(pool.map(step.do, partitions))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": cpu}))


def _cpu_of_dagster(dagster: DagsterDeployment) -> float:
    """Seconds of CPU of all of the deployment's processes, ended children included."""
    group = str(dagster.process_group_id)
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[2] == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--singly", type=int, default=24, help="partitions of the measurement with one run for each")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work_here(arguments.work, apart=arguments.apart)
        return
    count, tasks, singly = arguments.days, arguments.tasks, arguments.singly
    one_run = backfill(1, 1, 1)
    print("a run of one partition with one task:", one_run, flush=True)
    pure, _ = pure_work(count, tasks)
    print("the work alone:", pure, flush=True)
    found = {}
    third = -(-count // 3)
    for name, per_run in (
        (f"{count} partitions in a run", count),
        (f"{third} partitions in a run", third),
        ("50 partitions in a run (the default)", 50),
    ):
        found[name] = backfill(count, tasks, per_run)
        print(name, found[name], flush=True)
    few = backfill(singly, tasks, 1)
    print("one run a partition:", few, flush=True)
    name = f"one run a partition ({singly} of them measured, times {count / singly:.1f})"
    found[name] = Cost(few.seconds * count / singly, few.cpu_seconds * count / singly, count)

    def row(name: str, cost: Cost) -> str:
        above = (cost.seconds - pure.seconds) / one_run.seconds
        above_cpu = (cost.cpu_seconds - pure.cpu_seconds) / one_run.cpu_seconds
        return f"| {name} | {cost.runs} | {cost.seconds:.0f} | {cost.cpu_seconds:.0f} | {above:.1f} | {above_cpu:.1f} |"

    lines = [
        f"{os.cpu_count()} cores, Python {platform.python_version()}, Dagster {version('dagster')} on SQLite. "
        f"{count} daily partitions with {tasks} tasks each, every task's video copied; provider, CDN and store on the "
        "same cores.",
        "",
        f"A run of one partition with one task, from its launch to its end: {one_run.seconds:.1f} s, "
        f"{one_run.cpu_seconds:.1f} s CPU. The last two columns count what is above the work alone in such runs.",
        "",
        "| | runs | s | s CPU | runs above, by the clock | by CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        f"| the work alone, no Dagster | 0 | {pure.seconds:.0f} | {pure.cpu_seconds:.0f} | 0 | 0 |",
        *(row(name, cost) for name, cost in found.items()),
        "",
        f"Asking and copying as one step, and as two, without Dagster: {_OVERLAPPED} partitions with {tasks} tasks, "
        f"the provider answers after {_LATENCY_SECONDS * 1000:.0f} ms. A link's age is the time from its answer to its "
        "copy.",
        "",
        "| | s | age of links, 95 % are below, s |",
        "| --- | ---: | ---: |",
        *(
            f"| {name} | {cost.seconds:.1f} | {age:.1f} |"
            for name, apart in (("one step", False), ("two steps", True))
            for cost, age in [pure_work(_OVERLAPPED, tasks, latency_seconds=_LATENCY_SECONDS, apart=apart)]
        ),
    ]
    write_section("backfill", "A backfill", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
