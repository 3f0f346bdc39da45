"""How long so many tasks take and what that costs: a simulation of runs side by side, out of measured figures.

    python -m benchmarks.scaling            prints the table of docs/scaling.md, at once
    python -m benchmarks.scaling --measure  copies in one run and in two, from a host that gives each connection little

A run goes as fast as the slowest of its stages lets it. What runs share, the provider's limit and the machine's
network, is divided among those that are at work. Runs that have no place wait, as in Dagster's queue.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from luma_pipeline.engine.settings import EngineSettings

TASK_CPU_SECONDS = 0.27e-3
"""CPU for one task's answer. RESULTS.md, "Asking for tasks": ours, CPU ms a task."""
OBJECT_CPU_SECONDS_A_MB = 1.79e-3
"""CPU for one MB that is copied. RESULTS.md, "Copying": ours, 200 x 6 MB, 8 at once."""
RUN_SECONDS = 3.5
"""From a run's launch to its end, beside its work. RESULTS.md, "A backfill": a run of one partition with one task."""
PARTITION_SECONDS = 0.12
"""Six events of Dagster, 20 ms each. ARCHITECTURE.md, "A partition of a backfill costs six events"."""
LIMIT_USED = 0.97
"""Share of the provider's limit that runs use together. RESULTS.md, "One limit, shared through PostgreSQL"."""
THREADS = 16
"""Requests under way in a run: the default of `provider.max_concurrency`."""
COPY_WORKERS = 8
"""Artifacts fetched at once by a run: the default of `videos.copy_workers`."""

VIDEO_MB = 6.0
NETWORK_MB_A_SECOND = 300.0
"""Of one machine: half of 5 Gbit/s, since what is fetched is written too."""
DOLLARS_A_HOUR = 0.04048 + 2 * 0.004445
"""One CPU and 2 GB for a run. AWS Fargate, us-east-1, Linux on x86: $ a vCPU and hour, $ a GB and hour (2025)."""
DOLLARS_A_PUT = 0.005 / 1000
"""S3 Standard, us-east-1 (2025): $ for a thousand PUT requests. A video of 6 MB is one."""

_KNOBS: Mapping[str, str] = {
    "provider's limit": "a higher limit at the provider, `provider.batch_size`",
    "latency": "`provider.max_concurrency`, more runs",
    "media connections": "`videos.copy_workers`, more runs",
    "network": "runs on more machines",
    "CPU": "more runs, on more cores",
    "Dagster's events": "longer partitions (`partitions.frequency`), more runs",
    "start of runs": "`partitions.per_run`",
}


@dataclass(frozen=True)
class Load:
    """What is to be done, and with what.

    limit: Requests a second that the provider allows; None: as many as come.
    latency: Seconds until the provider answers.
    connection: MB a second that the media host gives each connection.
    at_once: Runs at work at a time, each with a CPU; `machines` have them in equal parts.
    """

    tasks: int
    partitions: int
    limit: float | None
    latency: float
    connection: float
    at_once: int = 1
    per_run: int = 50
    machines: int = 1

    @property
    def runs(self) -> int:
        """Runs of the backfill."""
        return -(-self.partitions // self.per_run)


@dataclass(frozen=True)
class Forecast:
    """Seconds for all, dollars without those of storage, and the stage that took most of the time."""

    seconds: float
    dollars: float
    bottleneck: str


def speeds(load: Load, active: int) -> dict[str, float]:
    """Tasks a second that each stage of one run allows, while `active` runs are at work."""
    cpu = TASK_CPU_SECONDS + OBJECT_CPU_SECONDS_A_MB * VIDEO_MB
    on_machine = -(-active // load.machines)
    found = {
        "latency": THREADS / load.latency,
        "media connections": COPY_WORKERS * load.connection / VIDEO_MB,
        "network": NETWORK_MB_A_SECOND / VIDEO_MB / on_machine,
        "CPU": 1.0 / cpu,
        "Dagster's events": load.tasks / load.partitions / PARTITION_SECONDS,
    }
    if load.limit is not None:
        found["provider's limit"] = LIMIT_USED * load.limit / active
    return found


def forecast(load: Load) -> Forecast:
    """Work the runs off, `at_once` of them at a time.

    >>> one = Load(tasks=1000, partitions=1, limit=10.0, latency=0.1, connection=20.0)
    >>> forecast(one).bottleneck, round(forecast(one).seconds)
    ("provider's limit", 107)
    """
    per_partition = load.tasks / load.partitions
    waiting = [
        per_partition * min(load.per_run, load.partitions - number * load.per_run) for number in range(load.runs)
    ]
    at_work: list[list[float]] = []  # for each run: the seconds until it has begun, the tasks that it has left
    clock = busy = 0.0
    spent: dict[str, float] = {}
    while waiting or at_work:
        while waiting and len(at_work) < load.at_once:
            at_work.append([RUN_SECONDS, waiting.pop(0)])
        active = sum(starting <= 0.0 for starting, _ in at_work)
        stages = speeds(load, max(active, 1))
        slowest = min(stages, key=lambda name: stages[name])
        speed = stages[slowest]
        step = min(starting if starting > 0.0 else left / speed for starting, left in at_work)
        clock += step
        busy += step * len(at_work)
        stage = slowest if active else "start of runs"
        spent[stage] = spent.get(stage, 0.0) + step
        for run in at_work:
            if run[0] > 0.0:
                run[0] -= step
                run[0] = 0.0 if run[0] < 1e-9 else run[0]
            else:
                run[1] -= step * speed
        at_work = [run for run in at_work if run[0] > 0.0 or run[1] > 1e-6]
    dollars = busy / 3600 * DOLLARS_A_HOUR + load.tasks * DOLLARS_A_PUT
    return Forecast(clock, dollars, max(spent, key=lambda name: spent[name]))


_DAYS, _YEAR, _THREE_YEARS = 10, 365, 1095
LOADS = [
    Load(10_000, _DAYS, 10, 0.2, 20),
    Load(10_000, _DAYS, 100, 0.2, 20),
    Load(10_000, _DAYS, 100, 0.2, 2),
    Load(10_000, _DAYS, 100, 0.2, 2, at_once=2, per_run=5),
    Load(10_000, _DAYS, None, 2.0, 20),
    Load(10_000, _YEAR, 100, 0.2, 20, per_run=1),
    Load(10_000, _YEAR, 100, 0.2, 20, at_once=4, per_run=1),
    Load(10_000, _YEAR, 100, 0.2, 20, per_run=122),
    Load(1_000_000, _YEAR, 10, 0.2, 20),
    Load(1_000_000, _YEAR, 100, 0.2, 20),
    Load(1_000_000, _YEAR, 100, 0.2, 20, at_once=4),
    Load(1_000_000, _YEAR, 100, 0.2, 5, at_once=4),
    Load(1_000_000, _YEAR, 100, 0.2, 5, at_once=16, per_run=20, machines=4),
    Load(1_000_000, _YEAR, 1000, 0.2, 20, at_once=4),
    Load(1_000_000, _YEAR, 1000, 0.2, 20, at_once=16, per_run=20, machines=4),
    Load(1_000_000, _YEAR, 1000, 0.2, 20, at_once=16, per_run=20, machines=16),
    Load(10_000_000, _THREE_YEARS, 100, 0.2, 20, at_once=4),
    Load(10_000_000, _THREE_YEARS, 1000, 0.2, 20, at_once=16, machines=4),
    Load(10_000_000, _THREE_YEARS, 1000, 0.2, 20, at_once=16, machines=16),
    Load(10_000_000, _THREE_YEARS, 1000, 0.2, 20, at_once=32, per_run=20, machines=32),
]


def table() -> str:
    """The table of docs/scaling.md, in Markdown."""
    head = (
        "tasks",
        "partitions",
        "a run",
        "runs at once",
        "machines",
        "limit /s",
        "latency s",
        "MB/s a connection",
        "time",
        "$",
        "bottleneck",
        "its knob",
    )
    lines = [head, ("---:",) * 10 + ("---",) * 2, *(_row(load) for load in LOADS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(load: Load) -> tuple[str, ...]:
    found = forecast(load)
    return (
        f"{load.tasks:,}",
        f"{load.partitions:,}",
        f"{load.per_run}",
        f"{load.at_once}",
        f"{load.machines}",
        "none" if load.limit is None else f"{load.limit:g}",
        f"{load.latency:g}",
        f"{load.connection:g}",
        _duration(found.seconds),
        f"{found.dollars:,.2f}",
        found.bottleneck,
        _KNOBS[found.bottleneck],
    )


def _duration(seconds: float) -> str:
    """
    >>> _duration(90), _duration(5400), _duration(200_000)
    ('1.5 min', '1.5 h', '2.3 d')
    """
    for unit, length in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- copying in more than one run -------------------------------------------------------------------------------------

_VIDEOS = 240
_MEGABYTES = 0.25
_CONNECTION = 0.1e6
ONE_RUN = """
import json, sys, time
from datetime import UTC, datetime, timedelta
from luma_pipeline.engine.run import run_partition
from benchmarks.scaling import engine_settings
settings = engine_settings(json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for day in json.loads(sys.argv[2]):
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    run_partition(settings, start, start + timedelta(days=1))
"""


def engine_settings(variables: Mapping[str, str]) -> EngineSettings:
    """A run's settings out of the variables of a `World`."""
    from luma_pipeline.luma import ProviderConfig
    from luma_pipeline.media import TransferConfig
    from luma_pipeline.source.table import SourceTable

    return EngineSettings(
        SourceTable(variables["LUMA_SOURCE_URL"], variables["LUMA_SOURCE_TABLE"]),
        ProviderConfig(variables["LUMA_API_TOKEN"], variables["LUMA_BASE_URL"]),
        TransferConfig(bucket=variables["LUMA_S3_BUCKET"], allow_private_addresses=True),
        variables["LUMA_DATA_URL"],
    )


def copying(runs: int) -> float:
    """MB a second that so many runs copy together, each in a process, and each with partitions of its own."""
    from luma_pipeline.sandbox.generation import EXAMPLE_URLS, Generation
    from luma_pipeline.sandbox.s3 import ObjectStore
    from tests.media.samples import mp4
    from tests.world import running_world

    days = ["2025-01-01", "2025-01-02"]
    with (
        tempfile.TemporaryDirectory() as directory,
        ObjectStore(Path(directory) / "s3") as store,
        running_world(Path(directory), store, "videos") as world,
    ):
        body = mp4(int(_MEGABYTES * 1e6))
        world.cdn.bytes_per_second = _CONNECTION
        tasks = [f"{days[number % 2]}-{number}" for number in range(_VIDEOS)]
        world.submit(*((task, f"{task[:10]} 12:00:00") for task in tasks), known=False)
        for task in tasks:
            url = world.cdn.add(f"/{task}.mp4", body, "video/mp4")
            world.provider.add(replace(Generation(task), urls=replace(EXAMPLE_URLS, video=url, video_raw=url)))
        environment = {**os.environ, **world.environment()}
        parts = [days] if runs == 1 else [days[:1], days[1:]]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", ONE_RUN, json.dumps(world.environment()), json.dumps(part)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for part in parts
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        started = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            process.wait()
        seconds = time.monotonic() - started
        if len(world.object_keys()) != _VIDEOS:
            raise RuntimeError("videos are missing")
    return _VIDEOS * _MEGABYTES / seconds


def measure() -> list[str]:
    """The lines of the section in RESULTS.md."""
    one, two = copying(1), copying(2)
    return [
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}. {_VIDEOS} "
        f"videos of {_MEGABYTES:g} MB in two partitions, from a host that gives each connection "
        f"{_CONNECTION / 1e6:g} MB/s; each run is a process and fetches {COPY_WORKERS} at once. At most "
        f"{COPY_WORKERS * _CONNECTION / 1e6:g} MB/s a run.",
        "",
        "| runs at once | MB/s | times one run |",
        "| ---: | ---: | ---: |",
        f"| 1 | {one:.2f} | 1.00 |",
        f"| 2 | {two:.2f} | {two / one:.2f} |",
    ]


def main() -> None:
    """Print the table, or measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    if not parser.parse_args().measure:
        print(table(), end="")
        return
    from benchmarks.results import write_section

    lines = measure()
    print("\n".join(lines))
    write_section("scaling", "Copying in two runs", lines)


if __name__ == "__main__":
    main()
