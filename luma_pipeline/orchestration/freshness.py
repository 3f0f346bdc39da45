"""How old the assets may get before the UI calls them stale: as old as the schedule lets them get, and a grace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import dagster as dg

# Dagster's own reading of a cron string, which its schedules follow.
from dagster._utils.schedules import is_valid_cron_string, schedule_execution_time_iterator

__all__ = ["GRACE", "freshness_policy", "largest_gap"]

GRACE = timedelta(hours=1)
"""What a run may take, with its wait in the queue, before the assets look stale."""

# A Thursday in October: a weekend, the end of summer time, a month's and a year's turn are soon to come.
_FIRST = datetime(2026, 10, 15, tzinfo=UTC)
_MOST_DAYS = 800
_MOST_TICKS = 3000


def freshness_policy(
    cron: str, timezone: str, *, running: bool, hours: float | None = None
) -> dg.FreshnessPolicy | None:
    """When the assets count as stale; None: never.

    `hours` is a person's own setting, 0 for never. Without it a schedule that is on decides: the assets may be as old
    as the longest time between two of its ticks, and GRACE. One that is off promises nothing.

    Raises:
        ValueError: `hours` is between 0 and the minute that Dagster demands.
    """
    if hours is None:
        gap = largest_gap(cron, timezone) if running and is_valid_cron_string(cron) else None
        return dg.FreshnessPolicy.time_window(fail_window=gap + GRACE) if gap is not None else None
    if hours == 0:
        return None
    window = timedelta(hours=hours)
    if window < timedelta(minutes=1):
        raise ValueError(f"must be 0 (never) or at least a minute (0.017 hours), not {hours}")
    return dg.FreshnessPolicy.time_window(fail_window=window)


def largest_gap(cron: str, timezone: str) -> timedelta | None:
    """The longest time between two ticks that follow each other; None where there are no two.

    Looked up in the ticks of two years, or in the first 3000 of them: 2 days of a tick each minute.

    >>> largest_gap("0 6 * * *", "UTC"), largest_gap("0 6 * * 1-5", "UTC")
    (datetime.timedelta(days=1), datetime.timedelta(days=3))
    """
    ticks = islice(schedule_execution_time_iterator(_FIRST.timestamp(), cron, timezone), _MOST_TICKS)
    last = _FIRST + timedelta(days=_MOST_DAYS)
    gaps = []
    for earlier, later in pairwise(ticks):
        gaps.append(later.astimezone(UTC) - earlier.astimezone(UTC))
        if later > last:
            break
    return max(gaps, default=None)
