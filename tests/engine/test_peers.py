"""Runs of one account see one another through the root of the datasets, and what is wrong there stops none of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.learnt import LimitMemory
from luma_pipeline.limit import Peer, account_name
from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer, RateLimit
from tests.media.faulty_store import FaultyStore
from tests.media.stores import Store
from tests.stalling import StallingProxy
from tests.waiting import wait_until

RATE = 60


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer(make=Generation) as server:
        server.rate_limit = RateLimit(RATE, burst=6, retry_after=1)
        server.latency_seconds = 0.02
        yield server


@dataclass
class AtWork:
    """A run that asks for one task after another until it is told to stop."""

    client: LumaClient
    limit: LimitMemory
    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def ask(self) -> None:
        def tasks() -> Iterator[str]:
            number = 0
            while not self.stop.is_set():
                number += 1
                yield f"task-{number}"

        for _ in self.client.fetch(tasks()):
            self.asked += 1


@contextmanager
def asking(run: AtWork) -> Iterator[AtWork]:
    thread = threading.Thread(target=run.ask)
    thread.start()
    try:
        yield run
    finally:
        run.stop.set()
        thread.join()


@contextmanager
def at_work(data_url: str, provider: ProviderServer) -> Iterator[AtWork]:
    config = ProviderConfig(token=TOKEN, base_url=provider.base_url)
    dataset = Dataset(url=data_url)
    limit = LimitMemory(dataset, config)
    with LumaClient(config, limit.limiter) as client:
        try:
            with asking(AtWork(client, limit)) as run:
                yield run
        finally:
            limit.close()
    dataset.close()


def account(provider: ProviderServer) -> str:
    return account_name(urlsplit(provider.base_url).netloc, TOKEN)


def entries(root: Path) -> list[Path]:
    return sorted(root.glob("_limits/*/*"))


def told(root: Path) -> list[Peer]:
    found = []
    for path in entries(root):
        with open(path, "rb") as file:
            found.append(Peer.parse(file.read()))
    return found


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, bool, timeout=30)


def test_runs_tell_each_other_and_leave_nothing(tmp_path: Path, provider: ProviderServer) -> None:
    root = str(tmp_path)
    with at_work(root, provider) as one, at_work(root, provider) as other:
        until(lambda: [peer.runs for peer in told(tmp_path)] == [2, 2])
        until(lambda: all(peer.is_measured for peer in told(tmp_path)))
        assert [each.limit.limiter.peer(0).runs for each in (one, other)] == [2, 2]
        content = "".join(path.read_text() + path.name for path in entries(tmp_path))
        assert TOKEN not in content
        assert "127.0.0.1" not in content
        with at_work(root, provider) as third:
            until(lambda: third.asked > 0)
            # It begins with a third of what the others have found, and has nothing to find.
            assert third.limit.limiter.peer(0).is_measured
            until(lambda: [peer.runs for peer in told(tmp_path)] == [3, 3, 3])
        until(lambda: [peer.runs for peer in told(tmp_path)] == [2, 2])
    assert not entries(tmp_path)
    assert not list(tmp_path.glob("_limits/*/"))


def test_a_run_that_asks_for_nothing_for_a_while_leaves_its_part(
    tmp_path: Path, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luma_pipeline.engine.peers._AWAY", 0.5)
    with at_work(str(tmp_path), provider) as run:
        until(lambda: len(entries(tmp_path)) == 1)
        run.stop.set()
        until(lambda: not entries(tmp_path))
        with asking(AtWork(run.client, run.limit)):
            until(lambda: len(entries(tmp_path)) == 1)
    assert not entries(tmp_path)


FEW = 3


def test_a_run_of_a_few_tasks_makes_one_listing_and_one_of_none_makes_none(
    provider: ProviderServer, seaweedfs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with requests_to(seaweedfs, monkeypatch) as (url, store):
        config = ProviderConfig(token=TOKEN, base_url=provider.base_url)
        for tasks in (0, FEW):
            dataset = Dataset(url=url)
            limit = LimitMemory(dataset, config)
            with LumaClient(config, limit.limiter) as client:
                assert len(list(client.fetch(f"task-{number}" for number in range(tasks)))) == tasks
            limit.keep()
            time.sleep(0.6 if tasks else 0.0)  # as while what was found is written
            limit.close()
            dataset.close()
            asked = [(request.method, request.is_listing) for request in store.seen]
            assert asked == ([("GET", False), ("GET", True)] if tasks else [])


@contextmanager
def requests_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FaultyStore]]:
    """The URL of a root of its own, and a proxy on the way there that sees each request."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"peers-{time.time_ns()}"
    store.client().create_bucket(Bucket=bucket)
    with FaultyStore(store.port, lambda *_: None) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        yield f"s3://{bucket}/luma", faulty


def test_runs_see_one_another_in_a_bucket_by_three_requests_a_look(
    provider: ProviderServer, seaweedfs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with requests_to(seaweedfs, monkeypatch) as (url, store):
        with at_work(url, provider) as one, at_work(url, provider) as other:
            until(lambda: [each.limit.limiter.peer(0).runs for each in (one, other)] == [2, 2])
            until(lambda: one.asked + other.asked > 150)
        peers = Dataset(url=url).peers()
        assert peers.told_at(account(provider)) == {}
        kinds = ["LIST" if request.is_listing else request.method for request in store.seen]
        looks = kinds.count("LIST")
        assert kinds.count("PUT") <= looks + 2
        assert kinds.count("GET") <= looks + 4
        assert len(kinds) <= 3 * looks + 10


def test_what_a_killed_run_left_is_not_counted_and_goes_after_an_hour(tmp_path: Path, provider: ProviderServer) -> None:
    folder = tmp_path / "_limits" / account(provider)
    folder.mkdir(parents=True)
    old, killed = folder / f"{'1' * 16}.json", folder / f"{'2' * 16}.json"
    for path, seconds in ((old, 7200), (killed, 60)):
        path.write_bytes(Peer(1000.0, 10.0, frozenset(), True, True, True, 1).to_json())
        os.utime(path, (time.time() - seconds, time.time() - seconds))
    with at_work(str(tmp_path), provider) as run:
        until(lambda: not old.exists())
        assert run.limit.limiter.peer(0).runs == 1
        assert killed.exists()
    assert entries(tmp_path) == [killed]


def spoilt_entry(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{'1' * 16}.json").write_text('{"version": 99}')


def no_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")


def foreign_folder(folder: Path) -> None:
    (folder / f"{'1' * 16}.json").mkdir(parents=True)
    (folder / "notes.txt").parent.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_text("nobody's")


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [(spoilt_entry, ["version 99"]), (no_folder, ["by refusals alone"]), (foreign_folder, [])],
    ids=["an entry", "the folder", "what is foreign"],
)
def test_what_is_wrong_with_the_entries_is_told_once_and_stops_nobody(
    tmp_path: Path,
    provider: ProviderServer,
    spoil: Callable[[Path], None],
    messages: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(tmp_path / "_limits" / account(provider))
    with caplog.at_level(logging.WARNING), at_work(str(tmp_path), provider) as run:
        until(lambda: run.asked > 2 * RATE)
    found = [record.getMessage() for record in caplog.records if record.name == "luma_pipeline.engine.peers"]
    assert len(found) == len(messages)
    assert all(words in message for words, message in zip(messages, found, strict=True))


def test_a_store_that_stalls_holds_up_nothing_but_the_first_request(
    provider: ProviderServer, seaweedfs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with requests_to(seaweedfs, monkeypatch) as (url, store), StallingProxy(store.endpoint) as stalling:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stalling.url)
        with at_work(url, provider) as run:
            until(lambda: run.limit.limiter.peer(0).beat == 0 and run.asked > 20)
            stalling.stalled.set()
            asked = run.asked
            until(lambda: run.asked > asked + 2 * RATE)
            started = time.monotonic()
            run.limit.close()
            assert time.monotonic() - started < 5.0
            stalling.stalled.clear()


# -- with processes ---------------------------------------------------------------------------------------------------


class Process:
    """A run in a process of its own."""

    def __init__(self, root: Path, provider: ProviderServer, tasks: int, name: str) -> None:
        command = [sys.executable, "-m", "tests.engine.seen_run", str(root), provider.base_url, str(tasks), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._output, self._input = self._process.stdout, self._process.stdin

    def start(self) -> None:
        assert self._output.readline() == "ready\n"
        self._input.write("\n")
        self._input.flush()

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)

    def seconds(self, tasks: int) -> float:
        report = json.loads(self._output.readline())
        assert report["resolved"] == tasks
        return float(report["seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_processes_share_the_limit_and_one_that_is_killed_leaves_an_entry(
    tmp_path: Path, provider: ProviderServer
) -> None:
    """Three runs under 60/s: two with 120 tasks, and one that is killed in the middle."""
    processes = [Process(tmp_path, provider, tasks, f"run-{tasks}") for tasks in (120, 121, 5_000)]
    try:
        for process in processes:
            process.start()
        until(lambda: len(entries(tmp_path)) == 3 and provider.total > 120)
        assert {peer.runs for peer in told(tmp_path)} <= {1, 2, 3}
        processes[2].kill()
        seconds = [processes[0].seconds(120), processes[1].seconds(121)]
        assert max(seconds) < 2.0 * min(seconds)
        assert len(entries(tmp_path)) == 1
    finally:
        for process in processes:
            process.close()
    assert provider.count_status(429) < 0.06 * provider.total
