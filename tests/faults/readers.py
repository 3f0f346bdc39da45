"""Readers that read the datasets all the time beside the runs, one with pyarrow and one with DuckDB.

What they may never see: a file that cannot be read, two rows of one task, a partition with another number of rows than
the source had at some time, one that is gone again, and final rows that have become fewer.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import boto3
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from botocore.config import Config

DATASETS = ("luma_tasks", "luma_generations", "luma_videos")
_FINAL = pa.array(["completed", "failed"])


@dataclass(frozen=True)
class Seen:
    """What one reading of a partition gave: its rows, its distinct rows, and those in a final state."""

    rows: int
    distinct: int
    final: int = 0


@dataclass
class Judgement:
    """What a reader has seen so far, and what was wrong with it."""

    reader: str
    allowed: Path
    readings: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list)
    _before: dict[tuple[str, str], Seen] = field(default_factory=dict)

    def take(self, dataset: str, partitions: dict[str, Seen]) -> None:
        """Judge one reading of a dataset, by partition. What is allowed is read after it, so that it is no older."""
        self.readings += 1
        allowed: dict[str, list[int]] = json.loads(self.allowed.read_text())
        for date, seen in partitions.items():
            where = f"the {self.reader} reader saw {dataset} of {date} with"
            before = self._before.get((dataset, date), seen)
            if seen.rows != seen.distinct:
                self.tell(f"{where} {seen.rows} rows, {seen.distinct} of them distinct")
            if dataset != "luma_videos" and seen.rows not in allowed.get(date, []):
                self.tell(f"{where} {seen.rows} rows; the source had {allowed.get(date)}")
            if seen.rows < before.rows or seen.final < before.final:
                self.tell(f"{where} {seen}, after {before}")
            self._before[dataset, date] = seen
        for name, date in self._before:
            if name == dataset and date not in partitions:
                self.tell(f"the {self.reader} reader saw {dataset} of {date} gone")

    def tell(self, violation: str) -> None:
        if violation not in self.violations:
            self.violations.append(violation)


class Root(Protocol):
    """Where a reader finds the datasets."""

    @contextmanager
    def dataset(self, name: str) -> Iterator[str | None]:
        """A folder that holds a dataset as it is now; None before it is there."""


@dataclass(frozen=True)
class Folder:
    """A local root, read where it is."""

    root: str

    @contextmanager
    def dataset(self, name: str) -> Iterator[str | None]:
        folder = f"{self.root}/{name}"
        is_there = os.path.isdir(folder) and any(Path(folder).glob("*/*.parquet"))
        yield folder if is_there else None


@dataclass(frozen=True)
class Bucket:
    """A root on S3. Each object is fetched by one request: that is what the store promises to be one version."""

    client: Any
    bucket: str
    prefix: str

    @contextmanager
    def dataset(self, name: str) -> Iterator[str | None]:
        inside = f"{self.prefix}/{name}/"
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=inside).get("Contents", [])
        with tempfile.TemporaryDirectory() as directory:
            for item in listed:
                path = Path(directory) / item["Key"][len(inside) :]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(self.client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read())
            yield directory if listed else None


def read_with_pyarrow(folder: str, name: str) -> dict[str, Seen]:
    """A dataset's partitions, every column of them read."""
    table = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    found = {}
    for date in pc.unique(table["date"]).to_pylist():
        part = table.filter(pc.equal(table["date"], date))
        ids = part["task_id"]
        if name == "luma_videos":
            ids = pc.binary_join_element_wise(ids, part["artifact"], "\0")
        final = pc.sum(pc.is_in(part["state"], _FINAL)).as_py() if name == "luma_generations" else 0
        found[str(date)] = Seen(len(part), pc.count_distinct(ids).as_py(), final or 0)
    return found


def read_with_duckdb(connection: duckdb.DuckDBPyConnection, folder: str, name: str) -> dict[str, Seen]:
    """A dataset's partitions, every column of them read."""
    what = "task_id, artifact" if name == "luma_videos" else "task_id"
    final = "count(*) FILTER (state IN ('completed', 'failed'))" if name == "luma_generations" else "0"
    rows = connection.execute(
        f"SELECT date, count(*), count(DISTINCT ({what})), {final}, max(hash(COLUMNS(*)))"
        f" FROM read_parquet('{folder}/*/*.parquet', hive_partitioning = true) GROUP BY date"
    ).fetchall()
    return {str(date): Seen(count, distinct, final) for date, count, distinct, final, *_ in rows}


def read_all_the_time(order: dict[str, Any]) -> None:
    """Read until SIGTERM, then write what was seen into the file `result`."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    root = root_of(order)
    judgements = [Judgement(name, Path(order["allowed"])) for name in ("pyarrow", "DuckDB")]
    threads = [threading.Thread(target=_read, args=(each, root, ended, order["pause"])) for each in judgements]
    for thread in threads:
        thread.start()
    while not ended.wait(0.05):
        pass
    for thread in threads:
        thread.join()
    said = {
        each.reader: {"readings": each.readings, "repeated": each.repeated, "violations": each.violations}
        for each in judgements
    }
    Path(order["result"]).write_text(json.dumps(said))


def root_of(order: dict[str, Any]) -> Root:
    """The root that an order names, reached without the proxy of the runs."""
    url: str = order["root"]
    if not url.startswith("s3://"):
        return Folder(url)
    bucket, _, prefix = url[len("s3://") :].partition("/")
    client = boto3.client("s3", endpoint_url=order["endpoint"], config=Config(s3={"addressing_style": "path"}))
    return Bucket(client, bucket, prefix)


def _read(judgement: Judgement, root: Root, ended: threading.Event, pause: float) -> None:
    with duckdb.connect(config={"threads": 1}) as connection:
        while not ended.is_set():
            for name in DATASETS:
                judge_once(judgement, root, name, connection)
            time.sleep(pause)


def judge_once(judgement: Judgement, root: Root, name: str, connection: duckdb.DuckDBPyConnection) -> None:
    """Read a dataset once, and judge what is seen.

    DuckDB opens a file by its name several times in one query. Where the file is replaced in between, the query fails,
    and is to be repeated: so an error counts only where no file has changed.
    """
    with root.dataset(name) as folder:
        if folder is None:
            return
        while True:
            before = _versions(folder)
            try:
                if judgement.reader == "pyarrow":
                    partitions = read_with_pyarrow(folder, name)
                else:
                    partitions = read_with_duckdb(connection, folder, name)
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is what is looked for
                if judgement.reader == "DuckDB" and _versions(folder) != before:
                    judgement.repeated += 1
                    continue
                judgement.tell(f"the {judgement.reader} reader could not read {name}: {type(error).__name__}: {error}")
            else:
                judgement.take(name, partitions)
            return


def _versions(folder: str) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in Path(folder).glob("*/*.parquet")}
    return {str(path): (stat.st_mtime_ns, stat.st_ino) for path, stat in found.items()}
