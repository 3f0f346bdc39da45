"""The demonstration: the pipeline run over the sandbox's days, and what came of it, checked and told in a page."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.seed import SeededSource
from luma_pipeline.sandbox.server import utc_now
from luma_pipeline.sandbox.stack import BUCKET, PREFIX, Sandbox

_FINAL_STATES = ("completed", "failed")
_DATASETS = ("luma_tasks", "luma_generations", "luma_videos")
_VIDEOS_FOLDER = "videos"
_PROGRESS_SECONDS = 5.0

_QUERY = """\
SELECT task.customer,
       count(*) AS tasks,
       count(*) FILTER (generation.state = 'completed') AS completed,
       count(video.key) AS videos,
       sum(video.size_bytes) AS bytes
FROM read_parquet('{data}/luma_tasks/**/*.parquet') AS task
JOIN read_parquet('{data}/luma_generations/**/*.parquet') AS generation USING (task_id)
LEFT JOIN read_parquet('{data}/luma_videos/**/*.parquet') AS video USING (task_id)
GROUP BY ALL
ORDER BY tasks DESC, customer
"""


class DemoError(Exception):
    """The demonstration did not succeed; the message says why and where the log is."""


@dataclass(frozen=True)
class Demonstration:
    """What came of one run. `states` counts tasks by state, or by outcome where there is none; `rows` by dataset.

    `copied` and the requests are this run's; `requests_for_final` are those for tasks that were final before it.
    """

    source: SeededSource
    states: Mapping[str, int]
    rows: Mapping[str, int]
    objects: int
    size_bytes: int
    copied: int
    provider_requests: int
    requests_for_final: int
    cdn_requests: int
    data_directory: Path
    videos_directory: Path
    query_path: Path

    def page(self) -> str:
        """The numbers to read, the places to look at, and the query with its answer."""
        source, query = self.source, self.query_path.read_text()
        span = f"{source.first_day} to {source.last_day}"
        facts = [
            ("Source", f"{source.rows} rows from {span}, {source.task_ids} distinct task IDs"),
            ("Tasks by state", str(sum(self.states.values()))),
            *((f"  {state}", str(count)) for state, count in self.states.items()),
            ("Rows", ", ".join(f"{name} {count}" for name, count in self.rows.items())),
            ("Videos", f"{self.objects} in the bucket {BUCKET}, {self.size_bytes:,} bytes, SHA-256 equal to the CDN's"),
            (
                "This run",
                f"{self.provider_requests} requests to the provider, "
                f"{self.requests_for_final} of them for tasks already final",
            ),
            ("", f"{self.copied} videos copied, {self.cdn_requests} requests to the CDN"),
            ("Parquet", str(self.data_directory)),
            ("To play", str(self.videos_directory)),
            ("To ask", f"python -c \"import duckdb; duckdb.sql(open('{self.query_path}').read()).show()\""),
        ]
        page = "\n".join(f"{name:<20}{value}".rstrip() for name, value in facts)
        return f"\n{page}\n\n{query}\n{duckdb.sql(query)}"


def demonstrate(sandbox: Sandbox) -> Demonstration:
    """Run the pipeline over the sandbox's days and take stock; raises DemoError when the run fails.

    What is in the bucket is compared with what the CDN serves, and copied into the folder `videos`.
    """
    data, provider = sandbox.data_directory, sandbox.provider
    final_before = _final_task_ids(data)
    provider.clear_log()
    sandbox.cdn.clear_log()
    started_at = utc_now()
    run_pipeline(sandbox, tell=_print)
    generations, videos = _rows(data / "luma_generations"), _rows(data / "luma_videos")
    sizes = _fetch_videos(sandbox, videos)
    query_path = sandbox.directory / "query.sql"
    query_path.write_text(_QUERY.format(data=data))
    states = Counter(row["state"] if row["outcome"] == "resolved" else row["outcome"] for row in generations)
    return Demonstration(
        source=sandbox.source,
        states=dict(states.most_common()),
        rows={name: _count(data / name) for name in _DATASETS},
        objects=len(sizes),
        size_bytes=sum(sizes),
        copied=sum(row["status"] == "copied" and row["copied_at"] >= started_at for row in videos),
        provider_requests=provider.total,
        requests_for_final=sum(provider.count(task_id) for task_id in final_before),
        cdn_requests=sandbox.cdn.total,
        data_directory=data,
        videos_directory=sandbox.directory / _VIDEOS_FOLDER,
        query_path=query_path,
    )


def has_every_day(sandbox: Sandbox) -> bool:
    """Whether each of the sandbox's days has been materialized."""
    source, there = sandbox.source, sandbox.data_directory / "luma_videos"
    days = range((source.last_day - source.first_day).days + 1)
    return all((there / f"date={source.first_day + timedelta(days=day)}").exists() for day in days)


def run_pipeline(sandbox: Sandbox, *, tell: Callable[[str], None]) -> None:
    """Run all days through Dagster in a process of its own, and `tell` how far it is.

    Raises:
        DemoError: The run failed; the message says why.
    """
    days = (sandbox.source.first_day.isoformat(), sandbox.source.last_day.isoformat())
    log_path = sandbox.directory / "demo.log"
    tell(f"Running the pipeline over {days[0]} to {days[1]}; its log: {log_path}")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "luma_pipeline.sandbox.run_days", *days],
            env=sandbox.process_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            reason = _watch(process, sandbox, tell)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        # Without a reason it did not get as far as a run: the log ends with the error.
        last_line = (log_path.read_text(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise DemoError(f"The run failed: {reason or last_line}. Its log: {log_path}")


def _print(text: str) -> None:
    print(text, flush=True)


def _watch(process: subprocess.Popen[str], sandbox: Sandbox, tell: Callable[[str], None]) -> str:
    """Say how far the run is until it ends; returns what it printed."""
    while True:
        try:
            output, _ = process.communicate(timeout=_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            tell(f"  {sandbox.provider.total} requests to the provider, {sandbox.cdn.total} to the CDN so far")
        else:
            return output.strip()


def _table(path: Path, columns: list[str] | None = None) -> pa.Table | None:
    if not path.exists():
        return None
    return ds.dataset(path, format="parquet", partitioning="hive").to_table(columns=columns)


def _rows(path: Path) -> list[dict[str, Any]]:
    table = _table(path)
    return [] if table is None else table.to_pylist()


def _final_task_ids(data_directory: Path) -> set[str]:
    table = _table(data_directory / "luma_generations", ["task_id", "state"])
    if table is None:
        return set()
    return {row["task_id"] for row in table.to_pylist() if row["state"] in _FINAL_STATES}


def _fetch_videos(sandbox: Sandbox, videos: list[dict[str, Any]]) -> list[int]:
    """Copy every object of the manifest out of the bucket; returns their sizes.

    Raises DemoError when one's SHA-256 is not that of the CDN's file.
    """
    folder = sandbox.directory / _VIDEOS_FOLDER
    folder.mkdir(exist_ok=True)
    client = sandbox.object_store.client()
    sizes = []
    for row in videos:
        if row["key"] is None or row["sha256"] is None:
            continue
        body = client.get_object(Bucket=BUCKET, Key=row["key"])["Body"].read()
        if not hashlib.sha256(body).hexdigest() == row["sha256"] == hashlib.sha256(_served(row)).hexdigest():
            raise DemoError(f"The object {row['key']} is not what the CDN serves for task {row['task_id']}.")
        (folder / row["key"].removeprefix(f"{PREFIX}/").replace("/", "-")).write_bytes(body)
        sizes.append(len(body))
    return sizes


def _served(row: dict[str, Any]) -> bytes:
    make = {"thumbnail": samples.thumbnail, "last_frame": samples.last_frame}.get(row["artifact"], samples.video)
    return make(row["task_id"])


def _count(path: Path) -> int:
    table = _table(path, [])
    return 0 if table is None else table.num_rows
