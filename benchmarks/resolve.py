"""Asking for many tasks: ours beside Daft, dlt, aiohttp, lumaai and requests, each in a process of its own.

Usage: python -m benchmarks.resolve [--tasks N] [--rounds N] [--limited N] [--million]. Needs the extra `benchmark`, and
nginx for single requests at no latency. Prints tables and writes them to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gateway import EXAMPLE, batch_server
from benchmarks.results import write_section

_LATENCY = 0.2
_CONCURRENCY = 16
_BATCH = 100


# The rivals. Each asks for `tasks` IDs at `url` and ends with the answers on disk as Parquet, or says that it does not.


def ours(url: str, tasks: int, directory: Path, *, verify_task_id: bool = False, **settings: Any) -> dict[str, float]:
    """The pipeline's own step, from the task table to the partition's file. nginx answers with one ID for all."""
    from datetime import datetime, timedelta

    import pyarrow as pa

    from luma_pipeline.dataset import Dataset
    from luma_pipeline.engine.generations import ResolvePolicy, resolve_generations
    from luma_pipeline.engine.policy import GiveUpPolicy
    from luma_pipeline.luma import LumaClient, ProviderConfig
    from luma_pipeline.luma.schema import TIMESTAMP

    now = datetime.now(UTC)
    table = pa.table(
        {
            "task_id": pa.array([f"task-{number:08}" for number in range(tasks)]),
            "submitted_at": pa.array([now - timedelta(days=1)] * tasks, TIMESTAMP),
        }
    )
    dataset = Dataset(url=str(directory))
    with LumaClient(
        ProviderConfig(
            token="benchmark", base_url=url, max_concurrency=_CONCURRENCY, verify_task_id=verify_task_id, **settings
        )
    ) as client:
        report = resolve_generations(
            table,
            dataset.partition("luma_generations", "date=2025-01-01"),
            dataset.checkpoints("luma_generations", "date=2025-01-01"),
            client,
            ResolvePolicy(GiveUpPolicy(1e9, now), 0.0),
        )
    assert report.outcomes == {"resolved": tasks}, report.outcomes
    return {"requests": report.requests, "throttled": report.throttled}


def dlt_rival(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """dlt: parallelized resources over its requests client, to Parquet files."""
    import dlt
    from dlt.sources.helpers import requests as session

    os.environ["EXTRACT__WORKERS"] = os.environ["EXTRACT__MAX_PARALLEL_ITEMS"] = "32"
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

    @dlt.transformer(parallelized=True)
    def generation(task_id: str) -> Any:
        return session.get(f"{url}/luma/generations/{task_id}", headers={"Authorization": "Bearer x"}).json()

    ids = dlt.resource([f"task-{number:08}" for number in range(tasks)], name="ids")
    pipeline = dlt.pipeline(
        "benchmark",
        destination=dlt.destinations.filesystem(bucket_url=directory.as_uri()),
        dataset_name="luma",
        pipelines_dir=str(directory / "work"),
    )
    pipeline.run(ids | generation, loader_file_format="parquet", table_name="generations")
    return {}


def daft_rival(url: str, tasks: int, directory: Path, *, as_columns: bool = True) -> dict[str, float]:
    """Daft: the bodies downloaded and, `as_columns`, read as the page's fields, to Parquet. All of it is Rust."""
    import daft
    from daft import DataType as Type
    from daft.io import HTTPConfig, IOConfig

    file = {"url": Type.string(), "width": Type.int64(), "height": Type.int64()}
    video = Type.struct({**file, "download_url": Type.string()})
    video_raw = Type.struct({**file, "duration": Type.float64(), "media_type": Type.string()})
    image = Type.struct({**file, "palette": Type.struct({"grid": Type.string()}), "media_type": Type.string()})
    files = {"video": video, "thumbnail": image, "video_raw": video_raw, "created_at": Type.string()}
    page = {
        "id": Type.string(),
        "state": Type.string(),
        "failure_reason": Type.string(),
        **files,
        "last_frame": image,
        "artifact": Type.struct({**files, "last_frame": image}),
        "request": Type.struct({"prompt": Type.string(), "aspect_ratio": Type.string()}),
    }
    ids = [f"task-{number:08}" for number in range(tasks)]
    frame = daft.from_pydict({"task_id": ids, "link": [f"{url}/luma/generations/{task_id}" for task_id in ids]})
    io = IOConfig(http=HTTPConfig(bearer_token="x"))
    bodies = daft.col("link").download(max_connections=_CONCURRENCY, io_config=io).decode("utf-8")
    frame = frame.with_column("raw_response", bodies).exclude("link")
    if as_columns:
        frame = frame.with_column("page", daft.col("raw_response").try_deserialize("json", Type.struct(page)))
    frame.write_parquet(str(directory))
    return {}


def aiohttp_parquet_rival(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """What one writes by hand: aiohttp with 16 coroutines, orjson, and pyarrow's own conversion, to Parquet."""
    import aiohttp
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Any] = []
    texts: list[str] = []

    async def run() -> None:
        numbers = iter(range(tasks))
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:

            async def worker() -> None:
                for number in numbers:
                    async with session.get(f"{url}/luma/generations/task-{number:08}") as answer:
                        body = await answer.read()
                    rows.append(orjson.loads(body))
                    texts.append(body.decode())

            await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))

    asyncio.run(run())
    directory.mkdir()
    table = pa.Table.from_pylist(rows).append_column("raw_response", pa.array(texts, pa.large_string()))
    pq.write_table(table, directory / "generations.parquet", compression="zstd")
    return {}


def lumaai_rival(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """The lumaai SDK in 16 threads; keeps nothing on disk."""
    from lumaai import LumaAI

    client = LumaAI(auth_token="x", base_url=f"{url}/luma")
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        list(pool.map(lambda number: client.generations.get(f"task-{number:08}").state, range(tasks)))
    return {}


def requests_rival(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """A requests session a thread, 16 threads; keeps nothing on disk."""
    import requests

    local = threading.local()

    def ask(number: int) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        headers = {"Authorization": "Bearer x"}
        local.session.get(f"{url}/luma/generations/task-{number:08}", headers=headers, timeout=30).json()

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        list(pool.map(ask, range(tasks)))
    return {}


def aiohttp_rival(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """aiohttp with 16 coroutines; keeps nothing on disk."""
    import aiohttp

    async def run() -> None:
        numbers = iter(range(tasks))
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:

            async def worker() -> None:
                for number in numbers:
                    async with session.get(f"{url}/luma/generations/task-{number:08}") as answer:
                        await answer.json(content_type=None)

            await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))

    asyncio.run(run())
    return {}


def flatten_ours(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """Flattening alone, 500 at a time as the pipeline does."""
    from datetime import datetime

    from luma_pipeline.luma import Outcome, TaskResult, to_table

    text = EXAMPLE.read_text()
    now = datetime.now(UTC)

    def answered(body: Any) -> TaskResult:
        return TaskResult("t", Outcome.RESOLVED, now, generation=body, raw_response=text)

    return _flattening(tasks, to_table, answered)


def flatten_pandas(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """pandas.json_normalize alone, 500 at a time."""
    import pandas as pd

    return _flattening(tasks, lambda bodies: pd.json_normalize(bodies, sep="_"))


def flatten_pandas_to_arrow(url: str, tasks: int, directory: Path) -> dict[str, float]:
    """pandas.json_normalize and its frame as an Arrow table, which is what Parquet is written from."""
    import pandas as pd
    import pyarrow as pa

    return _flattening(tasks, lambda bodies: pa.Table.from_pandas(pd.json_normalize(bodies, sep="_")))


def _flattening(
    tasks: int, flatten: Callable[[list[Any]], Any], prepare: Callable[[Any], Any] = lambda body: body
) -> dict[str, float]:
    """The median over all chunks; what `prepare` makes of a body is there before."""
    text = EXAMPLE.read_text()
    spent = []
    for _ in range(max(1, tasks // 500)):
        bodies = [prepare(json.loads(text)) for _ in range(500)]
        started = time.process_time()
        flatten(bodies)
        spent.append(time.process_time() - started)
    return {"microseconds": statistics.median(spent) / 500 * 1e6}


RIVALS: dict[str, Callable[..., dict[str, float]]] = {
    "ours": ours,
    "dlt": dlt_rival,
    "daft": daft_rival,
    "aiohttp_parquet": aiohttp_parquet_rival,
    "lumaai": lumaai_rival,
    "requests": requests_rival,
    "aiohttp": aiohttp_rival,
    "flatten_ours": flatten_ours,
    "flatten_pandas": flatten_pandas,
    "flatten_pandas_to_arrow": flatten_pandas_to_arrow,
}


def run_here(name: str, url: str, tasks: int, settings: dict[str, Any]) -> None:
    """In a process of its own: run a rival and print its figures as JSON."""
    with tempfile.TemporaryDirectory() as directory:
        # Imports and first connections are not what is measured.
        if not name.startswith("flatten"):
            RIVALS[name](url, 20, Path(directory) / "warm", **settings)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        figures = RIVALS[name](url, tasks, Path(directory) / "measured", **settings)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures |= {"seconds": seconds, "cpu_ms": cpu / tasks * 1000, "rss_mb": after.ru_maxrss / 1024}
    print(json.dumps(figures))


def measure(name: str, url: str, tasks: int, **settings: Any) -> dict[str, float]:
    """Run a rival in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.resolve", "--run", name, url, str(tasks), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"  {name}: {tasks / figures['seconds']:,.0f} tasks/s, {figures['cpu_ms']:.3f} ms CPU a task", flush=True)
    return figures


@contextlib.contextmanager
def static_server() -> Iterator[str]:
    """nginx with one worker that answers every path with the page's example."""
    nginx = shutil.which("nginx")
    if nginx is None:
        raise SystemExit("nginx is not installed: apt-get install nginx")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "body.json").write_text(json.dumps(json.loads(EXAMPLE.read_text())))
        root.chmod(0o755)
        config = root / "nginx.conf"
        port = 18_099
        config.write_text(
            f"worker_processes 1; daemon off; pid {root}/pid; error_log {root}/log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; keepalive_requests 100000000; default_type application/json;\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ root {root}; try_files /body.json =404; }} }} }}\n"
        )
        process = subprocess.Popen([nginx, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


SLOW_SERVER = """
import sys, time
from luma_pipeline.sandbox.provider import Generation, ProviderServer, RateLimit
rate = float(sys.argv[2])
with ProviderServer(make=Generation, log_limit=1) as server:
    server.token = None
    server.latency_seconds = float(sys.argv[1])
    server.rate_limit = RateLimit(rate, burst=max(1, int(rate / 10))) if rate else None
    print(server.base_url, flush=True)
    sys.stdin.read()
    print(server.total, server.count_status(429), flush=True)
"""


class SlowServer:
    """The sandbox's provider in a process of its own, with a latency and a limit."""

    def __init__(self, latency: float, rate: float = 0.0) -> None:
        command = [sys.executable, "-c", SLOW_SERVER, str(latency), str(rate)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def stop(self) -> tuple[int, int]:
        """Requests seen, and how many of them were answered 429."""
        total, refused = self._process.communicate()[0].split()
        return int(total), int(refused)


@dataclass(frozen=True)
class Entry:
    """A row of the table at no latency: who asks and how, the goals, and what it leaves out.

    `tasks` is the most it asks for: a slow one would take all the time.
    """

    title: str
    rival: str
    settings: dict[str, Any] = field(default_factory=dict)
    in_batches: bool = False
    goals: dict[str, float] = field(default_factory=dict)
    leaves_out: str = ""
    tasks: int = 10**9


_ALL = "outcomes, retries, pace, checkpoints, digest"
ENTRIES = (
    Entry(
        f"ours, batches of {_BATCH}",
        "ours",
        {"batch_size": _BATCH, "verify_task_id": True},
        in_batches=True,
        goals={"speed": 20_000, "cpu_ms": 0.06, "rss_mb": 300},
    ),
    Entry("ours, batches found out by itself", "ours", {"batch_size": "auto", "verify_task_id": True}, in_batches=True),
    Entry("ours, single requests", "ours", goals={"times": 4.5, "cpu_ms": 0.28, "rss_mb": 300}),
    Entry("Daft, JSON read into columns", "daft", leaves_out=_ALL + ", time columns, drift"),
    Entry("Daft, bodies alone", "daft", {"as_columns": False}, leaves_out=_ALL + ", reading the JSON"),
    Entry("aiohttp, orjson, pyarrow", "aiohttp_parquet", leaves_out=_ALL + ", time columns, drift, flat memory"),
    Entry("dlt", "dlt", leaves_out="outcomes, pace, resuming, digest, raw body", tasks=5_000),
    Entry("aiohttp", "aiohttp", leaves_out=_ALL + ", any file"),
    Entry("requests", "requests", leaves_out=_ALL + ", any file", tasks=10_000),
    Entry("lumaai", "lumaai", leaves_out="outcomes, pace, checkpoints, digest, any file", tasks=10_000),
)


def at_no_latency(tasks: int, rounds: int, url: str, batches: str) -> list[str]:
    """The table of all rivals, the median of `rounds` in turn."""
    runs: dict[str, list[dict[str, float]]] = {entry.title: [] for entry in ENTRIES}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for entry in ENTRIES:
            count = min(tasks, entry.tasks)
            figures = measure(entry.rival, batches if entry.in_batches else url, count, **entry.settings)
            runs[entry.title].append({**figures, "speed": count / figures["seconds"]})
    medians = {
        title: {name: statistics.median(run[name] for run in found) for name in ("speed", "cpu_ms", "rss_mb")}
        for title, found in runs.items()
    }
    lines = [
        "| | tasks/s | times dlt | CPU ms a task | peak MB | leaves out |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for entry in ENTRIES:
        found = medians[entry.title]
        found["times"] = found["speed"] / medians["dlt"]["speed"]
        cells = [
            _with_goal(found[name], form, entry.goals.get(name), name in ("speed", "times"))
            for name, form in (("speed", ",.0f"), ("times", ".1f"), ("cpu_ms", ".3f"), ("rss_mb", ".0f"))
        ]
        lines.append(f"| {entry.title} | {' | '.join(cells)} | {entry.leaves_out} |")
    return lines


def _with_goal(figure: float, form: str, goal: float | None, is_least: bool) -> str:
    if goal is None:
        return format(figure, form)
    is_met = figure >= goal if is_least else figure <= goal
    return f"{figure:{form}} ({'' if is_met else 'missed: '}{'≥' if is_least else '≤'} {goal:{form}})"


def against_latency(tasks: int) -> list[str]:
    """Rows of the table at 200 ms latency."""
    rows = []
    ideal = tasks * _LATENCY / _CONCURRENCY
    for name in ("ours", "requests", "lumaai"):
        server = SlowServer(_LATENCY)
        figures = measure(name, server.url if name != "lumaai" else server.url.replace("/luma", ""), tasks)
        server.stop()
        share = ideal / figures["seconds"]
        rows.append(f"| {name} | {tasks / figures['seconds']:.1f} | {share:.1%} | {figures['cpu_ms']:.2f} |")
    return rows


def against_a_limit(tasks: int, rate: float) -> list[str]:
    """Rows of the table against a limit."""
    rows = []
    for name, settings in (("paced", {"requests_per_second": rate}), ("adaptive", {})):
        server = SlowServer(0.02, rate)
        figures = measure("ours", server.url, tasks, **settings)
        total, refused = server.stop()
        ratio = figures["seconds"] / (tasks / rate)
        rows.append(f"| {name} | {ratio:.3f} | {refused / total:.2%} | {total} |")
    return rows


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limited", type=int, default=3_000, help="tasks against a limit of 100 requests/s")
    parser.add_argument("--million", action="store_true", help="also a million tasks in one partition")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, url, tasks, settings = arguments.run
        run_here(name, url, int(tasks), json.loads(settings))
        return
    packages = ("pyarrow", "requests", "msgspec", "daft", "dlt", "aiohttp", "orjson", "lumaai")
    lines = [
        f"{os.cpu_count()} cores, Python {platform.python_version()}; "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f". Load average of the machine before the first run: {os.getloadavg()[0]:.1f}.",
        "",
        f"No latency, {arguments.tasks:,} tasks to Parquet, median of {arguments.rounds} rounds in turn. Servers on "
        "the same cores: nginx for single requests, for batches a process that answers out of memory. Goals are in "
        "brackets. The last three keep nothing on disk; dlt, requests and lumaai ask for fewer tasks. Outcomes are a "
        "row for each task, whatever came back.",
        "",
    ]
    with static_server() as url, batch_server(arguments.tasks, _BATCH) as batches:
        lines += at_no_latency(arguments.tasks, arguments.rounds, url, batches)
        if arguments.million:
            lines += ["", _million(url)]
    lines += ["", _flattening_line(), "", *_latency_table(), "", *_limit_table(arguments.limited)]
    write_section("resolve", "Asking for tasks", lines)
    print("\n".join(lines))


def _million(url: str) -> str:
    million = measure("ours", url, 1_000_000)
    return (
        f"A million tasks in one partition: {1e6 / million['seconds']:,.0f} tasks/s, {million['cpu_ms']:.3f} ms CPU a "
        f"task, peak memory {million['rss_mb']:.0f} MB (goal: 600)."
    )


def _flattening_line() -> str:
    ours_us = measure("flatten_ours", "", 10_000)["microseconds"]
    pandas_us = measure("flatten_pandas", "", 10_000)["microseconds"]
    arrow_us = measure("flatten_pandas_to_arrow", "", 10_000)["microseconds"]
    return (
        f"Flattening, 500 at a time: ours {ours_us:.1f} µs a task (typed Arrow columns, the raw body and the outcome "
        f"among them), pandas.json_normalize {pandas_us:.1f} µs ({pandas_us / ours_us:.2f} times as much), with its "
        f"frame turned into an Arrow table {arrow_us:.1f} µs ({arrow_us / ours_us:.2f} times)."
    )


def _latency_table() -> list[str]:
    return [
        f"{_LATENCY * 1000:.0f} ms latency, {_CONCURRENCY} at once, 1,600 tasks:",
        "",
        "| | tasks/s | of the ideal | CPU ms a task |",
        "| --- | ---: | ---: | ---: |",
        *against_latency(1_600),
    ]


def _limit_table(tasks: int) -> list[str]:
    return [
        f"A limit of 100 requests/s with a burst of 10, {tasks:,} tasks, 429 above with `Retry-After: 1`:",
        "",
        "| pace | time, of N ÷ R | answered 429 | requests |",
        "| --- | ---: | ---: | ---: |",
        *against_a_limit(tasks, 100.0),
    ]


if __name__ == "__main__":
    main()
