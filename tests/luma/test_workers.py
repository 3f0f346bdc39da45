"""No more threads at work than the latency needs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from luma_pipeline.luma.workers import WorkerPool


def run(work: Callable[[int], None], pieces: int, most: int = 16) -> Counter[str]:
    """Do work, and count the pieces of each thread."""
    by_thread: Counter[str] = Counter()
    done = threading.Semaphore(0)

    def do(piece: int) -> None:
        work(piece)
        by_thread[threading.current_thread().name] += 1
        done.release()

    pool: WorkerPool[int] = WorkerPool(do, most, "test")
    pool.put(range(pieces))
    for _ in range(pieces):
        while not done.acquire(timeout=0.05):
            pool.relieve()
    pool.close(5.0)
    return by_thread


def test_work_that_waits_is_done_by_all_threads() -> None:
    assert len(run(lambda _: time.sleep(0.03), 200)) == 16


class Clock:
    """Stands for the module `time` in the pool: no machine is too busy for it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now


def test_work_that_does_not_wait_is_done_by_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("luma_pipeline.luma.workers.time", clock)

    def compute(_: int) -> None:
        clock.now += 0.0002

    assert len(run(compute, 2_000)) <= 2


def test_the_thread_that_went_idle_last_is_woken_first() -> None:
    names: list[str] = []
    gate = threading.Semaphore(0)

    def work(_: int) -> None:
        time.sleep(0.02)
        names.append(threading.current_thread().name)
        gate.release()

    pool: WorkerPool[int] = WorkerPool(work, 8, "test")
    for _ in range(5):
        pool.put(range(8))
        for _ in range(8):
            assert gate.acquire(timeout=10.0)
    time.sleep(0.1)
    names.clear()
    for _ in range(10):
        pool.put([0])
        assert gate.acquire(timeout=10.0)
        time.sleep(0.05)
    assert Counter(names).most_common(1)[0][1] >= 8
    pool.close(5.0)


def test_pieces_that_stall_hold_up_no_others() -> None:
    stalls = threading.Event()
    done: list[int] = []

    def work(piece: int) -> None:
        if piece < 6:
            stalls.wait(30.0)
        done.append(piece)

    pool: WorkerPool[int] = WorkerPool(work, 8, "test")
    pool.put(range(500))
    ends_at = time.monotonic() + 20.0
    while len(done) < 494 and time.monotonic() < ends_at:
        time.sleep(0.02)
        pool.relieve()
    assert len(done) == 494
    stalls.set()
    pool.close(5.0)


def test_work_after_the_end_is_not_done() -> None:
    done: list[int] = []
    pool: WorkerPool[int] = WorkerPool(done.append, 2, "test")
    pool.close(1.0)
    pool.put([1])
    time.sleep(0.1)
    assert done == []
