"""The engine: how far a run is."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from luma_pipeline.engine.partition import PartitionReport
from luma_pipeline.media import CopyStatus

__all__ = ["Progress", "ProgressCounter"]


@dataclass(frozen=True)
class Progress:
    """How far a run is. `tasks` counts those found so far, some of which may be final and so are not asked for.

    >>> print(Progress(partitions=2, partitions_done=1, tasks=50, asked=40, copied=12, bytes_copied=3e6, seconds=4.0))
    1 of 2 partitions done, 40 tasks asked (10.0/s), 3.0 MB copied (0.8 MB/s), about 4 s left
    """

    partitions: int
    partitions_done: int
    tasks: int
    asked: int
    copied: int
    bytes_copied: float
    seconds: float

    def __str__(self) -> str:
        megabytes = self.bytes_copied / 1e6
        return (
            f"{self.partitions_done} of {self.partitions} partitions done, {self.asked} tasks asked "
            f"({self.asked / self.seconds:.1f}/s), {megabytes:.1f} MB copied ({megabytes / self.seconds:.1f} MB/s)"
            + self._left()
        )

    def _left(self) -> str:
        if self.partitions_done:
            left = (self.partitions - self.partitions_done) * self.seconds / self.partitions_done
            return f", about {left:.0f} s left" if left else ""
        # Some of the tasks may be final, and so are not asked for.
        left = (self.tasks - self.asked) * self.seconds / self.asked if self.asked else 0.0
        return f", at most {left:.0f} s left for the first {self.tasks} tasks" if left else ""


class ProgressCounter:
    """Counts what a run does; thread-safe. See `WorkProgress` for `found` and `answered`."""

    def __init__(self) -> None:
        self._partitions = self._done = self._tasks = self._asked = self._copied = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def begin(self, partitions: int) -> None:
        """So many partitions are to be done; the time counts from here."""
        self._partitions, self._started = partitions, time.monotonic()

    def found(self, tasks: int) -> None:
        """See `WorkProgress.found`."""
        with self._lock:
            self._tasks += tasks

    def answered(self) -> None:
        """See `WorkProgress.answered`."""
        with self._lock:
            self._asked += 1

    def add(self, report: PartitionReport) -> None:
        """A partition is done."""
        self._done += 1
        if report.videos is not None:
            self._copied += report.videos.statuses[CopyStatus.COPIED.value]

    def now(self, bytes_copied: int) -> Progress:
        """How far the run is."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        return Progress(
            self._partitions, self._done, self._tasks, self._asked, self._copied, float(bytes_copied), seconds
        )
