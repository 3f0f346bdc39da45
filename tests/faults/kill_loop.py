"""Runs that are killed again and again, and what the datasets, the bucket and the disk hold afterwards.

    python -m tests.faults.kill_loop --rounds 40 --data s3 --seed 7

Each round submits tasks of one new day, starts a run as a process, ends it with SIGKILL or SIGTERM at a random moment,
and runs the day again undisturbed. The rounds' seed is printed; the same seed chooses the same moments.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.provider import ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from luma_pipeline.sandbox.server import Answer, Request
from tests.world import World

FIRST_DAY = date(2024, 12, 2)
MOST_SECONDS_OF_ANSWERS = 10.0
"""Answers that are older than this when a run is killed are not asked for again."""
SECONDS_TO_STOP = 15.0
"""A run that is sent SIGTERM has ended by then."""
_SWEEP_SECONDS = 30.0


class SlowCdn(CdnServer):
    """A CDN whose every answer comes late."""

    latency_seconds = 0.0

    def _answer(self, request: Request) -> Answer:
        return super()._answer(request).after(self.latency_seconds)


@dataclass
class Summary:
    """What the rounds came to."""

    rounds: int = 0
    signals: dict[str, int] = field(default_factory=dict)
    asked_again: int = 0
    violations: list[str] = field(default_factory=list)
    seconds_to_stop: list[float] = field(default_factory=list)
    seconds_to_recover: list[float] = field(default_factory=list)

    def as_json(self) -> str:
        def middle(values: list[float]) -> float | None:
            return round(sorted(values)[len(values) // 2], 1) if values else None

        return json.dumps(
            {
                "rounds": self.rounds,
                "signals": self.signals,
                "answers asked again": self.asked_again,
                "seconds to stop, longest": round(max(self.seconds_to_stop, default=0.0), 1),
                "seconds to recover, median": middle(self.seconds_to_recover),
                "violations": self.violations,
            },
            indent=2,
        )


class KillLoop:
    """Rounds over one world. `data` is where the datasets lie: `local` or `s3`."""

    def __init__(self, world: World, data: str, tasks: int) -> None:
        self.world = world
        self.tasks = tasks
        self.summary = Summary()
        self._data_bucket = "lake" if data == "s3" else None
        settings = {
            "LUMA_ORPHANS_OLDER_THAN_HOURS": str(_SWEEP_SECONDS / 3600),
            "LUMA_COPY_MAX_SECONDS": str(_SWEEP_SECONDS),
            "LUMA_PART_SIZE_BYTES": str(5 * 1024 * 1024),
            "LUMA_MAX_VIDEO_BYTES": str(1024**3),
            "DAGSTER_HOME": str(world.directory / "dagster"),
        }
        if self._data_bucket is not None:
            world.store.create_bucket(self._data_bucket)
            settings["LUMA_DATA_URL"] = f"s3://{self._data_bucket}/luma"
        (world.directory / "dagster").mkdir()
        self._environment = {**os.environ, **world.environment(**settings)}
        self._submitted: set[str] = set()

    def round(self, number: int, chance: random.Random) -> None:
        """Kill one run, and run its day again."""
        day = (FIRST_DAY + timedelta(days=number)).isoformat()
        ids = [f"task-{number:03}-{index:04}" for index in range(self.tasks)]
        rows = [(task_id, f"{day}T{index // 60 % 24:02}:{index % 60:02}:00Z") for index, task_id in enumerate(ids)]
        self.world.submit(*rows)
        self._submitted.update(ids)
        seconds = chance.uniform(0.0, 20.0)
        kind = chance.choice([signal.SIGKILL, signal.SIGTERM])
        provider, cdn = self.world.provider, self.world.cdn
        assert isinstance(cdn, SlowCdn)
        provider.latency_seconds, cdn.latency_seconds = chance.choice([0.2, 0.5, 1.0]), chance.choice([0.0, 1.0, 12.0])
        provider.clear_log()
        with self._run(day) as process:
            self._wait_for_a_request(process)
            self._sleep(process, seconds)
            killed_at = time.time()
            process.send_signal(kind)
            self._wait_for_the_end(process)
        stopped_in = time.time() - killed_at
        early = {
            task_id
            for request in provider.requests
            for task_id in request.task_ids
            if request.at + provider.latency_seconds < killed_at - MOST_SECONDS_OF_ANSWERS
        }
        provider.latency_seconds = cdn.latency_seconds = 0.0
        provider.clear_log()
        started = time.monotonic()
        with self._run(day) as process:
            status = process.communicate(timeout=300)[0].strip()
        self._note(number, kind, status, stopped_in, time.monotonic() - started)
        again = early & {task_id for request in provider.requests for task_id in request.task_ids}
        self.summary.asked_again += len(again)
        if again:
            self._violated(number, f"{len(again)} answers older than ten seconds were asked for again")

    def end(self) -> None:
        """Wait for the sweep's age, run once more, and look at everything from outside."""
        time.sleep(_SWEEP_SECONDS + 1)
        last_day = (FIRST_DAY + timedelta(days=self.summary.rounds - 1)).isoformat()
        with self._run(last_day) as process:
            process.communicate(timeout=300)
        for violation in self._look():
            self._violated(None, violation)

    def _note(self, number: int, kind: signal.Signals, status: str, stopped_in: float, recovered_in: float) -> None:
        summary = self.summary
        summary.rounds += 1
        summary.signals[kind.name] = summary.signals.get(kind.name, 0) + 1
        summary.seconds_to_recover.append(recovered_in)
        if status != "SUCCESS":
            self._violated(number, f"the run after the kill ended as {status}")
        if kind is signal.SIGTERM:
            summary.seconds_to_stop.append(stopped_in)
            if stopped_in > SECONDS_TO_STOP:
                self._violated(number, f"SIGTERM took {stopped_in:.1f} s")

    def _violated(self, number: int | None, what: str) -> None:
        where = "at the end" if number is None else f"round {number}"
        self.summary.violations.append(f"{where}: {what}")

    # What is there.

    def _look(self) -> Iterator[str]:
        for name in ("luma_tasks", "luma_generations", "luma_videos"):
            ids = [row["task_id"] for row in self._rows(name)]
            if sorted(ids) != sorted(self._submitted):
                yield f"{name} has {len(ids)} rows, {len(set(ids))} tasks; {len(self._submitted)} were submitted"
        objects = self.world.objects()
        for row in self._rows("luma_videos"):
            body = objects.pop(row["key"] or "", None)
            if body is None or hashlib.sha256(body).hexdigest() != row["sha256"]:
                yield f"the object of {row['task_id']} ({row['status']}) is not what the manifest says"
        if objects:
            yield f"{len(objects)} objects have no row, such as {min(objects)}"
        yield from self._strays()
        yield from self._uploads()

    def _rows(self, dataset: str) -> list[dict[str, Any]]:
        tables = [pq.read_table(io.BytesIO(body)) for key, body in self._data() if f"{dataset}/date=" in key]
        return pa.concat_tables(tables).to_pylist() if tables else []

    def _data(self) -> Iterator[tuple[str, bytes]]:
        """Every Parquet file of the data root."""
        for key in self._data_keys():
            if key.endswith(".parquet") and "/_" not in f"/{key}":
                if self._data_bucket is None:
                    yield key, (self.world.directory / "data" / key).read_bytes()
                else:
                    client = self.world.store.client()
                    yield key, client.get_object(Bucket=self._data_bucket, Key=f"luma/{key}")["Body"].read()

    def _data_keys(self) -> list[str]:
        if self._data_bucket is None:
            root = self.world.directory / "data"
            return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        pages = self.world.store.client().get_paginator("list_objects_v2").paginate(Bucket=self._data_bucket)
        return [item["Key"].removeprefix("luma/") for page in pages for item in page.get("Contents", [])]

    def _strays(self) -> Iterator[str]:
        """Files that are neither a partition's nor a mark."""
        for key in self._data_keys():
            is_partition = key.endswith("/part-0.parquet") and not key.startswith("_")
            if not is_partition and not key.startswith(("_open/", "_unfinished/", "_verdicts/", "_verified/")):
                yield f"stray file {key}"

    def _uploads(self) -> Iterator[str]:
        buckets = [self.world.bucket, *([self._data_bucket] if self._data_bucket is not None else [])]
        for bucket in buckets:
            answer = self.world.store.client().list_multipart_uploads(Bucket=bucket)
            for upload in answer.get("Uploads", []):
                yield f"orphaned upload of {upload.get('Key')} in {bucket}"

    # The process.

    @contextmanager
    def _run(self, day: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.faults.one_run", day, day]
        log = self.world.directory / "runs.log"
        with (
            log.open("a") as errors,
            subprocess.Popen(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def _wait_for_a_request(self, process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 120
        while not self.world.provider.total and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)

    @staticmethod
    def _wait_for_the_end(process: subprocess.Popen[str]) -> None:
        try:
            process.communicate(timeout=4 * SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()

    @staticmethod
    def _sleep(process: subprocess.Popen[str], seconds: float) -> None:
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)


def run(rounds: int, data: str, seed: int, *, tasks: int, directory: Path) -> Summary:
    """Do the rounds in a world of their own."""
    chance = random.Random(seed)
    with (
        ObjectStore(directory / "store") as store,
        SlowCdn() as cdn,
        ProviderServer(cdn=cdn) as provider,
    ):
        store.create_bucket("videos")
        loop = KillLoop(World(directory, provider, cdn, store, "videos"), data, tasks)
        for number in range(rounds):
            loop.round(number, chance)
        loop.end()
    return loop.summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--data", choices=["local", "s3"], default="local")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        summary = run(
            arguments.rounds, arguments.data, arguments.seed, tasks=arguments.tasks, directory=Path(directory)
        )
    sys.stdout.write(f"seed {arguments.seed}, {arguments.data} data root\n{summary.as_json()}\n")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
