"""The engine: the marks that a run leaves of its partitions, for the schedule and the sensor that come after it."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

from luma_pipeline.dataset import Dataset

__all__ = ["OPEN_MARKS", "UNFINISHED_MARKS", "PartitionMarks"]

OPEN_MARKS = "open"
"""The marks of partitions that have tasks or videos to come back for."""
UNFINISHED_MARKS = "unfinished"
"""The marks of partitions that were last read when tasks of theirs could still come: before their window had ended, or
so soon after that a transaction begun in it could still be open."""


class PartitionMarks:
    """The marks of one kind, as a run over some partitions sees them. Thread-safe.

    A run over one partition looks at its mark. A run over more lists the marks with the same beginning, once. It does
    not see what another run marks after that. Such a mark stays, and costs one more run.
    """

    def __init__(self, dataset: Dataset, kind: str) -> None:
        self._marks = dataset.marks(kind)
        self._listed: frozenset[str] | None = None

    def share_out(self, names: Sequence[str]) -> None:
        """The marks of these partitions will be asked for."""
        if len(names) > 1:
            self._listed = frozenset(self._marks.listed(commonprefix(names)))  # noqa: RUF071  (of texts, no paths)

    def is_set(self, name: str) -> bool:
        """Whether a partition's mark is set."""
        return self._marks.set_at(name) is not None if self._listed is None else name in self._listed

    def set(self, name: str) -> None:
        """Set a mark, or set it again. One request."""
        self._marks.set(name)

    def clear(self, name: str) -> None:
        """Take a mark away, if it is there. A deletion would leave a version in some buckets."""
        if self.is_set(name):
            self._marks.remove(name)
