"""What is done already, done again: its cost by tasks, by partitions, and by what else is in the bucket.

Usage: python -m benchmarks.again [--most N] [--json FILE] [--before FILE]. Each run is a process of its own without
Dagster, over a store in memory that counts requests (`simulated_store`), since nobody writes a million objects for a
table. `--json` keeps the figures, `--before` shows those of an earlier version beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks.results import write_section
from benchmarks.simulated_store import OBJECT_BYTES, etag_of, key_of, simulated_store
from luma_pipeline.sandbox.provider import Generation, Phase, ProviderServer

_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
_BEFORE = Path(__file__).parent / "before.json"
"""Figures of the code before nothing was done again, on the same kind of machine."""
_BATCH = 10_000


class Case(NamedTuple):
    """What is there: partitions, tasks in each, other objects in the bucket; and how the run over it is told.

    Tasks without videos have failed. With `has_open` a task of each partition is still open, and asked again. With
    `becomes_final` it is completed when it is asked for in the run that is measured, and its video is there.
    """

    partitions: int
    tasks: int
    others: int = 0
    on_s3: bool = False
    verify: bool = False
    has_videos: bool = True
    has_open: bool = False
    becomes_final: bool = False

    @property
    def name(self) -> str:
        """What stands in the table."""
        where = ", Parquet on S3" if self.on_s3 else ""
        full = ", full look" if self.verify else ""
        failed = "" if self.has_videos else " that failed"
        opened = ", one becomes final" if self.becomes_final else ", one open" if self.has_open else ""
        return f"{self.partitions} x {self.tasks:,} tasks{failed}{opened}, {self.others:,} other objects{where}{full}"

    @property
    def videos(self) -> int:
        """How many videos there are."""
        is_one_open = self.has_open and not self.becomes_final
        return self.partitions * (self.tasks - is_one_open) * self.has_videos


CASES = [
    Case(1, 1_000),
    Case(1, 10_000),
    Case(1, 100_000),
    Case(1, 10_000, 100_000),
    Case(1, 10_000, 1_000_000),
    Case(100, 20),
    Case(365, 20),
    Case(100, 20, on_s3=True),
    Case(100, 20, on_s3=True, has_open=True),
    Case(100, 20, on_s3=True, has_open=True, becomes_final=True),
    Case(1, 10_000, on_s3=True),
    Case(1, 100_000, verify=True),
    Case(1, 1_000, 1_000_000, verify=True),
    Case(365, 20, verify=True),
    Case(1, 300_000),
    Case(1, 1_000_000, has_videos=False),
]


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=10**9, help="leave out cases with more tasks or objects")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path, default=_BEFORE)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        _run(Case(*json.loads(arguments.run)))
        return
    figures = {}
    for case in CASES:
        if max(case.partitions * case.tasks, case.others) <= arguments.most:
            try:
                figures[case.name] = measure(case)
            except subprocess.CalledProcessError as error:  # an earlier version that has no full look
                print(case.name, error.stderr[-300:], flush=True)
                continue
            print(case.name, figures[case.name], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))
        return
    before = json.loads(arguments.before.read_text())
    write_section("again", "What is done, done again", list(_lines(figures, before)))


def measure(case: Case) -> dict[str, Any]:
    """Make what is there, and run over it twice; the figures of the second run."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:36] for number in range(case.partitions * case.tasks)]
    phases = [(Phase(0, "processing"),)]
    with (
        tempfile.TemporaryDirectory() as directory,
        simulated_store(ids, case.others) as store,
        ProviderServer(make=lambda task_id: Generation(task_id, phases[-1])) as provider,
    ):
        provider.token = None
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": store.endpoint,
            "BENCHMARK_FOLDER": directory,
            "BENCHMARK_PROVIDER": provider.base_url,
        }
        os.environ.update(environment)
        _fill(case, ids, Path(directory))
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.again", "--run", json.dumps(case)]
        # The first run notes what it has looked at: it is not what each further one costs.
        for is_measured in (False, True):
            store.counts()
            videos = case.videos
            if case.becomes_final and is_measured:
                phases.append((Phase(0, "completed"),))
            elif case.becomes_final:
                videos -= case.partitions
            environment["BENCHMARK_VIDEOS"] = str(videos)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return {**json.loads(done.stdout.strip().splitlines()[-1]), **store.counts()}


def _root(case: Case, directory: Path) -> str:
    return "s3://lake/data" if case.on_s3 else str(directory / "data")


def _fill(case: Case, ids: list[str], directory: Path) -> None:
    """A source table, answers and a manifest in which all is final and copied."""
    from luma_pipeline.dataset import Dataset
    from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
    from luma_pipeline.luma import GATEWAY

    dataset = Dataset(url=_root(case, directory))
    database = sqlite3.connect(directory / "source.db")
    database.execute("CREATE TABLE generations (task_id TEXT PRIMARY KEY, submitted_at TIMESTAMP)")
    database.execute("CREATE INDEX by_time ON generations (submitted_at)")
    for number in range(case.partitions):
        day = _FIRST + timedelta(days=number)
        own = sorted(ids[number * case.tasks : (number + 1) * case.tasks])
        times = [day + timedelta(seconds=at * 80_000 / len(own)) for at in range(len(own))]
        rows = [(task_id, f"{at:%Y-%m-%d %H:%M:%S}") for task_id, at in zip(own, times, strict=True)]
        database.executemany("INSERT INTO generations VALUES (?, ?)", rows)
        folder = f"date={day:%Y-%m-%d}"
        whole = [at.replace(microsecond=0) for at in times]
        states = ["completed" if case.has_videos else "failed"] * len(own)
        states[: case.has_open] = ["processing"] * case.has_open
        generations = (_generations(own[part], whole[part], GATEWAY.schema, states[part]) for part in _parts(own))
        dataset.partition("luma_generations", folder).replace(GATEWAY.schema, generations, ["task_id", "outcome"])
        finished = own[case.has_open :] if case.has_videos else []
        videos = (_videos(finished[part]) for part in _parts(finished))
        dataset.partition("luma_videos", folder).replace(VIDEOS_SCHEMA, videos, ["task_id", "key"])
    database.commit()
    database.close()


def _parts(ids: list[str]) -> Iterator[slice]:
    for start in range(0, len(ids), _BATCH):
        yield slice(start, start + _BATCH)


def _generations(ids: list[str], times: list[datetime], schema: pa.Schema, states: list[str]) -> pa.Table:
    now = datetime.now(UTC)
    body = json.dumps({"prompt": "a quiet street at dawn, " * 40})
    known: dict[str, Any] = {
        "task_id": ids,
        "submitted_at": times,
        "polled_at": [now] * len(ids),
        "outcome": ["resolved"] * len(ids),
        "state": states,
        "attempts": [1] * len(ids),
        "http_status": [200] * len(ids),
        "raw_response": [f"{body}{task_id}" for task_id in ids],
    }
    columns = [pa.array(known.get(field.name, [None] * len(ids)), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _videos(ids: list[str]) -> pa.Table:
    from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA

    now = datetime.now(UTC)
    keys = [key_of(task_id) for task_id in ids]
    known: dict[str, Any] = {
        "task_id": ids,
        "artifact": ["video"] * len(ids),
        "status": ["copied"] * len(ids),
        "bucket": ["videos"] * len(ids),
        "key": keys,
        "size_bytes": [OBJECT_BYTES] * len(ids),
        "content_type": ["video/mp4"] * len(ids),
        "sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
        "etag": [etag_of(key) for key in keys],
        "copied_at": [now] * len(ids),
    }
    columns = [pa.array(known.get(field.name, [None] * len(ids)), field.type) for field in VIDEOS_SCHEMA]
    return pa.Table.from_arrays(columns, schema=VIDEOS_SCHEMA)


def _run(case: Case) -> None:
    """In a process of its own: one run, and what it cost."""
    from luma_pipeline.engine.partition import Partition
    from luma_pipeline.engine.run import PipelineRun
    from luma_pipeline.engine.settings import EngineSettings, RunOptions
    from luma_pipeline.luma import ProviderConfig
    from luma_pipeline.media import TransferConfig
    from luma_pipeline.source.table import SourceTable

    directory = Path(os.environ["BENCHMARK_FOLDER"])
    settings = EngineSettings(
        SourceTable(url=f"sqlite:///{directory / 'source.db'}", table="generations"),
        ProviderConfig(token="token", base_url=os.environ["BENCHMARK_PROVIDER"]),
        TransferConfig(bucket="videos"),
        _root(case, directory),
    )
    days = [_FIRST + timedelta(days=number) for number in range(case.partitions)]
    partitions = [Partition.of(day, day + timedelta(days=1)) for day in days]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    with PipelineRun(settings, RunOptions(verify=True) if case.verify else RunOptions()) as run:
        reports: list[Any] = []
        failures = run.do(partitions, reports.append)
    after = resource.getrusage(resource.RUSAGE_SELF)
    if failures or sum(report.videos.rows for report in reports) != int(os.environ["BENCHMARK_VIDEOS"]):
        raise RuntimeError(f"the run went wrong: {failures}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "seconds": time.perf_counter() - started, "megabytes": _peak_megabytes()}))


def _peak_megabytes() -> float:
    """Of this process alone: what `getrusage` says begins with the memory of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


_KINDS = ("LIST", "HEAD", "GET", "PUT", "DELETE")


def _lines(figures: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
    yield (
        f"A second run over partitions in which all is final and copied, in a process without Dagster. "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, load average at "
        f"the end {os.getloadavg()[0]:.0f}. CPU is that of the run without its imports. Requests are to both buckets. "
        "A run's start is in them: a LIST of one key for each bucket, and with Parquet on S3 those of checkpoints, "
        "verdicts, tombstones and marks. What it asks of uploads is left out."
    )
    yield ""
    yield (
        "Goals: beside the start's no LIST and no PUT for what is done; about 10 requests for a partition on S3 that "
        "changes; 600 MB for a million tasks, and for 300,000 with videos, of which Dagster takes about 80."
    )
    yield ""
    yield "| what is there | | CPU s | s | peak MB | " + " | ".join(_KINDS) + " | MB down | MB up |"
    yield "| --- " * (7 + len(_KINDS)) + "|"
    for name, found in figures.items():
        for when, figure in (("before", before.get(name)), ("now", found)):
            if figure is not None:
                counts = " | ".join(str(figure.get(kind, 0)) for kind in _KINDS)
                down, up = (figure.get(f"bytes {way}", 0) / 1e6 for way in ("down", "up"))
                yield (
                    f"| {name} | {when} | {figure['cpu']:.2f} | {figure['seconds']:.1f} | {figure['megabytes']:.0f} | "
                    f"{counts} | {down:.2f} | {up:.2f} |"
                )


if __name__ == "__main__":
    main()
