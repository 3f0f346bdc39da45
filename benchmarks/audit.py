"""An audit by listing of a bucket of up to a million objects: seconds, CPU and peak memory.

Usage: python -m benchmarks.audit [--most OBJECTS]. Each audit is a process of its own without Dagster, over a store in
memory (`simulated_store`), since nobody writes a million objects for a table. The manifests are in a folder, one for
each of 365 days.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks.again import _peak_megabytes
from benchmarks.results import write_section
from benchmarks.simulated_store import OBJECT_BYTES, etag_of, key_of, simulated_store

_FIRST = datetime(2024, 1, 1, tzinfo=UTC)
_COPIED_AT = datetime(2024, 12, 24, 10, 0, 1, tzinfo=UTC)
_PARTITIONS = 365
_ROW_GROUP = 10_000


class Case(NamedTuple):
    """Objects of the manifests, of which so many are not in the bucket, and objects that no manifest has."""

    objects: int
    missing: int = 0
    orphaned: int = 0

    @property
    def name(self) -> str:
        """What stands in the table."""
        return f"{self.objects:,} objects, {self.missing:,} missing, {self.orphaned:,} orphaned"


CASES = [
    Case(10_000),
    Case(100_000),
    Case(1_000_000),
    Case(1_000_000, 1_000, 1_000),
]


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=10**9, help="leave out cases with more objects")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        _run(Case(*json.loads(arguments.run)))
        return
    figures = {}
    for case in CASES:
        if case.objects <= arguments.most:
            figures[case] = measure(case)
            print(case.name, figures[case], flush=True)
    write_section("audit", "An audit by listing", list(_lines(figures)))


def measure(case: Case) -> dict[str, Any]:
    """Make manifests and a bucket, and audit them."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:36] for number in range(case.objects)]
    orphans = [hashlib.sha256(f"orphan {number}".encode()).hexdigest()[:36] for number in range(case.orphaned)]
    with tempfile.TemporaryDirectory() as directory, simulated_store([*ids[case.missing :], *orphans], 0) as store:
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": store.endpoint,
            "BENCHMARK_FOLDER": directory,
        }
        _fill(ids, Path(directory))
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.audit", "--run", json.dumps(case)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return {**json.loads(done.stdout.strip().splitlines()[-1]), **store.counts()}


def _fill(ids: list[str], directory: Path) -> None:
    from luma_pipeline.dataset import Dataset
    from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA

    dataset = Dataset(url=str(directory / "data"))
    size = -(-len(ids) // _PARTITIONS)
    for number in range(_PARTITIONS):
        own = ids[number * size : (number + 1) * size]
        folder = f"date={_FIRST + timedelta(days=number):%Y-%m-%d}"
        tables = (_rows(own[start : start + _ROW_GROUP]) for start in range(0, len(own), _ROW_GROUP))
        dataset.partition("luma_videos", folder).replace(VIDEOS_SCHEMA, tables)


def _rows(ids: list[str]) -> pa.Table:
    from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA

    keys = [key_of(task_id) for task_id in ids]
    known: dict[str, Any] = {
        "task_id": ids,
        "artifact": ["video"] * len(ids),
        "status": ["copied"] * len(ids),
        "source_url": [f"https://cdn.example.com/{task_id}/video.mp4" for task_id in ids],
        "bucket": ["videos"] * len(ids),
        "key": keys,
        "size_bytes": [OBJECT_BYTES] * len(ids),
        "content_type": ["video/mp4"] * len(ids),
        "sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
        "etag": [etag_of(key) for key in keys],
        "copied_at": [_COPIED_AT] * len(ids),
    }
    columns = [pa.array(known.get(field.name, [None] * len(ids)), field.type) for field in VIDEOS_SCHEMA]
    return pa.Table.from_arrays(columns, schema=VIDEOS_SCHEMA)


def _run(case: Case) -> None:
    """In a process of its own: one audit, and what it cost."""
    from luma_pipeline.audit import AuditSettings, audit_dataset
    from luma_pipeline.media import TransferConfig

    root = Path(os.environ["BENCHMARK_FOLDER"]) / "data"
    settings = AuditSettings(str(root), TransferConfig(bucket="videos"), read_within_days=None)
    idle = _peak_megabytes()
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    summary = audit_dataset(settings)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    expected = {name: count for name, count in (("missing", case.missing), ("orphaned", case.orphaned)) if count}
    if summary.problems or summary.rows != case.objects or summary.counts != expected:
        raise RuntimeError(f"the audit went wrong: {summary}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "seconds": seconds, "megabytes": _peak_megabytes(), "idle": idle}))


def _lines(figures: dict[Case, dict[str, Any]]) -> Iterator[str]:
    load = os.getloadavg()[0]
    yield (
        f"Manifests of {_PARTITIONS} days in a folder beside a bucket; nothing is read. {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, load average {load:.0f}. CPU is that of the audit "
        "alone, without its imports; the store's, a process in Python on the same cores, is in the seconds."
    )
    yield ""
    yield "| what is there | CPU s | s | µs CPU an object | peak MB | of these before it began | LIST | HEAD |"
    yield "| --- " * 8 + "|"
    for case, figure in figures.items():
        yield (
            f"| {case.name} | {figure['cpu']:.1f} | {figure['seconds']:.0f} | {figure['cpu'] / case.objects * 1e6:.0f} "
            f"| {figure['megabytes']:.0f} | {figure['idle']:.0f} | {figure.get('LIST', 0)} | {figure.get('HEAD', 0)} |"
        )


if __name__ == "__main__":
    main()
