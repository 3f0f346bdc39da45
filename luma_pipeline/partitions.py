"""Partitions: how submitted times fall into windows, and what a window's folder is called."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import Enum
from urllib.parse import quote

import dagster as dg
from dagster import TimeWindowPartitionsDefinition

__all__ = ["Frequency", "folder_of", "partitions_definition"]


class Frequency(str, Enum):
    """How long a partition's window is. Weeks begin on Monday, as in ISO 8601."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"

    def __str__(self) -> str:
        return self.value


def partitions_definition(frequency: Frequency, start: str, timezone_name: str) -> TimeWindowPartitionsDefinition:
    """The windows from the one that `start` (a date, YYYY-MM-DD) lies in up to the open one.

    `end_offset=1` makes the unfinished window a partition. Dagster would begin with the first week or month that
    starts after `start` and so leave the days before it in no partition; here the first window holds the start.

    Raises:
        ValueError: `start` is no date.
    """
    try:
        first = datetime.strptime(start, "%Y-%m-%d")  # noqa: DTZ007 - a date; Dagster adds the zone
    except ValueError:
        raise ValueError(f"LUMA_PARTITIONS_START must be a date such as 2024-12-24, not {start!r}") from None
    if frequency is Frequency.HOURLY:
        return dg.HourlyPartitionsDefinition(f"{first:%Y-%m-%d}-00:00", timezone=timezone_name, end_offset=1)
    if frequency is Frequency.DAILY:
        return dg.DailyPartitionsDefinition(f"{first:%Y-%m-%d}", timezone=timezone_name, end_offset=1)
    if frequency is Frequency.WEEKLY:
        monday = first - timedelta(days=first.weekday())
        return dg.WeeklyPartitionsDefinition(f"{monday:%Y-%m-%d}", timezone=timezone_name, end_offset=1, day_offset=1)
    return dg.MonthlyPartitionsDefinition(f"{first:%Y-%m}-01", timezone=timezone_name, end_offset=1)


def folder_of(definition: dg.PartitionsDefinition[str], partition_key: str) -> str:
    """The Hive folder of a partition, named after its window's start.

    Hours are named in UTC: the local hour that comes twice in autumn would name two partitions alike, and a
    partition's key has colons, which do not belong into the names of folders.
    """
    if not isinstance(definition, TimeWindowPartitionsDefinition):
        return f"partition={quote(partition_key, safe='')}"
    start = definition.time_window_for_partition_key(partition_key).start
    if isinstance(definition, dg.HourlyPartitionsDefinition):
        return f"hour={start.astimezone(timezone.utc):%Y-%m-%dT%H%MZ}"
    if isinstance(definition, dg.WeeklyPartitionsDefinition):
        return f"week={start:%Y-%m-%d}"
    if isinstance(definition, dg.MonthlyPartitionsDefinition):
        return f"month={start:%Y-%m}"
    return f"date={start:%Y-%m-%d}"
