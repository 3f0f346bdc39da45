"""One limit, many runs: real processes of the client against the sandbox's provider, which answers after 50 ms.

    python -m benchmarks.limit                      everything, about nine minutes
    python -m benchmarks.limit --only "4 x" --show  some cases, to look at: RESULTS.md stays as it is
    python -m benchmarks.limit --before CHECKOUT    the cases of an earlier version too, out of its checkout
    python -m benchmarks.limit --coordinator URL    and with a database that the runs share (`LUMA_SHARED_LIMIT`)

A case is so many runs under a limit of so many requests a second, together or each a second after the one before. They
see one another through a folder, as runs with one data root do, unless the case says that they share nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import write_section

_HERE = Path(__file__).parent.parent
_LATENCY = 0.05
_SHORT, _ROUNDS = 25.0, 3
"""A case that lasts fewer seconds is measured so many times: each of its figures is the median."""
_MOST_TIME, _MOST_KNOWN, _MOST_REFUSED, _MOST_UNFAIR = 1.15, 1.05, 0.02, 1.3
"""The goals: time as a share of tasks through limit, the same where the limit is known or shared by a coordinator, the
share of requests that is refused, and the slowest run's time through the fastest's where they start together."""


@dataclass(frozen=True)
class Case:
    """So many runs with so many tasks each, `stagger` seconds apart.

    known: A run before has learnt the limit.
    alone: The runs share no data root.
    """

    runs: int
    tasks: int
    rate: int
    retry_after: int | None = None
    stagger: float = 0.0
    known: bool = False
    alone: bool = False

    @property
    def burst(self) -> int:
        """A tenth of a second's requests."""
        return self.rate // 10

    @property
    def ideal(self) -> float:
        """Seconds in which the limit lets all tasks through."""
        return self.runs * self.tasks / self.rate

    def __str__(self) -> str:
        refusals = "no `Retry-After`" if self.retry_after is None else f"`Retry-After: {self.retry_after}`"
        start = "" if self.runs == 1 else ", together" if not self.stagger else f", {self.stagger:g} s apart"
        known = ", the limit known" if self.known else ""
        alone = ", sharing nothing" if self.alone else ""
        return f"{self.runs} x {self.tasks:,}, {self.rate}/s, {refusals}{start}{known}{alone}"


CASES = [
    *(
        Case(1, tasks, rate, after, known=known)
        for tasks in (300, 3000)
        for rate, after in ((100, 1), (50, 2))
        for known in (False, True)
    ),
    Case(1, 300, 100),
    Case(1, 300, 50),
    *(
        Case(runs, 300, rate, after, stagger)
        for runs in (2, 4, 8)
        for rate, retry_after in ((100, 1), (50, 2))
        for after in (retry_after, None)
        for stagger in (0.0, 1.0)
    ),
    *(Case(4, 1000, 100, after) for after in (1, None)),
    Case(8, 1000, 100, 1),
    *(Case(2, 300, 100, after, stagger, alone=True) for after, stagger in ((1, 0.0), (None, 1.0))),
    Case(8, 300, 50, 2, alone=True),
]
"""Those of the issue among them: 4 x 1,000 under 100/s, and 8 x 300 under 50/s a second apart."""


@dataclass(frozen=True)
class Figures:
    """Time through the ideal one, the share that was refused, and the slowest run's time through the fastest's."""

    time: float
    refused: float
    unfair: float

    def cells(self, case: Case, *, is_known: bool = False) -> str:
        """Cells of the table; what misses its goal is in bold."""
        most = _MOST_KNOWN if case.known or is_known else _MOST_TIME
        unfair = f"{self.unfair:.2f}" if case.runs > 1 else "-"
        if case.runs > 1 and not case.stagger and self.unfair > _MOST_UNFAIR:
            unfair = f"**{unfair}**"
        time_ = f"{self.time:.2f}" if self.time <= most else f"**{self.time:.2f}**"
        refused = f"{self.refused:.1%}" if self.refused < _MOST_REFUSED else f"**{self.refused:.1%}**"
        return f"{time_} | {refused} | {unfair}"


PROVIDER = """
import sys
from luma_pipeline.sandbox.provider import Generation, ProviderServer, RateLimit
latency, rate, burst, retry_after = sys.argv[1:]
with ProviderServer(make=Generation, log_limit=1) as server:
    server.token = None
    server.latency_seconds = float(latency)
    limit = RateLimit(float(rate), int(burst), int(retry_after) if retry_after else None)
    server.rate_limit = limit
    print(server.base_url, flush=True)
    for line in sys.stdin:
        print(server.total, server.count_status(429), flush=True)
        server.clear_log()
        server.rate_limit = limit
"""
RUN = """
import json, sys, time
from luma_pipeline.luma import LumaClient, ProviderConfig
url, name, tasks, limiter = sys.argv[1:]
config = ProviderConfig(token="benchmark", base_url=url, verify_task_id=False)
ids = [f"{name}-{number}" for number in range(int(tasks))]
limiter, keep = __import__("benchmarks.limit").limit.limiter(limiter, config) if limiter else (None, None)
client = LumaClient(config, limiter) if limiter else LumaClient(config)
with client:
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    answered = sum(result.outcome == "resolved" for result in client.fetch(ids))
    ended = time.monotonic()
    if keep:
        keep()
print(json.dumps([started, ended, answered]), flush=True)
"""


def limiter(kind: str, config: Any) -> tuple[Any, Callable[[], None]]:
    """The limiter of a run, and what the run calls at its end.

    `kind`: `seen=` and the root of the datasets, or `shared=`, the limit, `=` and the URL of a database.
    """
    from luma_pipeline.dataset import Dataset
    from luma_pipeline.engine.client import open_limiter
    from luma_pipeline.engine.learnt import LimitMemory

    name, _, rest = kind.partition("=")
    if name == "seen":
        memory = LimitMemory(Dataset(url=rest), config)

        def end() -> None:
            memory.keep()
            memory.close()

        return memory.limiter, end
    rate, _, url = rest.partition("=")
    return open_limiter(replace(config, requests_per_second=float(rate)), url), lambda: None


class _Process:
    """A Python process that is spoken with in lines."""

    def __init__(self, code: str, *arguments: object, package: Path = _HERE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=package,
            env={**os.environ, "PYTHONPATH": str(package)},
        )

    def say(self) -> None:
        """Write an empty line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """Read a line. Raises RuntimeError where the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return line.strip()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _process(code: str, *arguments: object, package: Path = _HERE) -> Iterator[_Process]:
    process = _Process(code, *arguments, package=package)
    try:
        yield process
    finally:
        process.end()


def measure(case: Case, package: Path = _HERE, coordinator: str | None = None) -> Figures:
    """Run a case with the code of `package`, with a coordinator if its URL is given; a short one more than once."""
    rounds = [_round(case, package, coordinator) for _ in range(_ROUNDS if case.ideal < _SHORT else 1)]
    return Figures(*(median(getattr(each, field.name) for each in rounds) for field in fields(Figures)))


def _round(case: Case, package: Path, coordinator: str | None) -> Figures:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        retry_after = "" if case.retry_after is None else case.retry_after
        provider = stack.enter_context(_process(PROVIDER, _LATENCY, case.rate, case.burst, retry_after))
        url = provider.line()
        if case.known:
            _times(case, url, f"seen={directory}", package)
            provider.say()
            provider.line()
        kind = "" if case.alone else f"seen={directory}"
        if coordinator is not None:
            kind = f"shared={case.rate}={coordinator}"
        times = _times(case, url, kind, package)
        provider.say()
        total, refused = map(int, provider.line().split())
    lasted = [ended - started for started, ended in times]
    seconds = max(ended for _, ended in times) - min(started for started, _ in times)
    return Figures(seconds / case.ideal, refused / total, max(lasted) / min(lasted))


def _times(case: Case, url: str, kind: str, package: Path) -> list[tuple[float, float]]:
    """Start and end of each run, in monotonic seconds."""
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(_process(RUN, url, f"run-{number}", case.tasks, kind, package=package))
            for number in range(case.runs)
        ]
        for run in runs:
            run.line()
        for number, run in enumerate(runs):
            time.sleep(case.stagger if number else 0.0)
            run.say()
        found = [json.loads(run.line()) for run in runs]
    if any(answered != case.tasks for _, _, answered in found):
        raise RuntimeError(f"{case}: tasks without an answer")
    return [(started, ended) for started, ended, _ in found]


def table(cases: Sequence[Case], at_once: int, before: Path | None, coordinator: str | None) -> list[str]:
    """The lines of the table. `at_once` cases are measured at a time: each leaves the processor mostly idle."""
    head = ["runs x tasks each", "time of N ÷ R", "refused", "slowest to fastest"]
    if before is not None:
        head += ["before: time", "refused", "slowest to fastest"]
    if coordinator is not None:
        head += ["coordinator: time", "refused", "slowest to fastest"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]

    def row(case: Case) -> str:
        cells = measure(case).cells(case)
        if before is not None:
            is_old = not case.known
            cells += f" | {measure(replace(case, alone=True), before).cells(case)}" if is_old else " | | | "
        if coordinator is not None:
            is_shared = not case.known and not case.alone
            shared = measure(case, coordinator=coordinator).cells(case, is_known=True) if is_shared else " | | "
            cells += f" | {shared}"
        print(f"| {case} | {cells} |", flush=True)
        return f"| {case} | {cells} |"

    with ThreadPoolExecutor(at_once) as pool:
        return lines + list(pool.map(row, cases))


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="cases whose name has this text; may be repeated")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--coordinator", metavar="URL", help="a database that the runs share")
    parser.add_argument("--at-once", type=int, default=4, help="cases at a time")
    parser.add_argument("--show", action="store_true", help="do not write RESULTS.md")
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.only or any(text in str(case) for text in arguments.only)]
    load = os.getloadavg()[0]
    lines = [
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {load:.1f} before the first run. "
        f"{arguments.at_once} cases at a time, each run a process of its own, the provider answers after "
        f"{_LATENCY * 1000:.0f} ms, its burst is a tenth of its limit. Of cases shorter than "
        f"{_SHORT:.0f} s, the median of {_ROUNDS}. Runs share a data root, nothing is known of the limit, unless it "
        "says so.",
        "",
        f"Goals: time within {_MOST_TIME} of N ÷ R ({_MOST_KNOWN} with the limit known), under {_MOST_REFUSED:.0%} "
        f"refused, and the slowest run at most {_MOST_UNFAIR} times the fastest where they start together. **Bold**: "
        "missed.",
        "",
        *table(cases, arguments.at_once, arguments.before, arguments.coordinator),
    ]
    if not arguments.show:
        write_section("limit", "One limit, many runs", lines)


if __name__ == "__main__":
    main()
