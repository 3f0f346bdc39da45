"""The engine: which objects that the manifest knows a run looks at in the store. The others are believed."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from luma_pipeline.dataset import Dataset

__all__ = ["VERIFIED_MARKS", "Look", "Looks"]

VERIFIED_MARKS = "verified"
"""The marks of what was looked at as a whole, such as a partition's objects; each tells when."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Look:
    """The numbers of the manifest's rows whose objects are looked at. `is_whole`: those of all that it knows.

    `is_noted`: when it was done is to be noted, so that the next is due only after the time that the settings say.
    """

    numbers: npt.NDArray[np.int64]
    is_whole: bool = False
    is_noted: bool = False


class Looks:
    """Chooses the objects that a run looks at: all of a partition where that is due, else a few of the run's.

    All are due when the run is told to verify, when a check has found some of them lost, and when an object was copied,
    and the partition looked at, longer than `after_seconds` ago. `most` is how many are picked at random of the others,
    in the whole run; None looks at all of them. Thread-safe.
    """

    def __init__(self, dataset: Dataset, most: int | None, after_seconds: float, *, verify: bool = False) -> None:
        self._marks = dataset.marks(VERIFIED_MARKS)
        verdicts = dataset.verdicts().listed().by_mark
        self._lost = {mark for mark, verdict in verdicts.items() if verdict.videos is not None and verdict.videos.lost}
        self._most = most
        self._verify = verify
        self._oldest = datetime.now(UTC) - timedelta(seconds=after_seconds)
        self._partitions = 1
        self._lock = threading.Lock()

    def share_out(self, partitions: int) -> None:
        """Pick few enough of each of so many partitions."""
        self._partitions = partitions

    def of(self, mark: str, known: npt.NDArray[np.int64], copied_at: npt.NDArray[np.int64]) -> Look:
        """The look at one partition. `known` are the numbers of its objects, `copied_at` microseconds since 1970."""
        if not len(known):
            return Look(known)
        oldest = (self._oldest - _EPOCH) // _MICROSECOND
        is_due = self._verify or (int(copied_at.min()) < oldest and not self._was_verified(mark))
        if is_due or mark in self._lost or self._most is None:
            return Look(known, is_whole=True, is_noted=is_due)
        return Look(np.array(random.sample(known.tolist(), self._take(len(known))), dtype=np.int64))

    def note(self, mark: str) -> None:
        """All objects of the partition have been looked at."""
        self._marks.set(mark)

    def _was_verified(self, mark: str) -> bool:
        verified_at = self._marks.set_at(mark)
        return verified_at is not None and verified_at >= self._oldest

    def _take(self, most: int) -> int:
        """This partition's part of what is left of the run's sample."""
        with self._lock:
            left = self._most or 0
            share = left / max(1, self._partitions)
            count = min(most, int(share) + (random.random() < share % 1))  # noqa: S311  (no secret)
            self._partitions -= 1
            self._most = left - count
            return count
