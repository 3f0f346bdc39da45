"""The engine: threads that cannot keep a run, or a process, from ending.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter exits. A thread that waits for a stalled
server would hold up that exit, so the engine starts daemon threads of its own and abandons those that do not end.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["end_all", "finish", "for_each", "start"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


def start(work: Callable[[], T], name: str) -> Future[T]:
    """Call `work` in a daemon thread; the future has its result or its exception.

    >>> start(lambda: 6 * 7, "answer").result()
    42
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - the future's reader gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def for_each(
    work: Callable[[T], None], items: Iterable[T], *, at_once: int, stopping: threading.Event, name: str
) -> None:
    """Call `work` with each item, some at once in daemon threads; raises what the first call that failed raised.

    When `stopping` is set no further call is begun.
    """
    to_do: queue.SimpleQueue[T] = queue.SimpleQueue()
    for item in items:
        to_do.put(item)

    def work_off() -> None:
        while not stopping.is_set():
            try:
                item = to_do.get_nowait()
            except queue.Empty:
                return
            work(item)

    threads = [start(work_off, f"{name}-{number}") for number in range(min(at_once, to_do.qsize()))]
    for thread in threads:
        thread.result()


def finish(work: Callable[[], T], name: str) -> T:
    """Call `work`, which must be bounded in time, to its end; an interrupt that comes meanwhile does not cut it short.

    The interrupt is dropped: this is for the stop that an earlier interrupt has asked for.
    """
    future = start(work, name)
    while True:
        try:
            return future.result()
        except BaseException:
            if future.done():
                raise


def end_all(closings: Sequence[tuple[str, Callable[[], object]]], *, seconds: float, seconds_each: float) -> list[str]:
    """Call each closing in order: the next one begins when the one before has ended or has had `seconds_each`.

    Returns the names of those that have not ended within `seconds` in all; their threads are abandoned. An error of a
    closing is logged: the caller is on its way out with an error of its own.
    """
    deadline = time.monotonic() + seconds
    begun: dict[Future[object], str] = {}
    for name, close in closings:
        future = start(close, f"luma-stop {name}")
        begun[future] = name
        wait([future], timeout=max(0.0, min(seconds_each, deadline - time.monotonic())))
    done, late = wait(begun, timeout=max(0.0, deadline - time.monotonic()))
    for future in done:
        if (error := future.exception()) is not None:
            _log.warning("%s was not closed well: %s", begun[future], error)
    return [begun[future] for future in late]
