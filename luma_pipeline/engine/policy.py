"""The engine: when a task is given up."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["GiveUpPolicy"]


class GiveUpPolicy:
    """When a task that was not found, or a video that could not be copied, is left alone."""

    def __init__(self, after_seconds: float, now: datetime, *, never: bool = False) -> None:
        self._before = None if never else now - timedelta(seconds=after_seconds)

    @property
    def before(self) -> datetime | None:
        """Tasks submitted before this time are given up; None gives up nothing."""
        return self._before

    def on(self, submitted_at: datetime | None) -> bool:
        """Whether a task of that age is given up."""
        return self._before is not None and submitted_at is not None and submitted_at < self._before
