"""The engine: when a task is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["GiveUpPolicy"]


class GiveUpPolicy:
    """When a task that was not found, a video that could not be copied, or a partition with open tasks is left alone.

    A run and a tick have one policy each, so that all their decisions count from one `now`.

    >>> from datetime import timezone
    >>> policy = GiveUpPolicy(3600.0, datetime(2024, 12, 24, 12, tzinfo=timezone.utc))
    >>> policy.on(datetime(2024, 12, 24, 10, 59, tzinfo=timezone.utc))
    True
    """

    def __init__(self, after_seconds: float, now: datetime, *, never: bool = False) -> None:
        self._before = _FIRST_TIME if never else now - timedelta(seconds=after_seconds)

    def on(self, at: datetime | None) -> bool:
        """Whether a task submitted at that time, or a partition whose window ended then, is given up."""
        return at is not None and at < self._before

    def on_all(self, submitted_at: pa.ChunkedArray) -> pa.ChunkedArray:
        """`on` for a column of times."""
        return pc.fill_null(pc.less(submitted_at, pa.scalar(self._before, TIMESTAMP)), False)


_FIRST_TIME = datetime.min.replace(tzinfo=UTC)
