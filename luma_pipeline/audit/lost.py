"""The audit's room: the objects that an audit finds lost, in the verdicts that the checks and later runs go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from luma_pipeline.audit.findings import Finding, Kind
from luma_pipeline.dataset import Dataset, VideosVerdict
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.luma import GATEWAY

__all__ = ["LostObjects"]

_LOST = frozenset({Kind.MISSING, Kind.TRUNCATED, Kind.WRONG_SIZE})
"""What a look at an object's size tells, as that of the check `videos_in_bucket`."""


class LostObjects:
    """Counts the lost objects of each partition, and keeps the count in its verdict.

    So the check `videos_in_bucket` says what the audit has seen, and a run over the partition looks at all its objects.
    `mark_of` gives the mark of a partition by its folder; None where the folder is no partition of today's settings.
    """

    def __init__(self, dataset: Dataset, mark_of: Callable[[str], str | None]) -> None:
        self._verdicts = dataset.verdicts()
        self._mark_of = mark_of
        self._seen = self._verdicts.listed().by_mark
        self._lost: Counter[str] = Counter()

    def count(self, finding: Finding) -> None:
        """Take a finding in; one that was repaired is none."""
        if finding.kind in _LOST and not finding.is_repaired and finding.partition is not None:
            self._lost[finding.partition] += 1

    def keep(self, folders: Iterable[str]) -> None:
        """Put the counts of these partitions, all of whose objects were looked at, into their verdicts.

        A verdict that a run has changed meanwhile stays.

        Raises DatasetError.
        """
        for folder in folders:
            mark = self._mark_of(folder)
            seen = None if mark is None else self._seen.get(mark)
            videos = VideosVerdict() if seen is None or seen.videos is None else seen.videos
            if mark is not None and videos.in_bucket and videos.lost != self._lost[folder]:
                Judge(self._verdicts, mark, GATEWAY).lose(self._lost[folder], videos)
